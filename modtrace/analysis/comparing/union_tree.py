"""The modules of both sides as one tree: pairs, and those that one side alone has."""

from __future__ import annotations

from dataclasses import dataclass, field

from modtrace.analysis.comparing.alignment import Alignment, Pair
from modtrace.analysis.comparing.module_forest import ModuleForest


@dataclass
class UnionModule:
    """A module of both sides, or of one: `baseline`, `candidate` are its positions there, -1 for none."""

    baseline: int
    candidate: int
    pair: Pair | None
    parent: int = -1
    below: list[int] = field(default_factory=list)


class UnionTree:
    """Modules of both sides, parents before children. A pair stands where the candidate has it.

    Args:
        baseline, candidate: modules of the sides.
        alignment: which of them are the same.
    """

    def __init__(self, baseline: ModuleForest, candidate: ModuleForest, alignment: Alignment) -> None:
        self.sides = (baseline, candidate)
        self.alignment = alignment
        pair_of = {pair.candidate: pair for pair in alignment.pairs}
        self.modules: list[UnionModule] = []
        place: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for number in candidate.parents_first():
            pair = pair_of.get(number)
            one = pair.baseline if pair is not None else -1
            self._add(UnionModule(one, number, pair, place[1].get(candidate.above[number], -1)))
            place[1][number] = len(self.modules) - 1
            if one >= 0:
                place[0][one] = len(self.modules) - 1
        removed = set(alignment.removed)
        for number in baseline.parents_first():
            if number in removed:
                self._add(UnionModule(number, -1, None, place[0].get(baseline.above[number], -1)))
                place[0][number] = len(self.modules) - 1
        self.tops = [number for number, module in enumerate(self.modules) if module.parent < 0]

    def _add(self, module: UnionModule) -> None:
        if module.parent >= 0:
            self.modules[module.parent].below.append(len(self.modules))
        self.modules.append(module)

    def __len__(self) -> int:
        return len(self.modules)

    def _side_of(self, number: int) -> tuple[ModuleForest, int]:
        """The forest that a module is named in, and its position there: that of the candidate where it is in both."""
        module = self.modules[number]
        if module.candidate >= 0:
            return self.sides[1], module.candidate
        return self.sides[0], module.baseline

    def name(self, number: int) -> str:
        """The name of a module, without wrapper levels: without its root where there is one root alone."""
        forest, at = self._side_of(number)
        return forest.short_path(at)

    def path(self, number: int) -> str:
        """The name of a module behind that of its root, without wrapper levels."""
        forest, at = self._side_of(number)
        return forest.path[at]

    def type(self, number: int) -> str:
        """The class of a module."""
        forest, at = self._side_of(number)
        return forest.modules[at].type

    def inside(self, number: int) -> int:
        """Modules below it and itself."""
        inside = [number]
        for at in inside:  # grows while it is walked
            inside.extend(self.modules[at].below)
        return len(inside)
