"""What each module computes: its operations and their FLOPs, counted in a few calls and looked up from then on.

The first, second, fourth, eighth ... root call with inputs of a kind, and their backwards, run under a dispatch mode
that sees every operation. What each computes belongs to the innermost open call. A module that is given the same
computes the same, as long as nothing else decides; analysis looks other calls up by module and inputs, where those that
were counted agree.

Counted is only on the thread that started the recording, outside of any dispatch mode of the program, and never while
torch compiles. The mode changes no operation: each is run as it was asked for, once.
"""

from __future__ import annotations

import math
import sys
import threading
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture.formulas import Operation, flops, operation
from modtrace.capture.lanes import MODE_SHIFT, Lane, Lanes
from modtrace.capture.operation_mode import Mode, crossing
from modtrace.capture.seen import Entry, Plan
from modtrace.capture.signature import keywords_key
from modtrace.capture.syncs import LOST, Syncs, Waits
from modtrace.capture.torch_private.modes import take_out_dispatch_mode
from modtrace.capture.torch_private.names import (
    count_dispatch_modes,
    current_level,
    profiler_runs,
    push_dispatch_mode,
)
from modtrace.capture.unseen import unseen
from modtrace.text import plain
from modtrace.trace.schema import COUNTED, IN_BACKWARD, NO_GRAD, SPAN, TEXT_LIMIT, THREAD_SHIFT
from modtrace.trace.schema import FUNCTION as FUNCTION_KIND

FIRST: Final = 4
"""So many kinds of inputs of a module are counted at any price; more only while all of counting is SHARE of the run."""
SHARE: Final = 0.02
MANY_KINDS: Final = 10_000
MANY_OPERATIONS: Final = 200
"""Kept of the list of one call."""
FEW_NUMBERS: Final = 64
COMPILED: Final = "compiled code"

Kind = tuple[int, int, int, int]
Graph = tuple[frozenset[int], int, int]
"""Numbers of the root modules that a backward goes through, and how many nodes and leaves its graph has."""


class Found:
    """What was seen in one call: FLOPs, operations without a formula, all operations in order. `unsteady` says that a
    value was read after a few random numbers were drawn, so that chance may decide what is computed.
    """

    __slots__ = ("drew", "flops", "operations", "uncounted", "unsteady")

    def __init__(self) -> None:
        self.flops = 0
        self.drew = self.unsteady = False
        self.operations: list[str] = []
        self.uncounted: dict[str, None] = {}


class Unit:
    """A root call or a backward that is being counted, or (`counts` is false) only watched for waits, which are noted
    in root calls alone (`notes`). `depth` is that of its call among the open calls.
    """

    __slots__ = (
        "counting",
        "counts",
        "depth",
        "found",
        "lane",
        "mode",
        "notes",
        "spent_ns",
        "training",
        "waits",
    )

    def __init__(self, counting: Counting, lane: Lane, clock: Any, *, training: bool, counts: bool) -> None:
        self.counting = counting
        self.lane = lane
        self.mode = Mode(counting.note, clock)
        self.depth = len(lane.calls)
        self.found: dict[int, Found] = {}
        self.waits: Waits = {}
        self.spent_ns = 0
        self.training = training
        self.counts = counts
        self.notes = True


