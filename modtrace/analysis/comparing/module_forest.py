"""The modules of a run as trees of names, wrapper levels dropped: what two runs are aligned by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.module_names import dotted

Shapes = tuple[tuple[str, tuple[int | None, ...]], ...]

ALWAYS_WRAPPED: Final = frozenset(
    {
        "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module",
        "base_layer", "original_module",
    }
)  # fmt: skip
"""Attributes by which wrappers of torch, FSDP, fairscale, Lightning and peft hold what they wrap, and nobody else."""
ALONE_WRAPPED: Final = frozenset({"module", "model", "base_model"})
"""Attributes that name a wrapped module where it is the only child of a module without parameters, or peft's."""
_MADE_CLASSES: Final = ("FSDP", "Parametrized")
"""Put by torch in front of the name of a class that it makes of a module's."""


@dataclass(frozen=True)
class NamedModule:
    """A module of a run.

    root: name of the root. name: FQN in it, "" for the root itself.
    type: class. package: Python module of the class.
    shapes: (name, shape) of its own parameters.
    """

    root: str
    name: str
    type: str
    package: str = ""
    shapes: Shapes = ()

    @property
    def full(self) -> str:
        """The name behind that of the root."""
        return dotted(self.root, self.name)


class ModuleForest:
    """Trees of modules. A module is known by its position.

    A *core* module is one that wraps no other. Where modules stand below each other is said of cores alone: those that
    a wrapper holds beside the module that it wraps, such as the adapters of peft, stand below the wrapped one.

    `parent` is the module above, `inner` the wrapped one (both -1 for none), `outer` the outermost of the wrappers of a
    core, else itself. `tops` are the cores at the top, `below` the cores below each core in order. `label` is the name
    of a core below its parent, of a top that of the root; `above` its parent (-1 for a top), `path` all labels from
    the top on.
    """

    def __init__(self, modules: Sequence[NamedModule]) -> None:
        self.modules = list(modules)
        self.parent, self.part = _places(self.modules)
        self.children: list[list[int]] = [[] for _ in self.modules]
        self._order = sorted(
            range(len(self.modules)), key=lambda number: self.modules[number].name.count(".")
        )
        for number, parent in enumerate(self.parent):
            if parent >= 0:
                self.children[parent].append(number)
        self.inner = [self._wrapped(number) for number in range(len(self.modules))]
        self.tops: list[int] = []
        self.below: list[list[int]] = [[] for _ in self.modules]
        self.label = [""] * len(self.modules)
        self.above = [-1] * len(self.modules)
        self.outer = list(range(len(self.modules)))
        self._place_cores()
        self.path = [""] * len(self.modules)
        for number in self.parents_first():
            up = self.above[number]
            self.path[number] = dotted(self.path[up], self.label[number]) if up >= 0 else self.label[number]
        self.size = [1] * len(self.modules)
        for number in reversed(self.parents_first()):
            self.size[number] += sum(self.size[child] for child in self.below[number])

    def __len__(self) -> int:
        return len(self.modules)

    def core(self, number: int) -> int:
        """The module that a chain of wrappers ends in; the module itself where it is none."""
        while self.inner[number] >= 0:
            number = self.inner[number]
        return number

    def short_path(self, number: int) -> str:
        """The path of a core, without the name of the root where there is one root alone."""
        root, path = self.modules[number].root, self.path[number]
        return path[len(root) + 1 :] if len(self.tops) == 1 and path.startswith(f"{root}.") else path

    def parents_first(self) -> list[int]:
        """The cores, each behind the one that it stands below."""
        order = list(self.tops)
        for number in order:  # grows while it is walked
            order.extend(self.below[number])
        return order

    def features(self, number: int) -> tuple[str, Shapes]:
        """The class and the shapes of the parameters of a module itself."""
        module = self.modules[number]
        return class_key(module), module.shapes

    def _wrapped(self, number: int) -> int:
        """The child that a module wraps, -1 for none."""
        module, children = self.modules[number], self.children[number]
        for child in children:
            part = self.part[child]
            alone = len(children) == 1 and not module.shapes
            if part in ALWAYS_WRAPPED or (
                part in ALONE_WRAPPED and (alone or module.package.startswith("peft."))
            ):
                return child
        return -1

    def _place_cores(self) -> None:
        for number in self._order:
            if self.parent[number] < 0:
                self._place(number, -1, self.modules[number].root)
        for below in self.below:
            if len(below) > 1 and all(self.label[child].isdecimal() for child in below):
                below.sort(key=lambda child: int(self.label[child]))

    def _place(self, number: int, above: int, label: str) -> None:
        """Put a module and all below it into the trees of cores."""
        waiting = [(number, above, label)]
        while waiting:
            outer, up, name = waiting.pop()
            core = self.core(outer)
            self.label[core], self.above[core], self.outer[core] = name, up, outer
            (self.below[up] if up >= 0 else self.tops).append(core)
            further: list[int] = []
            at = outer
            while self.inner[at] >= 0:
                further += [child for child in self.children[at] if child != self.inner[at]]
                at = self.inner[at]
            waiting += [(child, core, self.part[child]) for child in [*self.children[core], *further][::-1]]


def class_key(module: NamedModule) -> str:
    """The class of a module without what torch puts in front of the names of classes that it makes."""
    for prefix in _MADE_CLASSES:
        if module.type.startswith(prefix) and module.type != prefix and module.package.startswith("torch."):
            return module.type.removeprefix(prefix)
    return module.type


def _places(modules: Sequence[NamedModule]) -> tuple[list[int], list[str]]:
    """The module above each, -1 for none, and its name below that one."""
    number_of = {(module.root, module.name): number for number, module in enumerate(modules)}
    parents, parts = [], []
    for module in modules:
        parent, part = -1, module.name
        above = module.name
        while above:
            above = above.rpartition(".")[0]
            parent = number_of.get((module.root, above), -1)
            if parent >= 0:
                part = module.name[len(above) + 1 :] if above else module.name
                break
        parents.append(parent)
        parts.append(part)
    return parents, parts
