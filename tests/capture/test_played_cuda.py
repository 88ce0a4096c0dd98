"""The real recorders over played CUDA devices: nothing is asked of them that may not be, and it is counted what is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils.data import DataLoader

import modtrace
from modtrace.capture.mechanisms import allocator_history as history
from modtrace.capture.mechanisms import counter_readings
from modtrace.capture.mechanisms import device_events as device_times
from modtrace.capture.mechanisms.clocks import CudaClock
from modtrace.capture.mechanisms.graph_captures import Captures
from tests.fake_cuda import fake_cuda

HERE = Path(__file__).parent


def device_events_of(trace):
    """The part that records device times, of a trace that records or has ended."""
    (recorder,) = [recorder for recorder in trace._tracer._recorders if recorder.name == "device_times"]
    return recorder._events


@pytest.fixture
def gpu():
    with fake_cuda() as played:
        yield played
        assert played.illegal == []


@pytest.fixture
def two():
    with fake_cuda(devices=2) as played:
        yield played
        assert played.illegal == []


class Work(nn.Module):
    """Gives the stream in use some work around what is inside it."""

    def __init__(self, gpu, nanoseconds, *inside):
        super().__init__()
        self.gpu, self.nanoseconds = gpu, nanoseconds
        self.inside = nn.ModuleList(inside)

    def forward(self, x=None, **_):
        self.gpu.work(self.nanoseconds)
        for module in self.inside:
            x = module(x)
        return x


def times(trace, kind="module"):
    """device_ns of the calls of a kind, in order; None for unknown."""
    calls = trace.calls
    found = calls[calls["kind"] == kind]["device_ns"]
    return [None if missing else int(ns) for ns, missing in zip(found.fillna(-1), found.isna(), strict=True)]


def gaps(trace):
    return trace._read().table("gaps").column("reason").to_pylist()


def layers(gpu, count=3):
    parts = [part for _ in range(count) for part in (nn.Linear(4, 4, device="meta"), Work(gpu, 1_000))]
    return nn.Sequential(*parts)


# programs ---------------------------------------------------------------------------------------------------------


def test_a_training_loop(gpu):
    model = layers(gpu)
    optimizer = torch.optim.Adam(model.parameters())
    with modtrace.trace() as trace:
        for _ in range(20):
            optimizer.zero_grad()
            model(gpu.tensor(2, 4)).sum().backward()
            optimizer.step()
    assert times(trace) == [3_000, 0, 1_000, 0, 1_000, 0, 1_000] * 20
    assert None not in times(trace, "backward")
    assert trace.steps["memory_allocated_bytes"].notna().all()
    assert gaps(trace) == []


def test_gradients_that_are_accumulated_on_a_device_that_is_behind(gpu):
    model = layers(gpu)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for number in range(16):
            gpu.hold()
            model(gpu.tensor(2, 4)).sum().backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
            trace._tracer.flush()
        gpu.let_go()
    assert times(trace) == [3_000, 0, 1_000, 0, 1_000, 0, 1_000] * 16
    assert gaps(trace) == []


def test_side_streams(gpu):
    class Switches(nn.Module):
        def __init__(self):
            super().__init__()
            self.side, self.inside = torch.cuda.Stream(), Work(gpu, 20)

        def forward(self, x):
            gpu.work(1)
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                x = self.inside(x)
            torch.cuda.current_stream().wait_stream(self.side)
            return x

    model = Switches()
    with modtrace.trace(flops=False) as trace:
        for _ in range(50):
            model(gpu.tensor(2))
    assert times(trace) == [21, 20] * 50
    assert gpu.calls["event"] < 250


def test_two_devices(two):
    models = [Work(two, 10 * (index + 1)) for index in range(2)]
    given = [two.tensor(3, device=index) for index in range(2)]
    with modtrace.trace(flops=False) as trace:
        for _ in range(5):
            for index, model in enumerate(models):
                with torch.cuda.device(index):
                    model(given[index])
    assert times(trace) == [10, 20] * 5
    devices = trace._read().table("device_times").column("device").to_pylist()
    assert sorted(set(devices)) == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("training", [True, False])
def test_what_a_root_call_gets_says_where_it_runs(gpu, training):
    """From its first call on, in every mode, without parameters; and none is told of a module that runs elsewhere."""
    model, other = Work(gpu, 20).train(training), nn.Linear(2, 2)
    with modtrace.trace(flops=False) as trace, torch.set_grad_enabled(training):
        for _ in range(2):
            model(gpu.tensor(2))
            other(torch.ones(1, 2))
    assert times(trace) == [20, None] * 2
    device_ns = trace.modules.groupby("type")["device_total_ns"].sum(min_count=1)
    assert device_ns["Work"] == 40
    assert device_ns.isna()["Linear"]


def test_capture_and_replay(gpu):
    model = layers(gpu)
    with modtrace.trace(flops=False) as trace, torch.no_grad():
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.stream(side):
            model(gpu.tensor(2, 4))
        with torch.cuda.graph(graph):
            model(gpu.tensor(2, 4))
            trace._tracer.flush()
        graph.replay()
        trace._tracer.flush()
        model(gpu.tensor(2, 4))
    whole = [3_000, 0, 1_000, 0, 1_000, 0, 1_000]
    assert times(trace) == [*whole, *[None] * 7, *whole]


@pytest.mark.parametrize("counted", [True, False])
def test_captures_inside_a_root_on_its_stream(gpu, counted, monkeypatch):
    """Whether the stream is captured is not asked at each call, where captures are counted."""
    if not counted:
        monkeypatch.setattr(Captures, "_replace", lambda *_: None)

    class Calls(nn.Module):
        def __init__(self, run):
            super().__init__()
            self.run = run

        def forward(self, x):
            self.run()
            return x

    graph = torch.cuda.CUDAGraph()
    begins, ends = Calls(lambda: graph.capture_begin()), Calls(lambda: graph.capture_end())
    works = [Work(gpu, 10), Work(gpu, 20, Work(gpu, 3)), Work(gpu, 40)]
    model = nn.Sequential(works[0], begins, works[1], ends, works[2])
    with torch.cuda.stream(torch.cuda.Stream()), modtrace.trace(flops=False) as trace:
        for _ in range(10):
            model(gpu.tensor(2))
            gpu.work(1)
    assert times(trace) == [50, 10, None, None, None, None, 40] * 10
    assert gaps(trace) == []


def test_exceptions(gpu):
    class Fails(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error, self.inside = error, Work(gpu, 5)

        def forward(self, x):
            self.inside(x)
            raise self.error

    with modtrace.trace(flops=False) as trace:
        for error in (ValueError(), KeyboardInterrupt()):
            model = Fails(error)
            for _ in range(15):
                with pytest.raises(type(error)):
                    model(gpu.tensor(2))
        Work(gpu, 7)(gpu.tensor(2))
    assert times(trace) == [*[None, 5] * 30, 7]
    assert device_events_of(trace).under_way == 1  # what times are told from


def test_memory_that_runs_out_after_retries():
    mib = 1 << 20
    with fake_cuda(limit=64 * mib) as gpu:

        class Hungry(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(gpu.tensor(2))
                self.kept = []

            def forward(self, x, size):
                for _ in range(3):
                    gpu.free(gpu.allocate(size))
                self.kept.append(gpu.allocate(size))
                return x * self.scale

        model = Hungry()
        with pytest.raises(torch.OutOfMemoryError), modtrace.trace() as trace:
            model(gpu.tensor(2), 4 * mib)
            model(gpu.tensor(2), 30 * mib)
            for _ in range(4):
                model(gpu.tensor(2), 40 * mib)
        counted = torch.cuda.memory_stats()
        assert counted["num_ooms"] == 1
        assert counted["num_alloc_retries"] >= 1
        assert gpu.illegal == []
    calls = trace.calls
    roots = calls[calls["kind"] == "module"]
    assert roots["memory_delta_bytes"].tolist()[:2] == [4 * mib, 30 * mib]
    assert "CUDA out of memory" in roots["error"].tolist()[-1]


def test_a_loader_that_forks():
    with fake_cuda(plays="cpu") as gpu:
        data = [torch.full((4,), float(number)) for number in range(8)]
        model = Work(gpu, 100, nn.Linear(4, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with modtrace.trace() as trace:
            for _ in range(2):
                for batch in DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork"):
                    model(batch).sum().backward()
                    optimizer.step()
        assert gpu.illegal == []
    assert times(trace) == [100, 0] * 8


def printed_by(script, *arguments):
    """The lines that a script prints, by their first words."""
    command = [sys.executable, str(HERE / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("inside", ["", "inside"])
def test_two_threads_whose_backwards_share_the_thread_of_the_device(inside):
    lines = printed_by("shared_backward.py", inside)
    assert lines["threads"] == "1"
    assert lines["errors"] == lines["illegal"] == lines["gaps"] == "[]"
    assert lines["forwards"] == lines["with_backward"] == lines["timed"] == lines["of_their_thread"] == "120"
    assert lines["inner"] == ("80 1" if inside else "0 nan")


@pytest.mark.parametrize("inside", ["", "inside"])
def test_backward_on_the_processor_and_the_device_at_once(inside):
    found = printed_by("mixed_backward.py", inside)
    assert found["threads"] == "2"
    assert found["illegal"] == found["gaps"] == "[]"
    if inside:  # a node that calls modules has the tree to itself
        assert int(found["calls"]) > 21 * 11
    else:
        assert found["with_backward"] == found["calls"]


@pytest.mark.parametrize(("calls", "backward"), [(24_000, False), (1_000, True)])
def test_many_calls_in_one_root(gpu, calls, backward, monkeypatch):
    # No more events than that, read as soon as they are scarce: the host's clock decides nothing.
    monkeypatch.setattr(device_times, "MOST_EVENTS", 256 if backward else 1_024)
    monkeypatch.setattr(device_times, "RETRY_NS", 0)

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Linear(2, 2, device="meta") if backward else nn.Identity()

        def forward(self, x):
            for _ in range(calls):
                x = self.inside(x)
            return x

    model = Many()
    with modtrace.trace(flops=False) as trace:
        result = model(gpu.tensor(1, 2))
        if backward:
            result.sum().backward()
        spent = device_events_of(trace).spent_ns
    assert None not in times(trace)
    assert None not in times(trace, "backward")
    assert len(times(trace)) == calls + 1
    assert gaps(trace) == []
    assert gpu.calls["event"] <= device_times.MOST_EVENTS
    assert 0 < spent <= trace.calls["tracer_ns"].sum()  # what is read inside of a call is no time of its


# where events are recorded ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", [0, 1])
def test_calls_with_named_tensors_alone(home):
    with fake_cuda(devices=2, home=home) as gpu:

        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.inside = nn.Linear(2, 2, device="meta")

            def forward(self, *, x):
                gpu.work(70, None) if home == 0 else _on(gpu, 1, 70)
                return self.inside(x)

        model = Named()
        with modtrace.trace(flops=False) as trace:
            for _ in range(4):
                model(x=gpu.tensor(3, 2))
        # Torch shows keyword arguments at the end of a call: nothing was known of a device when the first one began.
        assert times(trace) == [None, 0, *[70, 0] * 3]
        assert gpu.contexts == [home]
        assert gpu.illegal == []


def test_the_first_call_with_named_tensors_is_where_its_parameters_are():
    with fake_cuda(devices=2, home=1) as gpu:
        named = nn.Sequential(nn.Sequential(Work(gpu, 0), nn.Linear(2, 2, device="meta")))
        named.forward = lambda x: _on(gpu, 1, 70) or x
        with modtrace.trace(flops=False) as trace:
            Work(gpu, 0)(gpu.tensor(2, device=0))
            named(x=gpu.tensor(3, 2))
        assert times(trace) == [0, 70]
        assert gpu.illegal == []


def test_a_thread_that_has_used_no_device_begins_on_none():
    """Its module has no parameters and named tensors alone: nothing says where it is, and device 0 is another's."""

    class Named(nn.Module):
        def forward(self, *, x):
            return x

    with fake_cuda(devices=2, home=1) as gpu:
        named = Named()
        with modtrace.trace(flops=False) as trace:
            with torch.cuda.device(1):
                Work(gpu, 0)(gpu.tensor(3, 2))
            thread = threading.Thread(target=lambda: named(x=torch.ones(2)))
            thread.start()
            thread.join()
        assert times(trace)[1] is None
        assert gpu.contexts == [1]
        assert gpu.illegal == []


