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
from typing import Any

import torch

from modtrace.capture import own_hooks
from modtrace.capture.raised import Errors, is_early_stop
from modtrace.capture.lanes import (
    CODE_BITS,
    COST,
    PRE,
    RAISED,
    RETURNED,
    UNWIND,
    Lane,
    Lanes,
)
from modtrace.capture.registry import Registry
from modtrace.capture.signature import Signatures, arguments_key, keywords_key, value_key

Hook = Callable[..., None]
CALL_IMPL: CodeType = torch.nn.Module._call_impl.__code__
_Tensor = torch.Tensor
_Parameter = torch.nn.Parameter


class State:
    """What the hooks of one trace share with its tracer."""

    __slots__ = ("admits", "clock", "errors", "fault", "flush", "flush_inside_at", "flush_outside_at", "lanes", "off", "registry", "signatures")

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
        admits: Callable[[torch.nn.Module], bool] | None,
    ) -> None:
        self.lanes = lanes
        self.registry = registry
        self.signatures = signatures
        self.errors = errors
        self.clock = clock
        self.flush = flush
        self.fault = fault
        self.admits = admits
        self.flush_inside_at = 0
        self.flush_outside_at = 0
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
    compiler: Any = torch.compiler
    tracing_state = torch._C._get_tracing_state
    functorch_level = torch._C._functorch.maybe_current_level
    get_frame = sys._getframe
    lanes, clock, admits = state.lanes, state.clock, state.admits
    number_of = state.registry.number_of.get
    known, empty = state.signatures.known, state.signatures.empty
    parent_depth = 2 * frame_depth + 2
    call_impl, tensor, parameter = CALL_IMPL, _Tensor, _Parameter

    def pre(module: Any, args: Any) -> None:
        if is_dynamo_compiling() or compiler._is_compiling_flag or state.off or tracing_state():
            return
        try:
            lane = lanes.lane
            frames = lane.frames
            if frames:
                try:
                    caller = get_frame(parent_depth)
                    live = id(caller) == frames[-1] and caller.f_code is call_impl
                except ValueError:
                    live = False
                if not live:
                    unwind(lane, get_frame(frame_depth).f_back, clock)
            if admits is not None and not frames and not admits(module):
                return
            number = number_of(id(module))
            if number is None:
                number = enter(state, lane, module, get_frame(frame_depth))
            only = args[0] if len(args) == 1 else None
            kind = type(only)
            if (kind is tensor or kind is parameter) and functorch_level() is None:
                try:
                    signature = known[only.shape, only.dtype, only.device, only.requires_grad, only.layout]
                except Exception:
                    signature = _arguments(state, lane, args)
            else:
                signature = _arguments(state, lane, args) if args else empty
            frame_id = id(get_frame(frame_depth))
            if module._forward_hooks:
                own_hooks.expect(state, lane, module, frame_id)
            lane.extend((number << 32 | signature, len(frames) << CODE_BITS | PRE, clock()))
            frames.append(frame_id)
        except Exception as fault:
            state.fault(fault)

    return pre


def _post_hook(state: State, frame_depth: int) -> Hook:
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    functorch_level = torch._C._functorch.maybe_current_level
    get_frame = sys._getframe
    lanes, clock = state.lanes, state.clock
    known, tensor = state.signatures.known, _Tensor

    def post(module: Any, args: Any, *rest: Any) -> None:
        if is_dynamo_compiling():
            return
        now = clock()
        if state.off:
            return
        try:
            lane = lanes.lane
            frames = lane.frames
            if not frames:
                return
            returned = len(rest) == 2
            frame_id = id(get_frame(frame_depth if returned else 1))
            if frames[-1] != frame_id and not _settle(lane, frame_id):
                return
            if not returned:
                _raised(state, lane, get_frame(1), now)
                return
            kwargs, output = rest
            if type(output) is tensor and functorch_level() is None:
                try:
                    signature = known[
                        output.shape, output.dtype, output.device, output.requires_grad, output.layout
                    ]
                except Exception:
                    signature = _value(state, lane, output)
            else:
                signature = _value(state, lane, output)
            if kwargs:
                signature |= _keywords(state, lane, kwargs) << 32
            if lane.tails and own_hooks.begins(lane, frame_id, now, signature, output):
                return
            frames.pop()
            lane.extend((signature, len(frames) << CODE_BITS | RETURNED, now))
            if now > (state.flush_inside_at if frames else state.flush_outside_at):
                state.flush(lane)
        except Exception as fault:
            state.fault(fault)

    return post


