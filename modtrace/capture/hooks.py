"""The pair of hooks that torch runs around every module call: the hot path.

torch calls both with nothing but the module and its arguments, so what a hook must know of the moment is taken from the
thread's lane and from the Python stack: the frame of `Module._call_impl` that runs a hook is the same before and after
`forward`, and tells, without a word stored on a module, which call a hook belongs to and whether the calls thought
open still are (a `BaseException` passes without any hook being run).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture import own_hooks
from modtrace.capture.facts import raw
from modtrace.capture.lanes import CODE_SHIFT, MODE_SHIFT, RAISED, RETURNED, Lane
from modtrace.capture.likeness import is_tensor
from modtrace.capture.raised import is_early_stop, is_out_of_memory
from modtrace.capture.registry import NOWHERE, Place
from modtrace.capture.seen import Entry, has_grad, remember
from modtrace.capture.signature import arguments_key, keywords_key, value_key
from modtrace.capture.state import State
from modtrace.capture.torch_private.names import CALL_CODE, HAS_OWN_HOOKS, current_level, graph_task
from modtrace.capture.torch_private.tracing import is_making_graph
from modtrace.capture.tracebacks import unlink
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import BACKWARD, EVALUATING, IN_BACKWARD, MODULE, NO_GRAD, PHASE

Hook = Callable[..., None]
FRAMES: Final = 5
"""What a traced call takes of python's recursion limit, at the least: four frames and the call of a slot."""
NEAR_LIMIT: Final = 0.6
RUNNERS: Final = {id(CALL_CODE): CALL_CODE}
"""Code of the frames that run calls and phases, by its id: python hashes the whole content of code, every time."""
DEEP_CALLS: Final = 50
"""Calls that are deeper than that have their depth looked at when their argument is a new one."""


def build(state: State, frame_depth: int) -> tuple[Hook, Hook]:
    """The pre-hook and the post-hook, with everything they touch bound as a local: a global attribute costs 20 ns.

    Args:
        state: shared with the tracer.
        frame_depth: how far above a hook the frame of `_call_impl` is on the way in and on success; 2 where torch runs
            hooks in a nested function, 1 where it does not.
    """
    pre, post = _pre_hook(state, frame_depth), _post_hook(state, frame_depth)
    unseen(pre, post)
    return pre, post


def _pre_hook(state: State, frame_depth: int) -> Hook:  # noqa: C901, PLR0915 - as for the post-hook
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    lanes, clock, next_node = state.lanes, state.clock, state.next_node
    grad_enabled = torch.is_grad_enabled
    entry_of, empty = state.registry.entries.get, state.signatures.empty
    parent_depth = 2 * frame_depth + 2
    call_impl, has_own_hooks = CALL_CODE, HAS_OWN_HOOKS

    def pre(module: Any, args: Any) -> None:  # noqa: C901, PLR0912
        if is_dynamo_compiling() or state.off:
            return
        try:
            lane = lanes.lane
            calls = lane.calls
            try:
                caller: FrameType | None = get_frame(parent_depth)
            except ValueError:  # the stack is not as deep as that
                caller = None
            mode = 0
            # Called from the forward of the innermost open call: nothing in between can have changed the mode.
            if not calls or id(caller) != calls[-1][0] or caller.f_code is not call_impl:  # type: ignore[union-attr]
                mode = _begin(state, lane, module, get_frame(frame_depth).f_back)
                if mode < 0:
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
            if mode:
                if mode & OUTERMOST:
                    mode ^= OUTERMOST
                    plan = entry.plan
                    plan.skips -= 1
                    if plan.skips < 0 or entry.counted != given | mode:
                        mode = state.count(lane, entry, given, mode, get_frame(frame_depth))
                given |= mode
            frame_id = id(get_frame(frame_depth))
            if has_own_hooks and module._forward_hooks:
                own_hooks.expect(state, lane, module, frame_id)
            call = lane.next_call()
            if state.device_times is not None:
                state.device_times.begin(lane, call, given)
            calls.append((frame_id, call, entry, given, clock(), next_node()))
        except Exception as fault:
            state.fault(fault)

    return pre


