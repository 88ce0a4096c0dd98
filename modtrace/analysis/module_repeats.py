"""Modules that are repeats of one another: names that differ only in their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import commonest, names
from modtrace.analysis.columns import distinct_pairs, nullable_codes
from modtrace.analysis.module_names import dotted, fold, fold_root
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """A group for each call. The backward of a call is in the group of the call.

    `group` is a key into `name` (`h.*.mlp.c_fc`; "" for a root; `optimizer`), `type` (class; for a function where it is
    called, `norm.py:12`), `root` (name of the root, "" for what is no module's) and `of_module`.
    """

    group: Ints
    name: list[str]
    type: list[str]
    root: list[str]
    of_module: list[bool]

    def title(self, group: int) -> str:
        """The name of a group where nothing around it is shown: behind that of its root, where there are several."""
        name, root = self.name[group], self.root[group]
        return dotted(root, name) if root and (self._several or not name) else name or self.type[group]

    @cached_property
    def _several(self) -> bool:
        return len(set(self.root) - {""}) > 1


def place_text(place: tuple[str, int, int] | None) -> str:
    """Where a function is called: the name of the file and the line."""
    return f"{place[0].replace(chr(92), '/').rpartition('/')[2]}:{place[1]}" if place is not None else ""


@once
def folded(stored: Stored, *, repeats: bool = True) -> Folded:
    """The group of every call of a trace.

    With `repeats` one group holds all repeats of a module, otherwise each name is one. Modules are repeats of one
    another if their names differ only in numbers and class, number of parameters and the output seen most often are
    the same: the blocks of a transformer are, two convolutions of unlike sizes are not.
    """
    line = timeline(stored)
    table, modules = line.calls, stored.table("modules")
    is_module = table.known("module")
    module, root = nullable_codes(table, "module")[is_module], nullable_codes(table, "root")[is_module]
    types = modules.column("type").to_pylist()
    sizes = modules.column("parameter_count").to_pylist()
    all_outputs = nullable_codes(table, "outputs")[is_module]
    outputs = commonest(module, all_outputs, len(modules)).tolist()
    top_of, number_of, which = distinct_pairs(root, module)
    index, texts = names(stored, top_of, number_of)
    tops = roots(stored).name
    groups: dict[tuple[str, str, str, int | None, int], list[tuple[str, str]]] = {}
    place: dict[tuple[str, str, str, int | None, int], int] = {}
    keys = []
    for code, top_index, number in zip(index.tolist(), top_of.tolist(), number_of.tolist(), strict=True):
        name, top = texts[code], tops[top_index]
        key = (
            fold(name) if repeats else name,
            types[number],
            fold_root(top) if repeats else top,
            sizes[number],
            outputs[number],
        )
        groups.setdefault(key, []).append((name, top))
        keys.append(place.setdefault(key, len(place)))
    shown = [_shown(key, members) for key, members in groups.items()]
    labels = list(zip(line.labels, line.places, strict=True))
    distinct = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    of_label = np.array([len(shown) + distinct[label] for label in labels], np.int64)
    group = np.zeros(len(table), np.int64)
    group[is_module] = np.array(keys, np.int64)[which] if len(which) else 0
    group[~is_module] = of_label[nullable_codes(table, "label")[~is_module]]
    return Folded(
        group,
        [name for name, _ in shown] + [name for (name, _), _ in distinct],
        [key[1] for key in groups] + [label_type or place_text(place) for (_, label_type), place in distinct],
        [top for _, top in shown] + [""] * len(distinct),
        [True] * len(shown) + [False] * len(distinct),
    )


def _shown(key: tuple[str, str, str, int | None, int], members: list[tuple[str, str]]) -> tuple[str, str]:
    """The name and the root of a group: what all members have is not folded."""
    names, tops = {name for name, _ in members}, {top for _, top in members}
    return names.pop() if len(names) == 1 else key[0], tops.pop() if len(tops) == 1 else key[2]
