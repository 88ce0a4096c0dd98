"""Polars and DuckDB read the Parquet file: the same values, types that keep what is not known apart from 0."""

from __future__ import annotations

import duckdb
import polars as pl
import pytest
import torch
from torch import nn

import modtrace
from modtrace.trace.dataframes import CALLS

POLARS = {"int64": pl.Int64, "Int64": pl.Int64, "Float64": pl.Float64, "boolean": pl.Boolean}
DUCKDB = {
    "int64": "BIGINT", "Int64": "BIGINT", "Float64": "DOUBLE", "boolean": "BOOLEAN", "category": "VARCHAR",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A trace and its Parquet file; one call raises, most of memory is not known."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with modtrace.trace(values=(0, 1)) as trace:
        for size in (2, 5):
            model(torch.ones(size, 3)).sum().backward()
        with pytest.raises(RuntimeError):
            model(torch.ones(2, 7))
    path = tmp_path_factory.mktemp("parquet") / "it's.parquet"
    trace.to_parquet(path)
    return trace, path


def plain(values):
    """Python's own values, None for what is not known."""
    return [None if value is None or value != value else value for value in values]  # noqa: PLR0124 - NaN


def expected(trace, name):
    column = trace.calls[name].astype(object)
    return plain(column.where(column.notna(), None).tolist())


def test_polars(written):
    trace, path = written
    frame = pl.read_parquet(path)
    assert frame["call"].to_list() == list(range(len(trace.calls)))
    for shown in CALLS:
        series = frame[shown.name]
        texts = shown.type not in POLARS
        assert (
            isinstance(series.dtype, (pl.Categorical, pl.String))
            if texts
            else series.dtype == POLARS[shown.type]
        )
        assert series.to_list() == expected(trace, shown.name), shown.name
    slowest = frame.lazy().group_by("name").agg(pl.col("self_ns").sum()).collect()
    sums = trace.calls.groupby("name", observed=True)["self_ns"].sum().to_dict()
    assert {name: ns for name, ns in slowest.iter_rows() if name in sums} == sums


def test_duckdb(written):
    trace, path = written
    with duckdb.connect() as connection:
        file = connection.read_parquet(str(path))
        types = dict(zip(file.columns, map(str, file.types), strict=True))
        rows = file.order("call").fetchall()
        for at, shown in enumerate(CALLS):
            assert types[shown.name] == DUCKDB[shown.type], shown.name
            found = [row[file.columns.index(shown.name)] for row in rows]
            assert found == expected(trace, shown.name), (at, shown.name)
        raised = connection.execute(
            "select count(*), min(error) from read_parquet(?) where status = 'raised'", [str(path)]
        ).fetchone()
    assert raised[0] == 2
    assert raised[1].startswith("RuntimeError: mat1")


def test_what_is_not_known_stays_unknown(written):
    trace, path = written
    frame = pl.read_parquet(path)
    assert trace.calls["memory_peak_bytes"].isna().all()
    assert frame["memory_peak_bytes"].null_count() == len(frame)
    assert 0 < frame["output_minimum"].null_count() < len(frame)
    assert frame["outputs"].null_count() == int(trace.calls["outputs"].isna().sum()) > 0
