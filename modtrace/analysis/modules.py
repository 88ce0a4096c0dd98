"""The `modules` DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.calls import coded, column, commonest, nullable_codes, values_and_known
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]


def modules(stored: Stored) -> pd.DataFrame:
    """One row a module instance, indexed by `module_id`.

    `total_ns` and `self_ns` are sums over its calls whose times are known; `inputs` and `outputs` are the signatures
    seen most often. A module that never ran has 0 calls and null times.
    """
    table, calls = stored.table("modules"), stored.table("calls")
    count = len(table)
    module = column(calls, "module")
    duration, known = values_and_known(calls, "duration_ns")
    own, own_known = values_and_known(calls, "self_ns")
    ran = np.bincount(module, minlength=count)
    timed = np.bincount(module[known], minlength=count)
    total = sums(module[known], duration[known], count)
    longest = np.zeros(count, np.int64)
    np.maximum.at(longest, module[known], duration[known])
    has_own = np.bincount(module[own_known], minlength=count) > 0
    name, aliases, root = _names(stored, count)
    signatures = stored.table("signatures").column("text").to_pylist()
    types = table.column("type").to_pylist()
    data: dict[str, Any] = {
        "name": name,
        "type": types,
        "root": [types[r] for r in root],
        "calls": ran,
        "total_ns": _masked(total, timed > 0),
        "self_ns": _masked(sums(module[own_known], own[own_known], count), has_own),
        "mean_ns": _masked(total // np.maximum(timed, 1), timed > 0),
        "max_ns": _masked(longest, timed > 0),
        "inputs": coded(commonest(module, nullable_codes(calls, "inputs"), count), signatures),
        "outputs": coded(commonest(module, nullable_codes(calls, "outputs"), count), signatures),
    }
    for field in ("parameter_count", "parameter_bytes", "trainable_count", "buffer_count", "buffer_bytes"):
        values, there = values_and_known(table, field)
        data[field] = _masked(values, there)
    data["training"] = pd.array(table.column("training").to_pylist(), dtype="boolean")
    data["extra_repr"] = table.column("extra_repr").to_pylist()
    data["type_module"] = table.column("type_module").to_pylist()
    data["source_file"] = table.column("source_file").to_pylist()
    lines, there = values_and_known(table, "source_line")
    data["source_line"] = _masked(lines.astype(np.int64), there)
    data["overrides_call"] = table.column("overrides_call").to_pylist()
    data["aliases"] = aliases
    frame = pd.DataFrame(data)
    frame.index = pd.Index(np.arange(count), name="module_id")
    return frame


def sums(keys: Ints, values: Ints, count: int) -> Ints:
    """For each key below `count` the sum of its values."""
    total = np.zeros(count, np.int64)
    np.add.at(total, keys, values)
    return total


def _masked(values: Ints, known: npt.NDArray[np.bool_]) -> pd.arrays.IntegerArray:
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


def _names(stored: Stored, count: int) -> tuple[list[str], list[list[str]], list[int]]:
    """Name, aliases and top module of each module; of several trees the one that it is a part of."""
    table = stored.table("names")
    name, root = [""] * count, list(range(count))
    aliases: list[list[str]] = [[] for _ in range(count)]
    rows = zip(
        table.column("root").to_pylist(),
        table.column("module").to_pylist(),
        table.column("name").to_pylist(),
        table.column("aliases").to_pylist(),
        strict=False,
    )
    for top, module, text, others in rows:
        if not name[module] and text:
            name[module], aliases[module], root[module] = text, others or [], top
    return name, aliases, root
