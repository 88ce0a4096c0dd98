"""Exact tests against counting by hand, and against scipy where it is installed."""

from __future__ import annotations

import math
import random
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modtrace.analysis.comparing.rank_statistics import (
    ERROR_RATE,
    benjamini_hochberg,
    beyond_chance,
    joint_p_values,
    mann_whitney,
    ratio_interval,
)

SMALL = st.lists(st.integers(1, 6), min_size=1, max_size=5)
POSITIVE = st.lists(st.floats(0.1, 10, allow_nan=False), min_size=1, max_size=5)


def statistic(first, second):
    """Mann-Whitney's U: pairs in which the second is larger, halves for equal ones."""
    return sum((b > a) + 0.5 * (a == b) for a in first for b in second)


def counted_p(first, second):
    """The same by all ways of dealing the values."""
    values, seen = [*first, *second], statistic(first, second)
    every = []
    for chosen in combinations(range(len(values)), len(first)):
        inside = [values[i] for i in chosen]
        outside = [values[i] for i in range(len(values)) if i not in chosen]
        every.append(statistic(inside, outside))
    low = sum(u <= seen for u in every) / len(every)
    high = sum(u >= seen for u in every) / len(every)
    return min(2 * min(low, high), 1)


@given(SMALL, SMALL)
def test_mann_whitney_is_what_counting_gives(first, second):
    assert mann_whitney(first, second) == pytest.approx(counted_p(first, second))


@pytest.mark.parametrize(("runs", "p"), [(3, 2 / 20), (4, 2 / 70), (5, 2 / 252), (6, 2 / 924)])
def test_least_p_of_wholly_separated_runs(runs, p):
    assert mann_whitney(range(runs), range(100, 100 + runs)) == pytest.approx(p)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=9, unique=True), st.integers(1, 8))
def test_mann_whitney_is_that_of_scipy(values, cut):
    stats = pytest.importorskip("scipy.stats")
    first, second = values[:cut], values[cut:]
    if second:
        expected = stats.mannwhitneyu(first, second, method="exact").pvalue
        assert mann_whitney(first, second) == pytest.approx(expected)


def test_many_runs():
    drawn = random.Random(0)
    first, second = ([drawn.random() for _ in range(60)] for _ in range(2))
    assert 0 < mann_whitney(first, second) <= 1
    assert mann_whitney(first, [value + 2 for value in second]) < 1e-30


@given(st.lists(st.floats(0, 1), max_size=12))
def test_benjamini_hochberg_is_its_definition(p_values):
    rates = benjamini_hochberg(p_values)
    for level in (0.01, 0.05, 0.2, 0.5):
        passed = [p <= level * place / len(p_values) for place, p in enumerate(sorted(p_values), 1)]
        last = max((place for place, ok in enumerate(passed, 1) if ok), default=0)
        threshold = sorted(p_values)[last - 1] if last else -1
        near = any(math.isclose(p * len(p_values) / k, level) for p in p_values for k in range(1, 13))
        if not near:  # rounding decides there
            assert [rate <= level for rate in rates] == [p <= threshold for p in p_values]


@given(POSITIVE, POSITIVE)
def test_the_ratio_is_the_median_over_pairs(first, second):
    ratios = sorted(math.log(b / a) for a, b in product(first, second))
    middle = len(ratios) // 2
    median = ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2
    found = ratio_interval(first, second)
    assert found.ratio == pytest.approx(math.exp(median))
    if found.low is not None:
        assert found.low <= found.ratio <= found.high


@pytest.mark.parametrize(
    ("first", "second", "told"), [(3, 3, False), (4, 4, True), (1, 20, False), (2, 8, True)]
)
def test_of_too_few_runs_there_is_no_interval(first, second, told):
    found = ratio_interval([1.0 + i / 100 for i in range(first)], [2.0 + i / 100 for i in range(second)])
    assert (found.low is not None) == (found.high is not None) == told


