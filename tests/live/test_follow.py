"""A trace followed while it grows, compared after every look with the reader of whole traces on the same files."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import modtrace
from modtrace.analysis import live
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_nodes import LiveNodes
from modtrace.analysis.live_steps import window
from modtrace.analysis.live_tree import LiveTree
from modtrace.analysis.statistics import chosen_steps
from modtrace.errors import TraceError
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import THREAD_SHIFT
from modtrace.views.models.live_model import LiveModel
from tests.fuzz.mutate import Image
from tests.live.replay import INFERENCE, MARKED, STAGED, TRAINING, Replay, record


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    found = {}
    for name, source, word in (
        ("training", TRAINING, "6"),
        ("inference", INFERENCE, "400"),
        ("marked", MARKED, "150"),
        ("staged", STAGED, "20"),
    ):
        found[name] = record(tmp_path_factory.mktemp(name), source, word)
    return found


def by_module(process, sums):
    """Calls, total and self of each module, backward included in the times but not in the calls."""
    nodes, found = process.nodes, {}
    for node, (root, module) in enumerate(nodes.what):
        if root < 0 or not (sums.calls[node]):
            continue
        calls, total, own = found.get(module, (0, 0, 0))
        calls += 0 if nodes.variant[node] == 2 else int(sums.calls[node])
        found[module] = (calls, total + int(sums.total_ns[node]), own + int(sums.self_ns[node]))
    return found


def told(calls):
    """The same from the DataFrame of calls."""
    calls = calls[calls["module_id"].notna() & (calls["status"] != "unfinished")]
    return {
        int(module): (
            int((part["kind"] == "module").sum()),
            int(part["duration_ns"].sum()),
            int(part["self_ns"].sum()),
        )
        for module, part in calls.groupby("module_id")
    }


def compare(trace, path):
    """Everything that is followed, with what the reader of whole traces says of the files as they are now."""
    whole = modtrace.load(path)
    calls, steps = whole.calls, whole.steps
    process = trace.processes[0]
    every = process.steps.all()
    assert by_module(process, every) == told(calls)
    assert {len(values) for values in vars(every).values()} == {len(process.nodes)}
    done = steps[steps["whole"] & (steps["duration_ns"].fillna(0) > 0)]
    mine = process.steps.last(1000)
    assert process.steps.ended == len(done)
    tail = done.iloc[-len(mine) :] if mine else done.iloc[:0]
    assert [step.duration_ns for step in mine] == tail["duration_ns"].tolist()
    assert [step.data_ns for step in mine] == tail["data_ns"].tolist()
    for count in (20, 100):
        last = done.index[-count:]
        sums = window(process.steps.last(count), len(process.nodes))
        assert by_module(process, sums) == told(calls[calls["step"].isin(last)])
    return len(done)


@pytest.mark.parametrize("kind", ["training", "inference", "marked", "staged"])
def test_after_every_batch_as_the_whole_reader(made, tmp_path, kind):
    replay = Replay(made[kind], tmp_path / "t.mtrace")
    trace, seen = LiveTrace(replay.target), []
    for moment in replay.moments:
        replay.show(moment)
        for _ in range(4):
            trace.look()
        seen.append(compare(trace, replay.target))
    replay.finish()
    trace.look()
    counts = {"training": 180, "inference": 400, "marked": 150, "staged": 60 + 20 + 40}
    assert compare(trace, replay.target) == counts[kind]
    # A root call is a step by itself only as long as no optimizer has been seen: that row goes again.
    assert seen[2:] == sorted(seen[2:])
    assert (trace.state, trace.exit_status) == (live.FINISHED, 0)
    rules = {"training": "optimizer", "inference": "root", "marked": "mark", "staged": "optimizer"}
    assert trace.processes[0].steps.by == rules[kind]
    assert not trace.processes[0].nodes.opened


def test_the_steps_that_count_are_those_of_every_view(tmp_path):
    """Not the first, not those that were counted or watched, nor one in which torch compiled."""
    torch._dynamo.reset()
    net, path = torch.nn.Linear(8, 8), tmp_path / "t.mtrace"
    optimizer = torch.optim.SGD(net.parameters())
    fast = torch.compile(lambda x: x * 2 + 1, backend="eager")
    with modtrace.trace(path=path, memory="3:5"):
        for step in range(24):
            out = net(torch.ones(2, 8))
            if step == 9:
                fast(out.detach())
            out.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    steps, trace = modtrace.load(path).steps, LiveTrace(path)
    trace.look()
    chosen, words = trace.processes[0].steps.in_statistics(1000)
    expected = steps.index[steps["in_statistics"]].tolist()
    assert [step.number for step in chosen] == expected
    assert not {0, 3, 4, 9} & set(expected)
    assert len(expected) >= 4
    assert words == chosen_steps(open_trace(path), 0).text


@pytest.mark.parametrize("seed", range(6))
def test_files_cut_anywhere(made, tmp_path, seed):
    """The files appear and grow by bytes, out of order; nothing is counted twice or lost."""
    chance = random.Random(seed)
    replay = Replay(made["training"], tmp_path / "t.mtrace")
    trace, calls = LiveTrace(replay.target), [0]
    sizes = {name: (replay.source / name).stat().st_size for name in replay.ends}
    have = dict.fromkeys(sizes, 0)
    for _ in range(60):
        for name in chance.sample(list(sizes), 4):
            have[name] = min(have[name] + chance.randrange(sizes[name] // 8 + 2), sizes[name])
            replay.cut(name, have[name])
        trace.look()
        calls.append(trace.processes[0].steps.calls)
    replay.finish()
    for _ in range(4):
        trace.look()
    assert compare(trace, replay.target) == 180
    assert not trace.processes[0].notes


def test_a_process_that_runs_elsewhere_is_silent_once_it_writes_nothing(made, tmp_path):
    replay = Replay(made["inference"], tmp_path / "t.mtrace")
    trace = LiveTrace(replay.target)
    replay.show(replay.moments[0])
    trace.look()
    states = []
    for _ in range(100):
        trace.look()
        states.append(trace.processes[0].state)
    assert states == sorted(states), "running, then silent"
    assert (states[0], states[-1]) == (live.RUNNING, live.SILENT)
    replay.show(replay.moments[-1])
    trace.look()
    assert trace.processes[0].state == live.RUNNING


@pytest.mark.parametrize("parent", [0, 1, 1 << THREAD_SHIFT])
def test_calls_wait_for_the_call_around_them(parent):
    """Also for the first of a thread, and for the first of all."""

    def rows(*calls):
        names = ("call", "parent", "module", "root", "label")
        return {name: np.array([row[name] for row in calls]) for name in names}

    outer = {"call": parent, "parent": -1, "module": -1, "root": -1, "label": -1}
    inner = {**outer, "call": parent + 1, "parent": parent}
    nodes = LiveNodes()
    assert nodes.knows(rows(outer))
    assert nodes.knows(rows(outer, inner))
    assert not nodes.knows(rows(inner))


def test_processes_and_files_that_come_late(made, tmp_path):
    path = tmp_path / "t.mtrace"
    trace = LiveTrace(path)
    trace.look()
    assert (trace.state, trace.run) == (live.WAITING, None)
    path.mkdir()
    trace.look()
    shutil.copy(made["training"] / "run.json", path)
    trace.look()
    assert trace.run is not None
    (path / "rank-0").mkdir()
    trace.look()
    assert [process.state for process in trace.processes] == [live.WAITING]
    shutil.copytree(made["training"] / "rank-0", path / "rank-0", dirs_exist_ok=True)
    shutil.copytree(made["inference"] / "rank-0", path / "rank-1")
    for _ in range(4):
        trace.look()
    assert [process.steps.ended for process in trace.processes] == [180, 400]
    assert trace.state == live.FINISHED


def test_a_trace_that_is_deleted_or_replaced(made, tmp_path):
    path = tmp_path / "t.mtrace"
    shutil.copytree(made["inference"], path)
    trace = LiveTrace(path)
    for _ in range(3):
        trace.look()
    before = trace.processes[0].steps.ended
    shutil.rmtree(path)
    trace.look()
    assert trace.state == live.GONE
    assert trace.processes[0].steps.ended == before == 400
    shutil.copytree(made["training"], path)
    for _ in range(4):
        trace.look()
    assert trace.processes[0].steps.ended == 180


def test_damage_is_said_and_what_came_before_stays(made, tmp_path):
    path = tmp_path / "t.mtrace"
    shutil.copytree(made["training"], path)
    calls = path / "rank-0" / "calls.arrows"
    ends = Replay(made["training"], tmp_path / "other.mtrace").ends[Path("rank-0/calls.arrows")]
    data = bytearray(calls.read_bytes())
    data[ends[-1][1] - 20] ^= 0xFF
    calls.write_bytes(data)
    trace = LiveTrace(path)
    for _ in range(20):
        trace.look()
    process = trace.processes[0]
    assert process.notes
    assert "rank-0/calls.arrows" in process.notes[0]
    intact = LiveTrace(made["training"])
    for _ in range(4):
        intact.look()
    assert 0 < process.steps.calls < intact.processes[0].steps.calls


def test_a_killed_run_is_told_from_a_running_one(made, tmp_path):
    path = tmp_path / "t.mtrace"
    shutil.copytree(made["inference"], path)
    (path / "rank-0" / "end.json").unlink()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        file = path / "rank-0" / "process.json"
        text = file.read_text()
        started = int(text.split('"started_unix_ns": ')[1].split(",")[0])
        pid = text.split('"pid": ')[1].split(",")[0]
        text = text.replace(f'"pid": {pid}', f'"pid": {process.pid}')
        file.write_text(text.replace(str(started), str(started + 3600 * 10**9)))
        trace = LiveTrace(path)
        trace.look()
        assert trace.state == live.RUNNING
        process.kill()
        process.wait()
        trace.look()
        assert trace.state == live.DIED


DEEP = """
import sys, torch
sys.setrecursionlimit(20000)
class Wrap(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return self.inner(x) if self.inner is not None else x
net = None
for _ in range(int(sys.argv[1])):
    net = Wrap(net)
for _ in range(3):
    net(torch.ones(2))
"""


def test_deep_trees(tmp_path):
    trace = LiveTrace(record(tmp_path, DEEP, "800"))
    trace.look()
    process = trace.processes[0]
    assert (process.steps.ended, len(process.nodes)) == (3, 800)
    shown = LiveModel(LiveTree(trace))
    shown.refresh()
    shown.model.set_open_below(0, opened=True)
    assert len(shown.model) == 800
    assert shown.model.nodes.depth[shown.model.node_at(799)] == 799


def test_what_is_no_trace(tmp_path):
    path = tmp_path / "t.mtrace"
    path.mkdir()
    (path / "something").write_text("else")
    with pytest.raises(TraceError):
        LiveTrace(path).look()


def test_calls_that_cannot_be_true_are_left_out_with_a_note(tmp_path):
    whole, path = tmp_path / "whole.mtrace", tmp_path / "forged.mtrace"
    with modtrace.trace(path=whole):
        for _ in range(3):
            torch.nn.Sequential(torch.nn.Tanh())(torch.ones(2))
    image = Image(whole)
    tables = image.folders["rank-0"]
    rows = tables["calls.arrows"].to_pylist()
    rows[-1] |= {"parent": rows[-1]["call"], "depth": 1}
    tables["calls.arrows"] = pa.Table.from_pylist(rows, tables["calls.arrows"].schema)
    image.write(path)
    trace = LiveTrace(path)
    trace.look()
    (process,) = trace.processes
    assert process.fault is None
    assert [note for note in process.notes if note.startswith("1 call left out")]
    assert process.changed


def test_memory_is_bounded_by_the_window(made):
    """What is kept of many steps is that of the last; the sums are of all."""
    trace = LiveTrace(made["training"])
    for _ in range(4):
        trace.look(rows=200)
    while trace.look(rows=200).behind:
        pass
    steps = trace.processes[0].steps
    assert steps._recent.shape[1] < 6 * 60
    assert len(steps._skeleton["call"]) < 60
    assert int(np.sum(steps.all().calls)) > 180 * 20
