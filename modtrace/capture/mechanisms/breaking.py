"""Stops the program at module calls for which an expression holds: before their forward, or when they are over."""

from __future__ import annotations

import sys
from bdb import BdbQuit
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modtrace.capture.debugger.debugger import Debugger, ForwardWait
from modtrace.capture.debugger.module_prompt import StopPoint
from modtrace.capture.engine.classes import bases, class_name
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.signatures import arguments_key, keywords_key, text_of, value_key
from modtrace.capture.engine.thread_buffer import MODE_SHIFT, RAISED, RETURNED, ThreadBuffer
from modtrace.capture.mechanisms.break_conditions import (
    CallFacts,
    ModuleNames,
    Tensors,
    asks_for,
    expressions_of,
)
from modtrace.capture.mechanisms.call_tensors import (
    allocated_bytes,
    are_finite,
    range_of,
    shapes_of_arguments,
    shapes_of_output,
)
from modtrace.capture.torch_private.names import graph_task
from modtrace.filter_language import Expression, holds, nearest
from modtrace.trace.schema import MODULE, NO_GRAD, PHASE
from modtrace.units import duration

PREVIOUS_CALLS: Final = 10
"""So many calls of a module are remembered for the prompt."""


@dataclass
class PreviousCall:
    """One call of a module that is over; `duration_ns` is None where it raised."""

    nth: int
    step: int
    inputs: str
    outputs: str
    duration_ns: int | None

    def __repr__(self) -> str:
        took = "raised" if self.duration_ns is None else duration(self.duration_ns)
        return f"<call {self.nth}, step {self.step}: ({self.inputs}) -> {self.outputs}, {took}>"


@dataclass
class BreakCall:
    """The call at which the program has stopped, as `call` at the prompt.

    path: the name of the module. nth: how many calls of it there were, with this. previous: the last calls of it.
    output is None, and duration_ns too, where it is not over. raised: the exception that has left it, as text.
    """

    path: str
    type: str
    step: int
    nth: int
    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    previous: list[PreviousCall]
    output: Any = None
    duration_ns: int | None = None
    raised: str = ""

    @property
    def inputs(self) -> str:
        """Shapes and dtypes of its arguments."""
        return inputs_text(self.args, self.kwargs)

    @property
    def outputs(self) -> str:
        """Shapes and dtypes of its output."""
        return text_of(value_key(self.output))

    @property
    def input_range(self) -> tuple[float, float] | None:
        """The least and the greatest value of its arguments as they are now."""
        return range_of(*self.args, *self.kwargs.values())

    @property
    def output_range(self) -> tuple[float, float] | None:
        """The least and the greatest value of its output as it is now."""
        return range_of(self.output)

    def __repr__(self) -> str:
        lines = [
            f"{self.path} ({self.type}), step {self.step}, call {self.nth}",
            f"  got      ({self.inputs})",
        ]
        if self.duration_ns is not None:
            lines.append(f"  returned {self.outputs} in {duration(self.duration_ns)}")
        if self.raised:
            lines.append(f"  raised   {self.raised}")
        lines += [f"  {previous!r}" for previous in reversed(self.previous)]
        return "\n".join(lines)


@dataclass
class _Module:
    """A module that expressions may match.

    calls: how many there were. shapes: those of the last inputs and outputs, by side.
    """

    names: ModuleNames
    expressions: tuple[Expression, ...]
    calls: int = 0
    shapes: dict[str, Tensors] = field(default_factory=dict)
    previous: deque[PreviousCall] = field(default_factory=lambda: deque(maxlen=PREVIOUS_CALLS))


@dataclass
class _Call:
    """A call of such a module that is open."""

    module: _Module
    facts: CallFacts
    call: BreakCall
    undecided: list[Expression]
    memory_bytes: int | None
    wait: ForwardWait | None = None
    waits_for: Expression | None = None
    ended: bool = False


