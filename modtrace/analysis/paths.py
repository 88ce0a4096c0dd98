"""Modules that are repeats of one another: names that differ only in their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import column, commonest, names, nullable_codes
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """A group for each call.

    `group` is a key into `name` (`h.*.mlp.c_fc`; "" for a root), `type` and `root` (class names).
    """

    group: Ints
    name: list[str]
    type: list[str]
    root: list[str]


def fold(name: str) -> str:
    """A name with each number among its components replaced: `h.11.mlp` -> `h.*.mlp`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def folded(stored: Stored) -> Folded:
    """The group of every call of a trace.

    Modules are repeats of one another if their names differ only in numbers and class, number of parameters and the
    output seen most often are the same: the blocks of a transformer are, two convolutions of unlike sizes are not.
    """
    table, modules = stored.table("calls"), stored.table("modules")
    module, root = column(table, "module"), column(table, "root")
    types = modules.column("type").to_pylist()
    sizes = modules.column("parameter_count").to_pylist()
    outputs = commonest(module, nullable_codes(table, "outputs"), len(modules)).tolist()
    pair, which = np.unique(root << 32 | module, return_inverse=True)
    at, texts = names(stored, pair >> 32, pair & 0xFFFFFFFF)
    groups: dict[tuple[str, str, str, int | None, int], list[str]] = {}
    place: dict[tuple[str, str, str, int | None, int], int] = {}
    keys = []
    for code, one in zip(at.tolist(), pair.tolist(), strict=True):
        number = one & 0xFFFFFFFF
        key = (fold(texts[code]), types[number], types[one >> 32], sizes[number], outputs[number])
        groups.setdefault(key, []).append(texts[code])
        keys.append(place.setdefault(key, len(place)))
    group = np.array(keys or [0], np.int64)[which] if len(which) else np.zeros(0, np.int64)
    shown = [members[0] if len(members) == 1 else key[0] for key, members in groups.items()]
    return Folded(group, shown, [key[1] for key in groups], [key[2] for key in groups])
