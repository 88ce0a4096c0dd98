"""Own times of modules without what they stood in collectives: of ranks that are played."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modtrace.analysis.ranks.process_groups import GroupFacts
from modtrace.analysis.ranks.rank_arrivals import RankLaunches
from modtrace.analysis.ranks.rank_end import RankEnd
from modtrace.analysis.ranks.rank_numbers import PHASE_KEYS, Place, RankNumbers, RankStepTimes
from modtrace.analysis.ranks.standing_waits import without_waits

STEPS = 30
OWN, TRANSFER = 400_000, 90_000
PLACES = (Place("before", "M", "forward"), Place("reduces", "M", "forward"))


def played(before_ns, *, stands, clocks=("clock",) * 4, seed=0, gap=None, waits_at_the_end=False):
    """Ranks of two modules: the first takes what is given (steps, ranks), the second launches a collective at once and
    then works for OWN. Where it stands it begins to work once all have launched and the transfer is done; else it goes
    on, and waits at the end of the step. Steps begin on all ranks at once.
    """
    chance, ranks = np.random.default_rng(seed), before_ns.shape[1]
    group = GroupFacts("world", "0", "default_pg", tuple(range(ranks)))
    work = OWN + chance.integers(-20_000, 20_000, before_ns.shape)
    transfer = TRANSFER + chance.integers(0, 10_000, before_ns.shape)
    launch = np.arange(STEPS)[:, None] * 1_000_000_000 + before_ns
    goes_on = launch.max(axis=1, keepdims=True) + transfer if stands else launch
    ends = goes_on + work
    if waits_at_the_end:
        ends = np.maximum(ends, launch.max(axis=1, keepdims=True) + transfer)
    free = ends if gap is None else np.minimum(ends, launch + gap)
    made = []
    for rank in range(ranks):
        own = np.stack([before_ns[:, rank], (ends - launch)[:, rank]], axis=1).astype(np.float32)
        flat = np.zeros(STEPS, np.float32)
        times = RankStepTimes(np.arange(STEPS), np.ones(STEPS, np.bool_), flat + 1e9, flat, flat, own)
        at_ns = launch[:, rank] - rank * 12_345  # its recording began later
        launches = RankLaunches(
            (group,), ("all_reduce",), np.zeros(STEPS, np.int64), np.zeros(STEPS, np.int64), np.arange(STEPS), at_ns,
            np.arange(STEPS), at_ns + 900_000_000, np.ones(STEPS, np.int64), free[:, rank] - rank * 12_345,
            np.ones(STEPS, np.bool_), 10**18 + rank * 12_345, clocks[rank],
        )  # fmt: skip
        end = RankEnd("exit 0", failed=False, running=False)
        made.append(
            RankNumbers(
                f"rank-{rank}", rank, 0, ranks, end, STEPS, STEPS, dict.fromkeys(PHASE_KEYS), PLACES, "role", times, (),
                launches=launches,
            )
        )  # fmt: skip
    return made, work, transfer


def before(ranks, slow_ns, seed=0):
    """The last rank takes longer."""
    spent = 2_000_000 + np.random.default_rng(seed + 99).integers(-100_000, 100_000, (STEPS, ranks))
    spent[:, -1] += slow_ns
    return spent


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("slow_ns", [0, 300_000, 5_000_000])
def test_what_ranks_stood_is_taken_out(ranks, slow_ns):
    """What is left is work and transfer, which these ranks had: by how they are played, not by what was measured. It is
    no less than those of last ranks.
    """
    made, work, transfer = played(before(ranks, slow_ns), stands=True)
    waited = [*np.transpose(before(ranks, slow_ns).max(axis=1, keepdims=True) - before(ranks, slow_ns))]
    spent = work + transfer
    least = np.median(spent[np.arange(STEPS), before(ranks, slow_ns).argmax(axis=1)])
    for rank, (one, less) in enumerate(zip(made, without_waits(made), strict=True)):
        left = np.minimum(np.maximum(spent[:, rank], least), spent[:, rank] + waited[rank])
        np.testing.assert_allclose(less.times.own_ns[:, 1], left, rtol=1e-5, atol=4)
        np.testing.assert_array_equal(less.times.own_ns[:, 0], one.times.own_ns[:, 0])
        np.testing.assert_allclose(
            less.times.wait_ns, spent[:, rank] + waited[rank] - left, rtol=1e-5, atol=40
        )
        if waited[rank].any():  # else its numbers are as they were
            own = sorted(before(ranks, slow_ns)[:, rank] + left)
            assert less.phases_ns["modules_ns"] == pytest.approx(own[(STEPS - 1) // 2], rel=1e-5)
        assert less.wait_ns == sorted(waited[rank])[(STEPS - 1) // 2]


@pytest.mark.parametrize("slow_ns", [0, 150_000, 300_000, 5_000_000])
def test_work_beside_a_collective_is_not_taken_out(slow_ns):
    """Launched, worked, and then waited for: each rank has its work left, however long it stood behind that."""
    made, work, _ = played(before(4, slow_ns), stands=False, waits_at_the_end=True)
    for rank, less in enumerate(without_waits(made)):
        over = less.times.own_ns[:, 1] - work[:, rank]
        assert over.min() > -60_000
        assert over.max() < (
            60_000 if slow_ns > 1_000_000 else slow_ns + 200_000
        )  # short waits are not told apart


@pytest.mark.parametrize("gap", [None, 30_000, 3_000_000])
@pytest.mark.parametrize("slow_ns", [0, 150_000, 300_000, 5_000_000])
def test_who_goes_on_at_once_keeps_its_own_time(slow_ns, gap):
    """The wait is over when the step ends, and the module has worked meanwhile."""
    made, _, _ = played(before(4, slow_ns), stands=False, gap=gap)
    for one, less in zip(made, without_waits(made), strict=True):
        np.testing.assert_array_equal(less.times.own_ns, one.times.own_ns)
        assert less.wait_ns is not None


def test_clocks_that_are_not_one_take_nothing_out():
    made, _, _ = played(before(2, 5_000_000), stands=True, clocks=("one", "other"))
    for one, less in zip(made, without_waits(made), strict=True):
        np.testing.assert_array_equal(less.times.own_ns, one.times.own_ns)
        assert less.wait_ns is None


def test_few_collectives_take_nothing_out():
    made, _, _ = played(before(2, 5_000_000), stands=True)
    place = np.where(np.arange(STEPS) < 3, 1, -1)
    few = [replace(one, launches=replace(one.launches, place=place)) for one in made]
    for one, less in zip(few, without_waits(few), strict=True):
        np.testing.assert_array_equal(less.times.own_ns, one.times.own_ns)
