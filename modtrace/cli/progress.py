"""Progress of something long: a bar on a terminal's stderr, after half a second, gone when it is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

WAIT_S: Final = 0.5
"""Seconds before the bar is drawn."""
_EVERY_S: Final = 0.1
_WIDTH: Final = 30


class Progress:
    """A bar in one line; call it with what is done and of how many, and `close` it.

    Args:
        stream: where to; nothing is shown where that is no terminal.
        activity: words before the bar.
        clock: seconds.
    """

    def __init__(self, stream: TextIO, activity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._activity, self._clock = stream, activity, clock
        self._next = clock() + WAIT_S
        self._terminal = stream.isatty()
        self._shown = 0

    def __call__(self, done: int, of: int) -> None:
        now = self._clock()
        if not self._terminal or now < self._next or of <= 0:
            return
        self._next = now + _EVERY_S
        filled = _WIDTH * done // of
        line = f"{self._activity} [{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * done // of:3}%"
        self._stream.write(f"\r{line}")
        self._stream.flush()
        self._shown = len(line)

    def close(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._stream.write(f"\r{' ' * self._shown}\r")
            self._stream.flush()
            self._shown = 0
