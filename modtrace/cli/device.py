"""`modtrace device`: measure what the devices here reach, and keep it for `info --roofline`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from modtrace.cli.options import Option, ParsedOptions, Verb, parse
from modtrace.cli.output import show
from modtrace.errors import UsageError
from modtrace.text import plain

_TEXT: Final = (
    "Measure FLOP/s of each dtype and bytes/s, of the devices named or of all that are here, and keep them in a file. "
    "modtrace info --roofline and t.steps (mfu) read it. It takes some seconds a device; nothing else should run there."
)
VERB: Final = Verb(
    "device",
    "modtrace device [NAME ...] [options]",
    _TEXT,
    (Option(("--plain",), None, "ASCII, no color, 80 columns"),),
    examples=(
        ("modtrace device", "all devices of this machine"),
        ("modtrace device cpu cuda:0", "two of them"),
    ),
    docs="docs/inside-modules.md",
)


def prepare(words: Sequence[str]) -> ParsedOptions:
    """Read the command line."""
    return parse(words, VERB)


def execute(parsed: ParsedOptions) -> None:
    """Measure, and print to stdout."""
    from modtrace.views import console

    style = console.plain_style(sys.stdout) if parsed.on("plain") else console.style_of(sys.stdout)
    show(console.reach_text(_measured(parsed.words), **style))


def _measured(names: Sequence[str]) -> list[Any]:
    """Peaks of devices, of all of this machine where none is named; torch is imported for this alone.

    Raises:
        UsageError: torch or a device is not here.
    """
    device = ""
    try:
        from modtrace.device_peaks.measure import devices_here, measure

        peaks: dict[str, Any] = {}
        for device in dict.fromkeys(names or devices_here()):
            measured = measure(device)
            peaks.setdefault(measured.device, measured)
        return list(peaks.values())
    except ImportError:
        raise UsageError("torch is not here, so nothing can be measured") from None
    except (RuntimeError, AssertionError) as error:
        reason = plain(str(error).partition("\n")[0], 200)
        raise UsageError(f"{plain(device)} cannot be measured: {reason}") from None
