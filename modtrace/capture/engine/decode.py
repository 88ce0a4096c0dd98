"""Blocks of records -> rows of calls, vectorised. The words of a record are described in `thread_buffer`.

The numbers of a thread's calls are in order of start, so sorted by number they are in pre-order, and with the depth of
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

from modtrace.capture.engine.thread_buffer import (
    ABORTED,
    CODE_SHIFT,
    COST,
    HOOKS,
    KIND_SHIFT,
    MODE_SHIFT,
    RAISED,
    REPLACED,
    UNKNOWN_OUTPUT,
    WORDS,
)
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
    """Cost of recording one call, inside its measured time and outside of it, and one of a function; nanoseconds."""

    inside_ns: int
    outside_ns: int
    function_inside_ns: int = 0
    function_outside_ns: int = 0


@dataclass
class Carried:
    """Sums over the open calls of a thread buffer between two blocks, by call number."""

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
    """Rules by which numbers of the records become numbers of rows.

    tops: (modules of root calls, modules called below them) -> the modules that the latter's names are relative to.
    joined: (signature of positional, of keyword arguments) -> signature of both.
    """

    tops: Callable[[Sequence[int], Sequence[int]], Sequence[int]]
    joined: Callable[[int, int], int]


@dataclass(frozen=True)
class BlockCalls:
    """The calls of one block of one thread buffer in order of start: those that have ended and those that are open.

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


class DecodedCalls(NamedTuple):
    """The calls of a block; of those that have ended, in their order, columns of `calls` and where these are null."""

    nodes: BlockCalls
    rows: dict[str, npt.NDArray[Any]]
    nulls: dict[str, Bools]


