"""Whoever looks at a run by `run --live`, as the process that is recorded knows it. Standard library only."""

from __future__ import annotations

from typing import Final, NamedTuple

from modtrace.systems.other_processes import is_alive

VARIABLE: Final = "MODTRACE_ONLOOKER"
"""Environment variable of the process that is started: it takes it away before the script begins."""


class Onlooker(NamedTuple):
    """pid: of the process that shows the run. word: known to it and to the script alone."""

    pid: int
    word: str

    @property
    def text(self) -> str:
        """As in VARIABLE."""
        return f"{self.pid}:{self.word}"

    def mark(self, *, begins: bool) -> bytes:
        """A control sequence, which no terminal shows."""
        return f"\x1b]5107;{self.word};{'begin' if begins else 'end'}\x07".encode()

    @property
    def is_there(self) -> bool:
        """True while that process runs."""
        return is_alive(self.pid, None)


def read(text: str | None) -> Onlooker | None:
    """The onlooker that VARIABLE names; None for none."""
    pid, _, word = (text or "").partition(":")
    return Onlooker(int(pid), word) if pid.isdecimal() and word else None
