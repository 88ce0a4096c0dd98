"""Blocks of records -> rows of calls, vectorised. The words of a record are described in `lanes`.

The numbers of a lane's calls are in order of start, so sorted by number they are in pre-order, and with the depth of
each that is the tree: the parent of a call is the latest call before it one level up. Every call above a recorded one
is in the same block (it ended later) or still open. No record can make this fail: what does not fit is left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.capture import lanes
from modtrace.capture.lanes import CODE_SHIFT, COST, HOOKS, KIND_SHIFT, MODE_SHIFT, WORDS
from modtrace.capture.own_hooks import UNKNOWN_OUTPUT
from modtrace.trace.schema import ABORTED as STATUS_ABORTED
from modtrace.trace.schema import BACKWARD, FUNCTION, MODULE, OK, PHASE
from modtrace.trace.schema import RAISED as STATUS_RAISED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_DEPTH: Final = (1 << CODE_SHIFT) - 1
_CODE: Final = (1 << KIND_SHIFT - CODE_SHIFT) - 1
_GIVEN: Final = (1 << MODE_SHIFT) - 1
_STATUS: Final = np.array([OK, STATUS_RAISED, OK, STATUS_ABORTED], np.int8)
"""By code of a record."""


class Costs(NamedTuple):
    """What recording one call costs, inside its measured time and outside of it, and one of a function; nanoseconds."""

    inside_ns: int
    outside_ns: int
    function_inside_ns: int = 0
    function_outside_ns: int = 0


@dataclass
class Carried:
    """What is known of the open calls of a lane between two blocks, by call number."""

    children_ns: dict[int, int] = field(default_factory=dict)
    children: dict[int, int] = field(default_factory=dict)
    functions: dict[int, int] = field(default_factory=dict)
    unknown: dict[int, int] = field(default_factory=dict)
    cost_ns: dict[int, int] = field(default_factory=dict)
    hooks_at: dict[int, int] = field(default_factory=dict)
    written: frozenset[int] = frozenset()
    high: int = -1
    """The highest call number seen."""


@dataclass(frozen=True)
class Naming:
    """How numbers of the records become numbers of rows.

    tops: (modules of root calls, modules called below them) -> the modules that the latter's names are relative to.
    joined: (signature of positional, of keyword arguments) -> signature of both.
    """

    tops: Callable[[Sequence[int], Sequence[int]], Sequence[int]]
    joined: Callable[[int, int], int]


@dataclass(frozen=True)
class Nodes:
    """The calls of one block of one lane in order of start: those that have ended and those that are open.

    `record` is the position of a call's record in the block, -1 for an open call. `parent` and `root` are positions
    too: of the call around, and of the outermost module call or backward of one around (itself for such a one); -1 for
    none.
    """

    call: Ints
    kind: Ints
    module: Ints
    given: Ints
    depth: Ints
    start: Ints
    record: Ints
    parent: Ints
    root: Ints


@dataclass(frozen=True)
class Block:
    """Rows of the tables `calls` and `open`, with the nulls of each column."""

    calls: dict[str, npt.NDArray[Any]]
    calls_nulls: dict[str, Bools]
    opened: dict[str, npt.NDArray[Any]]
    opened_nulls: dict[str, Bools] = field(default_factory=dict)


def records_of(words: list[int]) -> Ints:
    """Whole records, one a row: shape (n, 8)."""
    flat = np.frombuffer(array("q", words), dtype=np.int64)
    return flat[: len(flat) // WORDS * WORDS].reshape(-1, WORDS)


def nodes_of(records: Ints, open_calls: Sequence[tuple[int, int, int, int, int]]) -> Nodes:
    """The calls of a block.

    Args:
        records: see `records_of`.
        open_calls: (kind << KIND_SHIFT | depth, call, module, given, start) of each open call.
    """
    ended = np.flatnonzero(_codes(records) <= lanes.ABORTED)
    still = np.array(open_calls, np.int64).reshape(-1, 5)
    call = np.concatenate([records[ended, 0], still[:, 1]])
    order = np.argsort(call, kind="stable")
    first = np.ones(len(order), np.bool_)
    first[1:] = call[order[1:]] != call[order[:-1]]
    order = order[first]  # an open call may have ended meanwhile: its record comes first
    record = np.concatenate([ended, np.full(len(still), -1)])[order]

    def column(word: int, position: int) -> Ints:
        return np.concatenate([records[ended, word], still[:, position]])[order]

    words = column(3, 0)
    kind, depth = words >> KIND_SHIFT, words & _DEPTH
    return Nodes(
        call=call[order],
        kind=kind,
        module=column(1, 2),
        given=column(2, 3),
        depth=depth,
        start=column(4, 4),
        record=record,
        parent=_parents(depth),
        root=_roots(depth, (kind == MODULE) | (kind == BACKWARD)),
    )


def _codes(records: Ints) -> Ints:
    codes: Ints = (records[:, 3] >> CODE_SHIFT) & _CODE
    return codes


def _roots(depth: Ints, of_module: Bools) -> Ints:
    """For calls in pre-order the outermost one of a module that each is in, -1 for none."""
    count = len(depth)
    root = np.full(count, -1, np.int64)
    pending = np.arange(count)
    level = 0
    while len(pending):
        above = np.maximum.accumulate(np.where(depth <= level, np.arange(count), 0))[pending]
        found = of_module[above]
        root[pending[found]] = above[found]
        pending = pending[~found & (depth[pending] > level)]
        level += 1
    return root


def decode(
    records: Ints,
    nodes: Nodes,
    carried: Carried,
    *,
    base: int,
    naming: Naming,
    costs: Costs,
    origin_ns: int,
) -> tuple[Block, Carried]:
    """Decode one block of one lane; also returns what is to be carried to the next.

    Args:
        records, nodes: the block.
        carried: what the block before has left.
        base: what is added to a lane's own number of a call to make its id.
        naming, costs: see there.
        origin_ns: the clock at the start of recording.
    """
    count = len(nodes.call)
    if not count:
        return Block({}, {}, {}), carried
    if not len(records):  # nothing but open calls: a record that says nothing
        records = np.zeros((1, WORDS), np.int64)
        records[0, 3] = COST << CODE_SHIFT
    parent = nodes.parent
    is_open = nodes.record < 0
    gone = ~is_open & (_codes(records)[nodes.record] == lanes.ABORTED)
    of_module = (nodes.kind == MODULE) | (nodes.kind == BACKWARD)
    is_call = nodes.kind == MODULE
    is_function = nodes.kind == FUNCTION
    mode = np.where(is_call | (nodes.kind == PHASE), nodes.given >> MODE_SHIFT, 0)
    timed = ~is_open & ~gone
    duration = np.where(timed, records[nodes.record, 7] - nodes.start, 0)
    family = np.where(parent >= 0, parent, count)
    known = _in(nodes.call, carried.written)
    sums = {
        "children_ns": _summed(family, duration, nodes.call, carried.children_ns),
        "children": _summed(family, ~known & is_call, nodes.call, carried.children),
        "functions": _summed(family, ~known & is_function, nodes.call, carried.functions),
        "unknown": _summed(family, gone, nodes.call, carried.unknown),
        "cost_ns": _noted(records, COST, nodes.call, carried.cost_ns, add=True),
        "hooks_at": _noted(records, HOOKS, nodes.call, carried.hooks_at, add=False),
    }
    shared = {
        "call": nodes.call + base,
        "parent": np.where(parent >= 0, nodes.call[parent] + base, -1),
        "kind": nodes.kind.astype(np.int8),
        "module": np.where(of_module, nodes.module, 0).astype(np.int32),
        "root": _tops(nodes, of_module, naming).astype(np.int32),
        "label": np.where(of_module, 0, nodes.module).astype(np.int32),
        "forward": np.where(nodes.kind == BACKWARD, nodes.given, 0),
        "mode": mode.astype(np.int8),
        "depth": nodes.depth.astype(np.int32),
        "start_ns": nodes.start - origin_ns,
    }
    shared_nulls = {
        "module": ~of_module,
        "root": ~of_module,
        "label": of_module,
        "forward": nodes.kind != BACKWARD,
        "mode": (~is_call | _inside(nodes)) & (mode == 0),
    }
    signed = is_call | is_function
    given = np.where(signed, nodes.given & _GIVEN, 0)
    after = _carry(nodes, is_open, sums, carried)
    fresh = is_open & ~known
    opened = {name: column[fresh] for name, column in shared.items()} if fresh.any() else {}
    opened_nulls = {name: mask[fresh] for name, mask in shared_nulls.items()}
    if opened:
        opened["inputs"] = given[fresh].astype(np.int32)
        opened_nulls["inputs"] = ~signed[fresh] | (given[fresh] == UNKNOWN_OUTPUT)
    done = np.flatnonzero(~is_open)
    if not len(done):
        return Block({}, {}, opened, opened_nulls), after
    rows = {name: column[done] for name, column in shared.items()}
    rows["last_call"] = _last_calls(records, nodes, carried.high)[done] + base
    mine = records[nodes.record[done]]
    own, nulls = _measures(
        mine, duration[done], timed[done], nodes.kind[done], {k: v[done] for k, v in sums.items()}, costs
    )
    rows.update(own)
    rows["inputs"] = _inputs(given[done], mine[:, 5], naming).astype(np.int32)
    nulls |= {name: mask[done] for name, mask in shared_nulls.items()}
    nulls["inputs"] = ~signed[done] | (given[done] == UNKNOWN_OUTPUT)
    return Block(rows, nulls, opened, opened_nulls), after


def _inside(nodes: Nodes) -> Bools:
    """Which are called by another module's forward."""
    inside: Bools = (nodes.parent >= 0) & (nodes.kind[nodes.parent] == MODULE)
    return inside


