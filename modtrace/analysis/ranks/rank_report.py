"""All ranks of a job beside each other: numbers of each, roles, modules over ranks, who is late, who failed first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.ranks.rank_numbers import MANY_CELLS, NO_TIMES, Place, RankNumbers, reduced, unreadable
from modtrace.analysis.ranks.rank_sums import reduced_from_sums
from modtrace.analysis.ranks.standing_waits import without_waits
from modtrace.analysis.ranks.stragglers import MIN_STEPS, Peers, Straggler, stragglers
from modtrace.errors import TraceError
from modtrace.trace.derived import is_made, once
from modtrace.trace.newest import noted_calls
from modtrace.trace.reader import Stored, process_of
from modtrace.units import plural

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEW_RANKS, FEW_CALLS = 8, 200_000
"""So many ranks are opened without being asked for, if they have no more calls together."""
_MANY_SUMS: Final = 64
"""So many are where each wrote sums."""
_FEW: Final = 0.5
"""A rank with less than this part of the steps of its peers is not held against them."""


@dataclass(frozen=True)
class LateRank:
    """A rank that the others wait for.

    rank: its number.
    place: the module; None where it is the input, or all of its modules.
    since_step: the first step of it; None for all steps.
    verdict: the numbers.
    """

    rank: int
    place: Place | None
    since_step: int | None
    verdict: Straggler


@dataclass(frozen=True)
class ModuleOverRanks:
    """A module in forward or backward over the ranks of one role: its own time a step, median of each rank.

    role: number of the role.
    low_ns, median_ns, high_ns: the least of these, the upper median and the greatest.
    high_rank: the rank with the greatest.
    ranks: how many have it.
    by_rank: (rank, time) of each of these, in nanoseconds.
    """

    role: int
    place: Place
    low_ns: int
    median_ns: int
    high_ns: int
    high_rank: int
    ranks: int
    by_rank: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class RankReport:
    """The ranks of a job beside each other.

    ranks: each process, by rank and attempt.
    roles: number of the role of each, by the first rank that has it.
    modules: over the ranks of each role, the slowest first.
    late: ranks that the others wait for.
    compared: ranks that were held against peers.
    compared_steps: number of steps in which ranks were held against each other; 0 for none.
    from_sums: numbers of ranks are those that they added up themselves (`--rollups`); their calls were not opened.
    why_not: why no rank was held against others; "" where some were.
    """

    ranks: tuple[RankNumbers, ...]
    roles: tuple[int, ...]
    modules: tuple[ModuleOverRanks, ...]
    late: tuple[LateRank, ...]
    compared: frozenset[int]
    compared_steps: int
    why_not: str
    from_sums: bool = False

    @property
    def last_starts(self) -> list[RankNumbers]:
        """Of each rank its last start."""
        return [*{rank.rank: rank for rank in self.ranks}.values()]

    @property
    def missing(self) -> list[int]:
        """Ranks that the job has and that wrote nothing."""
        size = max((rank.world_size or 0 for rank in self.ranks), default=0)
        known = {rank.rank for rank in self.ranks}
        return [rank for rank in range(min(size, 1 << 16)) if rank not in known]


def soon_opened(stored: Stored) -> bool:
    """True for several ranks whose report takes little longer than the trace of one."""
    number = len(stored.folders())
    return 1 < number <= _MANY_SUMS and (few_to_open(stored) or has_sums(stored))


def few_to_open(stored: Stored) -> bool:
    """True for ranks so few, with so few calls, that all are opened without being asked for; one alone always is."""
    folders = stored.folders()
    return len(folders) == 1 or (len(folders) <= FEW_RANKS and noted_calls(folders) <= FEW_CALLS)


def has_sums(stored: Stored) -> bool:
    """True where the first rank wrote sums (`--rollups`): the others are taken to have done so too."""
    return len(stored.alone(stored.folders()[0]).unmerged("rollups")) > 0


def known_report(stored: Stored) -> RankReport | None:
    """The report of the job that a trace is of, or is one rank of, where no calls of ranks are opened for it that ended
    well: it was made already, or up to _MANY_SUMS ranks wrote sums. None otherwise, and for one rank.
    """
    job = stored.whole()
    number = len(job.folders())
    if number > 1 and (is_made(rank_report, job) or (number <= _MANY_SUMS and has_sums(job))):
        return rank_report(job)
    return None


@once
def rank_report(stored: Stored) -> RankReport:
    """The ranks of a trace, from the sums that each wrote. Where there are none the calls of one rank at a time are
    opened, and let go when they are added up.
    """
    ranks = without_waits(sorted(_each_rank(stored), key=lambda rank: (rank.rank, rank.attempt)))
    numbers: dict[Hashable, int] = {}
    roles = [numbers.setdefault(rank.role, len(numbers)) for rank in ranks]
    late: list[LateRank] = []
    modules: list[ModuleOverRanks] = []
    steps, reasons = 0, []
    against: set[int] = set()
    last = {rank.rank: place for place, rank in enumerate(ranks)}
    for role in dict.fromkeys(roles):
        group = [ranks[place] for place in last.values() if roles[place] == role and ranks[place].places]
        modules += _modules(group, role)
        group = _comparable(group)
        compared, found, why = _compared(group)
        steps, late = max(steps, compared), late + found
        against |= {rank.rank for rank in group} if compared else set()
        reasons += [why] if why else []
    modules.sort(key=lambda module: -module.high_ns)
    late.sort(key=lambda rank: -rank.verdict.excess_ns)
    return RankReport(
        ranks=tuple(replace(rank, times=NO_TIMES, launches=None) for rank in ranks),
        roles=tuple(roles),
        modules=tuple(modules),
        late=tuple(late),
        compared=frozenset(against),
        compared_steps=steps,
        why_not="" if steps else (reasons or [""])[0],
        from_sums=any(rank.from_sums for rank in ranks),
    )


def _each_rank(stored: Stored) -> Iterator[RankNumbers]:
    """The numbers of each process."""
    folders, width = stored.folders(), 0
    cells = max(MANY_CELLS // len(folders), 1 << 12)
    for folder in folders:
        one = stored.alone(folder)
        try:
            rank = reduced_from_sums(one, width) or reduced(one, cells)
        except TraceError as fault:
            rank = unreadable(folder.name, process_of(folder, 0).rank, str(fault))
        width = width or (rank.times.width if rank.from_sums else 0)
        yield rank


def _comparable(group: Sequence[RankNumbers]) -> list[RankNumbers]:
    """Those that have enough steps to be held against each other, and times of as many steps each: of most of them."""
    usual = float(np.median([rank.steps for rank in group])) if group else 0.0
    group = [rank for rank in group if rank.steps >= _FEW * usual]
    widths = Counter((rank.from_sums, rank.times.width) for rank in group).most_common(1)
    return [rank for rank in group if (rank.from_sums, rank.times.width) == widths[0][0]]


def _modules(group: Sequence[RankNumbers], role: int) -> list[ModuleOverRanks]:
    """The modules of the ranks of one role, merged by name."""
    times: dict[Place, list[tuple[float, int]]] = {}
    for rank in group:
        own = rank.times.own_ns[rank.times.counts]
        if not len(own):
            continue
        known: Bools = np.asarray(~np.isnan(own).all(axis=0), np.bool_)
        medians = np.zeros(own.shape[1])
        medians[known] = np.nanmedian(own[:, known], axis=0)
        for place, median, is_known in zip(rank.places, medians.tolist(), known.tolist(), strict=True):
            if is_known:
                times.setdefault(place, []).append((median, rank.rank))
    merged = []
    for place, pairs in times.items():
        ordered = sorted(pairs)
        high_ns, high_rank = ordered[-1]
        middle = ordered[(len(ordered) - 1) // 2][0]
        merged.append(
            ModuleOverRanks(
                role,
                place,
                int(ordered[0][0]),
                int(middle),
                int(high_ns),
                high_rank,
                len(ordered),
                tuple((rank, int(spent_ns)) for spent_ns, rank in pairs),
            )
        )
    return merged


def _compared(group: Sequence[RankNumbers]) -> tuple[int, list[LateRank], str]:
    """The ranks of one role held against each other: in how many steps, who is late, or why that cannot be told."""
    if len(group) < 2:
        return 0, [], "no two ranks run the same modules"
    devices = sorted({device for rank in group for device in rank.devices})
    if devices:
        return 0, [], f"times of modules are those of the host, {' and '.join(devices)} works behind it"
    common: Ints = group[0].times.number[group[0].times.counts]
    for rank in group[1:]:
        common = np.intersect1d(common, rank.times.number[rank.times.counts], assume_unique=True)
    if len(common) < MIN_STEPS:
        return 0, [], f"they have {plural(len(common), 'step')} in common that count, {MIN_STEPS} are needed"
    places = [
        place for place, ranks in Counter(p for rank in group for p in rank.places).items() if ranks > 1
    ]
    found = stragglers(_peers(group, places, common))
    late = [
        LateRank(
            rank=group[verdict.rank].rank,
            place=places[verdict.place] if verdict.place >= 0 else None,
            since_step=int(common[verdict.since]) if verdict.since else None,
            verdict=verdict,
        )
        for verdict in found
    ]
    steps = min(rank.steps for rank in group)
    return min(len(common) * group[0].times.width, steps), late, ""


def _peers(group: Sequence[RankNumbers], places: Sequence[Place], common: Ints) -> Peers:
    """Times of ranks in the same places and steps."""
    rows = [np.searchsorted(rank.times.number, common) for rank in group]
    own = []
    for rank, chosen in zip(group, rows, strict=True):
        column: dict[Any, int] = {place: number for number, place in enumerate(rank.places)}
        times = np.zeros((len(common), len(places)), np.float32)
        for number, place in enumerate(places):
            if place in column:
                times[:, number] = rank.times.own_ns[chosen, column[place]]
        own.append(times)

    def gathered(name: str) -> npt.NDArray[np.float64]:
        columns = [getattr(rank.times, name)[chosen] for rank, chosen in zip(group, rows, strict=True)]
        return np.stack(columns).astype(np.float64)

    width = group[0].times.width
    return Peers(own, gathered("data_ns"), gathered("duration_ns"), gathered("wait_ns"), width)
