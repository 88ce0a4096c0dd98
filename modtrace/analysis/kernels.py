"""Operators and kernels by module, where they were watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.calls import names
from modtrace.analysis.columns import (
    categorical,
    column,
    distinct_texts,
    nullable_codes,
    taken,
    values_and_known,
)
from modtrace.analysis.device_times import self_device_ns
from modtrace.analysis.memory import placed
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.analysis.watching import KERNELS, window
from modtrace.trace.arrow_arrays import array
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, KERNEL, MODULE, OPERATOR, OPERATOR_KINDS

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]


def operators(stored: Stored) -> pa.Table:
    """The rows of `operators` of the steps that were to be watched."""
    table = stored.table("operators")
    process, at_ns = column(table, "process"), column(table, "at_ns")
    wanted = np.zeros(len(table), np.bool_)
    for number in np.unique(process).tolist():
        low, high = window(stored, number, KERNELS)
        wanted |= (process == number) & (at_ns >= low) & (at_ns < high)
    return table.filter(array(wanted, pa.bool_()))


def watched_steps(stored: Stored) -> int:
    """In how many steps operators and kernels were watched, of all processes together."""
    line, steps_watched = timeline(stored), 0
    for number, steps in enumerate(line.steps):
        low, high = window(stored, number, KERNELS)
        steps_watched += int(((steps.start >= low) & (steps.end <= high)).sum())
    return steps_watched


def _calls_of(stored: Stored, table: pa.Table) -> Ints:
    """The row of the timeline that each of some rows of `operators` belongs to, -1 for none."""
    calls = timeline(stored).calls
    process, of_calls = column(table, "process"), column(calls, "process")
    rows = np.full(len(table), -1, np.int64)
    for number in np.unique(process).tolist():
        of_process = np.flatnonzero(process == number)
        low, high = np.searchsorted(of_calls, [number, number + 1]).tolist()
        part = table.take(array(of_process, pa.int64()))
        position = placed(calls.slice(low, high - low), column(part, "at_ns"), nullable_codes(part, "thread"))
        rows[of_process] = np.where(position >= 0, position + low, -1)
    return rows


def kernels(stored: Stored) -> pd.DataFrame:
    """One row a name in each call: `call` (null outside of any), `module`, `type`, `step`, `backward`, `operator`,
    `kind` (operator, kernel, memcpy, memset), `device`, `count` and `total_ns`: on the host without operators inside,
    on a device all of it. `size_bytes` is of copies and fills on a device, null for the others.
    """
    import pandas as pd

    table, calls = operators(stored), timeline(stored).calls
    call = _calls_of(stored, table)
    frame = pd.DataFrame(
        {
            "call": call,
            "operator": table.column("name").to_pylist(),
            "kind": column(table, "kind"),
            "device": table.column("device").to_pylist(),
            "total_ns": column(table, "self_ns").astype(np.int64),
            "size_bytes": _masked(table, "size_bytes"),
        }
    )
    grouped = (
        frame.groupby(["call", "operator", "kind", "device"], sort=False)
        .agg(
            size=("total_ns", "size"),
            sum=("total_ns", "sum"),
            size_bytes=("size_bytes", "sum"),
            sized=("size_bytes", "count"),
        )
        .reset_index()
    )
    call_row = grouped["call"].to_numpy(np.int64)
    known = call_row >= 0
    module, root = nullable_codes(calls, "module"), nullable_codes(calls, "root")
    codes, texts = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    types = stored.table("modules").column("type").to_pylist()
    of_module = taken(module, call_row)
    step = taken(nullable_codes(calls, "step"), call_row)
    data: dict[str, Any] = {
        "call": pd.arrays.IntegerArray(np.maximum(call_row, 0), ~known),
        "module": distinct_texts(np.where(of_module >= 0, taken(codes, call_row), -1), texts),
        "type": distinct_texts(of_module, types),
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "backward": taken(column(calls, "kind"), call_row) == BACKWARD,
        "operator": grouped["operator"].astype("category"),
        "kind": categorical(grouped["kind"].to_numpy(np.int64), list(OPERATOR_KINDS)),
        "device": grouped["device"].astype("category"),
        "count": grouped["size"].to_numpy(np.int64),
        "total_ns": grouped["sum"].to_numpy(np.int64),
        "size_bytes": grouped["size_bytes"].astype("Int64").where(grouped["sized"] == grouped["size"]),
    }
    return pd.DataFrame(data)


def _masked(table: pa.Table, name: str) -> pd.arrays.IntegerArray:
    import pandas as pd

    values, known = values_and_known(table, name)
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


@dataclass(frozen=True)
class GroupKernels:
    """Kernels and copies of one group of modules, or of a phase. Times in all watched steps together.

    device_ns: for how long the device had their work, by events around their calls, gaps between kernels included; None
        on the host, and where it is not known of each of their calls.
    """

    name: str
    type: str
    forward_ns: int
    backward_ns: int
    executions: int
    top: list[tuple[str, int]]
    device_ns: int | None = None

    @property
    def kernel_share(self) -> float | None:
        """Share of time in which the modules fill the device: time in kernels over `device_ns`. None where that is not
        known.
        """
        return (self.forward_ns + self.backward_ns) / self.device_ns if self.device_ns else None


def _between_events(stored: Stored, group: Ints) -> dict[int, int]:
    """Group -> time on the device of its calls in the watched steps, without calls inside them, where all are known."""
    calls, self_ns = timeline(stored).calls, self_device_ns(stored)
    process, start, call_kind = column(calls, "process"), column(calls, "start_ns"), column(calls, "kind")
    watched = np.zeros(len(calls), np.bool_)
    for number in np.unique(process).tolist():
        low, high = window(stored, number, KERNELS)
        watched |= (process == number) & (start >= low) & (start < high)
    rows = np.flatnonzero(watched & ((call_kind == MODULE) | (call_kind == BACKWARD)) & (group >= 0))
    device_ns = {}
    for code in np.unique(group[rows]).tolist():
        spent = self_ns[rows[group[rows] == code]]
        if (spent >= 0).all():
            device_ns[code] = int(spent.sum())
    return device_ns


def ran(stored: Stored) -> tuple[str, list[GroupKernels]]:
    """(device, groups, the longest first): of a device's kernels where any ran, else of operators of the host."""
    import pandas as pd

    table = operators(stored)
    kinds = column(table, "kind")
    on_device = bool((kinds == KERNEL).any())
    chosen = kinds != OPERATOR if on_device else kinds == OPERATOR
    call, self_ns = _calls_of(stored, table)[chosen], column(table, "self_ns")[chosen].astype(np.int64)
    operator = np.array(table.column("name").to_pylist(), object)[chosen]
    devices = sorted(set(np.array(table.column("device").to_pylist(), object)[chosen].tolist()))
    groups, call_kind = folded(stored), column(timeline(stored).calls, "kind")
    group = taken(groups.group, call)
    backward = taken(call_kind, call) == BACKWARD
    between = _between_events(stored, groups.group) if on_device else {}
    by_group = []
    for code in np.unique(group).tolist():
        in_group = group == code
        by_name = (
            pd.Series(self_ns[in_group])
            .groupby(operator[in_group])
            .sum()
            .sort_values(ascending=False, kind="stable")
        )
        by_group.append(
            GroupKernels(
                groups.title(code) if code >= 0 else "",
                groups.type[code] if code >= 0 else "",
                int(self_ns[in_group & ~backward].sum()),
                int(self_ns[in_group & backward].sum()),
                int(in_group.sum()),
                [(str(name), int(spent)) for name, spent in by_name.head(3).items()],
                between.get(code),
            )
        )
    return ", ".join(devices), sorted(by_group, key=lambda entry: -(entry.forward_ns + entry.backward_ns))
