"""What `run.json` says about a run. Standard library only."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from modtrace._version import __version__
from modtrace.trace.schema import FORMAT, VERSION

_SECRET: Final = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_BLANK: Final = "***"


def run_facts(
    *,
    script: str | None = None,
    argv: Sequence[str] = (),
    launch: str | None = None,
    started_unix_ns: int | None = None,
) -> dict[str, Any]:
    """The content of `run.json`; `argv` is the script's own, without its name."""
    return {
        "format": FORMAT,
        "schema": VERSION,
        "modtrace": __version__,
        "started_unix_ns": time.time_ns() if started_unix_ns is None else started_unix_ns,
        "script": script,
        "argv": blanked(argv),
        "python": platform.python_version(),
        "platform": sys.platform,
        "launch": launch,
    }


def blanked(argv: Sequence[str]) -> list[str]:
    """Arguments with the values of options that sound secret replaced: `--api-key=***`, `--token ***`."""
    shown: list[str] = []
    hide = False
    for given in argv:
        word = given.encode("utf-8", "backslashreplace").decode()
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("-"):
            shown.append(_BLANK)
            hide = False
            continue
        secret = _SECRET.search(name) is not None
        shown.append(f"{name}={_BLANK}" if equals and secret else word)
        hide = secret and not equals and word.startswith("-")
    return shown