class Breaking:
    """Checks calls of one trace against expressions.

    Args:
        context: of the trace.
        text: the expressions, a line each.
    """

    def __init__(self, context: TraceContext, text: str) -> None:
        self._context = context
        self._expressions = expressions_of(text)
        self._debugger = Debugger([context])
        self._modules: dict[int, _Module | None] = {}
        self._open: dict[tuple[int, int], _Call] = {}
        self._memory = asks_for(self._expressions, "memory")
        self._matched: set[str] = set()
        self._names: set[str] = set()
        self.spent_ns = 0

    @property
    def stops(self) -> bool:
        """False where `PYTHONBREAKPOINT=0` says so, or there is nobody to ask."""
        return self._debugger.stops

    # events ---------------------------------------------------------------------------------------------------------

    def call_began(
        self, buffer: ThreadBuffer, call: int, args_sig: int, number: int, module: Any, args: Any, frame: Any
    ) -> None:
        """A call is about to begin."""
        try:
            known = self._modules[number]
        except KeyError:
            known = self._modules[number] = self._module(number, module)
        if known is None or buffer.paused or not self._debugger.stops:
            return
        started = self._context.clock()
        kwargs = frame.f_locals.get("kwargs") or {}
        known.calls += 1
        facts = self._facts(known, buffer, args_sig, args, kwargs)
        names = known.names
        about = BreakCall(
            names.shown, names.cls, facts.step, known.calls, module, args, kwargs, list(known.previous)
        )
        answers = [(expression, holds(expression.condition, facts.ask)) for expression in known.expressions]
        undecided = [expression for expression, answer in answers if answer is None]
        pending = _Call(known, facts, about, undecided, allocated_bytes() if self._memory else None)
        self._open[buffer.number, call] = pending
        buffer.await_close(len(buffer.calls), lambda _, __, code: self._closed((buffer.number, call), code))
        chosen = next((expression for expression, answer in answers if answer), None)
        self._spend(buffer, len(buffer.calls) - 1, started)
        if chosen is not None:
            pending.waits_for = chosen
            pending.wait = self._debugger.before_forward(module, self._stop("before", pending, chosen))

    def call_ended(
        self,
        buffer: ThreadBuffer,
        call: int,
        number: int,
        kwargs_sig: int,
        output_sig: int,
        module: Any,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> None:
        """A call has returned."""
        if self._modules.get(number) is None:
            return
        pending = self._open.get((buffer.number, call))
        if pending is None:
            return
        now = self._context.clock()
        facts, about = pending.facts, pending.call
        about.output, about.duration_ns = output, now - buffer.calls[-1][4]
        facts.ended, facts.duration_ns = True, about.duration_ns
        before, after = pending.memory_bytes, allocated_bytes() if self._memory else None
        facts.memory_bytes = None if before is None or after is None else after - before
        facts.outputs = lambda: shapes_of_output(output)
        if asks_for(pending.module.expressions, "shape"):
            changed = self._changed(pending.module, "outputs", shapes_of_output(output))
            facts.outputs_changed = lambda: changed
        facts.finite_outputs = lambda: are_finite(output)
        chosen = self._decided(pending)
        self._spend(buffer, len(buffer.calls) - 2, now)
        if chosen is not None:
            self._debugger.after_call(self._stop("after", pending, chosen))

    def _closed(self, key: tuple[int, int], code: int) -> None:
        """A call is over, however it ended."""
        pending = self._open.pop(key, None)
        if pending is None:
            return
        facts, about = pending.facts, pending.call
        if pending.wait is not None:
            pending.wait.call_off()
        if code == RAISED and not facts.ended:
            error = sys.exc_info()[1]
            facts.ended = True
            if isinstance(error, BdbQuit):  # a person has ended the program
                return
            facts.error = tuple(class_name(base) for base in bases(type(error)))
            about.raised = class_name(type(error))
            chosen = self._decided(pending)
            if chosen is not None:
                self._debugger.after_call(self._stop("after", pending, chosen))
        took = about.duration_ns if code == RETURNED else None
        texts = about.inputs, about.outputs if code == RETURNED else "?"
        pending.module.previous.append(PreviousCall(about.nth, about.step, *texts, took))

    def _decided(self, pending: _Call) -> Expression | None:
        """The expression to stop for, now that the call is over."""
        if pending.waits_for is not None and (pending.wait is None or not pending.wait.is_over):
            return pending.waits_for  # its forward has no frame of Python
        holding = (e for e in pending.undecided if holds(e.condition, pending.facts.ask))
        return next(holding, None)

    def _spend(self, buffer: ThreadBuffer, depth: int, started_ns: int) -> None:
        spent_ns = self._context.clock() - started_ns
        self.spent_ns += spent_ns
        buffer.cost(depth, spent_ns)

    # facts ----------------------------------------------------------------------------------------------------------

    def _module(self, number: int, module: Any) -> _Module | None:
        """A module that was not called before, with the expressions that may hold for its calls; None for none."""
        cls = class_name(type(module))
        names, variable = self._context.registry.names_of(number)
        known = ModuleNames(tuple(names), variable, cls)
        self._names.update((*names, cls, *filter(None, (variable,))))
        facts = CallFacts(known, self._context.rank)
        possible = tuple(e for e in self._expressions if holds(e.condition, facts.ask) is not False)
        return _Module(known, possible) if possible else None

    def _facts(
        self, known: _Module, buffer: ThreadBuffer, args_sig: int, args: Any, kwargs: Mapping[str, Any]
    ) -> CallFacts:
        shapes: list[Tensors] = []

        def inputs() -> Tensors:
            if not shapes:
                shapes.append(shapes_of_arguments(args, kwargs))
            return shapes[0]

        facts = CallFacts(
            known.names,
            self._context.rank,
            began=True,
            step=self._context.step,
            nth=known.calls,
            thread=buffer.number,
            phase=lambda: phase_of(self._context, buffer, args_sig),
            inputs=inputs,
            finite_inputs=lambda: are_finite(args, tuple(kwargs.values())),
        )
        if asks_for(known.expressions, "shape"):
            changed = self._changed(known, "inputs", inputs())
            facts.inputs_changed = lambda: changed
        return facts

    @staticmethod
    def _changed(known: _Module, side: str, tensors: Tensors) -> bool:
        """True if shapes are not those of the call before; they are remembered for the next."""
        before, known.shapes[side] = known.shapes.get(side), tensors
        return before is not None and [shape for shape, _ in before] != [shape for shape, _ in tensors]

    # stops ----------------------------------------------------------------------------------------------------------

    def _stop(self, where: str, pending: _Call, expression: Expression) -> StopPoint:
        about = pending.call
        self._matched.add(expression.text)
        text = (
            f"modtrace: stopped {where} {about.path} ({about.type}), step {about.step}, call {about.nth}: "
            f"--break '{expression.text}'"
        )
        names = {"module": about.module, "args": about.args, "kwargs": about.kwargs, "call": about}
        return StopPoint(text, {**names, "output": about.output})

    def take_unmatched(self) -> list[str]:
        """Lines about names in expressions that no module has, once."""
        lines: list[str] = []
        words = sorted(self._names)
        self._names.clear()
        for expression in self._expressions:
            terms = [term for term in expression.terms() if term.key in ("word", "name", "class")]
            if expression.text in self._matched or not terms or not words:
                continue
            for term in terms:
                if not any(ModuleNames((word,), None, word).match(term) for word in words):
                    near = nearest(term.text, [word for word in words if word])
                    meant = f": did you mean {near}?" if near else ""
                    lines.append(f"--break '{expression.text}': no module called {term.text} ran{meant}")
        return lines


def inputs_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Shapes and dtypes of arguments."""
    parts = [text_of(arguments_key(args))] if args else []
    parts += [text_of(keywords_key(kwargs))] if kwargs else []
    return ", ".join(parts)


def phase_of(context: TraceContext, buffer: ThreadBuffer, args_sig: int = 0) -> str:
    """The phase of the calls on a thread, and of one that is about to begin with these arguments."""
    if graph_task() != -1:
        return "recompute"
    phases = [call[2].number for call in buffer.calls if call[2].kind == PHASE]
    if phases and (name := context.labels.name_of(phases[0])) in ("data", "optimizer"):
        return name
    roots = [call[3] for call in buffer.calls if call[2].kind == MODULE]
    mode = (roots[0] if roots else args_sig) >> MODE_SHIFT
    return "eval" if mode & NO_GRAD else "forward"
