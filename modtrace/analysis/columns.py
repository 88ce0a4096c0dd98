"""Columns of Arrow tables as NumPy arrays and as columns of a DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.trace.batch_columns import values_and_nulls, values_of
from modtrace.trace.call_table import CODED, CallTable, constant

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]


def column(table: pa.Table | CallTable, name: str) -> Ints:
    """A column that has no nulls, as an array."""
    if isinstance(table, CallTable):
        return table.values(name)
    values: Ints = values_of(table.column(name))
    return values


def values_and_known(table: pa.Table | CallTable, name: str) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """A nullable integer column as values (0 where unknown) and where they are known."""
    if isinstance(table, CallTable):
        values = table.values(name)
        return np.maximum(values, 0) if name in CODED else values, table.known(name)
    values, nulls = values_and_nulls(table.column(name))
    return values, ~nulls


def distinct_pairs(first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct pairs of keys in order, and which of them each row has; keys are not below zero.

    Where there are few possible pairs they are marked off instead of sorted: a tenth of the time for a million calls.
    """
    if not len(first):
        return first, second, first
    width = int(second.max()) + 1
    possible = (int(first.max()) + 1) * width
    if possible > 4 * len(first) + (1 << 16):
        pairs, which = np.unique(first << 32 | second, return_inverse=True)
        return pairs >> 32, pairs & 0xFFFFFFFF, which
    code = first * width + second
    occurs = np.zeros(possible, np.bool_)
    occurs[code] = True
    pairs = np.flatnonzero(occurs)
    number = np.zeros(possible, np.int64)
    number[pairs] = np.arange(len(pairs))
    return pairs // width, pairs % width, number[code]


def distinct_keys(keys: Ints) -> Ints:
    """Distinct keys in order; those below zero, which are none, are left out.

    Keys are counted off instead of hashed where none is far beyond the number of rows: a tenth of the time.
    """
    if constant(keys):
        keys = keys[:1]
    if not len(keys) or int(keys.max()) > 4 * len(keys) + (1 << 16):
        return np.unique(keys[keys >= 0])
    codes = keys if int(keys.min()) >= 0 else keys[keys >= 0]
    return np.flatnonzero(np.bincount(codes))


