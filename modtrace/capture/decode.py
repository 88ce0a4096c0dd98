"""Event blocks -> rows of calls, vectorised. The words of an event are described in `lanes`.

Everything follows from the depth that each event carries. Among the starts and ends of one depth, an end closes the
start before it, and a start that is not followed by an end was left by a `BaseException` or is still open; the parent
of a start is the latest start one level up. No event stream can make this fail: what does not fit is left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.capture.lanes import (
    CODE_SHIFT,
    COST,
    HOOKS,
    PRE,
    RAISED,
    REPLACED,
    RETURNED,
    UNWIND,
    WORDS,
)
from modtrace.capture.own_hooks import UNKNOWN_OUTPUT
from modtrace.trace.schema import ABORTED, OK
from modtrace.trace.schema import RAISED as STATUS_RAISED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CARRIED: Final = (
    "call", "parent", "module", "args", "root", "label", "step", "depth", "clock",
    "children_ns", "children", "unknown", "cost_ns", "hooks_at",
)  # fmt: skip
"""What is kept of a call that is open when its block ends. `clock` is its start; `hooks_at` is -1 without own hooks;
`unknown` counts child calls whose duration is not known."""


class Costs(NamedTuple):
    """What recording one call costs, inside its measured time and outside of it; nanoseconds."""

    inside_ns: int
    outside_ns: int


@dataclass
class Open:
    """The open calls of one lane between two blocks, outermost first: an array a column of `_CARRIED`."""

    columns: dict[str, Ints] = field(default_factory=lambda: {name: np.zeros(0, np.int64) for name in _CARRIED})
    next_call: int = 0

    def __len__(self) -> int:
        return len(self.columns["call"])


@dataclass(frozen=True)
class Naming:
    """How numbers of the events become numbers of rows.

    labels: module of a root call -> array, module -> the module that its name is relative to below that root.
    joined: (signature of args, signature of kwargs) -> signature of both.
    """

    labels: Callable[[int], Ints]
    joined: Callable[[int, int], int]


@dataclass(frozen=True)
class Block:
    """Rows of the tables `calls` and `open`, with the nulls of each column, and the calls open after the block."""

    calls: dict[str, npt.NDArray[Any]]
    calls_nulls: dict[str, Bools]
    opened: dict[str, npt.NDArray[Any]]
    open: Open


def events_of(words: list[int]) -> Ints:
    """The words of whole events, one event a row: shape (n, 4)."""
    flat = np.frombuffer(array("q", words), dtype=np.int64)
    return flat[: len(flat) // WORDS * WORDS].reshape(-1, WORDS)


def is_start(events: Ints) -> Bools:
    """Which events start a call."""
    return (events[:, 2] >= 0) & (events[:, 2] >> CODE_SHIFT == 0)


def is_root_start(events: Ints) -> Bools:
    """Which events start a root call."""
    return events[:, 2] == 0


def decode(
    events: Ints, carried: Open, *, base: int, steps: Ints, naming: Naming, costs: Costs, origin_ns: int
) -> Block:
    """Decode one block of one lane.

    Args:
        events: shape (n, 4), see `events_of`.
        carried: the calls that were open before the block.
        base: what is added to the lane's own count of calls to make a call id.
        steps: the step of each root call that starts in the block, in order.
        naming: see `Naming`.
        costs: see `Costs`.
        origin_ns: the clock at the start of recording.
    """
    stream = _Stream(events, carried)
    starts = stream.starts
    known = len(carried)
    new = len(starts) - known
    first_id = base + carried.next_call
    call = np.concatenate([carried.columns["call"], first_id + np.arange(new, dtype=np.int64)])
    after = Open(next_call=carried.next_call + new)
    if not len(starts):
        return Block({}, {}, {}, after)

    parent_at = stream.latest(stream.depth[starts] - 1, starts)
    end = stream.ends()
    closed = end >= 0
    still_open = stream.open_at_end() & ~closed
    top = np.maximum.accumulate(np.where(stream.depth[starts] == 0, np.arange(len(starts)), 0))

    old = carried.columns
    calls: dict[str, Ints] = {
        "call": call,
        "parent": np.where(parent_at >= 0, call[parent_at], -1),
        "module": stream.first[starts],
        "args": stream.second[starts],
        "depth": stream.depth[starts],
        "clock": stream.clock[starts],
    }
    calls["parent"][:known] = old["parent"]
    calls["root"] = calls["module"][top]
    calls["label"] = _labels(calls["root"], calls["module"], naming)
    calls["step"] = _steps(calls["depth"], old["step"], steps)[top]

    duration = np.where(closed, stream.clock[end] - calls["clock"], 0)
    gone = ~closed & ~still_open
    family = np.where(parent_at >= 0, parent_at, len(starts))
    calls["children_ns"] = _summed(family, duration, old["children_ns"])
    calls["children"] = _summed(family, np.ones(len(starts), np.int64), old["children"], skip=known)
    calls["unknown"] = _summed(family, gone, old["unknown"])
    calls["cost_ns"] = stream.costs(old["cost_ns"])
    calls["hooks_at"] = stream.hooks(old["hooks_at"])

    after.columns = {name: calls[name][still_open] for name in _CARRIED}
    done = closed | gone
    last = _last_calls(stream, call, end, gone, known, first_id)
    _cover(calls["parent"], parent_at, last, done)
    rows, nulls = _rows(stream, calls, end, duration, naming, costs, origin_ns)
    rows["last_call"] = last
    fresh = still_open.copy()
    fresh[:known] = False
    return Block(
        {name: column[done] for name, column in rows.items()} if done.any() else {},
        {name: mask[done] for name, mask in nulls.items()},
        _opened(calls, fresh, origin_ns) if fresh.any() else {},
        after,
    )


class _Stream:
    """The events of one block behind the starts of the carried calls. `starts` are positions, in order."""

    def __init__(self, events: Ints, carried: Open) -> None:
        old = carried.columns
        word = events[:, 2]
        returned = word < 0
        self.code = np.concatenate(
            [np.full(len(carried), PRE, np.int64), np.where(returned, RETURNED, word >> CODE_SHIFT)]
        )
        depth = np.where(returned, -1 - word, word & ((1 << CODE_SHIFT) - 1))
        self.depth = np.concatenate([old["depth"], depth])
        self.first = np.concatenate([old["module"], events[:, 0]])
        self.second = np.concatenate([old["args"], events[:, 1]])
        self.clock = np.concatenate([old["clock"], events[:, 3]])
        self.starts = np.flatnonzero(self.code == PRE)
        self._known = len(carried)
        self._is_end = (self.code == RETURNED) | (self.code == RAISED) | (self.code == REPLACED)
        paired = np.flatnonzero((self.code == PRE) | self._is_end)
        # By depth, in time: a stable sort of small integers is a radix sort, linear.
        self._by_depth = paired[np.argsort(self.depth[paired].astype(np.int32), kind="stable")]
        self._start_order = self._by_depth[self.code[self._by_depth] == PRE]
        self._scale = len(self.code) + 1
        self._start_keys = self.depth[self._start_order] * self._scale + self._start_order
        self._rank = np.cumsum(self.code == PRE) - 1

    def latest(self, depth: Ints, position: Ints) -> Ints:
        """For each (depth, position), which start is the latest at that depth before it; -1 for none."""
        at = np.searchsorted(self._start_keys, depth * self._scale + position) - 1
        found = self._start_order[at]
        fits = (at >= 0) & (depth >= 0) & (self.depth[found] == depth)
        return np.where(fits, self._rank[found], -1)

    def ends(self) -> Ints:
        """For each start the position of the event that ends its call; -1 for none."""
        end = np.full(len(self.starts), -1, np.int64)
        here, following = self._by_depth[:-1], self._by_depth[1:]
        pair = (self.code[here] == PRE) & self._is_end[following] & (self.depth[here] == self.depth[following])
        end[self._rank[here[pair]]] = following[pair]
        return end

    def open_at_end(self) -> Bools:
        """For each start whether nothing after it says that it is over."""
        shapes = (self.code == PRE) | self._is_end | (self.code == UNWIND)
        depth = np.where(shapes, self.depth, np.iinfo(np.int64).max)
        lowest = np.minimum.accumulate(depth[::-1])[::-1]
        after = np.append(lowest[1:], np.iinfo(np.int64).max)
        return self.depth[self.starts] < after[self.starts]

    def last_started(self, position: Ints) -> Ints:
        """Which start is the latest at or before each position."""
        return self._rank[position]

    def over_at(self, which: Ints) -> Ints:
        """The first position after each of some starts at which its call cannot be open any more."""
        over = []
        for position in self.starts[which].tolist():
            later = self.depth[position + 1 :] <= self.depth[position]
            later &= (self.code[position + 1 :] != COST) & (self.code[position + 1 :] != HOOKS)
            over.append(position + 1 + int(np.argmax(later)) if later.any() else len(self.code))
        return np.array(over, np.int64)

    def costs(self, old: Ints) -> Ints:
        """The recorder's own time by the call it fell into."""
        total = np.zeros(len(self.starts), np.int64)
        total[: len(old)] = old
        events = np.flatnonzero(self.code == COST)
        if len(events):
            owner = self.latest(self.depth[events] - 1, events)
            np.add.at(total, owner[owner >= 0], self.first[events[owner >= 0]])
        return total

    def hooks(self, old: Ints) -> Ints:
        """The clock at which the own hooks of a call began; -1 where it has none."""
        at = np.full(len(self.starts), -1, np.int64)
        at[: len(old)] = old
        events = np.flatnonzero(self.code == HOOKS)
        if len(events):
            owner = self.latest(self.depth[events], events)
            at[owner[owner >= 0]] = self.clock[events[owner >= 0]]
        return at


