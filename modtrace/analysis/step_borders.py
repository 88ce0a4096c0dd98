"""Where steps begin and end among the user's spans: a span around an iteration begins and ends with it.

A step ends with an optimizer's step or a mark. Spans that began in the step and have nothing of another step inside end
with it, and a step begins with the spans around its first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.call_arrays import Calls
from modtrace.trace.schema import FUNCTION, SPAN

Ints = npt.NDArray[np.int64]

_NEVER: Final = 1 << 62


@dataclass(frozen=True)
class Borders:
    """The spans of one thread. `busy` are its units, in order, that are not part of getting ready for the next step."""

    calls: Calls
    busy: Ints

    def _around(self, call: int) -> list[int]:
        """The spans and functions around a call with nothing else in between, the innermost first."""
        spans = []
        call_around = int(self.calls.parent[call])
        while call_around >= 0 and self.calls.kind[call_around] in (SPAN, FUNCTION):
            spans.append(call_around)
            call_around = int(self.calls.parent[call_around])
        return spans

    def _ends_with(self, span: int, call: int) -> bool:
        """True if nothing busy comes behind a call in a span around it."""
        low, high = np.searchsorted(self.busy, [self.calls.last[call], self.calls.last[span]], side="right")
        return bool(self.calls.known[span] and low == high)

    def ends(self, ends_ns: Ints, closing: Ints, begin: int) -> Ints:
        """The ends of steps, moved to those of the spans that end with them.

        Args:
            ends_ns: when each step ends, in order.
            closing: the call that ends it.
            begin: when the first step begins.
        """
        ends_ns = ends_ns.copy()
        for number in np.flatnonzero(self.calls.parent[closing] >= 0).tolist():
            since = int(ends_ns[number - 1]) if number else begin
            for span in self._around(int(closing[number])):
                if self.calls.start[span] < since or not self._ends_with(span, int(closing[number])):
                    break
                ends_ns[number] = max(ends_ns[number], self.calls.end[span])
        return np.maximum.accumulate(ends_ns)

    def first_begin(self, unit: int, end: int, closing: int | None) -> int:
        """When a step begins that has none before it: with the outermost span around its first unit that ends in it.

        A span that ends with the step counts where it is not the only one of its name: one around all of a program says
        nothing of its steps.
        """
        begin = int(self.calls.start[unit])
        for span in self._around(unit):
            same = (self.calls.kind == SPAN) & (self.calls.maker == self.calls.maker[span])
            if closing is None:
                within = self.calls.known[span] and self.calls.end[span] <= end
            else:
                within = self.calls.last[span] < closing or (
                    self._ends_with(span, closing) and np.count_nonzero(same) > 1
                )
            if within:
                begin = int(self.calls.start[span])
        return begin

    def begin_within(self, unit: int, since: int, end: int) -> tuple[int, bool]:
        """When the outermost span around a unit begins that begins and ends between two moments, and whether one
        around that begins there too but ends later.
        """
        begin = int(self.calls.start[unit])
        for span in self._around(unit):
            if self.calls.start[span] < since:
                break
            if not self.calls.known[span] or self.calls.end[span] > end:
                return begin, True
            begin = int(self.calls.start[span])
        return begin, False

    def begin_after(self, unit: int, since: int) -> int:
        """When the outermost span around a unit begins that begins after some moment."""
        return self.begin_within(unit, since, _NEVER)[0]

    def end_before(self, unit: int, following: int, since: int) -> int:
        """When a call ends with the spans around it that began after some moment and end before another call."""
        end = int(self.calls.end[unit])
        for span in self._around(unit):
            if (
                not self.calls.known[span]
                or self.calls.last[span] >= following
                or self.calls.start[span] < since
            ):
                break
            end = int(self.calls.end[span])
        return end
