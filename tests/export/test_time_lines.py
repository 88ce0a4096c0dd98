"""Chrome and speedscope files of several ranks and threads, of calls that never ended, and of a device's time."""

from __future__ import annotations

import io
import json
import shutil
import threading

import pytest
import torch
from torch import nn

import modtrace
from tests.capture.test_clocks import Busy, clock, given  # noqa: F401 - a fixture


def events_of(trace):
    out = io.StringIO()
    trace.to_chrome(out)
    return json.loads(out.getvalue())["traceEvents"]


def speedscope_of(trace):
    out = io.StringIO()
    trace.to_speedscope(out)
    return json.loads(out.getvalue())


def calls_in(events):
    """Events of calls by their number, with begin and end in ns."""
    found = {}
    for event in events:
        if event["ph"] == "X" and event["cat"] not in ("steps", "device"):
            begin = round(event["ts"] * 1000)
            found[event["args"]["call"]] = (begin, begin + round(event["dur"] * 1000), event)
    return found


def track_names(events):
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def check_nesting(trace, events):
    """Each call lies inside the one around it, on its track."""
    calls = calls_in(events)
    assert sorted(calls) == list(range(len(trace.calls)))
    for call, parent in trace.calls["parent"].items():
        if parent >= 0:
            (begin, end, event), (low, high, around) = calls[call], calls[parent]
            assert low <= begin <= end <= high
            assert (event["pid"], event["tid"]) == (around["pid"], around["tid"])


def check_profiles(trace, file):
    """Every call opens and closes once, in order; returns how many calls each profile has, by its name."""
    opened = {}
    for profile in file["profiles"]:
        stack, now, count = [], profile["startValue"], 0
        for event in profile["events"]:
            assert now <= event["at"] <= profile["endValue"]
            now = event["at"]
            if event["type"] == "O":
                stack.append(event["frame"])
                count += 1
            else:
                assert stack.pop() == event["frame"]
        assert not stack
        opened[profile["name"]] = count
    assert sum(opened.values()) == len(trace.calls)
    return opened


class Saves(nn.Module):
    """Saves the trace from inside its forward, as a killed run would have left it."""

    def __init__(self, path):
        super().__init__()
        self.path, self.recording = path, None

    def forward(self, x):
        self.recording.save(self.path)
        return x


def record_rank(path, rank, threads, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with modtrace.trace(path=path):
        model(torch.ones(2, 3))
        for _ in range(threads):
            thread = threading.Thread(target=model, args=(torch.ones(2, 3),))
            thread.start()
            thread.join()


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    """Two ranks; the first has three threads, the second two, and started a second later."""
    record_rank(tmp_path / "all.mtrace", 0, 2, monkeypatch)
    record_rank(tmp_path / "one.mtrace", 1, 1, monkeypatch)
    shutil.copytree(tmp_path / "one.mtrace" / "rank-1", tmp_path / "all.mtrace" / "rank-1")
    return modtrace.load(tmp_path / "all.mtrace")


def test_a_track_a_rank_and_thread(ranks):
    events = events_of(ranks)
    check_nesting(ranks, events)
    assert sorted(set(ranks.calls["rank"])) == [0, 1]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert [name.partition(",")[0] for _, name in sorted(processes.items())] == ["rank 0", "rank 1"]
    tracks = {}
    for call, (_, _, event) in calls_in(events).items():
        tracks.setdefault((event["pid"], event["tid"]), []).append(call)
    assert sorted(map(len, tracks.values())) == [3] * 5
    names = track_names(events)
    for track, calls in tracks.items():
        rows = ranks.calls.loc[calls]
        assert rows["rank"].nunique() == rows["thread"].nunique() == 1
        assert processes[track[0]].startswith(f"rank {rows['rank'].iloc[0]}")
        assert names[track] == f"thread {rows['thread'].iloc[0]}"


def test_ranks_are_on_one_clock(ranks):
    """What a call's time is moved by is what lies between the starts of the processes."""
    files = [ranks.path / f"rank-{rank}" / "process.json" for rank in (0, 1)]
    started = [json.loads(file.read_text())["started_unix_ns"] for file in files]
    for call, (begin, _, _) in calls_in(events_of(ranks)).items():
        row = ranks.calls.loc[call]
        assert begin - row["start_ns"] == started[row["rank"]] - started[0]
    assert started[1] > started[0]


def test_a_profile_a_rank_and_thread(ranks):
    opened = check_profiles(ranks, speedscope_of(ranks))
    assert list(opened.values()) == [3] * 5
    assert sorted((name.partition(",")[0], name[-1]) for name in opened) == [
        ("rank 0", "0"), ("rank 0", "1"), ("rank 0", "2"), ("rank 1", "0"), ("rank 1", "1"),
    ]  # fmt: skip


def test_calls_that_never_ended(tmp_path):
    saves = Saves(tmp_path / "cut.mtrace")
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), saves))
    with modtrace.trace() as saves.recording:
        model(torch.ones(2, 3))
    trace = modtrace.load(saves.path)
    assert trace.calls["status"].tolist() == ["unfinished", "ok", "unfinished", "ok", "unfinished"]
    events = events_of(trace)
    check_nesting(trace, events)
    for call, (_, _, event) in calls_in(events).items():
        unfinished = trace.calls.loc[call, "status"] == "unfinished"
        assert event["args"]["status"] == trace.calls.loc[call, "status"]
        assert ("duration_ns" in event["args"]) == unfinished
        assert event["args"].get("duration_ns") is None
    assert list(check_profiles(trace, speedscope_of(trace)).values()) == [5]


