"""The program's own `autograd.Function`s: their forward, by a replaced `apply`, and what their backward is called.

`apply` is no function that a mode is shown. One that was taken from its class before the recording began
(`square = Square.apply`) is the original, and its forward is not seen.
"""

from __future__ import annotations

import functools
import sys
import weakref
from types import CodeType, FrameType
from typing import Any

import torch

from modtrace.capture.engine.classes import class_name, defined, namespace
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.module_calls import RUNNERS, unwind
from modtrace.capture.engine.ranges import left_by, still_open
from modtrace.capture.engine.signatures import arguments_key, keywords_key, value_key
from modtrace.capture.engine.stand_ins import leave, uncounted
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import OpenCall
from modtrace.capture.torch_private.names import function_node
from modtrace.capture.torch_private.spelled import FORWARD_CLASS
from modtrace.capture.torch_private.tracing import is_tracing
from modtrace.trace.schema import FUNCTION


class CustomFunctions:
    """Records them for one trace between `install` and `remove`."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._labels = context.labels
        self._classes: dict[tuple[int, str], tuple[weakref.ref[type], Entry]] = {}
        """By the id of a class, which may be one that a function makes anew each time, and what is executed of it."""
        self._replaced: tuple[Any, Any] | None = None

    def install(self) -> None:
        """Put the replacement in place."""
        owner: Any = torch.autograd.Function
        original_apply = defined(owner, "apply")
        if original_apply is None:
            return
        # A classmethod, of Python before torch 2.14 and of C from then on.
        bind = original_apply[1].__get__
        begin, end = self._begin, self._end

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            opened = begin(cls, args, sys._getframe())
            if opened is None:
                return bind(None, cls)(*args, **kwargs)
            try:
                result = bind(None, cls)(*args, **kwargs)
            except BaseException as error:
                left_by(self._context, self._context.buffers.current, opened, error)
                leave(error)
                raise
            end(opened, kwargs, result)
            return result

        functools.update_wrapper(apply, getattr(original_apply[1], "__func__", original_apply[1]))
        uncounted(apply)
        RUNNERS[id(apply.__code__)] = apply.__code__
        replacement = classmethod(apply)
        self._replaced = (namespace(owner).get("apply"), replacement)
        owner.apply = replacement

    def _of_class(self, cls: type, verb: str, code: CodeType) -> Entry:
        key = (id(cls), verb)
        known = self._classes.get(key)
        if known is None or known[0]() is not cls:
            method = vars(cls).get(verb)
            code_of_method = getattr(getattr(method, "__func__", method), "__code__", None)
            file, line = (
                (code_of_method.co_filename, code_of_method.co_firstlineno)
                if code_of_method is not None
                else (None, None)
            )
            number = self._labels.place(f"{class_name(cls)}.{verb}", file, line, None, "autograd.Function")
            reference = weakref.ref(cls, lambda _: self._classes.pop(key, None))
            known = self._classes[key] = (reference, Entry(number, FUNCTION, code))
        return known[1]

    def _begin(self, cls: Any, args: Any, frame: FrameType) -> OpenCall | None:
        context = self._context
        if context.off or self._replaced is None or is_tracing():
            return None
        try:
            buffer = context.buffers.current
            if buffer.calls:
                unwind(buffer, frame)
            entry = self._of_class(cls, "forward", frame.f_code)
            args_sig = context.signatures.number(arguments_key(args, vmapped=buffer.transformed > 0))
            return buffer.open(entry, id(frame), context.clock(), args=args_sig)
        except Exception as fault:
            context.fault(fault)
            return None

    def _end(self, opened: OpenCall, kwargs: dict[str, Any], result: Any) -> None:
        context = self._context
        now = context.clock()
        try:
            buffer = context.buffers.current
            if context.off or not still_open(buffer, opened):
                return
            vmapped = buffer.transformed > 0
            named = context.signatures.number(keywords_key(kwargs, vmapped=vmapped)) if kwargs else 0
            returned = context.signatures.number(value_key(result, vmapped=vmapped))
            buffer.close(now, kwargs=named, output=returned)
        except Exception as fault:
            context.fault(fault)

    def remove(self) -> None:
        """Take it away; does nothing the second time."""
        owner: Any = torch.autograd.Function
        if self._replaced is not None and vars(owner).get("apply") is self._replaced[1]:
            if self._replaced[0] is None:
                del owner.apply
            else:
                owner.apply = self._replaced[0]
        self._replaced = None

    def class_of(self, node: Any) -> type | None:
        """The `autograd.Function` that a node of the graph is the backward of; None for a node of torch's own."""
        if not isinstance(node, function_node):
            return None
        forward_class = getattr(type(node), FORWARD_CLASS, None)
        return forward_class if isinstance(forward_class, type) else None

    def backward_of(self, cls: type, code: CodeType) -> Entry:
        """The entry that the backward of an `autograd.Function` executes."""
        return self._of_class(cls, "backward", code)


unseen(CustomFunctions._begin, CustomFunctions._end)