def _labels(roots: Ints, modules: Ints, naming: Naming) -> Ints:
    labels = modules.copy()
    inner = roots != modules
    for root in np.unique(roots[inner]).tolist():
        here = inner & (roots == root)
        labels[here] = naming.labels(root)[modules[here]]
    return labels


def _steps(depth: Ints, old: Ints, steps: Ints) -> Ints:
    """The step at each root start (elsewhere 0, to be read through the root)."""
    out = np.zeros(len(depth), np.int64)
    out[: len(old)] = old
    roots = np.flatnonzero(depth[len(old) :] == 0) + len(old)
    out[roots] = steps[: len(roots)]
    return out


def _summed(family: Ints, values: npt.NDArray[Any], old: Ints, *, skip: int = 0) -> Ints:
    """Sums over the children of each start (`family`: which start is the parent), added to what was carried."""
    count = len(family)
    total = np.bincount(family[skip:], weights=values[skip:], minlength=count + 1)[:count].astype(np.int64)
    total[: len(old)] += old
    return total


def _last_calls(stream: _Stream, call: Ints, end: Ints, gone: Bools, known: int, first_id: int) -> Ints:
    """The last descendant of each call: the latest start before its end."""
    last = call[stream.last_started(np.where(end >= 0, end, stream.starts))]
    if gone.any():
        which = np.flatnonzero(gone)
        last[which] = call[stream.last_started(stream.over_at(which) - 1)]
    # Whatever had started before the block and after a carried call is inside that call.
    last[:known] = np.maximum(last[:known], first_id - 1)
    return last


