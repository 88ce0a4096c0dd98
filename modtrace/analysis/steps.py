"""The `steps` DataFrame, and the times of one module over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from modtrace.analysis.around import root_calls
from modtrace.analysis.calls import error_texts
from modtrace.analysis.columns import categorical, column, distinct_texts, nullable_codes
from modtrace.analysis.device_memory import of_steps
from modtrace.analysis.device_times import device_of_steps, launch_timed
from modtrace.analysis.memory import peak_of_steps
from modtrace.analysis.phases import FORWARD, RECOMPUTE, Steps
from modtrace.analysis.roofline import mfu_of_steps
from modtrace.analysis.samples import amounts
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.timeline import Timeline, timeline
from modtrace.analysis.work import work_of_steps
from modtrace.trace.reach import Reach
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, PHASES, STATUSES, UNFINISHED
from modtrace.trace.schema import STEP as STEP_KIND

Ints = npt.NDArray[np.int64]

ENDS: Final = ("mark", "optimizer", "forward", "root")
"""What ends a step, as in `Steps.by`."""


def steps(stored: Stored, reached: Mapping[str, Reach] | None = None) -> pd.DataFrame:
    """One row a step, indexed by `step`, ranks one after another.

    `duration_ns` is the sum of `data_ns`, `h2d_ns`, `forward_ns`, `eval_ns`, `loss_ns`, `backward_ns`, `optimizer_ns`,
    `zero_grad_ns`, `other_threads_ns` and `other_ns`: times on the thread that runs the loop, each without the phases
    inside it; `other_threads_ns` is when it was in none and calls ran on other threads. `ends`
    says what ended the step, `whole` whether it came to its end; `call` is its row in `calls`, null where a span lies
    across its border; `calls` counts module calls, `recomputed` those made again in backward. `samples` adds up the
    first dimension of the batches it was trained on, `tokens` the first two where that is integers (see `amounts`).
    `flops` adds up module calls and backwards, null where a part is not known; `flops_at_least` leaves that part out,
    and `uncounted` names it. `flops_per_s` is `flops` over the duration.
    `mfu` is the share of what the devices reach in that time, as `mfu_of_steps` has it; null without `reached`,
    which is what has been measured of each device.
    `device_ns` is for how long the device had work of something recorded, the busiest of several, and `device_idle_ns`
    for how long not, up to the next step; both null where it is not known. Gaps between the kernels of one call count
    as work, so where the host cannot keep the device busy it has idled longer.
    `counted` says that operations were counted in the step, so that its times include that. `in_statistics` marks the
    steps that every statistic is of (see `choose`).
    `memory_allocated_bytes` and `memory_reserved_bytes` are what the allocators of devices had given out and held when
    it ended; `memory_peak_bytes` is the most that was held in it, where memory was watched or the allocator's own peak
    tells.
    """
    reached = reached or {}
    line = timeline(stored)
    table = line.calls
    process = column(table, "process")
    edges = np.searchsorted(process, np.arange(len(stored.processes) + 1))
    parts = [
        _of_process(stored, line, number, int(edges[number]), int(edges[number + 1]), reached)
        for number in range(len(stored.processes))
    ]
    return pd.concat(parts) if parts else pd.DataFrame()


def _of_process(
    stored: Stored, line: Timeline, process: int, low: int, high: int, reached: Mapping[str, Reach]
) -> pd.DataFrame:
    found, rank = line.steps[process], stored.processes[process].rank
    table = line.calls.slice(low, high - low)
    count = len(found)
    kind, step = column(table, "kind"), nullable_codes(table, "step")
    module, phase = nullable_codes(table, "module"), nullable_codes(table, "phase")
    inside = (step >= 0) & (step < count)
    of_module = inside & (kind == MODULE)
    first = int(column(table, "call")[0]) if len(table) else 0
    roots = np.flatnonzero(of_module & root_calls(kind, column(table, "last_call"), first))
    call, status, error = _rows_of(table, found, kind, step, roots)
    types = stored.table("modules").column("type").to_pylist()
    duration = np.maximum(found.end - found.start, 0)
    timed = launch_timed(stored) is None
    samples, tokens = amounts(stored, line, table, roots, found)
    computed = work_of_steps(stored, low, high, count)
    flops = computed.flops
    busy_ns, idle_ns = device_of_steps(stored, low, high, count)
    read = of_steps(stored, process, found)
    watched = peak_of_steps(stored, low, high, found.start, found.end)
    data: dict[str, Any] = {
        "call": _masked(call),
        "type": distinct_texts(_first_module(roots, module, phase, step, count), types),
        "ends": categorical(np.full(count, ENDS.index(found.by)), list(ENDS)),
        "rank": np.full(count, rank),
        "thread": column(table, "thread")[roots] if found.by == "root" else np.full(count, found.thread),
        "start_ns": found.start,
        "duration_ns": _masked(np.where(found.whole | (duration > 0), duration, -1)),
        **{f"{name}_ns": found.spent[at] for at, name in enumerate(PHASES)},
        "other_threads_ns": found.threads,
        "other_ns": duration - found.spent.sum(axis=0) - found.threads,
        "whole": found.whole,
        "calls": np.bincount(step[of_module], minlength=count),
        "recomputed": np.bincount(step[of_module & (phase == RECOMPUTE)], minlength=count),
        "samples": _masked(samples),
        "tokens": _masked(tokens),
        "flops": _masked(flops),
        "flops_at_least": _masked(computed.least),
        "uncounted": computed.uncounted,
        "flops_per_s": _masked(_per_second(flops, np.where(timed, duration, 0))),
        "mfu": pd.array(mfu_of_steps(stored, low, high, flops, duration, reached), dtype="Float64"),
        "device_ns": _masked(busy_ns),
        "device_idle_ns": _masked(idle_ns),
        "memory_allocated_bytes": _masked(read.allocated_bytes),
        "memory_reserved_bytes": _masked(read.reserved_bytes),
        "memory_peak_bytes": _masked(np.where(watched >= 0, watched, read.peak_bytes)),
        "counted": computed.counted,
        "in_statistics": chosen_steps(stored, process).steps,
        "status": categorical(status, list(STATUSES)),
        "error": distinct_texts(error, error_texts(stored)),
    }
    if found.by == "root":  # a column has an order of its own there: that of the starts
        order = np.argsort(column(table, "start_ns")[roots], kind="stable")
        data["thread"] = data["thread"][order]
    frame = pd.DataFrame(data)
    frame.index = pd.Index(np.arange(count), name="step")
    return frame


def _rows_of(table: pa.Table, found: Steps, kind: Ints, step: Ints, roots: Ints) -> tuple[Ints, Ints, Ints]:
    """The row of each step, its status and the error that ended it."""
    count = len(found)
    ids = column(table, "call")
    call = np.full(count, -1, np.int64)
    all_status, all_error = column(table, "status").astype(np.int64), nullable_codes(table, "error")
    status, error = np.where(found.whole, 0, UNFINISHED), np.full(count, -1, np.int64)
    if found.by == "root":
        call[step[roots]] = ids[roots]
        status[step[roots]] = all_status[roots]
        error[step[roots]] = all_error[roots]
        return call, status, error
    rows = np.flatnonzero((kind == STEP_KIND) & (step >= 0) & (step < count))
    call[step[rows]] = ids[rows]
    return call, status, error


def _first_module(roots: Ints, module: Ints, phase: Ints, step: Ints, count: int) -> Ints:
    """The module of the first root call of each step that is not an evaluation or a loss, else of the first."""
    first = np.full(count, -1, np.int64)
    for some in (roots, roots[phase[roots] == FORWARD]):
        first[step[some][::-1]] = module[some][::-1]
    return first


def _per_second(amount: Ints, duration_ns: Ints) -> Ints:
    """Amounts a second, -1 where the amount or the time is not known, or the result is no number that can be stored."""
    rate = np.where((amount >= 0) & (duration_ns > 0), amount * 1e9 // np.maximum(duration_ns, 1), -1.0)
    return np.where(rate < 2.0**62, rate, -1.0).astype(np.int64)


def _masked(values: Ints) -> pd.arrays.IntegerArray:
    return pd.arrays.IntegerArray(np.maximum(values, 0).astype(np.int64), values < 0)
