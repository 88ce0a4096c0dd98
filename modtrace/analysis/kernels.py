"""Operators and kernels by module, where they were watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from modtrace.analysis.calls import names
from modtrace.analysis.columns import categorical, column, distinct_texts, nullable_codes, taken
from modtrace.analysis.memory import placed
from modtrace.analysis.paths import folded
from modtrace.analysis.timeline import timeline
from modtrace.analysis.watching import KERNELS, window
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, KERNEL, OPERATOR, OPERATOR_KINDS

Ints = npt.NDArray[np.int64]


def operators(stored: Stored) -> pa.Table:
    """The rows of `operators` of the steps that were to be watched."""
    table = stored.table("operators")
    process, at = column(table, "process"), column(table, "at_ns")
    wanted = np.zeros(len(table), np.bool_)
    for number in np.unique(process).tolist():
        low, high = window(stored, number, KERNELS)
        wanted |= (process == number) & (at >= low) & (at < high)
    return table.filter(pa.array(wanted))


def _calls_of(stored: Stored, table: pa.Table) -> Ints:
    """The row of the timeline that each of some rows of `operators` belongs to, -1 for none."""
    calls = timeline(stored).calls
    process, of_calls = column(table, "process"), column(calls, "process")
    found = np.full(len(table), -1, np.int64)
    for number in np.unique(process).tolist():
        mine = np.flatnonzero(process == number)
        low, high = np.searchsorted(of_calls, [number, number + 1]).tolist()
        part = table.take(pa.array(mine))
        at = placed(calls.slice(low, high - low), column(part, "at_ns"), nullable_codes(part, "thread"))
        found[mine] = np.where(at >= 0, at + low, -1)
    return found


def kernels(stored: Stored) -> pd.DataFrame:
    """One row a name in each call: `call` (null outside of any), `module`, `type`, `step`, `backward`, `operator`,
    `kind` (operator, kernel, memcpy, memset), `device`, `count` and `total_ns`: on the host without operators inside,
    on a device all of it.
    """
    table, calls = operators(stored), timeline(stored).calls
    call = _calls_of(stored, table)
    frame = pd.DataFrame(
        {
            "call": call,
            "operator": table.column("name").to_pylist(),
            "kind": column(table, "kind"),
            "device": table.column("device").to_pylist(),
            "total_ns": column(table, "self_ns").astype(np.int64),
        }
    )
    grouped = (
        frame.groupby(["call", "operator", "kind", "device"], sort=False)["total_ns"]
        .agg(["size", "sum"])
        .reset_index()
    )
    at = grouped["call"].to_numpy(np.int64)
    known = at >= 0
    module, root = nullable_codes(calls, "module"), nullable_codes(calls, "root")
    codes, texts = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    types = stored.table("modules").column("type").to_pylist()
    of_module = taken(module, at)
    step = taken(nullable_codes(calls, "step"), at)
    data: dict[str, Any] = {
        "call": pd.arrays.IntegerArray(np.maximum(at, 0), ~known),
        "module": distinct_texts(np.where(of_module >= 0, taken(codes, at), -1), texts),
        "type": distinct_texts(of_module, types),
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "backward": taken(column(calls, "kind"), at) == BACKWARD,
        "operator": grouped["operator"].astype("category"),
        "kind": categorical(grouped["kind"].to_numpy(np.int64), list(OPERATOR_KINDS)),
        "device": grouped["device"].astype("category"),
        "count": grouped["size"].to_numpy(np.int64),
        "total_ns": grouped["sum"].to_numpy(np.int64),
    }
    return pd.DataFrame(data)


@dataclass(frozen=True)
class Ran:
    """What ran in one group of modules, or in a phase. Times in all watched steps together."""

    name: str
    type: str
    forward_ns: int
    backward_ns: int
    executions: int
    top: list[tuple[str, int]]


def ran(stored: Stored) -> tuple[str, list[Ran]]:
    """(device, groups, the longest first): of a device's kernels where any ran, else of operators of the host."""
    table = operators(stored)
    kinds = column(table, "kind")
    on_device = bool((kinds == KERNEL).any())
    chosen = kinds != OPERATOR if on_device else kinds == OPERATOR
    call, own = _calls_of(stored, table)[chosen], column(table, "self_ns")[chosen].astype(np.int64)
    operator = np.array(table.column("name").to_pylist(), object)[chosen]
    devices = sorted(set(np.array(table.column("device").to_pylist(), object)[chosen].tolist()))
    groups, kind = folded(stored), column(timeline(stored).calls, "kind")
    group = taken(groups.group, call)
    backward = taken(kind, call) == BACKWARD
    found = []
    for code in np.unique(group).tolist():
        mine = group == code
        by_name = (
            pd.Series(own[mine]).groupby(operator[mine]).sum().sort_values(ascending=False, kind="stable")
        )
        found.append(
            Ran(
                groups.title(code) if code >= 0 else "",
                groups.type[code] if code >= 0 else "",
                int(own[mine & ~backward].sum()),
                int(own[mine & backward].sum()),
                int(mine.sum()),
                [(str(name), int(spent)) for name, spent in by_name.head(3).items()],
            )
        )
    return ", ".join(devices), sorted(found, key=lambda one: -(one.forward_ns + one.backward_ns))
