"""Numbers of modules that have died, for the next modules that cannot be told from them.

A program may make a model for every batch, or an activation in every forward: a hundred thousand modules that differ in
nothing but their address. Each batch of modules entered together (a tree, or what was added to one) has a structure:
where it is called, and class, facts and name of every module. When all of them have died after a short life, the next
modules of that structure take over their numbers, rows and entries. Two that live at the same time never share one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

from modtrace.capture.engine.tensor_guards import Entry

SHORT_LIFE: Final = 8
"""A module that has seen more root calls than that keeps its number for good: it was one of few, with a story."""
MANY_MODULES: Final = 256
"""Larger trees are made so slowly that a row each does no harm."""
MANY_FREE: Final = 4_000
"""Modules whose numbers are free at one time, at most; the structures freed first are forgotten first."""


class ModuleGroup:
    """Modules that were entered together.

    structure: equal for batches that cannot be told apart.
    entries: of its modules, in the order in which they were met.
    living: numbers of those that live.
    born: how many root calls there had been.
    rows: number -> last written row of `modules`.
    instances: how many batches have had these numbers.
    """

    __slots__ = ("born", "entries", "instances", "living", "rows", "structure")

    def __init__(self, structure: Hashable, entries: list[Entry], born: int) -> None:
        self.structure = structure
        self.entries = entries
        self.living = {entry.number for entry in entries}
        self.born = born
        self.rows: dict[int, dict[str, Any]] = {}
        self.instances = 1


class Successors:
    """The batches of one trace: those whose modules live, and those whose numbers are free. Not for two threads."""

    def __init__(self) -> None:
        self._of_number: dict[int, ModuleGroup] = {}
        self._free: OrderedDict[Hashable, list[ModuleGroup]] = OrderedDict()
        self._free_modules = 0
        self._again: dict[int, ModuleGroup] = {}

    def batch_of(self, number: int) -> ModuleGroup | None:
        """The batch a module was entered with; None for one whose number is not given again."""
        return self._of_number.get(number)

    def enter(self, structure: Hashable, entries: list[Entry], born: int) -> None:
        """Modules with new numbers have been entered."""
        batch = ModuleGroup(structure, entries, born)
        for entry in entries:
            self._of_number[entry.number] = batch

    def take(self, structure: Hashable, born: int) -> ModuleGroup | None:
        """A batch of that structure whose numbers are free, for modules that live from now on."""
        batches = self._free.get(structure)
        if not batches:
            return None
        batch = batches.pop()
        if not batches:
            del self._free[structure]
        self._free_modules -= len(batch.entries)
        batch.living = {entry.number for entry in batch.entries}
        batch.born = born
        batch.instances += 1
        self._again[id(batch)] = batch
        return batch

    def died(self, number: int, now: int) -> None:
        """A module has died; `now` is how many root calls there had been."""
        batch = self._of_number.get(number)
        if batch is None:
            return
        batch.living.discard(number)
        if batch.living:
            return
        if now - batch.born > SHORT_LIFE:
            self._forget(batch)
            return
        self._free.setdefault(batch.structure, []).append(batch)
        self._free_modules += len(batch.entries)
        while self._free_modules > MANY_FREE:
            _, oldest = self._free.popitem(last=False)
            for dropped in oldest:
                self._free_modules -= len(dropped.entries)
                self._forget(dropped)

    def changed(self, number: int) -> None:
        """Take note that a module is made of other parts now: the numbers of its batch are not given again."""
        batch = self._of_number.get(number)
        if batch is not None:
            self._forget(batch)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `modules` of the batches that have had more instances since the last time."""
        again, self._again = self._again, {}
        return [
            row | {"instances": batch.instances} for batch in again.values() for row in batch.rows.values()
        ]

    def _forget(self, batch: ModuleGroup) -> None:
        for entry in batch.entries:
            self._of_number.pop(entry.number, None)