class Counting:
    """Counts for one trace. Nothing here raises but what the program's operations do.

    Args:
        state: shared with the tracer.
        counts: whether operations and FLOPs are counted.
        syncs: whether waits for a device are noted, in every root call.
    """

    def __init__(self, state: Any, *, counts: bool = True, syncs: bool = False) -> None:
        self._state = state
        self._counts = counts
        self._syncs = Syncs() if syncs else None
        self._lanes: Lanes = state.lanes
        self._thread = threading.get_ident()
        self._plans: dict[Kind, Plan] = {}
        self._graphs: set[Graph] = set()
        self._of_module: dict[int, int] = {}
        self._awaiting: set[int] = set()
        self._known: dict[Any, Operation] = {}
        self._rows: list[tuple[int, bool, Found]] = []
        self._unit: Unit | None = None
        self._mode: Mode | None = None
        self._hidden = 0
        self._started_ns = state.clock()
        self.spent_ns = 0
        """What counting has cost so far."""
        self.gaps: list[str] = []
        self._crossing_ns = crossing(state.clock)

    @property
    def active(self) -> bool:
        """Whether operations are being counted now."""
        return self._unit is not None

    # root calls -------------------------------------------------------------------------------------------------

    def begin(self, lane: Lane, entry: Entry, given: int, mode: int, frame: FrameType) -> int:
        """Decide whether a root call that is about to begin is counted; `mode` with the bit that says so.

        Args:
            lane: that of the calling thread.
            entry: the module's.
            given: signature of the positional arguments.
            mode: bits of schema's `mode` in their place.
            frame: that of `_call_impl`, which knows the keyword arguments.
        """
        try:
            return self._begin(lane, entry, given, mode, frame)
        except Exception as fault:
            self._fail(fault)
            return mode

    def _begin(self, lane: Lane, entry: Entry, given: int, mode: int, frame: FrameType) -> int:
        bits = mode >> MODE_SHIFT
        if self._unit is not None or bits & IN_BACKWARD or not self._may():
            return mode
        counts = self._counts and self._is_due(entry, given, mode, frame)
        if counts or self._syncs is not None:
            self._open(lane, training=not bits & NO_GRAD, counts=counts)
        return mode | COUNTED << MODE_SHIFT if counts else mode

    def _is_due(self, entry: Entry, given: int, mode: int, frame: FrameType) -> bool:
        """Whether a root call is to be counted: the first of its kind, the second, the fourth ..."""
        bits = mode >> MODE_SHIFT
        named = frame.f_locals.get("kwargs")
        key = self._state.signatures.number(keywords_key(named, valued=True)) if named else 0
        number = entry.number
        kind = (number, given, key, bits)
        if entry.counted != given | mode:
            entry.plan.skips += 1  # the hook took the call for one of the kind before
            plan = self._plans.get(kind)
            if plan is not None:
                plan.skips -= 1
        else:
            plan = entry.plan
        if plan is None:
            if len(self._plans) >= MANY_KINDS or not self._affordable(number):
                return False
            plan = self._plans[kind] = Plan()
            self._of_module[number] = self._of_module.get(number, 0) + 1
        if not named and self._syncs is None:
            entry.counted, entry.plan = given | mode, plan
        if plan.skips >= 0:
            return False
        again = plan.gap > 1
        plan.counted()
        return not again or self._of_module[number] <= FIRST or self._affordable(number)

    def end(self, lane: Lane, call: int) -> None:
        """A root call that is counted has returned."""
        unit = lane.unit
        lane.unit = None
        if unit is not None and unit is self._unit:
            self._close(unit)
            if not unit.counts:
                return
            self._keep(unit, call)
            if unit.training and len(self._awaiting) < MANY_KINDS:
                self._awaiting.add(lane.number << THREAD_SHIFT | call)

    def give_up(self, lane: Lane) -> None:
        """A call that is counted has not returned: what was seen of it says little."""
        unit = lane.unit
        lane.unit = None
        if unit is not None and unit is self._unit:
            self._close(unit)

    def _fail(self, fault: Exception) -> None:
        """Count nothing any more because of a fault of ours; everything else is recorded on."""
        reason = f"FLOPs and operations are not counted any more: {type(fault).__name__}"
        self.gaps.append(reason)
        self._state.warn(f"{reason}; the rest is recorded")
        self._state.counts = False
        self._awaiting.clear()
        self.stop()

    def stop(self) -> None:
        """Count nothing any more."""
        if self._unit is not None:
            self.give_up(self._unit.lane)
        if (
            self._mode is not None
        ):  # a fault inside an operation: torch puts a mode back that was taken out in there
            take_out_dispatch_mode(self._mode)

    # backward ---------------------------------------------------------------------------------------------------

    def begin_backward(self, lane: Lane, depth: int, roots: set[int], graph: Graph) -> bool:
        """Decide whether a backward is counted: it goes through a root call that was, for the first time, or through a
        graph unlike those that were: other parameters are trained, or other operations have run.

        Args:
            lane: that of the calling thread.
            depth: that of the phase among the open calls.
            roots: ids of the root calls whose backward it is.
            graph: what it goes through.
        """
        if not self._counts:
            return False
        if self._unit is not None:
            if self._unit.counts and len(self._graphs) < MANY_KINDS:
                self._graphs.add(graph)  # a backward inside of one: a checkpoint that makes a call again
            return False
        if self._awaiting.isdisjoint(roots):
            if not self._is_unlike(graph):
                return False
            for kind, plan in self._plans.items():  # their forward may compute something else now
                if kind[0] in graph[0]:
                    plan.skips = -1
        self._awaiting -= roots
        if not self._may():
            return False
        if len(self._graphs) < MANY_KINDS:
            self._graphs.add(graph)
        frame, call, entry, given, start, node = lane.calls[depth]
        lane.calls[depth] = (frame, call, entry, given | COUNTED << MODE_SHIFT, start, node)
        unit = self._open(lane, training=False, counts=True)
        unit.depth, unit.notes = depth, False
        return True

    def _is_unlike(self, graph: Graph) -> bool:
        """Whether a backward is of a kind that has not been counted, and may be."""
        if graph in self._graphs or not graph[0] or len(self._graphs) >= MANY_KINDS:
            return False
        return len(self._graphs) < FIRST or self._spends_little()

    def end_backward(self, lane: Lane, call: int, *, whole: bool) -> None:
        """The engine has returned (`whole`), or raised."""
        if whole:
            self.end(lane, call)
        else:
            self.give_up(lane)

    # while torch compiles -----------------------------------------------------------------------------------------

    def hide(self) -> None:
        """See nothing for a while: torch compiles. What it compiles will run out of sight, wholly or in part."""
        unit = self._unit
        if threading.get_ident() == self._thread:
            if unit is not None:
                _found(unit, _innermost(unit, unit.lane)).uncounted[COMPILED] = None
            self._hidden += 1

    def show(self) -> None:
        """See again."""
        if threading.get_ident() == self._thread and self._hidden:
            self._hidden -= 1

    # operations -------------------------------------------------------------------------------------------------

    def note(
        self,
        mode: Mode,
        function: Any,
        args: Any,
        kwargs: dict[str, Any],
        result: Any,
        spent_ns: int,
        done: int,
    ) -> None:
        """An operation has run: `done` is when it had, `spent_ns` what the mode took before."""
        unit = self._unit
        if unit is None or unit.mode is not mode or self._hidden or self._state.off:
            return
        try:
            lane = self._lanes.lane
            call = _innermost(unit, lane)
            if unit.counts:
                self._enter(_found(unit, call), function, args, kwargs, result)
            if unit.notes and self._syncs is not None:
                self._wait(unit, call, function, args, kwargs, result)
            spent_ns += self._crossing_ns + self._state.clock() - done
            unit.spent_ns += spent_ns
            lane.cost(len(lane.calls) - 1, spent_ns)
        except Exception as fault:
            self._fail(fault)

    def _enter(self, found: Found, function: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        known = self._known.get(function)
        if known is None:
            known = self._known[function] = operation(function)
        if len(found.operations) <= MANY_OPERATIONS:
            found.operations.append(known.name)
        found.drew = found.drew or (known.draws and _is_small(result))
        found.unsteady = found.unsteady or (found.drew and known.reads)
        if known.formula is not None:
            number = flops(known.formula, args, kwargs, result)
            if number is None:
                found.uncounted[known.name] = None
            else:
                found.flops += number
        elif known.uncounted:
            found.uncounted[known.name] = None
        if (known.formula is not None or known.uncounted) and _is_generated(sys._getframe(3)):
            found.uncounted[COMPILED] = None

    def _wait(self, unit: Unit, call: int, *operation: Any) -> None:
        """Note what an operation waited for."""
        syncs = self._syncs
        try:
            if syncs is not None:
                syncs.note(unit.waits, call, *operation)
        except Exception as fault:
            self._syncs = None
            self.gaps.append(f"waits for the device are not noted any more: {type(fault).__name__}")
            self._state.warn(f"{self.gaps[-1]}; the rest is recorded")

    # the rows ---------------------------------------------------------------------------------------------------

    def tables(self) -> list[tuple[str, dict[str, list[Any]]]]:
        """Rows that are new since the last call, by table."""
        found = [("work", self._work_rows())]
        return [*found, ("syncs", self._syncs.rows())] if self._syncs is not None else found

    def _work_rows(self) -> dict[str, list[Any]]:
        """Columns of `work`, of what has been counted since the last call."""
        rows, self._rows = self._rows, []
        return {
            "call": [call for call, _, _ in rows],
            "whole": [whole for _, whole, _ in rows],
            "flops": [found.flops for _, _, found in rows],
            "unsteady": [found.unsteady for _, _, found in rows],
            "uncounted": [[plain(name, TEXT_LIMIT) for name in found.uncounted] for _, _, found in rows],
            "operations": [_kept(found.operations) for _, _, found in rows],
        }

    def _keep(self, unit: Unit, call: int) -> None:
        base = unit.lane.number << THREAD_SHIFT
        for number, found in unit.found.items():
            if number >= 0 and number != call:
                self._rows.append((base | number, False, found))
        self._rows.append((base | call, True, unit.found.get(call, Found())))

    def _open(self, lane: Lane, *, training: bool, counts: bool) -> Unit:
        unit = Unit(self, lane, self._state.clock, training=training, counts=counts)
        self._unit = lane.unit = unit
        self._mode = unit.mode
        push_dispatch_mode(unit.mode)
        return unit

    def _close(self, unit: Unit) -> None:
        self._unit = None
        take_out_dispatch_mode(unit.mode)
        self.spent_ns += unit.spent_ns
        if self._syncs is not None:
            self._syncs.keep(unit.lane.number << THREAD_SHIFT, unit.waits)
            if self._syncs.lost and LOST not in self.gaps:
                self.gaps.append(LOST)

    def _may(self) -> bool:
        """Whether the mode may be put in place here and now."""
        return bool(
            threading.get_ident() == self._thread
            and not self._hidden
            and not self._state.off
            and count_dispatch_modes() == 0
            and current_level() is None
            and not profiler_runs()  # it would show each operation twice
        )

    def _affordable(self, number: int) -> bool:
        if self._of_module.get(number, 0) < FIRST:
            return True
        return self._spends_little()

    def _spends_little(self) -> bool:
        return bool(self.spent_ns < SHARE * (self._state.clock() - self._started_ns))


def _innermost(unit: Unit, lane: Lane) -> int:
    """The innermost open call, functions and spans left out; -1 for none."""
    calls = unit.lane.calls if lane.number != unit.lane.number else lane.calls
    at = len(calls) - 1
    while at > unit.depth and calls[at][2].kind in (FUNCTION_KIND, SPAN):
        at -= 1
    return calls[at][1] if at >= 0 else -1


def _found(unit: Unit, call: int) -> Found:
    """What was seen in a call."""
    known = unit.found.get(call)
    if known is None:
        known = unit.found[call] = Found()
    return known


def _is_small(result: Any) -> bool:
    """Whether so few numbers were drawn that they may be there to choose by: a dropout draws many."""
    return isinstance(result, torch.Tensor) and math.prod(result.shape) <= FEW_NUMBERS


def _kept(names: list[str]) -> list[str]:
    return names if len(names) <= MANY_OPERATIONS else [*names[:MANY_OPERATIONS], "..."]


def _is_generated(frame: FrameType | None) -> bool:
    """Whether code that torch's compiler has written is what asks for an operation."""
    return frame is not None and "torchinductor" in frame.f_code.co_filename


unseen(Counting.note, Counting.begin, Counting.end, Counting.give_up, Counting.begin_backward)
