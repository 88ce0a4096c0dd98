"""Watches memory and kernels for some steps with torch's profiler.

The profiler runs from the start of recording, or the end of a step, to the end of a step. What long-lived memory is for
is told by where optimizers keep it: gradients when a step begins, parameters and state when it has ended.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch

from modtrace.capture.allocations import (
    CLOCK_RANGE,
    HOST,
    MOMENTS,
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
from modtrace.capture.held_before import (
    HeldBefore,
    address_of,
    of_gradients,
    of_modules,
    of_optimizers,
    of_state,
    place_of,
)
from modtrace.capture.history import ANY_THREAD, MOST_ENTRIES, AllocatorHistory, events_in, history_of, moment
from modtrace.capture.operators import kernels_of, operators_of
from modtrace.capture.saved import Saved
from modtrace.capture.state import State
from modtrace.capture.step_numbers import StepNumbers
from modtrace.capture.torch_private.lookup import PROFILER, missing
from modtrace.capture.torch_private.names import (
    device_type,
    disable_profiler,
    fast_range,
    graph_task,
    prepare_trace,
    profiler_runs,
    start_trace,
)
from modtrace.text import plain
from modtrace.trace.schema import SPAN, TEXT_LIMIT

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
        self._asked = {"memory": memory, "kernels": kernels, "saved": saved}
        # What the step before has left is known if that is watched too.
        early = (max(memory[0] - 1, 0), memory[1]) if memory is not None else None
        self._windows = [steps for steps in (early, kernels) if steps is not None]
        lacks = missing(PROFILER) if self._windows else []
        if lacks:
            self.gaps += lacks
            self._windows = []
        every = [*self._windows, *([saved] if saved is not None else [])]
        first = min((first for first, _ in every), default=0)
        self._numbers = StepNumbers(first, max((last for _, last in every), default=0))
        self._memory, self._kernels = memory is not None, kernels is not None
        self._off = not self._windows
        self._profiler: Any = None
        self._history: AllocatorHistory | None = None
        self._held: list[int] = []
        self._began_at = (0, 0)
        self._moments: list[tuple[int, int]] = []
        self._holders: list[Holder] = []
        self._before = HeldBefore(state.clock)
        self._began_ns = self._ended_at = 0
        self._lane = 0
        self._thread = 0
        self._rows: list[tuple[Any, ...]] = []
        self._operators: list[tuple[Any, ...]] = []
        self._watched: list[tuple[int, int, bool, bool]] = []

    def start(self) -> None:
        """Recording begins."""
        self._ended_at = self._state.clock()
        self._settle()

    # what the program does --------------------------------------------------------------------------------------

    def root_begins(self, module: Any) -> None:
        """A root call is about to begin."""
        if graph_task() != -1:
            return
        self._ended_at = self._state.clock()
        trains = torch.is_grad_enabled() and bool(raw(module).get("training", True))
        self._numbers.root_begins(trains=trains)
        self._settle()

    def backward_begins(self) -> None:
        """A backward is about to begin."""
        if graph_task() == -1:
            self._numbers.backward_begins()
            self._count_saved()
        self.poll()

    def step_begins(self, optimizer: Any) -> None:
        """An optimizer is about to step: its gradients are there."""
        if self.active:
            self._guarded(lambda: self._note(of_gradients(optimizer)))

    def step_ends(self, optimizer: Any, number: int, at: int) -> None:
        """An optimizer, with its number, has stepped inside of no other's step; `at` is when it was about to end."""
        self._ended_at = at
        self._numbers.optimizer_ended(optimizer, number)
        if self.active:
            self._guarded(lambda: self._note(of_state(optimizer)))
        self._settle()

    def marked(self, at: int) -> None:
        """The program says that a step has ended."""
        self._ended_at = at
        self._numbers.marked()
        self._settle()

    def at_rest(self) -> None:
        """A phase has ended."""
        self.poll()
        if self._wanted() != self.active and not self._off:
            self._ended_at = self._state.clock()
            self._settle()

    def poll(self) -> None:
        """Look which of the memory that was held when watching began has been freed."""
        if self.active:
            self._guarded(self._before.poll)

    def _wanted(self) -> bool:
        return any(first <= step < last for step in self._numbers.possible for first, last in self._windows)

    def _count_saved(self) -> None:
        if self.saved is not None:
            self.saved.watch(self._numbers.possible)

    def _settle(self) -> None:
        """Begin or end watching, where the number of the step in progress asks for it and nothing is going on."""
        self._count_saved()
        if self._off:
            return
        self.poll()
        wanted = self._wanted()
        if wanted == self.active or any(call[2].kind != SPAN for call in self._state.lanes.lane.calls):
            return
        if wanted:
            self._guarded(self._begin)
        elif threading.get_ident() == self._thread:
            self._guarded(self._end)

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
            self._profiler, self._history, self._off = None, None, True
        self.spent_ns += self._state.clock() - started

    def _begin(self) -> None:
        if profiler_runs():
            if not (self._memory and self._begin_history()):
                self.gaps.append(BUSY)
                self._off = True
            return
        self._look_before()
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
        self._lane, self._thread = self._state.lanes.lane.number, threading.get_ident()
        self._moments = []
        self._mark()
        self._began_ns = self._ended_at  # all that has happened since is our own doing

    def _begin_history(self) -> bool:
        history = history_of()
        held = history.begin() if history is not None else None
        if held is None:
            return False
        self._look_before()
        self._history, self._held, self._began_at = history, held, moment(self._state.clock)
        self._lane, self._thread = self._state.lanes.lane.number, threading.get_ident()
        self._began_ns = self._ended_at
        self.gaps.append(FROM_HISTORY)
        return True

    def _look_before(self) -> None:
        """Write down what modules and optimizers hold, once each."""
        if self._memory:
            self._before.begin([*of_optimizers(self._stepped()), *of_modules(self._living())])

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
        # The host's memory is not watched this way.
        holders = [one for one in self._holders if one.device != HOST]
        before = [one for one in self._before.rows if one.device != HOST]
        self._keep(paired(events, beside, holders, before, self._began_ns), ANY_THREAD)
        self._watched.append((self._began_ns, ended, True, False))
        self._holders = []
        self._before.end()

    def _end(self) -> None:
        self._note(of_modules(self._living()))
        for optimizer in self._stepped():
            self._note(of_state(optimizer))
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
        self._keep(paired(events, beside, self._holders, self._before.rows, self._began_ns), ours)
        if self._kernels:
            found = operators_of(tree) + kernels_of(results.events(), device_type.CUDA)
            self._operators += [
                (beside.ours_of(at), own, name, device, kind, self._lane if thread == ours else None)
                for at, own, name, thread, device, kind in found
                if not name.startswith(CLOCK_RANGE)
            ]
        self._watched.append((self._began_ns, ended, self._memory, self._kernels))
        self._holders = []
        self._before.end()

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

    def _stepped(self) -> list[Any]:
        """Optimizers that have stepped and are alive."""
        return [one for one in (ref() for ref in self._numbers.optimizers.values()) if one is not None]

    def _note(self, found: Iterator[tuple[Any, int]]) -> None:
        now = self._state.clock()
        for tensor, category in found:
            address = address_of(tensor)
            if address:
                size_bytes, device = place_of(tensor)
                self._holders.append(Holder(now, address, category, size_bytes, device))

    def tables(self) -> list[tuple[str, dict[str, list[Any]]]]:
        """Rows that are new since the last call, by table."""
        return [
            ("allocations", self._allocation_rows()),
            ("operators", self._operator_rows()),
            ("watched", self._watched_rows()),
            ("asked", self._asked_rows()),
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

    def _asked_rows(self) -> dict[str, list[Any]]:
        rows, self._asked = self._asked, {}
        some = [(what, *steps) for what, steps in rows.items() if steps is not None]
        return {
            "what": [row[0] for row in some],
            "first_step": [row[1] for row in some],
            "end_step": [row[2] for row in some],
        }


def _disable() -> Any:
    """Stop torch's profiler; its result."""
    return disable_profiler()