def _post_hook(state: State, frame_depth: int) -> Hook:  # noqa: C901, PLR0915 - the hot path: a call costs 50 ns
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    lanes, clock, next_node = state.lanes, state.clock, state.next_node
    grad_enabled = torch.is_grad_enabled
    entry_of = state.registry.entries.get
    absent = object()

    def post(module: Any, args: Any, kwargs: Any, output: Any = absent) -> None:  # noqa: C901, PLR0912
        if is_dynamo_compiling():
            return
        now = clock()
        try:
            lane = lanes.lane
            calls = lane.calls
            if not calls:
                lane.ends_late(id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module)))
                return
            frame_id, call, entry, given, start, node = calls[-1]
            # On the way of an exception torch leaves the kwargs out and calls from _call_impl itself.
            if id(get_frame(1 if output is absent else frame_depth)) != frame_id:
                if not _settle(
                    lane, id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module))
                ):
                    return
                frame_id, call, entry, given, start, node = calls[-1]
            if output is absent:
                _raised(state, lane, get_frame(1), now)
                return
            alike, requires_grad, result = entry.returned
            if not alike(output) or (not grad_enabled() and has_grad(output) is not requires_grad):
                result, requires_grad = _result(state, lane, entry, output)
            named = 0
            if kwargs:
                named, entry.counted = _keywords(state, lane, kwargs), -1
            if lane.tails and own_hooks.begins(lane, now, named, result, output):
                return
            if state.device_times is not None:
                state.device_times.end(lane, call, entry.number, named, result)
            lane.extend((call, entry.number, given, len(calls) - 1, start, named, result, now))
            if requires_grad:
                grown = next_node()
                if grown > node:
                    lane.grew((grown, node, call, entry.number, len(calls) - 1))
            calls.pop()
            if lane.unit is not None or lane.transformed or lane.readings:
                _returned(state, lane, call)
            if now > state.due:
                state.flush(lane)
        except Exception as fault:
            state.fault(fault)

    return post


NOT_LOOKED_AT: Final = -1
OUTERMOST: Final = 1 << MODE_SHIFT + 7
"""A bit beside those of `mode`: the call is a root call, whose operations may be counted."""


def _returned(state: State, lane: Lane, call: int) -> None:
    """What is to be done when a call has returned: it has just been taken off the open ones."""
    depth = len(lane.calls)
    lane.transformed *= lane.transformed <= depth
    if lane.unit is not None and lane.unit.depth == depth:
        lane.unit.counting.end(lane, call)
    if lane.readings and state.device_memory is not None:
        state.device_memory.end(lane, depth, call)


def _begin(state: State, lane: Lane, module: Any, caller: FrameType | None) -> int:
    """What is checked of a call that does not come straight from the forward of the innermost open call.

    Returns the bits of schema's `mode` in their place; NOT_LOOKED_AT for a call that must not be recorded: a trace of
    torch's own is being made, or it is of a model that is not asked for.
    """
    if is_making_graph():
        return NOT_LOOKED_AT
    if state.unwatched:
        state.watch_again()
    if lane.calls:
        unwind(lane, caller)
    if not lane.transformed and current_level() is not None:
        lane.transformed = len(lane.calls) + 1
    if lane.calls and lane.calls[-1][2].kind == MODULE:
        return 0
    root = not lane.calls or is_root(lane)
    if root:
        state.registry.root_calls += 1
    if root and state.admits is not None and not state.admits(module):
        return NOT_LOOKED_AT
    if root and state.root_begins is not None:
        state.root_begins(module)
    if root and state.device_memory is not None:
        state.device_memory.begin(lane)
    return _mode(module) | OUTERMOST if root and state.counts else _mode(module)


def unwind(lane: Lane, frame: FrameType | None) -> None:
    """Close the calls that are no longer on the Python stack from `frame` up: a `BaseException` left them, or an
    exception that left a phase. A span is closed by nothing but its own end or that of a call around it.
    """
    depth = -1
    while frame is not None:
        if id(frame.f_code) in RUNNERS:
            depth = lane.find(id(frame))
            if depth >= 0 and lane.calls[depth][2].code is frame.f_code:
                break
            depth = -1
        frame = frame.f_back
    for at in range(len(lane.calls) - 1, depth, -1):
        entry = lane.calls[at][2]
        if entry.code is None or (lane.lent and entry.kind in (BACKWARD, PHASE)):
            depth = at
            break
    if depth + 1 < len(lane.calls):
        lane.leave(depth + 1)
        own_hooks.drop_dead(lane)


def is_root(lane: Lane) -> bool:
    """Whether no module call is open on a thread."""
    return not any(call[2].kind == MODULE for call in lane.calls)


def _mode(module: Any) -> int:
    """The bits of schema's `mode` for a call that is not made by another module's forward, shifted to their place."""
    mode = 0 if torch.is_grad_enabled() else NO_GRAD
    if not raw(module).get("training", True):
        mode |= EVALUATING
    if graph_task() != -1:
        mode |= IN_BACKWARD
    return mode << MODE_SHIFT


