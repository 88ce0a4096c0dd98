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
from modtrace.capture.lanes import CODE_SHIFT, COST, RAISED, UNWIND, Lane, Lanes
from modtrace.capture.registry import Entry, Registry
from modtrace.capture.signature import Signatures, arguments_key, keywords_key, value_key

Hook = Callable[..., None]
CALL_IMPL: CodeType = torch.nn.Module._call_impl.__code__
_Tensor = torch.Tensor
_Parameter = torch.nn.Parameter


class State:
    """What the hooks of one trace share with its tracer."""

    __slots__ = ("admits", "clock", "due", "errors", "fault", "flush", "lanes", "off", "registry", "signatures")

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
        self.due = 0
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
    entry_of = state.registry.entries.get
    empty = state.signatures.empty
    parent_depth = 2 * frame_depth + 2
    call_impl, tensor, parameter, strided = CALL_IMPL, _Tensor, _Parameter, torch.strided

    def pre(module: Any, args: Any) -> None:
        if is_dynamo_compiling() or state.off:
            return
        try:
            lane = lanes.lane
            frames = lane.frames
            try:
                caller = get_frame(parent_depth)
                # Called from the forward of the innermost open call: nothing in between can have changed the mode.
                if not frames or id(caller) != frames[-1] or caller.f_code is not call_impl:
                    if not _begin(state, lane, get_frame(frame_depth).f_back):
                        return
                    if admits is not None and not frames and not admits(module):
                        return
            except ValueError:  # the stack is not as deep as that
                if not _begin(state, lane, get_frame(frame_depth).f_back):
                    return
                if admits is not None and not frames and not admits(module):
                    return
            entry = entry_of(id(module))
            if entry is None:
                entry = enter(state, lane, module, get_frame(frame_depth))
            if len(args) == 1 and not lane.transformed:
                only = args[0]
                kind = type(only)
                if kind is tensor or kind is parameter:
                    try:
                        shape, dtype, requires_grad, signature = entry.given
                        if (
                            only.shape != shape
                            or only.dtype is not dtype
                            or only.requires_grad is not requires_grad
                            or not only.is_cpu
                            or only.layout is not strided
                        ):
                            signature = _argument(state, lane, entry, only)
                    except Exception:
                        signature = _arguments(state, lane, args)
                else:
                    signature = _arguments(state, lane, args)
            else:
                signature = _arguments(state, lane, args) if args else empty
            frame_id = id(get_frame(frame_depth))
            if module._forward_hooks:
                own_hooks.expect(state, lane, module, frame_id)
            lane.extend((entry.number, signature, len(frames), clock()))
            frames.append(frame_id)
            lane.entries.append(entry)
        except Exception as fault:
            state.fault(fault)

    return pre


def _post_hook(state: State, frame_depth: int) -> Hook:
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    lanes, clock = state.lanes, state.clock
    tensor, strided = _Tensor, torch.strided
    absent = object()

    def post(module: Any, args: Any, kwargs: Any, output: Any = absent) -> None:
        if is_dynamo_compiling():
            return
        now = clock()
        try:
            lane = lanes.lane
            frames = lane.frames
            if not frames:
                return
            # On the way of an exception torch leaves the kwargs out and calls from _call_impl itself.
            frame_id = id(get_frame(1 if output is absent else frame_depth))
            if frames[-1] != frame_id and not _settle(lane, frame_id):
                return
            if output is absent:
                _raised(state, lane, get_frame(1), now)
                return
            if type(output) is tensor and not lane.transformed:
                try:
                    entry = lane.entries[-1]
                    shape, dtype, requires_grad, signature = entry.returned
                    if (
                        output.shape != shape
                        or output.dtype is not dtype
                        or output.requires_grad is not requires_grad
                        or not output.is_cpu
                        or output.layout is not strided
                    ):
                        signature = _result(state, lane, entry, output)
                except Exception:
                    signature = _value(state, lane, output)
            else:
                signature = _value(state, lane, output)
            named = _keywords(state, lane, kwargs, len(frames) - 1) if kwargs else 0
            if lane.tails and own_hooks.begins(lane, frame_id, now, named, signature, output):
                return
            lane.extend((named, signature, -len(frames), now))
            frames.pop()
            lane.entries.pop()
            if lane.transformed > len(frames):
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
    if compiler._is_compiling_flag or torch._C._get_tracing_state():
        return False
    if lane.frames:
        unwind(lane, caller, state.clock)
    if not lane.transformed and torch._C._functorch.maybe_current_level() is not None:
        lane.transformed = len(lane.frames) + 1
    return True


