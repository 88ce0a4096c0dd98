"""Histograms of times with 64 buckets an octave, and the windows of steps that they are of. Integers in, integers out.

A bucket is at most a 64th of its least value wide, so its middle is off by at most a 128th, 0.8 %. Values below 128
have a bucket each. Histograms add up: the sum of two is that of all their values.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

BITS: Final = 6
SUB_BUCKETS: Final = 1 << BITS
"""Buckets an octave."""
VALUE_LIMIT: Final = 1 << 62
"""Values are below this."""
BUCKET_LIMIT: Final = (63 - BITS) << BITS
"""Buckets are below this."""
LEVEL_WINDOWS: Final = 32
"""So many windows have one length."""


def buckets_of(values: Ints) -> Ints:
    """The bucket of each value; values are from 0 to VALUE_LIMIT - 1."""
    shift = _shifts(values)
    buckets: Ints = (shift << BITS) + (values >> shift)
    return buckets


def middles_of(buckets: Ints) -> Ints:
    """The value in the middle of each bucket."""
    shift = np.maximum((buckets >> BITS) - 1, 0)
    middles: Ints = ((buckets - (shift << BITS)) << shift) + ((np.int64(1) << shift) - 1 >> 1)
    return middles


def _shifts(values: Ints) -> Ints:
    """By how many bits each value is shifted so that it is below twice SUB_BUCKETS.

    Near 2**53 and above a value may round up to the next octave: it is shifted once too often, into the same bucket.
    """
    length = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    return np.maximum(length - (BITS + 1), 0)


def added_up(keys: Ints, *amounts: Ints) -> tuple[Ints, ...]:
    """Distinct keys in order, and for each the sum of every kind of amount.

    `np.unique` imports numpy.ma when first called, which would be in the user's forward.
    """
    if not len(keys):
        return (keys, *amounts)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
    return (keys[first], *(np.add.reduceat(amount[order], first) for amount in amounts))


def quantiles(buckets: Ints, counts: Ints, percents: tuple[int, ...]) -> list[int]:
    """Values below which so many percent are, nearest rank, as the middles of their buckets.

    Args:
        buckets: distinct, in order.
        counts: how many values each has; their sum is above zero.
        percents: from 1 to 100.
    """
    ends = np.cumsum(counts)
    total = int(ends[-1])
    ranks = np.array([(total * percent + 99) // 100 for percent in percents], np.int64)
    values: list[int] = middles_of(buckets[np.searchsorted(ends, ranks)]).tolist()
    return values


def windows_of(steps: Ints) -> tuple[Ints, Ints]:
    """The first step of the window that each step is in, and the first behind it.

    The first LEVEL_WINDOWS windows are of one step, as many behind them of two, then of four, and so on: behind the
    first a window is at most a 16th as long as what came before it, and a million steps have fewer than 500 windows.
    """
    level = np.frexp((steps // LEVEL_WINDOWS + 1).astype(np.float64))[1].astype(np.int64) - 1
    before = LEVEL_WINDOWS * ((_one() << level) - 1)
    first = before + ((steps - before) >> level << level)
    return first, first + (_one() << level)


def _one() -> Any:
    return np.int64(1)
