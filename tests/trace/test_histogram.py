"""Quantiles from histograms against NumPy on the raw values, and windows of steps against counting them off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modtrace.trace.histogram import (
    BUCKET_LIMIT,
    SUB_BUCKETS,
    VALUE_LIMIT,
    added_up,
    buckets_of,
    middles_of,
    quantiles,
    windows_of,
)

VALUES = st.one_of(st.integers(0, 300), st.integers(0, 10**7), st.integers(0, VALUE_LIMIT - 1))
PERCENTS = (1, 50, 95, 99, 100)


def histogram(values):
    buckets = buckets_of(np.array(values, np.int64))
    return added_up(buckets, np.ones(len(buckets), np.int64))


@given(st.lists(VALUES, min_size=1, max_size=300))
@example([0])
@example([VALUE_LIMIT - 1, 2**53, 2**53 - 1, 2**53 + 1, 127, 128, 129])
def test_quantiles_are_within_one_percent(values):
    found = quantiles(*histogram(values), PERCENTS)
    expected = np.percentile(np.array(values, object), PERCENTS, method="inverted_cdf")
    for value, true in zip(found, expected, strict=True):
        assert abs(value - true) <= true / 100


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0])
def test_times_as_they_are_spread_are_within_one_percent(spread):
    values = np.exp(np.random.default_rng(0).normal(12, spread, 100_000)).astype(np.int64)
    found = quantiles(*histogram(values), (50, 95, 99))
    np.testing.assert_allclose(found, np.percentile(values, (50, 95, 99)), rtol=0.01)


@given(st.lists(VALUES, min_size=2))
def test_greater_values_have_no_lesser_bucket(values):
    ordered = np.sort(np.array(values, np.int64))
    buckets = buckets_of(ordered)
    assert (np.diff(buckets) >= 0).all()
    assert buckets[0] >= 0
    assert buckets[-1] < BUCKET_LIMIT


def test_an_octave_has_64_buckets_and_none_is_left_out():
    octave = buckets_of(np.arange(1 << 20, 1 << 21))
    assert np.unique(octave).tolist() == list(range(octave[0], octave[0] + SUB_BUCKETS))
    buckets = np.arange(BUCKET_LIMIT)
    assert buckets_of(middles_of(buckets)).tolist() == buckets.tolist()


@given(st.lists(VALUES, min_size=1), st.lists(VALUES, min_size=1))
def test_histograms_add_up(first, second):
    joined = [np.concatenate(pair) for pair in zip(histogram(first), histogram(second), strict=True)]
    for one, other in zip(added_up(*joined), histogram(first + second), strict=True):
        assert one.tolist() == other.tolist()


def test_windows_follow_each_other_and_get_longer():
    first, end = windows_of(np.arange(5_000))
    step, lengths = 0, []
    while step < 5_000:
        assert (first[step : end[step]] == step).all()
        assert (end[step : end[step]] == end[step]).all()
        lengths.append(int(end[step]) - step)
        step = int(end[step])
    assert lengths[:70] == [1] * 32 + [2] * 32 + [4] * 6
    assert lengths == sorted(lengths)


def test_a_million_steps_have_few_windows():
    first, end = windows_of(np.arange(1_000_000))
    windows = np.unique(first)
    assert len(windows) < 500
    of_window = end[windows] - windows
    assert (of_window[32:] <= windows[32:] / 16).all()
