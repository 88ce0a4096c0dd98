"""A line on the terminal while a large trace is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Final

from modtrace.trace.schema import END_FILE
from modtrace.units import count, plural, size

DELAY_SECONDS: Final = 0.3
"""Traces that are opened sooner need no line."""
_MAX_BYTES: Final = 1 << 20


def reading_text(path: Path) -> str:
    """`reading 882,000 calls`; of a trace whose processes did not say how many they wrote its size. Of several ranks
    one is read: `reading 1 of 256 ranks`.
    """
    several = sum(1 for _ in path.glob("rank-*"))
    if several > 1:
        return f"reading 1 of {count(several)} ranks"
    calls = _calls(path)
    if calls is not None:
        return f"reading {plural(calls, 'call')}"
    try:
        total = sum(file.lstat().st_size for file in path.glob("*/*") if file.is_file())
    except OSError:
        total = 0
    return f"reading {size(total)}"


def _calls(path: Path) -> int | None:
    """The calls that all processes wrote, None where one has not told."""
    total = 0
    try:
        folders = [folder for folder in path.iterdir() if folder.is_dir()]
        for folder in folders:
            with (folder / END_FILE).open("rb") as file:
                number = json.loads(file.read(_MAX_BYTES))["rows"]["calls"]
            if not isinstance(number, int) or number < 0:
                return None
            total += number
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return total if folders else None


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say on stderr what is read, where that is a terminal and it takes a moment; the line is gone afterwards."""
    shown: list[bool] = []

    def say() -> None:
        shown.append(True)
        _write(f"{reading_text(path)} ...")

    timer = Timer(DELAY_SECONDS, say) if sys.stderr is not None and sys.stderr.isatty() else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
            timer.join()
        if shown:
            _write("\r\x1b[K")
