"""Operations and FLOPs of each module, counted in a few calls and looked up from then on.

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
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.signatures import keywords_key
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import MODE_SHIFT, RAISED, RETURNED, ThreadBuffer, ThreadBuffers
from modtrace.capture.mechanisms.device_waits import LOST, Syncs, Waits
from modtrace.capture.mechanisms.flop_formulas import Operation, flops, operation
from modtrace.capture.mechanisms.operation_mode import Mode, crossing
from modtrace.capture.torch_private.modes import take_out_dispatch_mode
from modtrace.capture.torch_private.names import (
    count_dispatch_modes,
    current_level,
    profiler_runs,
    push_dispatch_mode,
)
from modtrace.text import plain
from modtrace.trace.schema import COUNTED, IN_BACKWARD, NO_GRAD, SPAN, TEXT_LIMIT, THREAD_SHIFT
from modtrace.trace.schema import FUNCTION as FUNCTION_KIND
from modtrace.units import plural

FIRST: Final = 4
"""So many kinds of inputs of a module are counted at any price; more only while all of counting is SHARE of the run."""
SHARE: Final = 0.02
MANY_KINDS: Final = 10_000
MANY_OPERATIONS: Final = 200
"""Kept of the list of one call."""
FEW_NUMBERS: Final = 64
COMPILED: Final = "compiled code"
NEVER_COUNTED: Final = "FLOPs were not counted: {} ran {} only"
ON_OTHER_THREADS: Final = "on other threads"
UNDER_A_MODE: Final = "in a dispatch mode, the program's own or another trace's,"
UNDER_A_TRANSFORM: Final = "inside transforms of torch.func"
UNDER_A_PROFILER: Final = "while torch's profiler did (--memory, --kernels or the program's own)"

Kind = tuple[int, int, int, int]
"""(number of the module, signature of its positional arguments, of its keyword arguments, mode)."""
GraphKey = tuple[frozenset[int], int, int]
"""Numbers of the root modules that a backward goes through, and how many nodes and leaves its graph has."""


class CountingPlan:
    """When root calls of one kind are counted: the first, second, fourth, eighth ...

    skips: calls until the next that is counted; below zero it is due.
    gap: how many calls have been let by between the last two counted ones, and 1.
    """

    __slots__ = ("gap", "skips")

    def __init__(self) -> None:
        self.skips = -1
        self.gap = 1

    def counted(self) -> None:
        """The call that is about to begin is counted, or would have been."""
        self.skips, self.gap = self.gap - 1, 2 * self.gap


class CallCounts:
    """Counts of one call: FLOPs, operations without a formula, all operations in order. `unsteady` says that a
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
    in root calls alone (`notes`). `depth` is that of its call among the open calls, `backward` the number of a
    backward's call, -1 of a root call.
    """

    __slots__ = (
        "backward",
        "buffer",
        "counts",
        "depth",
        "found",
        "mode",
        "notes",
        "spent_ns",
        "training",
        "waits",
    )

    def __init__(
        self, counting: OperationCounting, buffer: ThreadBuffer, clock: Any, *, training: bool, counts: bool
    ) -> None:
        self.buffer = buffer
        self.backward = -1
        self.mode = Mode(counting.note, clock)
        self.depth = len(buffer.calls)
        self.found: dict[int, CallCounts] = {}
        self.waits: Waits = {}
        self.spent_ns = 0
        self.training = training
        self.counts = counts
        self.notes = True


class OperationCounting:
    """Sees operations for one trace: recorders `flops` and `device_syncs` say what of them is wanted.

    Nothing here raises but what the program's operations do.
    """

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self.counts = False
        """Operations and FLOPs are counted."""
        self.waits: Syncs | None = None
        """Notes waits for a device, in every root call."""
        self._buffers: ThreadBuffers = context.buffers
        self._thread = threading.get_ident()
        self._plans: dict[Kind, CountingPlan] = {}
        self._recent: dict[int, tuple[int, CountingPlan]] = {}
        """By module: signature and mode of its last root call without keyword arguments, and the plan of that kind."""
        self._graphs: set[GraphKey] = set()
        self._of_module: dict[int, int] = {}
        self._let_by: dict[int, str] = {}
        """By module with root calls that could not be counted: the hindrance at the last of them."""
        self._awaiting: set[int] = set()
        self._known: dict[Any, Operation] = {}
        self._rows: list[tuple[int, bool, CallCounts]] = []
        self._unit: Unit | None = None
        self._mode: Mode | None = None
        self._hidden = 0
        self._started_ns = context.clock()
        self.spent_ns = 0
        """Cost of counting so far, nanoseconds."""
        self.gaps: list[str] = []
        self._crossing_ns = crossing(context.clock)
        self._off = False

    def events(self) -> dict[str, Callable[..., Any]]:
        """Handlers of events for the recorder that runs it."""
        return {
            "root_began": self.root_began,
            "backward_began": self.backward_began,
            "backward_ended": self.backward_ended,
        }

    @property
    def active(self) -> bool:
        """Operations are being counted now."""
        return self._unit is not None

    # root calls -------------------------------------------------------------------------------------------------

    def root_began(
        self, buffer: ThreadBuffer, module: Any, entry: Entry, args: int, mode: int, frame: FrameType
    ) -> int:
        """Decide whether a root call that is about to begin is counted; as for `Recorder.root_began`."""
        recent = self._recent.get(entry.number)
        if recent is not None and not entry.has_keywords and recent[0] == args | mode:
            recent[1].skips -= 1
            if recent[1].skips >= 0:
                return 0
        if self._off:
            return 0
        try:
            return self._begin(buffer, entry, args, mode, frame)
        except Exception as fault:
            self._fail(fault)
            return 0

    def _begin(self, buffer: ThreadBuffer, entry: Entry, args: int, mode: int, frame: FrameType) -> int:
        bits = mode >> MODE_SHIFT
        if threading.get_ident() != self._thread:
            if self.counts and not bits & IN_BACKWARD:
                self._let_by[entry.number] = ON_OTHER_THREADS
            return 0
        if self._unit is not None or bits & IN_BACKWARD or self._hidden or self._context.off:
            return 0
        hindrance = _hindrance()
        if hindrance is not None:
            if self.counts:
                self._let_by[entry.number] = hindrance
            return 0
        counts = self.counts and self._is_due(entry, args, mode, frame)
        if counts or self.waits is not None:
            unit = self._open(buffer, training=not bits & NO_GRAD, counts=counts)
            buffer.await_close(unit.depth, self._closed)
        return COUNTED << MODE_SHIFT if counts else 0

    def _is_due(self, entry: Entry, args_sig: int, mode: int, frame: FrameType) -> bool:
        """True if a root call is to be counted: the first of its kind, the second, the fourth ..."""
        bits = mode >> MODE_SHIFT
        named = frame.f_locals.get("kwargs")
        key = self._context.signatures.number(keywords_key(named, valued=True)) if named else 0
        number = entry.number
        call_kind = (number, args_sig, key, bits)
        recent = self._recent.get(number)
        plan = self._plans.get(call_kind)
        if recent is not None and not entry.has_keywords and recent[0] == args_sig | mode:
            if plan is not recent[1]:
                recent[1].skips += 1  # it was taken for one of the kind before
                if plan is not None:
                    plan.skips -= 1
        elif plan is not None:
            plan.skips -= 1
        if plan is None:
            if len(self._plans) >= MANY_KINDS or not self._affordable(number):
                return False
            plan = self._plans[call_kind] = CountingPlan()
            self._of_module[number] = self._of_module.get(number, 0) + 1
        if named or self.waits is not None:
            self._recent.pop(number, None)
        else:
            self._recent[number] = (args_sig | mode, plan)
        if plan.skips >= 0:
            return False
        again = plan.gap > 1
        plan.counted()
        return not again or self._of_module[number] <= FIRST or self._affordable(number)

    def _closed(self, buffer: ThreadBuffer, call: int, code: int) -> None:
        """A root call or a backward that is watched has been closed."""
        try:
            if code == RETURNED:
                self._end(buffer, call)
            else:
                self._give_up(buffer)
        except Exception as fault:
            self._fail(fault)

    def _end(self, buffer: ThreadBuffer, call: int) -> None:
        """A call that is counted has returned."""
        unit = self._unit
        if unit is not None and unit.buffer is buffer:
            self._close(unit)
            if not unit.counts:
                return
            self._keep(unit, call)
            if unit.training and len(self._awaiting) < MANY_KINDS:
                self._awaiting.add(buffer.number << THREAD_SHIFT | call)

    def _give_up(self, buffer: ThreadBuffer) -> None:
        """A call that is counted has not returned: what was seen of it says little."""
        unit = self._unit
        if unit is not None and unit.buffer is buffer:
            self._close(unit)

    def _fail(self, fault: Exception) -> None:
        """Count nothing any more because of a fault of ours; everything else is recorded on."""
        reason = f"FLOPs and operations are not counted any more: {type(fault).__name__}"
        self.gaps.append(reason)
        if self.waits is not None:  # they are seen by the same mode
            self.gaps.append(f"waits for the device are not noted any more: {type(fault).__name__}")
        self._context.warn(f"{reason}; the rest is recorded")
        self._off = True
        self._awaiting.clear()
        self.stop()

    def stop(self) -> None:
        """Count nothing any more."""
        if not self._off:
            counted = {number for number, *_ in self._plans}
            never = Counter(reason for number, reason in self._let_by.items() if number not in counted)
            for reason, count in never.items():
                self.gaps.append(NEVER_COUNTED.format(plural(count, "root module"), reason))
        self._off = True
        if self._unit is not None:
            self._give_up(self._unit.buffer)
        self._take_out()

    # backward ---------------------------------------------------------------------------------------------------

    def backward_began(self, graph: Any) -> None:
        """Decide whether a backward is counted: it goes through a root call that was, for the first time, or through a
        graph unlike those that were: other parameters are trained, or other operations have run.
        """
        if not self.counts or self._off:
            return
        try:
            self._backward_begins(graph)
        except Exception as fault:
            self._fail(fault)

    def _backward_begins(self, graph: Any) -> None:
        roots, modules = graph.roots()
        key: GraphKey = (modules, len(graph.nodes), graph.leaves)
        if self._unit is not None:
            if self._unit.counts and len(self._graphs) < MANY_KINDS:
                self._graphs.add(key)  # a backward inside of one: a checkpoint that makes a call again
            return
        if self._awaiting.isdisjoint(roots):
            if not self._is_unlike(key):
                return
            for call_kind, plan in self._plans.items():  # their forward may compute something else now
                if call_kind[0] in modules:
                    plan.skips = -1
        self._awaiting -= roots
        if not self._may():
            return
        if len(self._graphs) < MANY_KINDS:
            self._graphs.add(key)
        buffer, depth = graph.buffer, graph.depth
        frame, call, entry, args, start, node = buffer.calls[depth]
        buffer.calls[depth] = (frame, call, entry, args | COUNTED << MODE_SHIFT, start, node)
        unit = self._open(buffer, training=False, counts=True)
        unit.depth, unit.backward, unit.notes = depth, call, False
        buffer.await_close(depth, self._closed)

    def _is_unlike(self, graph: GraphKey) -> bool:
        """True if a backward is of a kind that has not been counted, and may be."""
        if graph in self._graphs or not graph[0] or len(self._graphs) >= MANY_KINDS:
            return False
        return len(self._graphs) < FIRST or self._spends_little()

    def backward_ended(self, buffer: ThreadBuffer, call: int, error: BaseException | None) -> None:
        """The engine has returned, or raised."""
        unit = self._unit
        if unit is not None and unit.buffer is buffer and unit.backward == call:
            self._closed(buffer, call, RETURNED if error is None else RAISED)

    # while torch compiles -----------------------------------------------------------------------------------------

    def hide(self) -> None:
        """See nothing for a while: torch compiles. What it compiles will run out of sight, wholly or in part."""
        unit = self._unit
        if threading.get_ident() == self._thread:
            if unit is not None:
                _found(unit, _innermost(unit, unit.buffer)).uncounted[COMPILED] = None
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
        if unit is None or unit.mode is not mode or self._hidden or self._context.off:
            return
        try:
            buffer = self._buffers.current
            call = _innermost(unit, buffer)
            if unit.counts:
                self._enter(_found(unit, call), function, args, kwargs, result)
            if unit.notes and self.waits is not None:
                self._wait(unit, call, function, args, kwargs, result)
            spent_ns += self._crossing_ns + self._context.clock() - done
            unit.spent_ns += spent_ns
            buffer.cost(len(buffer.calls) - 1, spent_ns)
        except Exception as fault:
            self._fail(fault)

    def _enter(self, seen: CallCounts, function: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        known = self._known.get(function)
        if known is None:
            known = self._known[function] = operation(function)
        if len(seen.operations) <= MANY_OPERATIONS:
            seen.operations.append(known.name)
        seen.drew = seen.drew or (known.draws and _is_small(result))
        seen.unsteady = seen.unsteady or (seen.drew and known.reads)
        if known.formula is not None:
            number = flops(known.formula, args, kwargs, result)
            if number is None:
                seen.uncounted[known.name] = None
            else:
                seen.flops += number
        elif known.uncounted:
            seen.uncounted[known.name] = None
        if (known.formula is not None or known.uncounted) and _is_generated(sys._getframe(3)):
            seen.uncounted[COMPILED] = None

    def _wait(self, unit: Unit, call: int, *operation: Any) -> None:
        """Note what an operation waited for."""
        syncs = self.waits
        try:
            if syncs is not None:
                syncs.note(unit.waits, call, *operation)
        except Exception as fault:
            self.waits = None
            self.gaps.append(f"waits for the device are not noted any more: {type(fault).__name__}")
            self._context.warn(f"{self.gaps[-1]}; the rest is recorded")

    # the rows ---------------------------------------------------------------------------------------------------

    def work_rows(self) -> dict[str, list[Any]]:
        """Columns of `work`, of what has been counted since the last call."""
        rows, self._rows = self._rows, []
        return {
            "call": [call for call, _, _ in rows],
            "whole": [complete for _, complete, _ in rows],
            "flops": [seen.flops for _, _, seen in rows],
            "unsteady": [seen.unsteady for _, _, seen in rows],
            "uncounted": [[plain(name, TEXT_LIMIT) for name in seen.uncounted] for _, _, seen in rows],
            "operations": [_kept(seen.operations) for _, _, seen in rows],
        }

    def _keep(self, unit: Unit, call: int) -> None:
        base = unit.buffer.number << THREAD_SHIFT
        for number, seen in unit.found.items():
            if number >= 0 and number != call:
                self._rows.append((base | number, False, seen))
        self._rows.append((base | call, True, unit.found.get(call, CallCounts())))

    def _open(self, buffer: ThreadBuffer, *, training: bool, counts: bool) -> Unit:
        unit = self._unit = Unit(self, buffer, self._context.clock, training=training, counts=counts)
        self._mode = unit.mode
        push_dispatch_mode(unit.mode)
        return unit

    def _close(self, unit: Unit) -> None:
        self._unit = None
        self._take_out()
        self.spent_ns += unit.spent_ns
        if self.waits is not None:
            self.waits.keep(unit.buffer.number << THREAD_SHIFT, unit.waits)
            if self.waits.lost and LOST not in self.gaps:
                self.gaps.append(LOST)

    def _take_out(self) -> None:
        """Take the mode off; later where it is running an operation, or stands on another thread than this."""
        mode, self._mode = self._mode, None
        if mode is not None and not take_out_dispatch_mode(mode):
            self._context.take_out_later(partial(take_out_dispatch_mode, mode))

    def _may(self) -> bool:
        """True if the mode may be put in place here and now."""
        here = threading.get_ident() == self._thread
        return here and not self._hidden and not self._context.off and _hindrance() is None

    def _affordable(self, number: int) -> bool:
        if self._of_module.get(number, 0) < FIRST:
            return True
        return self._spends_little()

    def _spends_little(self) -> bool:
        return bool(self.spent_ns < SHARE * (self._context.clock() - self._started_ns))


def _hindrance() -> str | None:
    """Where the program runs so that nothing can be counted there; None if nothing is in the way."""
    if count_dispatch_modes() != 0:
        return UNDER_A_MODE
    if current_level() is not None:
        return UNDER_A_TRANSFORM
    return UNDER_A_PROFILER if profiler_runs() else None  # it would show each operation twice


def _innermost(unit: Unit, buffer: ThreadBuffer) -> int:
    """The innermost open call, functions and spans left out; -1 for none."""
    calls = unit.buffer.calls if buffer.number != unit.buffer.number else buffer.calls
    level = len(calls) - 1
    while level > unit.depth and calls[level][2].kind in (FUNCTION_KIND, SPAN):
        level -= 1
    return calls[level][1] if level >= 0 else -1


def _found(unit: Unit, call: int) -> CallCounts:
    """Counts of one call, by number."""
    known = unit.found.get(call)
    if known is None:
        known = unit.found[call] = CallCounts()
    return known


def _is_small(result: Any) -> bool:
    """True if so few numbers were drawn that they may be there to choose by: a dropout draws many."""
    return isinstance(result, torch.Tensor) and math.prod(result.shape) <= FEW_NUMBERS


def _kept(names: list[str]) -> list[str]:
    return names if len(names) <= MANY_OPERATIONS else [*names[:MANY_OPERATIONS], "..."]


def _is_generated(frame: FrameType | None) -> bool:
    """True if code that torch's compiler has written is what asks for an operation."""
    return frame is not None and "torchinductor" in frame.f_code.co_filename


unseen(OperationCounting.note, OperationCounting.root_began, OperationCounting.backward_began)
