"""The end of a call that has forward hooks of its own.

torch runs global hooks before a module's own, so the post-hook sees such a call too early: own hooks may replace the
output and take time. For the length of one call a last hook, the tail, is put behind them; it takes itself away. A
tail is left behind only while a `BaseException` is on its way, until the next event or the end of the trace.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from modtrace.capture.lanes import CODE_SHIFT, HOOKS, RAISED, REPLACED, RETURNED, Lane
from modtrace.capture.raised import is_early_stop
from modtrace.capture.signature import value_key
from modtrace.capture.torch_private.names import forward_hooks_of
from modtrace.capture.unseen import unseen

if TYPE_CHECKING:
    from modtrace.capture.state import State

UNKNOWN_OUTPUT = (1 << 31) - 1


class Tail:
    """A forward hook that runs after all others of one module, for one call."""

    __slots__ = ("began", "frame_id", "key", "lane", "output_id", "signatures", "state", "tables")

    def __init__(self, state: State, lane: Lane, module: Any, frame_id: int) -> None:
        self.state = state
        self.lane = lane
        self.frame_id = frame_id
        self.key = -id(self)
        self.began = False
        self.output_id = 0
        self.signatures = (0, 0)
        self.tables = forward_hooks_of(module)

    def install(self) -> None:
        """Put it last. Its key is negative: the ids torch gives to hooks are not."""
        hooks, always_called = self.tables
        always_called[self.key] = True
        hooks[self.key] = self

    def remove(self) -> None:
        """Take it away; does nothing the second time."""
        hooks, always_called = self.tables
        hooks.pop(self.key, None)
        always_called.pop(self.key, None)

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        now = self.state.clock()
        try:
            self._end(output, now)
        except Exception as fault:
            self.state.fault(fault)

    def _end(self, output: Any, now: int) -> None:
        caller = sys._getframe(2)
        error = sys.exc_info()[1]
        failed = error is not None and _caught_in(error, caller)
        hooks, _ = self.tables
        if not failed or next(reversed(hooks), None) == self.key:
            self.remove()  # torch walks the live table when a hook has raised: only its last entry may go then
        lane, state = self.lane, self.state
        depth = lane.find(self.frame_id)
        if state.off or not self.began or depth < 0 or state.lanes.lane is not lane:
            return
        lane.abort(depth + 1)
        _, call, entry, given, start, seq = lane.calls[depth]
        named, returned = self.signatures
        code = RETURNED
        if failed and error is not None:
            if is_early_stop(error):
                returned = UNKNOWN_OUTPUT
            else:
                code, returned = RAISED, state.errors.number(error)
                lane.error = (id(error), returned, now)
        elif id(output) != self.output_id:
            code, returned = REPLACED, state.signatures.number(value_key(output))
        if state.device_times is not None and code != RAISED:
            state.device_times.end(lane, call, entry.number, named, returned)
        lane.extend((call, entry.number, given, code << CODE_SHIFT | depth, start, named, returned, now))
        next_node = state.next_node()
        if 0 <= seq < next_node:
            lane.grew((next_node, seq, call, entry.number, depth))
        lane.calls.pop()
        if not failed:
            drop_dead(lane)
        if lane.unit is not None and lane.unit.depth == depth:
            lane.unit.counting.end(lane, call) if code != RAISED else lane.unit.counting.give_up(lane)
        if lane.readings and state.device_memory is not None:
            state.device_memory.end(lane, depth, call, failed=failed)
        if depth == 0 and now > state.due:
            state.flush(lane)

    def __deepcopy__(self, memo: Any) -> Any:
        return _inert

    def __reduce__(self) -> Any:
        return (_make_inert, ())


unseen(Tail.__call__)


def _caught_in(error: BaseException, frame: Any) -> bool:
    """Whether the exception in flight was caught by `frame` (and is not one the caller was handling already)."""
    traceback = error.__traceback__
    return traceback is not None and traceback.tb_frame is frame


def _inert(*_: Any) -> None:
    """What a copy of a tail is."""


def _make_inert() -> Any:
    return _inert


def expect(state: State, lane: Lane, module: Any, frame_id: int) -> None:
    """Put a tail behind the own hooks of a module whose call begins."""
    drop_dead(lane)
    tail = Tail(state, lane, module, frame_id)
    lane.tails.append(tail)
    tail.install()


def begins(lane: Lane, now: int, named: int, returned: int, output: Any) -> bool:
    """Note that forward has returned and own hooks begin. False when no tail will come for this call."""
    tail = lane.tails[-1]
    if tail.frame_id != lane.calls[-1][0] or tail.began:
        return False
    if tail.key not in tail.tables[0]:  # the forward has cleared its own hooks
        lane.tails.pop()
        tail.remove()
        return False
    tail.began = True
    tail.output_id = id(output)
    tail.signatures = (named, returned)
    lane.extend((lane.calls[-1][1], 0, 0, HOOKS << CODE_SHIFT, now, 0, 0, 0))
    return True


def drop_dead(lane: Lane) -> None:
    """Remove the tails of calls that are no longer open."""
    while lane.tails and lane.find(lane.tails[-1].frame_id) < 0:
        lane.tails.pop().remove()


def drop_all(lane: Lane) -> None:
    """Remove every tail, at the end of a trace."""
    while lane.tails:
        lane.tails.pop().remove()