@pytest.mark.parametrize("runs", [4, 5, 6, 7])
def test_the_interval_holds_what_the_test_does_not_refuse(runs):
    """By its duality: a ratio is outside exactly where the test of the runs divided by it passes."""
    drawn = random.Random(runs)
    for _ in range(50):
        first, second = ([drawn.lognormvariate(0, 0.1) for _ in range(runs)] for _ in range(2))
        found = ratio_interval(first, second)
        for ratio in (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3):
            inside = found.low <= ratio <= found.high
            assert inside == (mann_whitney([a * ratio for a in first], second) > ERROR_RATE)


def counted_joint(first, second):
    """Westfall and Young's step-down p by its definition, one split and one quantity after another."""
    values = np.log(np.concatenate([first, second], axis=1))
    count, total = first.shape[1], first.shape[1] + second.shape[1]

    def stands_out(row, chosen):
        one = [row[i] for i in chosen]
        other = [row[i] for i in range(total) if i not in chosen]
        means = sum(one) / len(one), sum(other) / len(other)
        within = sum((v - means[0]) ** 2 for v in one) + sum((v - means[1]) ** 2 for v in other)
        return abs(means[1] - means[0]) / math.sqrt(within / (total - 2))

    real = [stands_out(row, range(count)) for row in values]
    splits = list(combinations(range(total), count))
    measures = [[stands_out(row, chosen) for row in values] for chosen in splits]
    order = sorted(range(len(real)), key=lambda i: -real[i])
    found, least = {}, 0.0
    for place, quantity in enumerate(order):
        rivals = order[place:]
        times = sum(max(measure[i] for i in rivals) >= real[quantity] * (1 - 1e-9) for measure in measures)
        least = max(least, times / len(splits))
        found[quantity] = least
    return [found[i] for i in range(len(real))]


@pytest.mark.parametrize("seed", range(8))
def test_the_joint_test_is_its_definition(seed):
    drawn = np.random.default_rng(seed)
    first, second = np.exp(drawn.normal(0, 0.05, (5, 4))), np.exp(drawn.normal(0, 0.05, (5, 4)))
    second[0] *= 1.4
    assert joint_p_values(first, second) == pytest.approx(counted_joint(first, second))


def test_one_module_of_forty_is_told_with_five_runs_a_side():
    """Benjamini-Hochberg alone never could: 40 times the least p, 2 of 252, is 0.32."""
    drawn = np.random.default_rng(1)
    first, second = np.exp(drawn.normal(0, 0.01, (40, 5))), np.exp(drawn.normal(0, 0.01, (40, 5)))
    second[7] *= 1.15
    p_values, told = beyond_chance(first, second)
    assert min(benjamini_hochberg(p_values)) > ERROR_RATE
    assert [number for number, different in enumerate(told) if different] == [7]


def test_that_all_have_changed_a_little_is_told():
    drawn = np.random.default_rng(2)
    first, second = np.exp(drawn.normal(0, 0.02, (40, 5))), np.exp(drawn.normal(0.08, 0.02, (40, 5)))
    assert sum(beyond_chance(first, second)[1]) >= 35


def test_nothing_is_told_more_often_than_it_says():
    """Runs of which nothing has changed: anything at all in at most 5 % of comparisons, and a margin for chance."""
    drawn = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        common = drawn.normal(0, 0.03, (1, 10))  # a run that is slow is slow in all modules
        values = np.exp(common + drawn.normal(0, 0.03, (30, 10)))
        wrong += any(beyond_chance(values[:, :5], values[:, 5:])[1])
    assert wrong <= 18


def test_values_that_do_not_vary():
    first, second = np.array([[5.0] * 5, [5.0] * 5, [3.0] * 5]), np.array([[5.0] * 5, [6.0] * 5, [3.0] * 5])
    assert beyond_chance(first, second)[1] == [False, True, False]
    assert beyond_chance(np.zeros((0, 5)), np.zeros((0, 5))) == ([], [])


def test_of_many_runs_a_sample_of_the_splits_is_taken():
    drawn = np.random.default_rng(4)
    first, second = np.exp(drawn.normal(0, 0.01, (3, 12))), np.exp(drawn.normal(0, 0.01, (3, 12)))
    second[1] *= 1.2
    found = joint_p_values(first, second)
    assert found == joint_p_values(first, second)
    assert found[1] <= 0.001
