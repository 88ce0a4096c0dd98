"""Thread buffers, into which each thread records: the calls that are open, and the records of those that are over.

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
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from modtrace.capture.engine.tensor_guards import Entry

RETURNED, RAISED, REPLACED, ABORTED, HOOKS, COST = range(6)
CODE_SHIFT: Final = 32
KIND_SHIFT: Final = 40
MODE_SHIFT: Final = 40
WORDS: Final = 8
MANY_BUFFERS: Final = 256
"""From so many threads on, a new one takes the buffer, and the number, of one that has ended."""
MANY_LEFT: Final = 1_000
UNKNOWN_OUTPUT: Final = (1 << 31) - 1
"""The signature of what was not seen."""


OpenCall = tuple[int, int, "Entry", int, int, int]
"""An open call: (id of the frame that runs it, its number, its module, signature given, start, number that the next
node of autograd's graph had at its start; -1 where that is not known)."""

GROWN: Final = 5
"""Integers of a growth, see ThreadBuffer."""


class Tail(Protocol):
    """A hook behind the own forward hooks of a module whose call is open; see own_hooks."""

    frame_id: int

    def remove(self) -> None:
        """Take it off the module."""


class Sharing(Protocol):
    """A backward that runs: several threads record into the thread buffer of the one that called it, one at a time."""

    def claim(self, *, ends: bool) -> bool:
        """A call begins on this thread. False where another thread is in the middle of one."""

    def release(self) -> None:
        """Such a call is over."""

    def recompute_begins(self, place: Any, *, reentrant: bool = False) -> None:
        """A checkpoint computes again inside the node that runs."""

    def recompute_ends(self, error: BaseException | None = None, *, reentrant: bool = False) -> None:
        """It has ended."""


Closed = Callable[["ThreadBuffer", int, int], None]
"""Handler of a recorder for when a call is closed: (thread buffer, number of the call, how it was closed: RETURNED
...).
"""


class ThreadBuffer:
    """The buffer that one thread records into.

    number: of the thread in the trace.
    records: eight integers a closed call, in the order of the ends.
    calls: the open calls, outermost first.
    grown: autograd node ranges of calls that have returned, GROWN integers each, in the order of the ends.
    awaited: (depth, what a recorder does when the open call at that depth is closed), outermost first.
    transformed: 1 + the depth of the call in which a functorch transform (vmap, grad) was first seen, or 0.
    error: the exception that last left a call: (its id, its number, when, the call).
    tails: hooks behind own forward hooks of open calls.
    left: calls closed because their frame was not on the stack, by that frame.
    resumed: how many of them ended all the same: greenlets had taken turns on this thread.
    lent: threads of autograd's engine record here too.
    watch: the backward that runs.
    finished: the thread has ended.
    paused: a person is asked on this thread: what is called meanwhile is not the program's.
    identity: that of the thread, as `threading.get_ident` has it; 0 before the thread has recorded anything.
    """

    __slots__ = (
        "awaited",
        "calls",
        "error",
        "extend",
        "finished",
        "grew",
        "grown",
        "identity",
        "left",
        "lent",
        "next_call",
        "number",
        "paused",
        "records",
        "resumed",
        "tails",
        "transformed",
        "watch",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.identity = 0
        self.records: list[int] = []
        self.extend = self.records.extend
        self.grown: list[int] = []
        self.grew = self.grown.extend
        self.calls: list[OpenCall] = []
        self.awaited: list[tuple[int, Closed]] = []
        self.next_call: Callable[[], int] = itertools.count().__next__
        self.error: tuple[int, int, int, int] | None = None
        self.tails: list[Tail] = []
        self.transformed = 0
        self.finished = False
        self.paused = False
        self.left: dict[int, Entry] = {}
        self.resumed = 0
        self.lent = False
        self.watch: Sharing | None = None

    def open(
        self, entry: Entry, frame_id: int, start_ns: int, *, args: int = 0, call: int | None = None
    ) -> OpenCall:
        """Open a call inside the open ones.

        Args:
            entry: what it is an execution of.
            frame_id: id of the frame that runs it; 0 where none does.
            start_ns: the clock.
            args: signature of the positional arguments; of a backward the id of the forward call.
            call: its number, where that has been taken already.
        """
        number = self.next_call() if call is None else call
        opened = (frame_id, number, entry, args, start_ns, -1)
        self.calls.append(opened)
        return opened

    def close(self, end_ns: int, *, code: int = 0, kwargs: int = 0, output: int = 0) -> None:
        """Close the innermost open call; what recorders await of it is not told by this.

        Args:
            end_ns: the clock.
            code: RETURNED, RAISED ...
            kwargs: signature of the keyword arguments.
            output: signature of the output; number of the error of a call that raised.
        """
        _, call, entry, args, start, _ = self.calls[-1]
        depth = entry.kind << KIND_SHIFT | code << CODE_SHIFT | len(self.calls) - 1
        self.extend((call, entry.number, args, depth, start, kwargs, output, end_ns))
        self.calls.pop()

    def note_nodes(self, next_node: int, first_node: int) -> None:
        """Note the autograd nodes that were made in the innermost open call, as a range of their numbers."""
        if 0 <= first_node < next_node:
            _, call, entry, _, _, _ = self.calls[-1]
            self.grew((next_node, first_node, call, entry.number, len(self.calls) - 1))

    def own_hooks_begin(self, now_ns: int) -> None:
        """Forward of the innermost open call has returned; its own forward hooks run from now on."""
        self.extend((self.calls[-1][1], 0, 0, HOOKS << CODE_SHIFT, now_ns, 0, 0, 0))

    def await_close(self, depth: int, closed: Closed) -> None:
        """Let a recorder know when the call at a depth is closed, which may not have been opened yet."""
        self.awaited.append((depth, closed))

    def tell_closed(self, depth: int, call: int, code: int) -> None:
        """Tell recorders that the call at a depth has been closed, and so have those in it."""
        while self.awaited and self.awaited[-1][0] >= depth:
            awaited_depth, closed = self.awaited.pop()
            if awaited_depth == depth:
                closed(self, call, code)
            else:
                closed(self, -1, ABORTED)

    def find(self, frame_id: int) -> int:
        """The depth of the open call that a frame runs, -1 for none."""
        for depth in range(len(self.calls) - 1, -1, -1):
            if self.calls[depth][0] == frame_id:
                return depth
        return -1

    def abort(self, depth: int) -> None:
        """Close the open calls from a depth on: a `BaseException` left them, when is not known."""
        while len(self.calls) > depth:
            self.close(self.calls[-1][4], code=ABORTED)
        self.left_call(depth)

    def left_call(self, depth: int) -> None:
        """Forget what was known of calls from a depth on, which did not return."""
        if self.transformed > depth:
            self.transformed = 0
        if self.awaited:
            self.tell_closed(depth, -1, ABORTED)

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


def durations(records: list[int]) -> list[int]:
    """Nanoseconds from start to end of each call in records as `take` hands them out."""
    return [records[i + 7] - records[i + 4] for i in range(0, len(records), WORDS)]


class ThreadBuffers(threading.local):
    """The buffer that the calling thread records into, as `buffers.current`; made at the first use in a thread.

    `of_thread` is the thread's own also while a thread of autograd's engine records into the buffer of the thread that
    waits for it.
    """

    current: ThreadBuffer
    of_thread: ThreadBuffer

    def __init__(self, table: BufferTable) -> None:
        self.of_thread, self._token = table.add()
        self.of_thread.identity = threading.get_ident()
        self.current = self.of_thread


class BufferTable:
    """All thread buffers of one trace; from MANY_BUFFERS on that of a thread that has ended is used again."""

    def __init__(self) -> None:
        self.all: list[ThreadBuffer] = []
        self._lock = threading.Lock()

    def add(self) -> tuple[ThreadBuffer, object]:
        """A buffer for the calling thread and a token whose death says that the thread has ended."""
        main = threading.get_ident() == threading.main_thread().ident
        with self._lock:
            if not self.all:
                self.all.append(ThreadBuffer(0))
            buffer = self._choose(main)
            buffer.finished = False
        token = _Token()
        weakref.finalize(token, _finish, buffer).atexit = False
        return buffer, token

    def _choose(self, main: bool) -> ThreadBuffer:
        if main:
            return self.all[0]
        for buffer in self.all[1:] if len(self.all) > MANY_BUFFERS else ():
            if buffer.finished:
                buffer.abort(0)
                buffer.grown.clear()
                return buffer
        buffer = ThreadBuffer(len(self.all))
        self.all.append(buffer)
        return buffer


class _Token:
    """Lives in a thread's local storage and dies with it."""

    __slots__ = ("__weakref__",)


def _finish(buffer: ThreadBuffer) -> None:
    buffer.finished = True
