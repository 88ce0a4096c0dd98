"""A thread that looks after a recording while no hook runs, and is gone whenever the process forks."""

from __future__ import annotations

import _thread
import time
from collections.abc import Callable
from typing import Final

from modtrace.systems.this_process import has_thread

WATCH_SECONDS: Final = 0.25
END_SECONDS: Final = 0.2
"""Seconds that a fork waits for the thread: it may be writing."""


class WatchThread:
    """Calls `look` every quarter of a second, in a thread of its own, out of `threading`'s sight.

    A program of one thread forks safely, and python warns of a fork beside other threads. So the thread ends before a
    fork, and begins anew when something is recorded again.

    Args:
        look: what is done; raises nothing.
        running: whether the recording still runs.
    """

    def __init__(self, look: Callable[[], None], running: Callable[[], bool]) -> None:
        self._look = look
        self._running = running
        self._stop = _thread.allocate_lock()
        self._native_id = 0
        self._alive = False

    def start(self) -> None:
        """Begin, if it does not run."""
        if self._alive:
            return
        self._alive = True
        self._stop = _thread.allocate_lock()
        self._stop.acquire()
        _thread.start_new_thread(self._run, (self._stop,))

    def end(self) -> None:
        """Let it end, and wait until the system has no such thread any more."""
        if not self._alive:
            return
        self._stop.release()
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until and (self._alive or has_thread(self._native_id)):
            time.sleep(0.0001)

    def _run(self, stop: _thread.LockType) -> None:
        self._native_id = _thread.get_native_id()
        while self._running() and not stop.acquire(timeout=WATCH_SECONDS):
            self._look()
        self._alive = False
