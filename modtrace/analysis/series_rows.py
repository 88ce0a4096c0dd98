"""The rows of the timeline that a name means: a module, repeats of one, or a phase, span or function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import names
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.module_names import dotted, fold, fold_root
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.errors import UsageError
from modtrace.text import and_more, plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import KINDS

Bools = npt.NDArray[np.bool_]

_NEAR: Final = 3
"""So many names that may have been meant are listed."""
_LISTED: Final = 6


@dataclass(frozen=True)
class _Entry:
    """A module in one tree, or all phases, spans or functions of one name and class.

    top: name of the root, "" for what is no module; root: true for the root itself.
    label_kind: `phase`, `span` or `function`; "" for a module.
    """

    top: str
    name: str
    type: str
    root: bool = False
    label_kind: str = ""

    @property
    def full(self) -> str:
        """The name that no other module has."""
        return dotted(self.top, self.name)

    @property
    def folded(self) -> str:
        return fold(self.name)

    @property
    def full_folded(self) -> str:
        return dotted(fold_root(self.top), self.folded)

    @property
    def prefixed(self) -> str:
        """The name of what is no module as nothing else is called: `phase:optimizer`."""
        return f"{self.label_kind}:{self.name}"


_MODULE_TESTS: Final[tuple[Callable[[_Entry, str], bool], ...]] = (
    lambda entry, name: bool(name) and entry.name == name,
    lambda entry, name: bool(name) and entry.full == name,
    lambda entry, name: entry.root and name in ("", entry.type),
    lambda entry, name: "*" in name and entry.folded == name,
    lambda entry, name: "*" in name and entry.full_folded == name,
)
"""Ways in which a module has a name; the first in which any has it is what is meant."""


def rows_of_number(stored: Stored, module_id: int) -> Bools:
    """A mask of the rows of one module.

    Raises:
        UsageError: no module of that number ran.
    """
    rows: Bools = nullable_codes(timeline(stored).calls, "module") == module_id
    if not rows.any():
        raise UsageError(f"no module with the number {module_id} ran")
    return rows


def rows_named(stored: Stored, name: str, class_name: str | None = None) -> Bools:
    """A mask of the rows of the timeline that a name means.

    Args:
        stored: the trace.
        name: FQN of a module, alone or behind that of its root; folded (`h.*.mlp`) of all repeats; name or class of a
            root; name of a phase, span or function, alone or as `phase:optimizer`.
        class_name: only those of this class.

    Raises:
        UsageError: nothing has that name, or modules of several roots or classes, or a module and a phase have it.
    """
    entries, number_of_row = _entries(stored)
    of_class = [entry for entry in entries if class_name in (None, entry.type)]
    modules = _modules_named(of_class, name)
    labels = [entry for entry in of_class if entry.label_kind and name in (entry.name, entry.prefixed)]
    meant = modules or labels
    if not meant:
        raise UsageError(_unknown(entries, name, class_name))
    _refuse_several(name, modules, labels)
    chosen = set(meant)
    mask = np.array([*(entry in chosen for entry in entries), False], np.bool_)
    rows: Bools = mask[number_of_row]
    return rows


def _modules_named(entries: list[_Entry], name: str) -> list[_Entry]:
    modules = [entry for entry in entries if not entry.label_kind]
    for test in _MODULE_TESTS:
        chosen = [entry for entry in modules if test(entry, name)]
        if chosen:
            return chosen
    return []


def _refuse_several(name: str, modules: list[_Entry], labels: list[_Entry]) -> None:
    """Raise where a name means unlike things, with the names that tell them apart."""
    shown = plain(name)
    if modules and labels:
        candidates = [f"module_id of {entry.full}" if entry.full == name else entry.full for entry in modules]
        candidates += [entry.prefixed for entry in labels]
        raise UsageError(
            f"{shown!r} is a module and a {labels[0].label_kind}; which one: {_listed(candidates)}"
        )
    if "*" in name:
        tops = {fold_root(entry.top): entry.full_folded for entry in modules}
        classes = dict.fromkeys(entry.type for entry in modules)
        if len(tops) == 1 and len(classes) > 1:
            ways = ", ".join(f'type="{plain(class_name)}"' for class_name in classes)
            raise UsageError(f"{shown!r} are modules of several classes; which ones: {ways}")
    else:
        tops = {entry.top: entry.full for entry in modules}
    if len(tops) > 1:
        raise UsageError(f"{shown!r} is a module of several roots; which one: {_listed(tops.values())}")
    kinds = {entry.label_kind: entry.prefixed for entry in labels}
    if len(kinds) > 1:
        raise UsageError(f"{shown!r} is several things; which one: {_listed(kinds.values())}")


def _listed(candidates: Iterable[str]) -> str:
    return and_more([plain(candidate) for candidate in dict.fromkeys(candidates)], _LISTED)


def _spellings(entry: _Entry, *, prefixed: bool) -> tuple[str, ...]:
    if entry.label_kind:
        return (entry.prefixed if prefixed else entry.name,)
    return entry.name, entry.folded, entry.full


def _unknown(entries: list[_Entry], name: str, class_name: str | None) -> str:
    """The message about a name that nothing has, with names that may have been meant."""
    known = dict.fromkeys(
        text for entry in entries for text in _spellings(entry, prefixed=":" in name) if text
    )
    ends = [text for text in known if fold(text) == text and text.endswith(f".{name}")] if name else []
    ends += [text for text in known if name and text.endswith(f".{name}") and text not in ends]
    near = list(dict.fromkeys([*ends, *get_close_matches(name, list(known), _NEAR)]))[:_NEAR]
    of_class = f" of class {plain(class_name)}" if class_name is not None else ""
    hint = f"; did you mean {' or '.join(map(plain, near))}?" if near and near != [name] else ""
    return f"no module or phase named {plain(name)!r}{of_class} ran{hint}"


def _entries(stored: Stored) -> tuple[list[_Entry], npt.NDArray[np.int64]]:
    """All that has rows and a name, and for each row the position of its entry, -1 for none."""
    line = timeline(stored)
    table = line.calls
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    label, call_kind = nullable_codes(table, "label"), column(table, "kind").astype(np.int64)
    of_module = module >= 0
    number = np.full(len(module), -1, np.int64)
    tops, types = roots(stored).name, stored.table("modules").column("type").to_pylist()
    pairs, which = np.unique(root[of_module] << 32 | module[of_module], return_inverse=True)
    codes, texts = names(stored, pairs >> 32, pairs & 0xFFFFFFFF)
    entries = [
        _Entry(tops[pair >> 32], texts[code], types[pair & 0xFFFFFFFF], pair >> 32 == pair & 0xFFFFFFFF)
        for pair, code in zip(pairs.tolist(), codes.tolist(), strict=True)
    ]
    number[of_module] = which
    of_label = ~of_module & (label >= 0)
    pairs, which = np.unique(call_kind[of_label] << 32 | label[of_label], return_inverse=True)
    number[of_label] = which + len(entries)
    for pair in pairs.tolist():
        name, class_name = line.labels[pair & 0xFFFFFFFF]
        entries.append(_Entry("", name, class_name, label_kind=KINDS[pair >> 32]))
    return entries, number