def records_of(words: list[int]) -> Ints:
    """Whole records, one a row: shape (n, 8)."""
    flat = np.frombuffer(array("q", words), dtype=np.int64)
    return flat[: len(flat) // WORDS * WORDS].reshape(-1, WORDS)


OpenRow = tuple[int, int, int, int, int]
"""(kind << KIND_SHIFT | depth, call, module, given, start) of an open call."""


def closed_rows(words: list[int]) -> list[OpenRow]:
    """The calls of whole records, as they were while they were open."""
    records = records_of(words)
    ended = records[_codes(records) <= ABORTED]
    place = ended[:, 3] & ~(_CODE << CODE_SHIFT)
    columns = (place, ended[:, 0], ended[:, 1], ended[:, 2], ended[:, 4])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def nodes_of(records: Ints, open_calls: Sequence[OpenRow]) -> BlockCalls:
    """The calls of a block.

    Args:
        records: see `records_of`.
        open_calls: those that were open when it was taken.
    """
    ended = np.flatnonzero(_codes(records) <= ABORTED)
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
    kinds, depth = words >> KIND_SHIFT, words & _DEPTH
    return BlockCalls(
        call=call[order],
        kind=kinds,
        module=column(1, 2),
        given=column(2, 3),
        depth=depth,
        start=column(4, 4),
        record=record,
        parent=_parents(depth),
        root=outermost(depth, (kinds == MODULE) | (kinds == BACKWARD)),
    )


def _codes(records: Ints) -> Ints:
    codes: Ints = (records[:, 3] >> CODE_SHIFT) & _CODE
    return codes


def outermost(depth: Ints, of_module: Bools) -> Ints:
    """For calls in pre-order the outermost one of a module that each is in, -1 for none."""
    count = len(depth)
    root = np.full(count, -1, np.int64)
    pending = np.arange(count)
    level = 0
    while len(pending):
        above = np.maximum.accumulate(np.where(depth <= level, np.arange(count), 0))[pending]
        is_root = of_module[above]
        root[pending[is_root]] = above[is_root]
        pending = pending[~is_root & (depth[pending] > level)]
        level += 1
    return root


def decode(
    records: Ints,
    nodes: BlockCalls,
    carried: Carried,
    *,
    base: int,
    naming: Naming,
    costs: Costs,
    origin_ns: int,
) -> tuple[Block, Carried]:
    """Decode one block of one thread buffer; also returns what is to be carried to the next.

    Args:
        records, nodes: the block.
        carried: what the block before has left.
        base: what is added to a thread's number of a call to make its id.
        naming, costs: see there.
        origin_ns: the clock at the start of recording.
    """
    count = len(nodes.call)
    if not count:
        return Block({}, {}, {}), carried
    if not len(records):  # nothing but open calls: a record that says nothing
        records = np.zeros((1, WORDS), np.int64)
        records[0, 3] = COST << CODE_SHIFT
    timing = _timing(records, nodes, carried)
    columns, nulls = _shared_columns(nodes, naming, base=base, origin_ns=origin_ns)
    has_signature = (nodes.kind == MODULE) | (nodes.kind == FUNCTION)
    args_sig = np.where(has_signature, nodes.given & _GIVEN, 0)
    nulls["inputs"] = ~has_signature | (args_sig == UNKNOWN_OUTPUT)
    after = _carry(nodes, timing.is_open, timing.sums, carried)
    fresh = timing.is_open & ~timing.known
    opened: dict[str, npt.NDArray[Any]] = {}
    opened_nulls: dict[str, Bools] = {}
    if fresh.any():
        opened = {name: column[fresh] for name, column in columns.items()}
        opened["inputs"] = args_sig[fresh].astype(np.int32)
        opened_nulls = {name: mask[fresh] for name, mask in nulls.items()}
    done = np.flatnonzero(~timing.is_open)
    if not len(done):
        return Block({}, {}, opened, opened_nulls), after
    rows = {name: column[done] for name, column in columns.items()}
    rows["last_call"] = _last_calls(records, nodes, carried.high)[done] + base
    ended_records = records[nodes.record[done]]
    measures, measure_nulls = _measures(ended_records, nodes.kind[done], timing.of(done), costs)
    rows |= measures
    rows["inputs"] = _inputs(args_sig[done], ended_records[:, 5], naming).astype(np.int32)
    row_nulls = measure_nulls | {name: mask[done] for name, mask in nulls.items()}
    return Block(rows, row_nulls, opened, opened_nulls), after


@dataclass(frozen=True)
class _Timing:
    """Times of the calls of a block, in the order of `BlockCalls`; each array has one element a call.

    is_open: the call has not ended.
    known: its row in the table `open` was written with a block before.
    timed: it has ended, and when is known.
    duration: nanoseconds, 0 where not timed.
    sums: over its children and the notes about it, by field of `Carried`.
    """

    is_open: Bools
    known: Bools
    timed: Bools
    duration: Ints
    sums: dict[str, Ints]

    def of(self, rows: Ints) -> _Timing:
        """The same for the calls at some positions."""
        sums = {name: column[rows] for name, column in self.sums.items()}
        return _Timing(self.is_open[rows], self.known[rows], self.timed[rows], self.duration[rows], sums)


def _timing(records: Ints, nodes: BlockCalls, carried: Carried) -> _Timing:
    """Durations of the calls of a block and the sums over the children of each."""
    is_open = nodes.record < 0
    # Where it is not known when a `BaseException` left a call, its record ends as it starts.
    gone = ~is_open & (_codes(records)[nodes.record] == ABORTED)
    gone &= records[nodes.record, 7] <= nodes.start
    timed = ~is_open & ~gone
    duration = np.where(timed, records[nodes.record, 7] - nodes.start, 0)
    family = np.where(nodes.parent >= 0, nodes.parent, len(nodes.call))
    known = _in(nodes.call, carried.written)
    new_calls, new_functions = ~known & (nodes.kind == MODULE), ~known & (nodes.kind == FUNCTION)
    sums = {
        "children_ns": _summed(family, duration, nodes.call, carried.children_ns),
        "children": _summed(family, new_calls, nodes.call, carried.children),
        "functions": _summed(family, new_functions, nodes.call, carried.functions),
        "unknown": _summed(family, gone, nodes.call, carried.unknown),
        "cost_ns": _noted(records, COST, nodes.call, carried.cost_ns, add=True),
        "hooks_at": _noted(records, HOOKS, nodes.call, carried.hooks_at, add=False),
    }
    return _Timing(is_open, known, timed, duration, sums)


def _shared_columns(
    nodes: BlockCalls, naming: Naming, *, base: int, origin_ns: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Bools]]:
    """The columns that the tables `calls` and `open` share, and their nulls: one element a call of the block."""
    of_module = (nodes.kind == MODULE) | (nodes.kind == BACKWARD)
    is_call = nodes.kind == MODULE
    mode = np.where(is_call | (nodes.kind == PHASE), nodes.given >> MODE_SHIFT, 0)
    columns = {
        "call": nodes.call + base,
        "parent": np.where(nodes.parent >= 0, nodes.call[nodes.parent] + base, -1),
        "kind": nodes.kind.astype(np.int8),
        "module": np.where(of_module, nodes.module, 0).astype(np.int32),
        "root": _tops(nodes, of_module, naming).astype(np.int32),
        "label": np.where(of_module, 0, nodes.module).astype(np.int32),
        "forward": np.where(nodes.kind == BACKWARD, nodes.given, 0),
        "mode": mode.astype(np.int8),
        "depth": nodes.depth.astype(np.int32),
        "start_ns": nodes.start - origin_ns,
    }
    nulls = {
        "module": ~of_module,
        "root": ~of_module,
        "label": of_module,
        "forward": nodes.kind != BACKWARD,
        "mode": (~is_call | _inside(nodes)) & (mode == 0),
    }
    return columns, nulls


def _inside(nodes: BlockCalls) -> Bools:
    """Mask of the calls made by another module's forward."""
    inside: Bools = (nodes.parent >= 0) & (nodes.kind[nodes.parent] == MODULE)
    return inside


def _tops(nodes: BlockCalls, of_module: Bools, naming: Naming) -> Ints:
    tops = np.zeros(len(nodes.call), np.int64)
    named_rows = np.flatnonzero(of_module)
    tops[named_rows] = _named_below(nodes.module[nodes.root[named_rows]], nodes.module[named_rows], naming)
    return tops


