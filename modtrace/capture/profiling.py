"""Watches memory and kernels for some steps with torch's profiler.

The profiler runs from the start of recording, or the end of a step, to the end of a step. What long-lived memory is for
is told by where optimizers keep it: gradients when a step begins, parameters and state when it has ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch

from modtrace.capture.allocations import (
    CLOCK_RANGE,
    MOMENTS,
    Before,
    Clocks,
    Event,
    Holder,
    Rows,
    clocks,
    events_of,
    memory_event,
    paired,
)
from modtrace.capture.facts import raw
from modtrace.capture.history import ANY_THREAD, MOST_ENTRIES, AllocatorHistory, events_in, history_of, moment
from modtrace.capture.operators import kernels_of, operators_of
from modtrace.capture.saved import Saved
from modtrace.capture.state import State
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.lookup import PROFILER, missing
from modtrace.capture.torch_private.names import (
    device_type,
    disable_profiler,
    fast_range,
    prepare_trace,
    profiler_runs,
    start_trace,
)
from modtrace.capture.torch_private.spelled import BUFFERS, PARAMETERS
from modtrace.text import plain
from modtrace.trace.schema import BUFFER, GRADIENT, OPTIMIZER_STATE, PARAMETER, TEXT_LIMIT

BUSY: Final = "memory and kernels were not watched: the program was running torch's profiler"
FROM_HISTORY: Final = (
    "the program was running torch's profiler: memory of devices was watched by the history of their allocator; "
    "memory of the host, and kernels, were not watched"
)
TAKEN: Final = "memory was not watched: the program has begun a history of the allocator of its own"
OVERRUN: Final = "memory was not watched: there were more allocations than the history of the allocator holds"
LOST: Final = "memory and kernels were not watched: torch's profiler lost some of its events"
_QUIET: Final = "KINETO_LOG_LEVEL"
"""torch's profiler writes to stderr when it starts and stops, unless it is told not to when it is first started."""


