"""Why a device had run dry: a recorded loop whose device times and answers are those of the test."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import modtrace
import modtrace.analysis.device_starts as device_starts_file
from modtrace.analysis.device_starts import (
    GETTING_DATA,
    LAUNCHING,
    UNTOLD,
    WAITING,
    device_starts,
    dry_in,
)
from modtrace.analysis.findings import device_rules, findings
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.reader import open_trace
from modtrace.views.device import device_summary
from tests.fuzz.mutate import Image

MS = 1_000_000
STEPS = 8
PHASES = ("data", "zero_grad", "forward", "backward", "optimizer")
"""Of a step, in order."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A training loop, and (phase, row) of the root calls and phases in it."""
    path = tmp_path_factory.mktemp("loop") / "t.mtrace"
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path, flops=False):
        for x in DataLoader(torch.randn(STEPS * 2, 4), batch_size=2):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    image = Image(path)
    labels = {row["label"]: row["name"] for row in image.folders["rank-0"]["labels.arrows"].to_pylist()}
    calls = sorted(image.folders["rank-0"]["calls.arrows"].to_pylist(), key=lambda row: row["call"])
    rows = [(labels.get(row["label"], "forward"), row) for row in calls if row["parent"] < 0]
    # The first row is that of making the iterator.
    assert [name for name, _ in rows[1 : len(PHASES) + 1]] == list(PHASES)
    return image, rows


def with_device(loop, path, *, dry, later_ns=None):
    """The loop with a device that began each row at once and was done with it when the host was, or later.

    Args:
        loop: what was recorded.
        path: where to write it.
        dry: phase -> whether the device had run dry at its start; others were not asked.
        later_ns: phase -> how long after the host the device was done.
    """
    image, rows = loop
    later_ns = later_ns or {}
    times, starts = [], []
    for name, row in rows:
        spent = row["duration_ns"] + later_ns.get(name, 0)
        times.append(
            {"call": row["call"], "device": "cuda:0", "start_ns": row["start_ns"], "device_ns": spent}
        )
        if name in dry:
            starts.append({"call": row["call"], "device": "cuda:0", "dry": dry[name]})
    found = image.copy()
    for table, some in (("device_times", times), ("device_starts", starts)):
        found.folders["rank-0"][f"{table}.arrows"] = pa.Table.from_pylist(some, schema=arrow_schema(table))
    found.write(path)
    return open_trace(path)


def causes(stored):
    """(phase, cause) of the dry starts of step 3."""
    calls = modtrace.load(stored.path).calls
    found = device_starts(stored)
    inside = calls[(calls["step"] == 3) & calls["device_dry"].fillna(False).astype(bool)]
    inside = inside[(inside["kind"] == "module") | ~inside["name"].isin(["forward"])]
    return [(str(calls.loc[row, "phase"]), int(found.cause[row])) for row in inside.index]


LATE = {"forward": 50 * MS, "backward": 50 * MS, "optimizer": 50 * MS}


@pytest.mark.parametrize(
    ("dry", "later_ns", "expected"),
    [
        # A start that is not dry has no cause.
        (dict.fromkeys(PHASES, False), LATE, []),
        # The device is done with the forward when the host is.
        ({"backward": True}, {}, [("backward", LAUNCHING)]),
        # It would have been busy for long, but had done all when the next phase began.
        ({"backward": True}, LATE, [("backward", WAITING)]),
        # It had work when the host began to get data.
        ({"data": False, "zero_grad": True}, LATE, [("zero_grad", GETTING_DATA)]),
        # It had none then already: of that nothing is known.
        ({"data": True, "zero_grad": True}, LATE, [("data", WAITING), ("zero_grad", UNTOLD)]),
        ({"zero_grad": True}, LATE, [("zero_grad", UNTOLD)]),
        # Behind a phase that gives a device hardly any work nothing is told.
        ({"forward": True}, {}, [("forward", UNTOLD)]),
    ],
)
def test_causes(loop, tmp_path, dry, later_ns, expected):
    assert causes(with_device(loop, tmp_path / "t.mtrace", dry=dry, later_ns=later_ns)) == expected


@pytest.mark.parametrize("dry", [False, True])
def test_the_phase_of_a_forward_begins_as_its_root_call_does(loop, tmp_path, dry):
    """It has no row of its own in a trace; phases that have one and were not asked are not known."""
    with_device(loop, tmp_path / "t.mtrace", dry={"forward": dry})
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    phases = calls[calls["kind"] == "phase"]
    forward = phases[phases["name"] == "forward"]
    assert forward["device_dry"].tolist() == [dry] * STEPS
    assert phases.drop(forward.index)["device_dry"].isna().all()


def test_without_device_times_no_cause_is_told(loop, tmp_path):
    stored = with_device(loop, tmp_path / "t.mtrace", dry={"backward": True})
    image = Image(stored.path)
    image.folders["rank-0"]["device_times.arrows"] = arrow_schema("device_times").empty_table()
    image.write(tmp_path / "other.mtrace")
    assert causes(open_trace(tmp_path / "other.mtrace")) == [("backward", UNTOLD)]
    assert idle(tmp_path / "other.mtrace") == []


def idle(path):
    return [one for one in findings(open_trace(path)) if one.rule == device_rules.device_idle.__name__]


