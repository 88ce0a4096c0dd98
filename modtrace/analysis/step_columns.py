"""The numbers of steps as arrays: what the `steps` DataFrame and the findings are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import tensor_devices
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.device_memory import of_steps
from modtrace.analysis.device_times import device_of_steps, launch_timed
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.memory import peak_of_steps
from modtrace.analysis.nesting import root_calls
from modtrace.analysis.phases import RECOMPUTE, Steps
from modtrace.analysis.samples import amounts
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, PHASES

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NULLABLE: Final = (
    "duration_ns", "h2d_ns", "samples", "tokens", "flops", "flops_at_least", "flops_per_s", "device_ns",
    "device_idle_ns", "memory_allocated_bytes", "memory_reserved_bytes", "memory_retries", "memory_device_allocs",
    "memory_peak_bytes",
)  # fmt: skip
"""Columns that are -1 where a number is not known; no other column ever is unknown."""


@dataclass(frozen=True)
class StepColumns:
    """The numbers of some steps, an array element a step.

    number: of the step in its process.
    columns: by the names that they have in the `steps` DataFrame; -1 is unknown in those of NULLABLE.
    """

    number: Ints
    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def chosen(self, rows: Bools | slice) -> StepColumns:
        """Some of the steps."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return StepColumns(self.number[rows], columns)

    def known(self, name: str) -> npt.NDArray[Any]:
        """The numbers of a column of NULLABLE that are known."""
        values = self.columns[name]
        return values[values >= 0]

    def changed(self, **columns: npt.NDArray[Any] | float) -> StepColumns:
        """The same steps with other columns, or with one value in all rows of them."""
        arrays = {name: np.broadcast_to(np.asarray(values), len(self)) for name, values in columns.items()}
        return replace(self, columns={**self.columns, **arrays})


def joined(parts: Sequence[StepColumns]) -> StepColumns:
    """The steps of several processes, one after another."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    return StepColumns(np.concatenate([part.number for part in parts]), columns)


@once
def step_columns(stored: Stored, process: int) -> StepColumns:
    """The numbers of the steps of one process; made once. `modtrace.analysis.steps.steps` says what each is."""
    line, rank = timeline(stored), stored.processes[process].rank
    steps = line.steps[process]
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    table, count = line.calls.slice(low, high - low), len(steps)
    step, phase = nullable_codes(table, "step"), nullable_codes(table, "phase")
    of_module = (step >= 0) & (step < count) & (column(table, "kind") == MODULE)
    duration = np.maximum(steps.end - steps.start, 0)
    samples, tokens = amounts(stored, line, table, roots_in_steps(stored, process), steps)
    computed = work_of_steps(stored, low, high, count)
    timed = launch_timed(stored) is None
    busy_ns, idle_ns = device_of_steps(stored, low, high, count)
    columns: dict[str, npt.NDArray[Any]] = {
        "rank": np.full(count, rank),
        "start_ns": steps.start,
        "duration_ns": np.where(steps.whole | (duration > 0), duration, -1),
        **{f"{name}_ns": steps.spent[index] for index, name in enumerate(PHASES)},
        "h2d_ns": _copying_ns(stored, steps),
        "other_threads_ns": steps.threads,
        "other_ns": duration - steps.spent.sum(axis=0) - steps.threads,
        "whole": steps.whole,
        "calls": np.bincount(step[of_module], minlength=count),
        "recomputed": np.bincount(step[of_module & (phase == RECOMPUTE)], minlength=count),
        "samples": samples,
        "tokens": tokens,
        "flops": computed.flops,
        "flops_at_least": computed.least,
        "flops_per_s": _per_second(computed.flops, np.where(timed, duration, 0)),
        "device_ns": busy_ns,
        "device_idle_ns": idle_ns,
        **_memory(stored, process, steps, low, high),
        "counted": computed.counted,
        "in_statistics": chosen_steps(stored, process).steps,
    }
    for name in NULLABLE if not steps.recorded.all() else ():
        columns[name] = np.where(steps.recorded, columns[name], -1)
    return StepColumns(np.arange(count), columns)


@once
def recorded_columns(stored: Stored, process: int) -> StepColumns:
    """The same of the steps of which calls are recorded; made once."""
    return step_columns(stored, process).chosen(timeline(stored).steps[process].recorded)


@once
def roots_in_steps(stored: Stored, process: int) -> Ints:
    """The rows, counted from the first of the process, of its root calls that are in steps; made once."""
    line = timeline(stored)
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    table, count = line.calls.slice(low, high - low), len(line.steps[process])
    step, call_kind = nullable_codes(table, "step"), column(table, "kind")
    of_module = (step >= 0) & (step < count) & (call_kind == MODULE)
    first = int(column(table, "call")[0]) if len(table) else 0
    return np.flatnonzero(of_module & root_calls(call_kind, column(table, "last_call"), first))


def copies_known(stored: Stored, spent_ns: Ints) -> bool:
    """Copies to a device (`spent_ns`, one number a step) were recorded, or no device has tensors."""
    return bool(spent_ns.any()) or set(tensor_devices(stored)) <= {"cpu"}


def _copying_ns(stored: Stored, steps: Steps) -> Ints:
    spent = steps.spent[PHASES.index("h2d")]
    return spent if copies_known(stored, spent) else np.full(len(steps), -1)


def _memory(stored: Stored, process: int, steps: Steps, low: int, high: int) -> dict[str, Ints]:
    """The columns about memory."""
    read = of_steps(stored, process, steps)
    watched = peak_of_steps(stored, low, high, steps.start, steps.end)
    return {
        "memory_allocated_bytes": read.allocated_bytes,
        "memory_reserved_bytes": read.reserved_bytes,
        "memory_retries": read.retries,
        "memory_device_allocs": read.device_allocs,
        "memory_peak_bytes": np.where(watched >= 0, watched, read.peak_bytes),
    }


def _per_second(amount: Ints, duration_ns: Ints) -> Ints:
    """Amounts a second, -1 where the amount or the time is not known, or the result is no number that can be stored."""
    rate = np.where((amount >= 0) & (duration_ns > 0), amount * 1e9 // np.maximum(duration_ns, 1), -1.0)
    return np.where(rate < 2.0**62, rate, -1.0).astype(np.int64)
