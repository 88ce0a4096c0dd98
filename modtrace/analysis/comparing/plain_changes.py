"""Changes without noise: of the environment, of the structure of models, and of numbers that each run has alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.comparing.alignment import MAPPED, MOVED, RENAMED
from modtrace.analysis.comparing.module_forest import class_key
from modtrace.analysis.comparing.run_numbers import MODULE_NUMBERS, RUN_NUMBERS, NumberFacts
from modtrace.analysis.comparing.side import Side
from modtrace.analysis.comparing.union_tree import UnionTree
from modtrace.analysis.module_names import fold

Range = tuple[int, int]
"""The least and the most of the runs of a side."""

OWN_NUMBERS: Final = ("calls", "operations")
"""Numbers of a module itself; the others hold those of all modules below it."""
STRUCTURE: Final = (
    "added", "removed", "renamed", "moved", "mapped", "wrapped", "class", "parameters", "dtype", "output",
)  # fmt: skip
"""Kinds of changes of the structure, in the order in which they are shown."""


@dataclass(frozen=True)
class EnvironmentChange:
    """A fact of the runs that differs; "" for one that is not known. Several values where the runs of a side differ."""

    name: str
    baseline: str
    candidate: str


@dataclass(frozen=True)
class StructureChange:
    """A change of modules: `what` is one of STRUCTURE.

    name: of the module in the candidate (in the baseline where it was removed), folded where several have it alike.
    type: its class.
    baseline, candidate: what it was and is: a name, a class, shapes; "" for nothing.
    modules: how many have it alike; of what was added or removed how many modules that is, all below it counted.
    confidence: of what was renamed or moved.
    """

    what: str
    name: str
    type: str
    baseline: str
    candidate: str
    modules: int
    confidence: float = 1.0


@dataclass(frozen=True)
class NumberChange:
    """A number of the step or run (`name` is ""), or of a module, that differs.

    baseline, candidate: least and most of the runs; None where it is not known in each.
    modules: how many modules have it alike.
    """

    name: str
    key: str
    baseline: Range | None
    candidate: Range | None
    modules: int = 1

    @property
    def facts(self) -> NumberFacts:
        """Title and unit of the number."""
        return MODULE_NUMBERS[self.key] if self.name else RUN_NUMBERS[self.key]


def environment_changes(baseline: Side, candidate: Side) -> list[EnvironmentChange]:
    """The facts that differ. One that a side does not tell, as an old trace or a baseline file, is left out."""
    changes = []
    for name in dict.fromkeys([*baseline.first.environment, *candidate.first.environment]):
        sides = [[value for value in side.facts(name) if value is not None] for side in (baseline, candidate)]
        if sides[0] and sides[1] and set(sides[0]) != set(sides[1]):
            changes.append(EnvironmentChange(name, " | ".join(sides[0]), " | ".join(sides[1])))
    return changes


def structure_changes(baseline: Side, candidate: Side, tree: UnionTree) -> list[StructureChange]:
    """The changes of modules, those that are alike as one."""
    singles = [*_unmatched(tree), *_paired(baseline, candidate, tree)]
    groups: dict[tuple[str, ...], list[StructureChange]] = {}
    for change in singles:
        texts = (
            (fold(change.baseline), fold(change.candidate))
            if change.what in (RENAMED, MOVED)
            else (change.baseline, change.candidate)
        )
        groups.setdefault((change.what, fold(change.name), change.type, *texts), []).append(change)
    joined = [_one_of(members) for members in groups.values()]
    return sorted(joined, key=lambda change: STRUCTURE.index(change.what))


def _one_of(members: Sequence[StructureChange]) -> StructureChange:
    first = members[0]
    if len(members) == 1:
        return first
    folded = first.what in (RENAMED, MOVED)
    return StructureChange(
        first.what,
        fold(first.name),
        first.type,
        fold(first.baseline) if folded else first.baseline,
        fold(first.candidate) if folded else first.candidate,
        sum(member.modules for member in members),
        min(member.confidence for member in members),
    )


def _unmatched(tree: UnionTree) -> Iterator[StructureChange]:
    """The topmost of the modules that one side alone has."""
    for number, module in enumerate(tree.modules):
        if module.pair is not None:
            continue
        above = tree.modules[module.parent] if module.parent >= 0 else None
        added = module.candidate >= 0
        if above is not None and above.pair is None and (above.candidate >= 0) == added:
            continue
        kind = tree.type(number)
        texts = ("", kind) if added else (kind, "")
        what = "added" if added else "removed"
        yield StructureChange(what, tree.name(number), kind, *texts, tree.inside(number))


def _paired(baseline: Side, candidate: Side, tree: UnionTree) -> Iterator[StructureChange]:
    for number, module in enumerate(tree.modules):
        pair = module.pair
        if pair is None:
            continue
        name, kind = tree.name(number), tree.type(number)
        if pair.how in (RENAMED, MOVED, MAPPED):
            old = baseline.forest.short_path(pair.baseline)
            yield StructureChange(pair.how, name, kind, old, name, 1, pair.confidence)
        for what, told in _FACTS.items():
            one, other = told(baseline, pair.baseline), told(candidate, pair.candidate)
            if one is not None and other is not None and one != other:
                yield StructureChange(what, name, kind, one, other, 1)


def _wrappers(side: Side, number: int) -> str:
    """The classes of the wrappers around a module, the outermost first."""
    at, classes = side.forest.outer[number], []
    while at != number:
        classes.append(side.forest.modules[at].type)
        at = side.forest.inner[at]
    return " > ".join(classes)


def _shapes(side: Side, number: int) -> str:
    shapes = side.forest.modules[number].shapes
    return ", ".join(
        f"{name}[{','.join('?' if size is None else str(size) for size in shape)}]" for name, shape in shapes
    )


_FACTS: Final[dict[str, Callable[[Side, int], str | None]]] = {
    "wrapped": _wrappers,
    "class": lambda side, number: class_key(side.forest.modules[number]),
    "parameters": _shapes,
    "dtype": lambda side, number: side.first.dtypes[number] or None,
    "output": lambda side, number: side.first.outputs[side.forest.outer[number]] or None,
}
"""Facts of a module that are compared; None where one is not known."""


def number_changes(baseline: Side, candidate: Side, tree: UnionTree) -> list[NumberChange]:
    """The numbers that differ: first those of the run, then those of modules that do not follow from others."""
    changes: list[NumberChange] = []
    for key in RUN_NUMBERS:
        one, other = _range(baseline.total(key)), _range(candidate.total(key))
        told = key == "parameter_bytes" and any(change.key == "parameters" for change in changes)
        if one is not None and other is not None and _apart(one, other) and not told:
            changes.append(NumberChange("", key, one, other))
    groups: dict[tuple[str, str, str, Range, Range], list[int]] = {}
    sized: set[int] = set()
    for key in MODULE_NUMBERS:
        for number, first, second in _of_modules(baseline, candidate, tree, key):
            if key == "parameters":
                sized.add(number)
            if key != "parameter_bytes" or number not in sized:
                group = key, fold(tree.name(number)), tree.type(number), first, second
                groups.setdefault(group, []).append(number)
    for (key, folded, _, first, second), members in groups.items():
        name = tree.name(members[0]) if len(members) == 1 else folded
        changes.append(NumberChange(name, key, first, second, len(members)))
    return changes


def _range(values: Sequence[int | None]) -> Range | None:
    known = [value for value in values if value is not None and value >= 0]
    return (min(known), max(known)) if len(known) == len(values) and known else None


def _apart(one: Range, other: Range) -> bool:
    """True if no run of one side has what a run of the other has."""
    return one[1] < other[0] or other[1] < one[0]


def _of_modules(
    baseline: Side, candidate: Side, tree: UnionTree, key: str
) -> Iterator[tuple[int, Range, Range]]:
    """The modules whose number differs, without those in which that follows from modules below or around."""
    values = baseline.module_numbers(key), candidate.module_numbers(key)
    ranges: dict[int, tuple[Range, Range]] = {}
    change: dict[int, int] = {}
    for number in range(len(tree) - 1, -1, -1):
        module = tree.modules[number]
        sides = [
            _range(values[side][forest.outer[at]].tolist()) if at >= 0 else (0, 0)
            for side, (forest, at) in enumerate(
                zip(tree.sides, (module.baseline, module.candidate), strict=True)
            )
        ]
        if sides[0] is not None and sides[1] is not None:
            change[number] = sides[1][0] - sides[0][0]
            if module.pair is not None:
                ranges[number] = (sides[0], sides[1])
        else:  # a list of modules, which is never called itself
            change[number] = sum(change[child] for child in module.below)
    for number in sorted(ranges):
        one, other = ranges[number]
        below = tree.modules[number].below
        above = ranges.get(tree.modules[number].parent)
        follows = (
            key == "calls"
            and above is not None
            and _apart(*above)
            and above[0][0] * other[0] == above[1][0] * one[0]
            if key in OWN_NUMBERS
            else bool(below) and sum(change[child] for child in below) == change[number]
        )
        if _apart(one, other) and not follows:
            yield number, one, other
