"""The pair of hooks that torch runs around every module call: the hot path.

torch calls both with nothing but the module and its arguments, so what a hook must know of the moment is taken from the
thread's lane and from the Python stack: the frame of `Module._call_impl` that runs a hook is the same before and after
`forward`, and tells, without a word stored on a module, which call a hook belongs to and whether the calls thought
open still are (a `BaseException` passes without any hook being run).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

import torch

from modtrace.capture import own_hooks
from modtrace.capture.lanes import CODE_SHIFT, RAISED, Lane, Lanes
from modtrace.capture.raised import Errors, is_early_stop
from modtrace.capture.registry import Registry
from modtrace.capture.seen import Entry, has_grad, remember
from modtrace.capture.signature import Signatures, arguments_key, keywords_key, value_key

Hook = Callable[..., None]
CALL_IMPL: CodeType = torch.nn.Module._call_impl.__code__
FRAMES: Final = 5
"""What a traced call takes of python's recursion limit, at the least: four frames and the call of a slot."""
NEAR_LIMIT: Final = 0.6
DEEP_CALLS: Final = 50
"""Calls that are deeper than that have their depth looked at when their argument is a new one."""


class State:
    """What the hooks of one trace share with its tracer."""

    __slots__ = (
        "admits",
        "clock",
        "deep",
        "due",
        "errors",
        "fault",
        "flush",
        "lanes",
        "off",
        "registry",
        "signatures",
        "warn",
    )

    def __init__(
        self,
        *,
        lanes: Lanes,
        registry: Registry,
        signatures: Signatures,
        errors: Errors,
        clock: Callable[[], int],
        flush: Callable[[Lane], None],
        fault: Callable[[BaseException], None],
        warn: Callable[[str], None],
        admits: Callable[[torch.nn.Module], bool] | None,
    ) -> None:
        self.lanes = lanes
        self.registry = registry
        self.signatures = signatures
        self.errors = errors
        self.clock = clock
        self.flush = flush
        self.fault = fault
        self.warn = warn
        self.admits = admits
        self.due = 0
        self.deep = False
        self.off = False


def build(state: State, frame_depth: int) -> tuple[Hook, Hook]:
    """The pre-hook and the post-hook, with everything they touch bound as a local: a global attribute costs 20 ns.

    Args:
        state: shared with the tracer.
        frame_depth: how far above a hook the frame of `_call_impl` is on the way in and on success; 2 where torch runs
            hooks in a nested function, 1 where it does not.
    """
    return _pre_hook(state, frame_depth), _post_hook(state, frame_depth)


def _pre_hook(state: State, frame_depth: int) -> Hook:
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    lanes, clock, admits = state.lanes, state.clock, state.admits
    grad_enabled = torch._C.is_grad_enabled
    entry_of, empty = state.registry.entries.get, state.signatures.empty
    parent_depth = 2 * frame_depth + 2
    call_impl = CALL_IMPL

    def pre(module: Any, args: Any) -> None:
        if is_dynamo_compiling() or state.off:
            return
        try:
            lane = lanes.lane
            calls = lane.calls
            try:
                caller: FrameType | None = get_frame(parent_depth)
            except ValueError:  # the stack is not as deep as that
                caller = None
            # Called from the forward of the innermost open call: nothing in between can have changed the mode.
            if not calls or id(caller) != calls[-1][0] or caller.f_code is not call_impl:  # type: ignore[union-attr]
                if not _begin(state, lane, get_frame(frame_depth).f_back):
                    return
                if admits is not None and not calls and not admits(module):
                    return
            entry = entry_of(id(module))
            if entry is None:
                entry = _enter(state, lane, module, get_frame(frame_depth))
            if len(args) == 1:
                only = args[0]
                alike, requires_grad, given = entry.given
                if not alike(only) or (not grad_enabled() and has_grad(only) is not requires_grad):
                    given = _argument(state, lane, entry, args)
            else:
                given = _arguments(state, lane, args) if args else empty
            frame_id = id(get_frame(frame_depth))
            if module._forward_hooks:
                own_hooks.expect(state, lane, module, frame_id)
            calls.append((frame_id, lane.next_call(), entry, given, clock()))
        except Exception as fault:
            state.fault(fault)

    return pre


