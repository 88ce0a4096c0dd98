"""Optimizer steps divided into training steps, against patterns written out by hand."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from modtrace.trace.optimizer_turns import HORIZON, turns

PATTERNS = [
    "A A A A",
    "AB AB AB",
    "ABC ABC ABC",
    "A A A B B B A A A",  # stages, each with its own optimizer
    "C C C CG C C C CG",  # a critic that steps more often
    "A AB A AB A",
    "AB AB CD CD CD",  # two stages with two optimizers each
    "A B C D E F G",  # an optimizer a trial
    "AB AB A",
    "A A A B",  # nothing tells that B shares the last step
]


def divided(makers, backwards=None):
    found = turns(list(makers), backwards or list(range(len(makers))))
    edges = [0, *(at + 1 for at in found.last)]
    return ["".join(makers[low:high]) for low, high in pairwise(edges)], found


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    assert divided(pattern.replace(" ", ""))[0] == pattern.split()


def test_without_a_backward_between_they_share_a_step():
    assert divided("ABC", [1, 1, 1])[0] == ["ABC"]
    assert divided("AABB", [1, 2, 2, 3])[0] == ["A", "AB", "B"]
    assert divided("") == ([], turns([], []))


@pytest.mark.parametrize("seed", range(40))
def test_what_is_final_does_not_change(seed):
    chance = random.Random(seed)
    units = [chance.choice(["A", "B", "AB", "CD", "ABC", "AAB", "EF", "G"]) for _ in range(40)]
    makers = "".join(unit * chance.randint(1, 5) for unit in units)
    whole = turns(list(makers), list(range(len(makers)))).last
    before = 0
    for end in range(len(makers) + 1):
        found = divided(makers[:end])[1]
        assert found.last[: found.final] == whole[: found.final]
        assert found.final >= before
        before = found.final
    assert before > len(whole) - HORIZON


def test_an_end_is_in_sight():
    """Of optimizers that never step again all but those of a short stretch are final."""
    makers = [str(number) for number in range(1000)]
    found = divided(makers)[1]
    assert len(found.last) == 1000
    assert 1000 - HORIZON - 2 <= found.final < 1000
