"""Registry of modules: numbers, names and facts of the modules of one trace.

A module is known by its `id`, held together with a weak reference that takes the entry out when the module dies (ids
are reused at once). Nothing is stored on a module, nothing of it is compared, hashed or asked for its truth, and its
children and parameters are read from its raw `__dict__`, past any `__getattr__` or property of the class.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import class_name
from modtrace.capture.engine.module_facts import (
    ClassFacts,
    children,
    class_facts,
    is_lazy,
    module_facts,
    module_row,
    subtree_totals,
    tensors_of,
)
from modtrace.capture.engine.successors import MANY_MODULES, Successors
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.torch_private.names import CALL_CODE
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

Module = torch.nn.Module

MAX_ALIASES: Final = 64
MANY_CLASSES: Final = 10_000
MAX_REFRESHES: Final = 32
"""A tree that grows for ever (a new module every step) is not read again for ever."""


class _Tree:
    """The names below one top module: number -> FQN, as last walked."""

    __slots__ = ("aliases", "names", "top", "wait", "walks")

    def __init__(self, top: int) -> None:
        self.top = top
        self.names: dict[int, str] = {}
        self.aliases: dict[int, list[str]] = {}
        self.walks = 0
        self.wait = 0


Place = tuple[str, int, int]
"""Where a module is called: file and first line of the code, and the instruction in it."""
NOWHERE: Final[Place] = ("", 0, 0)

Walk = Sequence[tuple[Module, list[str]]]
"""Modules of a subtree with their names, see `named_modules`."""


class Registry:
    """Modules seen by one trace. Everything but `entries` and `root_calls` is off the hot path."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """id of a living module -> its entry: the hooks look modules up here."""
        self.root_calls = 0
        """Root calls so far: the time by which it is told how long a module has lived."""
        self.spent_ns = 0
        self.call_code = CALL_CODE
        """Code of the frames that run calls."""
        """Cost of entering modules so far, nanoseconds."""
        self._modules: dict[int, weakref.ref[Module]] = {}
        self._trees: dict[int, _Tree] = {}
        self._home: dict[int, int] = {}
        self._variables: dict[int, str] = {}
        self._lazy: set[int] = set()
        self._grown: set[int] = set()
        self._refreshes: dict[int, int] = {}
        self._written: dict[int, tuple[Any, ...]] = {}
        self._classes: dict[int, tuple[weakref.ref[type], ClassFacts]] = {}
        self._successors = Successors()
        self._died: list[tuple[int, int]] = []
        self._dead: dict[int, int] = {}
        self._count = 0
        self.entered: Callable[[int, Module], None] | None = None
        """Told of each module that is seen for the first time, with its number."""
        self._module_rows: list[dict[str, Any]] = []
        self._name_rows: list[dict[str, Any]] = []
        self._lock = threading.RLock()

    def number_of(self, module: Module) -> int | None:
        """The number of a module; None for one not seen."""
        entry = self.entries.get(id(module))
        return entry.number if entry is not None else None

    def names_of(self, number: int) -> tuple[list[str], str | None]:
        """The FQN of a module in the tree that it was first seen in, with its aliases, and the variable that holds the
        top of that tree, where that is known.
        """
        home = self._home.get(number, number)
        tree = self._trees.get(home)
        if tree is None:
            return [""], None
        return [tree.names.get(number, ""), *tree.aliases.get(number, ())], self._variables.get(home)

    def root_entry(
        self, module: Module, place: Place = NOWHERE, variable: Callable[[], str | None] | None = None
    ) -> Entry:
        """The entry of a module called with nothing around it; its whole tree is entered first.

        Args:
            module: the module.
            place: where it is called.
            variable: looks up what holds it, if that has to be known.
        """
        with self._lock:
            number = self.number_of(module)
            if number is None or number not in self._trees:
                self._enter_tree(module, (-1, place), variable)
            return self.entries[id(module)]

    def inner_entry(
        self, module: Module, parent: Module | None, root: Module | None, place: Place = NOWHERE
    ) -> Entry:
        """The entry of a module not seen before that is called inside another.

        Its name is looked for among the caller's children, then in the whole tree of the root call; a module that
        is in neither is the top of a tree of its own.
        """
        with self._lock:
            known = self.entries.get(id(module))
            if known is not None:
                return known
            tree = self._tree_of(parent)
            if parent is not None and tree is not None:
                for key, child in children(parent):
                    if child is module:
                        base = tree.names[self.entries[id(parent)].number]
                        self._enter(tree, module, f"{base}.{key}" if base else str(key))
                        return self.entries[id(module)]
            if root is not None and self._walk_again(root) and id(module) in self.entries:
                return self.entries[id(module)]
            above = self.number_of(parent) if parent is not None else None
            self._enter_tree(module, (-1 if above is None else above, place))
            return self.entries[id(module)]

    def ensure_tree(self, number: int) -> None:
        """Name the tree below a module that was called as a root, but was met first as a part of another tree."""
        if number in self._trees:
            return
        with self._lock:
            module = self._living(number)
            if module is not None:
                self._enter_tree(module, (-1, NOWHERE))
            else:  # it has died since: only its own name in its own tree is certain
                self._name_rows.append({"root": number, "module": number, "name": "", "aliases": []})

    def tops(self, roots: Sequence[int], modules: Sequence[int]) -> list[int]:
        """For each pair of a root module and one called below it the top of the tree that names the latter."""
        with self._lock:
            tops = []
            for root, module in zip(roots, modules, strict=True):
                tree = self._trees.get(root)
                tops.append(
                    root if tree is not None and module in tree.names else self._home.get(module, module)
                )
            return tops

    def look_again(self, numbers: list[int]) -> None:
        """Note modules among those called whose class has changed meanwhile, as that of a lazy module does."""
        for number in numbers:
            module = self._living(number)
            written = self._written.get(number)
            if module is not None and written is not None and written[0] != class_name(type(module)):
                self._grown.add(self._home.get(number, number))

    def refresh(self) -> None:
        """Read again the facts of trees that have grown, and of modules whose parameters did not exist at first."""
        with self._lock:
            for number in list(self._lazy):
                module = self._living(number)
                if module is None or not is_lazy(module):
                    self._lazy.discard(number)
                    self._grown.add(self._home.get(number, number))
            grown, self._grown = self._grown, set()
            for top in grown:
                module = self._living(top)
                if module is not None and self._refreshes.get(top, 0) <= MAX_REFRESHES:
                    self._facts(list(named_modules(module, "")))

    def living(self) -> list[Module]:
        """The modules seen that still live."""
        modules = [reference() for reference in list(self._modules.values())]
        return [module for module in modules if module is not None]

    def title_of(self, number: int) -> tuple[str, str]:
        """FQN of a module in the tree that it was met in, and its class; empty where that is not known."""
        tree = self._trees.get(self._home.get(number, number))
        module = self._living(number)
        name = tree.names.get(number, "") if tree is not None else ""
        return name, class_name(type(module)) if module is not None else ""

    def take_dead(self) -> dict[int, int]:
        """Modules that have died since the last time; for `purge`, once their calls are written."""
        with self._lock:
            self._bury()
            dead, self._dead = self._dead, {}
            return dead

    def purge(self, dead: dict[int, int]) -> None:
        """Drop what is held about modules that are gone, so that memory does not grow with modules made and dropped.

        Not of those whose number has been taken over since: number -> instances there had been when it died.
        """
        with self._lock:
            for number, instances in dead.items():
                if self._instances(number) != instances or number in self._modules:
                    continue
                home = self._trees.get(self._home.pop(number, -1))
                if home is not None:
                    home.names.pop(number, None)
                    home.aliases.pop(number, None)
                for table in (self._trees, self._written, self._refreshes, self._variables):
                    table.pop(number, None)
                self._lazy.discard(number)

    def _bury(self) -> None:
        """Let go of the numbers of modules that have died."""
        died, self._died = self._died, []
        for number, root_calls in died:
            self._dead[number] = self._instances(number)
            self._successors.died(number, root_calls)

    def _instances(self, number: int) -> int:
        batch = self._successors.batch_of(number)
        return batch.instances if batch is not None else 0

    def _living(self, number: int) -> Module | None:
        reference = self._modules.get(number)
        return reference() if reference is not None else None

    def rows(self) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """New rows of `modules` and of `names`, as columns."""
        with self._lock:
            modules, self._module_rows = self._module_rows + self._successors.rows(), []
            names, self._name_rows = self._name_rows, []
        return _columns(modules), _columns(names)

    def _tree_of(self, module: Module | None) -> _Tree | None:
        number = self.number_of(module) if module is not None else None
        home = self._home.get(number) if number is not None else None
        return self._trees.get(home) if home is not None else None

    def _walk_again(self, root: Module) -> bool:
        """Walk a known tree once more for new modules; ever less often while that finds nothing."""
        tree = self._trees.get(self.number_of(root) or 0)
        if tree is None:
            return False
        tree.walks += 1
        if tree.walks <= tree.wait:
            return False
        before = self._count
        for module, names in named_modules(root, ""):
            if id(module) not in self.entries:
                self._enter(tree, module, names[0])
        self._name(tree, list(named_modules(root, "")))
        tree.wait = 0 if self._count > before else max(8, tree.walks * 2)
        return True

    def _enter_tree(
        self, module: Module, place: tuple[int, Place], variable: Callable[[], str | None] | None = None
    ) -> None:
        """Enter a module and all below it as a tree of its own.

        Args:
            module: the top.
            place: number of the module that calls it, -1 for none, and where.
            variable: looks up what holds it.
        """
        walk = list(named_modules(module, ""))
        entered = variable() if variable is not None else None
        again = self._number_all(walk, (*place, entered))
        top = self.entries[id(module)].number
        tree = self._trees[top] = _Tree(top)
        self._name(tree, walk, again=again)
        if not again:
            if entered is not None:
                self._variables[top] = entered
            self._facts(walk)

    def _enter(self, tree: _Tree, module: Module, name: str) -> None:
        """Enter a new module and all below it under a name of `tree`."""
        walk = list(named_modules(module, name))
        again = self._number_all(walk, (tree.top, NOWHERE, None))
        self._name(tree, walk, again=again)
        if not again:
            self._facts(walk)
            self._refreshes[tree.top] = self._refreshes.get(tree.top, 0) + 1
            self._grown.add(tree.top)

    def _number_all(self, walk: Walk, place: Hashable) -> bool:
        """Give every module of a subtree an entry. True if modules that died had this structure in this place: the new
        ones have their numbers, and all rows are written.
        """
        self._bury()
        new = [module for module, _ in walk if id(module) not in self.entries]
        structure = self._structure(walk, place) if new and len(walk) <= MANY_MODULES else None
        batch = self._successors.take(structure, self.root_calls) if structure is not None else None
        if batch is not None:
            for module, entry in zip(new, batch.entries, strict=True):
                self._remember(module, entry)
                row = batch.rows.get(entry.number)
                if row is not None:
                    self._written[entry.number] = _state(module, row)
                    if row["variable"] is not None:
                        self._variables[entry.number] = row["variable"]
            return True
        entries = [Entry(self._count + offset, code=self.call_code) for offset in range(len(new))]
        self._count += len(new)
        for module, entry in zip(new, entries, strict=True):
            self._remember(module, entry)
        if structure is not None:
            self._successors.enter(structure, entries, self.root_calls)
        return False

    def _structure(self, walk: Walk, place: Hashable) -> Hashable:
        """Equal for subtrees that cannot be told apart and are called in one place."""
        parts: list[Hashable] = [place]
        tensors: dict[int, int] = {}
        for module, names in walk:
            entry = self.entries.get(id(module))
            facts = module_facts(module, self._class_facts(type(module)))
            shared = tuple([tensors.setdefault(id(tensor), len(tensors)) for tensor in tensors_of(module)])
            parts.append((None if entry is None else entry.number, facts, tuple(names), shared))
        return tuple(parts)

    def _class_facts(self, cls: type) -> ClassFacts:
        known = self._classes.get(id(cls))
        if known is not None and known[0]() is cls:
            return known[1]
        if len(self._classes) >= MANY_CLASSES:
            self._classes.clear()
        facts = class_facts(cls)
        self._classes[id(cls)] = (weakref.ref(cls), facts)
        return facts

    def _name(self, tree: _Tree, walk: Walk, *, again: bool = False) -> None:
        """Note the names of modules in a tree; `again` when their rows are written already."""
        for module, names in walk:
            number = self.entries[id(module)].number
            self._home.setdefault(number, tree.top)
            if tree.names.get(number) == names[0]:
                continue
            tree.names[number] = names[0]
            if len(names) > 1:
                tree.aliases[number] = names[1:]
            if again:
                continue
            self._name_rows.append(
                {
                    "root": tree.top,
                    "module": number,
                    "name": plain(names[0], TEXT_LIMIT),
                    "aliases": [plain(name, TEXT_LIMIT) for name in names[1:]],
                }
            )

    def _facts(self, walk: Walk) -> None:
        """Write what is known of the modules of a subtree, where that is not written already."""
        modules = [module for module, _ in walk]
        totals = subtree_totals(modules[0], modules)
        for module in modules:
            number = self.number_of(module)
            if number is None:
                continue
            if is_lazy(module):
                self._lazy.add(number)
            batch = self._successors.batch_of(number)
            instances = batch.instances if batch is not None else 1
            facts = module_facts(module, self._class_facts(type(module)))
            row = module_row(
                number, facts, totals.get(id(module)), self._variables.get(number), instances=instances
            )
            state = _state(module, row)
            if self._written.get(number) == state:
                continue
            self._written[number] = state
            self._module_rows.append(row)
            if batch is not None and batch.rows.setdefault(number, row) is not row:
                self._successors.changed(number)

    def _remember(self, module: Module, entry: Entry) -> None:
        key, number = id(module), entry.number
        self._modules[number] = weakref.ref(module, self._forget(key, number))
        self.entries[key] = entry
        if self.entered is not None:
            self.entered(number, module)

    def _forget(self, key: int, number: int) -> Callable[[Any], None]:
        entries, modules, dead = self.entries, self._modules, weakref.ref(self)

        def forget(_: Any) -> None:
            entry = entries.get(key)
            if entry is not None and entry.number == number:
                del entries[key]
            modules.pop(number, None)
            registry = dead()
            if registry is not None:
                registry._died.append((number, registry.root_calls))

        return forget


def named_modules(top: Module, name: str) -> Iterator[tuple[Module, list[str]]]:
    """Every module below `top` once, with its names, in the order of `nn.Module.named_modules`; never recursive."""
    order: list[Module] = []
    names: dict[int, list[str]] = {}
    pending = [(top, name)]
    while pending:
        module, path = pending.pop()
        known = names.get(id(module))
        if known is not None:
            if len(known) < MAX_ALIASES:
                known.append(path)
            continue
        names[id(module)] = [path]
        order.append(module)
        prefix = f"{path}." if path else ""
        pending.extend((child, prefix + key) for key, child in reversed(children(module)))
    for module in order:
        yield module, names[id(module)]


def _state(module: Module, row: dict[str, Any]) -> tuple[Any, ...]:
    """Columns of a row that may change while a module lives."""
    return class_name(type(module)), row["parameter_count"], row["trainable_count"], row["buffer_count"]


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
