"""When what has been recorded is written: block after block, by the thread that finds one due.

It does so in its own post-hook: when a root call has ended and a quarter of a second has passed, inside one when three
quarters have. The block of every thread is taken at once. A background thread would slow every step by 40 %, so there
is one only for what is left behind when no hook runs any more.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from modtrace.capture.engine.block_writer import Blocks, TakenBlock
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.recursion_limit import BLOCK_FRAMES, check_room
from modtrace.capture.engine.thread_buffer import GROWN, ThreadBuffer

OUTSIDE_NS: Final = 250_000_000
INSIDE_NS: Final = 750_000_000
"""Nanoseconds that a block may get old outside of and inside a root call."""
WAIT_SECONDS: Final = 5.0
LATER_NS: Final = 50_000_000
"""Nanoseconds after a block became due inside a root call at which the end of that call is looked for again."""
FIRST_NS: Final = 20_000_000
MANY_GROWN: Final = 100_000 * GROWN
"""A backward is told apart by module for about so many calls before it."""
LONGER: Final = 4
"""Times as long as the last interval the next may be: a program that has only begun calls few modules at first."""
BLOCK_CALLS: Final = 20_000
"""A block is sought to hold about this many calls (3 MB): at high call rates it is due earlier."""


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Collect no garbage on this thread, which is not the program's.

    Python collects in whichever thread allocates, and would run the program's finalizers here: that of a DataLoader's
    iterator waits for its workers, which only ends in the thread that made them.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Flusher:
    """Writes the blocks of one trace; `running` says whether it is still recorded, `read` reads what devices have
    come to, on a thread of the program's, `has_news` whether recorders have rows although no call has ended.
    """

    def __init__(
        self,
        context: TraceContext,
        blocks: Blocks,
        *,
        running: Callable[[], bool],
        read: Callable[[], None],
        has_news: Callable[[], bool],
    ) -> None:
        self.spent_ns = 0
        """Cost of writing so far, nanoseconds."""
        self._context = context
        self._clock = context.clock
        self._table = context.threads
        self._registry = context.registry
        self._blocks = blocks
        self._origin_ns = context.origin_ns
        self._running = running
        self._read, self._has_news = read, has_news
        self._busy = threading.Lock()
        self._busy_thread = 0
        self._pid = os.getpid()
        self._inside_at = 0
        self._interval_ns = FIRST_NS
        self._paced_at = self._clock()

    def start(self) -> None:
        """The first block is due a little later than now."""
        self._due(self._clock())

    def when_due(self, buffer: ThreadBuffer) -> None:
        """Called by a post-hook once `due` has passed. Inside a root call a block may grow older."""
        started = self._clock()
        if len(buffer.grown) > MANY_GROWN:
            del buffer.grown[: MANY_GROWN // 2]
        if buffer.calls and started < self._inside_at:
            self._context.due = min(self._inside_at, started + LATER_NS)
            return
        try:
            check_room(BLOCK_FRAMES)
        except RecursionError:  # what is taken for a block and not written is lost
            self._context.due = started + LATER_NS
            return
        self._read()
        self.flush()
        buffer.cost(len(buffer.calls) - 1, self._clock() - started)

    def at_once(self, buffer: ThreadBuffer) -> None:
        """Called where memory has run out: the process may be killed before the next block is due."""
        started = self._clock()
        check_room(BLOCK_FRAMES)
        self.flush(wait=True)
        buffer.cost(len(buffer.calls) - 1, self._clock() - started)

    def look(self) -> None:
        """Does nothing while hooks run: only when no block has been written for a while, in a long operation or outside
        of modules, it writes what is there. Called by a thread that is not the program's.
        """
        if self._clock() - self._paced_at > INSIDE_NS and os.getpid() == self._pid:
            self.flush_apart()

    def flush_apart(self) -> None:
        """Write from a thread that is not the program's."""
        with without_collecting():
            try:
                waiting = any(buffer.records or buffer.calls for buffer in list(self._table.all))
                if (waiting or self._has_news()) and self._running():
                    self.flush(idle=True)
            except Exception as fault:
                self._context.fault(fault)

    def flush(self, *, idle: bool = False, wait: bool = False) -> None:
        """Write a block of every thread buffer. When one is being written this returns, or waits for it, if it is not
        this very thread that writes it.

        `idle` writes open calls too when nothing has ended.
        """
        wait = wait and self._busy_thread != threading.get_ident()
        if not self._busy.acquire(blocking=wait, timeout=WAIT_SECONDS if wait else -1):
            return
        try:
            self._busy_thread = threading.get_ident()
            started = self._clock()
            dead = self._registry.take_dead()
            blocks = [TakenBlock(buffer) for buffer in list(self._table.all)]
            count = sum(len(block.records) for block in blocks)
            if count or idle:
                self._blocks.write(blocks, started - self._origin_ns)
            self._registry.purge(dead)
            now = self._clock()
            self.spent_ns += now - started
            self._pace(count, now)
        finally:
            self._busy_thread = 0
            self._busy.release()

    def _due(self, now: int) -> None:
        self._context.due = now + min(OUTSIDE_NS, self._interval_ns)
        self._inside_at = now + min(INSIDE_NS, self._interval_ns)

    def _pace(self, count: int, now: int) -> None:
        """Choose when the next block is due: a second at most, earlier when many events come."""
        elapsed = max(now - self._paced_at, 1)
        self._paced_at = now
        wanted_ns = INSIDE_NS if not count else min(INSIDE_NS, elapsed * BLOCK_CALLS / count)
        self._interval_ns = int(min(wanted_ns, self._interval_ns * LONGER))
        self._due(now)
