"""The end of a call that has forward hooks of its own.

torch runs global hooks before a module's own, so the post-hook sees such a call too early: own hooks may replace the
output and take time. For the length of one call a last hook, the tail, is put behind them; it takes itself away. A
tail is left behind only while a `BaseException` is on its way, until the next event or the end of the trace.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.events import Halt
from modtrace.capture.engine.exceptions import is_early_stop
from modtrace.capture.engine.signatures import value_key
from modtrace.capture.engine.thread_buffer import RAISED, REPLACED, RETURNED, UNKNOWN_OUTPUT, ThreadBuffer
from modtrace.capture.torch_private.names import forward_hooks_of

if TYPE_CHECKING:
    from modtrace.capture.engine.context import TraceContext


class LastHook:
    """A forward hook that runs after all others of one module, for one call."""

    __slots__ = ("began", "buffer", "context", "frame_id", "key", "output_id", "signatures", "tables")

    def __init__(self, context: TraceContext, buffer: ThreadBuffer, module: Any, frame_id: int) -> None:
        self.context = context
        self.buffer = buffer
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
        now = self.context.clock()
        try:
            self._end(module, args, output, now)
        except Halt as halt:
            raise halt.error from None
        except Exception as fault:
            self.context.fault(fault)

    def _end(self, module: Any, args: Any, output: Any, now: int) -> None:
        caller = sys._getframe(2)
        error = sys.exc_info()[1]
        failed = error is not None and _caught_in(error, caller)
        hooks, _ = self.tables
        if not failed or next(reversed(hooks), None) == self.key:
            self.remove()  # torch walks the live table when a hook has raised: only its last entry may go then
        buffer, context = self.buffer, self.context
        depth = buffer.find(self.frame_id)
        if context.off or not self.began or depth < 0 or context.buffers.current is not buffer:
            return
        buffer.abort(depth + 1)
        _, call, entry, _, _, first_node = buffer.calls[depth]
        named, returned = self.signatures
        code = RETURNED
        if failed and error is not None:
            if is_early_stop(error):
                returned = UNKNOWN_OUTPUT
            else:
                code, returned = RAISED, context.errors.number(error)
                buffer.error = (id(error), returned, now, call)
        elif id(output) != self.output_id:
            code, returned = REPLACED, context.signatures.number(value_key(output))
        for ended in context.events.call_ended if code != RAISED else ():
            kwargs = caller.f_locals.get("kwargs")
            ended(buffer, call, entry.number, named, returned, module, args, kwargs, output)
        buffer.note_nodes(context.next_node(), first_node)
        buffer.close(now, code=code, kwargs=named, output=returned)
        if not failed:
            drop_dead(buffer)
        buffer.tell_closed(depth, call, RAISED if failed else RETURNED)
        if depth == 0 and now > context.due:
            context.flush(buffer)

    def __deepcopy__(self, memo: Any) -> Any:
        return _inert

    def __reduce__(self) -> Any:
        return (_make_inert, ())


unseen(LastHook.__call__)


def _caught_in(error: BaseException, frame: Any) -> bool:
    """True if the exception in flight was caught by `frame` (and is not one the caller was handling already)."""
    traceback = error.__traceback__
    return traceback is not None and traceback.tb_frame is frame


def _inert(*_: Any) -> None:
    """Does nothing: a copy of a `LastHook` is this function."""


def _make_inert() -> Any:
    return _inert


def expect(context: TraceContext, buffer: ThreadBuffer, module: Any, frame_id: int) -> None:
    """Put a tail behind the own hooks of a module whose call begins."""
    drop_dead(buffer)
    tail = LastHook(context, buffer, module, frame_id)
    buffer.tails.append(tail)
    tail.install()


def begins(buffer: ThreadBuffer, now: int, named: int, returned: int, output: Any) -> bool:
    """Note that forward has returned and own hooks begin. False when no tail will come for this call."""
    tail = buffer.tails[-1]
    assert isinstance(tail, LastHook)
    if tail.frame_id != buffer.calls[-1][0] or tail.began:
        return False
    if tail.key not in tail.tables[0]:  # the forward has cleared its own hooks
        buffer.tails.pop()
        tail.remove()
        return False
    tail.began = True
    tail.output_id = id(output)
    tail.signatures = (named, returned)
    buffer.own_hooks_begin(now)
    return True


def drop_dead(buffer: ThreadBuffer) -> None:
    """Remove the tails of calls that are no longer open."""
    while buffer.tails and buffer.find(buffer.tails[-1].frame_id) < 0:
        buffer.tails.pop().remove()


def drop_all(buffer: ThreadBuffer) -> None:
    """Remove every tail, at the end of a trace."""
    while buffer.tails:
        buffer.tails.pop().remove()