def _on(gpu, device, nanoseconds):
    with torch.cuda.device(device):
        gpu.work(nanoseconds)


def test_modules_of_the_processor_beside_a_device(gpu):
    host = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    named = Work(gpu, 0)
    first = Work(gpu, 3)
    with modtrace.trace(flops=False) as trace:
        first(gpu.tensor(2))
        host(torch.ones(2))
        named(x=torch.ones(2))
        recorded = gpu.calls["record"]
        for _ in range(10):
            host(torch.ones(2))
            named(x=torch.ones(2))
        assert (
            gpu.calls["record"] - recorded <= 40
        )  # of phases, which are where the thread last used a device
    assert times(trace)[0] == 3
    assert set(times(trace)[1:]) == {None}


def test_a_second_device_without_tensors_gets_no_context():
    with fake_cuda(devices=2, home=1) as gpu:
        model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.ReLU())
        host = nn.Linear(2, 2)
        with modtrace.trace() as trace:
            for _ in range(3):
                host(torch.ones(1, 2)).sum().backward()
                model(gpu.tensor(1, 2)).sum().backward()
        assert gpu.contexts == [1]
        assert gpu.illegal == []
    assert times(trace).count(None) == 3


def test_a_driver_that_is_started_while_recording():
    with fake_cuda(initialized=False) as gpu:
        model = Work(gpu, 8)
        with modtrace.trace(flops=False) as trace:
            model(gpu.tensor(2))
            assert gpu.calls.total() == 0
            torch.cuda.init()
            model(gpu.tensor(3))
            model(gpu.tensor(2))
        assert gpu.illegal == []
    assert times(trace) == [None, 8, 8]
    assert trace.calls["memory_delta_bytes"].notna().sum() >= 2


