"""Sums of module calls and phases over windows of steps, with histograms of their times. NumPy alone; they are exact.

A step is what began behind the end of the step before and before its own end. It is added to its window when it is over
and no call that began in it is open; windows are those of `windows_of`. A phase is what the thread of the loop spends
outside of all others: phases that were recorded, and root calls with gradients (`forward`) and without (`eval`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.capture.engine.decode import BlockCalls, DecodedCalls, distinct
from modtrace.capture.engine.thread_buffer import MODE_SHIFT
from modtrace.trace.arrow_arrays import IntegerLists
from modtrace.trace.histogram import added_up, buckets_of, windows_of
from modtrace.trace.schema import BACKWARD, FUNCTION, IN_BACKWARD, MODULE, NO_GRAD, PHASE, PHASES, SPAN

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_MODULE_BITS: Final = 32
_BUCKET_BITS: Final = 12
_OF_STEPS: Final = 0
"""The key of the steps themselves; that of a module is its number and one."""
_OF_PHASES: Final = 1 << 31
"""The key of the first of PHASES, above those of all modules."""
_FORWARD, _EVAL, _BACKWARD_PHASE, _OPTIMIZER = map(PHASES.index, ("forward", "eval", "backward", "optimizer"))
_RECOMPUTE: Final = len(PHASES)
_NO_PHASE: Final = -1
_BATCH_ROWS: Final = 1024
"""Windows that are over are handed out when they have so many rows: many small batches are slow to read."""
_NEVER: Final = 1 << 62
_MANY_RECENT: Final = 200_000
_MANY_PAIRS: Final = 1 << 16


def _nothing() -> Ints:
    return np.zeros(0, np.int64)


class _Amounts(NamedTuple):
    """Amounts, an array element a key. `own_untimed` is of both own times."""

    calls: Ints
    forward_ns: Ints
    forward_untimed: Ints
    forward_own_ns: Ints
    backwards: Ints
    backward_ns: Ints
    backward_untimed: Ints
    backward_own_ns: Ints
    own_untimed: Ints


class _Rows(NamedTuple):
    """Calls, or phases, of a block, an array element each; times are nanoseconds, 0 where they are not known.

    key: of the module or phase.
    backward: they are added to the backward side.
    counted: they are calls that count; of others the times alone are added.
    """

    start: Ints
    key: Ints
    duration: Ints
    untimed: Bools
    own: Ints
    own_untimed: Bools
    backward: Bools
    counted: Bools

    def chosen(self, rows: Bools | Ints) -> _Rows:
        """Some of the rows."""
        columns: list[Any] = [column[rows] for column in self]
        return _Rows(*columns)


@dataclass
class _Window:
    """Sums of one window so far: by key of the module the amounts and the longest times, by key, side and bucket the
    steps. `recent` are codes of buckets that are not among these yet: sorting many at once is cheaper.
    """

    first: int
    end: int
    from_ns: int
    to_ns: int = 0
    keys: Ints = field(default_factory=_nothing)
    amounts: _Amounts = field(default_factory=lambda: _Amounts(*(_nothing() for _ in _Amounts._fields)))
    longest: list[Ints] = field(default_factory=lambda: [_nothing(), _nothing()])
    buckets: Ints = field(default_factory=_nothing)
    counts: Ints = field(default_factory=_nothing)
    recent: list[Ints] = field(default_factory=list)

    def add(self, modules: Ints, amounts: _Amounts, longest: list[Ints]) -> None:
        """Add rows of modules in steps: amounts, and the time of each side, -1 where that is not known."""
        for side, spent in enumerate(longest):
            known = spent >= 0
            self.recent.append((modules[known] << 1 | side) << _BUCKET_BITS | buckets_of(spent[known]))
        if sum(map(len, self.recent)) > _MANY_RECENT:
            self.count()
        if not len(self.keys) or not np.array_equal(self.keys, modules):
            keys = distinct(np.concatenate([self.keys, modules]))
            place = np.searchsorted(keys, self.keys)
            self.amounts = _Amounts(*(_spread(amount, place, len(keys), 0) for amount in self.amounts))
            self.longest = [_spread(spent, place, len(keys), -1) for spent in self.longest]
            self.keys = keys
        place = np.searchsorted(self.keys, modules)
        for total, amount in zip(self.amounts, amounts, strict=True):
            np.add(total, _summed(place, amount, len(total)), out=total)
        for most, spent in zip(self.longest, longest, strict=True):
            np.maximum.at(most, place, spent)

    def count(self) -> None:
        """Count the steps in each bucket."""
        codes, self.recent = np.sort(np.concatenate([_nothing(), *self.recent])), []
        edges = np.flatnonzero(np.diff(codes, prepend=-1))
        counts = np.diff(edges, append=len(codes))
        self.buckets, self.counts = added_up(
            np.concatenate([self.buckets, codes[edges]]), np.concatenate([self.counts, counts])
        )


def _spread(values: Ints, place: Ints, count: int, missing: int) -> Ints:
    """Values at some of `count` places, `missing` at all others."""
    column = np.full(count, missing, np.int64)
    column[place] = values
    return column


class StepSums:
    """Sums of one process. Times are nanoseconds since the start of recording."""

    def __init__(self, first_step: int = 0) -> None:
        """Args:
        first_step: those before it are left out.
        """
        self._first_step = first_step
        self._numbers, self._since = [max(first_step - 1, 0)], [-_NEVER]
        """Steps, and from when on each is in progress."""
        self._keys: Ints = np.zeros(0, np.int64)
        self._pending = _Amounts(*(np.zeros(0, np.int64) for _ in _Amounts._fields))
        self._window: _Window | None = None
        self._closed: list[dict[str, Any]] = []
        self._closed_rows = 0
        self._is_over = False
        self._open_since: dict[int, int] = {}
        self._loop_thread: int | None = None
        """The thread buffer in which backwards or optimizers ran first: its phases are added up."""

    @property
    def step(self) -> int:
        """The number of the step in progress."""
        return self._numbers[-1]

    def step_began(self, step: int, at_ns: int) -> None:
        """A step is in progress from now on: those before it are over. Numbers that do not grow are left out."""
        if step > self._numbers[-1]:
            self._numbers.append(step)
            self._since.append(at_ns)

    def ended_at(self, at_ns: int) -> None:
        """The step before has ended at this moment, if that was not before."""
        if self._since[-1] > at_ns > (self._since[-2] if len(self._since) > 1 else -_NEVER):
            self._since[-1] = at_ns

    def add(
        self, calls: DecodedCalls, thread: int, origin_ns: int, phase_name: Callable[[int], str] | None
    ) -> None:
        """Add the calls of a block that have ended.

        Args:
            calls: the block.
            thread: number of its thread buffer.
            origin_ns: the clock at the start of recording.
            phase_name: the name of a phase by its label; None where there are no phases.
        """
        nodes = calls.nodes
        is_open = nodes.record < 0
        self._open_since[thread] = int(nodes.start[is_open].min()) - origin_ns if is_open.any() else _NEVER
        if not len(calls.rows):
            return
        phases = _phases(nodes, phase_name)
        again, tops = _again(nodes, phases)
        done = np.flatnonzero(~is_open)
        of_module = np.flatnonzero((nodes.kind[done] == MODULE) | (nodes.kind[done] == BACKWARD))
        backward, made_again = nodes.kind[done] == BACKWARD, again[done]
        every = _rows_of(calls, nodes.module[done] + 1, backward | made_again, ~made_again)
        rows = every if len(of_module) == len(done) else every.chosen(of_module)
        if made_again.any():  # it has no time on either side: its own time is that of backward
            rows = rows._replace(duration=np.where(rows.counted, rows.duration, 0))
        self._put(rows)
        for row in np.flatnonzero(tops[done]).tolist():
            node = int(nodes.parent[done[row]])
            while node >= 0:
                if nodes.kind[node] == BACKWARD:
                    self._take_off(nodes, node, int(every.duration[row]), bool(every.untimed[row]), origin_ns)
                node = int(nodes.parent[node])
        if self._loop_thread is None and np.isin(phases, (_BACKWARD_PHASE, _OPTIMIZER)).any():
            self._loop_thread = thread
        if thread == (self._loop_thread or 0):
            self._put(_phase_rows(nodes, phases, again, every, origin_ns))

    def finish(self, at_ns: int, *, with_last: bool = False) -> None:
        """Add the steps that are over to their windows.

        Args:
            at_ns: when the blocks that were added began to be taken.
            with_last: recording ends, and the step in progress is one.
        """
        oldest_ns = min([at_ns, *self._open_since.values()])
        limit = int(self._steps_at(np.array([oldest_ns]))[0])
        if with_last:
            limit = _NEVER >> _MODULE_BITS
        steps = self._keys >> _MODULE_BITS
        over = steps < limit
        if not over.any():
            return
        counts = over & (steps >= self._first_step)
        keys, amounts = self._keys[counts], _Amounts(*(amount[counts] for amount in self._pending))
        self._keys, self._pending = self._keys[~over], _Amounts(*(amount[~over] for amount in self._pending))
        if not len(keys):
            return
        steps, modules, amounts = self._with_steps(keys, amounts)
        first = np.maximum(windows_of(steps)[0], self._first_step)
        for window in distinct(first).tolist():
            inside = first == window
            part = _Amounts(*(amount[inside] for amount in amounts))
            self._add_to_window(window, steps[inside], modules[inside], part)
        self._forget(min(limit, self._numbers[-1]))

    def closed(self) -> dict[str, Any]:
        """Columns of the table `rollups` of the windows that are over and were not handed out yet; none while these are
        few. `latest` has them till then.
        """
        if self._closed_rows < _BATCH_ROWS and not self._is_over:
            return {}
        parts, self._closed, self._closed_rows = self._closed, [], 0
        return _joined(parts)

    def latest(self) -> dict[str, Any]:
        """The same of windows that were not handed out, and of the one in progress as far as its steps are over."""
        return _joined([*self._closed, *([_columns(self._window)] if self._window is not None else [])])

    def close(self) -> None:
        """The window in progress is over, and is the last."""
        self._is_over = True
        self._close_window()

    def _close_window(self) -> None:
        if self._window is not None:
            self._closed.append(_columns(self._window))
            self._closed_rows += len(self._window.keys)
            self._window = None

    def _steps_at(self, moments: Ints) -> Ints:
        """The step in progress at each moment."""
        place = np.searchsorted(np.array(self._since, np.int64), moments, side="right") - 1
        return np.array(self._numbers, np.int64)[np.maximum(place, 0)]

    def _put(self, rows: _Rows) -> None:
        """Add rows of calls to the steps in which they began."""
        if not len(rows.start):
            return
        steps, low, high = self._steps_at(rows.start), int(rows.key.min()), int(rows.key.max())
        first, width = int(steps.min()), high - low + 1
        # Small numbers for the pairs of both: what is added up by these needs no sorting.
        pairs, new = _added_to((steps - first) * width + (rows.key - low), rows)
        self._add_pending(pairs // width + first << _MODULE_BITS | (pairs % width + low), new)

    def _add_pending(self, keys: Ints, new: _Amounts) -> None:
        """Add amounts by their distinct keys in order."""
        if len(self._keys):
            joined = (np.concatenate(pair) for pair in zip(self._pending, new, strict=True))
            keys, *amounts = added_up(np.concatenate([self._keys, keys]), *joined)
            new = _Amounts(*amounts)
        self._keys, self._pending = keys, new

    def _take_off(self, nodes: BlockCalls, node: int, spent_ns: int, untimed: bool, origin_ns: int) -> None:
        """Take what a checkpoint computed again off a backward around it."""
        start, module = nodes.start[node : node + 1] - origin_ns, nodes.module[node : node + 1]
        nothing = {name: np.zeros(1, np.int64) for name in _Amounts._fields}
        less = {"backward_ns": np.array([-spent_ns]), "backward_untimed": np.array([int(untimed)])}
        self._add_pending(self._steps_at(start) << _MODULE_BITS | (module + 1), _Amounts(**nothing | less))

    def _with_steps(self, keys: Ints, amounts: _Amounts) -> tuple[Ints, Ints, _Amounts]:
        """Steps, keys of modules and amounts, with a row of each step whose begin and end are known: its time is that
        of a forward.
        """
        steps, modules = keys >> _MODULE_BITS, keys & ((1 << _MODULE_BITS) - 1)
        numbers, since = np.array(self._numbers, np.int64), np.array(self._since, np.int64)
        low, high = np.searchsorted(numbers, [steps[0], steps[-1] + 1])
        numbers, since = numbers[low : high + 1], since[low : high + 1]
        known = np.flatnonzero((np.diff(numbers) == 1) & (since[:-1] > -_NEVER))
        spent = since[known + 1] - since[known]
        nothing, one = np.zeros(len(known), np.int64), np.ones(len(known), np.int64)
        amounts_of_steps = dict.fromkeys(_Amounts._fields, nothing) | {"calls": one, "forward_ns": spent}
        of_steps = _Amounts(**amounts_of_steps)
        joined = _Amounts(*(np.concatenate(pair) for pair in zip(amounts, of_steps, strict=True)))
        return np.concatenate([steps, numbers[known]]), np.concatenate([modules, nothing + _OF_STEPS]), joined

    def _add_to_window(self, first: int, steps: Ints, modules: Ints, amounts: _Amounts) -> None:
        window = self._window
        if window is not None and first > window.first:
            self._close_window()
            window = None
        from_ns, to_ns = self._moments(int(steps.min()), int(steps.max()))
        if window is None:
            self._window = window = _Window(first, first, from_ns)
        window.to_ns, window.end = to_ns, max(window.end, int(steps.max()) + 1)
        forward = (amounts.calls > 0) & (amounts.forward_untimed == 0)
        backward = (amounts.backwards > 0) & (amounts.backward_untimed == 0)
        longest = [
            np.where(is_known, np.maximum(spent, 0), -1)
            for is_known, spent in ((forward, amounts.forward_ns), (backward, amounts.backward_ns))
        ]
        window.add(modules, amounts, longest)

    def _moments(self, first: int, last: int) -> tuple[int, int]:
        """When the first of some steps began and the last ended, as far as that is known."""
        numbers = np.array(self._numbers, np.int64)
        began = self._since[int(np.searchsorted(numbers, first, side="right")) - 1]
        behind = int(np.searchsorted(numbers, last, side="right"))
        ended = self._since[behind] if behind < len(self._since) else self._since[-1]
        return max(began, 0), max(ended, 0)

    def _forget(self, step: int) -> None:
        """Steps before this one are over."""
        place = int(np.searchsorted(np.array(self._numbers, np.int64), step, side="right")) - 1
        del self._numbers[: max(place, 0)], self._since[: max(place, 0)]


def _phases(nodes: BlockCalls, phase_name: Callable[[int], str] | None) -> Ints:
    """Of each call its index in PHASES, or _RECOMPUTE; _NO_PHASE for what is no phase."""
    phases = np.full(len(nodes.kind), _NO_PHASE, np.int64)
    rows = np.flatnonzero(nodes.kind == PHASE)
    if len(rows) and phase_name is not None:
        labels = distinct(nodes.module[rows])
        numbers = np.array([_PHASE_NUMBERS.get(phase_name(label), _NO_PHASE) for label in labels.tolist()])
        phases[rows] = numbers[np.searchsorted(labels, nodes.module[rows])]
    return phases


def _rows_of(calls: DecodedCalls, key: Ints, backward: Bools, counted: Bools) -> _Rows:
    """The calls of a block that have ended."""
    rows, nulls = calls.rows, calls.nulls
    untimed, own_untimed = nulls["duration_ns"], nulls["self_ns"]
    duration, own = (rows[name].astype(np.int64, copy=False) for name in ("duration_ns", "self_ns"))
    if own_untimed.any():
        duration, own = np.where(untimed, 0, duration), np.where(own_untimed, 0, own)
    return _Rows(rows["start_ns"], key, duration, untimed, own, own_untimed, backward, counted)


def _phase_rows(nodes: BlockCalls, phases: Ints, again: Bools, rows: _Rows, origin_ns: int) -> _Rows:
    """Parts of the time of a thread: root calls and phases with nothing around them but spans, functions and optimizer
    steps; the parts inside of such a step are taken off it.
    """
    wraps = (nodes.kind == SPAN) | (nodes.kind == FUNCTION) | (phases == _OPTIMIZER)
    has_parent = nodes.parent >= 0
    clear = ~has_parent
    while (inner := has_parent & wraps[nodes.parent] & clear[nodes.parent] & ~clear).any():
        clear |= inner
    roots = (nodes.kind == MODULE) & ~again
    without_grad = (nodes.given >> MODE_SHIFT & NO_GRAD) > 0
    phases = np.where(roots, np.where(without_grad, _EVAL, _FORWARD), phases)
    units = clear & (phases >= 0) & (phases < _RECOMPUTE)
    done = np.flatnonzero(nodes.record >= 0)
    chosen = np.flatnonzero(units[done])
    every = np.ones(len(chosen), np.bool_)
    own = rows.chosen(chosen)._replace(key=phases[done[chosen]] + _OF_PHASES, backward=~every, counted=every)
    above = nodes.parent[done[chosen]]
    while (passed := (above >= 0) & (phases[above] != _OPTIMIZER)).any():
        above = np.where(passed, nodes.parent[above], above)
    inside = np.flatnonzero(above >= 0)
    if not len(inside):
        return own
    less = own.chosen(inside)
    less = less._replace(
        start=nodes.start[above[inside]] - origin_ns,
        key=np.full(len(inside), _OF_PHASES + _OPTIMIZER),
        duration=-less.duration,
        own=np.zeros(len(inside), np.int64),
        counted=np.zeros(len(inside), np.bool_),
    )
    return _Rows(*(np.concatenate(pair) for pair in zip(own, less, strict=True)))


_PHASE_NUMBERS: Final = {name: number for number, name in enumerate((*PHASES, "recompute"))}


def _again(nodes: BlockCalls, phases: Ints) -> tuple[Bools, Bools]:
    """Masks of the calls that a checkpoint made again, and of the checkpoints that did, without those inside others."""
    of_module = nodes.kind == MODULE
    again = of_module & ((nodes.given >> MODE_SHIFT & IN_BACKWARD) > 0)
    recomputes = phases == _RECOMPUTE
    if not (again.any() or recomputes.any()):
        return again, recomputes
    has_parent = nodes.parent >= 0
    again |= recomputes
    again, inside = (_with_inner(of_them, nodes) for of_them in (again, recomputes))
    return again, recomputes & ~(has_parent & inside[nodes.parent])


def _with_inner(calls: Bools, nodes: BlockCalls) -> Bools:
    """Mask of some calls and of all that are inside of them."""
    inside, has_parent = calls.copy(), nodes.parent >= 0
    while (more := has_parent & inside[nodes.parent] & ~inside).any():
        inside |= more
    return inside


def _added_to(pairs: Ints, rows: _Rows) -> tuple[Ints, _Amounts]:
    """Distinct pairs of steps and modules in order, and the amounts of each."""
    present = None
    count = int(pairs.max()) + 1
    if count > 4 * len(pairs) + _MANY_PAIRS:  # too far apart for a column a pair
        present = distinct(pairs)
        pairs, count = np.searchsorted(present, pairs), len(present)

    sides = []
    for side in (~rows.backward, rows.backward):
        chosen = np.flatnonzero(side)
        own_pairs, counted = pairs[chosen], rows.counted[chosen]
        of_calls = own_pairs if counted.all() else own_pairs[counted]
        untimed = own_pairs[rows.untimed[chosen] & counted] if rows.untimed.any() else of_calls[:0]
        sides += [
            np.bincount(of_calls, minlength=count),
            _summed(own_pairs, rows.duration[chosen], count),
            np.bincount(untimed, minlength=count),
            _summed(own_pairs, rows.own[chosen], count),
        ]
    keys = np.flatnonzero(np.bincount(pairs, minlength=count))
    own_untimed = np.bincount(pairs[rows.own_untimed], minlength=count)
    amounts = _Amounts(*(amount[keys] for amount in (*sides, own_untimed)))
    return (keys if present is None else present[keys]), amounts


def _summed(keys: Ints, values: Ints, count: int) -> Ints:
    """Sums by key. In floats, which are exact below 2**53: 104 days; `np.add.at` takes three times as long."""
    return np.bincount(keys, weights=values, minlength=count).astype(np.int64)


def _columns(window: _Window) -> dict[str, Any]:
    """Rows of the table `rollups`, a module or phase each and one of the steps themselves."""
    window.count()
    count, amounts = len(window.keys), window.amounts
    of_module = (window.keys != _OF_STEPS) & (window.keys < _OF_PHASES)
    own_known = (amounts.own_untimed == 0) & (window.keys != _OF_STEPS)
    known = (
        (amounts.calls > 0) & (amounts.forward_untimed == 0),
        (amounts.backwards > 0) & (amounts.backward_untimed == 0),
    )
    columns: dict[str, Any] = {
        "first_step": [window.first] * count,
        "end_step": [window.end] * count,
        "from_ns": [window.from_ns] * count,
        "to_ns": [window.to_ns] * count,
        "module": _nullable(window.keys - 1, of_module),
        "calls": amounts.calls.tolist(),
        "forward_ns": _nullable(amounts.forward_ns, known[0]),
        "forward_max_ns": _nullable(window.longest[0], window.longest[0] >= 0),
        "backward_ns": _nullable(np.maximum(amounts.backward_ns, 0), known[1]),
        "backward_max_ns": _nullable(window.longest[1], window.longest[1] >= 0),
        "phase": _nullable(window.keys - _OF_PHASES, window.keys >= _OF_PHASES),
        "forward_self_ns": _nullable(amounts.forward_own_ns, own_known & (amounts.calls > 0)),
        "backward_self_ns": _nullable(
            amounts.backward_own_ns,
            own_known & of_module & ((amounts.backwards > 0) | (amounts.backward_own_ns > 0)),
        ),
    }
    bucket, steps = window.buckets & ((1 << _BUCKET_BITS) - 1), window.counts
    for side, name in enumerate(("forward", "backward")):
        key = (window.keys << 1 | side) << _BUCKET_BITS
        low, high = (np.searchsorted(window.buckets, key + more) for more in (0, 1 << _BUCKET_BITS))
        own = window.buckets >> _BUCKET_BITS & 1 == side
        columns[f"{name}_buckets"] = IntegerLists(np.cumsum(high - low), bucket[own])
        columns[f"{name}_steps"] = IntegerLists(np.cumsum(high - low), steps[own])
    return columns


def _nullable(values: Ints, known: Bools) -> list[int | None]:
    return [
        value if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)
    ]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The columns of several windows one below the other."""
    columns: dict[str, Any] = {}
    for name, first in parts[0].items() if parts else ():
        of_windows = [part[name] for part in parts]
        is_lists = isinstance(first, IntegerLists)
        columns[name] = IntegerLists.joined(of_windows) if is_lists else [*chain(*of_windows)]
    return columns
