"""Likeness of two subtrees of modules, whatever they are called."""

from __future__ import annotations

from collections import Counter

from modtrace.analysis.comparing.module_forest import ModuleForest


class SubtreeLikeness:
    """The likeness of subtrees of two forests. `subtree` is one number for equal ones, names left out.

    Args:
        forests: both.
    """

    def __init__(self, *forests: ModuleForest) -> None:
        numbers: dict[object, int] = {}
        self.forests = forests
        self._features = [[-1] * len(forest) for forest in forests]
        self.subtree = [[-1] * len(forest) for forest in forests]
        for side, forest in enumerate(forests):
            for number in reversed(forest.parents_first()):
                features = forest.features(number)
                self._features[side][number] = numbers.setdefault(features, len(numbers))
                key = (features, tuple(self.subtree[side][child] for child in forest.below[number]))
                self.subtree[side][number] = numbers.setdefault(key, len(numbers))
        self._counted: list[dict[int, Counter[int]]] = [{} for _ in forests]

    def contents(self, side: int, number: int) -> Counter[int]:
        """Kinds of modules (class and shapes) in a subtree with how many there are of each."""
        known = self._counted[side]
        if number not in known:
            forest, waiting, counted = self.forests[side], [number], Counter[int]()
            while waiting:
                at = waiting.pop()
                counted[self._features[side][at]] += 1
                waiting += forest.below[at]
            known[number] = counted
        return known[number]

    def likeness(self, baseline: int, candidate: int) -> float:
        """The likeness of two subtrees, names left out: 1 for equal ones, 0 for nothing in common."""
        if self.subtree[0][baseline] == self.subtree[1][candidate]:
            return 1.0
        one, other = self.contents(0, baseline), self.contents(1, candidate)
        common = sum((one & other).values())
        shared = 2 * common / (sum(one.values()) + sum(other.values()))
        first, second = self.forests[0].features(baseline), self.forests[1].features(candidate)
        of_class = 0.2 * (first[0] == second[0])
        if not first[1] and not second[1]:
            return of_class + 0.8 * shared
        return of_class + 0.3 * (first[1] == second[1]) + 0.5 * shared
