"""Every table as CSV and Parquet, by the command and by the method, read back and compared with the DataFrame."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import modtrace
from modtrace.cli import main
from modtrace.trace.dataframes import EXPORTED, FRAMES, INDEX, exported_columns, units


class Net(nn.Module):
    """One of its layers never runs; the name of another begins like a formula."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        self.spare = nn.Linear(9, 9)
        self.add_module("=x", nn.Identity())

    def forward(self, x):
        x = getattr(self, "=x")(self.body(x))
        x.sum().item()
        return x


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trace with rows in all tables that need no device."""
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with modtrace.trace(memory=(0, 2), kernels=3, syncs=True, values=(0, 2), rollups=True) as recorded:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    return recorded.save(tmp_path_factory.mktemp("tables") / "x.mtrace")


@pytest.fixture
def trace(saved):
    return modtrace.load(saved)


def frame_of(trace, table):
    frame = trace.series() if table == "memory" else getattr(trace, table)
    return frame.reset_index() if EXPORTED[table] in INDEX else frame


def values_of(frame, shown):
    """Values of a column as Python has them, None for null."""
    column = frame[shown.name]
    if shown.type == "list":
        return [list(value) for value in column]
    return [None if unknown else value for value, unknown in zip(column.tolist(), column.isna(), strict=True)]


def test_the_trace_has_rows_to_compare(trace):
    empty = {table for table in EXPORTED if not len(frame_of(trace, table))}
    assert empty <= {"gaps", "compilations", "findings", "nonfinite", "collectives"}


@pytest.mark.parametrize("table", EXPORTED)
def test_csv(trace, table):
    out = io.StringIO(newline="")
    trace.to_csv(out, table=table, raw=True)
    rows = list(csv.reader(io.StringIO(out.getvalue(), newline=""), strict=True))
    columns, frame = exported_columns(table), frame_of(trace, table)
    assert rows[0] == [shown.name for shown in columns] == list(frame.columns)
    for position, shown in enumerate(columns):
        cells = [row[position] for row in rows[1:]]
        values = values_of(frame, shown)
        if shown.type == "list":
            assert [json.loads(cell) for cell in cells] == values
        elif "bool" in shown.type:
            assert cells == ["" if value is None else str(value).lower() for value in values]
        elif shown.type == "Float64":
            assert [float(cell) if cell else None for cell in cells] == values
        else:
            assert cells == ["" if value is None else str(value) for value in values], shown.name


@pytest.mark.parametrize("table", EXPORTED)
def test_parquet(trace, table, tmp_path):
    path = tmp_path / "x.parquet"
    trace.to_parquet(path, table=table)
    schema, read, frame = pq.read_schema(path), pd.read_parquet(path), frame_of(trace, table)
    if EXPORTED[table] in INDEX:
        assert read.index.name == INDEX[EXPORTED[table]]
        read = read.reset_index()
    assert list(read.columns) == list(frame.columns)
    for shown in exported_columns(table):
        assert values_of(read, shown) == values_of(frame, shown), shown.name
        about = schema.field(shown.name).metadata
        assert about[b"description"].decode() == shown.doc
        assert about.get(b"unit", b"").decode() == shown.unit
    assert json.loads(schema.metadata[b"modtrace"])["table"] == table


@pytest.mark.parametrize("table", EXPORTED)
def test_units_are_in_attrs(trace, table):
    frame = trace.series() if table == "memory" else getattr(trace, table)
    assert frame.attrs["units"] == units(FRAMES[EXPORTED[table]])
    assert all(name.endswith(unit) for name, unit in frame.attrs["units"].items() if unit in ("ns", "bytes"))


def test_the_units_of_a_series(trace):
    assert trace.series("body.0").attrs["units"]["self_ns"] == "ns"


def test_cells_that_look_like_formulas(trace):
    out = io.StringIO(newline="")
    trace.to_csv(out, table="modules")
    assert "'=x" in out.getvalue()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_command(saved, trace, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    main(["export", str(saved), "-t", kind, "--table", "steps"])
    expected = io.BytesIO()
    getattr(trace, f"to_{kind}")(expected, table="steps")
    assert (tmp_path / f"x.steps.{kind}").read_bytes() == expected.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-t", "csv", "--table", "modulse"], "there is no table 'modulse'; did you mean modules?"),
        (["-t", "csv", "--table", "qqqq"], "it is one of calls, modules, steps, "),
        (["-t", "json", "--table", "steps"], "-t json takes no --table; csv and parquet do"),
    ],
)
def test_tables_that_cannot_be_written(saved, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        main(["export", str(saved), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_table_that_is_not_known(trace, tmp_path):
    for write in (trace.to_csv, trace.to_parquet):
        with pytest.raises(modtrace.UsageError, match=r"^there is no table 'step'; did you mean steps\?$"):
            write(tmp_path / "x", table="step")
    with pytest.raises(modtrace.UsageError, match="did you mean steps"):
        trace.columns("step")
    assert not list(tmp_path.iterdir())


def test_columns(trace):
    described = trace.columns("steps")
    assert described.index.tolist() == list(trace.steps.columns)
    assert described.loc["duration_ns", "unit"] == "ns"
    assert described["description"].ne("").all()