@pytest.mark.parametrize(
    ("dry", "later_ns", "why", "what"),
    [
        (dict.fromkeys(PHASES, True), {}, "as soon as the host is", "CUDA graphs"),
        ({"data": False, "zero_grad": True, "forward": False}, LATE, "while the host gets data", "workers"),
        ({"data": True, "zero_grad": True}, LATE, "the host waits for it behind optimizer", ".item()"),
        ({"zero_grad": True, "forward": True}, LATE, "the host does not keep it busy", "CUDA graphs"),
    ],
)
def test_the_finding_tells_why(loop, tmp_path, monkeypatch, dry, later_ns, why, what):
    with_device(loop, tmp_path / "t.mtrace", dry=dry, later_ns=later_ns)
    monkeypatch.setattr(device_rules, "_idle", lambda facts: (70_000 * MS, 0.4, 10_000 * MS))
    (one,) = idle(tmp_path / "t.mtrace")
    assert "the device idles at least 40.0% of a step (10.0 s), and had run dry at" in one.text
    assert why in one.text
    assert what in one.remedy


def test_launching_that_no_idle_time_shows(loop, tmp_path):
    """Each row of the device follows the one before: all of a step looks like work."""
    with_device(loop, tmp_path / "t.mtrace", dry=dict.fromkeys(PHASES, True))
    (one,) = idle(tmp_path / "t.mtrace")
    assert one.text.startswith("the device had run dry at 35 of 35 starts of root calls and phases")
    assert "as soon as the host is" in one.text


def test_the_finding_is_silent_where_it_should_be(loop, tmp_path):
    with_device(loop, tmp_path / "never.mtrace", dry=dict.fromkeys(PHASES, False), later_ns=LATE)
    assert idle(tmp_path / "never.mtrace") == []
    with_device(loop, tmp_path / "unasked.mtrace", dry={})
    assert idle(tmp_path / "unasked.mtrace") == []
    with_device(loop, tmp_path / "once.mtrace", dry={**dict.fromkeys(PHASES, False), "backward": True})
    assert idle(tmp_path / "once.mtrace") == [], "dry at one start of five: all else is kept busy"
    with_device(loop, tmp_path / "waits.mtrace", dry=dict.fromkeys(PHASES, True), later_ns=LATE)
    assert idle(tmp_path / "waits.mtrace") == [], "what is lost by waits shows between the rows"


def test_shares_of_steps(loop, tmp_path):
    dry = {"data": False, "zero_grad": True, "forward": True, "backward": False}
    stored = with_device(loop, tmp_path / "t.mtrace", dry=dry)
    trace = modtrace.load(stored.path)
    assert trace.steps["device_dry_share"].tolist()[1:-1] == [0.5] * (STEPS - 2)
    calls = trace.calls[trace.calls["kind"] == "phase"]
    by_phase = calls.groupby("name", observed=True)["device_dry"].agg(["count", "mean"])
    assert by_phase.loc["backward", "mean"] == 0
    assert by_phase.loc["zero_grad", "mean"] == 1
    assert by_phase.loc["optimizer", "count"] == 0
    assert f"had run dry at {2 * (STEPS - 1)} of" in trace.summary()


def test_the_summary_calls_no_device_busy(loop, tmp_path):
    """All that is known of a device with one kernel after another is when it idles at the least."""
    stored = with_device(loop, tmp_path / "t.mtrace", dry=dict.fromkeys(PHASES, True))
    text = modtrace.load(stored.path).summary()
    assert "busy" not in text
    assert "gaps between kernels are not seen" in text
    assert "had run dry at 35 of 35 starts" in text
    with_device(loop, tmp_path / "unasked.mtrace", dry={})
    assert "run dry" not in modtrace.load(tmp_path / "unasked.mtrace").summary()


def test_nothing_known(loop, tmp_path):
    stored = with_device(loop, tmp_path / "t.mtrace", dry={})
    none = np.zeros(STEPS, np.int64) - 1
    assert device_summary(none > 0, none, none, dry_in(stored, 0, none < 0)) == []


def test_a_trace_in_which_nothing_stands_outermost(loop, tmp_path, monkeypatch):
    """As where a damaged table has calls of functions alone."""
    stored = with_device(loop, tmp_path / "t.mtrace", dry=dict.fromkeys(range(STEPS), 1))
    monkeypatch.setattr(device_starts_file, "_outermost", lambda _: np.zeros(0, np.int64))
    found = device_starts.__wrapped__(stored)
    assert set(found.dry.tolist()) == {-1}


def test_marks_of_steps_are_no_rows(loop, tmp_path):
    """A trace that ends with one, and says of it what is said of calls."""
    with modtrace.trace(path=tmp_path / "marked.mtrace", flops=False):
        for _ in range(3):
            nn.Identity()(torch.ones(2))
            modtrace.step()
    image = Image(tmp_path / "marked.mtrace")
    tables = image.folders["rank-0"]
    calls = [row["call"] for row in tables["calls.arrows"].to_pylist()]
    times = [{"call": call, "device": "cuda:0", "start_ns": 5, "device_ns": 1} for call in calls]
    starts = [{"call": call, "device": "cuda:0", "dry": True} for call in calls]
    for name, rows in (("device_times", times), ("device_starts", starts)):
        tables[f"{name}.arrows"] = pa.Table.from_pylist(rows, schema=arrow_schema(name))
    image.write(tmp_path / "t.mtrace")
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert trace.calls["device_dry"].sum() >= 3
    assert trace.calls.loc[trace.calls["kind"] == "module", "device_ns"].tolist() == [1] * 3
