"""A line on stderr for each call of some modules, while the program runs."""

from __future__ import annotations

import sys
from typing import Any

from modtrace.capture.debugger.debugger import say
from modtrace.capture.engine.classes import class_name
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.signatures import arguments_key, keywords_key, text_of, value_key
from modtrace.capture.engine.thread_buffer import RAISED, ThreadBuffer
from modtrace.capture.mechanisms.break_conditions import CallFacts, ModuleNames, expressions_of
from modtrace.capture.mechanisms.call_tensors import allocated_bytes, range_of
from modtrace.filter_language import Expression, holds
from modtrace.text import plain
from modtrace.units import duration, size, value


class _Module:
    """A module whose calls are shown: its names, the expressions that may hold, and how many calls there were."""

    def __init__(self, names: ModuleNames, expressions: list[Expression]) -> None:
        self.names, self.expressions, self.calls = names, expressions, 0


class CallLines:
    """Prints calls of one trace.

    Args:
        context: of the trace.
        text: expressions about names, a line each.
    """

    def __init__(self, context: TraceContext, text: str) -> None:
        self._context = context
        self._expressions = expressions_of(text)
        self._modules: dict[int, _Module | None] = {}
        self._open: dict[tuple[int, int], tuple[_Module, str, int | None]] = {}
        self.spent_ns = 0

    def call_began(
        self, buffer: ThreadBuffer, call: int, args_sig: int, number: int, module: Any, args: Any, frame: Any
    ) -> None:
        """A call is about to begin."""
        try:
            known = self._modules[number]
        except KeyError:
            known = self._modules[number] = self._module(number, module)
        if known is None or buffer.paused:
            return
        started = self._context.clock()
        known.calls += 1
        facts = CallFacts(
            known.names, self._context.rank, True, False, self._context.step, known.calls, buffer.number
        )
        if any(holds(expression.condition, facts.ask) for expression in known.expressions):
            kwargs = frame.f_locals.get("kwargs") or {}
            parts = [text_of(arguments_key(args))] if args else []
            parts += [text_of(keywords_key(kwargs))] if kwargs else []
            key = buffer.number, call
            self._open[key] = known, ", ".join(parts), allocated_bytes()
            buffer.await_close(len(buffer.calls), lambda _, __, code: self._closed(key, code))
        self._spend(buffer, len(buffer.calls) - 1, started)

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
        opened = self._open.pop((buffer.number, call), None)
        if opened is None:
            return
        now = self._context.clock()
        known, inputs, before = opened
        parts = [
            _head(known, inputs, text_of(value_key(output))),
            duration(now - buffer.calls[-1][4]),
            _range_text(range_of(output)),
            _change_text(before, allocated_bytes()),
        ]
        say(plain("  ".join(filter(None, parts))))
        self._spend(buffer, len(buffer.calls) - 2, now)

    def _closed(self, key: tuple[int, int], code: int) -> None:
        """A call is over; one that has returned has been shown."""
        opened = self._open.pop(key, None)
        error = sys.exc_info()[1]
        if opened is not None and code == RAISED and error is not None:
            say(plain(_head(opened[0], opened[1], f"raised {class_name(type(error))}")))

    def _module(self, number: int, module: Any) -> _Module | None:
        names, variable = self._context.registry.names_of(number)
        known = ModuleNames(tuple(names), variable, class_name(type(module)))
        facts = CallFacts(known, self._context.rank)
        expressions = [e for e in self._expressions if holds(e.condition, facts.ask) is not False]
        return _Module(known, expressions) if expressions else None

    def _spend(self, buffer: ThreadBuffer, depth: int, started_ns: int) -> None:
        spent_ns = self._context.clock() - started_ns
        self.spent_ns += spent_ns
        buffer.cost(depth, spent_ns)


def _head(known: _Module, inputs: str, outputs: str) -> str:
    names = known.names
    name = f"{names.shown} {names.cls}" if names.shown != names.cls else names.cls
    return f"{name}  ({inputs}) -> {outputs}"


def _range_text(limits: tuple[float, float] | None) -> str:
    """`[-3.1, 2.8]`."""
    return "" if limits is None else f"[{value(limits[0])}, {value(limits[1])}]"


def _change_text(before: int | None, after: int | None) -> str:
    """`+1.5 MB`; nothing where no allocator tells."""
    if before is None or after is None:
        return ""
    return f"{'-' if after < before else '+'}{size(abs(after - before))}"
