"""Time that intervals cover together, where they overlap counted once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def covered(start: Ints, duration: Ints) -> int:
    """Nanoseconds that at least one of the intervals covers."""
    if not len(start):
        return 0
    order = np.argsort(start, kind="stable")
    begin, end = start[order], (start + duration)[order]
    reach = np.maximum.accumulate(end)
    before = np.concatenate([begin[:1], reach[:-1]])
    return int(np.maximum(end - np.maximum(begin, before), 0).sum())


def covered_between(start: Ints, end: Ints, low: Ints, high: Ints) -> Ints:
    """Nanoseconds of each stretch from `low` to `high` that at least one of the intervals covers: one a stretch."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    # The part of each that no earlier one covers begins where the ones before have ended.
    begins = np.maximum(start, np.concatenate([start[:1], end[:-1]]))
    total = np.concatenate([[0], np.cumsum(np.maximum(end - begins, 0))])

    def covered_until(moment: Ints) -> Ints:
        begun = np.searchsorted(start, moment, side="right")
        beyond = np.where(begun > 0, np.maximum(end[np.maximum(begun - 1, 0)] - moment, 0), 0)
        covered_ns: Ints = total[begun] - beyond
        return covered_ns

    return covered_until(high) - covered_until(low) if len(start) else np.zeros(len(low), np.int64)
