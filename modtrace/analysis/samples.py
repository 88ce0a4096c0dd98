"""Number of samples and tokens that a step was trained on, where that is certain.

Between two backward passes each module that is trained is called once, on one batch; several backward passes before the
optimizer's step accumulate gradients of several batches. Where a step does anything else (a critic that sees real and
made samples, one batch evaluated many times, an inner loop) its calls do not tell how many samples it had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.nesting import inside
from modtrace.analysis.phases import FORWARD, Steps
from modtrace.analysis.timeline import Timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, PHASE, RETURNED_GRADIENTS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Forwards:
    """Training forwards: their rows, steps and modules, how many backward passes that accumulate came before each on
    its thread, and whether an optimizer's step is around each.
    """

    row: Ints
    step: Ints
    module: Ints
    segment: Ints
    in_optimizer: Bools


def amounts(stored: Stored, line: Timeline, table: CallTable, roots: Ints, steps: Steps) -> tuple[Ints, Ints]:
    """Samples and tokens of each step, -1 where they are not certain.

    Args:
        stored, line: the trace and its timeline.
        table: the rows of one process.
        roots: positions of its root calls in the table.
        steps: its steps.
    """
    count = len(steps)
    sizes = _sizes(stored)
    input_signature = nullable_codes(table, "inputs")
    step = nullable_codes(table, "step")
    trained = roots[
        (nullable_codes(table, "phase")[roots] == FORWARD) & (step[roots] >= 0) & (step[roots] < count)
    ]
    if steps.by != "root":
        trained = trained[_takes_part(stored, table, trained)]
        thread = column(table, "thread")
        on_loop_thread = thread[trained] == steps.thread
        certain = ~np.isin(np.arange(count), step[_beside(table, trained, on_loop_thread)])
        trained = trained[on_loop_thread]
        forwards = _forwards(line, table, trained, steps.thread)
        certain &= _one_batch_each(line, table, forwards, steps)
        batches = [_of_batches(forwards, row[input_signature[trained]], count) for row in sizes]
        return np.where(certain, batches[0], -1), np.where(certain, batches[1], -1)
    result = np.full((2, count), -1, np.int64)
    result[:, step[trained]] = sizes[:, input_signature[trained]]
    return result[0], result[1]


def _sizes(stored: Stored) -> Ints:
    """Samples and tokens of each signature, -1 for unknown: the first dimension of its first tensor, and of integers
    the product of the first two; the last element is that of no signature.
    """
    signatures = stored.table("signatures").column("tensors").to_pylist()
    sizes = np.full((2, len(signatures) + 1), -1, np.int64)
    for code, tensors in enumerate(signatures):
        first = tensors[0] if tensors else None
        shape = first["shape"] if first is not None else None
        if first is None or not shape or any(size is None for size in shape):
            continue
        sizes[0, code] = shape[0]
        if "int" in first["dtype"] and len(shape) > 1:
            sizes[1, code] = int(np.prod(shape[:2]))
    return sizes


def _takes_part(stored: Stored, table: CallTable, roots: Ints) -> Bools:
    """Mask of the root calls that have parameters to train and had a backward go through them; all where none is
    recorded.
    """
    counts, known = values_and_known(stored.table("modules"), "trainable_count")
    trains: Bools = ((counts > 0) | ~known)[nullable_codes(table, "module")[roots]]
    targets = nullable_codes(table, "forward")[column(table, "kind") == BACKWARD]
    targets = np.sort(targets[targets >= 0])
    if not len(targets):
        return trains
    ids, last = column(table, "call")[roots], column(table, "last_call")[roots]
    low, high = np.searchsorted(targets, ids), np.searchsorted(targets, last, side="right")
    return np.asarray(trains & (high > low), np.bool_)


def _beside(table: CallTable, roots: Ints, on_loop_thread: Bools) -> Ints:
    """Root calls on other threads that began while none of the loop's own ran: not parts of one, as replicas are."""
    start = column(table, "start_ns")
    duration, _ = values_and_known(table, "duration_ns")
    around, others = roots[on_loop_thread], roots[~on_loop_thread]
    index = np.searchsorted(start[around], start[others], side="right") - 1
    over = around[np.maximum(index, 0)] if len(around) else others
    within = (index >= 0) & (start[others] < start[over] + duration[over])
    return np.asarray(others[~within], np.int64)


