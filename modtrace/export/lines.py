"""Rows as text, a part of them at a time: columns are turned into texts and joined by Arrow, not row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.analysis.calls import CallRows
from modtrace.export.target import Tick
from modtrace.trace.reader import Stored

PART_ROWS: Final = 1 << 15
"""Rows that are in memory as text at a time: some tens of megabytes where names and signatures are long."""

Ints = npt.NDArray[np.int64]


def ranges(count: int, tick: Tick) -> Iterator[tuple[int, int]]:
    """Ranges that cover `count` rows in order, each told to `tick` when it has been used."""
    for low in range(0, count, PART_ROWS):
        high = min(low + PART_ROWS, count)
        yield low, high
        tick(high, count)


def parts(stored: Stored, tick: Tick) -> Iterator[pd.DataFrame]:
    """The rows of `calls` in order, a part at a time; categories are the same in every part."""
    rows = CallRows(stored)
    for low, high in ranges(len(rows), tick):
        yield rows.frame(low, high)


class TextColumns:
    """Columns of parts as Arrow texts, null where they are. What is said of each category is made once.

    Args:
        show: how a text is written.
    """

    def __init__(self, show: Callable[[str], str]) -> None:
        self._show = show
        self._shown: dict[str, pa.Array] = {}

    def of(self, part: pd.DataFrame, name: str) -> pa.Array:
        """A column; texts by `show`, numbers in digits (`nan`, `inf` as texts), flags as true and false."""
        column: Any = part[name]
        if isinstance(column.dtype, pd.Float64Dtype):
            return self._doubles(column)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            return pa.array(column).cast(pa.string())
        if name not in self._shown:
            categories = [self._show(str(text)) for text in column.cat.categories]
            self._shown[name] = pa.array(categories, pa.string())
        return chosen(self._shown[name], column.cat.codes.to_numpy())

    def _doubles(self, column: pd.Series[float]) -> pa.Array:
        known = ~column.isna().to_numpy()  # NaN is a value
        values = column.to_numpy(np.float64, na_value=0.0)
        texts = digits(values, known)
        if np.isfinite(values).all():
            return texts
        names = pa.array([self._show(text) for text in ("nan", "inf", "-inf")], pa.string())
        code = np.select([np.isnan(values), values == np.inf, values == -np.inf], [0, 1, 2], -1)
        return pc.coalesce(chosen(names, code), texts)


def chosen(texts: pa.Array, codes: npt.NDArray[Any]) -> pa.Array:
    """TextColumns by position, null for -1."""
    return (
        texts.take(pa.array(np.maximum(codes, 0), mask=codes < 0))
        if len(texts)
        else pa.nulls(len(codes), pa.string())
    )


def digits(values: npt.NDArray[Any], known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Numbers as texts, null where they are not known."""
    return pa.array(values, mask=None if known is None else ~known, from_pandas=False).cast(pa.string())


def joined(*pieces: Any, null: str = "", between: str = "") -> pa.Array:
    """One text a row from texts and Arrow columns of texts; `null` stands for what is null."""
    return pc.binary_join_element_wise(*pieces, between, null_handling="replace", null_replacement=null)


def labelled(label: str, texts: pa.Array) -> pa.Array:
    """`label` in front of each text, null where there is none."""
    return pc.binary_join_element_wise(label, texts, "")


def content(lines: pa.Array | pa.ChunkedArray) -> bytes:
    """All texts of a column, one behind the other."""
    if isinstance(lines, pa.ChunkedArray):
        return b"".join(content(chunk) for chunk in lines.chunks)
    if not len(lines):
        return b""
    _, offsets, data = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return data.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes() if data is not None else b""