def device_events(events):
    """(track, call, begin, duration) of what is drawn for devices, in ns since the first, in order of time."""
    names = track_names(events)
    found = sorted(
        (e for e in events if e.get("cat") == "device"), key=lambda e: (e["ts"], e["args"]["call"])
    )
    first = round(found[0]["ts"] * 1000)
    return [
        (
            names[e["pid"], e["tid"]],
            e["args"]["call"],
            round(e["ts"] * 1000) - first,
            round(e["dur"] * 1000),
        )
        for e in found
    ]


def test_a_device_has_a_track_of_its_own(clock):  # noqa: F811 - the fixture
    """Root calls are drawn: of a call inside another on its stream it is not recorded when it began there."""
    model = Busy(clock, 100, Busy(clock, 20), Busy(clock, 30))
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.now += 1_000
        model(given())
    events = events_of(trace)
    assert device_events(events) == [("meta:0", 0, 0, 150), ("meta:0", 3, 1_150, 150)]
    of_device = {(e["pid"], e["tid"]) for e in events if e.get("cat") == "device"}
    assert not of_device & {(e["pid"], e["tid"]) for _, _, e in calls_in(events).values()}
    nested = {call: event["args"]["device_ns"] for call, (_, _, event) in calls_in(events).items()}
    assert nested == {0: 150, 1: 20, 2: 30, 3: 150, 4: 20, 5: 30}


def test_nothing_on_a_device_before_its_launch(clock):  # noqa: F811 - the fixture
    """The clock of this device runs a million times slower than that of the host."""
    model = Busy(clock, 1)
    with modtrace.trace(flops=False) as trace:
        for _ in range(50):
            model(given())
    events = events_of(trace)
    launched = {call: event["ts"] for call, (_, _, event) in calls_in(events).items()}
    begun = {e["args"]["call"]: e["ts"] for e in events if e.get("cat") == "device"}
    assert len(begun) == 50
    assert all(begun[call] >= launched[call] for call in begun)


def test_streams_side_by_side_do_not_cross(clock):  # noqa: F811 - the fixture
    model = Busy(clock, 150)
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.now, clock.in_use = 50, 1
        model(given())
        clock.now, clock.in_use = 150, 0
        model(given())
    assert device_events(events_of(trace)) == [
        ("meta:0", 0, 0, 150), ("meta:0 (2)", 1, 50, 150), ("meta:0", 2, 150, 150),
    ]  # fmt: skip
