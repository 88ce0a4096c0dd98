"""Own times of modules over the ranks of a role, for rows of trees: the least, the median and the most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.modules import module_names
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.ranks.rank_names import names_without_calls
from modtrace.analysis.ranks.rank_numbers import Place, places_of
from modtrace.analysis.ranks.rank_report import RankReport, known_report
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow_arrays import array
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

_BITS: Final = 32
"""A pair of a group and a place is one number."""
LEAST, MEDIAN, MOST = "least", "median", "most"


@dataclass(frozen=True)
class PlaceTimes:
    """Own times of modules, in forward and in backward, on each rank.

    place: of each row of the timeline, -1 for what has none.
    own_ns: a step, median of each rank, shape (places, ranks); NaN where a rank does not have it.
    """

    place: Ints
    own_ns: Floats


def times_over_ranks(
    stored: Stored, statistic: str, group: npt.NDArray[np.integer], count: int, rows: slice
) -> tuple[Ints, Bools]:
    """Own time a step of the modules of groups of calls over the ranks of a role, in nanoseconds, and where it is
    known: a group of several modules has their sum on each rank. Known of groups of calls of modules alone, which at
    least two ranks have.

    Args:
        stored: the trace.
        statistic: LEAST, MEDIAN (the lower one of two) or MOST.
        group: the group of each row of a stretch of the timeline, -1 for none.
        count: how many groups there are.
        rows: the stretch.
    """
    times = place_times(stored)
    if times is None:
        return np.zeros(count, np.int64), np.zeros(count, np.bool_)
    place, inside = times.place[rows], group >= 0
    pairs = np.unique(group[inside].astype(np.int64) << _BITS | (place[inside] + 1))
    of, which = pairs >> _BITS, (pairs & ((1 << _BITS) - 1)) - 1
    ranks = times.own_ns.shape[1]
    own_ns = np.zeros((count, ranks), np.float64)
    np.add.at(own_ns, of, np.where((which >= 0)[:, None], times.own_ns[which], np.nan))
    own_ns[np.bincount(of, minlength=count) == 0] = np.nan
    own_ns.sort(axis=1)  # what is not known is behind
    on_ranks = ranks - np.isnan(own_ns).sum(axis=1)
    chosen = {LEAST: np.zeros(count, np.int64), MEDIAN: (on_ranks - 1) // 2, MOST: on_ranks - 1}[statistic]
    values = own_ns[np.arange(count), np.maximum(chosen, 0)]
    known = on_ranks > 1
    return np.where(known, np.nan_to_num(values), 0).astype(np.int64), known


@once
def place_times(stored: Stored) -> PlaceTimes | None:
    """The times of the modules of a trace on the ranks of its job; None where nothing is known of these."""
    report = known_report(stored)
    if report is None:
        return None
    last = [*{rank.rank: number for number, rank in enumerate(report.ranks)}.values()]
    if not _several(report, last):
        return None
    position = {report.ranks[number].rank: at for at, number in enumerate(last)}
    key_of: dict[tuple[int, Place], int] = {}
    rows: list[Floats] = []
    for module in report.modules:
        if module.ranks > 1:
            key_of[module.role, module.place] = len(rows)
            rows.append(np.full(len(last), np.nan, np.float32))
            for rank, spent_ns in module.by_rank:
                rows[-1][position[rank]] = spent_ns
    if not rows:
        return None
    return PlaceTimes(_places_of_rows(stored, report, key_of), np.stack(rows))


def _several(report: RankReport, last: list[int]) -> bool:
    """True where two ranks have one role."""
    roles = [report.roles[number] for number in last]
    return len(set(roles)) < len(roles)


def _places_of_rows(stored: Stored, report: RankReport, key_of: dict[tuple[int, Place], int]) -> Ints:
    """The place of each row of the timeline among those of `key_of`, -1 for none."""
    table, calls = stored.table("modules"), timeline(stored).calls
    of_process = column(table, "process")
    names, roots = [""] * len(table), [""] * len(table)
    known: tuple[list[str], list[str]] | None = None
    place_of = np.full((len(table) + 1, 2), -1, np.int64)  # the last one is "no module"
    for number, process in enumerate(stored.processes):
        at = next((at for at, rank in enumerate(report.ranks) if rank.folder == process.folder), -1)
        if at < 0:
            continue
        own = np.flatnonzero(of_process == number)
        modules = table.take(array(own, pa.int64()))
        if report.ranks[at].from_sums:
            names, roots = names_without_calls(modules, stored.table("names"))
        else:
            known = known or module_names(stored)[::2]
            names, roots = ([texts[row] for row in own.tolist()] for texts in known)
        places, _, first = places_of(modules, names, roots)
        keys = np.array([key_of.get((report.roles[at], place), -1) for place in places] + [-1, -1], np.int64)
        place_of[own] = np.where(first[:, None] >= 0, keys[first[:, None] + np.arange(2)], -1)
    call_kind, module = column(calls, "kind"), nullable_codes(calls, "module")
    is_call = ((call_kind == MODULE) | (call_kind == BACKWARD)) & (module >= 0)
    again = (call_kind == BACKWARD) | (nullable_codes(calls, "phase") == RECOMPUTE)
    return np.where(is_call, place_of[module, again.astype(np.int64)], -1)
