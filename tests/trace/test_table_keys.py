"""Keys and their positions, against dictionaries."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from modtrace.errors import TraceError
from modtrace.trace.table_keys import gapless, ints, last_of_each, last_rows, position


@pytest.mark.parametrize("keys", [[], [0], [0, 1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [5], [2, 9, 10]])
def test_positions(keys):
    values = [-1, 0, 1, 2, 3, 4, 9, 10, 11, 2**40]
    places = {key: index for index, key in enumerate(keys)}
    for part in (values, [value for value in values if value in places], []):
        index, known = position(np.array(part, np.int64), np.array(keys, np.int64))
        assert known.tolist() == [value in places for value in part]
        assert index[known].tolist() == [places[value] for value in part if value in places]
        assert all(0 <= place < max(len(keys), 1) for place in index.tolist()), "may be looked up"
    assert gapless(np.array(keys, np.int64)) is (bool(keys) and keys == list(range(len(keys))))


@pytest.mark.parametrize("seed", range(30))
def test_the_last_row_of_each(seed):
    rng = random.Random(seed)
    keys = [rng.choice((0, 1, 2, 5, 9)) for _ in range(rng.randint(0, 12))]
    last = {key: row for row, key in enumerate(keys)}
    expected = [last[key] for key in sorted(last)]
    rows = last_rows(np.array(keys, np.int64), "module")
    if keys == sorted(set(keys)):
        assert rows is None
    else:
        assert rows.tolist() == expected
    table = pa.table({"module": pa.array(keys, pa.int32()), "row": pa.array(range(len(keys)), pa.int64())})
    assert last_of_each(table, "module")["row"].to_pylist() == expected
    assert ints(table, "module").tolist() == keys
    assert ints(table, "module").dtype == np.int64


def test_keys_below_zero():
    with pytest.raises(TraceError, match="a module has a number below zero"):
        last_rows(np.array([0, -1]), "module")