class Profiling:
    """Watches some steps of one trace. Nothing here raises.

    Args:
        state: shared with the tracer.
        origin_ns: the clock at the start of recording.
        memory, kernels: the first step in which each is watched and the one after the last; None for never. The
            profiler runs over both, from the first to the last.
        saved: the same of what is kept for backward, which needs no profiler.
    """

    def __init__(
        self,
        state: State,
        origin_ns: int,
        *,
        memory: tuple[int, int] | None = None,
        kernels: tuple[int, int] | None = None,
        saved: tuple[int, int] | None = None,
    ) -> None:
        self.saved = Saved(state, saved) if saved is not None else None
        self.gaps: list[str] = self.saved.gaps if self.saved is not None else []
        self.spent_ns = 0
        """What starting, stopping and reading the profiler has cost."""
        self._state = state
        self._origin_ns = origin_ns
        asked = [steps for steps in (memory, kernels) if steps is not None]
        lacks = missing(PROFILER) if asked else []
        if lacks:
            self.gaps += lacks
            asked = []
        self._first = min((first for first, _ in asked), default=-1)
        self._last = max((last for _, last in asked), default=-1)
        self._memory, self._kernels = memory is not None, kernels is not None
        self._steps = self._roots = 0
        self._optimizes = False
        self._profiler: Any = None
        self._history: AllocatorHistory | None = None
        self._held: list[int] = []
        self._began_at = (0, 0)
        self._moments: list[tuple[int, int]] = []
        self._holders: list[Holder] = []
        self._before: list[Before] = []
        self._began_ns = self._ended_at = 0
        self._lane = 0
        self._rows: list[tuple[Any, ...]] = []
        self._operators: list[tuple[Any, ...]] = []
        self._watched: list[tuple[int, int, bool, bool]] = []

    def start(self) -> None:
        """Recording begins."""
        self._ended_at = self._state.clock()
        if self._first == 0:
            self._guarded(self._begin)

    def root_begins(self) -> None:
        """A root call begins: in a program without optimizers that ends a step, the one before."""
        if self._roots and not self._optimizes:
            self.step_ends()
        self._roots += 1

    def step_ends(self, optimizer: Any = None, at: int | None = None) -> None:
        """A step has ended, by an optimizer's if there is one; `at` is a moment before which it had not."""
        self._ended_at = self._state.clock() if at is None else at
        if optimizer is not None and not self._optimizes:
            self._optimizes, self._steps = True, 0
            if self._first > 0:
                self._guarded(self._take_back)
            if self.saved is not None:
                self.saved.take_back()
        self._steps += 1
        if self.saved is not None:
            self.saved.step_ends(self._steps)
        if self.active:
            self._guarded(lambda: self._note(_of_modules(self._living())))
            if optimizer is not None:
                self._guarded(lambda: self._note(_of_state(optimizer)))
            if self._steps >= self._last:
                self._guarded(self._end)
        elif self._steps == self._first:
            self._guarded(lambda: self._before.extend(_sizes(optimizer, _registered(self._living()))))
            self._guarded(self._begin)

    def _take_back(self) -> None:
        """Drop what was watched while root calls were taken for steps, as far as it has not been written yet."""
        if self.active:
            self._end()
        self._rows, self._operators, self._watched = [], [], []

    def step_begins(self, optimizer: Any) -> None:
        """An optimizer is about to step: its gradients are there."""
        if self.active:
            self._guarded(lambda: self._note(_of_gradients(optimizer)))

    def stop(self) -> None:
        """Recording ends."""
        if self.active:
            self._guarded(self._end)

    @property
    def active(self) -> bool:
        """Whether memory is being watched now."""
        return self._profiler is not None or self._history is not None

    def _guarded(self, work: Any) -> None:
        started = self._state.clock()
        try:
            work()
        except Exception as fault:
            self.gaps.append(f"memory and kernels were not watched any further: {type(fault).__name__}")
            if self._profiler is not None:
                with contextlib.suppress(Exception):
                    _disable()
            if self._history is not None:
                with contextlib.suppress(Exception):
                    self._history.end()
            self._profiler, self._history, self._last = None, None, -1
        self.spent_ns += self._state.clock() - started

    def _begin(self) -> None:
        if profiler_runs():
            if not (self._memory and self._begin_history()):
                self.gaps.append(BUSY)
                self._last = -1
            return
        device = "cuda" if torch.cuda.is_available() else None
        profiler: Any = torch.autograd.profiler.profile(profile_memory=self._memory, use_device=device)
        held = os.environ.get(_QUIET)
        os.environ[_QUIET] = "6"
        try:
            prepare_trace(profiler)
            start_trace(profiler)
        finally:
            if held is None:
                os.environ.pop(_QUIET, None)
            else:
                os.environ[_QUIET] = held
        self._profiler = profiler
        self._lane = self._state.lanes.lane.number
        self._moments = []
        self._mark()
        self._began_ns = self._ended_at  # all that has happened since is our own doing

    def _begin_history(self) -> bool:
        history = history_of()
        held = history.begin() if history is not None else None
        if held is None:
            return False
        self._history, self._held, self._began_at = history, held, moment(self._state.clock)
        self._lane = self._state.lanes.lane.number
        self._began_ns = self._ended_at
        self.gaps.append(FROM_HISTORY)
        return True

    def _end_history(self, history: AllocatorHistory) -> None:
        """Threads are not told: what was allocated is taken to be of the one that watches."""
        ended_at, ended = moment(self._state.clock), self._state.clock()
        self._history = None
        traces = history.end()
        if traces is None or any(len(entries) >= MOST_ENTRIES for entries in traces):
            self.gaps.append(TAKEN if traces is None else OVERRUN)
            return
        (from_theirs, from_ours), (to_theirs, to_ours) = self._began_at, ended_at
        beside = Clocks((from_theirs, to_theirs), (from_ours, to_ours))
        events = list(events_in(traces, self._held))
        self._keep(paired(events, beside, self._holders, self._before, self._began_ns), ANY_THREAD)
        self._watched.append((self._began_ns, ended, True, False))
        self._holders, self._before = [], []

    def _end(self) -> None:
        if self._history is not None:
            self._end_history(self._history)
            return
        self._mark()
        ended = self._state.clock()
        self._profiler = None
        results = _disable()
        events: list[Event] = []
        ranges = []
        tree = results.experimental_event_tree()
        for kind, event in events_of(tree):
            if kind == "memory":
                events.append(memory_event(event))
            else:
                ranges.append(event)
        beside = clocks(ranges, self._moments)
        if beside is None:
            self.gaps.append(LOST)
            return
        ours = ranges[0].start_tid
        self._keep(paired(events, beside, self._holders, self._before, self._began_ns), ours)
        if self._kernels:
            found = operators_of(tree) + kernels_of(results.events(), device_type.CUDA)
            self._operators += [
                (beside.ours_of(at), own, name, device, kind, self._lane if thread == ours else None)
                for at, own, name, thread, device, kind in found
                if not name.startswith(CLOCK_RANGE)
            ]
        self._watched.append((self._began_ns, ended, self._memory, self._kernels))
        self._holders, self._before = [], []

    def _keep(self, rows: Rows, ours: int) -> None:
        """Keep rows; `ours` is torch's number of the thread that watches, the only one whose calls are known."""
        columns = (rows.at_ns, rows.freed_ns, rows.size_bytes, rows.device, rows.thread, rows.category)
        for at, freed, size, device, thread, category in zip(*columns, strict=True):
            self._rows.append((at, freed, size, device, self._lane if thread == ours else None, category))

    def _mark(self) -> None:
        for _ in range(MOMENTS):
            before = self._state.clock()
            with fast_range(f"{CLOCK_RANGE}{len(self._moments)}"):
                pass
            self._moments.append((before, self._state.clock()))

    def _living(self) -> list[Any]:
        return self._state.registry.living()

    def _note(self, found: Iterator[tuple[Any, int]]) -> None:
        now = self._state.clock()
        for tensor, category in found:
            address = _address(tensor)
            if address:
                size_bytes, device = _place(tensor)
                self._holders.append(Holder(now, address, category, size_bytes, device))

    def tables(self) -> list[tuple[str, dict[str, list[Any]]]]:
        """Rows that are new since the last call, by table."""
        return [
            ("allocations", self._allocation_rows()),
            ("operators", self._operator_rows()),
            ("watched", self._watched_rows()),
            *([("saved", self.saved.rows())] if self.saved is not None else []),
        ]

    def _operator_rows(self) -> dict[str, list[Any]]:
        rows, self._operators = self._operators, []
        return {
            "at_ns": [row[0] - self._origin_ns for row in rows],
            "self_ns": [row[1] for row in rows],
            "name": [plain(row[2], TEXT_LIMIT) for row in rows],
            "device": [row[3] for row in rows],
            "kind": [row[4] for row in rows],
            "thread": [row[5] for row in rows],
        }

    def _allocation_rows(self) -> dict[str, list[Any]]:
        rows, self._rows = self._rows, []
        origin = self._origin_ns
        return {
            "at_ns": [row[0] - origin for row in rows],
            "freed_ns": [None if row[1] is None else row[1] - origin for row in rows],
            "size_bytes": [row[2] for row in rows],
            "device": [row[3] for row in rows],
            "thread": [row[4] for row in rows],
            "category": [row[5] for row in rows],
        }

    def _watched_rows(self) -> dict[str, list[Any]]:
        rows, self._watched = self._watched, []
        return {
            "from_ns": [row[0] - self._origin_ns for row in rows],
            "to_ns": [row[1] - self._origin_ns for row in rows],
            "memory": [row[2] for row in rows],
            "kernels": [row[3] for row in rows],
        }


