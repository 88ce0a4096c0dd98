"""Exact statistics of few runs: Mann-Whitney, Hodges-Lehmann, and tests of many modules at once.

A run is one value: steps of one run are not independent, so they are no evidence of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ERROR_RATE: Final = 0.05
"""Of comparisons in which nothing has changed, the share in which anything may be called changed."""
MANY_SPLITS: Final = 5_000
"""Ways of dealing the runs into two sides that are all tried; of more than that so many are drawn."""


def mann_whitney(first: Sequence[float], second: Sequence[float]) -> float:
    """Exact two-sided p of the Mann-Whitney test, ties by their mean rank.

    Args:
        first, second: a value a run, at least one of each.
    """
    ranks = _doubled_ranks([*first, *second])
    chosen = sum(ranks[: len(first)])
    ways = _rank_sums(tuple(sorted(ranks)), len(first))
    low, high = float(ways[: chosen + 1].sum()), float(ways[chosen:].sum())
    return min(2 * min(low, high) / float(ways.sum()), 1.0)


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value; equal ones have their mean rank."""
    order = sorted(values)
    first = {value: order.index(value) for value in set(values)}
    return [2 * first[value] + 1 + order.count(value) for value in values]


@lru_cache(maxsize=256)
def _rank_sums(ranks: tuple[int, ...], count: int) -> Floats:
    """For each sum the number of ways to choose so many of the ranks that add up to it."""
    most = sum(sorted(ranks)[-count:]) if count else 0
    ways = np.zeros((count + 1, most + 1))
    ways[0, 0] = 1
    for number, rank in enumerate(ranks):
        for chosen in range(min(number + 1, count), 0, -1):
            ways[chosen, rank:] += ways[chosen - 1, : most + 1 - rank]
    sums: Floats = ways[count]
    return sums


@dataclass(frozen=True)
class RatioInterval:
    """The ratio of two sides: the Hodges-Lehmann estimate and the interval in which it is, at 95 % or more.

    low, high: None where there are too few runs for that.
    """

    ratio: float
    low: float | None
    high: float | None


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> RatioInterval:
    """The ratio of the second side to the first: the median of the ratios of all pairs of runs.

    Args:
        first, second: positive values, at least one of each.
    """
    ratios = sorted(math.log(other / one) for one in first for other in second)
    middle = (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
    outside = _outside(len(first), len(second))
    if not outside:
        return RatioInterval(math.exp(middle), None, None)
    return RatioInterval(math.exp(middle), math.exp(ratios[outside - 1]), math.exp(ratios[-outside]))


@lru_cache(maxsize=256)
def _outside(first: int, second: int) -> int:
    """The position, from either end, of the pair that bounds the interval; 0 where there are too few runs."""
    ways = _rank_sums(tuple(range(1, first + second + 1)), first)
    least = first * (first + 1) // 2
    tail = np.cumsum(ways[least:]) / ways.sum()  # of U: 0, 1, 2 ...
    return int(np.count_nonzero(2 * tail <= ERROR_RATE))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """The false discovery rate at which each of many tests would be passed."""
    count = len(p_values)
    order = sorted(range(count), key=lambda number: p_values[number])
    rates, least = [1.0] * count, 1.0
    for place in range(count, 0, -1):
        number = order[place - 1]
        least = min(least, p_values[number] * count / place)
        rates[number] = least
    return rates


def joint_p_values(first: Floats, second: Floats) -> list[float]:
    """p of each of many quantities, corrected for their number: the share of all ways of dealing the runs into two
    sides in which any of the quantities that stand out less stands out as much.

    Runs change sides whole, so that quantities may depend on each other. The measure is the difference of the means of
    the logarithms by their spread; of Westfall and Young, step-down.

    Args:
        first, second: positive values, shape (quantities, runs of the side).
    """
    values, count = np.log(np.concatenate([first, second], axis=1)), first.shape[1]
    splits = _splits(values.shape[1], count)
    measures = np.stack([_stands_out(values, split) for split in splits])
    order = np.argsort(-measures[0], kind="stable")
    most = np.maximum.accumulate(measures[:, order[::-1]], axis=1)[:, ::-1]
    share = (most >= measures[0, order] * (1 - 1e-9)).mean(axis=0)
    p_values = np.empty(len(order))
    p_values[order] = np.maximum.accumulate(share)
    return [float(value) for value in p_values]


def _splits(total: int, count: int) -> list[Bools]:
    """Masks of the runs of the first side; the real one first."""
    real = np.arange(total) < count
    if math.comb(total, count) <= MANY_SPLITS:
        masks = []
        for chosen in combinations(range(total), count):
            mask = np.zeros(total, np.bool_)
            mask[list(chosen)] = True
            masks.append(mask)
        return masks  # the first combination is 0, 1, 2 ...
    drawn = np.random.default_rng(0)
    return [real, *(drawn.permutation(real) for _ in range(MANY_SPLITS - 1))]


def _stands_out(values: Floats, chosen: Bools) -> Floats:
    """The difference of the means of two sides by their spread, an element a quantity."""
    one, other = values[:, chosen], values[:, ~chosen]
    apart = np.abs(other.mean(axis=1) - one.mean(axis=1))
    within = ((one - one.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    within += ((other - other.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    spread = np.sqrt(within / max(values.shape[1] - 2, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        measure: Floats = np.where(apart > 1e-12, apart / np.maximum(spread, 1e-12), 0.0)
    return measure


def beyond_chance(first: Floats, second: Floats) -> tuple[list[float], list[bool]]:
    """p of Mann-Whitney of each of many quantities, and which of them differ when their number is allowed for.

    One of two ways must tell, each wrong in half of ERROR_RATE: Benjamini-Hochberg, which sees that many have changed
    together, or the joint test, which sees that one among many has: with five runs a side Benjamini-Hochberg never can.

    Args:
        first, second: positive values, shape (quantities, runs of the side).
    """
    if not len(first):
        return [], []
    p_values = [mann_whitney(one, other) for one, other in zip(first.tolist(), second.tolist(), strict=True)]
    rates, joint = benjamini_hochberg(p_values), joint_p_values(first, second)
    told = [rate <= ERROR_RATE / 2 or p <= ERROR_RATE / 2 for rate, p in zip(rates, joint, strict=True)]
    return p_values, told
