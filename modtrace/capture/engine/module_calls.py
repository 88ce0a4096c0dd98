"""Steps of a module call when it begins and ends, whichever carrier tells of it.

A carrier is how the tracer gets to know that a call begins and ends: `hooks` or `call_carrier`. Both open and close
calls on the thread buffer of the thread with the functions of this file.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import Any, Final

import torch

from modtrace.capture.engine import user_hooks as own_hooks
from modtrace.capture.engine.argument_guards import is_tensor
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.exceptions import is_early_stop, is_out_of_memory
from modtrace.capture.engine.module_facts import raw
from modtrace.capture.engine.modules import NOWHERE, Place
from modtrace.capture.engine.recursion_limit import check_room
from modtrace.capture.engine.signatures import arguments_key, keywords_key, value_key
from modtrace.capture.engine.structure_guards import (
    guard_of_arguments,
    guard_of_keywords,
    guard_of_value,
    remember_structure,
)
from modtrace.capture.engine.tensor_guards import Entry, has_grad, remember
from modtrace.capture.engine.thread_buffer import (
    ABORTED,
    MODE_SHIFT,
    RAISED,
    RETURNED,
    UNKNOWN_OUTPUT,
    OpenCall,
    ThreadBuffer,
)
from modtrace.capture.engine.tracebacks import unlink
from modtrace.capture.torch_private.names import CALL_CODE, current_level, graph_task
from modtrace.capture.torch_private.tracing import is_making_graph
from modtrace.trace.schema import BACKWARD, EVALUATING, IN_BACKWARD, MODULE, NO_GRAD, PHASE

FRAMES: Final = 5
"""Levels that a traced call takes of python's recursion limit, at the least: four frames and the call of a slot."""
NEAR_LIMIT: Final = 0.6
RUNNERS: Final = {id(CALL_CODE): CALL_CODE}
"""Code of the frames that run calls and phases, by its id: python hashes the whole content of code, every time."""
DEEP_CALLS: Final = 50
"""Calls that are deeper than that have their depth looked at when their argument is a new one."""

NOT_LOOKED_AT: Final = -1
OUTERMOST: Final = 1 << MODE_SHIFT + 7
"""A bit beside those of `mode`: the call is a root call, of which recorders are told."""


def returned(_: TraceContext, buffer: ThreadBuffer, call: int) -> None:
    """Steps when a call has returned: it has just been taken off the open ones."""
    depth = len(buffer.calls)
    buffer.transformed *= buffer.transformed <= depth
    buffer.tell_closed(depth, call, RETURNED)


def begin(context: TraceContext, buffer: ThreadBuffer, module: Any, caller: FrameType | None) -> int:
    """Checks of a call that does not come straight from the forward of the innermost open call.

    Returns the bits of schema's `mode` in their place; NOT_LOOKED_AT for a call that must not be recorded: a trace of
    torch's own is being made, it is made at a prompt, or it is of a model that is not asked for.
    """
    calls = buffer.calls
    if calls:
        around = calls[-1]
        if around[2].kind == MODULE and _is_called_by(around[0], caller):
            return 0
    if is_making_graph() or buffer.paused:
        return NOT_LOOKED_AT
    if context.unwatched:
        context.watch_again()
    if buffer.watch is not None and not buffer.watch.claim(ends=False):
        return NOT_LOOKED_AT
    if buffer.calls:
        unwind(buffer, caller)
    if not buffer.transformed and current_level() is not None:
        buffer.transformed = len(buffer.calls) + 1
    if buffer.calls and buffer.calls[-1][2].kind == MODULE:
        return 0
    root = not buffer.calls or is_root(buffer)
    if root:
        context.registry.root_calls += 1
        if context.left_modes:
            context.take_out_left()
    if root and context.admits is not None and not context.admits(module):
        return NOT_LOOKED_AT
    return _mode(module) | OUTERMOST if root and context.events.root_began else _mode(module)


def _is_called_by(frame_id: int, frame: FrameType | None) -> bool:
    """True if nothing but code of the program, such as decorators of `forward`, is between the frame that runs the
    innermost open call and `frame`: then no graph is being made, and nothing was entered, that was not at its start.
    """
    harmless = _HARMLESS
    for _ in _NEAR_FRAMES:
        if id(frame) == frame_id:
            return True
        if frame is None:
            return False
        code = frame.f_code
        if id(code) not in harmless and not _is_harmless(code):
            return False
        frame = frame.f_back
    return False


def _is_harmless(code: CodeType) -> bool:
    file = code.co_filename
    harmless = file.startswith(_MODULES) or not file.startswith((_TORCH, _OURS))
    if harmless:
        if len(_HARMLESS) >= MANY_CODES:
            _HARMLESS.clear()
        _HARMLESS[id(code)] = code
    return harmless


