"""When calls began and ended, such that what is inside another call lies inside it in time too.

Tools that draw nested calls tell by the times what is inside what. Nearly all calls nest as they were recorded; where
a clock was read on the wrong side of another by some nanoseconds, or an end was not seen, a time is moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, values_and_known
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """Times of the rows of a timeline, nanoseconds since the start of recording in their process.

    moved: where they are not those of the row.
    """

    start_ns: Ints
    end_ns: Ints
    moved: Bools


def spans(stored: Stored) -> Spans:
    """Times that nest. A call whose end was not seen lasts until something else shows that it was over."""
    table = timeline(stored).calls
    start = column(table, "start_ns").astype(np.int64)
    duration, known = values_and_known(table, "duration_ns")
    end = start + np.where(known, duration, 0)
    parent, last = column(table, "parent"), column(table, "last_call")
    # Each thread of each process is a tree of its own; its first rows have no parent.
    track = column(table, "process") << 32 | column(table, "thread")
    after = np.minimum(last + 1, max(len(start) - 1, 0))
    follows = (last + 1 < len(start)) & (parent[after] == parent) & (track[after] == track)
    _close(stored, table, (start, end), (~known, parent, after, follows))
    inside = parent >= 0
    over = np.where(inside, parent, 0)
    wrong = inside & ((start < start[over]) | (end > end[over])) | follows & (start[after] < end)
    moved = ~known
    if wrong.any():
        recorded = start.copy(), end.copy()
        _settle(start, end, parent, track)
        moved = moved | (start != recorded[0]) | (end != recorded[1])
    return Spans(start, end, moved)


def _close(
    stored: Stored, table: CallTable, times: tuple[Ints, Ints], tree: tuple[Bools, Ints, Ints, Bools]
) -> None:
    """Give calls whose end was not seen the latest end that they can have had."""
    (start, end), (unknown, parent, after, follows) = times, tree
    process = column(table, "process")
    for row in np.flatnonzero(unknown).tolist():
        if follows[row]:
            latest = start[after[row]]
        elif parent[row] >= 0:
            latest = end[parent[row]]
        else:
            latest = stored.processes[process[row]].wall_ns
        end[row] = max(start[row], latest)


def _settle(start: Ints, end: Ints, parent: Ints, track: Ints) -> None:
    """Move times, in order of start, into what is around them and behind what comes before them."""
    free: dict[int, int] = {}
    starts, ends = start.tolist(), end.tolist()
    for row, (over, track_number) in enumerate(zip(parent.tolist(), track.tolist(), strict=True)):
        key = over if over >= 0 else -1 - track_number
        begin = max(starts[row], free.get(key, starts[over] if over >= 0 else starts[row]))
        finish = max(ends[row], begin)
        if over >= 0:
            begin, finish = min(begin, ends[over]), min(finish, ends[over])
        starts[row], ends[row] = begin, finish
        free[key] = finish
    start[:], end[:] = starts, ends