def unwind(lane: Lane, frame: FrameType | None, clock: Callable[[], int]) -> None:
    """Close the calls that are no longer on the Python stack above `frame`: a `BaseException` went through them."""
    frames = lane.frames
    while frame is not None:
        if frame.f_code is CALL_IMPL:
            if id(frame) == frames[-1]:
                return
            if id(frame) in frames:
                lane.cut(frames.index(id(frame)) + 1)
                break
        frame = frame.f_back
    else:
        lane.cut(0)
    lane.extend((0, 0, UNWIND << CODE_SHIFT | len(frames), clock()))
    if lane.transformed > len(frames):
        lane.transformed = 0
    own_hooks.drop_dead(lane)


def enter(state: State, lane: Lane, module: Any, frame: FrameType) -> Entry:
    """The entry of a module not seen before; the time this takes belongs to no module."""
    started = state.clock()
    if not lane.frames:
        entry = state.registry.root_entry(module)
    else:
        parent, root = _open_modules(lane, frame.f_back)
        entry = state.registry.inner_entry(module, parent, root)
    _cost(state, lane, started, len(lane.frames))
    return entry


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
    lane.cut(frames.index(frame_id) + 1)
    own_hooks.drop_dead(lane)
    return True


def _raised(state: State, lane: Lane, frame: FrameType, now: int) -> None:
    """Close the innermost call: an exception is leaving it."""
    depth = len(lane.frames) - 1
    lane.cut(depth)
    own_hooks.drop_dead(lane)
    error = sys.exc_info()[1]
    last = lane.error if lane.events and lane.error and lane.events[-1] == lane.error[2] else None
    kwargs = frame.f_locals.get("kwargs")
    named = _keywords(state, lane, kwargs, depth) if kwargs else 0
    if error is None or is_early_stop(error):
        lane.extend((named, own_hooks.UNKNOWN_OUTPUT, -1 - depth, now))
    else:
        number = last[1] if last is not None and last[0] == id(error) else state.errors.number(error)
        lane.extend((named, number, RAISED << CODE_SHIFT | depth, now))
        lane.error = (id(error), number, now)
    if lane.transformed > depth:
        lane.transformed = 0
    if depth == 0 and now > state.due:
        state.flush(lane)


def _argument(state: State, lane: Lane, entry: Entry, value: Any) -> int:
    """The signature of one plain tensor argument, which is not as it was the last time."""
    on_cpu, number = _tensor(state, value)
    if on_cpu:
        entry.given = (value.shape, value.dtype, value.requires_grad, number)
    return number


def _result(state: State, lane: Lane, entry: Entry, value: Any) -> int:
    """The signature of one plain tensor that was returned, which is not as it was the last time."""
    on_cpu, number = _tensor(state, value)
    if on_cpu:
        entry.returned = (value.shape, value.dtype, value.requires_grad, number)
    return number


def _tensor(state: State, value: Any) -> tuple[bool, int]:
    device, layout = value.device, value.layout
    key = (value.shape, value.dtype, device, value.requires_grad, layout)
    number = state.signatures.known.get(key)
    if number is None:
        number = state.signatures.number(key)
    return device.type == "cpu" and layout is torch.strided, number


def _arguments(state: State, lane: Lane, args: tuple[Any, ...]) -> int:
    started = state.clock()
    vmapped = lane.transformed > 0
    if len(args) == 1:
        key = value_key(args[0], vmapped=vmapped)
    else:
        key = arguments_key(args, vmapped=vmapped)
    number = state.signatures.number(key)
    _cost(state, lane, started, len(lane.frames))
    return number


def _keywords(state: State, lane: Lane, kwargs: dict[str, Any], depth: int) -> int:
    started = state.clock()
    vmapped = lane.transformed > 0
    number = state.signatures.number(keywords_key(kwargs, vmapped=vmapped))
    _cost(state, lane, started, depth)
    return number


def _value(state: State, lane: Lane, value: Any) -> int:
    started = state.clock()
    vmapped = lane.transformed > 0
    number = state.signatures.number(value_key(value, vmapped=vmapped))
    _cost(state, lane, started, len(lane.frames) - 1)
    return number


def _cost(state: State, lane: Lane, started: int, depth: int) -> None:
    """Say that the recorder worked inside the call at depth - 1 for as long as since `started`."""
    now = state.clock()
    if depth > 0:
        lane.extend((now - started, 0, COST << CODE_SHIFT | depth, now))
