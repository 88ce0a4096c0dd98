"""Ranks that the others wait for are named, with the module; where nobody is late nobody is. All times are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from modtrace.analysis.ranks.stragglers import (
    INPUT_SLOW,
    MIN_STEPS,
    MODULE_SLOW,
    RANK_SLOW,
    Peers,
    change_point,
    stragglers,
    upper_median_of_others,
)

MS = 1e6
PLACES = 24
"""12 layers, forward and backward."""


class Job:
    """Times of a synchronous job: each step takes as long as its last rank, the others wait for it."""

    def __init__(self, seed, ranks=4, steps=100, noise=0.05):
        draw = self.draw = np.random.default_rng(seed)
        base = draw.uniform(1 * MS, 3 * MS, PLACES)
        # Modules differ between ranks a little all the time (caches, places in memory), from step to step more, and
        # some calls are interrupted.
        usual = base * (1 + 0.003 * draw.standard_normal((ranks, 1, PLACES)))
        self.own = usual * np.exp(noise * draw.standard_normal((ranks, steps, PLACES)))
        self.own *= np.where(draw.random(self.own.shape) < 0.01, draw.uniform(1, 6, self.own.shape), 1)
        self.data = np.abs(draw.normal(0.2 * MS, 0.05 * MS, (ranks, steps)))
        self.other = np.abs(draw.normal(1 * MS, 0.1 * MS, (ranks, steps)))
        self.known_wait = True

    def peers(self):
        busy = self.own.sum(axis=2) + self.data + self.other
        duration = np.broadcast_to(busy.max(axis=0) + 0.3 * MS, busy.shape)
        own, wait = self.own, duration - busy
        if not self.known_wait:  # it is in a module, as with collectives in a forward
            own = own.copy()
            own[:, :, -1] += wait
            wait = np.zeros_like(wait)
        return Peers([times.astype(np.float32) for times in own], self.data, duration, wait)


def named(job):
    return [(one.cause, one.rank, one.place) for one in stragglers(job.peers())]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_nobody_is_named_where_nobody_is_late(ranks):
    assert [named(Job(seed, ranks)) for seed in range(100)] == [[]] * 100


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_module_that_is_a_fifth_slower_is_named_in_every_run(ranks):
    for seed in range(100):
        job, planted = fifth_slower(seed, ranks, noise=0.02)
        assert named(job) == [planted], seed


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_where_steps_differ_more_another_is_never_named(ranks):
    found = [(named(job), planted) for job, planted in (fifth_slower(seed, ranks) for seed in range(100))]
    assert all(verdicts in ([], [planted]) for verdicts, planted in found)
    assert sum(bool(verdicts) for verdicts, _ in found) >= 80


def fifth_slower(seed, ranks, **facts):
    """A job in which a module of a rank takes 20 % longer, and the verdict about it."""
    job = Job(seed, ranks, **facts)
    rank, place = int(job.draw.integers(ranks)), int(job.draw.integers(PLACES))
    job.own[rank, :, place] *= 1.2
    return job, (MODULE_SLOW, rank, place)


@pytest.mark.parametrize("steps", [MIN_STEPS, 25, 60])
def test_a_pause_is_named_after_few_steps(steps):
    for seed in range(25):
        job = Job(seed, steps=steps, noise=0.2)
        job.own[2, :, 5] += 10 * MS
        (found,) = stragglers(job.peers())
        assert (found.cause, found.rank, found.place, found.since) == (MODULE_SLOW, 2, 5, 0)
        assert found.excess_ns == pytest.approx(10 * MS, rel=0.1)


def test_what_would_be_saved_is_what_the_others_wait():
    before = np.median(Job(1).peers().duration)
    job = Job(1)
    job.own[2, :, 5] += 10 * MS
    (found,) = stragglers(job.peers())
    assert found.gain == pytest.approx(1 - before / np.median(job.peers().duration), abs=0.02)


def test_slow_input_is_told_from_slow_modules():
    for seed in range(20):
        job = Job(seed)
        job.data[1] += 5 * MS
        assert named(job) == [(INPUT_SLOW, 1, -1)]


def test_a_rank_that_is_slow_in_everything_is_one_verdict():
    for seed in range(20):
        job = Job(seed)
        job.own[3] *= 1.25
        assert named(job) == [(RANK_SLOW, 3, -1)]


def test_two_causes_are_two_verdicts():
    job = Job(5)
    job.own[1, :, 3] += 8 * MS
    job.data[1] += 6 * MS
    assert named(job) == [(MODULE_SLOW, 1, 3), (INPUT_SLOW, 1, -1)]


def test_of_two_late_ranks_the_later_is_named():
    """The other one waits for it."""
    job = Job(5)
    job.own[1, :, 3] += 8 * MS
    job.data[2] += 3 * MS
    assert named(job) == [(MODULE_SLOW, 1, 3)]


def test_ranks_that_are_late_by_the_same_are_all_named():
    """Those of a slow machine."""
    job = Job(6, ranks=8)
    job.own[4:6] *= 1.3
    assert set(named(job)) == {(RANK_SLOW, 4, -1), (RANK_SLOW, 5, -1)}


@pytest.mark.parametrize("slow", ["module", "data", "other"])
def test_who_waits_in_a_module_for_a_part_of_the_ranks_is_not_named(slow):
    """Tensor parallel pairs: rank 1 waits for rank 0 in a module, the others for both of them behind it."""
    for seed in range(25):
        job = Job(seed)
        late = 15 * MS
        if slow == "module":
            job.own[0, :, 2] += late
        else:
            getattr(job, slow)[0] += late
        job.own[1, :, -1] += late
        assert {rank for _, rank, _ in named(job)} <= {0}


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("slow", ["module", "data", "other"])
def test_a_rank_that_waits_is_never_named(ranks, slow):
    """Where the waiting shows in a module no rank may be named but the one that the others wait for."""
    for seed in range(25):
        job = Job(seed, ranks)
        job.known_wait = False
        if slow == "module":
            job.own[0, :, 2] += 15 * MS
        else:
            getattr(job, slow)[0] += 15 * MS
        assert {rank for _, rank, _ in named(job)} <= {0}


def test_a_late_start_is_dated():
    job = Job(2, steps=400)
    job.own[1, 250:, 7] += 6 * MS
    (found,) = stragglers(job.peers())
    assert (found.rank, found.place) == (1, 7)
    assert abs(found.since - 250) <= 2


def test_a_start_in_the_last_quarter_is_found():
    job = Job(3, steps=400)
    job.own[1, 340:, 7] += 6 * MS
    (found,) = stragglers(job.peers())
    assert (found.rank, found.place) == (1, 7)
    assert abs(found.since - 340) <= 2


def test_too_few_steps_or_no_peers_say_nothing():
    job = Job(4, steps=MIN_STEPS - 1)
    job.own[1, :, 7] += 60 * MS
    assert not named(job)
    assert not named(Job(4, ranks=1))


def test_unknown_times_name_nobody():
    job = Job(4)
    job.own[1, 50:, 7] = np.nan
    assert not named(job)


def test_the_upper_median_of_the_others():
    """Against the same by hand."""
    draw = np.random.default_rng(0)
    for ranks in range(2, 9):
        values = draw.integers(0, 5, (ranks, 7)).astype(float)
        expected = [
            [sorted(np.delete(values[:, step], rank))[(ranks - 1) // 2] for step in range(7)]
            for rank in range(ranks)
        ]
        assert upper_median_of_others(values).tolist() == expected


def test_change_points():
    steps = np.zeros(50)
    assert change_point(steps + 3) == 0
    steps[20:] = 5
    assert change_point(steps) == 20


def test_a_machine_that_disturbs_whole_ranks_hides_few_slow_modules():
    """Other work takes each rank many times the difference, in some of its modules at a time, for some steps."""
    verdicts = []
    for seed in range(20):
        job, planted = fifth_slower(seed, 4, noise=0.01)
        ranks, steps, _ = job.own.shape
        for first in range(0, steps, 6):
            disturbed = job.draw.random((ranks, 1, PLACES)) < 0.15
            job.own[:, first : first + 6] += np.where(
                disturbed, job.draw.uniform(0, 4 * MS, disturbed.shape), 0
            )
        job.other += job.draw.exponential(6 * MS, job.other.shape)
        verdicts.append((named(job), planted))
    assert all(found in ([], [planted]) for found, planted in verdicts)
    assert sum(bool(found) for found, _ in verdicts) >= 15


@pytest.mark.parametrize(("excess_ns", "is_named"), [(0.4 * MS, False), (3 * MS, True)])
def test_what_is_left_of_a_container_is_no_straggler(excess_ns, is_named):
    """Its own time is next to nothing, and differs by what the calls in it cost on each rank."""
    job = Job(3, noise=0.01)
    job.own[:, :, 5] = 0
    job.own[2, :, 5] = excess_ns * (1 + 0.05 * job.draw.standard_normal(job.own.shape[1]))
    assert named(job) == ([(MODULE_SLOW, 2, 5)] if is_named else [])
