"""Phases and spans: calls of no module, opened and closed in a thread's buffer like those of modules."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import Final

from modtrace.capture.engine import user_hooks as own_hooks
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.exceptions import is_early_stop, is_out_of_memory
from modtrace.capture.engine.module_calls import RUNNERS, error_number, unwind
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import RAISED, RETURNED, UNKNOWN_OUTPUT, OpenCall, ThreadBuffer
from modtrace.trace.schema import PHASE, SPAN, STEP

NOT_OPENED: Final = -1


class Ranges:
    """Opens and closes the phases and spans of one trace. Nothing here raises."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context
        self._labels = labels = context.labels
        self._entries: dict[tuple[int, int], Entry] = {}
        self._step = Entry(labels.number("step"), STEP, None)
        self._waiting: set[Entry] = set()
        """Phases in which the host waits for data: the device has none of it to do."""

    def phase(self, name: str, class_name: str, code: CodeType, identity: int = 0) -> Entry:
        """The entry that a phase executes; `code` is that of the frame which runs it."""
        RUNNERS[id(code)] = code
        entry = self._entry(PHASE, self._labels.number(name, class_name, identity), code)
        if name == "data":
            self._waiting.add(entry)
        return entry

    def span(self, name: str) -> Entry:
        """The entry that a span executes: no frame says whether it still runs, only its end."""
        return self._entry(SPAN, self._labels.number(name), None)

    def begin(self, entry: Entry, frame: FrameType | None = None, *, again: bool = False) -> int:
        """Open a range on this thread; returns its number there, NOT_OPENED when it is not recorded.

        A phase inside one of the same label (an optimizer's step inside its GradScaler's) is the same phase, unless
        `again` (a backward of its own inside a backward).
        """
        context = self.context
        if context.off:
            return NOT_OPENED
        try:
            buffer = context.buffers.current
            if context.unwatched:
                context.watch_again()
            if buffer.watch is not None and not buffer.watch.claim(ends=True):
                return NOT_OPENED
            if buffer.calls:
                unwind(buffer, frame)
                inner = buffer.calls[-1][2] if buffer.calls else None
                if inner is entry and entry.kind == PHASE and not again:
                    return NOT_OPENED
            call = buffer.next_call()
            for began in context.events.phase_began if entry not in self._waiting else ():
                began(buffer, call, entry)
            buffer.open(entry, id(frame) if frame is not None else 0, context.clock(), call=call)
            return call
        except Exception as fault:
            context.fault(fault)
            return NOT_OPENED

    def end(self, call: int, error: BaseException | None = None) -> None:
        """Close a range of this thread, and what is still open inside it."""
        context = self.context
        if call == NOT_OPENED or context.off:
            return
        now = context.clock()
        try:
            buffer = context.buffers.current
            depth = find(buffer, call)
            if depth < 0:
                return
            buffer.abort(depth + 1)
            own_hooks.drop_dead(buffer)
            entry = buffer.calls[depth][2]
            code, result = RETURNED, 0
            for ended in context.events.phase_ended:
                ended(buffer, call, entry, error)
            if error is not None:
                code, result = RAISED, error_number(context, buffer, error, now)
            buffer.close(now, code=code, output=result)
            buffer.tell_closed(depth, call, code)
            if buffer.watch is not None:
                buffer.watch.release()
            if error is not None and is_out_of_memory(error):
                context.flush_now(buffer)
            elif now > context.due:
                context.flush(buffer)
        except Exception as fault:
            context.fault(fault)

    def mark_step(self) -> None:
        """Say that a step ends here: a row without length."""
        call = self.begin(self._step)
        self.end(call)

    def _entry(self, call_kind: int, number: int, code: CodeType | None) -> Entry:
        known = self._entries.get((call_kind, number))
        if known is None:
            known = self._entries.setdefault((call_kind, number), Entry(number, call_kind, code))
        return known


unseen(Ranges.phase, Ranges.span, Ranges.begin, Ranges.end, Ranges.mark_step)


def find(buffer: ThreadBuffer, call: int) -> int:
    """The depth of an open call by its number, -1 for none."""
    for depth in range(len(buffer.calls) - 1, -1, -1):
        if buffer.calls[depth][1] == call:
            return depth
    return -1


def still_open(buffer: ThreadBuffer, opened: OpenCall) -> bool:
    """Close calls inside one that is over; False where it is not open any more."""
    for depth in range(len(buffer.calls) - 1, -1, -1):
        if buffer.calls[depth] is opened:
            buffer.abort(depth + 1)
            return True
    return False


def left_by(context: TraceContext, buffer: ThreadBuffer, opened: OpenCall, error: BaseException) -> None:
    """Close the row of a function that an exception leaves."""
    now = context.clock()
    try:
        if context.off or not still_open(buffer, opened):
            return
        code, result = RETURNED, UNKNOWN_OUTPUT
        if not is_early_stop(error):
            code, result = RAISED, error_number(context, buffer, error, now)
        buffer.close(now, code=code, output=result)
    except Exception as fault:
        context.fault(fault)


unseen(still_open, left_by)
