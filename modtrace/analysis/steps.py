"""The `steps` DataFrame, and the times of one module over the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import error_texts
from modtrace.analysis.columns import categorical, column, distinct_texts, nullable_codes
from modtrace.analysis.device_starts import dry_of_steps
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.phases import FORWARD, Steps
from modtrace.analysis.roofline import mfu_of_steps
from modtrace.analysis.step_columns import NULLABLE, roots_in_steps, step_columns
from modtrace.analysis.thinned_steps import every_of
from modtrace.analysis.timeline import timeline
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.trace.call_table import CallTable
from modtrace.trace.dataframes import STEPS
from modtrace.trace.reader import Stored
from modtrace.trace.schema import STATUSES, UNFINISHED
from modtrace.trace.schema import STEP as STEP_KIND

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]

ENDS: Final = ("mark", "optimizer", "forward", "root")
"""Units that end a step, as in `Steps.by`."""
_ORDER: Final = tuple(shown.name for shown in STEPS)


def steps(stored: Stored, reached: Mapping[str, DevicePeaks] | None = None) -> pd.DataFrame:
    """One row a step of which calls are recorded, indexed by `step`, ranks one after another. `every` says of how many
    steps there one was recorded, null for one that was recorded besides because it was remarkable (`--keep`).

    `duration_ns` is the sum of `data_ns`, `h2d_ns`, `forward_ns`, `eval_ns`, `loss_ns`, `backward_ns`, `optimizer_ns`,
    `zero_grad_ns`, `other_threads_ns` and `other_ns`: times on the thread that runs the loop, each without the phases
    inside it; `h2d_ns` is null where a device is used and its copies were not recorded: they are in `other_ns`, or in
    the phase that makes them; `other_threads_ns` is when it was in none and calls ran on other threads. `ends`
    says what ended the step, `whole` whether it came to its end; `call` is its row in `calls`, null where a span lies
    across its border; `calls` counts module calls, `recomputed` those made again in backward. `samples` adds up the
    first dimension of the batches it was trained on, `tokens` the first two where that is integers (see `amounts`).
    `flops` adds up module calls and backwards, null where a part is not known; `flops_at_least` leaves that part out,
    and `uncounted` names it. `flops_per_s` is `flops` over the duration.
    `mfu` is the share of what the devices reach in that time, as `mfu_of_steps` has it; null without `reached`,
    which is what has been measured of each device.
    `device_ns` is for how long the device had work of something recorded, the busiest of several, and `device_idle_ns`
    for how long not, up to the next step; both null where it is not known. Gaps between the kernels of one call count
    as work, so where the host cannot keep the device busy it has idled longer. `device_dry_share` is the share of its
    root calls and phases at whose start the device had run dry, of those at which that was asked.
    `counted` says that operations were counted in the step, so that its times include that. `in_statistics` marks the
    steps that every statistic is of (see `choose`).
    `memory_allocated_bytes` and `memory_reserved_bytes` are what the allocators of devices had given out and held when
    it ended; `memory_peak_bytes` is the most that was held in it, where memory was watched or the allocator's own peak
    tells. `memory_retries` is how often an allocator emptied its cache in it because the device had no more memory,
    `memory_device_allocs` how often one took memory from its device.
    """
    recorded = [process.recorded for process in timeline(stored).steps]
    frame = all_steps(stored, reached)
    return frame if all(of_process.all() for of_process in recorded) else frame[np.concatenate(recorded)]


def all_steps(stored: Stored, reached: Mapping[str, DevicePeaks] | None = None) -> pd.DataFrame:
    """The same with a row for each step that was left out, in which nothing is true but its number."""
    import pandas as pd

    parts = [_of_process(stored, number, reached or {}) for number in range(len(stored.processes))]
    return pd.concat(parts) if parts else pd.DataFrame()


def median_mfu(stored: Stored, reached: Mapping[str, DevicePeaks], process: int = 0) -> float | None:
    """The median share of what its devices reach of the steps of a process that count; None where it is not known."""
    if process >= len(stored.processes):
        return None
    steps, numbers = timeline(stored).steps[process], step_columns(stored, process)
    low, high = np.searchsorted(column(timeline(stored).calls, "process"), [process, process + 1]).tolist()
    shares = mfu_of_steps(
        stored, low, high, numbers["flops"], np.maximum(steps.end - steps.start, 0), reached
    )
    counts = numbers["in_statistics"].tolist()
    known = sorted(
        share for share, counted in zip(shares, counts, strict=True) if counted and share is not None
    )
    return known[len(known) // 2] if known else None


def _of_process(stored: Stored, process: int, reached: Mapping[str, DevicePeaks]) -> pd.DataFrame:
    import pandas as pd

    line, numbers = timeline(stored), step_columns(stored, process)
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    steps, table, count = line.steps[process], line.calls.slice(low, high - low), len(numbers)
    call_kind, step = column(table, "kind"), nullable_codes(table, "step")
    roots = roots_in_steps(stored, process)
    call, status, error = _rows_of(table, steps, call_kind, step, roots)
    module, phase = nullable_codes(table, "module"), nullable_codes(table, "phase")
    types = stored.table("modules").column("type").to_pylist()
    asked, dry = dry_of_steps(stored, process, count)
    utilised = mfu_of_steps(
        stored, low, high, numbers["flops"], np.maximum(steps.end - steps.start, 0), reached
    )
    data: dict[str, Any] = {
        **numbers.columns,
        **{name: _masked(numbers[name]) for name in NULLABLE},
        "call": _masked(call),
        "type": distinct_texts(_first_module(roots, module, phase, step, count), types),
        "ends": categorical(np.full(count, ENDS.index(steps.by)), list(ENDS)),
        "thread": np.full(count, steps.thread),
        "uncounted": work_of_steps(stored, low, high, count).uncounted,
        "every": _masked(every_of(stored, process)),
        "mfu": pd.array(utilised, dtype="Float64"),
        "device_dry_share": pd.arrays.FloatingArray(dry / np.maximum(asked, 1), asked == 0),
        "status": categorical(status, list(STATUSES)),
        "error": distinct_texts(error, error_texts(stored)),
    }
    if steps.by == "root":
        data["thread"][step[roots]] = column(table, "thread")[roots]
    return pd.DataFrame({name: data[name] for name in _ORDER}, index=pd.Index(np.arange(count), name="step"))


def _rows_of(
    table: CallTable, steps: Steps, call_kind: Ints, step: Ints, roots: Ints
) -> tuple[Ints, Ints, Ints]:
    """The row of each step, its status and the error that ended it."""
    count = len(steps)
    ids = column(table, "call")
    call = np.full(count, -1, np.int64)
    all_status, all_error = column(table, "status").astype(np.int64), nullable_codes(table, "error")
    status, error = np.where(steps.whole, 0, UNFINISHED), np.full(count, -1, np.int64)
    if steps.by == "root":
        call[step[roots]] = ids[roots]
        status[step[roots]] = all_status[roots]
        error[step[roots]] = all_error[roots]
        return call, status, error
    rows = np.flatnonzero((call_kind == STEP_KIND) & (step >= 0) & (step < count))
    call[step[rows]] = ids[rows]
    return call, status, error


def _first_module(roots: Ints, module: Ints, phase: Ints, step: Ints, count: int) -> Ints:
    """The module of the first root call of each step that is not an evaluation or a loss, else of the first."""
    first = np.full(count, -1, np.int64)
    for candidates in (roots, roots[phase[roots] == FORWARD]):
        first[step[candidates][::-1]] = module[candidates][::-1]
    return first


def _masked(values: Ints) -> pd.arrays.IntegerArray:
    import pandas as pd

    return pd.arrays.IntegerArray(np.maximum(values, 0).astype(np.int64), values < 0)
