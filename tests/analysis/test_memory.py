"""Allocations over time and the calls they belong to, against a look at each moment."""

from __future__ import annotations

import random

import numpy as np
import pytest

from modtrace.analysis.memory import NEVER, Memory, _cut, curve, innermost, peak_at
from modtrace.trace.call_table import CallTable


def ints(values):
    return np.array(values, np.int64)


def allocations(rng, count):
    rows = sorted((rng.randint(0, 30), rng.randint(1, 9)) for _ in range(count))
    freed = [rng.choice((NEVER, begin + rng.randint(0, 12))) for begin, _ in rows]
    return Memory(
        0, "cpu", ints([begin for begin, _ in rows]), ints(freed), ints([size for _, size in rows]),
        ints([0] * count), ints([-1] * count),
    )  # fmt: skip


def held_at(memory, moment):
    rows = zip(memory.at_ns.tolist(), memory.freed_ns.tolist(), memory.size_bytes.tolist(), strict=True)
    return sum(size for begin, freed, size in rows if begin <= moment < freed)


@pytest.mark.parametrize("seed", range(30))
def test_the_curve(seed):
    rng = random.Random(seed)
    memory = allocations(rng, rng.randint(1, 12))
    line = curve(memory)
    assert np.all(np.diff(line.at_ns) >= 0)
    for moment in range(-1, 45):
        alive = memory.alive(moment)
        assert int(memory.size_bytes[alive].sum()) == held_at(memory, moment)
        before = np.flatnonzero(line.at_ns <= moment)
        assert (int(line.held_bytes[before[-1]]) if len(before) else 0) == held_at(memory, moment)
    assert peak_at(memory) in line.at_ns.tolist()


def test_the_peak():
    memory = Memory(
        0, "cpu", ints([1, 2, 5]), ints([4, NEVER, NEVER]), ints([8, 8, 7]), ints([0] * 3), ints([-1] * 3)
    )
    assert peak_at(memory) == 2
    assert peak_at(Memory(0, "cpu", *[ints([])] * 5)) == -1


@pytest.mark.parametrize("seed", range(30))
def test_what_was_watched_and_wanted(seed):
    """Stretches 10-20 and 30-40: what is not freed in the first is over with it; only what is wanted is left."""
    rng = random.Random(seed)
    low, high = rng.choice(((-100, 100), (12, 18), (12, 35), (32, 38), (20, 40), (0, 30), (40, 90)))
    begin = sorted(rng.choice((rng.randint(10, 19), rng.randint(30, 39))) for _ in range(8))
    freed = [rng.choice((NEVER, moment + rng.randint(0, 25))) for moment in begin]
    chosen, at_ns, until = _cut(ints(begin), ints(freed), (ints([10, 30]), ints([20, 40])), (low, high))
    last = [stretch for stretch in ((10, 20), (30, 40)) if stretch[0] < high and stretch[1] > low][-1:]
    expected, flags = [], []
    for moment, end in zip(begin, freed, strict=True):
        stretch = (10, 20) if moment < 30 else (30, 40)
        over = stretch[1] if end == NEVER and [stretch] != last else end
        flags.append(over > low and moment < high)
        if flags[-1]:
            expected.append((max(moment, low), NEVER if over > high else over))
    assert chosen.tolist() == flags
    assert list(zip(at_ns.tolist(), until.tolist(), strict=True)) == expected


@pytest.mark.parametrize("first", [0, 50])
@pytest.mark.parametrize("seed", range(30))
def test_the_innermost_call_of_a_moment(seed, first):
    rng = random.Random(seed)
    rows = []  # (thread, start, end, parent, known)

    def passes(thread, now, parent, depth):
        number = len(rows)
        rows.append(None)
        begin, now = now, now + rng.randint(0, 3)
        for _ in range(rng.randint(0, 3) if depth < 3 else 0):
            now = passes(thread, now, number, depth + 1) + rng.randint(0, 2)
        known = rng.random() < 0.9
        rows[number] = (thread, begin, now if known else begin, parent, known)
        return now + rng.randint(0, 2)

    for thread in (0, 2):
        now = 0
        for _ in range(rng.randint(0, 3)):
            now = passes(thread, now, -1, 0)
    table = CallTable(
        {
            "call": ints(range(first, first + len(rows))),
            "thread": ints([row[0] for row in rows]),
            "start_ns": ints([row[1] for row in rows]),
            "duration_ns": ints([row[2] - row[1] for row in rows]),
            "parent": ints([row[3] + first if row[3] >= 0 else -1 for row in rows]),
        },
        {"duration_ns": np.array([not row[4] for row in rows], np.bool_)},
        len(rows),
    )
    moments = [(rng.choice((0, 2, 1, -1)), moment) for moment in range(-1, 60)]
    result = innermost(
        table, ints([moment for _, moment in moments]), ints([thread for thread, _ in moments])
    )
    for (thread, moment), call in zip(moments, result.tolist(), strict=True):
        running = [
            number for number, row in enumerate(rows) if row[0] == thread and row[1] <= moment < row[2]
        ]
        assert call == (running[-1] if running else -1)
