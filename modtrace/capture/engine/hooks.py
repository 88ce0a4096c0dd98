"""The pair of hooks that torch runs around every module call: the hot path.

torch calls both with nothing but the module and its arguments, so what a hook must know of the moment is taken from the
thread's buffer and from the Python stack: the frame of `Module._call_impl` that runs a hook is the same before and
after `forward`, and tells, without a word stored on a module, which call a hook belongs to and whether the calls
thought open still are (a `BaseException` passes without any hook being run).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from modtrace.capture.engine import user_hooks as own_hooks
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.events import Halt
from modtrace.capture.engine.module_calls import (
    OUTERMOST,
    argument_signature,
    arguments_signature,
    begin,
    close_inner,
    enter,
    failed,
    keywords_signature,
    result_signature,
    returned,
)
from modtrace.capture.engine.tensor_guards import grad_differs
from modtrace.capture.torch_private.names import CALL_CODE, HAS_OWN_HOOKS

Hook = Callable[..., None]


def build(context: TraceContext, frame_depth: int) -> tuple[Hook, Hook]:
    """The pre-hook and the post-hook, with everything they touch bound as a local: a global attribute costs 20 ns.

    Args:
        context: shared with the tracer.
        frame_depth: how far above a hook the frame of `_call_impl` is on the way in and on success; 2 where torch runs
            hooks in a nested function, 1 where it does not.
    """
    pre, post = _pre_hook(context, frame_depth), _post_hook(context, frame_depth)
    unseen(pre, post)
    return pre, post


def _pre_hook(context: TraceContext, frame_depth: int) -> Hook:  # noqa: C901, PLR0915 - as for the post-hook
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    buffers, clock, next_node = context.buffers, context.clock, context.next_node
    grad_enabled = torch.is_grad_enabled
    entry_of, empty = context.registry.entries.get, context.signatures.empty
    parent_depth = 2 * frame_depth + 2
    call_impl, has_own_hooks, events = CALL_CODE, HAS_OWN_HOOKS, context.events

    def pre(module: Any, args: Any) -> None:  # noqa: C901, PLR0912, PLR0915
        if is_dynamo_compiling() or context.off:
            return
        try:
            buffer = buffers.current
            calls = buffer.calls
            try:
                caller: FrameType | None = get_frame(parent_depth)
            except ValueError:  # the stack is not as deep as that
                caller = None
            mode = 0
            # Called from the forward of the innermost open call: nothing in between can have changed the mode.
            if not calls or id(caller) != calls[-1][0] or caller.f_code is not call_impl:  # type: ignore[union-attr]
                mode = begin(context, buffer, module, get_frame(frame_depth).f_back)
                if mode < 0:
                    return
            entry = entry_of(id(module))
            if entry is None:
                entry = enter(context, buffer, module, get_frame(frame_depth))
            if len(args) == 1:
                only = args[0]
                alike, requires_grad, args_sig = entry.given
                if not alike(only) or (not grad_enabled() and grad_differs(only, requires_grad)):
                    args_sig = argument_signature(context, buffer, entry, args)
            elif args:
                alike, _, args_sig = entry.args
                if not alike(args):
                    args_sig = arguments_signature(context, buffer, entry, args)
            else:
                args_sig = empty
            if mode:
                if mode & OUTERMOST:
                    mode ^= OUTERMOST
                    for began in events.root_began:
                        mode |= began(buffer, module, entry, args_sig, mode, get_frame(frame_depth)) or 0
                args_sig |= mode
            frame_id = id(get_frame(frame_depth))
            if has_own_hooks and module._forward_hooks:
                own_hooks.expect(context, buffer, module, frame_id)
            call = buffer.next_call()
            for began in events.call_began:
                began(buffer, call, args_sig, entry.number, module, args, get_frame(frame_depth))
            calls.append((frame_id, call, entry, args_sig, clock(), next_node()))
        except RecursionError:
            events.missed += 1
        except Halt as halt:
            raise halt.error from None
        except Exception as fault:
            context.fault(fault)

    return pre


def _post_hook(context: TraceContext, frame_depth: int) -> Hook:  # noqa: C901, PLR0915 - a call costs 50 ns
    is_dynamo_compiling = torch.compiler.is_dynamo_compiling
    get_frame = sys._getframe
    buffers, clock, next_node = context.buffers, context.clock, context.next_node
    grad_enabled = torch.is_grad_enabled
    entry_of, events = context.registry.entries.get, context.events
    absent = object()

    def post(module: Any, args: Any, kwargs: Any, output: Any = absent) -> None:  # noqa: C901, PLR0912
        if is_dynamo_compiling():
            return
        try:
            now = clock()
            buffer = buffers.current
            calls = buffer.calls
            if not calls:
                if context.left_modes:
                    context.take_out_left()
                buffer.ends_late(id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module)))
                return
            frame_id, call, entry, args_sig, start, node = calls[-1]
            # On the way of an exception torch leaves the kwargs out and calls from _call_impl itself.
            if id(get_frame(1 if output is absent else frame_depth)) != frame_id:
                if not close_inner(
                    buffer, id(get_frame(1 if output is absent else frame_depth)), entry_of(id(module))
                ):
                    return
                frame_id, call, entry, args_sig, start, node = calls[-1]
            if output is absent:
                failed(context, buffer, get_frame(1), now)
                return
            alike, requires_grad, result = entry.returned
            if not alike(output) or (not grad_enabled() and grad_differs(output, requires_grad)):
                result, requires_grad = result_signature(context, buffer, entry, output)
            named = 0
            if kwargs:
                named, entry.has_keywords = keywords_signature(context, buffer, entry, kwargs), True
            if buffer.tails and own_hooks.begins(buffer, now, named, result, output):
                return
            for ended in events.call_ended:
                ended(buffer, call, entry.number, named, result, module, args, kwargs, output)
            buffer.extend((call, entry.number, args_sig, len(calls) - 1, start, named, result, now))
            if requires_grad:
                grown = next_node()
                if grown > node:
                    buffer.grew((grown, node, call, entry.number, len(calls) - 1))
            calls.pop()
            if buffer.transformed or (buffer.awaited and buffer.awaited[-1][0] >= len(calls)):
                returned(context, buffer, call)
            if now > context.due:
                context.flush(buffer)
        except RecursionError:
            events.missed += 1
        except Halt as halt:
            raise halt.error from None
        except Exception as fault:
            context.fault(fault)

    return post
