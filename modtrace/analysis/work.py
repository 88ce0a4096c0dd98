"""What each call computes: FLOPs and operations, from the few calls in which they were counted.

A module computes the same whenever it is given the same sizes in the same mode (training or not, gradients or not, made
again in backward or not), so a call is worth what another such call of it was counted to be, and a backward what that
of such a call was.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis import recompute
from modtrace.analysis.around import inside
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, EVALUATING, IN_BACKWARD, MODULE, NO_GRAD, OK

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1


@dataclass(frozen=True)
class Work:
    """What the calls of a timeline compute, an array element a call.

    flops: of the call with everything inside it; UNKNOWN where a part of it is not known. FLOPs of what is neither in a
        module nor in the backward of one count as none.
    own: without what is inside it.
    row: row of `work` that tells of the call's own operations; -1 where they are not known or there are none.
    counted: operations were counted inside the call or around it, so its times include that.
    """

    flops: Ints
    own: Ints
    row: Ints
    counted: Bools


_made: weakref.WeakKeyDictionary[Stored, Work] = weakref.WeakKeyDictionary()


def work(stored: Stored) -> Work:
    """What the calls of a trace compute; made once."""
    if stored not in _made:
        _made[stored] = _work(stored)
    return _made[stored]


def _work(stored: Stored) -> Work:
    line = timeline(stored)
    table, found = line.calls, stored.table("work")
    kind, status = column(table, "kind"), column(table, "status")
    last = column(table, "last_call")
    count = len(table)
    at = line.place[column(found, "call")]
    whole = np.asarray(found.column("whole").to_numpy(zero_copy_only=False), np.bool_)
    units = np.zeros(count, np.bool_)
    units[at[whole]] = True
    counted = units | inside(units, last)
    row = np.full(count, -1, np.int64)
    row[at] = np.arange(len(found))
    known = counted & (status == OK)
    own_row, own_known = _looked_up(_keys(stored, table), row, known)
    is_work = (kind == MODULE) | (kind == BACKWARD) | recompute.below_backward(table)
    uncounted = np.append(_lengths(found, "uncounted") > 0, False)
    flops = np.append(column(found, "flops").astype(np.int64), 0)
    own = np.where(is_work, flops[own_row], 0)
    unknown = is_work & (~own_known | uncounted[own_row])
    total = np.concatenate([[0], np.cumsum(own)])
    lacking = np.concatenate([[0], np.cumsum(unknown)])
    here = np.arange(count)
    inclusive = total[last + 1] - total[here]
    inclusive[lacking[last + 1] > lacking[here]] = UNKNOWN
    return Work(inclusive, np.where(unknown, UNKNOWN, own), own_row, counted)


def work_of_steps(stored: Stored, low: int, high: int, count: int) -> tuple[Ints, Bools]:
    """FLOPs of each step of one process (UNKNOWN where a part is not known), and whether operations were counted in it.

    Args:
        stored: the trace.
        low, high: the rows of the process in its timeline.
        count: how many steps it has.
    """
    computed, table = work(stored), timeline(stored).calls.slice(low, high - low)
    kind, step = column(table, "kind"), nullable_codes(table, "step")
    inside = (step >= 0) & (step < count)
    again = recompute.below_backward(timeline(stored).calls)[low:high]
    some = inside & ((kind == MODULE) | (kind == BACKWARD) | again)
    own = computed.own[low:high]
    total = np.zeros(count, np.int64)
    np.add.at(total, step[some], np.maximum(own[some], 0))
    lacking = np.bincount(step[some & (own < 0)], minlength=count)
    counted = np.bincount(step[inside & computed.counted[low:high]], minlength=count) > 0
    return np.where(lacking > 0, UNKNOWN, total), counted


def _keys(stored: Stored, table: pa.Table) -> Ints:
    """What decides what a call computes: module, inputs, mode; for a backward those of its call; -1 for other rows."""
    kind, module = column(table, "kind"), nullable_codes(table, "module")
    inputs = nullable_codes(table, "inputs")
    forward, parent = nullable_codes(table, "forward"), column(table, "parent")
    backward = (kind == BACKWARD) & (forward >= 0)
    again, part = recompute.below_backward(table), recompute.parts(table)
    of = np.where(backward, forward, np.arange(len(table)))
    of[again] = np.maximum(forward[parent[again]], 0)
    some = (backward | (kind == MODULE) | again) & (inputs[of] >= 0) & (part >= 0)
    signatures = stored.table("signatures").num_rows + 1
    mode, _ = values_and_known(table, "mode")
    of_module = kind == MODULE
    roots = np.flatnonzero(of_module & ~inside(of_module, column(table, "last_call")))
    if not len(roots):
        return np.full(len(table), -1, np.int64)
    root = roots[np.maximum(np.searchsorted(roots, of, side="right") - 1, 0)]
    # Checkpointing stops a call that it makes again as soon as it has what it needs, so that is another computation.
    bits = mode[root].astype(np.int64) & (NO_GRAD | EVALUATING | IN_BACKWARD)
    alike = _alike(stored)[np.where(again, module[of], module)]
    whole = ((alike * signatures + inputs[of]) * 8 + bits) * 2 + (backward | again)
    return np.where(some, whole * 2 * recompute.PARTS + np.maximum(part, 0), -1)


def _alike(stored: Stored) -> Ints:
    """For each module one that computes the same: itself, or of torch's own classes the first with the same description
    and parameters. A criterion made anew in every forward is known by the first.
    """
    table = stored.table("modules")
    kinds: dict[Any, int] = {}
    names = ("type", "type_module", "extra_repr", "parameters")
    columns = [table.column(name).to_pylist() for name in names]
    found = []
    for number, (kind, holder, described, parameters) in enumerate(zip(*columns, strict=True)):
        if described is None or not holder.startswith("torch.nn.modules."):
            found.append(number)
            continue
        tensors = [
            (one["path"], tuple(one["shape"] or ()), one["dtype"], one["requires_grad"]) for one in parameters
        ]
        found.append(kinds.setdefault((kind, holder, described, tuple(tensors)), number))
    return np.array([*found, 0], np.int64)


def _looked_up(keys: Ints, row: Ints, known: Bools) -> tuple[Ints, Bools]:
    """Row of `work` of each call (-1 for none) and whether what it computes is known: counted, or the first of its key
    that was.
    """
    first = known & (keys >= 0)
    some, at = np.unique(keys[first], return_index=True)
    if not len(some):
        return np.where(known, row, -1), known
    of = np.flatnonzero(first)[at]
    place = np.minimum(np.searchsorted(some, keys), len(some) - 1)
    same = (keys >= 0) & (some[place] == keys)
    return np.where(known, row, np.where(same, row[of[place]], -1)), known | same


def _lengths(table: pa.Table, name: str) -> Ints:
    """Lengths of the lists of a column."""
    return np.array([len(one) for one in table.column(name).to_pylist()], np.int64)
