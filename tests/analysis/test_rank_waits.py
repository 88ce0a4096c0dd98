"""Who is missing from a collective, and what is said of it."""

from __future__ import annotations

from modtrace.analysis.ranks.process_groups import GroupFacts
from modtrace.analysis.ranks.rank_end import STANDS_NS, WRITTEN_NS, RankEnd
from modtrace.analysis.ranks.rank_waits import (
    LaunchedCollective,
    RankCollectives,
    StandingRank,
    collective_waits,
)
from modtrace.views.ranks import waits_text

WORLD = GroupFacts("world", "0", "default_pg", (0, 1, 2, 3))
PAIR = GroupFacts("pair", "1", "undefined", (0, 1))
MIB = 1 << 20


def end(*, running=True, failed=False, state=None, place="backward", open_ns=STANDS_NS, step=7):
    state = state if state is not None else "still running" if running else "killed"
    return RankEnd(state, failed, running, place=place, open_ns=open_ns, step=step)


def standing(rank, *launched, **facts):
    """A rank: (group, number, operation, bytes, how long it has been under way), the last of each group last."""
    rows = [LaunchedCollective(*one) for one in launched]
    last = {row.group.key: row for row in rows}
    under_way = {row.group.key: row for row in reversed(rows) if row.waited_ns is not None}
    return StandingRank(rank, end(**facts), RankCollectives(last, under_way))


def waits(rank, number=41, waited_ns=STANDS_NS, group=WORLD, operation="all_reduce", size=4 * MIB, **facts):
    before = (group, number - 1, operation, size, None)
    return standing(rank, before, (group, number, operation, size, waited_ns), **facts)


def done(rank, number=40, group=WORLD, **facts):
    return standing(rank, (group, number, "all_reduce", 4 * MIB, None), **facts)


def texts(*ranks):
    return [waits_text(wait) for wait in collective_waits(ranks)]


def test_a_rank_that_does_not_come():
    (text,) = texts(waits(0), waits(1), done(2, place="layers.3", open_ns=12_000_000_000), waits(3))
    assert text == (
        "rank 2 is missing from all_reduce 41 of 4.00 MiB (group default_pg): ranks 0-1, 3 wait in backward for at "
        "least 5.00 s; rank 2's last is 40, it is in layers.3, at step 7, for at least 12.0 s"
    )


def test_ranks_that_are_gone_or_never_wrote():
    (text,) = texts(
        waits(0, operation="barrier", size=0),
        StandingRank(1, None, None),
        done(2, running=False, state="exit 0"),
        StandingRank(3, end(running=False, place="", step=None), None),
    )
    assert text == (
        "ranks 1-3 are missing from barrier 41 (group default_pg): rank 0 waits in backward for at least 5.00 s; "
        "rank 1 has written nothing; rank 2's last is 40, it has ended; "
        "rank 3 has called none, it was in no module, for at least 5.00 s"
    )


def test_a_wait_is_one_only_when_it_has_been_seen_for_long():
    others = (done(1), done(2), done(3))
    assert texts(waits(0, waited_ns=STANDS_NS - 1), *others) == []
    assert texts(waits(0, waited_ns=WRITTEN_NS, running=False), *others)
    assert texts(waits(0, waited_ns=WRITTEN_NS - 1, running=False), *others) == []
    assert texts(waits(0, running=False, state="exit 0"), *others) == []
    assert texts(*others, done(0)) == []


def test_whoever_is_in_it_beside_one_that_waits_waits_too():
    (wait,) = collective_waits([waits(0, waited_ns=1), waits(1), done(2), waits(3, waited_ns=0)])
    assert [rank.rank for rank in wait.waiting] == [0, 1, 3]
    assert wait.first.waited_ns == STANDS_NS


def test_ranks_that_have_gone_further_are_not_missing():
    (wait,) = collective_waits([waits(0), done(1, number=45), done(2, number=41), done(3, number=40)])
    assert [rank.rank for rank in wait.missing] == [3]


def test_the_first_of_several_under_way_is_waited_in():
    several = standing(
        0,
        (WORLD, 40, "all_reduce", 4 * MIB, None),
        (WORLD, 41, "all_reduce", 4 * MIB, STANDS_NS),
        (WORLD, 42, "all_reduce", 4 * MIB, 1),
    )
    (wait,) = collective_waits([several, waits(1), waits(2), done(3)])
    assert wait.first.sequence == 41
    assert [rank.rank for rank in wait.waiting] == [0, 1, 2]


def test_ranks_that_call_different_collectives():
    (text,) = texts(
        waits(0), waits(1, operation="barrier", size=0), waits(2, operation="barrier", size=0), waits(3)
    )
    assert text == (
        "ranks have called different collectives (group default_pg): ranks 0, 3 wait in all_reduce 41 of 4.00 MiB, "
        "ranks 1-2 in barrier 41, for at least 5.00 s"
    )
    (text,) = texts(waits(0), waits(1), waits(2), waits(3, size=8))
    assert "rank 3 in all_reduce 41 of 8 B" in text
    (wait,) = collective_waits([waits(0, size=None), waits(1), waits(2), waits(3)])
    assert not wait.others  # a size that is not known is no other one


def test_one_that_all_have_called():
    (text,) = texts(*(waits(rank) for rank in range(4)))
    assert text.startswith(
        "all ranks have called all_reduce 41 of 4.00 MiB (group default_pg), and it has not ended"
    )


def test_whoever_waits_for_one_that_waits_is_not_told():
    """Rank 0 waits for 1 in a group of two, and the others wait for both in that of all."""
    ranks = [waits(0, number=9, group=PAIR), done(1, number=8, group=PAIR), waits(2), waits(3)]
    shown = texts(*ranks)
    assert shown[0].startswith(
        "rank 1 is missing from all_reduce 9 of 4.00 MiB (group 1): rank 0 waits in backward"
    )
    assert shown[1].startswith("ranks 0-1 are missing from all_reduce 41")
    world = [waits(1), waits(2), waits(3)]
    chain = collective_waits(
        [*world, waits(0, number=9, group=GroupFacts("other", "2", "", (0, 7))), done(7, number=8)]
    )
    assert [wait.first.group.key for wait in chain] == ["other"]