def _post_hook(state: State, frame_depth: int) -> Hook:
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    lanes, clock = state.lanes, state.clock
    grad_enabled = torch._C.is_grad_enabled
    entry_of = state.registry.entries.get
    absent = object()

    def post(module: Any, args: Any, kwargs: Any, output: Any = absent) -> None:
        if is_dynamo_compiling():
            return
        now = clock()
        try:
            lane = lanes.lane
            calls = lane.calls
            if not calls:
                if lane.left:
                    lane.ends_late(
                        id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module))
                    )
                return
            frame_id, call, entry, given, start = calls[-1]
            # On the way of an exception torch leaves the kwargs out and calls from _call_impl itself.
            if id(get_frame(1 if output is absent else frame_depth)) != frame_id:
                if not _settle(
                    lane, id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module))
                ):
                    return
                frame_id, call, entry, given, start = calls[-1]
            if output is absent:
                _raised(state, lane, get_frame(1), now)
                return
            alike, requires_grad, result = entry.returned
            if not alike(output) or (not grad_enabled() and has_grad(output) is not requires_grad):
                result = _result(state, lane, entry, output)
            named = _keywords(state, lane, kwargs) if kwargs else 0
            if lane.tails and own_hooks.begins(lane, now, named, result, output):
                return
            lane.extend((call, entry.number, given, len(calls) - 1, start, named, result, now))
            calls.pop()
            if lane.transformed > len(calls):
                lane.transformed = 0
            if now > state.due:
                state.flush(lane)
        except Exception as fault:
            state.fault(fault)

    return post


def _begin(state: State, lane: Lane, caller: FrameType | None) -> bool:
    """What is checked of a call that does not come straight from the forward of the innermost open call.

    Returns False for a call that must not be looked at: a trace of torch's own is being made.
    """
    compiler: Any = torch.compiler
    symbolic: Any = torch.fx._symbolic_trace
    if compiler._is_compiling_flag or torch._C._get_tracing_state() or symbolic._is_fx_tracing_flag:
        return False
    if lane.calls:
        _unwind(lane, caller)
    if not lane.transformed and torch._C._functorch.maybe_current_level() is not None:
        lane.transformed = len(lane.calls) + 1
    return True


def _unwind(lane: Lane, frame: FrameType | None) -> None:
    """Close the calls that are no longer on the Python stack from `frame` up: a `BaseException` left them."""
    while frame is not None:
        if frame.f_code is CALL_IMPL:
            depth = lane.find(id(frame))
            if depth >= 0:
                break
        frame = frame.f_back
    else:
        depth = -1
    if depth + 1 < len(lane.calls):
        lane.leave(depth + 1)
        own_hooks.drop_dead(lane)


def _enter(state: State, lane: Lane, module: Any, frame: FrameType) -> Entry:
    """The entry of a module not seen before; the time this takes belongs to no module."""
    started = state.clock()
    if not lane.calls:
        entry = state.registry.root_entry(module)
    else:
        parent, root = _open_modules(lane, frame.f_back)
        entry = state.registry.inner_entry(module, parent, root)
    lane.cost(len(lane.calls) - 1, state.clock() - started)
    return entry


def _warn_of_depth(state: State, depth: int) -> None:
    """torch puts one frame more around a call while any hook is there, so a program near python's limit may pass it."""
    limit = sys.getrecursionlimit()
    if depth * FRAMES > NEAR_LIMIT * limit:
        state.deep = True
        state.warn(
            f"calls are {depth} modules deep; while they are traced torch needs one stack frame more for each, "
            f"and python's recursion limit is {limit}"
        )


