"""Calls of one process that contradict each other: which of them to leave out, so that the others add up.

A trace in which a few rows are false is still worth reading. A call is left out with all calls inside it: handed up to
the call around it, they would be counted as something that they are not (a layer as a root call, which is a step).
Of two calls that contradict each other the one goes with which fewer rows go; where those are as many, the earlier one.
A call that has not ended says nothing of its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from modtrace.trace.call_table import constant
from modtrace.trace.schema import BACKWARD, MODULE, RAISED, STEP, UNFINISHED
from modtrace.trace.table_keys import Bools, Ints

BEFORE_PARENT: Final = "a call comes before its parent"
OTHER_THREAD: Final = "a call is in another thread than its parent"
ROOT_DEPTH: Final = "a root call has a depth"
DEEPER: Final = "a call is deeper than its parent by another number than one"
OUTLASTS: Final = "a call outlasts its parent"
STRANGE: Final = "a call is inside one that is none of its parents"
TOO_SHORT: Final = "a call takes less time than what is inside it"
_CLOCK_NS: Final = 100_000
_NO_END: Final = 1 << 62


def contradicting(columns: Mapping[str, Any], nulls: Mapping[str, Bools]) -> dict[str, Bools]:
    """The calls to leave out, by reason; empty where nothing contradicts itself.

    What takes too little time is looked for once all else is right, so this is to be asked again about what remains.

    Args:
        columns: those of the calls of one process in order of their ids; `parent` and `last_call` are positions.
        nulls: where they hold nothing. Times are 0 there.
    """
    if not len(columns["call"]):
        return {}
    false = _false(columns, nulls)
    if any(bool(broken.any()) for broken in false.values()) or bool(_unnested(columns).any()):
        return _Walk(columns, false).run()
    short = _too_short(columns, nulls)
    if bool(short.any()):
        return {TOO_SHORT: _with_descendants(_longest_inside(columns, short), columns["last_call"])}
    return {}


def _false(columns: Mapping[str, Any], nulls: Mapping[str, Bools]) -> dict[str, Bools]:
    """Rows that cannot be true whatever the others say."""
    call_kind, row = columns["kind"], np.arange(len(columns["call"]))
    inside = columns["self_ns"] + columns["tracer_ns"]
    return {
        "a call ends before it starts": columns["last_call"] < row,
        "a call is of no module": nulls["module"] & ((call_kind == MODULE) | (call_kind == BACKWARD)),
        "a module has no root": nulls["root"] != nulls["module"],
        "a row has no name": nulls["module"] & nulls["label"],
        "a call was left by an exception that is not there": (columns["status"] == RAISED) & nulls["error"],
        "the mark at the end of a step holds calls": (call_kind == STEP) & (columns["last_call"] != row),
        "a call takes less time than its own part of it": (inside > columns["duration_ns"])
        & ~nulls["duration_ns"],
    }


def _unnested(columns: Mapping[str, Any]) -> Bools:
    """Calls that are no part of a tree that `parent`, `depth` and `last_call` agree on."""
    parent, last, depth, thread = (columns[name] for name in ("parent", "last_call", "depth", "thread"))
    row, inside = np.arange(len(parent)), parent >= 0
    over = np.where(inside, parent, 0)
    wrong: Bools = (parent >= row) | (~inside & (depth != 0))
    wrong |= inside & ((depth != depth[over] + 1) | (last > last[over]))
    if not constant(thread):
        wrong |= inside & (thread != thread[over])
    return wrong if bool(wrong.any()) or bool((last < row).any()) else _open_at(last) != depth


def _open_at(last: Ints) -> Ints:
    """Number of calls that begin before each call and end after its start: those that it is inside of, so its depth."""
    ended = np.cumsum(np.bincount(last, minlength=len(last))[: len(last)])
    open_at: Ints = np.arange(len(last)) - np.concatenate([[0], ended[:-1]])
    return open_at


class _Walk:
    """One walk over the calls in order of their start, with those that are open; only where something is wrong."""

    def __init__(self, columns: Mapping[str, Any], false: Mapping[str, Bools]) -> None:
        reason_code = np.zeros(len(columns["call"]), np.int64)
        self._reasons = [*false, BEFORE_PARENT, OTHER_THREAD, ROOT_DEPTH, DEEPER, OUTLASTS, STRANGE]
        for code, broken in enumerate(false.values(), 1):
            reason_code[broken & (reason_code == 0)] = code
        self._codes = {reason: code for code, reason in enumerate(self._reasons, 1)}
        # Why each call is left out, 0 where it is not.
        self._out: list[int] = reason_code.tolist()
        self._parent: list[int] = columns["parent"].tolist()
        self._depth: list[int] = columns["depth"].tolist()
        ended = columns["status"] != UNFINISHED
        self._last: list[int] = np.where(ended, columns["last_call"], _NO_END).tolist()
        self._edges = np.flatnonzero(np.diff(columns["thread"], prepend=-1, append=-1)).tolist()
        self._open: list[tuple[int, int]] = []
        """Open calls, outermost first, and the last call that may be inside of them."""

    def run(self) -> dict[str, Bools]:
        for low, high in zip(self._edges[:-1], self._edges[1:], strict=True):
            self._open.clear()
            for row in range(low, high):
                self._out[row] = self._out[row] or self._wrong(row, low)
                if not self._out[row]:
                    self._close(self._depth[row], row, high)
                if not self._out[row]:
                    bound = self._open[-1][1] if self._open else _NO_END
                    self._open.append((row, min(bound, self._last[row])))
            self._close(0, high, high)
        out = np.array(self._out)
        rows_of_reason = {reason: out == code for reason, code in self._codes.items()}
        return {reason: rows for reason, rows in rows_of_reason.items() if bool(rows.any())}

    def _wrong(self, row: int, low: int) -> int:
        """Code of the reason for which a call contradicts those around it, 0 for none; calls inside of one left out go
        with it.
        """
        parent, depth = self._parent[row], self._depth[row]
        if parent < 0:
            return self._codes[ROOT_DEPTH] if depth else 0
        if parent >= row:
            return self._codes[BEFORE_PARENT]
        if parent < low:
            return self._codes[OTHER_THREAD]
        if self._out[parent]:
            return self._out[parent]
        if depth != self._depth[parent] + 1:
            return self._codes[DEEPER]
        if len(self._open) < depth or self._open[depth - 1][0] != parent:
            return self._codes[STRANGE]
        last = self._last[row] if self._last[row] < _NO_END else row
        return self._codes[OUTLASTS] if last > self._open[depth - 1][1] else 0

    def _close(self, depth: int, row: int, high: int) -> None:
        """The calls below a depth have ended before another one, if that is true: else they or that one are out."""
        for call, _ in self._open[depth:]:
            last = self._last[call]
            if last != _NO_END and last >= row:
                if row < high and row - call > last - row + 1:
                    self._out[row] = self._codes[STRANGE]
                    return
                for inner in range(call, row):
                    self._out[inner] = self._out[inner] or self._codes[STRANGE]
                break
        del self._open[depth:]


def _too_short(columns: Mapping[str, Any], nulls: Mapping[str, Bools]) -> Bools:
    """Calls whose duration is less than their own time and that of the calls inside, by more than clocks explain."""
    took = columns["duration_ns"].astype(np.float64)
    inside = np.bincount(columns["parent"] + 1, weights=took, minlength=len(took) + 1)[1:]
    inside += columns["self_ns"] + columns["tracer_ns"]
    took *= 1.01
    took += _CLOCK_NS
    broken: Bools = (inside > took) & ~nulls["duration_ns"]
    return broken


def _longest_inside(columns: Mapping[str, Any], short: Bools) -> Bools:
    """The longest calls directly inside of calls that are too short: as many as there must go."""
    parent = columns["parent"]
    took = columns["duration_ns"].astype(np.float64)
    inside = np.flatnonzero((parent >= 0) & short[parent])
    inside = inside[np.lexsort((took[inside], parent[inside]))]
    over, spent = parent[inside], np.cumsum(took[inside])
    first = np.flatnonzero(np.diff(over, prepend=-1))
    before = np.repeat((spent - took[inside])[first], np.diff(np.append(first, len(over))))
    room = took[over] * 1.01 + _CLOCK_NS - (columns["self_ns"] + columns["tracer_ns"])[over]
    out = np.zeros(len(parent), np.bool_)
    out[inside[spent - before > room]] = True
    # A sum of floats may be off by a little: one goes in any case.
    out[inside[np.append(first[1:], len(over)) - 1]] = True
    return out


def _with_descendants(rows: Bools, last: Ints) -> Bools:
    """Calls with all that is inside of them."""
    edges = np.zeros(len(rows) + 1, np.int64)
    tops = np.flatnonzero(rows)
    np.add.at(edges, tops, 1)
    np.add.at(edges, last[tops] + 1, -1)
    covered: Bools = np.cumsum(edges)[:-1] > 0
    return covered
