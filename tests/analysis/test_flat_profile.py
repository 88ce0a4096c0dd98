"""The flat profile against sums over `t.calls` in plain Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch

import modtrace
from modtrace.analysis.flat_profile import FlatProfile, ProfileRow, Window, flat_profile, hottest
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.reader import Stored, open_trace
from modtrace.views import console
from tests.fuzz.mutate import Image

nn = torch.nn


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()


def recorded(tmp_path: Path, run) -> tuple[Stored, pd.DataFrame]:
    tmp_path.mkdir(exist_ok=True)
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        run()
    return open_trace(tmp_path / "t.mtrace"), modtrace.load(tmp_path / "t.mtrace").calls


def adds_up(profile: FlatProfile) -> None:
    parts = profile.tracer_ns + profile.unknown_ns + profile.before_ns + profile.outside_ns
    assert sum(row.spent_ns for row in profile.rows) + parts - profile.parallel_ns == profile.window.base_ns
    for row in profile.rows:
        if row.of_module and row.self_ns is not None:
            assert row.forward_ns + row.backward_ns == row.self_ns


def sums(calls: pd.DataFrame, chosen: list[int]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """(folded name, class) -> (forward self ns, backward self ns, calls) of module rows in some steps, one by one."""
    total: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in calls.to_dict("records"):
        if each["kind"] not in ("module", "backward") or pd.isna(each["step"]) or each["step"] not in chosen:
            continue
        name = ".".join("*" if part.isdigit() else part for part in each["name"].split("."))
        figures = total[name or each["root"], each["type"]]
        figures[each["kind"] == "backward"] += each["self_ns"]
        figures[2] += each["kind"] == "module"
    return {key: (forward, backward, count) for key, (forward, backward, count) in total.items()}


def test_steps_that_count(tmp_path):
    stored, calls = recorded(tmp_path, lambda: train(Repeated(), 6))
    steps = modtrace.load(tmp_path / "t.mtrace").steps
    chosen = steps.index[steps["in_statistics"]].tolist()
    assert 0 not in chosen
    assert chosen
    profile = flat_profile(stored)
    adds_up(profile)
    assert profile.window.steps == len(chosen)
    assert profile.per == len(chosen)
    assert profile.window.base_ns == int(steps.loc[chosen, "duration_ns"].sum())
    assert not profile.parallel_ns
    assert not profile.unknown_ns
    rows = {(row.name, row.type): row for row in profile.rows if row.of_module}
    shown = {key: (row.forward_ns, row.backward_ns, row.calls) for key, row in rows.items()}
    assert shown == sums(calls, chosen)
    block = rows["blocks.*.0", "Linear"] if ("blocks.*.0", "Linear") in rows else rows["blocks.*.*", "Linear"]
    assert block.instances == 3
    assert block.label.endswith("x3")
    ordered = [row.self_ns for row in profile.rows]
    assert ordered == sorted(ordered, reverse=True)


def test_whole_run(tmp_path):
    stored, calls = recorded(tmp_path, lambda: train(Repeated(), 3))
    profile = flat_profile(stored, whole_run=True)
    adds_up(profile)
    assert profile.window.base_ns == stored.processes[0].wall_ns
    assert not profile.window.steps
    assert profile.before_ns == profile.before_first_ns == int(calls["start_ns"].min())
    assert profile.outside_ns >= 0
    of_modules = sum(row.self_ns for row in profile.rows if row.of_module)
    assert of_modules == int(calls.loc[calls["kind"].isin(["module", "backward"]), "self_ns"].sum())


def test_each_root_keeps_a_call(tmp_path):
    """Without a training loop the first call of a root is left out, but not the only one that it has."""
    often, seldom = nn.Linear(4, 4), nn.ReLU()

    def run() -> None:
        with torch.no_grad():
            for _ in range(8):
                often(torch.ones(2, 4))
            seldom(torch.ones(2, 4))

    stored, _calls = recorded(tmp_path, run)
    profile = flat_profile(stored)
    adds_up(profile)
    assert profile.window.steps == 0
    by_class = {row.type: row for row in profile.rows}
    assert by_class["ReLU"].calls == 1
    assert 0 < by_class["Linear"].calls < 8
    only_first, _ = recorded(tmp_path / "first.d", lambda: seldom(torch.ones(2)))
    once = flat_profile(only_first)
    adds_up(once)
    assert [row.calls for row in once.rows] == [1]
    assert once.window.text == "1 call"


def test_nothing_but_the_optimizer(tmp_path):
    """Phases alone make steps; rows that are no module have neither forward nor backward."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def run() -> None:
        for _ in range(3):
            weight.sum().backward()
            optimizer.step()

    stored, _ = recorded(tmp_path, run)
    profile = flat_profile(stored)
    adds_up(profile)
    assert all(row.forward_ns is None and row.backward_ns is None for row in profile.rows)


def row(name: str, self_ns: int, class_name: str = "Conv2d", instances: int = 1) -> ProfileRow:
    return ProfileRow(name, class_name, instances, instances, self_ns, self_ns, 0, None, "", True, 0)


