"""Traces of an older and of a newer minor version open; only another major version is refused, with what to do."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pytest

import modtrace
from modtrace import __version__
from modtrace.errors import TraceError
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import MINOR_VERSION, TABLES, TABLES_SINCE, UNFINISHED, VERSION
from modtrace.views import console
from modtrace.views.live.plain_text import status_text
from tests.fuzz.exercise import exercise
from tests.fuzz.mutate import Image
from tests.fuzz.traces import TRACES

FRAMES = ("calls", "modules", "steps", "kernels", "syncs")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in ("watched", "failed"):
        TRACES[name](folder / f"{name}.mtrace")
    return {name: Image(folder / f"{name}.mtrace") for name in ("watched", "failed")}


def changed(image, path, change):
    """The trace with every table as `change(name, rows)` gives it; None leaves the file out."""
    other = image.copy()
    for content in other.folders.values():
        for file in [file for file in content if file.endswith(".arrows")]:
            rows = change(file.removesuffix(".arrows"), content.pop(file))
            if rows is not None:
                content[file] = rows
    other.write(path)
    return path


def without_new(name, rows):
    """A table as the first minor version wrote it."""
    new = [column.name for column in TABLES[name] if column.since]
    return None if name in TABLES_SINCE else rows.drop_columns(new)


def with_more(name, rows):
    """A table as a later version may write it: more columns, in another order."""
    count = len(rows)
    rows = rows.append_column("later_ns", pa.array(range(count), pa.int64()))
    rows = rows.append_column("later_names", pa.array([["a", None]] * count, pa.list_(pa.string())))
    rows = rows.append_column("later_share", pa.array([0.5] * count, pa.float32()))
    return rows.select(rows.column_names[::-1])


def test_new_columns_can_be_null():
    for name, columns in TABLES.items():
        for column in columns:
            assert 0 <= column.since <= MINOR_VERSION
            assert column.nullable or not column.since, f"{name}.{column.name}"
    assert set(TABLES_SINCE) <= set(TABLES)
    assert all(0 < since <= MINOR_VERSION for since in TABLES_SINCE.values())


@pytest.mark.parametrize("name", ["watched", "failed"])
def test_an_older_trace(images, tmp_path, name):
    images[name].write(tmp_path / "now.mtrace")
    path = changed(images[name], tmp_path / "old.mtrace", without_new)
    assert exercise(path) is not None
    now, old = modtrace.load(tmp_path / "now.mtrace"), modtrace.load(path)
    # Whether FLOPs that were looked up hold, and how a root is called, is in columns that are not there.
    unknown = ["flops", "flops_at_least", "root"]
    # Which steps were asked for is in a table that is not there, and more may have been watched.
    watched = ["memory_delta_bytes", "memory_peak_bytes", "saved_bytes"]
    for column in watched:
        known = now.calls[column].notna()
        assert old.calls[column][known].equals(now.calls[column][known])
    others = [*unknown, *watched]
    pd.testing.assert_frame_equal(now.calls.drop(columns=others), old.calls.drop(columns=others))
    assert old.steps["duration_ns"].equals(now.steps["duration_ns"])
    assert not [note for note in open_trace(path).notes if "records more" in note]
    assert status_text(path)


@pytest.mark.parametrize("name", ["watched", "failed"])
def test_a_newer_trace(images, tmp_path, name):
    images[name].write(tmp_path / "now.mtrace")
    image = images[name].copy()
    for content in image.folders.values():
        content["later.arrows"] = pa.table({"later": pa.array([1, 2], pa.int64())})
    image.run = json.dumps(
        json.loads(image.run) | {"schema_minor": MINOR_VERSION + 7, "modtrace": "9.9"}
    ).encode()
    image = Image(_written(image, tmp_path / "more.mtrace"))
    path = changed(image, tmp_path / "new.mtrace", lambda name, rows: with_more(name, rows))
    for folder in path.glob("rank-*"):
        (folder / "later.arrows").write_bytes(b"anything")
    now, new = modtrace.load(tmp_path / "now.mtrace"), modtrace.load(path)
    for frame in FRAMES:
        pd.testing.assert_frame_equal(getattr(now, frame), getattr(new, frame))
    stored = open_trace(path)
    text = console.summary(stored)
    notes = [note for note in stored.notes if "records more" in note]
    assert len(notes) == 1
    assert "modtrace 9.9" in notes[0]
    assert "table later" in notes[0]
    assert "more" in notes[0]
    assert "9.9" in text
    assert exercise(path) is not None


def _written(image, path):
    for content in image.folders.values():
        content.pop("later.arrows")
    image.write(path)
    return path


def test_a_column_that_was_always_there(images, tmp_path):
    drop = lambda name, rows: rows.drop_columns(["start_ns"]) if name == "calls" else rows  # noqa: E731
    path = changed(images["failed"], tmp_path / "t.mtrace", drop)
    with pytest.raises(
        TraceError, match=rf"calls\.arrows has columns .*format {VERSION}.*modtrace {__version__}"
    ):
        modtrace.load(path).summary()


@pytest.mark.parametrize(
    ("column", "kind"),
    [("start_ns", pa.int32()), ("later", pa.dictionary(pa.int8(), pa.string())), ("later", pa.string_view())],
)
def test_a_type_that_is_not_read(images, tmp_path, column, kind):
    def change(name, rows):
        if name != "calls":
            return rows
        if column in rows.column_names:
            return rows.set_column(
                rows.column_names.index(column), column, rows.column(column).cast(kind, safe=False)
            )
        return rows.append_column(column, pa.array([None] * len(rows), kind))

    path = changed(images["failed"], tmp_path / "t.mtrace", change)
    with pytest.raises(TraceError, match="columns"):
        modtrace.load(path).summary()


def test_a_column_twice(images, tmp_path):
    twice = lambda name, rows: rows.append_column("call", rows.column("call")) if name == "calls" else rows  # noqa: E731
    path = changed(images["failed"], tmp_path / "t.mtrace", twice)
    stored = open_trace(path)
    # One that was open when a block was written stands in another table too.
    assert all(status == UNFINISHED for status in stored.table("calls")["status"].to_pylist())
    assert any("columns that cannot be true" in note for note in stored.notes)


@pytest.mark.parametrize("version", [0, VERSION + 1, "1", None])
def test_another_major_version(images, tmp_path, version):
    image = images["failed"].copy()
    image.run = json.dumps(json.loads(image.run) | {"schema": version, "modtrace": "7.5"}).encode()
    image.write(tmp_path / "t.mtrace")
    with pytest.raises(TraceError) as raised:
        modtrace.load(tmp_path / "t.mtrace")
    message = str(raised.value)
    assert f"format {version if isinstance(version, int) else '?'}" in message
    assert f"reads format {VERSION}" in message
    assert f"modtrace {__version__}" in message
    assert "Open it with modtrace 7.5, or record it again" in message