def test_a_device_that_is_never_used_is_asked_nothing(monkeypatch):
    can = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    monkeypatch.setattr(torch.autograd.profiler, "_supported_activities", lambda: can)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    with fake_cuda(initialized=False) as gpu:
        with modtrace.trace(
            kernels="0:3", memory="0:3", saved="0:2", values="0:2", nan=True, syncs=True, functions=True
        ) as trace:
            for _ in range(4):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
                modtrace.step()
            used = gpu.calls.copy()
        trace.summary()
        assert used == gpu.calls == {}
        assert gpu.illegal == gpu.contexts[1:] == []
        assert not gpu.initialised
    assert gaps(trace) == []


# captures on other threads ----------------------------------------------------------------------------------------


def test_nothing_is_asked_while_another_thread_captures(gpu):
    model = layers(gpu)
    begun, done = threading.Event(), threading.Event()
    failed = []

    def captures():
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin()
                begun.set()
                done.wait(30)
                graph.capture_end()
        except RuntimeError as error:
            failed.append(error)

    with modtrace.trace(flops=False) as trace:
        model(gpu.tensor(2, 4))
        thread = threading.Thread(target=captures)
        thread.start()
        begun.wait(30)
        asked = gpu.calls["query"]
        for _ in range(10):
            model(gpu.tensor(2, 4))
            trace._tracer.flush()
        assert gpu.calls["query"] == asked
        done.set()
        thread.join()
    assert failed == []
    assert times(trace) == [3_000, 0, 1_000, 0, 1_000, 0, 1_000] * 11


