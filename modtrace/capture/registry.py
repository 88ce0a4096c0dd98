"""Which module is which: numbers, names and facts of the modules of one trace.

A module is known by its `id`, held together with a weak reference that takes the entry out when the module dies (ids
are reused at once). Nothing is stored on a module, nothing of it is compared, hashed or asked for its truth, and its
children and parameters are read from its raw `__dict__`, past any `__getattr__` or property of the class.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from modtrace.capture.classes import class_name, inherits
from modtrace.capture.facts import is_lazy, module_row, raw, subtree_totals
from modtrace.capture.seen import Entry
from modtrace.capture.torch_private.spelled import CHILDREN
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

Module = torch.nn.Module
Ints = npt.NDArray[np.int64]

MAX_ALIASES: Final = 64
MAX_REFRESHES: Final = 32
"""A tree that grows for ever (a new module every step) is not read again for ever."""


class _Tree:
    """The names below one top module: number -> FQN, as last walked."""

    __slots__ = ("names", "top", "wait", "walks")

    def __init__(self, top: int) -> None:
        self.top = top
        self.names: dict[int, str] = {}
        self.walks = 0
        self.wait = 0


class Registry:
    """Modules seen by one trace. Everything but `entries` is off the hot path."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """id of a living module -> its entry: the hooks look modules up here."""
        self._modules: dict[int, weakref.ref[Module]] = {}
        self._trees: dict[int, _Tree] = {}
        self._home: dict[int, int] = {}
        self._lazy: set[int] = set()
        self._grown: set[int] = set()
        self._refreshes: dict[int, int] = {}
        self._written: dict[int, tuple[Any, ...]] = {}
        self._dead: list[int] = []
        self._version = 0
        self._labels: dict[int, tuple[int, Ints]] = {}
        self._count = 0
        self._module_rows: list[dict[str, Any]] = []
        self._name_rows: list[dict[str, Any]] = []
        self._lock = threading.RLock()

    def number_of(self, module: Module) -> int | None:
        """The number of a module; None for one not seen."""
        entry = self.entries.get(id(module))
        return entry.number if entry is not None else None

    def root_entry(self, module: Module) -> Entry:
        """The entry of a module called with nothing around it; its whole tree is entered first."""
        with self._lock:
            number = self.number_of(module)
            if number is None or number not in self._trees:
                self._enter_tree(module)
            return self.entries[id(module)]

    def inner_entry(self, module: Module, parent: Module | None, root: Module | None) -> Entry:
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
            self._enter_tree(module)
            return self.entries[id(module)]

    def ensure_tree(self, number: int) -> None:
        """Name the tree below a module that was called as a root, but was met first as a part of another tree."""
        if number in self._trees:
            return
        with self._lock:
            module = self._living(number)
            if module is not None:
                self._enter_tree(module)
            else:  # it has died since: only its own name in its own tree is certain
                self._name_rows.append({"root": number, "module": number, "name": "", "aliases": []})

    def labels(self, root: int) -> Ints:
        """For each module number the top of the tree it is named in when it is called below root module `root`."""
        with self._lock:
            known = self._labels.get(root)
            if known is not None and known[0] == self._version:
                return known[1]
            labels = np.arange(self._count, dtype=np.int64)
            homes = np.array(list(self._home.items()), np.int64).reshape(-1, 2)
            labels[homes[:, 0]] = homes[:, 1]
            tree = self._trees.get(root)
            if tree is not None:
                labels[np.fromiter(tree.names, np.int64, len(tree.names))] = root
            self._labels[root] = (self._version, labels)
            return labels

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
                    self._facts(module)

    def living(self) -> list[Module]:
        """The modules seen that still live."""
        found = [reference() for reference in list(self._modules.values())]
        return [module for module in found if module is not None]

    def take_dead(self) -> list[int]:
        """Numbers of modules that have died since the last time; for `purge`, once their calls are written."""
        dead, self._dead = self._dead, []
        return dead

    def purge(self, dead: list[int]) -> None:
        """Drop what is held about modules that are gone, so that memory does not grow with modules made and dropped."""
        with self._lock:
            for number in dead:
                home = self._trees.get(self._home.pop(number, -1))
                if home is not None:
                    home.names.pop(number, None)
                self._trees.pop(number, None)
                self._labels.pop(number, None)
                self._written.pop(number, None)
                self._lazy.discard(number)

    def _living(self, number: int) -> Module | None:
        reference = self._modules.get(number)
        return reference() if reference is not None else None

    def rows(self) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """New rows of `modules` and of `names`, as columns."""
        with self._lock:
            modules, self._module_rows = self._module_rows, []
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
        self._enter(tree, root, "")
        tree.wait = 0 if self._count > before else max(8, tree.walks * 2)
        return True

    def _enter_tree(self, module: Module) -> int:
        number = self._number(module)
        tree = self._trees[number] = _Tree(number)
        self._enter(tree, module, "")
        return number

    def _enter(self, tree: _Tree, top: Module, name: str) -> None:
        """Enter a module and everything below it under a name of `tree`."""
        fresh = False
        for module, names in named_modules(top, name):
            new = id(module) not in self.entries
            number = self._number(module)
            fresh = fresh or new
            self._home.setdefault(number, tree.top)
            if tree.names.get(number) == names[0]:
                continue
            self._version += 1
            tree.names[number] = names[0]
            self._name_rows.append(
                {
                    "root": tree.top,
                    "module": number,
                    "name": plain(names[0], TEXT_LIMIT),
                    "aliases": [plain(name, TEXT_LIMIT) for name in names[1:]],
                }
            )
        if fresh or not name:
            self._facts(top)
        if name:
            self._refreshes[tree.top] = self._refreshes.get(tree.top, 0) + 1
            self._grown.add(tree.top)

    def _facts(self, top: Module) -> None:
        modules = [module for module, _ in named_modules(top, "")]
        totals = subtree_totals(top, modules)
        for module in modules:
            number = self.number_of(module)
            if number is None:
                continue
            if is_lazy(module):
                self._lazy.add(number)
            row = module_row(number, module, totals.get(id(module)))
            state = (
                class_name(type(module)),
                row["parameter_count"],
                row["trainable_count"],
                row["buffer_count"],
            )
            if self._written.get(number) != state:
                self._written[number] = state
                self._module_rows.append(row)

    def _number(self, module: Module) -> int:
        key = id(module)
        known = self.entries.get(key)
        if known is not None:
            return known.number
        number = self._count
        self._count = number + 1
        self._version += 1
        self._modules[number] = weakref.ref(module, self._forget(key, number))
        self.entries[key] = Entry(number)
        return number

    def _forget(self, key: int, number: int) -> Callable[[Any], None]:
        entries, modules, dead = self.entries, self._modules, weakref.ref(self)

        def forget(_: Any) -> None:
            entry = entries.get(key)
            if entry is not None and entry.number == number:
                del entries[key]
            modules.pop(number, None)
            registry = dead()
            if registry is not None:
                registry._dead.append(number)

        return forget


def children(module: Module) -> list[tuple[str, Module]]:
    """The direct children of a module, without running any code of its class."""
    held = raw(module).get(CHILDREN)
    if not isinstance(held, dict):
        return []
    return [(str(key), child) for key, child in dict.items(held) if _is_module(child)]


def _is_module(value: Any) -> bool:
    return inherits(type(value), Module)


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


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
