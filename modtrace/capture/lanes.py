"""What each thread records into: the calls that are open, and the records of those that are over.

A record is eight integers appended by one `list.extend`, which no signal handler and no other thread can cut in two.
A list takes 14 ns for it where `array('q').extend` takes 150 (torch 2.13, CPython 3.11); it is turned into an array
when a block is decoded. Small integers are objects that exist already, so only the clocks are new ones, and the
garbage collector finds one list.

    0 call   number of the call within its thread, in order of start
    1 module its number; of a phase, span or function its label
    2 given  mode << MODE_SHIFT | signature of the positional arguments; of a backward the id of the forward call
    3 depth  kind << KIND_SHIFT | code << CODE_SHIFT | depth
    4 start  clock, read last before forward
    5 named  signature of the keyword arguments, 0 for none
    6 result signature of the output; number of the error of a call that raised
    7 end    clock, read first after forward

    code     a record with another meaning
    HOOKS    own forward hooks of `call` began at `start`
    COST     the recorder worked for `start` nanoseconds inside `call`
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from modtrace.capture.backward import Watch
    from modtrace.capture.counting import Unit
    from modtrace.capture.device_times import Marks
    from modtrace.capture.memory_readings import Taken
    from modtrace.capture.own_hooks import Tail
    from modtrace.capture.seen import Entry

RETURNED, RAISED, REPLACED, ABORTED, HOOKS, COST = range(6)
CODE_SHIFT: Final = 32
KIND_SHIFT: Final = 40
MODE_SHIFT: Final = 40
WORDS: Final = 8
MANY_LANES: Final = 256
"""From so many threads on, a new one takes the lane, and the number, of one that has ended."""
MANY_LEFT: Final = 1_000


OpenCall = tuple[int, int, "Entry", int, int, int]
"""An open call: (id of the frame that runs it, its number, its module, signature given, start, number that the next
node of autograd's graph had at its start; -1 where that is not known)."""

GROWN: Final = 5
"""Integers of a growth, see Lane."""


class Lane:
    """One thread's. `calls` are its open calls, outermost first. `transformed` is 1 + the depth of the call in which a
    functorch transform (vmap, grad) was first seen, or 0. `unit` is the call in which operations are
    counted. `error` is the exception that last left a call. `left` are
    calls closed because their frame was not on the stack, by that frame; `resumed` counts those of them that ended all
    the same: greenlets had taken turns on this thread. `marks` are events on a device, where calls are on one, and
    `readings` what its memory was when open calls began, by their depth. `watch` is the backward that runs.
    """

    __slots__ = (
        "calls",
        "error",
        "extend",
        "finished",
        "grew",
        "grown",
        "left",
        "lent",
        "marks",
        "next_call",
        "number",
        "placed",
        "readings",
        "records",
        "resumed",
        "stepping",
        "tails",
        "transformed",
        "unit",
        "watch",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[int] = []
        self.extend = self.records.extend
        self.grown: list[int] = []
        self.grew = self.grown.extend
        self.calls: list[OpenCall] = []
        self.next_call: Callable[[], int] = itertools.count().__next__
        self.error: tuple[int, int, int] | None = None
        self.tails: list[Tail] = []
        self.transformed = 0
        self.unit: Unit | None = None
        self.finished = False
        self.left: dict[int, Entry] = {}
        self.resumed = 0
        self.lent = False
        self.marks: Marks | None = None
        self.readings: list[tuple[int, Taken]] = []
        self.placed = 0
        self.watch: Watch | None = None
        self.stepping: list[tuple[int, int]] = []

    def find(self, frame_id: int) -> int:
        """The depth of the open call that a frame runs, -1 for none."""
        for depth in range(len(self.calls) - 1, -1, -1):
            if self.calls[depth][0] == frame_id:
                return depth
        return -1

    def abort(self, depth: int) -> None:
        """Close the open calls from a depth on: a `BaseException` left them, when is not known."""
        while len(self.calls) > depth:
            _, call, entry, given, start, _ = self.calls[-1]
            depth_code = entry.kind << KIND_SHIFT | ABORTED << CODE_SHIFT | len(self.calls) - 1
            self.extend((call, entry.number, given, depth_code, start, 0, 0, start))
            self.calls.pop()
        self.left_call(depth)

    def left_call(self, depth: int) -> None:
        """Forget what was known of calls from a depth on, which did not return."""
        if self.transformed > depth:
            self.transformed = 0
        if self.unit is not None and self.unit.depth >= depth:
            self.unit.counting.give_up(self)
        while self.readings and self.readings[-1][0] >= depth:
            self.readings.pop()

    def leave(self, depth: int) -> None:
        """Close the open calls from a depth on because their frames are not on the stack."""
        if len(self.left) > MANY_LEFT:
            self.left.clear()
        self.left.update((call[0], call[2]) for call in self.calls[depth:])
        self.abort(depth)

    def ends_late(self, frame_id: int, entry: Entry | None) -> None:
        """A call that is not open has ended: one that was left, or one that has not been recorded at all."""
        if entry is not None and self.left.pop(frame_id, None) is entry:
            self.resumed += 1

    def cost(self, depth: int, spent_ns: int) -> None:
        """Say that the recorder worked inside the call at a depth."""
        if 0 <= depth < len(self.calls):
            self.extend((self.calls[depth][1], 0, 0, COST << CODE_SHIFT, spent_ns, 0, 0, 0))

    def take(self) -> list[int]:
        """The records so far, taken out. Only what stood at the front goes, so the thread may append meanwhile."""
        count = len(self.records)
        taken = self.records[:count]
        del self.records[:count]
        return taken


class Lanes(threading.local):
    """The calling thread's lane, as `lanes.lane`; made at the first use in a thread.

    `own` is the same, but for a thread of autograd's engine: such a one records into the lane of the thread that waits
    for it.
    `stepping` are optimizers whose step is running, by id, with the number of the phase.
    """

    lane: Lane
    own: Lane

    def __init__(self, table: LaneTable) -> None:
        self.own, self._token = table.add()
        self.lane = self.own


class LaneTable:
    """All lanes of one trace; from MANY_LANES on that of a thread that has ended is used again."""

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
        for lane in self.all[1:] if len(self.all) > MANY_LANES else ():
            if lane.finished:
                lane.abort(0)
                lane.grown.clear()
                return lane
        lane = Lane(len(self.all))
        self.all.append(lane)
        return lane


class _Token:
    """Lives in a thread's local storage and dies with it."""

    __slots__ = ("__weakref__",)


def _finish(lane: Lane) -> None:
    lane.finished = True
