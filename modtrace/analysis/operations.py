"""What each group of modules does in one call: its operations, in order, and their FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.paths import folded
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE


@dataclass(frozen=True)
class Does:
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


def operations(stored: Stored) -> list[Does]:
    """What the modules of a trace do, in order of their first calls."""
    table, found, computed = timeline(stored).calls, stored.table("work"), work(stored)
    is_call = column(table, "kind") == MODULE
    groups = folded(stored)
    group, module = groups.group[is_call], nullable_codes(table, "module")[is_call]
    at = np.flatnonzero(is_call)
    lists = {name: found.column(name).to_pylist() for name in ("operations", "uncounted")}
    rows = []
    codes, first = np.unique(group, return_index=True)
    for code in codes[np.argsort(first, kind="stable")].tolist():
        mine = at[group == code]
        known = mine[computed.own[mine] >= 0]
        listed = mine[computed.row[mine] >= 0]
        one = int(known[0]) if len(known) else int(listed[0]) if len(listed) else None
        row = int(computed.row[one]) if one is not None else -1
        flops, least = (
            int(values[mine[0] if one is None else one]) for values in (computed.flops, computed.least)
        )
        rows.append(
            Does(
                groups.title(code),
                groups.type[code],
                len(np.unique(module[group == code])),
                len(mine),
                flops if flops >= 0 else None,
                least if least >= 0 else None,
                None if one is None else runs(lists["operations"][row] or []) if row >= 0 else [],
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