def _cover(parent: Ints, parent_at: Ints, last: Ints, done: Bools) -> None:
    """See to it that a call's range holds its children, should a signal handler have run a model inside a hook."""
    for _ in range(64):
        inside = done & (parent_at >= 0)
        short = inside & (last > last[np.where(inside, parent_at, 0)])
        if not short.any():
            return
        np.maximum.at(last, parent_at[short], last[short])


def _rows(
    stream: _Stream,
    calls: dict[str, Ints],
    end: Ints,
    duration: Ints,
    naming: Naming,
    costs: Costs,
    origin_ns: int,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Bools]]:
    closed = end >= 0
    end_code = np.where(closed, stream.code[end], UNWIND)
    kwargs = np.where(closed, stream.first[end], 0)
    second = np.where(closed, stream.second[end], 0)
    raised = end_code == RAISED
    has_hooks = calls["hooks_at"] >= 0
    overhead = costs.inside_ns + calls["children"] * costs.outside_ns + calls["cost_ns"]
    own = np.maximum(duration - calls["children_ns"], 0)
    tracer = np.clip(overhead, 0, own)
    status = np.where(raised, STATUS_RAISED, np.where(closed, OK, ABORTED))
    rows: dict[str, npt.NDArray[Any]] = {
        "call": calls["call"],
        "parent": calls["parent"],
        "kind": np.zeros(len(end), np.int8),
        "module": calls["module"].astype(np.int32),
        "root": calls["label"].astype(np.int32),
        "step": calls["step"],
        "depth": calls["depth"].astype(np.int32),
        "start_ns": calls["clock"] - origin_ns,
        "duration_ns": duration,
        "self_ns": own - tracer,
        "tracer_ns": tracer,
        "hooks_ns": np.where(has_hooks & closed, stream.clock[end] - calls["hooks_at"], 0),
        "output_replaced": end_code == REPLACED,
        "inputs": _inputs(calls["args"], kwargs, naming).astype(np.int32),
        "outputs": np.where(raised | (second == UNKNOWN_OUTPUT), 0, second).astype(np.int32),
        "status": status.astype(np.int8),
        "error": np.where(raised, second, 0).astype(np.int32),
    }
    uncertain = ~closed | (calls["unknown"] > 0)
    nulls = {
        "duration_ns": ~closed,
        "self_ns": uncertain,
        "tracer_ns": uncertain,
        "hooks_ns": ~(has_hooks & closed),
        "output_replaced": ~(has_hooks & closed) | raised,
        "outputs": ~closed | raised | (second == UNKNOWN_OUTPUT),
        "error": ~raised,
    }
    return rows, nulls


def _inputs(args: Ints, kwargs: Ints, naming: Naming) -> Ints:
    """The signature of all arguments, from that of the positional ones and that of the keywords (0 for none)."""
    both = np.flatnonzero(kwargs)
    if not len(both):
        return args
    inputs = args.copy()
    pairs, which = np.unique(args[both] << 32 | kwargs[both], return_inverse=True)
    joined = [naming.joined(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    inputs[both] = np.array(joined, np.int64)[which]
    return inputs


def _opened(calls: dict[str, Ints], fresh: Bools, origin_ns: int) -> dict[str, npt.NDArray[Any]]:
    """Rows of the `open` table for calls that are open for the first time at the end of a block."""
    return {
        "call": calls["call"][fresh],
        "parent": calls["parent"][fresh],
        "kind": np.zeros(int(fresh.sum()), np.int8),
        "module": calls["module"][fresh].astype(np.int32),
        "root": calls["label"][fresh].astype(np.int32),
        "step": calls["step"][fresh],
        "depth": calls["depth"][fresh].astype(np.int32),
        "start_ns": calls["clock"][fresh] - origin_ns,
        "inputs": calls["args"][fresh].astype(np.int32),
    }
