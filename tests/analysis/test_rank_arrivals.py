"""Waiting of ranks in steps: against a count of nanoseconds, one at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from modtrace.analysis.ranks.process_groups import GroupFacts
from modtrace.analysis.ranks.rank_arrivals import RankLaunches, median_wait, waits_beside

WORLD = GroupFacts("world", "0", "default_pg", (0, 1, 2))
PAIR = GroupFacts("pair", "1", "undefined", (0, 1))
STEP_NS = 100


def launches(rows, *, steps, started=0, clock="clock", counts=None):
    """A rank: rows of (group, number, operation, when), the steps of STEP_NS each."""
    rows = sorted(rows, key=lambda row: row[3])
    groups, operations = [WORLD, PAIR], ["all_reduce", "barrier"]
    at_ns = np.array([row[3] for row in rows], np.int64)
    step = np.where(at_ns < steps * STEP_NS, at_ns // STEP_NS, -1)
    return RankLaunches(
        tuple(groups), tuple(operations), np.array([groups.index(row[0]) for row in rows], np.int64),
        np.array([operations.index(row[2]) for row in rows], np.int64), np.array([row[1] for row in rows], np.int64),
        at_ns, step, np.where(step >= 0, (step + 1) * STEP_NS, -1),
        np.full(len(rows), -1), np.full(len(rows), -1),
        np.ones(steps, np.bool_) if counts is None else np.array(counts), started, clock,
    )  # fmt: skip


def waits_of_ranks(ranks):
    """Of each rank its waiting in a step."""
    waits = waits_beside(ranks)
    return None if waits is None else [*map(median_wait, ranks, waits)]


def counted(rank, rows_of, steps):
    """The median of the nanoseconds of a step in which something of this rank had not been launched by all."""
    spent = []
    for step in range(steps):
        waited = set()
        for group, number, operation, at in rows_of[rank]:
            if at // STEP_NS == step:
                last = max(
                    row[3] for rows in rows_of for row in rows if row[:3] == (group, number, operation)
                )
                waited |= set(range(at, min(last, (step + 1) * STEP_NS)))
        spent.append(len(waited))
    return sorted(spent)[(steps - 1) // 2]


@pytest.mark.parametrize("seed", range(20))
def test_waiting_is_that_counted_by_nanoseconds(seed):
    rng = random.Random(seed)
    steps, rows_of = rng.randint(1, 9), [[], [], []]
    for number in range(1, 4 * steps):
        group, operation = rng.choice([(WORLD, "all_reduce"), (PAIR, "barrier")])
        for rank in group.ranks:
            rows_of[rank].append((group, number, operation, rng.randrange(steps * STEP_NS)))
    started = [rng.randrange(1_000) for _ in rows_of]  # recordings begin at other times
    shifted = [
        replace(launches(rows, steps=steps), started_unix_ns=10_000 - begun)
        for rows, begun in zip(rows_of, started, strict=True)
    ]
    shifted = [
        replace(rank, at_ns=rank.at_ns + begun, step_end_ns=rank.step_end_ns + begun)
        for rank, begun in zip(shifted, started, strict=True)
    ]
    assert waits_of_ranks(shifted) == [counted(rank, rows_of, steps) for rank in range(3)]


def test_a_step_of_which_not_all_is_known_does_not_count():
    one = launches([(WORLD, 1, "barrier", 10), (WORLD, 2, "barrier", 110)], steps=2)
    others = [launches([(WORLD, 1, "barrier", 60), (WORLD, 2, "barrier", 190)], steps=2)] * 2
    assert waits_of_ranks([one, *others]) == [50, 0, 0]
    late = launches(
        [(WORLD, 1, "barrier", 60)], steps=2
    )  # what it launched in the second step is not recorded
    assert waits_of_ranks([one, late, late]) == [50, 0, 0]
    assert waits_of_ranks([replace(one, counts=np.array([False, True])), late, late])[0] is None


def test_clocks_that_are_not_one_say_nothing():
    ranks = [launches([(PAIR, 1, "barrier", at)], steps=1) for at in (10, 60)]
    assert waits_of_ranks(ranks) == [50, 0]
    assert waits_of_ranks([ranks[0], replace(ranks[1], clock="another")]) is None
    assert waits_of_ranks([replace(rank, clock=None) for rank in ranks]) is None
    assert waits_of_ranks([]) is None


def test_another_operation_of_the_same_number_is_not_the_same():
    ranks = [launches([(PAIR, 1, name, 10)], steps=1) for name in ("barrier", "all_reduce")]
    assert waits_of_ranks(ranks) == [None, None]