_NEAR_FRAMES: Final = range(8)
MANY_CODES: Final = 5_000
_TORCH: Final = os.path.join(os.path.dirname(torch.__file__), "")
_MODULES: Final = (
    os.path.join(_TORCH, "nn", "modules", ""),
    os.path.join(_TORCH, "utils", "_contextlib.py"),
)
"""Files of torch's that call modules, and that of its decorators for grad mode."""
_OURS: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_HARMLESS: Final[dict[int, CodeType]] = {}
"""By its id, code that changes nothing which is looked at when a call begins. Kept alive, no other has that id."""


def root_mode(
    context: TraceContext,
    buffer: ThreadBuffer,
    module: Any,
    entry: Entry,
    args_sig: int,
    mode: int,
    frame: FrameType,
) -> int:
    """Tell recorders of a root call that is about to begin; the bits of `mode`, with those that they add.

    `frame` is that which runs the call, and has its keyword arguments as `kwargs`.
    """
    if not mode & OUTERMOST:
        return mode
    mode ^= OUTERMOST
    for began in context.events.root_began:
        mode |= began(buffer, module, entry, args_sig, mode, frame) or 0
    return mode


def unwind(buffer: ThreadBuffer, frame: FrameType | None) -> None:
    """Close the calls that are no longer on the Python stack from `frame` up: a `BaseException` left them, or an
    exception that left a phase. A span is closed by nothing but its own end or that of a call around it.
    """
    depth = -1
    while frame is not None:
        if id(frame.f_code) in RUNNERS:
            depth = buffer.find(id(frame))
            if depth >= 0 and buffer.calls[depth][2].code is frame.f_code:
                break
            depth = -1
        frame = frame.f_back
    for level in range(len(buffer.calls) - 1, depth, -1):
        entry = buffer.calls[level][2]
        if entry.code is None or (buffer.lent and entry.kind in (BACKWARD, PHASE)):
            depth = level
            break
    if depth + 1 < len(buffer.calls):
        buffer.leave(depth + 1)
        own_hooks.drop_dead(buffer)


def is_root(buffer: ThreadBuffer) -> bool:
    """True if no module call is open on a thread."""
    return not any(call[2].kind == MODULE for call in buffer.calls)


def _mode(module: Any) -> int:
    """The bits of schema's `mode` for a call that is not made by another module's forward, shifted to their place."""
    mode = 0 if torch.is_grad_enabled() else NO_GRAD
    if not raw(module).get("training", True):
        mode |= EVALUATING
    if graph_task() != -1:
        mode |= IN_BACKWARD
    return mode << MODE_SHIFT


def enter(context: TraceContext, buffer: ThreadBuffer, module: Any, frame: FrameType) -> Entry:
    """The entry of a module not seen before; the time this takes belongs to no module."""
    check_room()
    started = context.clock()
    place = _place(frame)
    if is_root(buffer):
        entry = context.registry.root_entry(module, place, lambda: context.variables.of(module, frame, place))
    else:
        parent, root = _open_modules(buffer, frame.f_back)
        entry = context.registry.inner_entry(module, parent, root, place)
    spent_ns = context.clock() - started
    context.registry.spent_ns += spent_ns
    buffer.cost(len(buffer.calls) - 1, spent_ns)
    return entry


def _place(frame: FrameType | None) -> Place:
    """Where a module is called that a frame of torch's runs."""
    while frame is not None and frame.f_code.co_filename == CALL_CODE.co_filename:
        frame = frame.f_back
    return (
        NOWHERE if frame is None else (frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti)
    )


def _warn_of_depth(context: TraceContext, depth: int) -> None:
    """torch puts one frame more around a call while any hook is there, so a program near python's limit may pass it."""
    limit = sys.getrecursionlimit()
    if depth * FRAMES > NEAR_LIMIT * limit:
        context.deep = True
        context.warn(
            f"calls are {depth} modules deep; while they are traced torch needs one stack frame more for each, "
            f"and python's recursion limit is {limit}"
        )


def _open_modules(buffer: ThreadBuffer, frame: FrameType | None) -> tuple[Any, Any]:
    """The innermost and the outermost module of the open calls, from the frames that run them."""
    parent = root = None
    modules = [call for call in buffer.calls if call[2].kind == MODULE]
    inner, outer, code = modules[-1][0], modules[0][0], modules[0][2].code
    while frame is not None and root is None:
        if frame.f_code is code:
            if id(frame) == inner:
                parent = frame.f_locals["self"]
            if id(frame) == outer:
                root = frame.f_locals["self"]
        frame = frame.f_back
    return parent, root


def close_inner(buffer: ThreadBuffer, frame_id: int, entry: Entry | None) -> bool:
    """Close calls inside the one that has now ended and that no hook has closed. False for a call not recorded."""
    depth = buffer.find(frame_id)
    if depth < 0:
        buffer.ends_late(frame_id, entry)
        return False
    buffer.abort(depth + 1)
    own_hooks.drop_dead(buffer)
    return True


def close_inside(buffer: ThreadBuffer, opened: OpenCall) -> bool:
    """Close the calls inside one that has now ended. False where that is not open any more: it was taken for left."""
    for depth in range(len(buffer.calls) - 1, -1, -1):
        if buffer.calls[depth] is opened:
            buffer.abort(depth + 1)
            own_hooks.drop_dead(buffer)
            return True
    buffer.ends_late(opened[0], opened[2])
    return False


