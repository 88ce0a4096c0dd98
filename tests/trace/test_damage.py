"""A trace that was cut, flipped, forged or planted: the whole part of it, or one clear error."""

from __future__ import annotations

import os
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modtrace
from modtrace.errors import TraceError, WriteError
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import RAISED, TABLES, UNFINISHED
from modtrace.trace.writer import Writer
from tests.fuzz.mutate import Image


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "t.mtrace"

    class Flushing(torch.nn.ReLU):
        """Has the calls around it written while they are open."""

        def forward(self, x):
            recording._tracer.flush()
            return super().forward(x)

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(Flushing()))
    with modtrace.trace(path=path) as recording:
        for _ in range(20):
            model(torch.randn(2, 3))
            recording._tracer.flush()
    return path


def assert_part_of(found, whole):
    """All rows up to one of them, as they were; but the end of a call may be lost where its start is not."""
    for row, true in zip(found, whole, strict=False):
        if row["status"] == UNFINISHED:
            known = (
                "call",
                "parent",
                "kind",
                "module",
                "root",
                "label",
                "mode",
                "depth",
                "start_ns",
                "inputs",
            )
            row, true = ({key: one[key] for key in known} for one in (row, true))
        assert row == true


def truth(path):
    return open_trace(path).table("calls").to_pylist()


def copied(trace, tmp_path):
    target = tmp_path / "copy.mtrace"
    modtrace.load(trace).save(target, force=True)
    return target


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_or_flipped(trace, tmp_path, data):
    whole = truth(trace)
    target = copied(trace, tmp_path)
    name = data.draw(st.sampled_from(["calls", "modules", "names", "signatures"]))
    file = target / "rank-0" / f"{name}.arrows"
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    try:
        stored = open_trace(target)
        found = stored.table("calls").to_pylist()
        modtrace.load(target).summary()
    except TraceError as error:
        assert "\n" not in str(error)
        return
    assert_part_of(found, whole)
    assert found == whole or stored.notes


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format":"modtrace","schema":99}', b'{"format":"other"}'],
)
def test_odd_run_file(trace, tmp_path, content):
    target = copied(trace, tmp_path)
    (target / "run.json").write_bytes(content)
    with pytest.raises(TraceError):
        open_trace(target)


def test_planted_files(trace, tmp_path):
    target = copied(trace, tmp_path)
    calls = target / "rank-0" / "calls.arrows"
    calls.unlink()
    os.mkfifo(calls)
    stored = open_trace(target)
    assert stored.table("calls")["status"].to_pylist() == [UNFINISHED]
    assert any("not a regular file" in note for note in stored.notes)
    calls.unlink()
    calls.symlink_to("/etc/passwd")
    assert open_trace(target).table("calls")["status"].to_pylist() == [UNFINISHED]


FORGERIES = {
    "cycle": ({"parent": 1}, "before its parent"),
    "own parent": ({"parent": 0}, "before its parent"),
    "ends before it starts": ({"last_call": 0}, "outlasts its parent"),
    "deep": ({"depth": 9}, "deeper than its parent"),
    "no such module": ({"module": 7}, "rows that are not there"),
    "no such signature": ({"inputs": 7}, "rows that are not there"),
    "no such status": ({"status": 9}, "status is 9"),
    "time below zero": ({"duration_ns": -1}, "duration_ns is -1"),
    "negative call": ({"call": -1}, "call is -1"),
    "more of its own than there is": (
        {"duration_ns": 10, "self_ns": 8, "tracer_ns": 3},
        "its own part of it",
    ),
    "raised without an error": ({"status": RAISED}, "an exception that is not there"),
}


def test_a_call_that_reaches_into_the_next(tmp_path):
    whole, path = tmp_path / "whole.mtrace", tmp_path / "forged.mtrace"
    with modtrace.trace(path=whole):
        layer = torch.nn.Linear(3, 4)
        layer(torch.ones(2, 3))
        layer(torch.ones(2, 3))
    image = Image(whole)
    rows = image.folders["rank-0"]["calls.arrows"]
    first, second = sorted(rows.column("call").to_pylist())
    forged = [{**row, "last_call": second} if row["call"] == first else row for row in rows.to_pylist()]
    image.folders["rank-0"]["calls.arrows"] = pa.Table.from_pylist(forged, rows.schema)
    image.write(path)
    with pytest.raises(TraceError, match="a call is inside one that is none of its parents"):
        open_trace(path).table("calls")


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_rows(tmp_path, name):
    """The row of a root call with one call inside says what cannot be true."""
    whole, path = tmp_path / "whole.mtrace", tmp_path / "forged.mtrace"
    with modtrace.trace(path=whole):
        torch.nn.Sequential(torch.nn.Linear(3, 4))(torch.ones(2, 3))
    image, (cells, told) = Image(whole), FORGERIES[name]
    image.write(path)
    assert len(open_trace(path).table("calls")) == 2
    rows = image.folders["rank-0"]["calls.arrows"]
    root = rows.column("parent").to_pylist().index(-1)
    forged = [{**row, **cells} if at == root else row for at, row in enumerate(rows.to_pylist())]
    image.folders["rank-0"]["calls.arrows"] = pa.Table.from_pylist(forged, rows.schema)
    image.write(path)
    with pytest.raises(TraceError, match="contradicts itself") as caught:
        open_trace(path).table("calls")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_killed_between_the_open_calls_and_the_calls_before_them(tmp_path):
    """Of a block of which only the open calls have been written nothing is shown: what ended before them is lost."""
    code = (
        "import os, torch\nfrom modtrace.trace.writer import Writer\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        import time; time.sleep(1.2); return inner(inner(x))\n"
        "inner, real = torch.nn.ReLU(), Writer.append\n"
        "def append(self, table, *rest, **words):\n"
        "    real(self, table, *rest, **words)\n"
        "    if table == 'open': os._exit(9)\n"
        "inner(torch.ones(2))\n"
        "import time; time.sleep(1.2)\n"
        "inner(torch.ones(2))\n"
        "Writer.append = append\n"
        "inner(torch.ones(2))\n"
        "Slow()(torch.ones(2))\n"
    )
    (tmp_path / "train.py").write_text(code)
    words = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py"]
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode == 9, (
        "the last line of this has not run"
    )
    stored = open_trace(tmp_path / "t.mtrace")
    assert stored.table("calls").num_rows == 2
    assert "Slow" in stored.table("modules").column("type").to_pylist()
    assert any("did not come to its end" in note for note in stored.notes)


def test_hostile_sizes_take_no_memory(trace, tmp_path):
    target = copied(trace, tmp_path)
    file = target / "rank-0" / "calls.arrows"
    content = bytearray(file.read_bytes())
    content[4:8] = (2**31 - 1).to_bytes(4, "little")
    file.write_bytes(content)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from modtrace.trace.reader import open_trace;"
        "s = open_trace(sys.argv[1]); print(s.table('calls').num_rows, s.notes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 [")


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
    assert stored.table("calls").num_rows % 3 == 0
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
