"""Starts and stops the recorders of one trace. Owns the event buffers."""

from __future__ import annotations

import os
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from modtrace.capture import own_hooks
from modtrace.capture.backward import Backward
from modtrace.capture.blocks import Blocks, gap_rows, write_process
from modtrace.capture.calibrate import frame_depth
from modtrace.capture.children import Children
from modtrace.capture.compilations import Compilations
from modtrace.capture.compiling import Aside
from modtrace.capture.costs import cost_of_calls, with_functions
from modtrace.capture.counting import Counting
from modtrace.capture.device_times import DeviceTimes
from modtrace.capture.flushing import Flusher
from modtrace.capture.functions import STOPPED, Functions
from modtrace.capture.hooks import RUNNERS, build
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import Lanes, LaneTable
from modtrace.capture.left_open import abort_left
from modtrace.capture.memory_readings import MemoryReadings
from modtrace.capture.optimizers import Optimizers
from modtrace.capture.phases import Phases
from modtrace.capture.placing import PlacedHooks
from modtrace.capture.profiling import Profiling
from modtrace.capture.raised import Errors
from modtrace.capture.ranges import NOT_OPENED, Ranges
from modtrace.capture.reach import device_keys
from modtrace.capture.registry import Registry
from modtrace.capture.selection import Selection
from modtrace.capture.signature import Signatures
from modtrace.capture.state import State
from modtrace.capture.steps import steps_of
from modtrace.capture.torch_private.lookup import (
    CALLS,
    COMPILING,
    CUSTOM_FUNCTIONS,
    FLOPS,
    FORMULAS,
    FUNCTIONS,
    PHASES,
    missing,
)
from modtrace.capture.watch import Watch
from modtrace.errors import WriteError
from modtrace.trace.folder import write_json
from modtrace.trace.schema import STOP_FILE
from modtrace.trace.writer import Writer

RESUMED: Final = "greenlets took turns inside module calls; {} of these calls stand as aborted, without times"

REASON_LIMIT: Final = 200
MOST_GAPS: Final = 8
"""`end.json` and `stopped.json` must fit into the room that is kept for them."""

_RUN_CALLS: Final = frozenset(
    str(sys.modules[name].__file__)
    for name in (
        "torch.autograd",
        "torch.autograd.graph",
        torch.optim.Optimizer.__module__,
        torch.nn.Module.__module__,
        torch.utils.data.DataLoader.__module__,
        torch.amp.GradScaler.__module__,
    )
)
"""Files of torch with the functions that run what has a row: frames of ours have left the traceback by then."""

_RUNNING: weakref.WeakSet[Tracer] = weakref.WeakSet()