def profile_of(rows: list[ProfileRow]) -> FlatProfile:
    total = sum(each.self_ns for each in rows)
    return FlatProfile(Window(None, total, 1, "step 1"), rows, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("limit", [3, 6, 12, 14])
def test_what_is_shown_adds_up(limit):
    """Forty unlike convolutions of about the same time: the hottest are named, all others are one row."""
    rows = [row(f"conv{index}", 1000 - index) for index in range(40)]
    rows += [row(f"norm{index}", 100 - index, "BatchNorm2d") for index in range(40)]
    shown = hottest(profile_of(rows), limit)
    assert limit - 1 <= len(shown.rows) <= limit
    assert shown.rows[0].name == "conv0"
    assert sum(each.self_ns for each in shown.rows) + shown.further_ns == sum(each.self_ns for each in rows)
    modules = sum(each.instances for each in shown.rows)
    assert modules + shown.further == 80
    if limit >= 6:
        assert next(each.label for each in shown.rows if each.group < 0).startswith("other Conv2d x")


def test_few_rows_are_shown_as_they_are():
    rows = [row("a", 5), row("b", 4), row("c", 0)]
    shown = hottest(profile_of(rows), 12)
    assert [each.name for each in shown.rows] == ["a", "b"]
    assert shown.further == 0


KILLED = """
import os, signal, threading, time, torch
class Slow(torch.nn.Module):
    def forward(self, x):
        threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        time.sleep(60)
m = torch.nn.Sequential(torch.nn.Linear(8, 8), Slow())
m(torch.ones(2, 8))
"""


def test_what_is_not_known_is_no_zero(tmp_path):
    """Killed in its first call: no call around the others came to its end, so no time can be added up."""
    (tmp_path / "run.py").write_text(KILLED)
    words = [sys.executable, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "run.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=100, check=False)
    assert done.returncode == -9
    stored, trace = open_trace(tmp_path / "t.mtrace"), modtrace.load(tmp_path / "t.mtrace")
    profile = flat_profile(stored)
    adds_up(profile)
    assert [(row.self_ns, row.forward_ns) for row in profile.rows] == [(None, None)] * 3
    assert trace.folded["self_ns"].isna().all()
    texts = [
        view(stored, width=120) for view in (console.summary, console.modules_table, console.steps_table)
    ]
    texts += [console.tree(stored), trace._repr_html_(), console.info_json(stored)]
    for text in texts:
        assert "0 ns" not in text
        assert '"self_ns": 0' not in text
    assert " ? " in texts[0]


@pytest.mark.parametrize("calls", [1, 9])
def test_root_calls_of_a_later_rank_are_its_own(tmp_path, calls):
    model, path = Repeated(), tmp_path / "t.mtrace"
    for place, times in ((path, 5), (tmp_path / "other.mtrace", calls)):
        with modtrace.trace(path=place):
            for _ in range(times):
                model(torch.ones(2, 4))
    alone = flat_profile(open_trace(tmp_path / "other.mtrace"))
    shutil.copytree(tmp_path / "other.mtrace" / "rank-0", path / "rank-1")
    process = path / "rank-1" / "process.json"
    process.write_text(json.dumps(json.loads(process.read_text()) | {"rank": 1}))
    later = flat_profile(open_trace(path), 1)
    assert later.window.text == alone.window.text
    assert later.window.rows.tolist() == alone.window.rows.tolist()
    assert [(row.name, row.calls, row.self_ns) for row in later.rows] == [
        (row.name, row.calls, row.self_ns) for row in alone.rows
    ]


@pytest.mark.parametrize(
    ("relu_ns", "expected"),
    [(7, {"Sequential": 10, "Linear": 13, "ReLU": 7}), (0, {"Sequential": 17, "Linear": 13, "ReLU": 0})],
)
def test_no_time_on_a_device_is_a_time(tmp_path, relu_ns, expected):
    """A call that gives a device nothing to do takes it 0 ns, which is known; one without a row is not known."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid())
    stored, _ = recorded(tmp_path, lambda: model(torch.ones(2, 4)))
    image = Image(stored.path)
    tables = image.folders["rank-0"]
    types = {row["module"]: row["type"] for row in tables["modules.arrows"].to_pylist()}
    spent = {"Sequential": 30, "Linear": 13, "ReLU": relu_ns, "Sigmoid": 0}
    times = [
        {"call": row["call"], "device": "cuda:0", "start_ns": 0, "device_ns": spent[types[row["module"]]]}
        for row in tables["calls.arrows"].to_pylist()
    ]
    tables["device_times.arrows"] = pa.Table.from_pylist(times, schema=arrow_schema("device_times"))
    image.write(tmp_path / "device.mtrace")
    rows = flat_profile(open_trace(tmp_path / "device.mtrace")).rows
    own = {row.type: row.device_ns for row in rows if row.of_module}
    assert own == expected | {"Sigmoid": 0}
