"""Sums over windows of steps as they were written (`--rollups`): the DataFrame, and each module over all windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import (
    categorical,
    column,
    distinct_texts,
    nullable,
    nullable_codes,
    values_and_known,
)
from modtrace.analysis.modules import module_names
from modtrace.analysis.window_sums import rank_sums, window_sums
from modtrace.trace.batch_columns import lists_of
from modtrace.trace.dataframes import ROLLUPS
from modtrace.trace.histogram import added_up, middles_of
from modtrace.trace.reader import Stored
from modtrace.trace.schema import PHASES

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SIDES: Final = ("forward", "backward")
PERCENTS: Final = (50, 95, 99)
_BUCKET_BITS: Final = 12


@dataclass(frozen=True)
class ModuleOverSteps:
    """Times of a module, a phase, or the steps themselves, over all windows of a process. None is unknown.

    name, type: of the module; the type is "" for a phase, both are for the steps, which go from one end of a step to
        the next.
    side: forward or backward; forward for phases and steps.
    steps: in how many steps its time is known.
    total_ns: of all its calls; null where one is not known.
    p50_ns, p95_ns, p99_ns: of its time in each step, within 1 %.
    max_ns: the most in one step.
    """

    name: str
    type: str
    side: str
    steps: int
    calls: int
    total_ns: int | None
    p50_ns: int
    p95_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True)
class RollupFacts:
    """Rollups of one process.

    first_step, last_step: of its windows, as steps were counted while it ran.
    windows: how many.
    modules: by their total time, the longest first; the steps and the phases before all others.
    """

    first_step: int
    last_step: int
    windows: int
    modules: list[ModuleOverSteps]


def rollup_frame(stored: Stored) -> pd.DataFrame:
    """One row a module or phase and window of steps, one a window of the steps themselves; columns as in ROLLUPS."""
    import pandas as pd

    sums = rank_sums(stored)
    table = sums.table
    module, count = nullable_codes(table, "module"), len(table)
    phase = nullable_codes(table, "phase").astype(np.int64)
    data: dict[str, Any] = {
        "rank": sums.rank[column(table, "process")],
        **{
            name: column(table, name).astype(np.int64)
            for name in ("first_step", "end_step", "from_ns", "to_ns")
        },
        "kind": categorical(
            np.where(module >= 0, 0, np.where(phase >= 0, 1, 2)), ["module", "phase", "step"]
        ),
        "name": distinct_texts(np.where(phase >= 0, phase + len(sums.name), module), [*sums.name, *PHASES]),
        "type": distinct_texts(module, sums.type),
        "root": distinct_texts(module, sums.root),
        "module_id": pd.arrays.IntegerArray(np.maximum(module, 0), module < 0),
        "calls": column(table, "calls").astype(np.int64),
    }
    for side in SIDES:
        ends, buckets, steps = _histograms(table, side)
        figures, known = _quantiles(ends, buckets, steps, count)
        data[f"{side}_ns"] = nullable(table, f"{side}_ns")
        for percent, values in zip(PERCENTS, figures, strict=True):
            data[f"{side}_p{percent}_ns"] = pd.arrays.IntegerArray(values, ~known)
        data[f"{side}_max_ns"] = nullable(table, f"{side}_max_ns")
        data[f"{side}_self_ns"] = nullable(table, f"{side}_self_ns")
    return pd.DataFrame({shown.name: data[shown.name] for shown in ROLLUPS})


def rollup_facts(stored: Stored) -> RollupFacts | None:
    """Rollups of the first process over all its windows; None where none were written."""
    stored = stored.alone(stored.folders()[0])
    table = window_sums(stored)
    if not len(table):
        return None
    first, end = column(table, "first_step"), column(table, "end_step")
    rows = [row for side in SIDES for row in _over_windows(stored, side)]
    rows.sort(key=lambda row: (row.type != "", -(row.total_ns or row.p50_ns * row.steps)))
    return RollupFacts(int(first.min()), int(end.max()) - 1, len(np.unique(first)), rows)


def _over_windows(stored: Stored, side: str) -> list[ModuleOverSteps]:
    """The times of one side of each module that has some, over all windows of a trace of one process."""
    table = window_sums(stored)
    titles, _, _ = module_names(stored)
    types = ["", *stored.table("modules").column("type").to_pylist(), *("" for _ in PHASES)]
    phase = nullable_codes(table, "phase").astype(np.int64)
    # The key of the steps is 0, that of a module is its row and one; those of phases follow.
    module = np.where(phase >= 0, len(titles) + 1 + phase, nullable_codes(table, "module") + 1)
    titles = ["", *titles, *PHASES]
    calls = column(table, "calls").astype(np.int64)
    total, timed = values_and_known(table, f"{side}_ns")
    highest, _ = values_and_known(table, f"{side}_max_ns")
    ends, buckets, steps = _histograms(table, side)
    ran = np.diff(ends, prepend=0) > 0
    chosen = np.flatnonzero(ran | timed)
    keys, all_calls, all_ns, unknown = added_up(
        module[chosen], calls[chosen], total[chosen].astype(np.int64), (~timed[chosen]).astype(np.int64)
    )
    of_element = np.repeat(module, np.diff(ends, prepend=0))
    codes, counts = added_up(of_element << _BUCKET_BITS | buckets, steps)
    low, high = (np.searchsorted(codes, keys + more << _BUCKET_BITS) for more in (0, 1))
    edges = np.stack([low, high], 1)
    rows = []
    for place, key in enumerate(keys.tolist()):
        low_edge, high_edge = edges[place].tolist()
        own = codes[low_edge:high_edge] & ((1 << _BUCKET_BITS) - 1), counts[low_edge:high_edge]
        if not own[1].sum():
            continue
        (p50, p95, p99), _ = _quantiles(np.array([len(own[0])]), *own, 1)
        rows.append(
            ModuleOverSteps(
                titles[key],
                str(types[key]),
                side,
                int(own[1].sum()),
                int(all_calls[place]),
                None if unknown[place] else int(all_ns[place]),
                int(p50[0]),
                int(p95[0]),
                int(p99[0]),
                int(highest[chosen][module[chosen] == key].max()),
            )
        )
    return rows


def _histograms(table: pa.Table, side: str) -> tuple[Ints, Ints, Ints]:
    """Where the buckets of each row end, the buckets of all rows, and how many steps are in each."""
    ends, buckets = lists_of(table.column(f"{side}_buckets"))
    return ends, buckets, lists_of(table.column(f"{side}_steps"))[1]


def _quantiles(ends: Ints, buckets: Ints, steps: Ints, count: int) -> tuple[list[Ints], Bools]:
    """Values below which so many of PERCENTS are in each of some histograms, nearest rank, and which have any."""
    cumulated = np.concatenate([[0], np.cumsum(steps)])
    before = cumulated[np.concatenate([[0], ends[:-1]])] if count else ends
    total = cumulated[ends] - before
    figures = []
    for percent in PERCENTS:
        wanted = before + (total * percent + 99) // 100
        place = np.clip(np.searchsorted(cumulated[1:], wanted), 0, max(len(buckets) - 1, 0))
        figures.append(middles_of(buckets[place]) if len(buckets) else np.zeros(count, np.int64))
    return figures, total > 0