def failed(context: TraceContext, buffer: ThreadBuffer, frame: FrameType, now: int) -> None:
    """Close the innermost call: an exception is leaving it; `frame` knows the keyword arguments."""
    leave_call(context, buffer, sys.exc_info()[1], frame.f_locals.get("kwargs"), now)


def leave_call(
    context: TraceContext,
    buffer: ThreadBuffer,
    error: BaseException | None,
    kwargs: dict[str, Any] | None,
    now: int,
) -> None:
    """Close the innermost call, which has keyword arguments or None: an exception leaves it at `now`."""
    if error is not None and context.stands_in():
        unlink(error)
    call, depth = buffer.calls[-1][1], len(buffer.calls) - 1
    code, result = RETURNED, UNKNOWN_OUTPUT
    if error is not None and not issubclass(type(error), Exception):
        code = ABORTED
    elif error is not None and not is_early_stop(error):
        code, result = RAISED, error_number(context, buffer, error, now)
    named = keywords_signature(context, buffer, buffer.calls[-1][2], kwargs) if kwargs else 0
    buffer.close(now, code=code, kwargs=named, output=result)
    own_hooks.drop_dead(buffer)
    buffer.tell_closed(depth, call, RAISED)
    buffer.left_call(depth)
    if error is not None and code == RAISED and is_root(buffer) and is_out_of_memory(error):
        context.flush_now(buffer)
    elif depth == 0 and now > context.due:
        context.flush(buffer)


def error_number(context: TraceContext, buffer: ThreadBuffer, error: BaseException, now: int) -> int:
    """The number of an exception that leaves the innermost open call at `now`, whose record must be the next one."""
    call = buffer.calls[-1][1]
    last = buffer.error if buffer.records and buffer.error and buffer.records[-1] == buffer.error[2] else None
    # The same exception, one call further out: nothing was recorded since it left the inner one, which began later.
    # In a call behind that one it is another, at the same address.
    same = last is not None and last[0] == id(error) and last[3] > call
    number = last[1] if last is not None and same else context.errors.number(error)
    buffer.error = (id(error), number, now, call)
    return number


def argument_signature(
    context: TraceContext, buffer: ThreadBuffer, entry: Entry, args: tuple[Any, ...]
) -> int:
    """The signature of the only argument, which is not like the last one was."""
    value = args[0]
    if len(buffer.calls) > DEEP_CALLS and not context.deep:
        _warn_of_depth(context, len(buffer.calls))
    if is_tensor(value) and not buffer.transformed:
        number = context.signatures.of_tensor(value)
        entry.given = remember(entry.given, value, number)
        return number
    started = context.clock()
    number = context.signatures.number(value_key(value, vmapped=buffer.transformed > 0, valued=True))
    if not buffer.transformed:
        entry.given = remember_structure(
            entry, entry.given, number, lambda: guard_of_value(value, valued=True)
        )
    buffer.cost(len(buffer.calls) - 1, context.clock() - started)
    return number


def arguments_signature(
    context: TraceContext, buffer: ThreadBuffer, entry: Entry, args: tuple[Any, ...]
) -> int:
    """The signature of several positional arguments, which are not like the last ones were."""
    started = context.clock()
    number = context.signatures.number(arguments_key(args, vmapped=buffer.transformed > 0, valued=True))
    if not buffer.transformed:
        entry.args = remember_structure(entry, entry.args, number, lambda: guard_of_arguments(args))
    buffer.cost(len(buffer.calls) - 1, context.clock() - started)
    return number


def keywords_signature(
    context: TraceContext, buffer: ThreadBuffer, entry: Entry, kwargs: dict[str, Any]
) -> int:
    """The signature of keyword arguments; the call is still open."""
    alike, _, number = entry.kwargs
    if alike(kwargs):
        return number
    started = context.clock()
    number = context.signatures.number(keywords_key(kwargs, vmapped=buffer.transformed > 0, valued=True))
    if not buffer.transformed:
        entry.kwargs = remember_structure(entry, entry.kwargs, number, lambda: guard_of_keywords(kwargs))
    buffer.cost(len(buffer.calls) - 2, context.clock() - started)
    return number


def result_signature(
    context: TraceContext, buffer: ThreadBuffer, entry: Entry, value: Any
) -> tuple[int, int]:
    """The signature of an output, which is not like the last one was, and whether it can require grad."""
    if is_tensor(value) and not buffer.transformed:
        number = context.signatures.of_tensor(value)
        entry.returned = remember(entry.returned, value, number)
        return number, has_grad(value)
    started = context.clock()
    number = context.signatures.number(value_key(value, vmapped=buffer.transformed > 0))
    if not buffer.transformed:
        entry.returned = remember_structure(
            entry, entry.returned, number, lambda: guard_of_value(value, valued=False)
        )
    buffer.cost(len(buffer.calls) - 2, context.clock() - started)
    return number, True