def _forwards(line: Timeline, table: CallTable, roots: Ints, thread: int) -> _Forwards:
    first = int(column(table, "call")[0]) if len(table) else 0
    accumulates = _phases(line, table, thread, "backward", but=RETURNED_GRADIENTS)
    optimizing = _phases(line, table, thread, "optimizer")
    return _Forwards(
        row=roots,
        step=nullable_codes(table, "step")[roots],
        module=nullable_codes(table, "module")[roots],
        segment=np.searchsorted(np.flatnonzero(accumulates), roots),
        in_optimizer=inside(optimizing, column(table, "last_call"), first)[roots],
    )


def _phases(line: Timeline, table: CallTable, thread: int, name: str, but: str = "?") -> Bools:
    """Mask of the rows that are phases of a name on a thread, those with one type left out."""
    wanted = np.array(
        [each == name and label_type != but for each, label_type in line.labels] + [False], np.bool_
    )
    on_thread = (column(table, "kind") == PHASE) & (column(table, "thread") == thread)
    return np.asarray(on_thread & wanted[nullable_codes(table, "label")], np.bool_)


def _one_batch_each(line: Timeline, table: CallTable, forwards: _Forwards, steps: Steps) -> Bools:
    """Mask of the steps that call the same modules once each between every two backward passes, and then step the
    optimizer.
    """
    count = len(steps)
    certain = np.zeros(count, np.bool_)
    certain[forwards.step] = True
    segments = _distinct(forwards.step, forwards.segment)
    calls = _distinct(forwards.step, forwards.segment, forwards.module)
    modules = _distinct(forwards.step, forwards.module)
    each = np.bincount(segments[0], minlength=count)
    certain &= np.bincount(forwards.step, minlength=count) == np.bincount(calls[0], minlength=count)
    certain &= np.bincount(modules[0], minlength=count) * each == np.bincount(calls[0], minlength=count)
    closures = _distinct(forwards.step[forwards.in_optimizer], forwards.segment[forwards.in_optimizer])
    certain &= np.bincount(closures[0], minlength=count) < 2
    first, last = np.full(count, len(table)), np.full(count, -1)
    np.minimum.at(first, forwards.step, forwards.row)
    np.maximum.at(last, forwards.step, forwards.row)
    rows = np.flatnonzero(_phases(line, table, steps.thread, "optimizer"))
    step = nullable_codes(table, "step")[rows]
    rows, step = rows[step >= 0], step[step >= 0]
    ends = column(table, "last_call")[rows] - (int(column(table, "call")[0]) if len(table) else 0)
    certain[step[(first[step] < ends) & (last[step] > ends)]] = False
    return certain


def _distinct(*columns: Ints) -> Ints:
    """The different rows of some columns."""
    return np.asarray(np.unique(np.stack(columns), axis=1), np.int64)


def _of_batches(forwards: _Forwards, values: Ints, count: int) -> Ints:
    """Sums over the batches of each step, -1 where one is not known or modules of one batch got different sizes."""
    total = np.zeros(count, np.int64)
    pairs, which = np.unique(np.stack([forwards.step, forwards.segment]), axis=1, return_inverse=True)
    least, most = np.full((2, pairs.shape[1]), -1, np.int64)
    least[:] = np.iinfo(np.int64).max
    np.minimum.at(least, which.ravel(), values)
    np.maximum.at(most, which.ravel(), values)
    np.add.at(total, pairs[0], most)
    wrong = pairs[0][(least != most) | (least < 0)]
    total[wrong] = -1
    return total
