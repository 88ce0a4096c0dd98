"""The event stream of each thread, and its words.

An event is four integers appended by one `list.extend`, which no signal handler and no other thread can cut in two.
A list of integers takes 14 ns where `array('q').extend` takes 150 (torch 2.13, CPython 3.11); it is turned into an
array when a block is decoded. Small integers are objects that exist already, so only the clock is a new one.

    third word              meaning                         first, second               fourth (clock)
    depth >= 0              a call starts                   module, signature of args   read last
    -1 - depth < 0          it returns                      signature of kwargs, output read first
    RAISED << 32 | depth    an exception leaves it          signature of kwargs, error  read first
    REPLACED << 32 | depth  it returns what an own forward hook put in place of its output
    HOOKS << 32 | depth     its own forward hooks begin     0, 0
    COST << 32 | depth      the recorder worked inside the call at depth - 1: nanoseconds, 0
    UNWIND << 32 | depth    nothing at this depth or deeper is open any more: 0, 0
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from modtrace.capture.own_hooks import Tail
    from modtrace.capture.registry import Entry

PRE, RETURNED, RAISED, COST, HOOKS, REPLACED, UNWIND = range(7)
CODE_SHIFT: Final = 32
WORDS: Final = 4


class Lane:
    """What one thread records into. `frames` holds the ids of the frames of its open calls, outermost first,
    `entries` the entries of their modules.
    `transformed` is 1 + the depth of the call in which a functorch transform (vmap, grad) was first seen, or 0."""

    __slots__ = ("entries", "error", "events", "extend", "finished", "frames", "number", "tails", "transformed")

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[int] = []
        self.extend = self.events.extend
        self.frames: list[int] = []
        self.entries: list[Entry] = []
        self.error: tuple[int, int, int] | None = None
        self.tails: list[Tail] = []
        self.transformed = 0
        self.finished = False

    def cut(self, depth: int) -> None:
        """Forget the open calls from a depth on."""
        del self.frames[depth:]
        del self.entries[depth:]

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
