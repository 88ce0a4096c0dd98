"""The values of metrics: of each call, and of groups of calls such as the rows of a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.call_values import VALUE_COLUMNS, call_values, extremes, has_values
from modtrace.analysis.columns import nullable_codes
from modtrace.analysis.device_memory import of_rows
from modtrace.analysis.device_times import device_times
from modtrace.analysis.flops import work
from modtrace.analysis.memory import of_calls
from modtrace.analysis.metrics import METRICS, SUMS
from modtrace.analysis.modules import over_steps, sums
from modtrace.analysis.ranks.times_over_ranks import LEAST, MEDIAN, MOST, times_over_ranks
from modtrace.analysis.saved_bytes import of_calls as saved_of_calls
from modtrace.analysis.statistics import rows_that_count
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import TABLES

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Values = tuple[Numbers, Bools]
"""Values and where they are known: doubles of what is in tensors, else integers."""

OVER_RANKS: Final[Mapping[str, str]] = {"ranks_min": LEAST, "ranks_median": MEDIAN, "ranks_max": MOST}
_PERCENTILES: Final[Mapping[str, int]] = {"p50": 1, "p95": 2, "max": 3}
"""Rows of `over_steps`."""


def _peak_bytes(stored: Stored) -> Ints:
    """Most bytes held in each row of the timeline, from allocations where they were watched, else from counters."""
    watched = of_calls(stored)
    return np.where(watched.known, watched.peak_bytes, of_rows(stored).peak_bytes)


_DERIVED: Final[Mapping[str, Callable[[Stored], Ints]]] = {
    "device_ns": lambda stored: device_times(stored).device_ns,
    "flops": lambda stored: work(stored).flops,
    "flops_at_least": lambda stored: work(stored).least,
    "memory_peak_bytes": _peak_bytes,
    "saved_bytes": saved_of_calls,
}
"""Columns of `t.calls` that are worked out; the others are in the trace itself."""


def of_each_call(stored: Stored, column: str) -> Ints:
    """A column of integers of `t.calls` for each row of the timeline, -1 where it is not known.

    Args:
        stored: the trace.
        column: its name; of a column that a trace does not have nothing is known.
    """
    if column in _DERIVED:
        return _DERIVED[column](stored)
    table = timeline(stored).calls
    if column not in {described.name for described in TABLES["calls"]}:
        return np.full(len(table), -1, np.int64)
    return nullable_codes(table, column)


def known_of_each_call(stored: Stored, column: str) -> Values:
    """A column of `t.calls` for each row of the timeline, and where it is known; NaN is known."""
    if column in VALUE_COLUMNS:
        return call_values(stored).of(column)
    each = of_each_call(stored, column)
    return each, each >= 0


class GroupNumbers:
    """Metrics of groups of calls, worked out when they are asked for.

    Args:
        stored: the trace.
        group: the group of each row of the timeline from `low` to `high`, -1 for none.
        count: how many groups there are.
        low, high: a stretch of rows of the timeline.
    """

    def __init__(
        self,
        stored: Stored,
        group: npt.NDArray[np.integer],
        count: int,
        low: int = 0,
        high: int | None = None,
    ) -> None:
        self._stored, self._count = stored, count
        self._rows = slice(low, high)
        self._group: Ints = group.astype(np.int64)
        self._figures: dict[str, Ints] = {}

    def values(self, key: str) -> Values:
        """Values of a metric and where they are known, an element a group."""
        metric, group, count = METRICS[key], self._group, self._count
        inside = group >= 0
        if metric.adds == "calls":
            return np.bincount(group[inside], minlength=count).astype(np.int64), np.ones(count, np.bool_)
        if metric.adds == "ranks":
            return times_over_ranks(self._stored, OVER_RANKS[key], group, count, self._rows)
        if metric.adds == "single" or (metric.of_values and not has_values(self._stored)):
            return np.zeros(count, np.int64), np.zeros(count, np.bool_)
        if metric.adds in _PERCENTILES:
            return _known(self._percentiles(metric.column)[_PERCENTILES[metric.adds]])
        every, known_of = known_of_each_call(self._stored, metric.column)
        each, known = every[self._rows], inside & known_of[self._rows]
        complete = np.bincount(group[known], minlength=count) > 0
        if metric.of_values:
            return extremes(group[known], each[known].astype(np.float64), count, least=metric.adds == "least")
        if metric.adds == "most":
            most = np.zeros(count, np.int64)
            np.maximum.at(most, group[known], each[known])
            return most, complete
        if metric.adds == "full sum":
            complete &= np.bincount(group[inside & ~known], minlength=count) == 0
        return sums(group[known], each[known].astype(np.int64), count), complete

    def filled(self, key: str) -> Ints:
        """Values of a metric of whole numbers, -1 where they are not known."""
        values, known = self.values(key)
        return np.where(known, values, -1)

    def _percentiles(self, column: str) -> Ints:
        """As `over_steps`, over calls in steps that count; of a group that has none of these over all of its calls."""
        if column not in self._figures:
            group, count = self._group, self._count
            each = of_each_call(self._stored, column)[self._rows]
            known = (group >= 0) & (each >= 0)
            counts = known & rows_that_count(self._stored)[self._rows]
            lacking = np.append(np.bincount(group[counts], minlength=count) == 0, False)
            counts |= known & lacking[group]
            self._figures[column] = over_steps(group[counts], each[counts], count)
        return self._figures[column]


class WindowNumbers:
    """Metrics of groups of calls: sums over the rows of a window, percentiles and extremes over all rows.

    Args:
        stored, group, count, low, high: as of `GroupNumbers`.
        window: mask of the rows of the window, shape (high - low,).
    """

    def __init__(
        self,
        stored: Stored,
        group: npt.NDArray[np.integer],
        count: int,
        window: Bools,
        low: int = 0,
        high: int | None = None,
    ) -> None:
        self._everywhere = GroupNumbers(stored, group, count, low, high)
        self._inside = self._everywhere
        if not window.all():
            self._inside = GroupNumbers(stored, np.where(window, group, -1), count, low, high)

    def values(self, key: str) -> Values:
        """Values of a metric and where they are known, an element a group."""
        return (self._inside if METRICS[key].adds in SUMS else self._everywhere).values(key)


def _known(values: Ints) -> Values:
    return np.maximum(values, 0), values >= 0


def of_single_calls(stored: Stored, key: str, low: int, high: int) -> Values:
    """Values of a metric for single calls, those of a stretch of rows of the timeline, and where they are known."""
    metric = METRICS[key]
    if metric.adds == "calls":
        return np.ones(high - low, np.int64), np.ones(high - low, np.bool_)
    if metric.of_values:
        return call_values(stored).of(metric.column, slice(low, high))
    if metric.adds == "ranks":
        return np.zeros(high - low, np.int64), np.zeros(high - low, np.bool_)
    values = of_each_call(stored, metric.column)[low:high]
    if metric.adds == "single":  # of any sign
        return values, np.ones(high - low, np.bool_)
    return _known(values)
