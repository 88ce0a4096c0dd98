# ruff: noqa: E501
"""Cells that cannot be true, traces that are too large, folders with odd names: one clear error on opening."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

import pyarrow as pa
import pytest
import torch

import modtrace
from modtrace.errors import TraceError
from modtrace.trace import merge
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import STEP, TABLES, bounds
from tests.fuzz.mutate import Image
from tests.fuzz.traces import TRACES


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in ("watched", "failed", "killed", "forward", "device", "nonfinite", "thinned", "collective"):
        TRACES[name](folder / f"{name}.mtrace")
    with modtrace.trace(path=folder / "compiled.mtrace"):
        torch.compile(torch.nn.ReLU(), backend="eager")(torch.ones(2))
    names = (
        "watched",
        "failed",
        "killed",
        "forward",
        "compiled",
        "device",
        "nonfinite",
        "thinned",
        "collective",
    )
    return [Image(folder / f"{name}.mtrace") for name in names]


def with_cell(images, path, table, column, value):
    """A trace with rows in a table, one cell of which is another; None where no trace here has any."""
    for image in images:
        for folder, content in image.folders.items():
            rows = content.get(f"{table}.arrows")
            if not isinstance(rows, pa.Table) or not len(rows):
                continue
            damaged = image.copy()
            values = rows.column(column).to_pylist()
            values[len(values) // 2] = value
            at = rows.schema.get_field_index(column)
            field = rows.schema.field(column)
            damaged.folders[folder][f"{table}.arrows"] = rows.set_column(
                at, field, pa.array(values, field.type)
            )
            damaged.write(path)
            return path
    return None


COLUMNS = [(table, column) for table, columns in TABLES.items() for column in columns]


@pytest.mark.parametrize(
    ("table", "column"), COLUMNS, ids=lambda one: one if isinstance(one, str) else one.name
)
def test_a_null_where_none_is_and_numbers_out_of_range(images, tmp_path, table, column):
    values = [] if column.nullable else [None]
    if column.type in ("int8", "int32", "int64"):
        least, most = bounds(table, column)
        width = int(column.type[3:]) - 1
        values += [value for value in (least - 1, most + 1) if -(1 << width) <= value < 1 << width]
    for value in values:
        path = with_cell(images, tmp_path / "t.mtrace", table, column.name, value)
        assert path is not None, "a table without rows in all traces"
        with pytest.raises(TraceError, match="contradicts itself") as caught:
            open_trace(path).table("calls")
        assert column.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_sum_that_no_float_holds_exactly(images, tmp_path):
    path = with_cell(images, tmp_path / "t.mtrace", "work", "flops", (1 << 61) + 1)
    assert path is not None
    assert (1 << 61) + 1 in open_trace(path).table("work")["flops"].to_pylist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = modtrace.load(path).steps["flops_per_s"].dropna()
    assert (rates >= 0).all()


def test_the_mark_of_a_step_holds_nothing(images, tmp_path):
    image = images[3].copy()
    ((folder, tables),) = image.folders.items()
    rows = tables["calls.arrows"]
    parents = set(rows.column("parent").to_pylist())
    kinds = [
        STEP if call in parents else kind
        for call, kind in zip(rows.column("call").to_pylist(), rows.column("kind").to_pylist(), strict=True)
    ]
    at = rows.schema.get_field_index("kind")
    image.folders[folder]["calls.arrows"] = rows.set_column(
        at, rows.schema.field(at), pa.array(kinds, pa.int8())
    )
    image.write(tmp_path / "t.mtrace")
    stored = open_trace(tmp_path / "t.mtrace")
    left = stored.table("calls").to_pylist()
    assert not any(row["kind"] == STEP and row["last_call"] != row["call"] for row in left)
    assert "the mark at the end of a step holds calls" in stored.table("gaps")["reason"][0].as_py()


def test_memory_that_was_freed_before_it_was_allocated(images, tmp_path):
    image = images[0].copy()
    ((_folder, tables),) = image.folders.items()
    rows = tables["allocations.arrows"].to_pylist()
    rows[1] |= {"freed_ns": rows[1]["at_ns"] - 1}
    tables["allocations.arrows"] = pa.Table.from_pylist(rows, tables["allocations.arrows"].schema)
    image.write(tmp_path / "t.mtrace")
    stored = open_trace(tmp_path / "t.mtrace")
    assert len(stored.table("allocations")) == len(rows) - 1
    assert "1 allocation left out" in stored.table("gaps")["reason"][0].as_py()


@pytest.mark.parametrize(
    "value", [[None], [{"path": None, "shape": [1], "dtype": "x", "device": "cpu", "layout": "s", "requires_grad": True}],
              [{"path": "0", "shape": [-5], "dtype": "x", "device": "cpu", "layout": "s", "requires_grad": True}]],
)  # fmt: skip
def test_nulls_and_sizes_inside_of_signatures(images, tmp_path, value):
    path = with_cell(images, tmp_path / "t.mtrace", "signatures", "tensors", value)
    with pytest.raises(TraceError, match="contradicts itself"):
        open_trace(path).table("calls")


@pytest.mark.parametrize(
    "name", ["rank-\u00b2", "rank-\u0663", "rank-", "rank--1", "rank-99999999999999999999", "rank-1e3"]
)
def test_folders_whose_names_are_no_ranks(images, tmp_path, name):
    image = images[1].copy()
    image.folders = {name: image.folders["rank-0"]}
    image.folders[name].pop("process.json")
    image.write(tmp_path / "t.mtrace")
    assert open_trace(tmp_path / "t.mtrace").processes[0].rank == 0
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) > 3


def test_a_budget_of_memory(images, tmp_path):
    images[0].write(tmp_path / "t.mtrace")
    with pytest.raises(TraceError, match="more than 2,000 bytes of memory"):
        open_trace(tmp_path / "t.mtrace", max_memory_bytes=2_000).table("calls")
    assert len(modtrace.load(tmp_path / "t.mtrace", max_memory_bytes=10_000_000).calls)


@pytest.mark.parametrize("verb", ["info", "view", "report", "export -t csv -o -"])
def test_the_budget_on_the_command_line(images, tmp_path, verb):
    images[1].write(tmp_path / "t.mtrace")
    words = [sys.executable, "-m", "modtrace", *verb.split(), "t.mtrace"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODTRACE_")}
    small = subprocess.run(
        [*words, "--max-memory", "1KB"], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert small.returncode in (2, 4)
    assert small.stdout == ""
    assert "more than 1,000 bytes of memory" in small.stderr
    assert small.stderr.count("\n") == 1
    env["MODTRACE_MAX_MEMORY"] = "1GB"
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, env=env, check=False).returncode == 0


def test_no_memory_left(images, tmp_path, monkeypatch):
    images[0].write(tmp_path / "t.mtrace")

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(merge, "merge", fails)
    with pytest.raises(TraceError, match="does not fit into memory"):
        open_trace(tmp_path / "t.mtrace").table("calls")


def test_no_process_folder(images, tmp_path):
    images[0].write(tmp_path / "t.mtrace")
    shutil.rmtree(tmp_path / "t.mtrace" / "rank-0")
    with pytest.raises(TraceError, match="holds no process"):
        modtrace.load(tmp_path / "t.mtrace")


def test_two_processes_of_one_rank(images, tmp_path):
    """A rank that was restarted: its steps are those of both."""
    image = images[0].copy()
    image.folders["rank-0.1"] = dict(image.folders["rank-0"])
    image.write(tmp_path / "t.mtrace")
    text = subprocess.run(
        [sys.executable, "-m", "modtrace", "info", "--steps", "t.mtrace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert text.returncode == 0, text.stderr
    assert text.stdout.count("rank 0") == 2
