"""The best pairing of two sequences that keeps their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

MANY_CELLS: Final = 250_000


def aligned_sequences(
    ones: Sequence[int],
    others: Sequence[int],
    score: Callable[[int, int], float],
    otherwise: Callable[[], list[tuple[int, int]]],
) -> list[tuple[int, int]]:
    """Pairs, in order of both sequences, whose scores add up to the most.

    Args:
        ones, others: what is paired.
        score: of a pair; one below zero is never made.
        otherwise: pairs where there are too many to look for the best.
    """
    if len(ones) * len(others) > MANY_CELLS:
        return [pair for pair in otherwise() if score(*pair) >= 0]
    best = [[0.0] * (len(others) + 1) for _ in range(len(ones) + 1)]
    scores = [[score(one, other) for other in others] for one in ones]
    for i in range(len(ones) - 1, -1, -1):
        row, under = best[i], best[i + 1]
        for j in range(len(others) - 1, -1, -1):
            most = max(under[j], row[j + 1])
            if scores[i][j] >= 0:
                most = max(most, scores[i][j] + under[j + 1])
            row[j] = most
    pairs, i, j = [], 0, 0
    while i < len(ones) and j < len(others):
        if scores[i][j] >= 0 and best[i][j] == scores[i][j] + best[i + 1][j + 1]:
            pairs.append((ones[i], others[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