def _tops(nodes: Nodes, of_module: Bools, naming: Naming) -> Ints:
    tops = np.zeros(len(nodes.call), np.int64)
    here = np.flatnonzero(of_module)
    tops[here] = _named_below(nodes.module[nodes.root[here]], nodes.module[here], naming)
    return tops


def _in(calls: Ints, some: Any) -> Bools:
    """Which calls are among some few."""
    return np.isin(calls, np.fromiter(some, np.int64, len(some))) if some else np.zeros(len(calls), np.bool_)


def _restore(column: Ints, calls: Ints, held: dict[int, int]) -> None:
    """Add what is held of some few calls to a column."""
    for call, value in held.items():
        at = int(np.searchsorted(calls, call))
        if at < len(calls) and calls[at] == call:
            column[at] += value


def _parents(depth: Ints) -> Ints:
    """For calls in pre-order, which one is the parent of each; -1 for none."""
    count = len(depth)
    by_depth = np.argsort(depth.astype(np.int32), kind="stable")  # small integers: a radix sort
    scale = count + 1
    keys = depth[by_depth] * scale + by_depth
    at = np.searchsorted(keys, (depth - 1) * scale + np.arange(count)) - 1
    found = by_depth[at]
    return np.where((at >= 0) & (depth > 0) & (depth[found] == depth - 1), found, -1)


