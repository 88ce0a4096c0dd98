"""Lines about the calls of some modules, printed while the program runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from modtrace.capture.engine.recorder import Recorder, RecorderOption
from modtrace.capture.mechanisms.break_conditions import expressions_of
from modtrace.capture.recorders import register
from modtrace.errors import UsageError

KEYS: Final = ("word", "name", "class", "regex", "step", "nth", "thread", "rank")


def names_of(text: str) -> object:
    """The expressions of `--watch`.

    Raises:
        UsageError: one cannot be read, or asks for something else than names, step, nth, thread and rank.
    """
    expressions = expressions_of(text)
    for expression in expressions:
        for term in expression.terms():
            if term.key not in KEYS:
                raise UsageError(
                    f"{term.key} is for --break; --watch takes names, such as 'encoder.layers.*'"
                )
    return expressions


@register
class WatchLines(Recorder):
    """Prints; writes no table."""

    name = "watch_lines"
    order = 61
    option = RecorderOption(
        argument="watch",
        flag="--watch",
        value="NAME",
        default=None,
        help="print a line a call of this module on stderr: shapes, time, range, memory; can be repeated",
        doc="names of modules, one or several; each call of theirs is a line on stderr while it runs: shapes, time, "
        "range of the output, memory.",
        check=names_of,
        repeated=True,
    )
    lost = "no more lines of --watch are printed"

    def start(self) -> None:
        from modtrace.capture.mechanisms.call_lines import CallLines

        self._lines = CallLines(self.context, str(self.value))

    def events(self) -> Mapping[str, Callable[..., Any]]:
        return {"call_began": self._lines.call_began, "call_ended": self._lines.call_ended}

    @property
    def cost_ns(self) -> int:
        return self._lines.spent_ns
