"""Tables as files: plain Arrow streams, and what a write that fails leaves behind."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest
import torch

import modtrace
from modtrace.errors import SizeLimitError, WriteError
from modtrace.trace.arrow import CONTROL, WRITTEN, control_total
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import TABLES
from modtrace.trace.writer import Writer


def errors(*numbers):
    rows = {column.name: [None] * len(numbers) for column in TABLES["errors"]}
    return rows | {"error": list(numbers), "type": ["ValueError"] * len(numbers)}


def sizes(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.parametrize("closed", [True, False])
def test_a_table_is_an_arrow_stream(tmp_path, closed):
    writer = Writer(tmp_path)
    writer.append("errors", errors(1, 2), at_ns=7)
    writer.append("gaps", {"at_ns": np.array([4]), "reason": ["x"], "lost_calls": np.array([9])}, at_ns=8,
                  nulls={"lost_calls": np.array([True])})  # fmt: skip
    writer.append("errors", errors(3), at_ns=9)
    assert writer.rows == {"errors": 3, "gaps": 1}
    assert writer.bytes_written == sum(sizes(tmp_path).values())
    if closed:
        writer.close()
        writer.close()
        with pytest.raises(WriteError, match="closed"):
            writer.append("errors", errors(4), at_ns=10)
    with pa.ipc.open_stream((tmp_path / "errors.arrows").read_bytes()) as stream:
        batches = [stream.read_next_batch_with_custom_metadata() for _ in range(2)]
        with pytest.raises(StopIteration) if closed else pytest.raises((StopIteration, pa.ArrowInvalid)):
            stream.read_next_batch()
    assert [batch["error"].to_pylist() for batch, _ in batches] == [[1, 2], [3]]
    assert [int(metadata[WRITTEN]) for _, metadata in batches] == [7, 9]
    assert [int(metadata[CONTROL], 16) for _, metadata in batches] == [
        control_total(batch) for batch, _ in batches
    ]
    with pa.ipc.open_stream((tmp_path / "gaps.arrows").read_bytes()) as stream:
        assert stream.read_next_batch().to_pylist() == [{"at_ns": 4, "reason": "x", "lost_calls": None}]
    with_rows = {name for name, size in sizes(tmp_path).items() if size}
    assert with_rows == (
        {f"{name}.arrows" for name in TABLES} if closed else {"errors.arrows", "gaps.arrows"}
    )


@pytest.mark.parametrize("damage", ["longer", "shorter", "removed"])
def test_a_file_that_another_program_changes_is_left_alone(tmp_path, damage):
    writer = Writer(tmp_path)
    writer.append("errors", errors(1), at_ns=0)
    path = tmp_path / "errors.arrows"
    if damage == "removed":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (1 if damage == "longer" else -1))
    before = sizes(tmp_path)
    with pytest.raises(WriteError, match="removed or changed"):
        writer.append("errors", errors(2), at_ns=0)
    with pytest.raises(WriteError, match="removed or changed"):
        writer.append("gaps", {"at_ns": [1], "reason": ["x"], "lost_calls": [None]}, at_ns=0)
    assert sizes(tmp_path) == before


def test_writes_that_take_a_part_at_a_time(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:100]))
    writer = Writer(tmp_path)
    writer.append("errors", errors(*range(50)), at_ns=0)
    writer.close()
    monkeypatch.undo()
    with pa.ipc.open_stream((tmp_path / "errors.arrows").read_bytes()) as stream:
        assert stream.read_all()["error"].to_pylist() == list(range(50))


@pytest.mark.parametrize("room", [0, 1])
def test_a_limit_is_reached_by_the_byte_that_is_too_many(tmp_path, room):
    (tmp_path / "whole").mkdir()
    unlimited = Writer(tmp_path / "whole")
    unlimited.append("errors", errors(1), at_ns=0)
    limit = unlimited.bytes_written - 1 + room
    writer = Writer(tmp_path, max_bytes=limit)
    if room:
        writer.append("errors", errors(1), at_ns=0)
        assert writer.bytes_written == limit
    else:
        with pytest.raises(WriteError, match="limit"):
            writer.append("errors", errors(1), at_ns=0)
        assert writer.bytes_written == 0


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_failing_write_ends_the_recording_not_the_program(tmp_path, monkeypatch, fails_at):
    real, count = os.write, [0]

    def write(descriptor, data):
        if len(data) > 100:
            count[0] += 1
            if count[0] >= fails_at:
                real(descriptor, data[: len(data) // 2])
                raise OSError(28, "No space left on device")
        return real(descriptor, data)

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    x = torch.ones(2, 3)
    expected = model(x)
    monkeypatch.setattr(os, "write", write)
    with (
        pytest.warns(RuntimeWarning, match="cannot be written"),
        modtrace.trace(path=tmp_path / "t.mtrace", flops=False) as t,
    ):
        for _ in range(6):
            assert torch.equal(model(x), expected)
            t._tracer.flush()
    monkeypatch.undo()
    stored = open_trace(tmp_path / "t.mtrace")
    calls = stored.table("calls")
    inside = calls.column("duration_ns").null_count  # a block is written inside a call when a second is over
    assert calls.num_rows % 3 == 0 or inside == 1
    assert t._tracer.gaps


def test_the_size_limit_is_kept(tmp_path):
    writer = Writer(tmp_path, max_bytes=2_000)
    rows = {column.name: [None] for column in TABLES["errors"]}
    rows |= {"error": [1], "type": ["x" * 400], "arguments": [[]], "left_calls": [True]}
    with pytest.raises(WriteError, match="limit"):
        for _ in range(20):
            writer.append("errors", rows, at_ns=0)
    assert writer.bytes_written <= 2_000
    with pytest.raises(WriteError):
        writer.append("errors", rows, at_ns=0)


def gaps(text):
    return {"at_ns": [1], "reason": [text], "lost_calls": [None]}


def test_rows_that_are_not_final_are_replaced_as_a_whole(tmp_path):
    writer = Writer(tmp_path)
    for text in ("first", "second" * 50, "third"):
        writer.replace("gaps", gaps(text), at_ns=3)
        assert writer.bytes_written == sum(sizes(tmp_path).values())
        with pa.ipc.open_stream((tmp_path / "gaps.latest").read_bytes()) as stream:
            assert stream.read_all()["reason"].to_pylist() == [text]
        assert (tmp_path / "gaps.latest").stat().st_mode & 0o777 == 0o600
    writer.replace("gaps", {}, at_ns=3)
    assert set(sizes(tmp_path)) == {f"{table}.arrows" for table in TABLES}
    assert writer.bytes_written == 0
    writer.close()
    with pytest.raises(WriteError, match="closed"):
        writer.replace("gaps", gaps("late"), at_ns=3)


def test_sums_go_on_in_the_part_of_the_size_that_is_theirs(tmp_path):
    writer = Writer(tmp_path, max_bytes=10_000, sums_bytes=4_000)
    with pytest.raises(SizeLimitError, match="limit of 10,000 bytes"):
        for number in range(100):
            writer.append("errors", errors(number), at_ns=0)
    assert 5_000 < writer.bytes_written <= 6_000
    before = writer.rows["errors"]
    with pytest.raises(WriteError, match="limit") as ended:
        for _ in range(100):
            writer.append("gaps", gaps("x"), at_ns=0)
    assert not isinstance(ended.value, SizeLimitError)
    assert 9_000 < writer.bytes_written <= 10_000
    assert writer.rows["errors"] == before


def test_a_folder_that_is_gone_ends_the_writing_of_rows_that_are_not_final(tmp_path):
    folder = tmp_path / "rank-0"
    folder.mkdir()
    writer = Writer(folder)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    for _ in range(2):
        with pytest.raises(WriteError) as ended:
            writer.replace("gaps", gaps("x"), at_ns=0)
        assert ended.value.cause == "the trace was removed"


@pytest.mark.parametrize("length", range(1, 18))
def test_a_control_total_covers_each_null(length):
    """Whichever value is null, and however many there are: another total."""
    totals = {
        control_total(pa.record_batch({"x": pa.array(np.arange(length), mask=np.arange(length) == at)}))
        for at in range(length)
    }
    assert len(totals) == length