def _last_calls(records: Ints, nodes: Nodes, high: int) -> Ints:
    """The last descendant of each call that has ended: nothing that started before its end and after it is outside."""
    numbers = np.where(_codes(records) <= lanes.ABORTED, records[:, 0], -1)
    latest = np.maximum.accumulate(numbers)[nodes.record] if len(records) else nodes.call
    return np.maximum(np.maximum(latest, nodes.call), np.where(nodes.call <= high, high, -1))


def _named_below(roots: Ints, modules: Ints, naming: Naming) -> Ints:
    """The module that the name of each of some modules is relative to, where it is called below a root module."""
    tops = modules.copy()
    inner = np.flatnonzero(roots != modules)
    keys = roots[inner] << 32 | modules[inner]
    pairs = distinct(keys)
    of_pair = naming.tops((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist())
    tops[inner] = np.array(of_pair, np.int64)[np.searchsorted(pairs, keys)]
    return tops


def _summed(family: Ints, values: npt.NDArray[Any], calls: Ints, held: dict[int, int]) -> Ints:
    """Sums over the children of each call (`family`: which call is the parent), added to what was carried."""
    count = len(family)
    total = np.bincount(family, weights=values, minlength=count + 1)[:count].astype(np.int64)
    _restore(total, calls, held)
    return total


def _noted(records: Ints, code: int, calls: Ints, held: dict[int, int], *, add: bool) -> Ints:
    """What records of one code say of calls: added up, or the last."""
    total = np.zeros(len(calls), np.int64)
    notes = records[records[:, 3] == code << CODE_SHIFT]
    if len(notes):
        at = np.minimum(np.searchsorted(calls, notes[:, 0]), len(calls) - 1)
        fits = calls[at] == notes[:, 0]
        if add:
            np.add.at(total, at[fits], notes[fits, 4])
        else:
            total[at[fits]] = notes[fits, 4]
    _restore(total, calls, held)
    return total


def _carry(nodes: Nodes, is_open: Bools, sums: dict[str, Ints], before: Carried) -> Carried:
    """What the open calls take along."""
    after = Carried(high=max(before.high, int(nodes.call[-1])))
    at = np.flatnonzero(is_open)
    calls = nodes.call[at].tolist()
    for name, column in sums.items():
        setattr(
            after,
            name,
            {call: value for call, value in zip(calls, column[at].tolist(), strict=False) if value},
        )
    after.written = frozenset(calls)
    return after


def _measures(
    mine: Ints, duration: Ints, timed: Bools, kind: Ints, sums: dict[str, Ints], costs: Costs
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Bools]]:
    """Times, results and status of calls that have ended, from their records, with the nulls of each column."""
    code = _codes(mine)
    result = mine[:, 6]
    raised = code == lanes.RAISED
    has_hooks = timed & (sums["hooks_at"] > 0)
    is_call, is_function = kind == MODULE, kind == FUNCTION
    overhead = costs.inside_ns * is_call + sums["children"] * costs.outside_ns + sums["cost_ns"]
    overhead += costs.function_inside_ns * is_function + sums["functions"] * costs.function_outside_ns
    own = np.maximum(duration - sums["children_ns"], 0)
    tracer = np.minimum(overhead, own)
    no_output = ~timed | raised | ~(is_call | is_function) | (result == UNKNOWN_OUTPUT)
    uncertain = ~timed | (sums["unknown"] > 0)
    rows: dict[str, npt.NDArray[Any]] = {
        "duration_ns": duration,
        "self_ns": own - tracer,
        "tracer_ns": tracer,
        "hooks_ns": np.where(has_hooks, mine[:, 7] - sums["hooks_at"], 0),
        "output_replaced": code == lanes.REPLACED,
        "outputs": np.where(no_output, 0, result).astype(np.int32),
        "status": _STATUS[code],
        "error": np.where(raised, result, 0).astype(np.int32),
    }
    nulls = {
        "duration_ns": ~timed,
        "self_ns": uncertain,
        "tracer_ns": uncertain,
        "hooks_ns": ~has_hooks,
        "output_replaced": ~has_hooks | raised,
        "outputs": no_output,
        "error": ~raised,
    }
    return rows, nulls


def _inputs(given: Ints, named: Ints, naming: Naming) -> Ints:
    """The signature of all arguments, from that of the positional ones and that of the keywords (0 for none)."""
    both = np.flatnonzero(named)
    if not len(both):
        return given
    inputs = given.copy()
    keys = given[both] << 32 | named[both]
    pairs = distinct(keys)
    which = np.searchsorted(pairs, keys)
    joined = [naming.joined(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    inputs[both] = np.array(joined, np.int64)[which]
    return inputs


def distinct(values: Ints) -> Ints:
    """The different values, in order. `np.unique` imports numpy.ma when first called, in the user's forward."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))]
