"""The `calls` DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from modtrace.trace.reader import Stored
from modtrace.trace.schema import CALL_COLUMNS, KINDS, STATUSES

Ints = npt.NDArray[np.int64]

_NULLABLE = ("duration_ns", "self_ns", "tracer_ns", "hooks_ns")
_NOT_RECORDED = ("device_ns", "memory_delta_bytes", "memory_peak_bytes")


def calls(stored: Stored) -> pd.DataFrame:
    """One row a call in order of start, indexed by `call`; columns as in schema.CALL_COLUMNS.

    Texts are categoricals, times and sizes nullable integers.
    """
    table = stored.table("calls")
    modules = stored.table("modules")
    module, root = column(table, "module"), column(table, "root")
    types = modules.column("type").to_pylist()
    signatures = stored.table("signatures").column("text").to_pylist()
    data: dict[str, Any] = {
        "parent": column(table, "parent"),
        "kind": categorical(column(table, "kind"), list(KINDS)),
        "name": _distinct(names(stored, root, module)),
        "type": coded(module, types),
        "root": coded(root, types),
        "module_id": module,
        **{
            name: column(table, name) for name in ("step", "rank", "thread", "depth", "start_ns", "last_call")
        },
        **{name: nullable(table, name) for name in _NULLABLE},
        "inputs": coded(nullable_codes(table, "inputs"), signatures),
        "outputs": coded(nullable_codes(table, "outputs"), signatures),
        "status": categorical(column(table, "status"), list(STATUSES)),
        "error": coded(nullable_codes(table, "error"), error_texts(stored)),
        "output_replaced": table.column("output_replaced").to_pandas().astype("boolean").to_numpy(),
    }
    nothing = pd.arrays.IntegerArray(np.zeros(len(table), np.int64), np.ones(len(table), np.bool_))
    for name in _NOT_RECORDED:
        data[name] = nothing.copy()
    data["output_replaced"] = pd.array(data["output_replaced"], dtype="boolean")
    frame = pd.DataFrame({name: data[name] for name in CALL_COLUMNS})
    frame.index = pd.Index(np.arange(len(table)), name="call")
    return frame


def column(table: pa.Table, name: str) -> Ints:
    """A column that has no nulls, as an array."""
    return np.asarray(table.column(name).to_numpy())


def values_and_known(table: pa.Table, name: str) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """A nullable integer column as values (0 where unknown) and where they are known."""
    values = table.column(name)
    known = np.asarray(values.is_valid().to_numpy(), np.bool_)
    return np.asarray(values.fill_null(0).to_numpy()), known


def nullable(table: pa.Table, name: str) -> pd.arrays.IntegerArray:
    """A nullable integer column for a DataFrame."""
    values, known = values_and_known(table, name)
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


def nullable_codes(table: pa.Table, name: str) -> Ints:
    """A column of keys, -1 where there is none."""
    values, known = values_and_known(table, name)
    return np.where(known, values, -1)


def coded(codes: Ints, texts: list[str]) -> Any:
    """Texts by key as a categorical; equal texts are one category."""
    return _distinct((codes, texts))


def categorical(codes: Ints, texts: list[str]) -> Any:
    """A categorical column from codes; -1 is null."""
    from_codes: Any = pd.Categorical.from_codes
    return from_codes(codes, texts)


def _distinct(coded_texts: tuple[Ints, list[str]]) -> Any:
    codes, texts = coded_texts
    place: dict[str, int] = {}
    first = np.array([place.setdefault(text, len(place)) for text in texts] or [0], np.int64)
    return categorical(np.where(codes >= 0, first[codes], -1), list(place))


def names(stored: Stored, root: Ints, module: Ints) -> tuple[Ints, list[str]]:
    """Names of modules below their roots, as keys into a list of names; a pair without a name has an empty one."""
    table = stored.table("names")
    pair = column(table, "root") << 32 | column(table, "module")
    texts = [*table.column("name").to_pylist(), ""]
    order = np.argsort(pair)
    wanted = root << 32 | module
    if not len(pair):
        return np.zeros(len(wanted), np.int64), [""]
    at = np.minimum(np.searchsorted(pair[order], wanted), len(pair) - 1)
    found = order[at]
    return np.where(pair[found] == wanted, found, len(texts) - 1), texts


def commonest(keys: Ints, codes: Ints, count: int) -> Ints:
    """For each key the code that it has most often, -1 for none."""
    result = np.full(count, -1, np.int64)
    some = codes >= 0
    pairs, times = np.unique(keys[some] << 32 | codes[some], return_counts=True)
    order = np.argsort(times, kind="stable")
    result[pairs[order] >> 32] = pairs[order] & 0xFFFFFFFF
    return result


def error_texts(stored: Stored) -> list[str]:
    """`Type: first line` of each error, the type alone where no message was kept."""
    table = stored.table("errors")
    pairs = zip(table.column("type").to_pylist(), table.column("message").to_pylist(), strict=False)
    return [f"{kind}: {message}" if message else kind for kind, message in pairs]
