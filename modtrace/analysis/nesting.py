"""Nesting of calls: masks of those inside a call of a kind, however far out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def inside(rows: Bools, last: Ints, first: int = 0) -> Bools:
    """Mask of the calls that have one of `rows` around them.

    Args:
        rows: calls in order of start, whether each is one that counts.
        last: the last descendant of each.
        first: the number of the first call here, where `last` counts from another.
    """
    within = np.zeros(len(rows), np.bool_)
    if len(rows):
        reach = np.maximum.accumulate(np.where(rows, last, -1))
        np.greater_equal(reach[:-1], np.arange(first + 1, first + len(rows)), out=within[1:])
    return within


def below_module(call_kind: Ints, last: Ints, first: int = 0) -> Bools:
    """Mask of the calls inside a module call or the backward of one."""
    return inside((call_kind == MODULE) | (call_kind == BACKWARD), last, first)


def root_calls(call_kind: Ints, last: Ints, first: int = 0) -> Bools:
    """Mask of the module calls with no module call, nor the backward of one, around them."""
    roots: Bools = (call_kind == MODULE) & ~below_module(call_kind, last, first)
    return roots
