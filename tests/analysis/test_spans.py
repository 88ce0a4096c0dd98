"""Times of calls that nest, whatever was recorded."""

from __future__ import annotations

import random

import numpy as np
import pytest

from modtrace.analysis.spans import _settle


def forest(rng, *, true):
    """Parents, starts and ends of calls in order; `true` ones nest, others have been moved a little."""
    count = rng.randint(1, 25)
    parent, track, open_calls = [], [], []
    for number in range(count):
        if not open_calls or rng.random() < 0.1:
            open_calls = []
            track.append(track[-1] + rng.randint(0, 1) if track else 0)
        else:
            track.append(track[-1])
        del open_calls[rng.randint(0, len(open_calls)) :]
        parent.append(open_calls[-1] if open_calls and track[open_calls[-1]] == track[-1] else -1)
        open_calls.append(number)
    start, end, now = [0] * count, [0] * count, 0

    def passes(number, now):
        start[number] = now = now + rng.randint(0, 5)
        for inner in range(number + 1, count):
            if parent[inner] == number:
                now = passes(inner, now)
        end[number] = now = now + rng.randint(0, 5)
        return now

    for number in range(count):
        if parent[number] < 0:
            now = passes(number, now)
    if not true:
        start = [moment + rng.choice((0, 0, 0, -7, 7)) for moment in start]
        end = [
            max(moment + rng.choice((0, 0, 0, -7, 7)), begin)
            for moment, begin in zip(end, start, strict=True)
        ]
    return [np.array(values, np.int64) for values in (start, end, parent, track)]


@pytest.mark.parametrize("seed", range(50))
def test_times_that_nest_stay(seed):
    start, end, parent, track = forest(random.Random(seed), true=True)
    settled = start.copy(), end.copy()
    _settle(*settled, parent, track)
    assert settled[0].tolist() == start.tolist()
    assert settled[1].tolist() == end.tolist()


@pytest.mark.parametrize("seed", range(50))
def test_others_come_to_nest_and_none_is_longer(seed):
    start, end, parent, track = forest(random.Random(seed), true=False)
    settled = start.copy(), end.copy()
    _settle(*settled, parent, track)
    begin, finish = (moments.tolist() for moments in settled)
    for call, (over, of_track) in enumerate(zip(parent.tolist(), track.tolist(), strict=True)):
        assert begin[call] <= finish[call]
        assert finish[call] - begin[call] <= end[call] - start[call]
        if over >= 0:
            assert begin[over] <= begin[call]
            assert finish[call] <= finish[over]
        siblings = [
            other
            for other in range(call)
            if parent[other] == over and (over >= 0 or track[other] == of_track)
        ]
        assert all(finish[other] <= begin[call] for other in siblings)
