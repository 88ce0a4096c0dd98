"""The event stream of each thread, and its words.

An event is three integers appended by one `list.extend`, which no signal handler and no other thread can cut in two.
A list of integers takes 14 ns where `array('q').extend` takes 150 (torch 2.13, CPython 3.11); it is turned into an
array when a block is decoded, and a block is kept short, so that the objects in it stay few.

    first word        second word          third word
    PRE               module << 32 | signature of args        depth << 3 | PRE        clock, read last
    RETURNED          signature of kwargs << 32 | of output   depth << 3 | RETURNED   clock, read first
    REPLACED          the same; an own forward hook replaced the output
    RAISED            signature of kwargs << 32 | error       depth << 3 | RAISED     clock, read first
    HOOKS             0                                       depth << 3 | HOOKS      clock when own hooks begin
    COST              nanoseconds spent by the recorder       depth << 3 | COST       clock
    UNWIND            0                                       depth << 3 | UNWIND     clock: nothing is open from there
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from modtrace.capture.own_hooks import Tail

PRE, RETURNED, RAISED, COST, HOOKS, REPLACED, UNWIND = range(7)
CODE_BITS: Final = 3
CODE_MASK: Final = (1 << CODE_BITS) - 1
LOW: Final = (1 << 32) - 1
WORDS: Final = 3


class Lane:
    """What one thread records into. `frames` holds the ids of the frames of its open calls, outermost first."""

    __slots__ = ("error", "events", "extend", "finished", "frames", "number", "tails")

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[int] = []
        self.extend = self.events.extend
        self.frames: list[int] = []
        self.error: tuple[int, int, int] | None = None
        self.tails: list[Tail] = []
        self.finished = False

    def take(self) -> list[int]:
        """The events so far, taken out. Only what stood at the front goes, so the thread may append meanwhile."""
        count = len(self.events)
        taken = self.events[:count]
        del self.events[:count]
        return taken


class Lanes(threading.local):
    """The calling thread's lane, as `lanes.lane`; made at the first use in a thread."""

    lane: Lane

    def __init__(self, register: LaneTable) -> None:
        self.lane, self._token = register.add()


class LaneTable:
    """All lanes of one trace; the lane of a thread that has ended is given to a later one."""

    def __init__(self) -> None:
        self.all: list[Lane] = []
        self._lock = threading.Lock()

    def add(self) -> tuple[Lane, object]:
        """A lane for the calling thread and a token whose death says that the thread has ended."""
        main = threading.get_ident() == threading.main_thread().ident
        with self._lock:
            if not self.all:
                self.all.append(Lane(0))
            lane = self._choose(main)
            lane.finished = False
        token = _Token()
        weakref.finalize(token, _finish, lane).atexit = False
        return lane, token

    def _choose(self, main: bool) -> Lane:
        if main:
            return self.all[0]
        for lane in self.all[1:]:
            if lane.finished and not lane.frames:
                return lane
        lane = Lane(len(self.all))
        self.all.append(lane)
        return lane


class _Token:
    """Lives in a thread's local storage and dies with it."""

    __slots__ = ("__weakref__",)


def _finish(lane: Lane) -> None:
    lane.finished = True
