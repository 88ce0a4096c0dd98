"""What stands around calls: whether a call is inside one of some kinds, however far out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def inside(some: Bools, last: Ints, first: int = 0) -> Bools:
    """Which calls have one of `some` around them.

    Args:
        some: calls in order of start, whether each is one that counts.
        last: the last descendant of each.
        first: the number of the first call here, where `last` counts from another.
    """
    edges = np.zeros(len(some) + 1, np.int64)
    at = np.flatnonzero(some)
    np.add.at(edges, at + 1, 1)
    np.add.at(edges, last[at] - first + 1, -1)
    # A call without descendants opens and closes at one place.
    found: Bools = np.cumsum(edges[:-1]) > 0
    return found


def below_module(kind: Ints, last: Ints, first: int = 0) -> Bools:
    """Which calls are inside a module call or the backward of one."""
    return inside((kind == MODULE) | (kind == BACKWARD), last, first)


def root_calls(kind: Ints, last: Ints, first: int = 0) -> Bools:
    """Which are module calls with no module call, nor the backward of one, around them."""
    roots: Bools = (kind == MODULE) & ~below_module(kind, last, first)
    return roots
