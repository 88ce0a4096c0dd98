"""Phases and spans: calls of no module, opened and closed in a thread's lane like those of modules."""

from __future__ import annotations

from types import CodeType, FrameType
from typing import Final

from modtrace.capture import own_hooks
from modtrace.capture.hooks import RUNNERS, error_number, unwind
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import CODE_SHIFT, KIND_SHIFT, RAISED, RETURNED, Lane, OpenCall
from modtrace.capture.own_hooks import UNKNOWN_OUTPUT
from modtrace.capture.raised import is_early_stop, is_out_of_memory
from modtrace.capture.seen import Entry
from modtrace.capture.state import State
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import FUNCTION, PHASE, SPAN, STEP

NOT_OPENED: Final = -1


class Ranges:
    """Opens and closes the phases and spans of one trace. Nothing here raises."""

    def __init__(self, state: State, labels: Labels) -> None:
        self.state = state
        self._labels = labels
        self._entries: dict[tuple[int, int], Entry] = {}
        self._step = Entry(labels.number("step"), STEP, None)
        self._waiting: set[Entry] = set()
        """Phases in which the host waits for data: the device has none of it to do."""

    def phase(self, name: str, kind: str, code: CodeType, identity: int = 0) -> Entry:
        """What a phase is an execution of; `code` is that of the frame which runs it."""
        RUNNERS[id(code)] = code
        entry = self._entry(PHASE, self._labels.number(name, kind, identity), code)
        if name == "data":
            self._waiting.add(entry)
        return entry

    def span(self, name: str) -> Entry:
        """What a span is an execution of: no frame says whether it still runs, only its end."""
        return self._entry(SPAN, self._labels.number(name), None)

    def begin(self, entry: Entry, frame: FrameType | None = None, *, again: bool = False) -> int:
        """Open a range on this thread; returns its number there, NOT_OPENED when it is not recorded.

        A phase inside one of the same label (an optimizer's step inside its GradScaler's) is the same phase, unless
        `again` (a backward of its own inside a backward).
        """
        state = self.state
        if state.off:
            return NOT_OPENED
        try:
            lane = state.lanes.lane
            if state.unwatched:
                state.watch_again()
            if lane.calls:
                unwind(lane, frame)
                inner = lane.calls[-1][2] if lane.calls else None
                if inner is entry and entry.kind == PHASE and not again:
                    return NOT_OPENED
            if state.device_memory is not None and entry not in self._waiting:
                state.device_memory.begin(lane)
            call = lane.next_call()
            if state.device_times is not None and entry.kind == PHASE and entry not in self._waiting:
                state.device_times.begin_phase(lane, call)
            lane.calls.append((id(frame) if frame is not None else 0, call, entry, 0, state.clock(), -1))
            return call
        except Exception as fault:
            state.fault(fault)
            return NOT_OPENED

    def end(self, call: int, error: BaseException | None = None) -> None:
        """Close a range of this thread, and what is still open inside it."""
        state = self.state
        if call == NOT_OPENED or state.off:
            return
        now = state.clock()
        try:
            lane = state.lanes.lane
            depth = find(lane, call)
            if depth < 0:
                return
            lane.abort(depth + 1)
            own_hooks.drop_dead(lane)
            _, _, entry, given, start, _ = lane.calls[depth]
            code, result = RETURNED, 0
            if state.device_times is not None and error is None:
                state.device_times.end_phase(lane, call)
            if error is not None:
                code, result = RAISED, error_number(state, lane, error, now)
            word = entry.kind << KIND_SHIFT | code << CODE_SHIFT | depth
            lane.extend((call, entry.number, given, word, start, 0, result, now))
            lane.calls.pop()
            if lane.readings and state.device_memory is not None:
                once = entry is self._step
                state.device_memory.end(lane, depth, call, failed=error is not None, at_once=once)
            if error is not None and is_out_of_memory(error):
                state.flush_now(lane)
            elif now > state.due:
                state.flush(lane)
        except Exception as fault:
            state.fault(fault)

    def mark_step(self) -> None:
        """Say that a step ends here: a row without length."""
        call = self.begin(self._step)
        self.end(call)

    def _entry(self, kind: int, number: int, code: CodeType | None) -> Entry:
        known = self._entries.get((kind, number))
        if known is None:
            known = self._entries.setdefault((kind, number), Entry(number, kind, code))
        return known


unseen(Ranges.phase, Ranges.span, Ranges.begin, Ranges.end, Ranges.mark_step)


def find(lane: Lane, call: int) -> int:
    """The depth of an open call by its number, -1 for none."""
    for depth in range(len(lane.calls) - 1, -1, -1):
        if lane.calls[depth][1] == call:
            return depth
    return -1


def still_open(lane: Lane, mine: OpenCall) -> bool:
    """Close calls inside one that is over; False where it is not open any more."""
    for depth in range(len(lane.calls) - 1, -1, -1):
        if lane.calls[depth] is mine:
            lane.abort(depth + 1)
            return True
    return False


def left_by(state: State, lane: Lane, mine: OpenCall, error: BaseException) -> None:
    """Close the row of a function that an exception leaves."""
    now = state.clock()
    try:
        if state.off or not still_open(lane, mine):
            return
        code, result = RETURNED, UNKNOWN_OUTPUT
        if not is_early_stop(error):
            code, result = RAISED, error_number(state, lane, error, now)
        _, call, entry, given, start, _ = mine
        depth = len(lane.calls) - 1
        word = FUNCTION << KIND_SHIFT | code << CODE_SHIFT | depth
        lane.extend((call, entry.number, given, word, start, 0, result, now))
        lane.calls.pop()
    except Exception as fault:
        state.fault(fault)


unseen(still_open, left_by)