def _in(calls: Ints, chosen: Any) -> Bools:
    """Mask of the calls that are among a few chosen."""
    return (
        np.isin(calls, np.fromiter(chosen, np.int64, len(chosen)))
        if chosen
        else np.zeros(len(calls), np.bool_)
    )


def _restore(column: Ints, calls: Ints, carried: dict[int, int]) -> None:
    """Add what is held of some few calls to a column."""
    for call, value in carried.items():
        row = int(np.searchsorted(calls, call))
        if row < len(calls) and calls[row] == call:
            column[row] += value


def _parents(depth: Ints) -> Ints:
    """For calls in pre-order, which one is the parent of each; -1 for none."""
    count = len(depth)
    by_depth = np.argsort(depth.astype(np.int32), kind="stable")  # small integers: a radix sort
    scale = count + 1
    keys = depth[by_depth] * scale + by_depth
    position = np.searchsorted(keys, (depth - 1) * scale + np.arange(count)) - 1
    candidate = by_depth[position]
    return np.where((position >= 0) & (depth > 0) & (depth[candidate] == depth - 1), candidate, -1)


def _last_calls(records: Ints, nodes: BlockCalls, high: int) -> Ints:
    """The last descendant of each call that has ended: nothing that started before its end and after it is outside."""
    numbers = np.where(_codes(records) <= ABORTED, records[:, 0], -1)
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


def _summed(family: Ints, values: npt.NDArray[Any], calls: Ints, carried: dict[int, int]) -> Ints:
    """Sums over the children of each call (`family`: which call is the parent), added to what was carried."""
    count = len(family)
    total = np.bincount(family, weights=values, minlength=count + 1)[:count].astype(np.int64)
    _restore(total, calls, carried)
    return total


def _noted(records: Ints, code: int, calls: Ints, carried: dict[int, int], *, add: bool) -> Ints:
    """Values of the records of one code, a call each: added up, or the last."""
    total = np.zeros(len(calls), np.int64)
    notes = records[records[:, 3] == code << CODE_SHIFT]
    if len(notes):
        rows = np.minimum(np.searchsorted(calls, notes[:, 0]), len(calls) - 1)
        fits = calls[rows] == notes[:, 0]
        if add:
            np.add.at(total, rows[fits], notes[fits, 4])
        else:
            total[rows[fits]] = notes[fits, 4]
    _restore(total, calls, carried)
    return total


def _carry(nodes: BlockCalls, is_open: Bools, sums: dict[str, Ints], before: Carried) -> Carried:
    """Sums that the open calls take along to the next block."""
    after = Carried(high=max(before.high, int(nodes.call[-1])))
    open_rows = np.flatnonzero(is_open)
    calls = nodes.call[open_rows].tolist()
    for name, column in sums.items():
        setattr(
            after,
            name,
            {call: value for call, value in zip(calls, column[open_rows].tolist(), strict=False) if value},
        )
    after.written = frozenset(calls)
    return after


def _measures(
    ended_records: Ints, kinds: Ints, timing: _Timing, costs: Costs
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Bools]]:
    """Times, results and status of calls that have ended, from their records, with the nulls of each column."""
    timed, duration, sums = timing.timed, timing.duration, timing.sums
    code = _codes(ended_records)
    result = ended_records[:, 6]
    raised = code == RAISED
    has_hooks = timed & (sums["hooks_at"] > 0)
    is_call, is_function = kinds == MODULE, kinds == FUNCTION
    overhead = costs.inside_ns * is_call + sums["children"] * costs.outside_ns + sums["cost_ns"]
    overhead += costs.function_inside_ns * is_function + sums["functions"] * costs.function_outside_ns
    self_ns = np.maximum(duration - sums["children_ns"], 0)
    tracer = np.minimum(overhead, self_ns)
    no_output = ~timed | raised | (code == ABORTED) | ~(is_call | is_function) | (result == UNKNOWN_OUTPUT)
    uncertain = ~timed | (sums["unknown"] > 0)
    rows: dict[str, npt.NDArray[Any]] = {
        "duration_ns": duration,
        "self_ns": self_ns - tracer,
        "tracer_ns": tracer,
        "hooks_ns": np.where(has_hooks, ended_records[:, 7] - sums["hooks_at"], 0),
        "output_replaced": code == REPLACED,
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


def _inputs(args_sig: Ints, named: Ints, naming: Naming) -> Ints:
    """The signature of all arguments, from that of the positional ones and that of the keywords (0 for none)."""
    both = np.flatnonzero(named)
    if not len(both):
        return args_sig
    inputs = args_sig.copy()
    keys = args_sig[both] << 32 | named[both]
    pairs = distinct(keys)
    which = np.searchsorted(pairs, keys)
    joined = [naming.joined(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    inputs[both] = np.array(joined, np.int64)[which]
    return inputs


def distinct(values: Ints) -> Ints:
    """The different values, in order. `np.unique` imports numpy.ma when first called, in the user's forward."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))]
