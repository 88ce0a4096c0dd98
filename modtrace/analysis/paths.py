"""Modules that are repeats of one another: names that differ only in their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import column, names
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
    """The group of every call of a trace."""
    table = stored.table("calls")
    module, root = column(table, "module"), column(table, "root")
    types = stored.table("modules").column("type").to_pylist()
    pair, which = np.unique(root << 32 | module, return_inverse=True)
    at, texts = names(stored, pair >> 32, pair & 0xFFFFFFFF)
    groups: dict[tuple[str, str, str], int] = {}
    keys = []
    for code, one in zip(at.tolist(), pair.tolist(), strict=False):
        key = (fold(texts[code]), types[one & 0xFFFFFFFF], types[one >> 32])
        keys.append(groups.setdefault(key, len(groups)))
    group = np.array(keys or [0], np.int64)[which] if len(which) else np.zeros(0, np.int64)
    return Folded(group, [k[0] for k in groups], [k[1] for k in groups], [k[2] for k in groups])
