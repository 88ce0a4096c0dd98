"""A trace that is open in the viewer: what each screen asks for, made once. No Textual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from modtrace.analysis.around import root_calls
from modtrace.analysis.cut import headline_of, why_nothing
from modtrace.analysis.memory import Curve, Memory, curve, memory
from modtrace.analysis.phases import Steps
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.arrow import give_back
from modtrace.trace.reader import Stored, open_trace
from modtrace.trace.schema import FUNCTION, STEP, SUFFIX
from modtrace.units import duration, plural, size
from modtrace.views.tui.boxes import Boxes, Icicle, callers, icicle
from modtrace.views.tui.nodes import Ints
from modtrace.views.tui.trees import MODES, Part, Placed, grown


@dataclass(frozen=True)
class StepRows:
    """The rows of a step on the thread of the loop, as boxes over time. `owner` of a box is a row of the part."""

    boxes: Boxes
    start_ns: int
    end_ns: int


class Opened:
    """A trace and what has been worked out of it. Everything stays in memory, so that the files may go."""

    def __init__(self, path: Path, *, max_memory_bytes: int | None = None) -> None:
        self.path = path
        self.max_memory_bytes = max_memory_bytes
        self.stored: Stored = open_trace(path, max_memory_bytes=max_memory_bytes)
        timeline(self.stored)
        # The calls stay in the timeline. Without this a large trace takes twice the memory.
        self.stored.release()
        give_back()
        self._ranks: dict[int, Rank] = {}

    @property
    def processes(self) -> int:
        return len(self.stored.processes)

    @property
    def notes(self) -> list[str]:
        """What is missing or wrong, for people."""
        return [*self.stored.table("gaps").column("reason").to_pylist(), *self.stored.notes]

    def rank(self, process: int) -> Rank:
        """One process of the trace."""
        if process not in self._ranks:
            self._ranks[process] = Rank(self.stored, process)
        return self._ranks[process]

    def title(self, process: int) -> str:
        """Name of the trace, model, steps, wall time and peak, as for the head of a screen."""
        rank = self.rank(process)
        name = plain(self.path.name).removesuffix(SUFFIX)
        parts = [name, plain(headline_of(self.stored, process)), rank.model, plural(len(rank.steps), "step")]
        parts.append(duration(rank.part.wall_ns))
        if rank.peak_bytes is not None:
            parts.append(f"peak {size(rank.peak_bytes)}")
        return "  ".join(part for part in parts if part)


class Rank:
    """One process of an open trace."""

    def __init__(self, stored: Stored, process: int) -> None:
        self.stored = stored
        self.process = process
        self.part = Part.of(stored, process)
        self._trees: dict[str, Placed] = {}

    @property
    def why_nothing(self) -> str:
        """What is to be said where there are no calls."""
        return plain(why_nothing(self.stored.processes[self.part.process]))

    @property
    def steps(self) -> Steps:
        return timeline(self.stored).steps[self.process]

    def tree(self, mode: str) -> Placed:
        """One of the trees of MODES."""
        if mode not in MODES:
            raise KeyError(mode)
        if mode not in self._trees:
            self._trees[mode] = grown(self.part, mode)
            give_back()
        return self._trees[mode]

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
        mine = [held for held in memory(self.stored) if held.process == self.process and len(held.at_ns)]
        return [(held, curve(held)) for held in mine]

    @property
    def peak_bytes(self) -> int | None:
        """The most that was held on one device; None where memory was not watched."""
        return max((int(line.held_bytes.max()) for _, line in self.memory), default=None)

    @cached_property
    def has_functions(self) -> bool:
        return bool((self.part.column("kind") == FUNCTION).any())

    @cached_property
    def icicle(self) -> Icicle:
        """The merged tree as boxes."""
        return icicle(self.tree("merged").nodes)

    @cached_property
    def callers(self) -> Icicle:
        """The merged tree the other way round, as boxes."""
        return icicle(callers(self.tree("merged").nodes))

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
