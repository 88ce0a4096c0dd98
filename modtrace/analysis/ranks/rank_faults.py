"""Ranks in trouble: the one that failed first, those that are missing, those that stand behind the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modtrace.analysis.ranks.rank_numbers import RankNumbers
from modtrace.analysis.ranks.rank_report import RankReport
from modtrace.analysis.ranks.rank_waits import CollectiveWait, StandingRank, collective_waits

SLACK_NS: Final = 2_000_000_000
"""Clocks of machines may differ by so much."""


@dataclass(frozen=True)
class RankFaults:
    """Ranks in trouble, by the last start of each.

    first: the rank that failed first; None where none did, or where it cannot be told which.
    noticed: those that failed because another one was gone.
    killed: those that left no end.
    missing: those that wrote nothing at all.
    behind: those that stand and have come less far than all others, where every rank that is in the middle of
        something stands; else empty.
    ahead: those that have come as far as any, and have not come to their end.
    waits: collectives in which ranks wait.
    unequal: (fewest, most) steps of ranks that all ended well, where these differ.
    """

    first: RankNumbers | None
    noticed: list[RankNumbers]
    killed: list[RankNumbers]
    missing: list[int]
    behind: list[RankNumbers]
    ahead: list[RankNumbers]
    waits: list[CollectiveWait]
    unequal: tuple[int, int] | None


def rank_faults(report: RankReport) -> RankFaults:
    """Ranks in trouble."""
    ranks = [rank for rank in report.last_starts if rank.fault is None]
    killed = [rank for rank in ranks if rank.end.left_no_end]
    failed = [rank for rank in ranks if rank.end.failed]
    several = len(ranks) + len(report.missing) > 1
    behind, ahead = _behind(ranks) if several else ([], [])
    well = [rank.steps for rank in ranks if not rank.end.failed and not rank.end.running]
    differ = several and len(well) == len(ranks) and len(set(well)) > 1
    return RankFaults(
        first=_first(failed, killed),
        noticed=[rank for rank in failed if rank.end.noticed],
        killed=killed,
        missing=report.missing,
        behind=behind,
        ahead=ahead,
        waits=_waits(ranks, report.missing),
        unequal=(min(well), max(well)) if differ else None,
    )


def _waits(ranks: list[RankNumbers], missing: list[int]) -> list[CollectiveWait]:
    standing = [StandingRank(rank.rank, rank.end, rank.collectives) for rank in ranks]
    return collective_waits([*standing, *(StandingRank(rank, None, None) for rank in missing)])


def _first(failed: list[RankNumbers], killed: list[RankNumbers]) -> RankNumbers | None:
    """The rank that failed first.

    An error of its own comes before all others: what is killed, or notices that another is gone, may be so because of
    it. Without one it is a rank that was killed, if there is only one: of several nobody knows when each was.
    """
    own = [rank for rank in failed if rank.end.error is not None and not rank.end.noticed]
    if not own:
        killed = [rank for rank in killed if not rank.end.noticed]
        return killed[0] if len(killed) == 1 else None
    own.sort(key=lambda rank: rank.end.at_unix_ns or 0)
    if len(own) == 1:
        return own[0]
    times = [rank.end.at_unix_ns for rank in own[:2]]
    first, second = times
    same_error = own[0].end.error == own[1].end.error
    if first is None or second is None or (same_error and second - first < SLACK_NS):
        return None  # the same fault in each of them
    return own[0]


def _behind(ranks: list[RankNumbers]) -> tuple[list[RankNumbers], list[RankNumbers]]:
    """Ranks that came less far than all others, and those that came as far as any, where somebody waits or was killed.

    What a rank that ended well did is at least as far.
    """
    in_the_middle = [rank for rank in ranks if rank.end.is_open]
    if not in_the_middle or not all(rank.end.stands for rank in in_the_middle):
        return [], []  # what was written last may be a second old
    least = min(rank.end.progress for rank in in_the_middle)
    behind = [rank for rank in in_the_middle if rank.end.progress == least]
    ahead = [rank for rank in in_the_middle if rank.end.progress > least]
    ended = [rank for rank in ranks if not rank.end.is_open]
    return (behind, ahead) if ahead or ended else ([], [])
