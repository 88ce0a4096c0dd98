"""Lets an allocator note with each allocation the call in which it is made, by the text that it keeps for a thread.

The text is set when a call begins and put back when it ends, on the thread that watches alone: torch keeps one for each
thread, and only a thread itself can take its own away. A text of the program's stays, also one that it sets meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.thread_buffer import ThreadBuffer
from modtrace.capture.mechanisms.allocations import Event
from modtrace.capture.mechanisms.allocator_history import (
    MARK,
    MOST_ENTRIES,
    AllocatorHistory,
    history_of,
    noted_call,
    with_noted_calls,
)
from modtrace.trace.schema import THREAD_SHIFT

STOPPED: Final = "allocations on devices are tied to modules by time alone from here on: {}"
NOT_NOTED: Final = "allocations on devices are tied to modules by time alone: {}"
OVERRUN: Final = "there were more than the history of the allocator holds"


class CallNotes:
    """Notes calls on the thread that makes it, until `end`.

    Args:
        context: of the trace; it tells of calls.
        history: of the allocator, which has begun and is marked.
        gaps: where a fault is told.
    """

    name: Final = "call_notes"

    def __init__(self, context: TraceContext, history: AllocatorHistory, gaps: list[str]) -> None:
        self._context, self._history, self._gaps = context, history, gaps
        self._own = context.buffers.of_thread
        self._text = MARK
        self._ended = False
        context.events.add(self, call_began=self._call_began, phase_began=self._phase_began)

    def end(self) -> None:
        """Note no more. The history takes the text away."""
        self._ended = True
        self._context.events.remove(self)

    def _call_began(self, buffer: ThreadBuffer, call: int, *_: Any) -> None:
        self._guarded(lambda: self._begin(buffer, call))

    def _phase_began(self, buffer: ThreadBuffer, call: int, _: Any) -> None:
        self._guarded(lambda: self._begin(buffer, call))

    def _begin(self, buffer: ThreadBuffer, call: int) -> None:
        """A row is about to be opened. Threads of autograd's engine have a buffer that is not their own."""
        own, before = self._own, self._text
        if buffer is not own or self._context.buffers.of_thread is not own:
            return
        history = self._history
        if not history.marked:  # a history of the program's has taken its place
            if noted_call(history.text()) is not None:
                history.set_text("")
            self.end()
            return
        if history.text() != before:
            return  # the program has set one
        text = f"{MARK} {own.number << THREAD_SHIFT | call}"
        buffer.await_close(len(buffer.calls), lambda *_: self._guarded(lambda: self._close(text, before)))
        history.set_text(text)
        self._text = text

    def _close(self, text: str, before: str) -> None:
        if not self._ended and self._context.buffers.of_thread is self._own:
            self._text = before
            if self._history.text() == text:
                self._history.set_text(before)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RecursionError:
            raise
        except Exception as fault:
            self.end()
            self._gaps.append(STOPPED.format(type(fault).__name__))


class NotesBeside:
    """Notes calls beside torch's profiler, whose events tell of threads and times alone. Nothing here raises.

    Args:
        context: of the trace.
        gaps: where it is told that no calls could be noted.
    """

    def __init__(self, context: TraceContext, gaps: list[str]) -> None:
        self._gaps = gaps
        self._notes: CallNotes | None = None
        self._history = history_of()
        history = self._history
        if history is None:
            return
        try:
            if history.begin(for_marks=True) is None:
                self._history = None
            else:
                self._notes = CallNotes(context, history, gaps)
            self._tell(*history.lacks)
        except Exception as fault:
            self._tell(NOT_NOTED.format(type(fault).__name__))
            self.end()

    def joined(self, events: list[Event]) -> list[Event]:
        """End; the profiler's events with the calls that were noted."""
        history, notes = self._history, self._notes
        if history is None or notes is None:
            return events
        notes.end()
        self._history = self._notes = None
        try:
            traces = history.end() or []  # none where the program has begun one of its own
            if not any(len(entries) >= MOST_ENTRIES for entries in traces):
                return with_noted_calls(events, traces)
            self._tell(NOT_NOTED.format(OVERRUN))
        except Exception as fault:
            self._tell(NOT_NOTED.format(type(fault).__name__))
        return events

    def end(self) -> None:
        """End without a result."""
        if self._notes is not None:
            self._notes.end()
        if self._history is not None:
            with contextlib.suppress(Exception):
                self._history.end()
        self._history = self._notes = None

    def _tell(self, *gaps: str) -> None:
        self._gaps += [gap for gap in gaps if gap not in self._gaps]
