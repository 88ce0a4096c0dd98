"""What autograd kept for backward, where it was counted: by call and by module.

A storage belongs to the call whose node kept it first, so what calls keep adds up. What hooks hold (a checkpoint) and
what nodes do not give out is not known: a call with any of it inside has no number.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.around import inside
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.timeline import timeline
from modtrace.analysis.watching import SAVED, asked
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN = -1


@dataclass(frozen=True)
class Rows:
    """Rows of `saved`, their calls as positions in the timeline, in order of backwards and calls."""

    backward: Ints
    call: Ints
    saved_bytes: Ints
    storages: Ints
    packed: Ints
    uncounted: list[tuple[str, ...]]

    @property
    def unclear(self) -> Bools:
        """Which keep something that was not counted."""
        return (self.packed > 0) | np.array([bool(names) for names in self.uncounted], np.bool_)

    def backwards(self) -> list[tuple[int, slice]]:
        """Each backward, and its rows."""
        found, first = np.unique(self.backward, return_index=True)
        ends = np.append(first, len(self.backward))[1:]
        return [
            (at, slice(low, high))
            for at, low, high in zip(found.tolist(), first.tolist(), ends.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class OfBackward:
    """What calls kept with everything inside them when one backward began; UNKNOWN where that is not known."""

    call: Ints
    saved_bytes: Ints


_made: weakref.WeakKeyDictionary[Stored, list[OfBackward]] = weakref.WeakKeyDictionary()


def rows_of(stored: Stored) -> Rows:
    """What was counted."""
    table, place = _wanted(stored), timeline(stored).place
    backward, call = place[column(table, "backward")], place[column(table, "call")]
    order = np.lexsort((call, backward))
    names = table.column("uncounted").to_pylist()
    return Rows(
        backward=backward[order],
        call=call[order],
        saved_bytes=column(table, "saved_bytes")[order],
        storages=column(table, "storages")[order],
        packed=column(table, "packed")[order],
        uncounted=[tuple(names[at] or ()) for at in order.tolist()],
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
    return table.filter(pa.array(wanted))


def of_backwards(stored: Stored) -> list[OfBackward]:
    """What calls kept in each backward that was counted; made once."""
    if stored not in _made:
        _made[stored] = _of_backwards(stored)
    return _made[stored]


def _of_backwards(stored: Stored) -> list[OfBackward]:
    rows, table = rows_of(stored), timeline(stored).calls
    kind, last = column(table, "kind"), column(table, "last_call")
    module = nullable_codes(table, "module")
    again = (kind == MODULE) & (nullable_codes(table, "phase") == RECOMPUTE)
    found = []
    for backward, here in rows.backwards():
        call = rows.call[here]
        own, unclear = np.zeros(len(table), np.int64), np.zeros(len(table), np.bool_)
        own[call], unclear[call] = rows.saved_bytes[here], rows.unclear[here]
        mine = call[kind[call] == MODULE]
        reached = np.zeros(len(table), np.bool_)
        reached[mine] = True
        calls = np.flatnonzero((reached | inside(reached, last)) & (kind == MODULE))
        total, lacking = (np.concatenate([[0], np.cumsum(some)]) for some in (own, unclear))
        ends = last[calls] + 1
        inclusive = total[ends] - total[calls]
        inclusive[lacking[ends] > lacking[calls]] = UNKNOWN
        # A checkpoint may run without gradients. What it calls keeps nothing yet, but will when it is made again.
        inner = slice(backward, int(last[backward]) + 1)
        made_again = np.unique(module[inner][again[inner]])
        inclusive[~again[calls] & np.isin(module[calls], made_again)] = UNKNOWN
        everything = UNKNOWN if unclear.any() else int(own.sum())
        found.append(OfBackward(np.append(calls, backward), np.append(inclusive, everything)))
    return found


def of_calls(stored: Stored) -> Ints:
    """What each row of the timeline kept with everything inside it, the most of several backwards; a backward phase has
    all that was kept when it began. UNKNOWN where it was not counted.
    """
    count = len(timeline(stored).calls)
    most, unclear = np.full(count, UNKNOWN, np.int64), np.zeros(count, np.bool_)
    for one in of_backwards(stored):
        most[one.call] = np.maximum(most[one.call], one.saved_bytes)
        unclear[one.call[one.saved_bytes < 0]] = True
    return np.where(unclear, UNKNOWN, most)


def of_modules(stored: Stored, count: int) -> Ints:
    """What the calls of each of `count` modules kept for one backward, the most of several; UNKNOWN where it was not
    counted for each of these calls. Calls made again by a checkpoint are left out.
    """
    table = timeline(stored).calls
    module, last = nullable_codes(table, "module"), column(table, "last_call")
    kind, phase = column(table, "kind"), nullable_codes(table, "phase")
    most, unclear = np.full(count, UNKNOWN, np.int64), np.zeros(count, np.bool_)
    for one in of_backwards(stored):
        some = (kind[one.call] == MODULE) & (phase[one.call] != RECOMPUTE)
        calls, sizes = one.call[some], one.saved_bytes[some]
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
    """Which calls, in order of module and start, are inside another call of the same module."""
    scale = int(last.max(initial=0)) + 1
    reach = np.maximum.accumulate(module * scale + last) if len(calls) else last
    found = np.zeros(len(calls), np.bool_)
    found[1:] = reach[:-1] >= (module * scale + calls)[1:]
    return found
