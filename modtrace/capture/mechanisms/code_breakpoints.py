"""`modtrace.breakpoint()`: stops in the code that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture.debugger.debugger import Debugger
from modtrace.capture.debugger.module_prompt import StopPoint
from modtrace.capture.engine.classes import class_name
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.thread_buffer import ThreadBuffer
from modtrace.capture.mechanisms.break_conditions import CallFacts, ModuleNames, expressions_of
from modtrace.capture.mechanisms.breaking import BreakCall, phase_of
from modtrace.capture.mechanisms.call_tensors import are_finite, shapes_of_arguments
from modtrace.capture.torch_private.names import CALL_CODE
from modtrace.errors import UsageError
from modtrace.filter_language import Expression, holds
from modtrace.trace.schema import MODULE

_AT_THE_END: Final = ("duration", "memory", "raised", "nth")


class CodeBreakpoints:
    """The breakpoints in the code of a program, of one trace.

    Args:
        context: of the trace.
    """

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._debugger: Debugger | None = None
        self._read: dict[tuple[str, ...], list[Expression]] = {}

    def stop(self, frame: FrameType, texts: Sequence[str], contexts: Sequence[TraceContext]) -> None:
        """Stop in a frame, if all conditions hold of the innermost module call around it.

        Raises:
            UsageError: a condition cannot be read, or is not known inside of a call.
        """
        context, buffer = self._context, self._context.buffers.current
        expressions = self._expressions(tuple(texts))
        names_rank = any(term.key == "rank" for e in expressions for term in e.terms())
        if (
            buffer.paused
            or torch.utils.data.get_worker_info() is not None
            or (context.rank and not names_rank)
        ):
            return
        call = self._innermost(frame, buffer)
        facts = self._facts(call, buffer)
        if not all(holds(expression.condition, facts.ask) for expression in expressions):
            return
        if self._debugger is None:
            self._debugger = Debugger(contexts)
        where = f"in {call.path} ({call.type})" if call is not None else "outside of modules"
        text = f"modtrace: stopped {where}, step {context.step}"
        names: dict[str, Any] = {}
        if call is not None:
            names = {"module": call.module, "args": call.args, "kwargs": call.kwargs, "call": call}
        self._debugger.now(frame, StopPoint(text, names))

    def _expressions(self, texts: tuple[str, ...]) -> list[Expression]:
        if texts not in self._read:
            expressions = expressions_of("\n".join(texts)) if texts else []
            for expression in expressions:
                for term in expression.terms():
                    if term.key in _AT_THE_END or term.text == "changed":
                        raise UsageError(f"{term.key} is for --break: it is not known inside of a call")
            self._read[texts] = expressions
        return self._read[texts]

    def _innermost(self, frame: FrameType | None, buffer: ThreadBuffer) -> BreakCall | None:
        """The innermost module call around a frame."""
        entries = [call[2] for call in buffer.calls if call[2].kind == MODULE]
        while entries and frame is not None:
            if frame.f_code is CALL_CODE:
                variables = frame.f_locals
                module, args = variables.get("self"), variables.get("args", ())
                names = self._names(entries[-1].number, module)
                kwargs = variables.get("kwargs") or {}
                return BreakCall(names.shown, names.cls, self._context.step, 0, module, args, kwargs, [])
            frame = frame.f_back
        return None

    def _names(self, number: int, module: Any) -> ModuleNames:
        names, variable = self._context.registry.names_of(number)
        return ModuleNames(tuple(names), variable, class_name(type(module)))

    def _facts(self, call: BreakCall | None, buffer: ThreadBuffer) -> CallFacts:
        context = self._context
        facts = CallFacts(
            ModuleNames((), None, ""),
            context.rank,
            began=True,
            step=context.step,
            thread=buffer.number,
            phase=lambda: phase_of(context, buffer),
            finite_inputs=lambda: True,
        )
        if call is not None:
            number = context.registry.number_of(call.module)
            facts.module = self._names(-1 if number is None else number, call.module)
            facts.inputs = lambda: shapes_of_arguments(call.args, call.kwargs)
            facts.finite_inputs = lambda: are_finite(call.args, tuple(call.kwargs.values()))
        return facts
