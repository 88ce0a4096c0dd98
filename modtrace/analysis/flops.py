"""FLOPs and operations of each call: FLOPs and operations, from the few calls in which they were counted.

A module computes the same whenever it is given the same in the same mode (training or not, gradients or not, made again
in backward or not), so a call is worth what other such calls of it were counted to be, and a backward what that of such
a call was. Where the counted ones differ, the work depends on something else: state of the module, chance, values. Then
those that were counted are known and the others are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis import recompute
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.nesting import inside
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import values_and_nulls, values_of
from modtrace.trace.call_table import CallTable, same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, EVALUATING, IN_BACKWARD, MODULE, NO_GRAD, OK

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN: Final = -1


@dataclass(frozen=True)
class Work:
    """FLOPs and operations of the calls of a timeline, an array element a call.

    flops: of the call with everything inside it; UNKNOWN where a part of it is not known. FLOPs of what is neither in a
        module nor in the backward of one count as none.
    own: without what is inside it.
    least: of the call with everything inside it, without what is not known: a lower bound, `flops` where that is known.
    own_least: the same of `own`.
    row: row of `work` that tells of the call's own operations; -1 where they are not known or there are none.
    counted: operations were counted inside the call or around it, so its times include that.
    """

    flops: Ints
    own: Ints
    least: Ints
    own_least: Ints
    row: Ints
    counted: Bools


@once
def work(stored: Stored) -> Work:
    """FLOPs and operations of the calls of a trace; made once."""
    line = timeline(stored)
    table, work_table = line.calls, stored.table("work")
    call_kind, status = column(table, "kind"), column(table, "status")
    last = column(table, "last_call")
    count = len(table)
    is_work = (call_kind == MODULE) | (call_kind == BACKWARD) | recompute.below_backward(table)
    if not len(work_table):
        return _nothing_counted(is_work, last)
    rows = line.place[column(work_table, "call")]
    is_whole = values_of(work_table.column("whole"))
    units = np.zeros(count, np.bool_)
    units[rows[is_whole]] = True
    counted = units | inside(units, last)
    row = np.full(count, -1, np.int64)
    row[rows] = np.arange(len(work_table))
    known = counted & (status == OK)
    own_row, own_known = row, known
    if known.any():
        own_row, own_known = _looked_up(*_keys(stored, table), row, known, work_table)
    uncounted = np.append(_lengths(work_table, "uncounted") > 0, False)
    flops = np.append(column(work_table, "flops").astype(np.int64), 0)
    own_flops = np.where(is_work, flops[own_row], 0)
    unknown = is_work & (~own_known | uncounted[own_row])
    behind = last + 1
    total = _sums_before(own_flops, np.int64)
    least = total[behind]
    least -= total[:-1]
    lacking = _sums_before(unknown, np.int32)
    inclusive = np.where(lacking[behind] > lacking[:-1], UNKNOWN, least)
    return Work(inclusive, np.where(unknown, UNKNOWN, own_flops), least, own_flops, own_row, counted)


def _nothing_counted(is_work: Bools, last: Ints) -> Work:
    """Work of calls of which none was counted: unknown where there is any, and there is no lower bound."""
    before = _sums_before(is_work, np.int32)
    has_work = before[last + 1] > before[:-1]
    unknown = same(UNKNOWN, np.int64, len(last))
    return Work(
        flops=np.where(has_work, UNKNOWN, 0),
        own=np.where(is_work, UNKNOWN, 0),
        least=unknown,
        own_least=unknown,
        row=unknown,
        counted=same(False, np.bool_, len(last)),
    )


def _sums_before(values: Ints | Bools, dtype: Any) -> Ints:
    """The sum of all values before each, and behind the last of all of them."""
    sums: Ints = np.zeros(len(values) + 1, dtype)
    np.cumsum(values, out=sums[1:])
    return sums


@dataclass(frozen=True)
class StepWork:
    """FLOPs and operations of the steps of one process, an element a step.

    flops: UNKNOWN where a part is not known.
    least: without what is not known; UNKNOWN where nothing was counted.
    counted: operations were counted in it.
    uncounted: what is not known: operations without a formula, else classes of modules.
    """

    flops: Ints
    least: Ints
    counted: Bools
    uncounted: list[list[str]]


@once
def work_of_steps(stored: Stored, low: int, high: int, count: int) -> StepWork:
    """FLOPs and operations of each step of one process.

    Args:
        stored: the trace.
        low, high: the rows of the process in its timeline.
        count: how many steps it has.
    """
    computed, table = work(stored), timeline(stored).calls.slice(low, high - low)
    call_kind, step = column(table, "kind"), nullable_codes(table, "step")
    inside = (step >= 0) & (step < count)
    again = recompute.below_backward(timeline(stored).calls)[low:high]
    counted_rows = inside & ((call_kind == MODULE) | (call_kind == BACKWARD) | again)
    own_flops = computed.own[low:high]
    least = np.zeros(count, np.int64)
    own_least = computed.own_least[low:high]
    computing = np.flatnonzero(counted_rows & (own_least > 0))
    np.add.at(least, step[computing], own_least[computing])
    unknown = counted_rows & (own_flops < 0)
    lacking = np.bincount(step[unknown], minlength=count) > 0
    counted = np.bincount(step[inside & computed.counted[low:high]], minlength=count) > 0
    anything = bool((computed.least >= 0).any())
    names: list[list[str]] = [[] for _ in range(count)]
    for number, name in _missing(stored, np.flatnonzero(unknown) + low, step[unknown]) if anything else ():
        names[number].append(name)
    flops = np.where(lacking, UNKNOWN, least)
    return StepWork(flops, least if anything else np.full(count, UNKNOWN, np.int64), counted, names)


def _missing(stored: Stored, rows: Ints, keys: Ints) -> list[tuple[int, str]]:
    """Work of rows that is not known, for each key once: (key, name) with the operations that have no formula, or the
    class of a module whose work is not known.
    """
    table, computed = timeline(stored).calls, work(stored)
    types = stored.table("modules").column("type").to_pylist()
    lists = stored.table("work").column("uncounted").to_pylist()
    module, of_work = nullable_codes(table, "module")[rows], computed.row[rows]
    named = np.append(np.array([bool(names) for names in lists], np.bool_), False)[of_work]
    codes = np.where(named, of_work, len(lists) + np.maximum(module, 0))
    missing: dict[tuple[int, str], None] = {}
    for key, code in np.unique(np.stack([keys, codes]), axis=1).T.tolist():
        for name in lists[code] if code < len(lists) else [types[code - len(lists)]]:
            missing[key, name] = None
    return list(missing)


def _keys(stored: Stored, table: CallTable) -> tuple[Ints, Bools]:
    """Keys, equal for calls that compute the same: module, inputs, mode; for a backward those of its call; -1 for other
    rows. And where that may not be all, because the inputs hold something that was not looked into.
    """
    call_kind = column(table, "kind")
    inputs = nullable_codes(table, "inputs")
    forward, parent = nullable_codes(table, "forward"), column(table, "parent")
    backward = (call_kind == BACKWARD) & (forward >= 0)
    again, part = recompute.below_backward(table), recompute.parts(table)
    of = np.where(backward, forward, np.arange(len(table)))
    of[again] = np.maximum(forward[parent[again]], 0)
    has_key = (backward | (call_kind == MODULE) | again) & (inputs[of] >= 0) & (part >= 0)
    signatures = stored.table("signatures").num_rows + 1
    opaque = np.append(_flags(stored.table("signatures"), "opaque"), False)[inputs[of]]
    mode, _ = values_and_known(table, "mode")
    of_module = call_kind == MODULE
    roots = np.flatnonzero(of_module & ~inside(of_module, column(table, "last_call")))
    if not len(roots):
        return np.full(len(table), -1, np.int64), opaque
    root = roots[np.maximum(np.searchsorted(roots, of, side="right") - 1, 0)]
    # Checkpointing stops a call that it makes again as soon as it has what it needs, so that is another computation.
    bits = mode[root].astype(np.int64) & (NO_GRAD | EVALUATING | IN_BACKWARD)
    # Modules that are made where they are called have a number by place, which is that of the forward call.
    code = ((_alike(stored, table)[of] * signatures + inputs[of]) * 8 + bits) * 2 + (backward | again)
    return np.where(has_key, code * 2 * recompute.PARTS + np.maximum(part, 0), -1), opaque


def _alike(stored: Stored, table: CallTable) -> Ints:
    """For each call a number that is the same for modules that compute the same.

    That is the same module; of torch's own classes those with the same description and parameters; of modules made in
    a forward those of the same class, description and parameters that are made in the same place, that is, by the same
    module as the same one in order of their calls.
    """
    module, call_kind = nullable_codes(table, "module"), column(table, "kind")
    names: dict[Any, int] = {}
    described = _descriptions(stored)
    first = [
        names.setdefault(text, number) if shared else number
        for number, (text, shared) in enumerate(described)
    ]
    alike = np.array([*first, 0], np.int64)[module]
    parent, root = column(table, "parent"), nullable_codes(table, "root")
    # Only a module that is in no tree but its own, and is called by another, was made there.
    made_in_call = (call_kind == MODULE) & (parent >= 0) & (root == module)
    several = np.append(values_and_known(stored.table("modules"), "instances")[0] > 1, False)[module]
    made_in_call &= (call_kind[parent] == MODULE) & (
        several | _in_one_call(module, parent, call_kind == MODULE)
    )
    rows = np.flatnonzero(made_in_call)
    if not len(rows):
        return alike
    order = np.argsort(parent[rows], kind="stable")
    of = parent[rows][order]
    starts = np.flatnonzero(np.append(True, of[1:] != of[:-1]))
    place = np.arange(len(of)) - np.repeat(starts, np.diff(np.append(starts, len(of))))
    alike = alike.copy()
    for row, nth in zip(rows[order].tolist(), place.tolist(), strict=True):
        text, shared = described[module[row]]
        if not shared:
            key = (text, int(alike[parent[row]]), nth)
            alike[row] = names.setdefault(key, len(described) + len(names))
    return alike


def _in_one_call(module: Ints, parent: Ints, chosen: Bools) -> Bools:
    """Mask of the calls for which all calls of their module are made by one call of another module."""
    count = int(module.max(initial=-1)) + 1
    low, high = np.full(count + 1, len(module)), np.full(count + 1, -2)
    np.minimum.at(low, module[chosen], parent[chosen])
    np.maximum.at(high, module[chosen], parent[chosen])
    alone: Bools = (low == high)[module]
    return alone


def _descriptions(stored: Stored) -> list[tuple[Any, bool]]:
    """For each module what it is described by, and whether all that are described so compute the same."""
    table = stored.table("modules")
    names = ("type", "type_module", "extra_repr", "parameters")
    descriptions = []
    for class_name, holder, described, parameters in zip(
        *[table.column(parameter).to_pylist() for parameter in names], strict=True
    ):
        tensors = tuple(
            (
                parameter["path"],
                tuple(parameter["shape"] or ()),
                parameter["dtype"],
                parameter["requires_grad"],
            )
            for parameter in parameters
        )
        shared = described is not None and holder.startswith("torch.nn.modules.")
        descriptions.append(((class_name, holder, described, tensors), shared))
    return descriptions


def _looked_up(
    keys: Ints, opaque: Bools, row: Ints, known: Bools, work_table: pa.Table
) -> tuple[Ints, Bools]:
    """Row of `work` of each call (-1 for none) and whether what it computes is known: it was counted, or those of its
    key that were agree, and nothing but the key decides.
    """
    counted = np.flatnonzero(known & (keys >= 0))
    distinct, first, which = np.unique(keys[counted], return_index=True, return_inverse=True)
    if not len(distinct):
        return np.where(known, row, -1), known
    result = _results(work_table)[row[counted]]
    chance = np.append(_flags(work_table, "unsteady"), False)
    # Where something else may decide and nothing was computed, it most likely decides which modules are called.
    doubtful = (opaque[counted] | chance[row[counted]]) & (result > 0)
    agree = np.ones(len(distinct), np.bool_)
    agree[which[(result != result[first][which]) | doubtful]] = False
    place = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
    same = (keys >= 0) & (distinct[place] == keys) & agree[place]
    return np.where(known, row, np.where(same, row[counted][first][place], -1)), known | same


def _flags(table: pa.Table, name: str) -> Bools:
    """A column of flags; set where it is null, as in traces that are older than the column."""
    values, nulls = values_and_nulls(table.column(name))
    return np.asarray(values | nulls, np.bool_)


def _results(work_table: pa.Table) -> Ints:
    """A number for each row of `work`, the same for those with the same FLOPs and uncounted operations; that of no row,
    which is nothing, at the end.
    """
    numbers: dict[Any, int] = {(0, ()): 0}
    pairs = zip(column(work_table, "flops").tolist(), work_table.column("uncounted").to_pylist(), strict=True)
    return np.array([*(numbers.setdefault((f, tuple(u)), len(numbers)) for f, u in pairs), 0], np.int64)


def _lengths(table: pa.Table, name: str) -> Ints:
    """Lengths of the lists of a column."""
    return np.array([len(values) for values in table.column(name).to_pylist()], np.int64)