def test_a_capture_waits_for_events_that_are_read(gpu):
    clock = CudaClock()
    reading = threading.Lock()
    clock.watch(reading)
    try:
        begun = threading.Event()

        def captures():
            with torch.cuda.stream(torch.cuda.Stream()):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin()
                begun.set()
                graph.capture_end()

        with reading:
            thread = threading.Thread(target=captures)
            thread.start()
            assert clock.may_read()
            assert not begun.wait(0.05)
        thread.join()
        assert begun.is_set()
        assert clock.may_read()
    finally:
        clock.close()


def test_a_capture_that_cannot_begin_is_none(gpu):
    clock = CudaClock()
    graphs = [torch.cuda.CUDAGraph, *filter(None, [getattr(torch.accelerator, "Graph", None)])]
    originals = [graph.capture_begin for graph in graphs]
    clock.watch(threading.Lock())
    assert not set(originals) & {graph.capture_begin for graph in graphs}
    with pytest.raises(RuntimeError, match="non-default stream"):
        torch.cuda.CUDAGraph().capture_begin()
    assert clock.may_read()
    clock.close()
    assert [graph.capture_begin for graph in graphs] == originals


# faults -----------------------------------------------------------------------------------------------------------


def test_a_device_that_fails_is_the_programs_to_tell_of(gpu, recwarn):
    model = layers(gpu)
    error = RuntimeError("CUDA error: device-side assert triggered")
    with modtrace.trace(flops=False) as trace:
        model(gpu.tensor(2, 4))
        trace._tracer.flush()
        for name in ("record", "query", "elapsed_time"):
            gpu.broken[name] = error
        model(gpu.tensor(2, 4))
    assert not [warning for warning in recwarn if "device time" in str(warning.message)]
    assert gaps(trace) == [device_times.STOPPED.format("RuntimeError")]
    assert times(trace)[:7] == [3_000, 0, 1_000, 0, 1_000, 0, 1_000]


