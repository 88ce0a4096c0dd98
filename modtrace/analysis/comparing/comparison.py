"""Two sides compared: all that differs between a baseline and a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from modtrace.analysis.comparing.alignment import align
from modtrace.analysis.comparing.change_lines import ModuleTimes, StepChange, own_times, step_change
from modtrace.analysis.comparing.name_map import NameMap
from modtrace.analysis.comparing.plain_changes import (
    EnvironmentChange,
    NumberChange,
    StructureChange,
    environment_changes,
    number_changes,
    structure_changes,
)
from modtrace.analysis.comparing.run_numbers import (
    BACKWARD,
    FORWARD,
    MODULE_TIMES,
    STEP,
    SUBTREE,
    RunNumbers,
)
from modtrace.analysis.comparing.side import Side, SideTimes
from modtrace.analysis.comparing.time_changes import UNTOLD, TimeChange, enough_runs, time_changes
from modtrace.analysis.comparing.union_tree import UnionTree

NOISE: Final = 0.05
"""Changes of times by less than this are none, where nothing else is said."""


@dataclass(frozen=True)
class ModuleChange:
    """The times of one module of both sides: of its forward, its backward, on the device, and with all below it.

    number: its position in the union tree.
    name, path: without and with the name of its root.
    """

    number: int
    name: str
    path: str
    type: str
    times: dict[str, TimeChange]


class Comparison:
    """A baseline and a candidate. What is compared is worked out when it is asked for, once.

    Args:
        baseline, candidate: the runs of each side, one or more.
        names: what names of modules became.
        noise: changes of times by less than this are none: 0.05 is 5 %.
    """

    def __init__(
        self,
        baseline: Sequence[RunNumbers],
        candidate: Sequence[RunNumbers],
        *,
        names: NameMap | None = None,
        noise: float = NOISE,
    ) -> None:
        self.baseline, self.candidate = Side(baseline), Side(candidate)
        self.noise = noise
        self.alignment = align(self.baseline.forest, self.candidate.forest, names)
        self.tree = UnionTree(self.baseline.forest, self.candidate.forest, self.alignment)

    @property
    def runs(self) -> tuple[int, int]:
        """The number of runs of each side."""
        return len(self.baseline.runs), len(self.candidate.runs)

    @property
    def enough_runs(self) -> bool:
        """True if there are runs enough to tell a change of times from noise."""
        return enough_runs(*self.runs)

    @cached_property
    def environment(self) -> list[EnvironmentChange]:
        """Facts that differ."""
        return environment_changes(self.baseline, self.candidate)

    @cached_property
    def structure(self) -> list[StructureChange]:
        """Modules that differ."""
        return structure_changes(self.baseline, self.candidate, self.tree)

    @cached_property
    def numbers(self) -> list[NumberChange]:
        """Numbers that differ."""
        return number_changes(self.baseline, self.candidate, self.tree)

    @cached_property
    def step_names(self) -> list[str]:
        """`step`, and phases that took time in either side."""
        names = list(dict.fromkeys([*self.baseline.first.step_names, *self.candidate.first.step_names]))
        sides = [side.step_times(names) for side in (self.baseline, self.candidate)]
        took = [np.nan_to_num(side.most_ns) > 0 for side in sides]
        return [name for place, name in enumerate(names) if name == STEP or took[0][place] or took[1][place]]

    @cached_property
    def steps(self) -> dict[str, TimeChange]:
        """The step by itself, and its phases together."""
        names = self.step_names
        changes: dict[str, TimeChange] = {}
        for part in ([STEP], [name for name in names if name != STEP]):
            sides = self.baseline.step_times(part), self.candidate.step_times(part)
            changes.update(zip(part, time_changes(*sides, self.noise), strict=True))
        return changes

    @cached_property
    def modules(self) -> list[ModuleChange]:
        """The modules that both sides have; each kind of time is judged by itself, over all modules."""
        numbers = [number for number, module in enumerate(self.tree.modules) if module.pair is not None]
        by_kind: dict[str, list[TimeChange]] = {}
        for kind in MODULE_TIMES:
            sides = [self.side_times(which, kind, numbers) for which in (0, 1)]
            by_kind[kind] = time_changes(sides[0], sides[1], self.noise)
        return [
            ModuleChange(
                number,
                self.tree.name(number),
                self.tree.path(number),
                self.tree.type(number),
                {kind: changes[place] for kind, changes in by_kind.items()},
            )
            for place, number in enumerate(numbers)
        ]

    def places(self, which: int, quantity: str, numbers: Sequence[int]) -> list[int]:
        """Where modules of the union tree are in one side: the outermost wrapper around each, where there is one, but
        the module itself for SUBTREE, which is known of cores alone.
        """
        side = (self.baseline, self.candidate)[which]
        cores = [
            (self.tree.modules[number].baseline, self.tree.modules[number].candidate)[which]
            for number in numbers
        ]
        return cores if quantity == SUBTREE else [side.forest.outer[core] for core in cores]

    def side_times(self, which: int, kind: str, numbers: Sequence[int]) -> SideTimes:
        """A time of MODULE_TIMES of modules of the union tree that both sides have, in one of them."""
        side = (self.baseline, self.candidate)[which]
        return side.module_times(kind).rows(self.places(which, kind, numbers))

    @cached_property
    def outside(self) -> dict[str, TimeChange]:
        """The time of a step that is in no module, by what it is."""
        names = list(dict.fromkeys([*self.baseline.first.outside_names, *self.candidate.first.outside_names]))
        sides = self.baseline.outside_times(names), self.candidate.outside_times(names)
        return dict(zip(names, time_changes(*sides, self.noise), strict=True))

    @cached_property
    def step_change(self) -> StepChange | None:
        """The change of the step as lines that add up; None where the time of a step is not known in each run."""
        change_ns = self.steps[STEP].change_ns
        if change_ns is None:
            return None
        own = [own_times(side, side.module_times(SUBTREE)) for side in (self.baseline, self.candidate)]
        times: list[ModuleTimes | None] = [None] * len(self.tree)
        for module in self.modules:
            times[module.number] = self._line_times(module)
        names = list(self.outside)
        adds = [
            np.nan_to_num(spent.values_ns * spent.share)
            for spent in (self.baseline.outside_times(names), self.candidate.outside_times(names))
        ]
        outside = {
            name: (time, float(adds[1][place] - adds[0][place]))
            for place, (name, time) in enumerate(self.outside.items())
        }
        return step_change(change_ns, self.tree, times, (own[0], own[1]), outside)

    def _line_times(self, module: ModuleChange) -> ModuleTimes:
        """The change of a module, and where that cannot be told the larger one of its forward and backward."""
        whole, found = module.times[SUBTREE], ModuleTimes(module.times[SUBTREE])
        if whole.verdict != UNTOLD or not self.enough_runs:
            return found
        for part in (FORWARD, BACKWARD):
            if not module.times[part].changed:
                continue
            sides = [self.side_times(which, part, [module.number]) for which in (0, 1)]
            values = [float((side.values_ns * side.share)[0]) for side in sides]
            if abs(values[1] - values[0]) > abs(found.part_ns):
                found = ModuleTimes(whole, part, module.times[part], values[1] - values[0])
        return found

    @cached_property
    def notes(self) -> list[str]:
        """Remarks about the recordings, each once."""
        notes = dict.fromkeys(
            note for side in (self.baseline, self.candidate) for run in side.runs for note in run.notes
        )
        for name, side in (("baseline", self.baseline), ("candidate", self.candidate)):
            if not side.alike:
                notes[f"the runs of the {name} have different modules: those of the first are compared"] = (
                    None
                )
        return list(notes)