class Tracer:
    """Records the module calls of this process into one process folder of a trace.

    Nothing here raises in the user's program: a fault of the recorder ends the recording, with one warning and a row
    in `gaps`.
    """

    _main_ended: tuple[int, int] | None = None
    """When the main thread ended, since the start of recording, and the calls written by then."""

    def __init__(  # noqa: PLR0913 - an argument an option of `trace`
        self,
        folder: Path,
        *,
        model: torch.nn.Module | None = None,
        messages: bool = True,
        origin_ns: int | None = None,
        max_bytes: int | None = None,
        rank: int = 0,
        flops: bool = True,
        functions: bool = False,
        memory: str | None = None,
        kernels: str | None = None,
        saved: str | None = None,
        syncs: bool = False,
    ) -> None:
        self.gaps: list[str] = []
        self._gaps_written = 0
        self._stopped: dict[str, Any] | None = None
        self._clock = time.perf_counter_ns
        self._started_ns = self._clock()
        self._origin_ns = self._started_ns if origin_ns is None else origin_ns
        self._folder = folder
        self._rank = rank
        self._registry = Registry()
        self._signatures, self._labels = Signatures(), Labels()
        self._errors = Errors(messages=messages)
        self._table = LaneTable()
        self._lanes = Lanes(self._table)
        writer = Writer(folder, max_bytes=max_bytes)
        known: dict[str, Any] = {
            "registry": self._registry,
            "signatures": self._signatures,
            "errors": self._errors,
        }
        self._counting: Counting | None = None
        self._counts, self._notes_syncs = flops, syncs
        self._functions: Functions | None = None
        self._records_functions = functions
        self._profiling: Profiling | None = None
        asked = {"memory": memory, "kernels": kernels, "saved": saved}
        self._watched_steps = {name: steps_of(text) for name, text in asked.items() if text}
        self._blocks = Blocks(
            writer, **known, labels=self._labels, more=self._more_rows, origin_ns=self._origin_ns
        )
        self._placed, self._aside = PlacedHooks(), Aside(self._hide, self._show)
        self._ranges: Ranges | None = None
        self._phases: Phases | None = None
        self._backward: Backward | None = None
        self._pid = os.getpid()
        self._ended_ns: int | None = None
        self._selection = Selection(model, self._registry.entries) if model is not None else None
        self._state = State(
            lanes=self._lanes,
            registry=self._registry,
            signatures=self._signatures,
            errors=self._errors,
            clock=self._clock,
            flush=lambda _: None,
            fault=self._fault,
            warn=self._warn,
            admits=self._selection,
        )
        self._device_times = DeviceTimes(self._state, self._origin_ns)
        self._memory = MemoryReadings(self._state, self._origin_ns)
        self._optimizers, self._children = Optimizers(self._state), Children()
        self._compilations = Compilations(self._clock, self._origin_ns, messages=messages)
        self._blocks.device_call_ns = lambda: self._device_times.call_ns
        self._flusher = Flusher(
            self._state,
            self._table,
            self._registry,
            self._blocks,
            origin_ns=self._origin_ns,
            running=lambda: not self._state.off and self._ended_ns is None,
            read=self._device_times.read,
        )
        self._watch = Watch(self._look_around, lambda: not self._state.off and self._ended_ns is None)
        self._state.watch_again = self._watch_again
        self._state.flush, self._state.flush_now = self._flusher.when_due, self._flusher.at_once

    def start(self) -> None:
        """Measure the hooks, write `process.json` and begin to record."""
        try:
            depth = frame_depth()
            self.gaps += missing(CALLS, PHASES)
            self._blocks.costs = cost_of_calls(depth, self._clock)
            if self._selection is not None:
                self._selection.enter(self._registry)
            now = self._clock()
            write_process(
                self._folder,
                self._rank,
                self._blocks.costs,
                recorded_ns=now - self._origin_ns,
                start_ns=now - self._started_ns,
            )
            self._flusher.start()
            _RUNNING.add(self)
            self._ranges = Ranges(self._state, self._labels)
            self._state.stands_in = self._stands_in
            self._optionally("FLOPs and operations are not counted", self._count)
            self._optionally("functions are not recorded", self._record_functions)
            self._backward = Backward(
                self._state, self._ranges, lambda: self._table.all, self._counting, self._functions
            )
            if self._watched_steps:
                self._profiling = Profiling(self._state, self._origin_ns, **self._watched_steps)
                self._state.root_begins = self._profiling.root_begins
                self._backward.saved = self._profiling.saved
            self._phases = Phases(
                self._ranges, self._backward, self._functions, self._profiling, self._optimizers
            )
            self._registry.entered = self._optimizers.entered
            self._placed.place(*build(self._state, depth))
            self._aside.install()
            self._phases.install()
            self._optionally("functions are not recorded", self._install_functions)
            self._memory.start()
            if self._profiling is not None:
                self._profiling.start()
            self._watch.start()
        except Exception as fault:
            self._fault(fault)

    def _optionally(self, lost: str, begin: Callable[[], None]) -> None:
        """Begin with something that is not worth a recording: where it fails, as with another torch, a gap says so."""
        try:
            begin()
        except Exception as fault:
            self.gaps.append(f"{lost}: {type(fault).__name__}")
            self._warn(f"{self.gaps[-1]}; the rest is recorded")

    def _lacks(self, part: str) -> bool:
        """Whether this torch lacks anything without which a part cannot be recorded; gaps say what."""
        gaps = missing(part)
        self.gaps += gaps
        return bool(gaps)

    def _count(self) -> None:
        if (self._counts or self._notes_syncs) and not self._lacks(FLOPS):
            self.gaps += missing(FORMULAS)
            self._counting = Counting(self._state, counts=self._counts, syncs=self._notes_syncs)
            self._state.count, self._state.counts = self._counting.begin, True

    def _record_functions(self) -> None:
        if self._records_functions and not self._lacks(FUNCTIONS):
            self.gaps += missing(CUSTOM_FUNCTIONS)
            self._blocks.costs = with_functions(self._blocks.costs, self._clock)
            self._functions = Functions(self._state, self._labels)

    def _install_functions(self) -> None:
        reason = self._functions.install() if self._functions is not None else None
        if reason is not None:
            self.gaps.append(reason)

    def note_failure(self, error: BaseException) -> None:
        """Note the exception that ends the program, or the traced block, where it has left no call."""
        try:
            if isinstance(error, Exception) and not self._state.off and not self._has_left_a_call(error):
                self._errors.number(error, left_calls=False)
        except Exception as fault:
            self._fault(fault)

    def _has_left_a_call(self, error: BaseException) -> bool:
        last = self._lanes.lane.error
        if last is None or last[0] != id(error):
            return False
        if self._functions is not None:  # a function of torch in C has no frame
            return True
        # Numbers of objects are used again: an exception that left a call has passed a frame of torch that runs one.
        entry = error.__traceback__
        while entry is not None:
            if id(entry.tb_frame.f_code) in RUNNERS or entry.tb_frame.f_code.co_filename in _RUN_CALLS:
                return True
            entry = entry.tb_next
        return False

    def main_ended(self) -> None:
        """The main thread has come to the end of its program; other threads and exit functions may go on."""
        now = self._clock() - self._origin_ns
        self.flush()
        self._main_ended = (now, self.rows.get("calls", 0))

    def stop(self) -> None:
        """Take the hooks away and write everything. What is still running is left as unfinished."""
        if os.getpid() != self._pid or self._ended_ns is not None:
            return
        self._memory.stop()
        self._unregister()
        self._ended_ns = self._clock() - self._origin_ns
        try:
            others = (self._counting, self._profiling, self._memory, self._device_times)
            for recorder in (self._optimizers, self._compilations, *others):
                if recorder is not None:
                    recorder.stop()
                    self.gaps += recorder.gaps
            self.gaps += missing(COMPILING)
            abort_left(self._table.all)
            if not self._state.off:
                self._flusher.flush(wait=True, idle=self._has_rows)
            self._state.off = True
            self._end_with_main()
            resumed = sum(lane.resumed for lane in self._table.all)
            if resumed:
                self.gaps.append(RESUMED.format(resumed))
            self._write_gaps()
        except Exception as fault:
            self._fault(fault)
        self._blocks.writer.close()
        _RUNNING.discard(self)

    def _write_gaps(self) -> None:
        """Write the reasons that have come up since the last block; where that fails, `end_facts` has them."""
        reasons, at_ns = self._new_gaps(), self._clock() - self._origin_ns
        if reasons["reason"]:
            try:
                self._blocks.writer.append("gaps", reasons, at_ns=at_ns)
            except WriteError:
                pass

    def _new_gaps(self) -> dict[str, list[Any]]:
        new = self.gaps[self._gaps_written :]
        self._gaps_written = len(self.gaps)
        return gap_rows(new, self._clock() - self._origin_ns)

    @property
    def _has_rows(self) -> bool:
        """Whether there are rows to write that stand beside the calls."""
        beside = (self._device_times, self._memory, self._errors)
        return any(recorder.has_rows for recorder in beside) or self._profiling is not None

    def _end_with_main(self) -> None:
        """Where nothing ran behind the end of the main thread, the recording ended then: what came later was ours."""
        if self._main_ended is not None and not any(lane.calls for lane in self._table.all):
            ended_ns, rows = self._main_ended
            if rows == self.rows.get("calls", 0):
                self._ended_ns = ended_ns

    def flush(self) -> None:
        """Write what has been recorded up to now."""
        if not self._state.off and os.getpid() == self._pid:
            try:
                self._device_times.read()
                self._flusher.flush(wait=True)
            except Exception as fault:
                self._fault(fault)

    def begin_span(self, name: str) -> int:
        """Open a range of the user's; its number, to end it with."""
        return self._ranges.begin(self._ranges.span(name)) if self._ranges is not None else NOT_OPENED

    def end_span(self, number: int, error: BaseException | None) -> None:
        """Close a range of the user's, on the thread that opened it."""
        if self._ranges is not None and self._ended_ns is None:
            self._ranges.end(number, error)

    def mark_step(self) -> None:
        """End a step here."""
        now = self._clock()
        if self._ranges is not None:
            self._ranges.mark_step()
        if self._profiling is not None:
            self._profiling.marked(now)

    def module_id_of(self, module: torch.nn.Module) -> int | None:
        """The number a living module has in this trace; None for one that was not seen."""
        return self._registry.number_of(module)

    @property
    def rows(self) -> dict[str, int]:
        """Rows written so far, by table."""
        return self._blocks.writer.rows

    @property
    def end_facts(self) -> dict[str, Any]:
        """What `end.json` says about the recording."""
        costs = self._blocks.costs
        backward_ns = self._backward.spent_ns if self._backward is not None else 0
        return {
            "ended_ns": self._clock() - self._origin_ns if self._ended_ns is None else self._ended_ns,
            "rows": dict(self._blocks.writer.rows),
            "devices": device_keys(),
            "gaps": self.gaps[:MOST_GAPS],
            "stopped": self._stopped,
            "children": self._children.facts(),
            "cost": {
                "calls_ns": self._blocks.calls * (costs.inside_ns + costs.outside_ns)
                + self._registry.spent_ns,
                "flush_ns": self._flusher.spent_ns,
                "backward_ns": backward_ns,
                "counting_ns": self._counting.spent_ns if self._counting is not None else 0,
                "device_ns": self._device_times.cost_ns + self._memory.spent_ns,
                "profiling_ns": self._profiling.spent_ns if self._profiling is not None else 0,
                "optimizers_ns": self._optimizers.spent_ns,
                "functions_ns": self._blocks.functions
                * (costs.function_inside_ns + costs.function_outside_ns),
            },
        }

    # hooks ------------------------------------------------------------------------------------------------------

    def _unregister(self) -> None:
        self._aside.remove()
        if self._functions is not None:
            self._functions.remove()
        if self._phases is not None:
            self._phases.remove()
        self._memory.remove()
        self._placed.remove()
        for lane in self._table.all:
            own_hooks.drop_all(lane)

    def _stands_in(self) -> bool:
        """Whether a mode of ours may be among the frames of an exception now."""
        return (self._counting is not None and self._counting.active) or (
            self._functions is not None and self._functions.active
        )

    def _more_rows(self) -> list[tuple[str, dict[str, list[Any]]]]:
        """Tables, and columns of their rows that are new."""
        rows = [("device_times", self._device_times.rows()), ("device_memory", self._memory.rows())]
        rows.append(("gaps", self._new_gaps()))
        rows.append(("parameters", self._optimizers.rows()))
        rows.append(("compilations", self._compilations.rows()))
        rows += self._counting.tables() if self._counting is not None else []
        if self._profiling is not None:
            rows += self._profiling.tables()
        return rows

    def _hide(self) -> None:
        if self._functions is not None and self._functions.active:
            # What is compiled is guarded on the function modes that are there: it must not find ours, now or later.
            self._functions.remove()
            self.gaps.append(STOPPED)
        if self._phases is not None:
            self._phases.hide()
        if self._counting is not None:
            self._counting.hide()
        self._placed.hide()

    def _show(self) -> None:
        if self._phases is not None:
            self._phases.show()
        if self._counting is not None:
            self._counting.show()
        self._placed.show()

    def before_fork(self) -> None:
        """Leave the process without a thread of ours, and nothing unwritten that such a thread would write."""
        self._children.forks(sys._getframe())
        self._watch.end()
        self._state.unwatched = True
        if any(lane.records for lane in self._table.all):
            self.flush()

    def _look_around(self) -> None:
        self._children.look()
        self._flusher.look()

    def _watch_again(self) -> None:
        self._state.unwatched = False
        self._watch.start()

    def abandon(self) -> None:
        """Let go in a forked child: nothing is recorded there and nothing is written."""
        self._state.off = True
        self._unregister()

    def _fault(self, fault: BaseException) -> None:
        """End the recording because of a fault of ours or of the disk; the program goes on."""
        if self._state.off:
            return
        self._state.off = True
        if self._counting is not None:
            self._counting.stop()
        if self._functions is not None:
            self._functions.remove()
        for lane in self._table.all:
            lane.calls.clear()
        if isinstance(fault, WriteError):
            reason, cause = str(fault), fault.cause
        else:
            cause = f"a fault of modtrace: {type(fault).__name__}"
            reason = f"recording was switched off by {cause}"
        self.gaps.append(reason)
        self._note_stop(reason, cause)
        if os.environ.get("MODTRACE_DEBUG"):
            traceback.print_exception(fault)
        self._warn(f"{reason}; the program goes on unrecorded")

    def _note_stop(self, reason: str, cause: str) -> None:
        """Say on disk that recording has ended, at once: the program may be killed before it comes to its end."""
        self._stopped = {
            "stopped_ns": self._clock() - self._origin_ns,
            "recorded_ns": self._blocks.written_ns,
            "reason": reason[:REASON_LIMIT],
            "cause": cause[:REASON_LIMIT],
        }
        try:
            write_json(self._folder, STOP_FILE, self._stopped)
        except Exception:  # the folder is gone; end.json has it too, where there is one
            pass

    def _warn(self, message: str) -> None:
        try:
            warnings.warn(f"modtrace: {message}", RuntimeWarning, stacklevel=3)
        except Warning:  # they are errors here
            pass


def running() -> list[Tracer]:
    """The tracers that are recording."""
    return list(_RUNNING)


def _before_fork() -> None:
    for tracer in list(_RUNNING):
        tracer.before_fork()


def _abandon_all() -> None:
    for tracer in list(_RUNNING):
        tracer.abandon()


os.register_at_fork(before=_before_fork, after_in_child=_abandon_all)
