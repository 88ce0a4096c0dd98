"""Sums of module calls over windows of steps, with histograms of their times. NumPy alone; what is in them is exact.

A step is what began behind the end of the step before and before its own end. It is added to its window when it is over
and no call that began in it is open; windows are those of `windows_of`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.capture.engine.decode import BlockCalls, DecodedCalls, distinct
from modtrace.capture.engine.thread_buffer import MODE_SHIFT
from modtrace.trace.arrow_arrays import IntegerLists
from modtrace.trace.histogram import added_up, buckets_of, windows_of
from modtrace.trace.schema import BACKWARD, IN_BACKWARD, MODULE, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_MODULE_BITS: Final = 32
_BUCKET_BITS: Final = 12
_OF_STEPS: Final = 0
"""The key of the steps themselves; that of a module is its number and one."""
_NEVER: Final = 1 << 62
_MANY_RECENT: Final = 200_000
_MANY_PAIRS: Final = 1 << 16


def _nothing() -> Ints:
    return np.zeros(0, np.int64)


class _Amounts(NamedTuple):
    """Amounts, an array element a key."""

    calls: Ints
    forward_ns: Ints
    forward_untimed: Ints
    backwards: Ints
    backward_ns: Ints
    backward_untimed: Ints


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
            np.add.at(total, place, amount)
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
        self._closed: list[_Window] = []
        self._open_since: dict[int, int] = {}

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

    def add(self, calls: DecodedCalls, thread: int, origin_ns: int, is_recompute: Any) -> None:
        """Add the calls of a block that have ended.

        Args:
            calls: the block.
            thread: number of its thread buffer.
            origin_ns: the clock at the start of recording.
            is_recompute: says of a label that it is of a checkpoint that computes again.
        """
        nodes = calls.nodes
        is_open = nodes.record < 0
        self._open_since[thread] = int(nodes.start[is_open].min()) - origin_ns if is_open.any() else _NEVER
        if not len(calls.rows):
            return
        again, tops = _again(nodes, is_recompute)
        done = np.flatnonzero(~is_open)
        start, duration = calls.rows["start_ns"], calls.rows["duration_ns"]
        untimed = calls.nulls["duration_ns"]
        call_kind, module = nodes.kind[done], nodes.module[done]
        forward = (call_kind == MODULE) & ~again[done]
        backward = call_kind == BACKWARD
        chosen = np.flatnonzero(forward | backward)
        self._put(start[chosen], module[chosen], duration[chosen], untimed[chosen], backward[chosen])
        for row in np.flatnonzero(tops[done]).tolist():
            node = int(nodes.parent[done[row]])
            while node >= 0:
                if nodes.kind[node] == BACKWARD:
                    self._take_off(nodes, node, int(duration[row]), bool(untimed[row]), origin_ns)
                node = int(nodes.parent[node])

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
        """Columns of the table `rollups` of the windows that are over and were not handed out yet."""
        windows, self._closed = self._closed, []
        return _joined([_columns(window) for window in windows])

    def latest(self) -> dict[str, Any]:
        """The same of the window in progress, as far as its steps are over."""
        return _columns(self._window) if self._window is not None else {}

    def close(self) -> None:
        """The window in progress is over."""
        if self._window is not None:
            self._closed.append(self._window)
            self._window = None

    def _steps_at(self, moments: Ints) -> Ints:
        """The step in progress at each moment."""
        place = np.searchsorted(np.array(self._since, np.int64), moments, side="right") - 1
        return np.array(self._numbers, np.int64)[np.maximum(place, 0)]

    def _put(self, start: Ints, module: Ints, duration: Ints, untimed: Bools, backward: Bools) -> None:
        """Add rows of calls to the steps in which they began."""
        if not len(start):
            return
        steps, low, high = self._steps_at(start), int(module.min()), int(module.max())
        first, width = int(steps.min()), high - low + 1
        # Small numbers for the pairs of both: what is added up by these needs no sorting.
        pairs, new = _added_to((steps - first) * width + (module - low), backward, untimed, duration)
        keys = pairs // width + first << _MODULE_BITS | (pairs % width + low + 1)
        if len(self._keys):
            joined = (np.concatenate(pair) for pair in zip(self._pending, new, strict=True))
            keys, *amounts = added_up(np.concatenate([self._keys, keys]), *joined)
            new = _Amounts(*amounts)
        self._keys, self._pending = keys, new

    def _take_off(self, nodes: BlockCalls, node: int, spent_ns: int, untimed: bool, origin_ns: int) -> None:
        """Take what a checkpoint computed again off a backward around it."""
        start, module = nodes.start[node : node + 1] - origin_ns, nodes.module[node : node + 1]
        key = self._steps_at(start) << _MODULE_BITS | (module + 1)
        nothing = np.zeros(1, np.int64)
        new = _Amounts(nothing, nothing, nothing, nothing, nothing - spent_ns, nothing + untimed)
        joined = (np.concatenate(pair) for pair in zip(self._pending, new, strict=True))
        self._keys, *amounts = added_up(np.concatenate([self._keys, key]), *joined)
        self._pending = _Amounts(*amounts)

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
        of_steps = _Amounts(one, spent, nothing, nothing, nothing, nothing)
        joined = _Amounts(*(np.concatenate(pair) for pair in zip(amounts, of_steps, strict=True)))
        return np.concatenate([steps, numbers[known]]), np.concatenate([modules, nothing + _OF_STEPS]), joined

    def _add_to_window(self, first: int, steps: Ints, modules: Ints, amounts: _Amounts) -> None:
        window = self._window
        if window is not None and first > window.first:
            self.close()
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


def _again(nodes: BlockCalls, is_recompute: Any) -> tuple[Bools, Bools]:
    """Masks of the calls that a checkpoint made again, and of the checkpoints that did, without those inside others."""
    of_module = nodes.kind == MODULE
    again = of_module & ((nodes.given >> MODE_SHIFT & IN_BACKWARD) > 0)
    phases = np.flatnonzero(nodes.kind == PHASE)
    recomputes = np.zeros(len(nodes.kind), np.bool_)
    recomputes[[row for row in phases.tolist() if is_recompute(int(nodes.module[row]))]] = True
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


def _added_to(pairs: Ints, backward: Bools, untimed: Bools, duration: Ints) -> tuple[Ints, _Amounts]:
    """Distinct pairs of steps and modules in order, and the amounts of each."""
    count = int(pairs.max()) + 1
    sides = []
    for side in (~backward, backward):
        rows = np.flatnonzero(side)
        own, spent = pairs[rows], np.where(untimed[rows], 0, duration[rows]).astype(np.int64)
        if count > 4 * len(pairs) + _MANY_PAIRS:
            sides.append((own, np.ones(len(rows), np.int64), spent, untimed[rows].astype(np.int64)))
            continue
        total = np.zeros(count, np.int64)
        np.add.at(total, own, spent)
        number = np.bincount(own, minlength=count)
        sides.append(
            (np.flatnonzero(number), number, total, np.bincount(own[untimed[rows]], minlength=count))
        )
    if count > 4 * len(pairs) + _MANY_PAIRS:
        return _added_sparsely(sides)
    keys = np.flatnonzero((sides[0][1] + sides[1][1]) > 0)
    return keys, _Amounts(*(amount[keys] for _, *amounts in sides for amount in amounts))


def _added_sparsely(sides: list[tuple[Ints, Ints, Ints, Ints]]) -> tuple[Ints, _Amounts]:
    """The same of pairs that are too far apart: rows of a forward, then of a backward."""
    (forward, *of_forward), (backward, *of_backward) = sides
    amounts = [np.concatenate([amount, np.zeros(len(backward), np.int64)]) for amount in of_forward]
    amounts += [np.concatenate([np.zeros(len(forward), np.int64), amount]) for amount in of_backward]
    keys, *columns = added_up(np.concatenate([forward, backward]), *amounts)
    return keys, _Amounts(*columns)


def _columns(window: _Window) -> dict[str, Any]:
    """Rows of the table `rollups`, a module each and one of the steps themselves."""
    window.count()
    count, amounts = len(window.keys), window.amounts
    known = (
        (amounts.calls > 0) & (amounts.forward_untimed == 0),
        (amounts.backwards > 0) & (amounts.backward_untimed == 0),
    )
    columns: dict[str, Any] = {
        "first_step": [window.first] * count,
        "end_step": [window.end] * count,
        "from_ns": [window.from_ns] * count,
        "to_ns": [window.to_ns] * count,
        "module": _nullable(window.keys - 1, window.keys != _OF_STEPS),
        "calls": amounts.calls.tolist(),
        "forward_ns": _nullable(amounts.forward_ns, known[0]),
        "forward_max_ns": _nullable(window.longest[0], window.longest[0] >= 0),
        "backward_ns": _nullable(np.maximum(amounts.backward_ns, 0), known[1]),
        "backward_max_ns": _nullable(window.longest[1], window.longest[1] >= 0),
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
