"""Names of root modules: the variable that holds one, else its place in another tree, else its class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.module_names import dotted
from modtrace.analysis.nesting import root_calls
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Roots:
    """Names of the modules at the top of trees, an element a row of `modules`.

    name: of a root: `G`, `Lit.encoder`, `Sequential#2`; no two of a process are equal. Of a module that is in nobody's
        tree and was only called inside others, the name of the root that it was first called in.
    prefix: of such a module its name there, `layers.0.(ReLU)`; "" for all others.
    called: numbers of those that were called with no module around, in order of their first call.
    """

    name: list[str]
    prefix: list[str]
    called: list[int]

    def full(self, root: int, name: str) -> str:
        """A name in the tree of `root` as it is shown."""
        return dotted(self.prefix[root], name)


@once
def roots(stored: Stored) -> Roots:
    """The names of all roots of a trace."""
    return _Naming(stored).roots()


def qualified(root: str, name: str, class_name: str) -> tuple[str, str]:
    """Name, with that of the root, and class of a module, the class only where it is not the name already."""
    name = dotted(root, name)
    return name, class_name if class_name != name else ""


class _Naming:
    def __init__(self, stored: Stored) -> None:
        table, modules = timeline(stored).calls, stored.table("modules")
        self._types: list[str] = modules.column("type").to_pylist()
        self._variables: list[str | None] = modules.column("variable").to_pylist()
        self._module, self._root = nullable_codes(table, "module"), nullable_codes(table, "root")
        self._call_kind, self._parent = column(table, "kind"), column(table, "parent")
        self._process = column(table, "process")
        self._alone = np.zeros(len(self._types), np.bool_)
        self._alone[self._module[root_calls(self._call_kind, column(table, "last_call"))]] = True
        self._first = _first_rows(self._root, len(self._types))
        self._names, self._homes = _named(stored, self._first < len(table))
        self._taken: dict[tuple[int, str], int] = {}
        self._name = list(self._types)
        self._prefix = [""] * len(self._types)

    def roots(self) -> Roots:
        order = np.argsort(self._first, kind="stable")
        order = order[self._first[order] < len(self._root)]
        for number in order.tolist():
            above = -1 if self._alone[number] else self._module_above(int(self._first[number]))
            if above >= 0:
                top, inner = int(self._root[above]), int(self._module[above])
                place = dotted(self._prefix[top], self._names.get((top, inner), ""))
                self._name[number] = self._name[top]
                self._prefix[number] = self._unique(top, dotted(place, f"({self._types[number]})"))
            else:
                process = int(self._process[self._first[number]])
                self._name[number] = self._unique(-1 - process, self._own_name(number))
        return Roots(self._name, self._prefix, [number for number in order.tolist() if self._alone[number]])

    def _own_name(self, number: int) -> str:
        variable = self._variables[number]
        if variable is not None:
            return variable
        home = self._homes.get(number)
        if home is None:
            return self._types[number]
        top, name = home
        return dotted(self._variables[top] or self._types[top], name)

    def _module_above(self, row: int) -> int:
        """The row of the innermost module call around one, -1 for none."""
        row = int(self._parent[row])
        while row >= 0 and self._call_kind[row] != MODULE:
            row = int(self._parent[row])
        return row

    def _unique(self, among: int, name: str) -> str:
        count = self._taken[among, name] = self._taken.get((among, name), 0) + 1
        return name if count == 1 else f"{name}#{count}"


def _first_rows(root: Ints, count: int) -> Ints:
    """For each module the first row whose name is in its tree, the number of rows for none."""
    first = np.full(count, len(root), np.int64)
    # The first row of each stretch in one tree is enough: there are few of them.
    rows = np.flatnonzero(np.append(True, root[1:] != root[:-1]))[::-1] if len(root) else root
    rows = rows[root[rows] >= 0]
    first[root[rows]] = rows
    return first


def _named(
    stored: Stored, is_top: npt.NDArray[np.bool_]
) -> tuple[dict[tuple[int, int], str], dict[int, tuple[int, str]]]:
    """(top, module) -> name for tops of trees; and for each of these tops where it stands in another module's tree."""
    table: pa.Table = stored.table("names")
    names: dict[tuple[int, int], str] = {}
    homes: dict[int, tuple[int, str]] = {}
    columns = (table.column(name).to_pylist() for name in ("root", "module", "name"))
    for top, module, name in zip(*columns, strict=True):
        if is_top[top]:
            names[top, module] = name
        if is_top[module] and top != module and name:
            homes.setdefault(module, (top, name))
    return names, homes