def _open_modules(lane: Lane, frame: FrameType | None) -> tuple[Any, Any]:
    """The innermost and the outermost module of the open calls, from the frames that run them."""
    parent = root = None
    while frame is not None and root is None:
        if frame.f_code is CALL_IMPL:
            if id(frame) == lane.calls[-1][0]:
                parent = frame.f_locals["self"]
            if id(frame) == lane.calls[0][0]:
                root = frame.f_locals["self"]
        frame = frame.f_back
    return parent, root


def _settle(lane: Lane, frame_id: int, entry: Entry | None) -> bool:
    """Close calls inside the one that has now ended and that no hook has closed. False for a call not recorded."""
    depth = lane.find(frame_id)
    if depth < 0:
        lane.ends_late(frame_id, entry)
        return False
    lane.abort(depth + 1)
    own_hooks.drop_dead(lane)
    return True


def _raised(state: State, lane: Lane, frame: FrameType, now: int) -> None:
    """Close the innermost call: an exception is leaving it."""
    error = sys.exc_info()[1]
    last = lane.error if lane.records and lane.error and lane.records[-1] == lane.error[2] else None
    kwargs = frame.f_locals.get("kwargs")
    named = _keywords(state, lane, kwargs) if kwargs else 0
    _, call, entry, given, start = lane.calls[-1]
    module = entry.number
    depth = len(lane.calls) - 1
    if error is None or is_early_stop(error):
        lane.extend((call, module, given, depth, start, named, own_hooks.UNKNOWN_OUTPUT, now))
    else:
        # The same exception, one call further out: nothing has been recorded since it left the inner one.
        number = last[1] if last is not None and last[0] == id(error) else state.errors.number(error)
        lane.extend((call, module, given, RAISED << CODE_SHIFT | depth, start, named, number, now))
        lane.error = (id(error), number, now)
    lane.calls.pop()
    own_hooks.drop_dead(lane)
    if lane.transformed > depth:
        lane.transformed = 0
    if depth == 0 and now > state.due:
        state.flush(lane)


def _argument(state: State, lane: Lane, entry: Entry, args: tuple[Any, ...]) -> int:
    """The signature of the only argument, which is not like the last one was."""
    value = args[0]
    if len(lane.calls) > DEEP_CALLS and not state.deep:
        _warn_of_depth(state, len(lane.calls))
    if _is_plain(value) and not lane.transformed:
        number = state.signatures.of_tensor(value)
        entry.given = remember(entry.given, value, number)
        return number
    return _arguments(state, lane, args)


def _result(state: State, lane: Lane, entry: Entry, value: Any) -> int:
    """The signature of an output, which is not like the last one was."""
    if _is_plain(value) and not lane.transformed:
        number = state.signatures.of_tensor(value)
        entry.returned = remember(entry.returned, value, number)
        return number
    started = state.clock()
    number = state.signatures.number(value_key(value, vmapped=lane.transformed > 0))
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number


def _is_plain(value: Any) -> bool:
    """Whether a value is a tensor whose attributes can all be read: no subclass, not nested."""
    kind = type(value)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return False
    with torch._C.DisableTorchFunction():
        return not value.is_nested


def _arguments(state: State, lane: Lane, args: tuple[Any, ...]) -> int:
    started = state.clock()
    vmapped = lane.transformed > 0
    alone = len(args) == 1
    key = value_key(args[0], vmapped=vmapped) if alone else arguments_key(args, vmapped=vmapped)
    number = state.signatures.number(key)
    lane.cost(len(lane.calls) - 1, state.clock() - started)
    return number


def _keywords(state: State, lane: Lane, kwargs: dict[str, Any]) -> int:
    started = state.clock()
    number = state.signatures.number(keywords_key(kwargs, vmapped=lane.transformed > 0))
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number
