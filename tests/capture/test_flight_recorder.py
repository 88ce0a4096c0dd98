"""Collectives as torch's Flight Recorder has them: a ring that is played, and that of torch with a group of one."""

from __future__ import annotations

import itertools
import json
import types

import pytest
import torch
import torch.distributed

import modtrace
from modtrace.capture.engine.thread_buffer import BufferTable
from modtrace.capture.mechanisms import flight_recorder
from modtrace.capture.mechanisms.flight_recorder import (
    CONFIRM_NS,
    FULL_SHARE,
    OFTEN_NS,
    QUIET_NS,
    SHARE,
    FlightRecorder,
)

STARTED = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000


class Ring:
    """torch's recorder with a ring of a size, and a clock that the test sets."""

    def __init__(self, monkeypatch, size=10, reading_ns=0):
        self.now = self.reads = self.launched = self.ended = 0
        self.entries, self.size = [], size
        self.reading_ns = reading_ns
        monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", str(size))
        monkeypatch.setattr(flight_recorder, "dump_collectives", lambda: self.dump)
        group = object()
        self.world = types.SimpleNamespace(
            pg_names={group: "0"}, pg_group_ranks={group: {0: 0, 3: 1}}, pg_backend_config={group: "cpu:gloo"}
        )
        monkeypatch.setattr(flight_recorder, "process_groups", lambda: self.world)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(flight_recorder.time, "time_ns", lambda: STARTED + self.now)
        self.context = types.SimpleNamespace(
            threads=BufferTable(), clock=lambda: self.now, origin_ns=0, started_unix_ns=STARTED
        )

    def dump(self, collectives, active):
        assert not active
        status = {"0": {"last_enqueued_collective": self.launched, "last_completed_collective": self.ended}}
        if not collectives:
            return json.dumps({"pg_status": status})
        self.reads += 1
        self.now += self.reading_ns
        return json.dumps({"pg_status": status, "entries": self.entries[-self.size :]})

    def launch(self, *, ended=True, at_ns=None, **facts):
        entry = {
            "record_id": self.launched, "pg_id": 0, "process_group": ("0", "default_pg"),
            "collective_seq_id": self.launched + 1, "profiling_name": "gloo:all_reduce", "retired": ended,
            "time_created_ns": STARTED + (self.now if at_ns is None else at_ns), "thread_id": "77", "is_p2p": False,
            "input_sizes": [[2, 3]], "input_dtypes": ["Float"], "output_sizes": [[2, 3]], "output_dtypes": ["Float"],
        }  # fmt: skip
        self.entries.append(entry | facts)
        self.launched += 1
        self.ended += ended

    def end(self):
        self.entries[-1]["retired"] = True
        self.ended += 1


@pytest.fixture
def ring(monkeypatch):
    return Ring(monkeypatch)


def looked(recorder):
    recorder.look()
    return recorder.take()[1].get("collective", [])


def test_a_collective_is_written_when_it_has_ended(ring):
    recorder = FlightRecorder(ring.context)
    ring.now = 5 * MILLISECOND
    ring.launch(ended=False)
    assert looked(recorder) == []
    latest = recorder.latest()
    assert (latest["collective"], latest["ended"], latest["at_ns"]) == ([0], [False], [5 * MILLISECOND])
    ring.end()
    ring.now += OFTEN_NS
    recorder.look()
    groups, rows = recorder.take()
    assert rows == {
        "collective": [0], "process_group": [0], "sequence": [1], "operation": ["all_reduce"],
        "at_ns": [5 * MILLISECOND], "thread": [None], "ended": [True], "seen_ns": [ring.now],
        "input_bytes": [24], "output_bytes": [24],
    }  # fmt: skip
    assert groups == {}  # it was handed out with the first look
    assert recorder.latest()["collective"] == [0]  # the last that has ended stays there