def unwind(lane: Lane, frame: FrameType | None, clock: Callable[[], int]) -> None:
    """Close the calls that are no longer on the Python stack above `frame`: a `BaseException` went through them."""
    frames = lane.frames
    while frame is not None:
        if frame.f_code is CALL_IMPL:
            if id(frame) == frames[-1]:
                return
            if id(frame) in frames:
                del frames[frames.index(id(frame)) + 1 :]
                break
        frame = frame.f_back
    else:
        frames.clear()
    lane.extend((0, len(frames) << CODE_BITS | UNWIND, clock()))
    own_hooks.drop_dead(lane)


def enter(state: State, lane: Lane, module: Any, frame: FrameType) -> int:
    """The number of a module not seen before; the time this takes belongs to no module."""
    started = state.clock()
    if not lane.frames:
        number = state.registry.root_number(module)
    else:
        parent, root = _open_modules(lane, frame.f_back)
        number = state.registry.inner_number(module, parent, root)
    _cost(state, lane, started, len(lane.frames))
    return number


def _open_modules(lane: Lane, frame: FrameType | None) -> tuple[Any, Any]:
    """The innermost and the outermost module of the open calls, from the frames that run them."""
    parent = root = None
    while frame is not None and root is None:
        if frame.f_code is CALL_IMPL:
            if id(frame) == lane.frames[-1]:
                parent = frame.f_locals["self"]
            if id(frame) == lane.frames[0]:
                root = frame.f_locals["self"]
        frame = frame.f_back
    return parent, root


def _settle(lane: Lane, frame_id: int) -> bool:
    """Close calls inside the one that has now ended and that no hook has closed. False for a call not recorded."""
    frames = lane.frames
    if frame_id not in frames:
        return False
    del frames[frames.index(frame_id) + 1 :]
    own_hooks.drop_dead(lane)
    return True


def _raised(state: State, lane: Lane, frame: FrameType, now: int) -> None:
    """Close the innermost call: an exception is leaving it."""
    frames = lane.frames
    frames.pop()
    own_hooks.drop_dead(lane)
    depth = len(frames)
    error = sys.exc_info()[1]
    last = lane.error if lane.events and lane.error and lane.events[-1] == lane.error[2] else None
    kwargs = frame.f_locals.get("kwargs")
    signature = _keywords(state, lane, kwargs, depth) << 32 if kwargs else 0
    if error is None or is_early_stop(error):
        lane.extend((signature | own_hooks.UNKNOWN_OUTPUT, depth << CODE_BITS | RETURNED, now))
    else:
        number = last[1] if last is not None and last[0] == id(error) else state.errors.number(error)
        lane.extend((signature | number, depth << CODE_BITS | RAISED, now))
        lane.error = (id(error), number, now)
    if depth == 0 and now > state.flush_outside_at:
        state.flush(lane)


def _arguments(state: State, lane: Lane, args: tuple[Any, ...]) -> int:
    started = state.clock()
    vmapped = torch._C._functorch.maybe_current_level() is not None
    if len(args) == 1:
        key = value_key(args[0], vmapped=vmapped)
    else:
        key = arguments_key(args, vmapped=vmapped)
    number = state.signatures.number(key)
    _cost(state, lane, started, len(lane.frames))
    return number


def _keywords(state: State, lane: Lane, kwargs: dict[str, Any], depth: int | None = None) -> int:
    started = state.clock()
    vmapped = torch._C._functorch.maybe_current_level() is not None
    number = state.signatures.number(keywords_key(kwargs, vmapped=vmapped))
    _cost(state, lane, started, len(lane.frames) - 1 if depth is None else depth)
    return number


def _value(state: State, lane: Lane, value: Any) -> int:
    started = state.clock()
    vmapped = torch._C._functorch.maybe_current_level() is not None
    number = state.signatures.number(value_key(value, vmapped=vmapped))
    _cost(state, lane, started, len(lane.frames) - 1)
    return number


def _cost(state: State, lane: Lane, started: int, depth: int) -> None:
    """Say that the recorder worked inside the call at depth - 1 for as long as since `started`."""
    now = state.clock()
    if depth > 0:
        lane.extend((now - started, depth << CODE_BITS | COST, now))
