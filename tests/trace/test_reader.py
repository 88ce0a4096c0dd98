"""A trace that was cut, flipped, forged or planted: the whole part of it, or one clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import modtrace
from modtrace.errors import TraceError
from modtrace.trace import merge
from modtrace.trace.contradictions import contradicting
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import MODULE, OK, RAISED, STEP, UNFINISHED
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


def id_of(row):
    return row["start_ns"], row["depth"], row["kind"], row["duration_ns"], row["status"]


def told(stored):
    """The gaps that tell of rows that contradict each other."""
    return [gap for gap in stored.table("gaps")["reason"].to_pylist() if "contradicts itself" in gap]


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
    contradictions = told(stored)
    if contradictions:  # keys that calls point at have changed: these calls are gone wherever they were
        assert {id_of(row) for row in found} < {id_of(row) for row in whole}
    else:
        assert_part_of(found, whole)
    assert found == whole or stored.notes or contradictions


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


@pytest.mark.parametrize(("noted", "rank"), [(7, 7), (0, 0), (None, 3), (-1, 3), (1 << 31, 3), ("7", 3)])
def test_the_rank_is_what_the_process_noted_else_that_of_its_folder(trace, tmp_path, noted, rank):
    target = copied(trace, tmp_path)
    folder = (target / "rank-0").rename(target / "rank-3")
    about = json.loads((folder / "process.json").read_text())
    (folder / "process.json").write_text(json.dumps({**about, "rank": noted}))
    (process,) = open_trace(target).processes
    assert process.rank == rank


@pytest.mark.parametrize(("noted", "known"), [(0, 0), (2, 2), (-1, None), (True, None), ("2", None)])
def test_none_at_all_is_a_number_that_is_known(trace, tmp_path, noted, known):
    target = copied(trace, tmp_path)
    file = target / "rank-0" / "end.json"
    children = {"processes": noted, "cpu_ns": noted}
    file.write_text(json.dumps({**json.loads(file.read_text()), "children": children}))
    end = open_trace(target).processes[0].end
    assert (end.children, end.children_cpu_ns) == (known, known)


TREE = (("Sequential", 0), ("Linear", 1), ("ReLU", 1), ("Sequential", 1), ("Tanh", 2), ("Sigmoid", 0))
"""Types and depths of the calls that are forged below, in order of their start."""

FORGERIES = {
    "cycle": ("Linear", {"parent": 4}, "before its parent", {"Linear"}),
    "own parent": ("Linear", {"parent": 1}, "before its parent", {"Linear"}),
    "ends too early": ("Sequential", {"last_call": 1}, "outlasts its parent", {"ReLU", "Sequential", "Tanh"}),
    "reaches into the next": ("Sequential", {"last_call": 5}, "none of its parents", {"Sigmoid"}),
    "leaf that reaches into the next": ("Linear", {"last_call": 2}, "none of its parents", {"Linear"}),
    "deep root": ("Sigmoid", {"depth": 9}, "a root call has a depth", {"Sigmoid"}),
    "deep": ("ReLU", {"depth": 2}, "deeper than its parent", {"ReLU"}),
    "parent that has ended": ("Tanh", {"parent": 2}, "none of its parents", {"Tanh"}),
    "no such module": ("Linear", {"module": 77}, "rows that are not there", {"Linear"}),
    "no such signature": ("Sigmoid", {"inputs": 77}, "rows that are not there", {"Sigmoid"}),
    "no such parent": ("Sigmoid", {"parent": 77, "depth": 1}, "rows that are not there", {"Sigmoid"}),
    "more of its own than there is": (
        "ReLU",
        {"duration_ns": 10, "self_ns": 8, "tracer_ns": 3},
        "its own part of it",
        {"ReLU"},
    ),
    "no time for what is inside": (
        "Tanh",
        {"duration_ns": 1 << 50},
        "less time than what is inside it",
        {"Tanh"},
    ),
    "raised without an error": ("Linear", {"status": RAISED}, "an exception that is not there", {"Linear"}),
    "no name": ("Linear", {"module": None, "root": None}, "of no module", {"Linear"}),
}
"""Cells of the first call of a type, what is told, and the types of the calls that are gone."""

IMPOSSIBLE = {
    "no such status": ({"status": 9}, "status is 9"),
    "time below zero": ({"duration_ns": -1}, "duration_ns is -1"),
    "negative call": ({"call": -1}, "call is -1"),
}


def forged_trace(tmp_path, kind, cells):
    """Where a trace of TREE is, with other cells in the first call of a type."""
    whole, path = tmp_path / "whole.mtrace", tmp_path / "forged.mtrace"
    inner = torch.nn.Sequential(torch.nn.Tanh())
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), inner)
    with modtrace.trace(path=whole):
        model(torch.ones(2, 3))
        torch.nn.Sigmoid()(torch.ones(2, 3))
    assert types(whole) == [name for name, _ in TREE]
    image = Image(whole)
    tables = image.folders["rank-0"]
    rows = sorted(tables["calls.arrows"].to_pylist(), key=lambda row: row["call"])
    rows[[name for name, _ in TREE].index(kind)] |= cells
    tables["calls.arrows"] = pa.Table.from_pylist(rows, tables["calls.arrows"].schema)
    image.write(path)
    return path


def types(path):
    return modtrace.load(path).calls["type"].tolist()


@pytest.mark.parametrize("name", FORGERIES)
def test_calls_that_contradict_each_other_are_left_out(tmp_path, name):
    kind, cells, why, gone = FORGERIES[name]
    path = forged_trace(tmp_path, kind, cells)
    stored = open_trace(path)
    (gap,) = [row for row in stored.table("gaps").to_pylist() if "contradicts itself" in row["reason"]]
    assert why in gap["reason"]
    assert "\n" not in gap["reason"]
    found = types(path)
    lost = [name for name, _ in TREE]
    for one in found:
        lost.remove(one)
    assert set(lost) == gone
    assert gap["lost_calls"] == len(lost) == int(gap["reason"].split()[0])
    assert gap["reason"][:60] in modtrace.load(path).summary()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_numbers_that_nothing_has(tmp_path, name):
    cells, why = IMPOSSIBLE[name]
    path = forged_trace(tmp_path, "Sequential", cells)
    with pytest.raises(TraceError, match="contradicts itself") as caught:
        open_trace(path).table("calls")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@st.composite
def forests(draw):
    """Calls of one process, most of which fit together, as columns and where they hold nothing."""
    count = draw(st.integers(1, 24))
    parent, depth = [], []
    for at in range(count):
        over = draw(st.integers(-1, at - 1))
        while over >= 0 and at > 0 and not reaches(parent, at - 1, over):
            over = parent[over]
        parent.append(over)
        depth.append(depth[over] + 1 if over >= 0 else 0)
    last = [max(one for one in range(count) if reaches(parent, one, at)) for at in range(count)]
    columns = {"parent": parent, "depth": depth, "last_call": last}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(list(columns)))
        columns[name][draw(st.integers(0, count - 1))] = draw(st.integers(-1, count - 1))
    threads = sorted(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    if draw(st.booleans()):
        threads = [0] * count
    found = {name: np.array(values, np.int64) for name, values in columns.items()}
    found["depth"], found["thread"] = np.maximum(found["depth"], 0), np.array(threads)
    found["call"] = np.arange(count)
    for name, choices in (("status", (OK, OK, UNFINISHED)), ("kind", (MODULE, MODULE, STEP))):
        some = st.lists(st.sampled_from(choices), min_size=count, max_size=count)
        found[name] = np.array(draw(some), np.int64)
    for name in ("duration_ns", "self_ns", "tracer_ns"):
        some = st.lists(st.sampled_from((0, 10**4, 10**6, 10**7)), min_size=count, max_size=count)
        found[name] = np.array(draw(some), np.int64)
    of = ("module", "root", "label", "error", "duration_ns", "self_ns", "tracer_ns")
    return found, {name: np.zeros(count, np.bool_) for name in of}


def reaches(parent, at, over):
    while at > over and at >= 0:
        at = parent[at]
    return at == over


def remaining(columns, nulls, keep):
    """What is left, with positions as `merge` gives them."""
    at = np.cumsum(keep) - 1
    left = {name: values[keep] for name, values in columns.items()}
    left["parent"] = np.where(left["parent"] >= 0, at[left["parent"]], -1)
    left["last_call"] = np.where(left["last_call"] >= 0, at[left["last_call"]], -1)
    left["call"] = np.arange(len(left["call"]))
    merge._close_unfinished(left)
    return left, {name: mask[keep] for name, mask in nulls.items()}


@settings(max_examples=400, deadline=None)
@given(forests())
def test_what_is_left_never_contradicts_itself(forest):
    columns, nulls = forest
    merge._close_unfinished(columns)
    for _ in range(2):  # once for the tree, once for times
        wrong = contradicting(columns, nulls)
        out = np.logical_or.reduce([*wrong.values(), np.zeros(len(columns["call"]), np.bool_)])
        assert sum(int(rows.sum()) for rows in wrong.values()) == int(out.sum()), "each for one reason"
        inside = columns["parent"] >= 0
        assert out[inside & out[columns["parent"]] & (columns["parent"] < columns["call"])].all()
        columns, nulls = remaining(columns, nulls, ~out)
    assert contradicting(columns, nulls) == {}


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


@pytest.mark.parametrize(("length", "read"), [(400, "g" * 400), (401, "g" * 397 + "...")])
def test_a_gap_of_a_run_is_at_most_400_characters(trace, length, read):
    image = Image(trace)
    path = trace.parent / f"{length}.mtrace"
    image.write(path)
    end = path / "rank-0" / "end.json"
    end.write_text(json.dumps(json.loads(end.read_text()) | {"gaps": ["g" * length]}))
    assert open_trace(path).processes[0].end.gaps == (read,)