def _enter(state: State, lane: Lane, module: Any, frame: FrameType) -> Entry:
    """The entry of a module not seen before; the time this takes belongs to no module."""
    started = state.clock()
    place = _place(frame)
    if is_root(lane):
        entry = state.registry.root_entry(module, place, lambda: state.variables.of(module, frame, place))
    else:
        parent, root = _open_modules(lane, frame.f_back)
        entry = state.registry.inner_entry(module, parent, root, place)
    spent_ns = state.clock() - started
    state.registry.spent_ns += spent_ns
    lane.cost(len(lane.calls) - 1, spent_ns)
    return entry


def _place(frame: FrameType | None) -> Place:
    """Where a module is called that a frame of torch's runs."""
    while frame is not None and frame.f_code.co_filename == CALL_CODE.co_filename:
        frame = frame.f_back
    return (
        NOWHERE if frame is None else (frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti)
    )


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
    modules = [call[0] for call in lane.calls if call[2].kind == MODULE]
    inner, outer = modules[-1], modules[0]
    while frame is not None and root is None:
        if frame.f_code is CALL_CODE:
            if id(frame) == inner:
                parent = frame.f_locals["self"]
            if id(frame) == outer:
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
    if error is not None and state.stands_in():
        unlink(error)
    kwargs = frame.f_locals.get("kwargs")
    _, call, entry, given, start, _ = lane.calls[-1]
    module = entry.number
    depth = len(lane.calls) - 1
    code, result = RETURNED, own_hooks.UNKNOWN_OUTPUT
    if error is not None and not is_early_stop(error):
        code, result = RAISED, error_number(state, lane, error, now)
    named = _keywords(state, lane, kwargs) if kwargs else 0
    lane.extend((call, module, given, code << CODE_SHIFT | depth, start, named, result, now))
    lane.calls.pop()
    own_hooks.drop_dead(lane)
    if lane.readings and state.device_memory is not None:
        state.device_memory.end(lane, depth, call, failed=True)
    lane.left_call(depth)
    if error is not None and code == RAISED and is_root(lane) and is_out_of_memory(error):
        state.flush_now(lane)
    elif depth == 0 and now > state.due:
        state.flush(lane)


def error_number(state: State, lane: Lane, error: BaseException, now: int) -> int:
    """The number of an exception that leaves a call at `now`, whose record must be the next one."""
    last = lane.error if lane.records and lane.error and lane.records[-1] == lane.error[2] else None
    # The same exception, one call further out: nothing has been recorded since it left the inner one.
    number = last[1] if last is not None and last[0] == id(error) else state.errors.number(error)
    lane.error = (id(error), number, now)
    return number


def _argument(state: State, lane: Lane, entry: Entry, args: tuple[Any, ...]) -> int:
    """The signature of the only argument, which is not like the last one was."""
    value = args[0]
    if len(lane.calls) > DEEP_CALLS and not state.deep:
        _warn_of_depth(state, len(lane.calls))
    if is_tensor(value) and not lane.transformed:
        number = state.signatures.of_tensor(value)
        entry.given = remember(entry.given, value, number)
        return number
    return _arguments(state, lane, args)


def _result(state: State, lane: Lane, entry: Entry, value: Any) -> tuple[int, bool]:
    """The signature of an output, which is not like the last one was, and whether it can require grad."""
    if is_tensor(value) and not lane.transformed:
        number = state.signatures.of_tensor(value)
        entry.returned = remember(entry.returned, value, number)
        return number, has_grad(value)
    started = state.clock()
    number = state.signatures.number(value_key(value, vmapped=lane.transformed > 0))
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number, True


def _arguments(state: State, lane: Lane, args: tuple[Any, ...]) -> int:
    started = state.clock()
    vmapped = lane.transformed > 0
    alone = len(args) == 1
    key = (
        value_key(args[0], vmapped=vmapped, valued=True)
        if alone
        else arguments_key(args, vmapped=vmapped, valued=True)
    )
    number = state.signatures.number(key)
    lane.cost(len(lane.calls) - 1, state.clock() - started)
    return number


def _keywords(state: State, lane: Lane, kwargs: dict[str, Any]) -> int:
    started = state.clock()
    key = keywords_key(kwargs, vmapped=lane.transformed > 0, valued=True)
    number = state.signatures.number(key)
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number
