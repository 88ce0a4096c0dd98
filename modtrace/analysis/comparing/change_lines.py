"""The change of a step as lines that add up: one for the smallest subtree of modules that explains each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.comparing.module_forest import ModuleForest
from modtrace.analysis.comparing.side import Side, SideTimes
from modtrace.analysis.comparing.time_changes import TimeChange
from modtrace.analysis.comparing.union_tree import UnionTree
from modtrace.analysis.module_names import fold

Floats = npt.NDArray[np.float64]

EXPLAINED: Final = 0.7
"""A module is named where those in it that are named already explain less of its change than this."""
ALL_ALIKE: Final = 0.8
"""A module is named in the place of its children where so much of their time has changed in the same way."""


@dataclass(frozen=True)
class ChangeLine:
    """A part of the change of a step.

    name: of a module, of several repeats of one (`h.*.mlp`), or of what is in no module (`optimizer`).
    type: class of the module; "" for others.
    modules: how many repeats.
    change_ns: how much it adds to the step, other lines in it left out.
    time: the change of its own time a step, of one of the repeats.
    rest: other lines are inside of it.
    nodes: its modules, as positions in the union tree; empty for others.
    part: `forward` or `backward` where that alone can be told; `change_ns` and `time` are of it.
    """

    name: str
    type: str
    modules: int
    change_ns: int
    time: TimeChange
    rest: bool
    nodes: tuple[int, ...]
    part: str = ""


@dataclass(frozen=True)
class ModuleTimes:
    """The changes of a module that a line may be made of.

    whole: of its time with all below it.
    part, part_time, part_ns: its forward or its backward where that has changed and the whole cannot be told; by how
        much it changes a step. "", None and 0 where there is none.
    """

    whole: TimeChange
    part: str = ""
    part_time: TimeChange | None = None
    part_ns: float = 0.0

    @property
    def told(self) -> TimeChange | None:
        """The change that is told of it, None where none is."""
        return self.whole if self.whole.changed else self.part_time


@dataclass(frozen=True)
class StepChange:
    """The change of the step. `change_ns` of all lines, `unmatched_ns` and `other_ns` add up to `change_ns`.

    lines: the largest first.
    unmatched_ns: modules that one side alone has.
    other_ns: all else: what is the same, what cannot be told from noise, and what medians leave over.
    """

    change_ns: int
    lines: list[ChangeLine]
    unmatched_ns: int
    other_ns: int


def own_times(side: Side, times: SideTimes) -> Floats:
    """Of each core module what it adds to a step without those below it, 0 where that is not known."""
    spent = np.nan_to_num(times.values_ns * times.share)
    own = spent.copy()
    forest: ModuleForest = side.forest
    for number in forest.parents_first():
        above = forest.above[number]
        if above >= 0:
            own[above] -= spent[number]
    return own


class _Explanation:
    def __init__(
        self, tree: UnionTree, times: Sequence[ModuleTimes | None], own: tuple[Floats, Floats]
    ) -> None:
        self.tree, self.times = tree, times
        self.change = np.zeros(len(tree))
        self.size = np.zeros(len(tree))
        for number, module in enumerate(tree.modules):
            one = own[0][module.baseline] if module.baseline >= 0 else 0.0
            other = own[1][module.candidate] if module.candidate >= 0 else 0.0
            self.change[number], self.size[number] = other - one, max(one, other, 0.0)
        self.unmatched = np.array([module.pair is None for module in tree.modules], np.bool_)
        self.of_lines: dict[int, float] = {}
        """Change of each module that is named, without what is named inside."""
        self.inner: dict[int, bool] = {}
        self.matched = np.where(self.unmatched, 0.0, self.change)
        """Of a module with all that both sides have in it."""
        self.apart = np.where(self.unmatched, self.change, 0.0)
        """Of what one side alone has in it."""
        self.total = self.size.copy()
        self._named: list[list[int]] = [[] for _ in tree.modules]

    def named(self) -> list[int]:
        """The modules that have a line."""
        modules = self.tree.modules
        for number in range(len(modules) - 1, -1, -1):
            for child in modules[number].below:
                self.matched[number] += self.matched[child]
                self.apart[number] += self.apart[child]
                self.total[number] += self.total[child]
            below = [name for child in modules[number].below for name in self._named[child]]
            self._named[number] = self._judged(number, below)
        return [name for top in self.tree.tops for name in self._named[top]]

    def _judged(self, number: int, below: list[int]) -> list[int]:
        times = self.times[number]
        if times is None or times.told is None:
            return below
        if not times.whole.changed:
            return self._part_judged(number, times.part_ns, below)
        if self._all_alike(number, times.whole.verdict):
            for name in below:
                del self.of_lines[name]
            below = []
        whole = float(self.matched[number] + self.apart[number])
        told = sum(self.of_lines[name] for name in below) + float(self.apart[number])
        if (below or self.apart[number]) and whole * told > 0 and abs(told) >= EXPLAINED * abs(whole):
            return below
        self.of_lines[number] = float(self.matched[number]) - sum(self.of_lines[name] for name in below)
        self.inner[number] = bool(below)
        return [*below, number]

    def _part_judged(self, number: int, part_ns: float, below: list[int]) -> list[int]:
        """The lines in a module of which a part alone has changed: its own, unless those below explain it."""
        told = sum(self.of_lines[name] for name in below)
        if below and part_ns * told > 0 and abs(told) >= EXPLAINED * abs(part_ns):
            return below
        self.of_lines[number] = part_ns - told
        self.inner[number] = bool(below)
        return [*below, number]

    def _all_alike(self, number: int, verdict: str) -> bool:
        """Two children or more that have nearly all of the time have changed in the same way, each as a whole."""
        children = self.tree.modules[number].below
        alike = [
            child
            for child in children
            if self._named[child] == [child]
            and (times := self.times[child])
            and times.whole.verdict == verdict
        ]
        time_ns = sum(float(self.total[child]) for child in alike)
        return len(alike) > 1 and time_ns >= ALL_ALIKE * float(self.total[number]) > 0


def step_change(
    change_ns: int,
    tree: UnionTree,
    times: Sequence[ModuleTimes | None],
    own: tuple[Floats, Floats],
    outside: Mapping[str, tuple[TimeChange, float]],
) -> StepChange:
    """The change of a step, explained.

    Args:
        change_ns: of the step.
        tree: the modules of both sides.
        times: of each module; None for one that one side alone has.
        own: see `own_times`, of each side.
        outside: of what is in no module: the change of its time, and by how much it changes a step.
    """
    explanation = _Explanation(tree, times, own)
    named = explanation.named()
    lines = _folded(tree, named, explanation, times)
    for name, (time, adds) in outside.items():
        if time.changed:
            lines.append(ChangeLine(name, "", 1, round(adds), time, rest=False, nodes=()))
    lines.sort(key=lambda line: -abs(line.change_ns))
    unmatched_ns = round(float(explanation.change[explanation.unmatched].sum()))
    other_ns = change_ns - unmatched_ns - sum(line.change_ns for line in lines)
    return StepChange(change_ns, lines, unmatched_ns, other_ns)


def _folded(
    tree: UnionTree, named: Sequence[int], explanation: _Explanation, times: Sequence[ModuleTimes | None]
) -> list[ChangeLine]:
    """A line for each group of repeats that have changed in the same way."""
    groups: dict[tuple[str, str, str, str, bool], list[int]] = {}
    for number in named:
        of_module = times[number]
        assert of_module is not None
        assert of_module.told is not None
        part = "" if of_module.whole.changed else of_module.part
        key = (
            fold(tree.name(number)),
            tree.type(number),
            of_module.told.verdict,
            part,
            explanation.inner[number],
        )
        groups.setdefault(key, []).append(number)
    lines = []
    for (name, kind, _, part, rest), members in groups.items():
        changes = [explanation.of_lines[number] for number in members]
        of_module = times[members[int(np.argsort(changes)[len(changes) // 2])]]
        assert of_module is not None
        assert of_module.told is not None
        shown = tree.name(members[0]) if len(members) == 1 else name
        line = ChangeLine(
            shown, kind, len(members), round(sum(changes)), of_module.told, rest, tuple(members), part
        )
        lines.append(line)
    return lines
