"""Ranks beside phases and modules: what each spends a step in, and by how much that is more than usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from modtrace.analysis.ranks.rank_numbers import Place, RankNumbers
from modtrace.analysis.ranks.rank_report import ModuleOverRanks, RankReport
from modtrace.analysis.ranks.stragglers import MIN_NS, MIN_STEP_SHARE

LEVELS: Final = (0.05, 0.1, 0.25, 0.5)
"""A time is of level 1 to 4 from so much more than usual on."""
PHASES_SHOWN: Final = (
    ("step", "step_ns"), ("data", "data_ns"), ("forward", "forward_ns"), ("backward", "backward_ns"),
    ("optimizer", "optimizer_ns"), ("other", "other_ns"),
)  # fmt: skip
"""Title and key of each phase that has a column."""


@dataclass(frozen=True)
class HeatColumn:
    """Times of one phase or module, a step, an element a rank; None where a rank has none.

    place: the module; None for a phase.
    usual_ns: the lower median over the ranks that have one.
    floor_ns: less than this more than usual is of no level.
    """

    title: str
    place: Place | None
    times_ns: tuple[int | None, ...]
    usual_ns: int
    floor_ns: int

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """By how much each rank takes more than usual: 0 (not, or unknown) to 4, see LEVELS."""
        return tuple(map(self._level, self.times_ns))

    def _level(self, spent_ns: int | None) -> int:
        if spent_ns is None or spent_ns - self.usual_ns < self.floor_ns:
            return 0
        more = (spent_ns - self.usual_ns) / self.usual_ns if self.usual_ns else float("inf")
        return sum(more >= level for level in LEVELS)


@dataclass(frozen=True)
class HeatMap:
    """Ranks by their last start, and a column a phase and a module."""

    ranks: tuple[RankNumbers, ...]
    phases: tuple[HeatColumn, ...]
    modules: tuple[HeatColumn, ...]


def heat_map(report: RankReport, most_modules: int) -> HeatMap:
    """The heat map of a job.

    Args:
        report: its ranks.
        most_modules: so many modules have a column: those in which ranks differ the most.
    """
    ranks = tuple(report.last_starts)
    least_ns = floor_ns(report)
    phases = []
    for title, key in PHASES_SHOWN:
        times = tuple(rank.phases_ns[key] for rank in ranks)
        if any(times):
            phases.append(HeatColumn(title, None, times, usual(times) or 0, least_ns))
    several = [module for module in report.modules if module.ranks > 1]
    several.sort(key=lambda module: module.low_ns - module.high_ns)
    columns = (column_of(module, ranks, least_ns) for module in several[:most_modules])
    return HeatMap(ranks, tuple(phases), tuple(columns))


def floor_ns(report: RankReport) -> int:
    """Less than this more a step is not worth a level, as it is worth no verdict."""
    steps = [rank.phases_ns["step_ns"] for rank in report.last_starts]
    return int(max(MIN_NS, MIN_STEP_SHARE * (usual(steps) or 0)))


def column_of(module: ModuleOverRanks, ranks: Sequence[RankNumbers], least_ns: int) -> HeatColumn:
    """A module as a column of a heat map."""
    by_rank = dict(module.by_rank)
    times = tuple(by_rank.get(rank.rank) for rank in ranks)
    return HeatColumn(module.place.text, module.place, times, usual(times) or 0, least_ns)


def usual(times: Sequence[int | None]) -> int | None:
    """The lower median of those that are known, None for none: of two ranks the one that is not late."""
    known = sorted(spent_ns for spent_ns in times if spent_ns is not None)
    return known[(len(known) - 1) // 2] if known else None
