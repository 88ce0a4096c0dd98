"""Time in which the program waits for a person at a prompt. It is in no number of a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Pauses:
    """The pauses of one trace.

    `clock` stands still while the program waits, for all threads, and goes on from there: what came before and behind
    a pause is as far apart as without. A trace that may pause is recorded with it.

    Args:
        clock: the clock that goes on, nanoseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._going = clock
        self._state: tuple[int | None, int] = (None, 0)
        """When the pause in progress began, and how long those before it were: replaced together, so that no thread
        sees halves of it."""
        self._stretches: list[tuple[int, int]] = []

    def clock(self) -> int:
        """Nanoseconds, without the pauses."""
        since, spent_ns = self._state
        return (self._going() if since is None else since) - spent_ns

    def begin(self) -> None:
        """The program begins to wait."""
        since, spent_ns = self._state
        if since is None:
            self._state = (self._going(), spent_ns)

    def end(self) -> None:
        """It goes on."""
        since, spent_ns = self._state
        if since is not None:
            self._state = (None, spent_ns + self._going() - since)

    def disturbed(self, from_ns: int, to_ns: int) -> None:
        """Between these moments since the start of recording a debugger was at work: such a step counts in no
        statistic.
        """
        self._stretches.append((from_ns, max(to_ns, from_ns + 1)))

    def rows(self) -> dict[str, list[Any]]:
        """Columns of new rows of `watched`."""
        stretches, self._stretches = self._stretches, []
        return {
            "from_ns": [low for low, _ in stretches],
            "to_ns": [high for _, high in stretches],
            "memory": [False] * len(stretches),
            "kernels": [False] * len(stretches),
        }
