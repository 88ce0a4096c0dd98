"""The table of modules of `modtrace info --sort`: the flat profile with any number, sorted and filtered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, order_keys
from modtrace.analysis.filters import MEMBERS, FilterRows, mask, parse
from modtrace.analysis.flat_profile import FlatProfile, ProfileRow, flat_profile
from modtrace.analysis.memory_from_shapes import of_keys, output_bytes
from modtrace.analysis.metric_values import GroupNumbers, Values, WindowNumbers
from modtrace.analysis.metrics import METRICS
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE
from modtrace.units import count, duration, percent, plural, size
from modtrace.views.filtered import checked_key, no_hit
from modtrace.views.profile import outside_texts, window_text
from modtrace.views.tree import NOT_RUN

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OUTPUT: Final = "output"
_OF_SINGLE_CALLS: Final = ("p50", "p95", "max")


@dataclass(frozen=True)
class ModuleTable:
    """Rows of a table of modules with their numbers, which are sums over the window of the profile.

    rows: those that ran in the window, the most self time first, then modules that ran outside of it alone.
    ran: which rows ran in the window.
    values: key of a metric, or OUTPUT -> values and where they are known, an element a row.
    """

    profile: FlatProfile
    rows: list[ProfileRow]
    ran: Bools
    values: Callable[[str], Values]


def module_table(stored: Stored, *, instances: bool = False, whole_run: bool = False) -> ModuleTable:
    """The table of the first process.

    Args:
        stored: the trace.
        instances: a row for each module, in place of one for those that are repeats of one another.
        whole_run: numbers of the whole run, in place of the steps that count.
    """
    profile = flat_profile(stored, whole_run=whole_run, repeats=not instances)
    groups = folded(stored, repeats=not instances)
    low, high = 0, len(profile.window.rows)
    table = timeline(stored).calls.slice(low, high)
    group, number = groups.group[column(table, "call")], len(groups.name)
    inside = np.where(profile.window.rows, group, -1)
    is_forward = (column(table, "kind") == MODULE) & (nullable_codes(table, "phase") != RECOMPUTE)
    figures = WindowNumbers(stored, group, number, profile.window.rows, low, high)
    of_forward = GroupNumbers(stored, np.where(is_forward, inside, -1), number, low, high)
    present, shown = np.bincount(group, minlength=number) > 0, {row.group for row in profile.rows}
    others = [g for g in np.flatnonzero(present).tolist() if g not in shown and groups.of_module[g]]
    rows = [*profile.rows, *(_idle(g, groups.title(g), groups.type[g]) for g in others)]
    group_of_row = np.array([row.group for row in rows], np.int64)
    ran = np.arange(len(rows)) < len(profile.rows)

    def values(key: str) -> Values:
        if key == "self":
            return np.array([row.spent_ns for row in rows], np.int64), ran & np.array(
                [row.self_ns is not None for row in rows], np.bool_
            )
        if key == "calls":
            return np.array([row.calls for row in rows], np.int64), np.ones(len(rows), np.bool_)
        if key == OUTPUT:
            sizes, _ = of_keys(inside[inside >= 0], output_bytes(stored)[low:high][inside >= 0], number)
            return sizes[group_of_row], ran & (sizes[group_of_row] >= 0)
        of_groups, known = (of_forward if key in _OF_SINGLE_CALLS else figures).values(key)
        return of_groups[group_of_row], known[group_of_row] & ran

    return ModuleTable(profile, rows, ran, values)


def _idle(group: int, name: str, class_name: str) -> ProfileRow:
    """A module that did not run in the window."""
    return ProfileRow(
        name=name,
        type=class_name,
        instances=1,
        calls=0,
        self_ns=0,
        forward_ns=None,
        backward_ns=None,
        device_ns=None,
        output="",
        of_module=True,
        group=group,
    )


def filtered_rows(table: ModuleTable, where: str) -> Bools:
    """Mask of the rows of a table of modules that a filter lets through.

    Raises:
        UsageError: the filter cannot be read, or asks for what a module as a whole does not have.
    """
    wanted = parse(where)
    for term in wanted.terms:
        if term.key in MEMBERS:
            raise UsageError(f"{term.key} is known of calls, not of modules: use it with --tree")
    every = np.arange(len(table.rows))
    paths, types = [row.name for row in table.rows], [row.type for row in table.rows]
    return mask(wanted, FilterRows(every, paths, every, types, table.values))


def module_table_lines(
    table: ModuleTable, *, sort: str = "self", top: int | None = None, where: str = "", width: int = 80
) -> list[str]:
    """A line a row: self time, its share, forward and backward, total, calls, a further number, name and class, output.

    Args:
        table: the rows.
        sort: a metric, `name` or `output`; its number has a column.
        top: at most so many rows.
        where: a filter.
        width: columns; from 100 on FLOPs have a column where rows are sorted by what has one anyway.

    Raises:
        UsageError: the key or the filter cannot be read.
    """
    key = checked_key(sort, "modules")
    order = _order(table, key)
    if where:
        order = order[filtered_rows(table, where)[order]]
        if not len(order):
            return [no_hit(where, len(table.rows))]
    shown, hidden = (order, order[:0]) if top is None else (order[:top], order[top:])
    columns = _Columns(table, key, width)
    lines = [f"  {window_text(table.profile)}", columns.head()]
    lines += [columns.line(row) for row in shown.tolist()]
    parts = [] if where else outside_texts(table.profile, 1)
    if len(hidden):
        further_ns = sum(table.rows[row].spent_ns for row in hidden.tolist())
        parts.insert(0, f"{plural(len(hidden), 'more row')} {duration(further_ns)}")
    return [*lines, *(f"  {part}" for part in parts)]


def _order(table: ModuleTable, key: str) -> Ints:
    """Positions of rows, the largest number first, those that are not known last; names from a to z."""
    if key == "name":
        return np.array(sorted(range(len(table.rows)), key=lambda row: table.rows[row].name), np.int64)
    values, known = table.values(key)
    bound = METRICS[key].bound if key in METRICS else ""
    if bound:
        least, least_known = table.values(bound)
        values, known = np.where(known, values, least), known | least_known
    return np.argsort(order_keys(values, known, descending=True), kind="stable")


class _Columns:
    """The columns of a table of modules."""

    def __init__(self, table: ModuleTable, key: str, width: int) -> None:
        self.table = table
        self.backward = any(row.backward_ns for row in table.rows)
        self.total = table.values("total")
        if key in ("self", "total", "calls", "name"):  # these have a column anyway
            key = "flops" if width >= 100 else ""
        self.metric = METRICS.get(key)
        self.title = "outputs" if key == OUTPUT else self.metric.title if self.metric is not None else ""
        self.further = table.values(key) if key else None
        bound = self.metric.bound if self.metric is not None else ""
        self.least = table.values(bound) if bound else None

    def head(self) -> str:
        further = f" {self.title:>11}" if self.title else ""
        backward = f" {'backward':>8}" if self.backward else ""
        return f"  {'self':>8} {'%':>5} {'forward':>8}{backward} {'total':>8} {'calls':>7}{further}  module"

    def line(self, number: int) -> str:
        row, ran = self.table.rows[number], bool(self.table.ran[number])
        forward, backward = (duration(value) if value else "" for value in (row.forward_ns, row.backward_ns))
        cells = [
            f"{duration(row.self_ns) if ran else NOT_RUN:>8}",
            f"{self._share(row.self_ns) if ran else NOT_RUN:>5}",
            f"{forward:>8}",
            *([f"{backward:>8}"] if self.backward else []),
            f"{duration(_value(self.total, number)) if ran else NOT_RUN:>8}",
            f"{count(row.calls):>7}",
            *([f"{self._further(number) if ran else NOT_RUN:>11}"] if self.title else []),
        ]
        class_name = "" if row.type == row.name else plain(row.type)
        label = "  ".join(filter(None, (plain(row.label), class_name, plain(row.output))))
        return f"  {' '.join(cells)}  {label}"

    def _share(self, self_ns: int | None) -> str:
        return "?" if self_ns is None else percent(self_ns, self.table.profile.window.base_ns)

    def _further(self, number: int) -> str:
        value = _value(self.further, number)
        if self.metric is None:
            return size(value)
        return self.metric.text(value, _value(self.least, number))


def _value(values: Values | None, number: int) -> Any:
    """The value of a row, an int or a float as the metric is; None where it is not known."""
    return None if values is None or not values[1][number] else values[0][number].item()
