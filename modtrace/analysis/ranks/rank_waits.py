"""Ranks that wait in a collective, and those that they wait for: from what each rank launched last."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.ranks.process_groups import GroupFacts, group_facts
from modtrace.analysis.ranks.rank_end import STANDS_NS, WRITTEN_NS, RankEnd
from modtrace.trace.reader import Stored

SAME_SIZE: Final = frozenset({"all_reduce", "broadcast"})
"""Operations to which all ranks give as many bytes."""


@dataclass(frozen=True)
class LaunchedCollective:
    """A collective that a rank has launched.

    sequence: its number in its group.
    waited_ns: how long it had been under way when it was last looked at; None once it is over.
    """

    group: GroupFacts
    sequence: int
    operation: str
    input_bytes: int | None
    waited_ns: int | None


@dataclass(frozen=True)
class RankCollectives:
    """The last collective that a rank launched in each group, by the group's key, and the first that is under way."""

    last: Mapping[Hashable, LaunchedCollective]
    under_way: Mapping[Hashable, LaunchedCollective]


@dataclass(frozen=True)
class StandingRank:
    """A rank as far as waiting goes.

    end: how it ended, or where it is; None for one that wrote nothing.
    """

    rank: int
    end: RankEnd | None
    collectives: RankCollectives | None


@dataclass(frozen=True)
class CollectiveWait:
    """A collective in which ranks wait.

    first: it, as the rank has it that has waited the longest.
    waiting: the ranks that wait in it.
    missing: the ranks of its group that have not launched it.
    others: ranks that have launched another one of the same number, with that.
    """

    first: LaunchedCollective
    waiting: tuple[StandingRank, ...]
    missing: tuple[StandingRank, ...]
    others: tuple[tuple[StandingRank, LaunchedCollective], ...]


def last_collectives(stored: Stored) -> RankCollectives | None:
    """The collectives that the process of a trace of one launched last; None where it launched none.

    Raises:
        TraceError: it cannot be read.
    """
    table = stored.unmerged("collectives")
    if not len(table):
        return None
    groups = group_facts(stored.unmerged("process_groups"), stored.process_without_calls())
    last: dict[Hashable, LaunchedCollective] = {}
    under_way: dict[Hashable, LaunchedCollective] = {}
    names = ("process_group", "sequence", "operation", "at_ns", "ended", "seen_ns", "input_bytes")
    columns = [table.column(name).to_pylist() for name in names]
    for key, sequence, operation, at_ns, ended, seen_ns, input_bytes in zip(*columns, strict=True):
        group = groups.get(key)
        if group is None or sequence is None:
            continue
        waited_ns = max(seen_ns - at_ns, 0) if ended is False else None
        one = LaunchedCollective(group, sequence, operation, input_bytes, waited_ns)
        known = last.get(group.key)
        if known is None or known.sequence <= sequence:
            last[group.key] = one
        if waited_ns is not None and (group.key not in under_way or sequence < under_way[group.key].sequence):
            under_way[group.key] = one
    return RankCollectives(last, under_way)


def collective_waits(ranks: Sequence[StandingRank]) -> list[CollectiveWait]:
    """The collectives in which ranks wait, those with missing ranks first; none where nobody waits for long."""
    stood_in = dict.fromkeys(
        (key, one.sequence) for rank in ranks for key, one in _under_way(rank).items() if _is_long(rank, one)
    )
    waits = []
    for key, sequence in stood_in:
        # Whoever is in one in which another has stood for long waits too.
        at = [
            rank for rank in ranks if key in _under_way(rank) and _under_way(rank)[key].sequence == sequence
        ]
        waits.append(_wait(key, sequence, at, ranks))
    chosen = [wait for wait in waits if not _follows(wait, waits)]
    chosen.sort(
        key=lambda wait: (not wait.missing, not wait.others, len(wait.missing), -(wait.first.waited_ns or 0))
    )
    return chosen


def _under_way(rank: StandingRank) -> Mapping[Hashable, LaunchedCollective]:
    """The first collective that is under way in each group of a rank that has not come to its end."""
    if rank.collectives is None or rank.end is None or not rank.end.is_open:
        return {}
    return rank.collectives.under_way


def _is_long(rank: StandingRank, one: LaunchedCollective) -> bool:
    """True where a rank has stood in a collective so long that it waits."""
    assert rank.end is not None
    return (one.waited_ns or 0) >= (STANDS_NS if rank.end.running else WRITTEN_NS)


def _wait(
    key: Hashable, sequence: int, at: Sequence[StandingRank], ranks: Sequence[StandingRank]
) -> CollectiveWait:
    def own(rank: StandingRank) -> LaunchedCollective:
        assert rank.collectives is not None
        return rank.collectives.under_way[key]

    first = own(max(at, key=lambda rank: own(rank).waited_ns or 0))
    same = [rank for rank in at if _is_same(own(rank), first)]
    others = [(rank, own(rank)) for rank in at if not _is_same(own(rank), first)]
    members = first.group.ranks if first.group.ranks is not None else tuple(rank.rank for rank in ranks)
    known = {rank.rank: rank for rank in ranks}
    missing = []
    for number in members:
        rank = known.get(number, StandingRank(number, None, None))
        last = rank.collectives.last.get(key) if rank.collectives is not None else None
        if last is None or last.sequence < sequence:
            missing.append(rank)
    return CollectiveWait(first, tuple(same), tuple(missing), tuple(others))


def _is_same(one: LaunchedCollective, other: LaunchedCollective) -> bool:
    """True where two ranks may have launched the same collective under one number."""
    sizes = {one.input_bytes, other.input_bytes}
    return one.operation == other.operation and (
        one.operation not in SAME_SIZE or None in sizes or len(sizes) == 1
    )


def _follows(wait: CollectiveWait, waits: Sequence[CollectiveWait]) -> bool:
    """True where all whom a collective waits for wait in another one themselves, which has others missing."""
    absent = {rank.rank for rank in wait.missing}
    return bool(absent) and any(
        absent <= {rank.rank for rank in other.waiting}
        and not absent & {rank.rank for rank in other.missing}
        and other.missing
        for other in waits
        if other is not wait
    )