def counted_pairs(first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
    """Distinct pairs of keys in order, and how many rows have each; keys are not below zero.

    For a million calls half of the time of `distinct_pairs`.
    """
    if not len(first):
        return first, second, first
    width = int(second.max()) + 1
    possible = (int(first.max()) + 1) * width
    code = first * width
    code += second
    if possible > 4 * len(first) + (1 << 16):
        pairs, times = np.unique(code, return_counts=True)
    else:
        times = np.bincount(code, minlength=possible)
        pairs = np.flatnonzero(times)
        times = times[pairs]
    return pairs // width, pairs % width, times


def nullable(table: pa.Table | CallTable, name: str) -> pd.arrays.IntegerArray:
    """A nullable integer column for a DataFrame."""
    import pandas as pd

    if isinstance(table, CallTable):
        stored, null = table.stored(name)
        nothing = constant(stored) and (not stored[0] or (name in CODED and stored[0] < 0))
        values = np.zeros(len(stored), np.int64) if nothing else stored.astype(np.int64)
        if nothing and name in CODED:
            return pd.arrays.IntegerArray(values, np.full(len(values), bool(stored[0] < 0)))
        if name in CODED:
            null = stored < 0
            np.maximum(values, 0, out=values)
        return pd.arrays.IntegerArray(
            values, np.zeros(len(values), np.bool_) if null is None else null.copy()
        )
    values, known = values_and_known(table, name)
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


def floats(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> pd.arrays.FloatingArray:
    """A nullable column of doubles for a DataFrame: an array of its own. NaN is a value."""
    import pandas as pd

    if constant(known) and not known[0]:  # zeros that nobody reads take no memory
        return pd.arrays.FloatingArray(np.zeros(len(values)), np.ones(len(values), np.bool_))
    return pd.arrays.FloatingArray(values.copy(), ~known)


def integers(table: CallTable, name: str) -> Ints:
    """A column of calls that has no nulls, for a DataFrame: an array of its own."""
    values = table.stored(name)[0]
    if constant(values) and not values[0]:  # such zeros take no memory until they are written to
        return np.zeros(len(values), np.int64)
    return values.astype(np.int64)


def nullable_codes(table: pa.Table | CallTable, name: str) -> Ints:
    """A column of keys, -1 where there is none."""
    if isinstance(table, CallTable) and name in CODED:
        return table.values(name)
    values, known = values_and_known(table, name)
    return np.where(known, values, -1)


def taken(values: Ints, rows: Ints, missing: int = -1) -> Ints:
    """Values of rows, `missing` where a row is -1; there may be no values at all."""
    return np.append(values, missing)[rows]


def codes_at(table: CallTable, name: str, rows: Ints) -> Ints:
    """Keys of some rows, -1 where there is none; the time is that of those rows, not of the table."""
    return table.stored(name)[0][rows].astype(np.int64)


def values_at(table: CallTable, name: str, rows: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """As `values_and_known`, of some rows."""
    values, null = table.stored(name)
    return values[rows].astype(np.int64), np.ones(len(rows), np.bool_) if null is None else ~null[rows]


def order_keys(
    values: npt.NDArray[Any], known: npt.NDArray[np.bool_], *, descending: bool
) -> npt.NDArray[Any]:
    """Keys that a sort from the least up puts into order: what is not known comes last, NaN beside infinity."""
    sign = -1 if descending else 1
    if values.dtype != np.float64:
        return np.where(known, sign * values, np.iinfo(np.int64).max)
    return np.where(known, sign * np.where(np.isnan(values), np.inf, values), np.nan)


def categorical(codes: Ints, texts: list[str]) -> Any:
    """A categorical column from codes; -1 is null."""
    import pandas as pd

    return _categorical(codes.astype(_code_type(len(texts))), pd.CategoricalDtype(texts))


def _categorical(codes: npt.NDArray[Any], dtype: pd.CategoricalDtype) -> Any:
    """A categorical of codes that are below the number of categories, or -1."""
    import pandas as pd

    from_codes: Any = pd.Categorical.from_codes
    return from_codes(codes, dtype=dtype, validate=False)


def _code_type(count: int) -> Any:
    """The type that pandas has the codes of so many categories in."""
    return next(dtype for dtype in (np.int8, np.int16, np.int32, np.int64) if count < np.iinfo(dtype).max)


def nullable_flags(table: CallTable, name: str) -> pd.arrays.BooleanArray:
    """A nullable boolean column of calls for a DataFrame."""
    import pandas as pd

    return pd.arrays.BooleanArray(np.array(table.stored(name)[0], np.bool_), ~table.known(name))


class DistinctTexts:
    """Texts by key as categoricals; equal texts are one category."""

    def __init__(self, texts: list[str]) -> None:
        import pandas as pd

        place: dict[str, int] = {}
        first = [place.setdefault(text, len(place)) for text in texts]
        self._first = np.array([*first, -1], _code_type(len(place)))
        self._type = pd.CategoricalDtype(list(place))

    def column(self, codes: Ints) -> Any:
        """The texts of keys; of -1 null."""
        if constant(codes):
            return _categorical(np.full(len(codes), self._first[codes[0]]), self._type)
        return _categorical(self._first[codes], self._type)


def distinct_texts(codes: Ints, texts: list[str]) -> Any:
    """Texts by key as a categorical, -1 for null; equal texts are one category."""
    return DistinctTexts(texts).column(codes)


def begun(first: Ints, count: int) -> Ints:
    """For each of `count` positions how many of `first` are at it or before it."""
    return np.cumsum(np.bincount(first[first < count], minlength=count))