def test_a_group_is_written_once_with_its_ranks(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch()
    recorder.look()
    groups, _ = recorder.take()
    assert groups == {
        "process_group": [0], "name": ["0"], "description": ["default_pg"], "backend": ["gloo"], "ranks": [[0, 3]]
    }  # fmt: skip
    ring.world.pg_names = {}
    ring.launch(pg_id=1, process_group=("7", "undefined"))
    ring.now += OFTEN_NS
    recorder.look()
    assert recorder.take()[0]["ranks"] == [None]


def test_the_ring_is_read_only_when_that_is_due(ring):
    """Not where nothing is new; not more often than OFTEN_NS, but where nothing moves for a second."""
    recorder = FlightRecorder(ring.context)
    recorder.look()  # what was there before the recording
    ring.now = OFTEN_NS
    ring.launch()
    assert looked(recorder) == [0]
    assert ring.reads == 2
    for _ in range(3):
        ring.now += OFTEN_NS
        assert looked(recorder) == []
    assert ring.reads == 2
    ring.now += 1
    ring.launch()
    assert looked(recorder) == [1]  # long since the last time
    ring.launch()
    ring.now += 1
    assert looked(recorder) == []  # not due yet
    ring.now += OFTEN_NS
    ring.reading_ns = OFTEN_NS
    assert looked(recorder) == [2]
    ring.launch()
    assert looked(recorder) == []
    ring.now += QUIET_NS
    assert looked(recorder) == [3]  # however much reading costs: nothing has happened for a second


def test_a_ring_that_fills_up_is_read_more_often(monkeypatch):
    def until_read_ns(new):
        """Of a ring of ten, with so many new ones, while something ends all the time."""
        ring = Ring(monkeypatch, size=10, reading_ns=10 * MILLISECOND)
        recorder = FlightRecorder(ring.context)
        ring.launch()
        recorder.look()
        began, reads = ring.now, ring.reads
        for _ in range(new):
            ring.launch()
        while ring.reads == reads:
            ring.now += 50 * MILLISECOND
            ring.ended += 1
            recorder.look()
        return ring.now - began

    share_ns = 10 * MILLISECOND
    assert FULL_SHARE * share_ns <= until_read_ns(6) < SHARE * share_ns <= until_read_ns(5)


def test_what_reading_costs_makes_it_rarer(monkeypatch):
    ring = Ring(monkeypatch, size=1_000, reading_ns=10 * MILLISECOND)
    recorder = FlightRecorder(ring.context)
    reads = []
    for _ in range(100):
        ring.now += 100 * MILLISECOND
        ring.launch()
        before = ring.reads
        recorder.look()
        if ring.reads > before:
            reads.append(ring.now)
    between = {later - sooner for sooner, later in itertools.pairwise(reads)}
    assert len(reads) > 3
    assert min(between) >= 200 * 10 * MILLISECOND
    assert max(between) <= 200 * 10 * MILLISECOND + 110 * MILLISECOND
    assert recorder.spent_ns == len(reads) * 10 * MILLISECOND


def test_what_is_under_way_is_confirmed_each_second(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch(ended=False)
    recorder.look()
    recorder.take()
    recorder.latest()
    assert not recorder.has_news
    ring.now += CONFIRM_NS
    recorder.look()
    assert recorder.has_news
    assert recorder.latest()["seen_ns"] == [CONFIRM_NS]
    assert ring.reads == 1
    assert not recorder.has_news


def test_what_has_left_the_ring_is_counted(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch()
    recorder.look()
    for _ in range(25):
        ring.launch()
    recorder.look()
    recorder.finish()
    assert recorder.take()[1]["collective"] == [0, *range(16, 26)]
    assert recorder.gaps == [flight_recorder.OVERRUN.format(15)]


def test_one_under_way_that_has_left_the_ring_has_an_unknown_end(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch(ended=False)
    recorder.look()
    for _ in range(10):
        ring.launch()
    ring.now += OFTEN_NS
    recorder.look()
    rows = recorder.take()[1]
    assert dict(zip(rows["collective"], rows["ended"], strict=True))[0] is None


def test_what_was_launched_before_the_recording_is_not_taken(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch(at_ns=-5)
    ring.launch(at_ns=3)
    assert looked(recorder) == [1]
    recorder.finish()
    assert recorder.gaps == []


def test_the_end_of_the_recording_writes_what_is_under_way(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch(ended=False)
    recorder.finish()
    assert recorder.take()[1]["ended"] == [False]
    ring.launch()
    assert looked(recorder) == []


def test_a_clock_that_stood_still_is_made_up_for(ring, monkeypatch):
    """The recording's clock stands while a person is at a prompt; the wall clock goes on."""
    recorder = FlightRecorder(ring.context)
    paused = 7_000 * MILLISECOND
    monkeypatch.setattr(flight_recorder.time, "time_ns", lambda: STARTED + ring.now + paused)
    ring.now = 50 * MILLISECOND
    ring.launch(at_ns=ring.now + paused)
    recorder.look()
    assert recorder.take()[1]["at_ns"] == [50 * MILLISECOND]


def test_threads_bytes_and_pairs(ring):
    recorder = FlightRecorder(ring.context)
    buffer, token = ring.context.threads.add()
    buffer.identity = 77
    ring.launch(is_p2p=True, input_sizes=[[2], [4, 4]], input_dtypes=["BFloat16", "Long"], output_sizes=[])
    ring.launch(
        thread_id="78", input_dtypes=["of another kind"], output_sizes=[[2], [3]], output_dtypes=["Half"]
    )
    recorder.look()
    rows = recorder.take()[1]
    assert rows["sequence"] == [None, 2]
    assert rows["thread"] == [0, None]
    assert rows["input_bytes"] == [2 * 2 + 16 * 8, None]
    assert rows["output_bytes"] == [0, 10]
    assert token is not None


def test_where_nothing_can_be_read_a_gap_says_why(ring, monkeypatch):
    ring.launch()
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "0")
    off = FlightRecorder(ring.context)
    off.look()
    assert off.gaps == [flight_recorder.TURNED_OFF.format("TORCH_FR_BUFFER_SIZE")]
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "10")
    monkeypatch.setattr(flight_recorder, "dump_collectives", lambda: None)
    monkeypatch.setattr(flight_recorder, "missing", lambda part: [f"no {part}"])
    absent = FlightRecorder(ring.context)
    absent.look()
    absent.look()
    assert absent.gaps == ["no collectives"]
    assert ring.reads == 0
    for recorder in (off, absent):
        recorder.finish()
        assert recorder.take() == ({}, {})


def test_backends_that_are_not_read_are_told(ring):
    ring.world.pg_backend_config = {1: "cuda:nccl", 2: "cpu:gloo,cuda:nccl", 3: "cpu:mpi"}
    recorder = FlightRecorder(ring.context)
    recorder.look()
    assert recorder.gaps == [flight_recorder.OTHER_BACKEND.format(name) for name in ("mpi", "nccl")]


def test_nobody_waits_while_the_ring_is_read(ring):
    recorder = FlightRecorder(ring.context)
    ring.launch()
    ring.launch(ended=False)
    recorder.look()
    with recorder._lock:
        assert recorder.take() == ({}, {})
        assert recorder.latest() is None
        recorder.look()
    assert recorder.take()[1]["collective"] == [0]
    assert recorder.latest()["collective"] == [0, 1]


def test_without_a_process_group_torch_is_not_asked(ring, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(flight_recorder, "dump_collectives", lambda: pytest.fail("it was asked"))
    recorder = FlightRecorder(ring.context)
    recorder.look()
    recorder.finish()
    assert recorder.take() == ({}, {})


# the ring of torch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def group():
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Reduces(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.inner(x)
        torch.distributed.all_reduce(x.detach().clone())
        return x


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_each_collective_is_joined_to_the_call_it_was_launched_in(group, engine):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Reduces())
    torch.distributed.barrier()  # before the recording
    with modtrace.trace(model, engine=engine) as t:
        for _ in range(5):
            model(torch.randn(2, 4)).sum().backward()
        torch.distributed.barrier()
    rows = t.collectives
    assert rows["operation"].tolist() == ["all_reduce"] * 5 + ["barrier"]
    assert rows["sequence"].diff().dropna().tolist() == [1] * 5
    calls = t.calls
    own = [call for call in calls.index if calls["name"][call] == "1" and calls["kind"][call] == "module"]
    assert rows["call"].dropna().tolist() == own
    for call, at_ns in zip(rows["call"].dropna(), rows["start_ns"], strict=False):
        inner = calls.loc[call + 1]
        assert inner["start_ns"] + inner["duration_ns"] <= at_ns
        assert at_ns < calls["start_ns"][call] + calls["duration_ns"][call]
    assert rows["input_bytes"].tolist() == [32] * 5 + [0]
    assert rows["ended"][:5].all()  # the barrier may just have been seen before its end
    assert (rows["late_ns"] == 0).all()
    assert (rows["wait_ns"] == 0).all()
    assert (rows["group_ranks"] == 1).all()
    assert t.gaps.empty


def test_of_a_thinned_trace_those_of_the_steps_in_full(group, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Reduces())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=tmp_path / "thin", keep=25) as t:
        for step in range(100):
            optimizer.zero_grad()
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            if step % 7 == 0:
                t._tracer.flush()
    calls = t.calls
    launchers = calls[(calls["name"] == "1") & (calls["kind"] == "module")]
    rows = t.collectives
    assert 10 <= len(launchers) < 100
    assert rows["call"].tolist() == launchers.index.tolist()
    assert rows["step"].tolist() == launchers["step"].tolist()


def test_the_flight_recorder_turned_off(group, monkeypatch):
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "0")  # torch itself has read it before
    with modtrace.trace() as t:
        Reduces()(torch.randn(2, 4))
    assert t.collectives.empty
    assert t.gaps["reason"].tolist() == [flight_recorder.TURNED_OFF.format("TORCH_FR_BUFFER_SIZE")]
