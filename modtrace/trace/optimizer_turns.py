"""Turns of optimizers: the steps of several of them that make one training step.

A training iteration steps each optimizer once at most, and iterations are alike. So two optimizers, A and then B, step
in one iteration where A steps again before B does (A B A B), and in different ones where B steps again first (A A B B:
B took over from A). Without a backward pass between them they use the gradients of one iteration. Where neither steps
again, they share an iteration if they did before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

HORIZON: Final = 64
"""An optimizer that does not step again within so many optimizer steps counts as one that never does."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Turns:
    """Training steps made of optimizer steps.

    last: the position of the last optimizer step of each training step.
    pairs: for each training step the pairs of optimizers that share it: the first of it and each other.
    final: how many training steps, from the first on, no later optimizer step can change.
    """

    last: list[int]
    pairs: list[list[Pair]]
    final: int


def turns(makers: Sequence[int], backwards: Sequence[int], before: Collection[Pair] = ()) -> Turns:
    """Divide optimizer steps, in order, into training steps.

    Args:
        makers: the optimizer of each.
        backwards: how many backward passes have begun before the end of each.
        before: pairs of optimizers that shared training steps before these.
    """
    again = _next_of_same(makers)
    shared = set(before)
    last: list[int] = []
    pairs: list[list[Pair]] = [[]]
    turn: dict[int, int] = {}
    final, is_final = 0, True
    for index, maker in enumerate(makers):
        if turn:
            first = next(iter(turn))
            joins, sure = maker not in turn, True
            if joins and backwards[index] > backwards[index - 1]:
                joins, sure = _steps_again_first(
                    again[turn[first]] - index, again[index] - index, len(makers) - index
                )
                joins = joins if sure else (first, maker) in shared
            is_final &= sure
            if joins:
                pairs[-1].append((first, maker))
                shared.add((first, maker))
            else:
                last.append(index - 1)
                pairs.append([])
                final += is_final
                turn = {}
        turn[maker] = index
    if turn:
        last.append(len(makers) - 1)
    return Turns(last, pairs[: len(last)], final)


def _next_of_same(makers: Sequence[int]) -> list[int]:
    """For each optimizer step the position of the next one of the same optimizer; far behind the end for none."""
    ahead: dict[int, int] = {}
    again = [0] * len(makers)
    for index in range(len(makers) - 1, -1, -1):
        again[index] = ahead.get(makers[index], len(makers) + 2 * HORIZON)
        ahead[makers[index]] = index
    return again


def _steps_again_first(first: int, other: int, known: int) -> tuple[bool, bool]:
    """(true if the first optimizer of a training step steps again before another, true if that is certain).

    Args:
        first, other: in how many optimizer steps each steps again.
        known: how many optimizer steps are known from there on.
    """
    if min(first, other) <= HORIZON:
        return first < other, True
    return False, known > HORIZON
