"""Recomputation by checkpoints below rows of the timeline, and backwards that were interrupted by it.

A checkpoint that computes again is a row `recompute` below a backward. Where some of a module's backward had run by
then its row ends there, and a second one goes on behind it: both have the same forward.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.nesting import inside
from modtrace.analysis.phases import BACK, RECOMPUTE
from modtrace.trace.call_table import CallTable
from modtrace.trace.schema import BACKWARD, MODULE, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PARTS: Final = 64
"""Parts of one backward, and phases below one, that are told apart."""


def rows(table: CallTable) -> Bools:
    """Mask of the rows of a timeline that are of a checkpoint that computed again."""
    again: Bools = (column(table, "kind") == PHASE) & (nullable_codes(table, "phase") == RECOMPUTE)
    return again


def below_backward(table: CallTable) -> Bools:
    """Mask of the rows that are phases directly below the backward of a module call: checkpoints that computed again,
    and backwards inside it. What they compute outside of modules is that module's.
    """
    call_kind, parent = column(table, "kind"), column(table, "parent")
    phase = nullable_codes(table, "phase")
    below: Bools = (call_kind == PHASE) & ((phase == RECOMPUTE) | (phase == BACK)) & (parent >= 0)
    inner: Bools = below & (call_kind[parent] == BACKWARD)
    return inner


def inside_of(table: CallTable, values: Ints, known: Bools) -> tuple[Ints, Bools]:
    """For each row the sum of values over the checkpoints that computed again inside it, and whether each is known."""
    last = column(table, "last_call")
    again = rows(table)
    again &= ~inside(again, last)
    total = np.concatenate([[0], np.cumsum(np.where(again & known, values, 0))])
    lacking = np.concatenate([[0], np.cumsum(again & ~known)])
    behind = np.arange(1, len(table) + 1)
    return total[last + 1] - total[behind], lacking[last + 1] == lacking[behind]


def parts(table: CallTable) -> Ints:
    """Number of the part of a computation that each row is: 0 for all of it. A module call made again and stopped early
    is 1; parts of a backward that was interrupted count from 1, phases below one backward from PARTS on; -1 beyond
    that.
    """
    call_kind, parent = column(table, "kind"), column(table, "parent")
    stopped = (call_kind == MODULE) & (nullable_codes(table, "phase") == RECOMPUTE)
    part = np.where(stopped & (nullable_codes(table, "outputs") < 0), 1, 0)
    again = np.flatnonzero(below_backward(table))
    if not len(again):
        return part
    part[again] = PARTS + _occurrence(parent[again])
    of = np.flatnonzero(call_kind == BACKWARD)
    phase = parent[of]
    while (nested := (phase >= 0) & (call_kind[phase] == BACKWARD)).any():
        phase[nested] = parent[phase[nested]]
    pair = nullable_codes(table, "forward")[of] * (len(table) + 1) + phase
    _, which, times = np.unique(pair, return_inverse=True, return_counts=True)
    part[of] = np.where(times[which] > 1, 1 + _occurrence(pair), 0)
    beyond = (part >= 2 * PARTS) | ((call_kind == BACKWARD) & (part >= PARTS))
    return np.where(beyond, -1, part)


def _occurrence(keys: Ints) -> Ints:
    """Number of equal keys that stand before each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(keys) else keys
    number = np.zeros(len(keys), np.int64)
    number[order] = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    return number
