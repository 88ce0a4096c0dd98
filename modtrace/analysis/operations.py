"""Work of each group of modules in one call: its operations, in order, and their FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.flops import work
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE


@dataclass(frozen=True)
class GroupOperations:
    """One group of modules, in its first call of which it is known.

    flops: of the call with everything inside it; None where a part is not known.
    least: the same without that part; None where nothing was counted.
    operations: its own, runs of equal ones as `add x3`; None where they were not counted.
    uncounted: those that may multiply matrices and have no formula.
    """

    name: str
    type: str
    instances: int
    calls: int
    flops: int | None
    least: int | None
    operations: list[str] | None
    uncounted: list[str]


def operations(stored: Stored) -> list[GroupOperations]:
    """Work of the modules of a trace, in order of their first calls."""
    table, work_table, computed = timeline(stored).calls, stored.table("work"), work(stored)
    is_call = column(table, "kind") == MODULE
    groups = folded(stored)
    group, module = groups.group[is_call], nullable_codes(table, "module")[is_call]
    call_rows = np.flatnonzero(is_call)
    lists = {name: work_table.column(name).to_pylist() for name in ("operations", "uncounted")}
    rows = []
    codes, first = np.unique(group, return_index=True)
    for code in codes[np.argsort(first, kind="stable")].tolist():
        rows_of_module = call_rows[group == code]
        known = rows_of_module[computed.own[rows_of_module] >= 0]
        listed = rows_of_module[computed.row[rows_of_module] >= 0]
        shown = int(known[0]) if len(known) else int(listed[0]) if len(listed) else None
        row = int(computed.row[shown]) if shown is not None else -1
        flops, least = (
            int(values[rows_of_module[0] if shown is None else shown])
            for values in (computed.flops, computed.least)
        )
        rows.append(
            GroupOperations(
                groups.title(code),
                groups.type[code],
                len(np.unique(module[group == code])),
                len(rows_of_module),
                flops if flops >= 0 else None,
                least if least >= 0 else None,
                None if shown is None else runs(lists["operations"][row] or []) if row >= 0 else [],
                list(lists["uncounted"][row] or []) if row >= 0 else [],
            )
        )
    return rows


def runs(names: list[str]) -> list[str]:
    """Names in order, runs of equal ones as one: `add x3`."""
    shown: list[tuple[str, int]] = []
    for name in names:
        if shown and shown[-1][0] == name:
            shown[-1] = (name, shown[-1][1] + 1)
        else:
            shown.append((name, 1))
    return [name if times == 1 else f"{name} x{times}" for name, times in shown]
