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

from modtrace.capture.classes import class_name, defined, namespace
from modtrace.capture.hooks import RUNNERS, unwind
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import KIND_SHIFT, OpenCall
from modtrace.capture.ranges import left_by, still_open
from modtrace.capture.seen import Entry
from modtrace.capture.signature import arguments_key, keywords_key, value_key
from modtrace.capture.stand_ins import leave, uncounted
from modtrace.capture.state import State
from modtrace.capture.torch_private.names import function_node
from modtrace.capture.torch_private.spelled import FORWARD_CLASS
from modtrace.capture.torch_private.tracing import is_tracing
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import FUNCTION


class CustomFunctions:
    """Records them for one trace between `install` and `remove`."""

    def __init__(self, state: State, labels: Labels) -> None:
        self._state = state
        self._labels = labels
        self._classes: dict[tuple[int, str], tuple[weakref.ref[type], Entry]] = {}
        """By the id of a class, which may be one that a function makes anew each time, and what is executed of it."""
        self._replaced: tuple[Any, Any] | None = None

    def install(self) -> None:
        """Put the replacement in place."""
        owner: Any = torch.autograd.Function
        found = defined(owner, "apply")
        if found is None:
            return
        # A classmethod, of Python before torch 2.14 and of C from then on.
        bind = found[1].__get__
        begin, end = self._begin, self._end

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            mine = begin(cls, args, sys._getframe())
            if mine is None:
                return bind(None, cls)(*args, **kwargs)
            try:
                result = bind(None, cls)(*args, **kwargs)
            except BaseException as error:
                left_by(self._state, self._state.lanes.lane, mine, error)
                leave(error)
                raise
            end(mine, kwargs, result)
            return result

        functools.update_wrapper(apply, getattr(found[1], "__func__", found[1]))
        uncounted(apply)
        RUNNERS[id(apply.__code__)] = apply.__code__
        replacement = classmethod(apply)
        self._replaced = (namespace(owner).get("apply"), replacement)
        owner.apply = replacement

    def _of_class(self, kind: type, verb: str, code: CodeType) -> Entry:
        key = (id(kind), verb)
        known = self._classes.get(key)
        if known is None or known[0]() is not kind:
            made = vars(kind).get(verb)
            held = getattr(getattr(made, "__func__", made), "__code__", None)
            file, line = (held.co_filename, held.co_firstlineno) if held is not None else (None, None)
            number = self._labels.place(f"{class_name(kind)}.{verb}", file, line, None, "autograd.Function")
            reference = weakref.ref(kind, lambda _: self._classes.pop(key, None))
            known = self._classes[key] = (reference, Entry(number, FUNCTION, code))
        return known[1]

    def _begin(self, kind: Any, args: Any, frame: FrameType) -> OpenCall | None:
        state = self._state
        if state.off or self._replaced is None or is_tracing():
            return None
        try:
            lane = state.lanes.lane
            if lane.calls:
                unwind(lane, frame)
            entry = self._of_class(kind, "forward", frame.f_code)
            given = state.signatures.number(arguments_key(args, vmapped=lane.transformed > 0))
            mine = (id(frame), lane.next_call(), entry, given, state.clock(), -1)
            lane.calls.append(mine)
            return mine
        except Exception as fault:
            state.fault(fault)
            return None

    def _end(self, mine: OpenCall, kwargs: dict[str, Any], result: Any) -> None:
        state = self._state
        now = state.clock()
        try:
            lane = state.lanes.lane
            if state.off or not still_open(lane, mine):
                return
            vmapped = lane.transformed > 0
            named = state.signatures.number(keywords_key(kwargs, vmapped=vmapped)) if kwargs else 0
            returned = state.signatures.number(value_key(result, vmapped=vmapped))
            _, call, entry, given, start, _ = mine
            word = FUNCTION << KIND_SHIFT | len(lane.calls) - 1
            lane.extend((call, entry.number, given, word, start, named, returned, now))
            lane.calls.pop()
        except Exception as fault:
            state.fault(fault)

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
        kind = getattr(type(node), FORWARD_CLASS, None)
        return kind if isinstance(kind, type) else None

    def backward_of(self, kind: type, code: CodeType) -> Entry:
        """What the backward of an `autograd.Function` is an execution of."""
        return self._of_class(kind, "backward", code)


unseen(CustomFunctions._begin, CustomFunctions._end)
