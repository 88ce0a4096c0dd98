"""A trace that is open in the viewer: what each screen asks for, made once. No Textual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np

from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.flat_profile import FlatProfile, flat_profile
from modtrace.analysis.memory import Curve, Memory, curve, memory
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.nesting import root_calls
from modtrace.analysis.nonfinite import NonFinite, first_fault
from modtrace.analysis.outcome import Outcome, outcome
from modtrace.analysis.phases import Steps
from modtrace.analysis.recording_end import headline_of, why_nothing
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import MergedTree
from modtrace.text import plain
from modtrace.trace.arrow import give_back
from modtrace.trace.reader import Stored, folder_of_rank, open_trace
from modtrace.trace.schema import BACKWARD, FUNCTION, STEP, SUFFIX
from modtrace.units import duration, plural, size
from modtrace.views.models.boxes import Boxes, Icicle, callers, icicle
from modtrace.views.models.nodes import Ints
from modtrace.views.models.nonfinite_texts import nonfinite_lines
from modtrace.views.models.trees import MODES, PlacedTree, ProcessRows, grouped, grown

_WIDE: Final = 200
_KEPT: Final = 8
"""So many processes stay open."""


@dataclass(frozen=True)
class StepRows:
    """The rows of a step on the thread of the loop, as boxes over time. `owner` of a box is a row of the part."""

    boxes: Boxes
    start_ns: int
    end_ns: int


class ViewerModel:
    """A trace of one or several processes, and what has been worked out of those that were looked at.

    The calls of a process are opened when it is asked for. Those of the last few stay in memory, so that the files of
    the one that is shown may go.

    first: number of the process to look at first.
    """

    def __init__(self, path: Path, *, rank: int | None = None, max_memory_bytes: int | None = None) -> None:
        """Open the process of a rank, the last of them where it was restarted; the first where none is named.

        Raises:
            UsageError: the rank is not there.
            TraceError: it cannot be read.
        """
        self.path = path
        self.max_memory_bytes = max_memory_bytes
        self.trace: Stored = open_trace(path, max_memory_bytes=max_memory_bytes)
        self.folders = self.trace.folders()
        self.first = 0 if rank is None else self.folders.index(folder_of_rank(self.folders, rank))
        self._ranks: dict[int, Rank] = {}
        self._lock = Lock()
        self.rank(self.first)

    @property
    def processes(self) -> int:
        return len(self.folders)

    def rank(self, process: int) -> Rank:
        """One process of the trace, opened if it is not.

        Raises:
            TraceError: it cannot be read.
        """
        rank = self._ranks.get(process) or _opened(self.trace, self.folders[process])
        with self._lock:  # one is opened in the background while another is shown
            self._ranks.pop(process, None)
            self._ranks[process] = rank  # the last one that was asked for is the last
            for number in [*self._ranks][:-_KEPT]:
                del self._ranks[number]
        return rank

    def title(self, process: int) -> str:
        """Name of the trace, how it ended, model, steps, wall time and peak, as for the head of a screen."""
        rank = self.rank(process)
        name = plain(self.path.name).removesuffix(SUFFIX)
        parts = [name, plain(rank.outcome.state), plain(headline_of(rank.stored)), rank.model]
        parts.append(plural(len(rank.steps), "call" if rank.steps.by == "root" else "step"))
        parts.append(duration(rank.part.wall_ns))
        if rank.peak_bytes is not None:
            parts.append(f"peak {size(rank.peak_bytes)}")
        return "  ".join(part for part in parts if part)


def _opened(trace: Stored, folder: Path) -> Rank:
    """One process of a trace, which is whole in memory then."""
    stored = trace.alone(folder)
    timeline(stored)
    # The calls stay in the timeline. Without this a large trace takes twice the memory.
    stored.release()
    give_back()
    return Rank(stored, 0)


class Rank:
    """One process of an open trace: the only one of `stored`."""

    def __init__(self, stored: Stored, process: int) -> None:
        self.stored = stored
        self.process = process
        self.part = ProcessRows.of(stored, process)
        self._lock = Lock()
        self._groups: dict[str, MergedTree | None] = {}
        self._trees: dict[tuple[str, bool], PlacedTree] = {}
        self._boxes: dict[tuple[bool, bool], Icicle] = {}

    @property
    def notes(self) -> list[str]:
        """Gaps and faults of it, for people."""
        return [*self.stored.table("gaps").column("reason").to_pylist(), *self.stored.notes]

    @property
    def why_nothing(self) -> str:
        """The reason why there are no calls, in words."""
        return plain(why_nothing(self.stored.processes[self.part.process]))

    @property
    def steps(self) -> Steps:
        return timeline(self.stored).steps[self.process]

    def near_step(self, step: int, by: int) -> int:
        """The step that is so many behind another one (before it below 0) among those that are recorded."""
        numbers = np.flatnonzero(self.steps.recorded)
        if not len(numbers):
            return 0
        place = int(np.searchsorted(numbers, step)) + by
        return int(numbers[min(max(place, 0), len(numbers) - 1)])

    def profile(self, *, whole_run: bool = False) -> FlatProfile:
        """Where the time of the steps that count went, or that of the whole run."""
        return flat_profile(self.stored, self.process, whole_run=whole_run)

    def tree(self, mode: str, *, whole_run: bool = False) -> PlacedTree:
        """One of the trees of MODES."""
        if mode not in MODES:
            raise KeyError(mode)
        key = mode, whole_run
        with self._lock:  # trees are made ahead, in the background
            if key not in self._trees:
                if mode not in self._groups:
                    self._groups[mode] = grouped(self.part, mode)
                self._trees[key] = grown(self.part, self._groups[mode], whole_run=whole_run)
                give_back()
        return self._trees[key]

    @cached_property
    def outcome(self) -> Outcome:
        return outcome(self.stored, self.process)

    @cached_property
    def failure(self) -> Failure | None:
        """The exception that the process ended with; None for none, and for one that the program dealt with."""
        about = self.outcome
        if not about.failed or not about.state.startswith(("exit", "ended by")):
            return None
        failure = last_failure(self.stored)
        part = self.part
        elsewhere = failure is not None and failure.call >= 0 and not part.low <= failure.call < part.high
        return None if elsewhere else failure

    @cached_property
    def fault(self) -> NonFinite | None:
        """The first values that are not finite and should be, in this part; None for none."""
        fault = first_fault(self.stored)
        return fault if fault is not None and self.part.low <= fault.call < self.part.high else None

    @cached_property
    def nonfinite(self) -> list[str]:
        """Lines about them."""
        return [] if self.fault is None else nonfinite_lines(self.fault, _WIDE)

    @cached_property
    def failing_row(self) -> int:
        """The row of the part that the process ended in: of the call that raised, or was running; -1 for none."""
        row = self.failure.call if self.failure is not None else self.outcome.row
        if row < 0 and self.fault is not None:
            row = self.fault.call
        return row - self.part.low if self.part.low <= row < self.part.high else -1

    @cached_property
    def first_step(self) -> int:
        """The step to look at first: of those that count the median one, of a run that failed the one it failed in."""
        steps = self.steps
        if self.failure is not None and self.failure.step is not None and self.failure.step < len(steps):
            return self.failure.step
        if self.fault is not None and self.fault.step is not None and self.fault.step < len(steps):
            return self.fault.step
        counts = np.flatnonzero(chosen_steps(self.stored, self.process).steps)
        if not len(counts):
            return 0
        took = (steps.end - steps.start)[counts]
        return int(counts[np.argsort(took, kind="stable")[(len(counts) - 1) // 2]])

    @cached_property
    def model(self) -> str:
        """Class of the root module that is called most; "" where none is."""
        part = self.part
        roots = root_calls(part.column("kind"), part.column("last_call"), part.low)
        numbers = part.codes("module")[roots]
        if not len(numbers):
            return ""
        types = self.stored.table("modules").column("type").to_pylist()
        return plain(types[int(np.bincount(numbers).argmax())], 40)

    @cached_property
    def memory(self) -> list[tuple[Memory, Curve]]:
        """Each device of the process that was watched, and its curve."""
        devices = [
            device for device in memory(self.stored) if device.process == self.process and len(device.at_ns)
        ]
        return [(device, curve(device)) for device in devices]

    @property
    def peak_bytes(self) -> int | None:
        """The most that was held on one device; None where memory was not watched."""
        return max((int(line.held_bytes.max()) for _, line in self.memory), default=None)

    @cached_property
    def has_functions(self) -> bool:
        return bool((self.part.column("kind") == FUNCTION).any())

    def icicle(self, *, whole_run: bool = False, inverted: bool = False) -> Icicle:
        """The merged tree as boxes; `inverted` the other way round: what called what has self time."""
        key = whole_run, inverted
        if key not in self._boxes:
            nodes = self.tree("merged", whole_run=whole_run).nodes
            self._boxes[key] = icicle(callers(nodes) if inverted else nodes)
        return self._boxes[key]

    def row_named(self, name: str, class_name: str) -> int:
        """The first row of the part of a module, function or phase as tables name it, forward if there is one; -1 for
        none.
        """
        groups, part = folded(self.stored), self.part
        codes = [code for code in range(len(groups.name)) if groups.title(code) == name]
        codes = [code for code in codes if groups.type[code] in (class_name, "")]
        rows = np.flatnonzero(np.isin(groups.group[part.column("call")], codes))
        forward = rows[part.column("kind")[rows] != BACKWARD]
        chosen = forward if len(forward) else rows
        return int(chosen[0]) if len(chosen) else -1

    def rows_of_step(self, step: int) -> Ints:
        """Rows of the part that are in a step, on the thread of the loop."""
        steps = self.steps
        low, high = int(steps.start[step]), int(steps.end[step])
        start, thread = self.part.column("start_ns"), self.part.column("thread")
        number = steps.thread
        if number < 0:  # each root call is a step
            return np.arange(int(steps.first[step]), int(steps.last[step]) + 1)
        first, last = np.searchsorted(thread, [number, number + 1]).tolist()
        near = np.searchsorted(start[first:last], [low, high]).tolist()
        rows = np.arange(first + near[0], first + near[1])
        inside: Ints = rows[self.part.column("kind")[rows] != STEP]
        return inside

    def timeline_of(self, step: int) -> StepRows:
        """A step as boxes over time."""
        rows = self.rows_of_step(step)
        steps, part = self.steps, self.part
        if not len(rows):
            none = np.zeros(0, np.int64)
            return StepRows(Boxes(none, none, none, none, str), int(steps.start[step]), int(steps.end[step]))
        depth = part.column("depth")[rows]
        start = part.column("start_ns")[rows]
        took, known = part.values("duration_ns")
        end = start + np.where(known[rows], took[rows], 0)
        level = depth - int(depth.min())
        order = np.lexsort((start, level))
        nodes = self.tree("calls").nodes
        boxes = Boxes(level[order], start[order], end[order], rows[order], nodes.label)
        return StepRows(boxes, int(steps.start[step]), int(steps.end[step]))
