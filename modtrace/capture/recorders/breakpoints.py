"""Breakpoints on module calls, by expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modtrace.capture.engine.recorder import Recorder, RecorderOption
from modtrace.capture.mechanisms.break_conditions import expressions_of
from modtrace.capture.recorders import register


@register
class Breakpoints(Recorder):
    """Writes no table of its own: a step in which it has stopped stands in `watched`, and counts in no statistic."""

    name = "breakpoints"
    tables = ("watched",)
    order = 60
    may_pause = True
    option = RecorderOption(
        argument="break_on",
        flag="--break",
        value="EXPR",
        default=None,
        help="open the debugger at module calls for which this holds: 'encoder.layers.3 and step=10', nan, "
        "'shape changed', 'duration>50ms'; can be repeated",
        doc="expressions, one or several; the debugger opens at module calls for which one holds, such as "
        '`"encoder.layers.3 and step=10"` (docs/debugging.md).',
        check=expressions_of,
        repeated=True,
    )
    lost = "breakpoints do not stop"

    def start(self) -> None:
        from modtrace.capture.mechanisms.breaking import Breaking

        self._breaking = Breaking(self.context, str(self.value))

    def events(self) -> Mapping[str, Callable[..., Any]]:
        """None at all where nothing is to stop."""
        if not self._breaking.stops:
            return {}
        return {"call_began": self._breaking.call_began, "call_ended": self._breaking.call_ended}

    def stop(self) -> None:
        from modtrace.capture.debugger.debugger import say

        for line in self._breaking.take_unmatched():
            say(f"modtrace: {line}")

    @property
    def cost_ns(self) -> int:
        return self._breaking.spent_ns