def test_counters_of_a_device_that_fails(gpu, recwarn):
    model = layers(gpu)
    with modtrace.trace(flops=False) as trace:
        model(gpu.tensor(2, 4))
        gpu.broken["memory_stats"] = RuntimeError("CUDA error: device-side assert triggered")
        for _ in range(3):
            model(gpu.tensor(2, 4))
    assert not [warning for warning in recwarn if "memory" in str(warning.message)]
    assert gaps(trace) == [counter_readings.STOPPED.format("RuntimeError")]
    assert None not in times(trace)


@pytest.mark.parametrize("begin", [("all", None, "python", 100), (True,)], ids=["new", "legacy"])
def test_a_history_that_the_program_begins_holds_its_own_alone(gpu, begin):
    def program():
        address = gpu.allocate(100)
        torch.cuda.memory._record_memory_history(*begin)
        gpu.free(address)
        gpu.allocate(3_000)
        held = torch.cuda.memory._snapshot()["device_traces"][0]
        torch.cuda.memory._record_memory_history(None)
        return [(entry["action"], entry["size"]) for entry in held]

    alone = program()
    ours = history.CudaHistory()
    assert ours.begin() == [3_000]
    gpu.free(gpu.allocate(5_000))
    assert program() == alone
    assert ours.end() is None
    assert not torch._C._cuda_isHistoryEnabled()


def test_a_history_of_ours_goes_on_where_the_program_has_none_to_end(gpu):
    ours = history.CudaHistory()
    ours.begin()
    gpu.allocate(700)
    torch.cuda.memory._record_memory_history(None)
    gpu.allocate(800)
    (entries,) = ours.end()
    assert [entry["size"] for entry in entries if entry["action"] == "alloc"] == [700, 800]
    assert not torch._C._cuda_isHistoryEnabled()


# the price --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [False, True])
def test_calls_of_cuda_for_each_call_of_a_module(gpu, side):
    model = nn.Sequential(*(nn.Identity() for _ in range(20)))
    stream = torch.cuda.Stream() if side else torch.cuda.default_stream()
    with torch.cuda.stream(stream), modtrace.trace(flops=False) as trace:
        model(gpu.tensor(2))
        gpu.calls.clear()
        for _ in range(100):
            model(gpu.tensor(2))
    times_of = ("is_current_stream_capturing", "current_raw_stream", "record", "elapsed_time", "query")
    calls = sum(gpu.calls[name] for name in times_of)
    assert len(times(trace)) == 101 * 21
    assert calls / (100 * 21) <= 5.2 + side / 21  # whether a side stream is captured is asked at each root
