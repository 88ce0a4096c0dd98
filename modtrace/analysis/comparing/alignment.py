"""Modules of one run that are those of another: by name, else by class, parameter shapes and place among siblings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.comparing.module_forest import ModuleForest
from modtrace.analysis.comparing.name_map import NameMap
from modtrace.analysis.comparing.sequences import aligned_sequences
from modtrace.analysis.comparing.subtree_likeness import SubtreeLikeness

SAME, RENAMED, MOVED, MAPPED = "same", "renamed", "moved", "mapped"
LEAST_LIKENESS: Final = 0.5
"""From so much on two modules of unlike names are taken for one."""
_NEAR: Final = 0.05
"""Candidates that are no less alike than that make a choice doubtful."""
_MANY_CANDIDATES: Final = 40_000
_LEVELS: Final = 2
"""So many levels may have been put in, or taken out, between two modules."""


@dataclass(frozen=True)
class Pair:
    """A module of the baseline and the same one of the candidate.

    how: `same`: it has the same name below the same module. `renamed`: another name below the same module. `moved`: it
        stands below another one. `mapped`: a map of names says so.
    confidence: 1 for sure; of one that is renamed or moved the share of the modules in both subtrees that are alike,
        divided by the number of candidates that fit as well.
    """

    baseline: int
    candidate: int
    how: str
    confidence: float


@dataclass(frozen=True)
class Alignment:
    """Pairs of modules, and the modules of either side without one. Wrappers are in none of them."""

    pairs: list[Pair]
    removed: list[int]
    added: list[int]


def align(baseline: ModuleForest, candidate: ModuleForest, names: NameMap | None = None) -> Alignment:
    """Pair the modules of two runs.

    Args:
        baseline, candidate: their modules.
        names: what the names of modules of the baseline became, as far as that is told.
    """
    return _Aligner(baseline, candidate, names or NameMap(())).aligned()


class _Aligner:
    def __init__(self, baseline: ModuleForest, candidate: ModuleForest, names: NameMap) -> None:
        self.sides = (baseline, candidate)
        self.shared = SubtreeLikeness(baseline, candidate)
        self.names = names
        self.partner: tuple[list[int], list[int]] = ([-1] * len(baseline), [-1] * len(candidate))
        self.mapped: set[int] = set()
        self.confidence: dict[int, float] = {}
        self.paired: list[int] = []

    def aligned(self) -> Alignment:
        self._by_map()
        self._by_name()
        self._by_unique_subtree()
        self._from_the_top()
        self._what_is_left()
        baseline, candidate = self.sides
        pairs = [
            Pair(number, self.partner[0][number], how := self._how(number), self._sureness(number, how))
            for number in baseline.parents_first()
            if self.partner[0][number] >= 0
        ]
        return Alignment(
            pairs,
            [number for number in baseline.parents_first() if self.partner[0][number] < 0],
            [number for number in candidate.parents_first() if self.partner[1][number] < 0],
        )

    def _how(self, number: int) -> str:
        baseline, candidate = self.sides
        other = self.partner[0][number]
        if number in self.mapped:
            return MAPPED
        above, other_above = baseline.above[number], candidate.above[other]
        if (self.partner[0][above] if above >= 0 else -1) != other_above:
            return MOVED
        return SAME if baseline.label[number] == candidate.label[other] else RENAMED

    def _sureness(self, number: int, how: str) -> float:
        return 1.0 if how in (SAME, MAPPED) else self.confidence.get(number, 1.0)

    def _pair(self, number: int, other: int, confidence: float = 1.0) -> None:
        self.partner[0][number], self.partner[1][other] = other, number
        self.confidence[number] = confidence
        self.paired.append(number)

    def _free(self, side: int, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if self.partner[side][number] < 0]

    def _pair_subtrees(self, number: int, other: int, confidence: float = 1.0) -> None:
        """Pair two subtrees of equal shape, module by module."""
        baseline, candidate = self.sides
        waiting = [(number, other)]
        while waiting:
            first, second = waiting.pop()
            if self.partner[0][first] >= 0 or self.partner[1][second] >= 0:
                continue
            self._pair(first, second, confidence)
            ones, others = baseline.below[first], candidate.below[second]
            by_label = {candidate.label[child]: child for child in others}
            named = [by_label.get(baseline.label[child], -1) for child in ones]
            subtree = self.shared.subtree
            if all(
                child >= 0 and subtree[0][one] == subtree[1][child]
                for one, child in zip(ones, named, strict=True)
            ):
                others = named
            waiting += zip(ones, others, strict=True)

    def _by_map(self) -> None:
        baseline, candidate = self.sides
        if not self.names:
            return
        by_name = {
            name: number
            for number in candidate.parents_first()
            for name in (
                candidate.modules[number].full,
                candidate.modules[number].name,
                candidate.path[number],
            )
        }
        for number in baseline.parents_first():
            module = baseline.modules[number]
            for name in dict.fromkeys((module.full, module.name, baseline.path[number])):
                new = self.names.renamed(name)
                other = by_name.get(new, -1) if new is not None else -1
                if other >= 0 and self.partner[1][other] < 0 and self.partner[0][number] < 0:
                    self._pair(number, other)
                    self.mapped.add(number)

    def _by_name(self) -> None:
        """Subtrees of one path that are alike in all but their labels."""
        baseline, candidate = self.sides
        by_path: dict[str, list[int]] = {}
        for number in candidate.parents_first():
            by_path.setdefault(candidate.path[number], []).append(number)
        for number in baseline.parents_first():
            others = self._free(
                1, by_path.get(baseline.path[number], [])
            )  # modules that were made anew share a name
            if others and self.shared.subtree[0][number] == self.shared.subtree[1][others[0]]:
                self._pair_subtrees(number, others[0])

    def _by_unique_subtree(self) -> None:
        """Subtrees of several modules with parameters of which each side has one alone, wherever they stand."""
        free = [self._free(side, forest.parents_first()) for side, forest in enumerate(self.sides)]
        places: list[dict[int, list[int]]] = [{}, {}]
        for side, numbers in enumerate(free):
            for number in numbers:
                if self.sides[side].size[number] > 1:
                    places[side].setdefault(self.shared.subtree[side][number], []).append(number)
        for subtree, numbers in sorted(places[0].items(), key=lambda entry: -self.sides[0].size[entry[1][0]]):
            others = places[1].get(subtree, [])
            if len(numbers) == len(others) == 1 and self._has_parameters(numbers[0]):
                self._pair_subtrees(numbers[0], others[0])

    def _has_parameters(self, number: int) -> bool:
        waiting = [number]
        while waiting:
            at = waiting.pop()
            if self.sides[0].modules[at].shapes:
                return True
            waiting += self.sides[0].below[at]
        return False

    def _from_the_top(self) -> None:
        """Children of each pair of modules, the pairs above them first."""
        baseline, candidate = self.sides
        self._pair_children(baseline.tops, candidate.tops)
        for number in self.paired:  # grows while it is walked
            self._pair_children(baseline.below[number], candidate.below[self.partner[0][number]])

    def _pair_children(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Pair the children of two modules that are one."""
        baseline, candidate = self.sides
        if not self._free(0, ones) or not others:
            return
        labels = [baseline.label[number] for number in ones] + [candidate.label[number] for number in others]
        if all(label.isdecimal() for label in labels):
            self._by_sequence(ones, others)
        else:
            self._by_label(ones, others, alike=True)
        self._by_likeness(self._free(0, ones), self._free(1, others))
        self._by_label(ones, others, alike=False)

    def _by_label(self, ones: Sequence[int], others: Sequence[int], *, alike: bool) -> None:
        """Children of one label; with `alike` only those of one class, or that have much in common."""
        baseline, candidate = self.sides
        by_label: dict[str, list[int]] = {}
        for number in self._free(1, others)[::-1]:
            by_label.setdefault(candidate.label[number], []).append(number)
        for number in self._free(0, ones):
            named = by_label.get(baseline.label[number], [])
            if not named:
                continue
            other = named[-1]
            same_class = baseline.features(number)[0] == candidate.features(other)[0]
            if not alike or same_class or self.shared.likeness(number, other) >= LEAST_LIKENESS:
                self._pair(number, named.pop())

    def _by_sequence(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """Children whose names are numbers: the best pairing that keeps their order."""
        baseline, candidate = self.sides

        def score(number: int, other: int) -> float:
            if self.partner[0][number] >= 0 or self.partner[1][other] >= 0:
                return 2.0 if self.partner[0][number] == other else -1.0
            named_alike = baseline.label[number] == candidate.label[other]
            if baseline.features(number)[0] != candidate.features(other)[0]:
                return -1.0
            alike = self.shared.likeness(number, other)
            return alike + 0.01 * named_alike if named_alike or alike >= LEAST_LIKENESS else -1.0

        for number, other in aligned_sequences(ones, others, score, lambda: _by_place(ones, others)):
            if self.partner[0][number] < 0 and self.partner[1][other] < 0:
                self._pair(number, other, min(self.shared.likeness(number, other), 1.0))

    def _by_likeness(self, ones: Sequence[int], others: Sequence[int]) -> None:
        """The children that are most alike, also where a level has been put in or taken out between."""
        candidates = [(number, other, 0) for number in ones for other in others]
        for levels in range(1, _LEVELS + 1):
            if len(candidates) > _MANY_CANDIDATES:
                return
            lower, other_lower = self._levels_below(0, ones, levels), self._levels_below(1, others, levels)
            candidates += [(number, other, levels) for number in ones for other in other_lower]
            candidates += [(number, other, levels) for number in lower for other in others]
        self._take_best(candidates)

    def _levels_below(self, side: int, numbers: Sequence[int], levels: int) -> list[int]:
        """Free modules, no leaves, so many levels below some."""
        forest, lower = self.sides[side], list(numbers)
        for _ in range(levels):
            lower = [child for number in lower for child in forest.below[number]]
        return [number for number in self._free(side, lower) if forest.below[number]]

    def _take_best(self, candidates: Sequence[tuple[int, int, int]]) -> None:
        """Pair the most alike, one after another; of equals the first in order."""
        likeness = {
            (one, other): self.shared.likeness(one, other) - 0.02 * levels
            for one, other, levels in candidates
        }
        for (one, other), alike in sorted(likeness.items(), key=lambda entry: -entry[1]):
            if alike < LEAST_LIKENESS:
                break
            if self.partner[0][one] < 0 and self.partner[1][other] < 0:
                as_good = [
                    rival
                    for (first, rival), value in likeness.items()
                    if first == one and value >= alike - _NEAR and self.partner[1][rival] < 0
                ]
                self._pair(one, other, max(alike, 0.0) / max(len(as_good), 1))

    def _what_is_left(self) -> None:
        """Subtrees with parameters that stand elsewhere now; of several that are equal the first in order."""
        places: dict[int, list[int]] = {}
        for number in self._free(1, self.sides[1].parents_first()):
            places.setdefault(self.shared.subtree[1][number], []).append(number)
        for number in self._free(0, self.sides[0].parents_first()):
            others = self._free(1, places.get(self.shared.subtree[0][number], []))
            if others and self.partner[0][number] < 0 and self._has_parameters(number):
                self._pair_subtrees(number, others[0], 1 / len(others))


def _by_place(ones: Sequence[int], others: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(ones, others, strict=False))