def _disable() -> Any:
    """Stop torch's profiler; its result."""
    return disable_profiler()


def _address(tensor: Any) -> int:
    """Where the memory of a tensor lies; 0 for one that has none to tell of."""
    try:
        with without_functions():
            return int(tensor.untyped_storage().data_ptr())
    except Exception:
        return 0


def _parameters(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _place(tensor: Any) -> tuple[int, str]:
    """How much memory a tensor holds, and where."""
    with without_functions():
        return int(tensor.untyped_storage().nbytes()), str(tensor.device)


def _of_modules(modules: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """Buffers, and parameters that no optimizer may have."""
    for category, tensor in _registered(modules):
        yield tensor, category


def _registered(modules: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    for module in modules:
        for category, name in ((PARAMETER, PARAMETERS), (BUFFER, BUFFERS)):
            table = raw(module).get(name)
            for tensor in dict.values(table) if isinstance(table, dict) else ():
                if tensor is not None:
                    yield category, tensor


def _of_gradients(optimizer: Any) -> Iterator[tuple[Any, int]]:
    for parameter in _parameters(optimizer):
        gradient = parameter.grad
        if gradient is not None:
            yield gradient, GRADIENT


def _of_state(optimizer: Any) -> Iterator[tuple[Any, int]]:
    for parameter in _parameters(optimizer):
        yield parameter, PARAMETER
    for tensor in _state_tensors(optimizer):
        yield tensor, OPTIMIZER_STATE


def _state_tensors(optimizer: Any) -> Iterator[Any]:
    for held in dict.values(dict(optimizer.state)):
        for value in held.values() if isinstance(held, dict) else ():
            if isinstance(value, torch.Tensor):
                yield value


def _sizes(optimizer: Any, registered: Iterable[tuple[int, Any]]) -> list[Before]:
    """(bytes, category, address, device) of what modules and an optimizer (None for none) hold, once each."""
    found: dict[int, Before] = {}
    tensors = list(registered)
    if optimizer is not None:
        tensors += [(PARAMETER, one) for one in _parameters(optimizer)]
        tensors += [(GRADIENT, one.grad) for one in _parameters(optimizer) if one.grad is not None]
        tensors += [(OPTIMIZER_STATE, one) for one in _state_tensors(optimizer)]
    for category, tensor in tensors:
        address = _address(tensor)
        if address and address not in found:
            size, device = _place(tensor)
            found[address] = (size, category, address, device)
    return list(found.values())
