"""Saved tensors of backwards that were counted: by call and by module.

A storage belongs to the call whose node kept it first, so what calls keep adds up. What hooks hold (a checkpoint) and
what nodes do not give out is not known: a call with any of it inside has no number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.nesting import inside
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.analysis.watching import SAVED, asked
from modtrace.trace.arrow_arrays import array
from modtrace.trace.call_table import same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN = -1


@dataclass(frozen=True)
class SavedRows:
    """Rows of `saved`, their calls as positions in the timeline, in order of backwards and calls."""

    backward: Ints
    call: Ints
    saved_bytes: Ints
    storages: Ints
    packed: Ints
    uncounted: list[tuple[str, ...]]

    @property
    def unclear(self) -> Bools:
        """Mask of the rows that keep something that was not counted."""
        return (self.packed > 0) | np.array([bool(names) for names in self.uncounted], np.bool_)

    def backwards(self) -> list[tuple[int, slice]]:
        """Each backward, and its rows."""
        backward_rows, first = np.unique(self.backward, return_index=True)
        ends = np.append(first, len(self.backward))[1:]
        return [
            (row, slice(low, high))
            for row, low, high in zip(backward_rows.tolist(), first.tolist(), ends.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class BackwardSavedBytes:
    """Saved bytes of calls with everything inside them when one backward began; UNKNOWN where that is not known."""

    call: Ints
    saved_bytes: Ints


@once
def rows_of(stored: Stored) -> SavedRows:
    """Counted saved tensors as rows."""
    table, place = _wanted(stored), timeline(stored).place
    backward, call = place[column(table, "backward")], place[column(table, "call")]
    order = np.lexsort((call, backward))
    names = table.column("uncounted").to_pylist()
    return SavedRows(
        backward=backward[order],
        call=call[order],
        saved_bytes=column(table, "saved_bytes")[order],
        storages=column(table, "storages")[order],
        packed=column(table, "packed")[order],
        uncounted=[tuple(names[row] or ()) for row in order.tolist()],
    )


def _wanted(stored: Stored) -> pa.Table:
    """The rows of `saved` of the steps that were asked for."""
    table, line = stored.table("saved"), timeline(stored)
    backward = line.place[column(table, "backward")]
    process = column(line.calls, "process")[backward]
    step = nullable_codes(line.calls, "step")[backward]
    wanted = np.ones(len(table), np.bool_)
    for number in np.unique(process).tolist():
        meant = asked(stored, number, SAVED)
        if meant is not None:
            wanted &= (process != number) | ((step >= meant[0]) & (step < meant[1]))
    return table.filter(array(wanted, pa.bool_()))


@once
def of_backwards(stored: Stored) -> list[BackwardSavedBytes]:
    """Saved bytes of calls in each backward that was counted; made once."""
    rows, table = rows_of(stored), timeline(stored).calls
    call_kind, last = column(table, "kind"), column(table, "last_call")
    module = nullable_codes(table, "module")
    again = (call_kind == MODULE) & (nullable_codes(table, "phase") == RECOMPUTE)
    by_backward = []
    for backward, part in rows.backwards():
        call = rows.call[part]
        self_bytes, unclear = np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_)
        self_bytes[call], unclear[call] = rows.saved_bytes[part], rows.unclear[part]
        module_calls = call[call_kind[call] == MODULE]
        reached = np.zeros(len(table), np.bool_)
        reached[module_calls] = True
        calls = np.flatnonzero((reached | inside(reached, last)) & (call_kind == MODULE))
        total, lacking = (np.concatenate([[0], np.cumsum(values)]) for values in (self_bytes, unclear))
        ends = last[calls] + 1
        inclusive = total[ends] - total[calls]
        inclusive[lacking[ends] > lacking[calls]] = UNKNOWN
        # A checkpoint may run without gradients. What it calls keeps nothing yet, but will when it is made again.
        inner = slice(backward, int(last[backward]) + 1)
        made_again = np.unique(module[inner][again[inner]])
        inclusive[~again[calls] & np.isin(module[calls], made_again)] = UNKNOWN
        everything = UNKNOWN if unclear.any() else int(self_bytes.sum())
        by_backward.append(BackwardSavedBytes(np.append(calls, backward), np.append(inclusive, everything)))
    return by_backward


def of_calls(stored: Stored) -> Ints:
    """Saved bytes of each row of the timeline with everything inside it, the most of several backwards; a backward
    phase has all that was kept when it began. UNKNOWN where it was not counted.
    """
    count = len(timeline(stored).calls)
    if not of_backwards(stored):
        return same(UNKNOWN, np.int64, count)
    most, unclear = np.full(count, UNKNOWN, np.int64), np.zeros(count, np.bool_)
    for backward in of_backwards(stored):
        most[backward.call] = np.maximum(most[backward.call], backward.saved_bytes)
        unclear[backward.call[backward.saved_bytes < 0]] = True
    return np.where(unclear, UNKNOWN, most)


def of_modules(stored: Stored, count: int) -> Ints:
    """Saved bytes of the calls of each of `count` modules for one backward, the most of several; UNKNOWN where it was
    not counted for each of these calls. Calls made again by a checkpoint are left out.
    """
    table = timeline(stored).calls
    module, last = nullable_codes(table, "module"), column(table, "last_call")
    call_kind, phase = column(table, "kind"), nullable_codes(table, "phase")
    most, unclear = np.full(count, UNKNOWN, np.int64), np.zeros(count, np.bool_)
    for backward in of_backwards(stored):
        counted = (call_kind[backward.call] == MODULE) & (phase[backward.call] != RECOMPUTE)
        calls, sizes = backward.call[counted], backward.saved_bytes[counted]
        order = np.argsort(module[calls], kind="stable")
        calls, sizes = calls[order], sizes[order]
        outer = ~_inside_itself(module[calls], calls, last[calls])
        total, owner = np.zeros(count, np.int64), module[calls]
        np.add.at(total, owner[outer], np.maximum(sizes[outer], 0))
        unclear[owner[sizes < 0]] = True
        ran = np.unique(owner)
        most[ran] = np.maximum(most[ran], total[ran])
    return np.where(unclear, UNKNOWN, most)


def _inside_itself(module: Ints, calls: Ints, last: Ints) -> Bools:
    """Mask of the calls, in order of module and start, that are inside another call of the same module."""
    scale = int(last.max(initial=0)) + 1
    reach = np.maximum.accumulate(module * scale + last) if len(calls) else last
    nested = np.zeros(len(calls), np.bool_)
    nested[1:] = reach[:-1] >= (module * scale + calls)[1:]
    return nested
