"""Device time with a clock of the test's own, whose device is `meta`: no kernels, a test says how long they take."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import modtrace
from modtrace.capture.mechanisms import clocks
from modtrace.capture.mechanisms import device_events as device_times
from modtrace.errors import TraceError
from modtrace.trace.writer import Writer


def device_events_of(trace):
    """The part that records device times, of a trace that records or has ended."""
    (recorder,) = [recorder for recorder in trace._tracer._recorders if recorder.name == "device_times"]
    return recorder._events


class Event:
    at = None
    stream = None


class FakeClock:
    """`now` is the time on the device; `passed` is how far it has come, None for as far as it was given work."""

    kind = "meta"

    def __init__(self):
        self.now = 0
        self.passed = None
        self.made = 0
        self.recorded = []
        self.asked = 0
        self.in_use = 0
        self.capturing = False
        self.broken = set()

    def _may_break(self, name):
        if name in self.broken:
            raise RuntimeError(f"{name} is broken")

    def watch(self, reading):
        pass

    def close(self):
        pass

    def may_read(self):
        return not self.capturing

    def handle(self, device, stream):
        return device, stream

    def stream(self, device, recorded=None):
        self._may_break("stream")
        return None if self.capturing else self.in_use

    def event(self, device):
        self._may_break("event")
        self.made += 1
        return Event()

    def record(self, event, handle):
        self._may_break("record")
        assert not self.capturing
        device, stream = handle
        event.at, event.stream = self.now, stream
        self.recorded.append((device, stream, self.now))

    def is_idle(self, handle):
        self._may_break("is_idle")
        if self.capturing:
            return None
        return self.passed is None or self.passed >= self.now

    def is_complete(self, event):
        self._may_break("is_complete")
        assert not self.capturing
        self.asked += 1
        return self.passed is None or event.at <= self.passed

    def elapsed_ns(self, first, second):
        self._may_break("elapsed_ns")
        assert self.is_complete(first)
        assert self.is_complete(second)
        return second.at - first.at


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(device_times, "clock_of", lambda kind: fake if kind == "meta" else None)
    return fake


class Busy(nn.Module):
    """Gives the device some work around what is inside it."""

    def __init__(self, clock, nanoseconds, *inside):
        super().__init__()
        self.clock = clock
        self.nanoseconds = nanoseconds
        self.inside = nn.ModuleList(inside)

    def forward(self, x, **_):
        self.clock.now += self.nanoseconds
        for module in self.inside:
            x = module(x)
        return x


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock, nanoseconds):
        ctx.clock, ctx.nanoseconds = clock, nanoseconds
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.nanoseconds
        return gradient, None, None


class Trained(nn.Module):
    """`forward_ns` of work in forward and `backward_ns` in backward."""

    def __init__(self, clock, forward_ns, backward_ns):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, device="meta"))
        self.clock, self.forward_ns, self.backward_ns = clock, forward_ns, backward_ns

    def forward(self, x):
        self.clock.now += self.forward_ns
        return _Backwards.apply(x * self.scale, self.clock, self.backward_ns)


def given():
    return torch.empty(2, device="meta")


def times(trace, kind="module"):
    """(type, device_ns) of the calls of a kind, in order."""
    calls = trace.calls[trace.calls["kind"] == kind]
    return [
        (type_, None if ns is None else int(ns))
        for type_, ns in zip(
            calls["type"],
            calls["device_ns"].astype(object).where(calls["device_ns"].notna(), None),
            strict=True,
        )
    ]


def on_device(trace):
    return [ns for _, ns in times(trace)]


def gaps(trace):
    return trace._read().table("gaps").column("reason").to_pylist()


def test_nested_calls(clock):
    model = Busy(clock, 100, Busy(clock, 20), Busy(clock, 30, Busy(clock, 7)))
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.now += 1_000  # between calls: of none
        model(given())
    assert on_device(trace) == [157, 20, 37, 7] * 2
    assert gaps(trace) == []
    assert [at for _, _, at in clock.recorded] == sorted(at for _, _, at in clock.recorded)


def test_events_are_used_again(clock):
    model = Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        for _ in range(5):
            model(given())
            trace._tracer.flush()
    assert on_device(trace) == [5] * 5
    assert clock.made <= 3


def test_totals_of_modules(clock):
    model = nn.Sequential(Trained(clock, 10, 300), Trained(clock, 20, 500))
    with modtrace.trace(flops=False) as trace:
        for _ in range(3):
            model(given()).sum().backward()
    found = trace.modules.set_index("name")
    assert found["forward_device_ns"].tolist() == [90, 30, 60]
    assert found["backward_device_ns"].tolist() == [2_400, 900, 1_500]
    assert found["device_total_ns"].tolist() == [2_490, 930, 1_560]
    assert times(trace, "backward")[:3] == [("Sequential", 800), ("Trained", 500), ("Trained", 300)]
    phases = trace.calls[(trace.calls["kind"] == "phase") & (trace.calls["name"] == "backward")]
    assert phases["device_ns"].tolist() == [800] * 3


def test_steps_and_summary(clock):
    model = Trained(clock, 100, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(flops=False) as trace:
        for _ in range(4):
            model(given()).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            clock.now += 100
    steps = trace.steps.iloc[:4]
    assert steps["device_ns"].tolist() == [300] * 4
    assert steps["device_idle_ns"].tolist() == [0, 100, 100, 100]  # a step ends with its optimizer
    assert "device    idle at least 25.0% of the step; gaps between kernels are not seen" in trace.summary()
    forward = trace.calls[(trace.calls["kind"] == "phase") & (trace.calls["name"] == "forward")]
    assert forward["device_ns"].tolist() == [100] * 4


def test_without_device_time_the_summary_has_no_line():
    model = nn.Linear(2, 2)
    with modtrace.trace() as trace:
        for _ in range(3):
            model(torch.ones(2, 2)).sum().backward()
    assert "  device " not in trace.summary()
    assert trace.steps["device_ns"].isna().all()
    assert trace.steps["device_idle_ns"].isna().all()
    assert trace.calls["device_ns"].isna().all()
    columns = ["device_total_ns", "forward_device_ns", "backward_device_ns"]
    assert trace.modules[columns].isna().all(axis=None)


def test_nothing_is_recorded_on_the_cpu(clock):
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with modtrace.trace() as trace:
        for _ in range(3):
            model(torch.ones(2, 2)).sum().backward()
    assert clock.recorded == []
    assert clock.asked == clock.made == 0
    assert on_device(trace) == [None] * 9
    assert trace._read().table("device_times").num_rows == 0


def test_modules_on_the_cpu_beside_those_on_a_device(clock):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.host, self.device = nn.Linear(2, 2), Busy(clock, 9)

        def forward(self, x):
            self.host(torch.ones(1, 2))
            return self.device(x)

    model = Both()
    with modtrace.trace(flops=False) as trace:
        model(given())
        model(given())
    assert on_device(trace) == [9, None, 9] * 2


def test_tensors_that_are_not_positional(clock):
    class Named(nn.Module):
        def forward(self, *, x=None):
            clock.now += 4
            return x

    class Made(nn.Module):
        def forward(self):
            clock.now += 5
            return given()

    class Neither(nn.Module):
        def forward(self):
            clock.now += 6

    first, named, made, neither = Busy(clock, 1), Named(), Made(), Neither()
    with modtrace.trace(flops=False) as trace:
        first(given())
        named(x=given())
        made()
        neither()
    assert on_device(trace) == [1, 4, 5, None]
    assert device_events_of(trace).under_way == 1  # what times are told from


def test_own_hooks_belong_to_the_call(clock):
    model = Busy(clock, 10)

    def hook(module, args, output):
        clock.now += 5

    model.register_forward_hook(hook)
    with modtrace.trace(flops=False) as trace:
        model(given())
    assert on_device(trace) == [15]


def test_a_call_that_raises_has_none(clock):
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Busy(clock, 3)

        def forward(self, x):
            self.inside(x)
            raise ValueError

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Raises()

        def forward(self, x):
            with pytest.raises(ValueError):
                self.inside(x)
            return x

    model = Catches()
    with modtrace.trace(flops=False) as trace:
        model(given())
    assert times(trace) == [("Catches", 3), ("Raises", None), ("Busy", 3)]


def test_a_base_exception_leaves_no_mark(clock):
    class Interrupted(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    model, after = Busy(clock, 3, Interrupted()), Busy(clock, 8)
    with modtrace.trace(flops=False) as trace:
        with pytest.raises(KeyboardInterrupt):
            model(given())
        after(given())
    assert on_device(trace) == [None, None, 8]


def test_two_streams(clock):
    class Switches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Busy(clock, 20)

        def forward(self, x):
            clock.now += 1
            clock.in_use = 1
            x = self.inside(x)
            clock.in_use = 0
            return x

    class Leaves(nn.Module):
        def forward(self, x):
            clock.in_use = 2
            return x

    first, second = Switches(), Leaves()
    with modtrace.trace(flops=False) as trace:
        first(given())
        second(given())
    assert on_device(trace) == [21, 20, None]  # the last one ends on another stream than it began
    starts = trace._read().table("device_times").column("start_ns")
    assert starts.null_count == 0
    assert trace.steps["device_ns"].tolist()[0] == 21  # not 41: the streams worked at one time


def test_a_call_whose_tensors_are_named_is_timed_where_its_parameters_are(clock):
    """Torch shows named arguments when a call has ended only: until then its parameters tell, not those of a CPU."""

    class OnTheHost(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            clock.now += 3
            return self.scale * len(x)

    with modtrace.trace(flops=False) as trace:
        Busy(clock, 2)(given())
        Trained(clock, 5, 0)(x=given())
        OnTheHost()(x=torch.ones(2))
    assert on_device(trace) == [2, 5, None]


def test_times_wait_for_the_stream_on_which_they_are_placed(clock, monkeypatch):
    """The first event of a device says where its clock stands. It may be on a stream that is behind others."""
    behind = [1]
    monkeypatch.setattr(clock, "is_complete", lambda event: event.stream not in behind)
    slow, fast = Busy(clock, 1_000), Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        clock.in_use = 1
        slow(given())
        clock.in_use = 0
        fast(given())
        trace._tracer.flush()
        behind.clear()
    assert on_device(trace) == [1_000, 5]
    assert gaps(trace) == []


def test_a_stream_that_is_behind_holds_up_no_other(clock, monkeypatch):
    monkeypatch.setattr(device_times, "WAIT_SECONDS", 0.01)
    slow, fast = Busy(clock, 1_000), Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        fast(given())
        clock.in_use = 1
        slow(given())
        clock.in_use = 0
        clock.now = 10
        fast(given())
        clock.passed = 15
    assert on_device(trace) == [5, None, 5]
    assert gaps(trace) == [device_times.UNREAD.format(1)]


def test_two_devices(clock):
    def key(index):
        device = torch.device("cuda", index)
        return (torch.Size([2]), torch.float32, device, False, torch.strided)

    assert list(device_times.devices_in(("args", key(1), key(0)))) == [("cuda", 1), ("cuda", 0)]
    first, second = Busy(clock, 10), Busy(clock, 40)
    with modtrace.trace(flops=False) as trace:
        for number, model in enumerate((first, second)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(device_times, "devices_in", lambda key, n=number: [("meta", n)])
                model(torch.empty(number + 1, device="meta"))
    found = trace._read().table("device_times")
    assert found.column("device").to_pylist() == ["meta:0", "meta:1"]
    assert on_device(trace) == [10, 40]


def test_devices_of_keys():
    def of(key):
        return list(device_times.devices_in(key))

    assert of(("type", "None")) == of(("args",)) == of(("call", 1, 2)) == []
    subclass = ("tensor", "DTensor", (2,), "float32", "cuda:3", False, "strided")
    assert of(("kwargs", ("x", ("sequence", "list", subclass)))) == [("cuda", 3)]
    assert of(("tensor", "FakeTensor", (2,), "float32", "cuda:3", False, "strided")) == []
    assert of(("tensor", "", None, None, None, None, None)) == []


def test_too_many_events(clock, monkeypatch):
    monkeypatch.setattr(device_times, "MOST_EVENTS", 6)
    clock.passed = -1
    model = Busy(clock, 1, Busy(clock, 2), Busy(clock, 3))
    with modtrace.trace(flops=False) as trace:
        model(given())
        model(given())
        clock.passed = None
    assert clock.made == 6
    assert [ns is None for ns in on_device(trace)].count(True) >= 4
    assert set(on_device(trace)) <= {6, 2, 3, None}
    assert any("too many events" in gap for gap in gaps(trace))


def test_many_calls_read_their_events_in_time(clock, monkeypatch):
    monkeypatch.setattr(device_times, "MOST_EVENTS", 16)
    monkeypatch.setattr(device_times, "RETRY_NS", 0)
    model = Busy(clock, 5, Busy(clock, 2))
    with modtrace.trace(flops=False) as trace:
        for _ in range(200):
            model(given())
    assert on_device(trace) == [7, 2] * 200
    assert clock.made <= 16


def test_nothing_while_a_graph_is_captured(clock):
    class Captures(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Busy(clock, 2)

        def forward(self, x):
            clock.capturing = True
            self.inside(x)
            clock.capturing = False
            return x

    model, plain = Captures(), Busy(clock, 4)
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.capturing = True
        plain(given())
        trace._tracer.flush()
        clock.capturing = False
        plain(given())
    assert times(trace) == [("Captures", 2), ("Busy", None), ("Busy", None), ("Busy", 4)]
    assert gaps(trace) == []


def test_events_that_never_complete(clock, monkeypatch):
    monkeypatch.setattr(device_times, "WAIT_SECONDS", 0.05)
    model = Busy(clock, 10)
    with modtrace.trace(flops=False) as trace:
        model(given())
        trace._tracer.flush()
        clock.passed = 10
        model(given())
    assert on_device(trace) == [10, None]
    assert gaps(trace) == [device_times.UNREAD.format(1)]


def test_the_last_events_are_waited_for(clock):
    clock.passed = -1
    model = Busy(clock, 10)
    with modtrace.trace(flops=False) as trace:
        model(given())
        threading.Timer(0.05, lambda: setattr(clock, "passed", 10)).start()
    assert on_device(trace) == [10]


@pytest.mark.parametrize("method", ["stream", "event", "record", "is_complete", "elapsed_ns"])
def test_a_clock_that_fails(clock, method):
    model = Busy(clock, 10, Busy(clock, 3))
    with pytest.warns(RuntimeWarning, match="device time is not recorded from here on: RuntimeError"):  # noqa: SIM117
        with modtrace.trace(flops=False) as trace:
            model(given())
            trace._tracer.flush()
            clock.broken.add(method)
            clock.in_use = 1
            for _ in range(3):
                assert model(torch.empty(3, device="meta")).shape == (3,)
            trace._tracer.flush()
    assert len(trace.calls) == 8
    assert on_device(trace)[:2] == [13, 3]
    assert gaps(trace) == [device_times.STOPPED.format("RuntimeError")]


def test_a_clock_that_cannot_be_made(monkeypatch):
    def broken(kind):
        raise OSError

    monkeypatch.setattr(device_times, "clock_of", broken)
    with pytest.warns(RuntimeWarning, match="device time"), modtrace.trace(flops=False) as trace:
        nn.Identity()(given())
    assert on_device(trace) == [None]


def test_no_operation_of_ours(clock):
    class Sees(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    model = nn.Sequential(nn.Linear(2, 2, device="meta"), Busy(clock, 3))

    def run():
        model.zero_grad()
        with Sees() as mode:
            model(torch.empty(1, 2, device="meta")).sum().backward()
        return mode.seen

    plain = run()
    with modtrace.trace(flops=False) as trace:
        traced = run()
    assert traced == plain
    assert on_device(trace) == [3, 0, 3]


def test_threads_have_marks_of_their_own(clock):
    models = [Busy(clock, 0, Busy(clock, 0)) for _ in range(4)]

    def work(model):
        for _ in range(50):
            model(given())

    with modtrace.trace(flops=False) as trace:
        threads = [threading.Thread(target=work, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert on_device(trace) == [0] * 400


def test_a_first_call_before_any_tensor_of_the_device(clock):
    class Made(nn.Module):
        def forward(self):
            clock.now += 5
            return given()

    model = Made()
    with modtrace.trace(flops=False) as trace:
        model()
        model()
    assert on_device(trace) == [None, 5]


@pytest.mark.parametrize("wrong", [-1, 1 << 60])
def test_impossible_times_are_refused(clock, monkeypatch, wrong):
    model = Busy(clock, 10)
    original = Writer.append

    def append(self, table, columns, **more):
        if table == "device_times":
            columns = {**columns, "device_ns": [wrong for _ in columns["device_ns"]]}
        original(self, table, columns, **more)

    monkeypatch.setattr(Writer, "append", append)
    with modtrace.trace(flops=False) as trace:
        model(given())
    with pytest.raises(TraceError, match="contradicts itself"):
        _ = trace.calls


def test_times_of_calls_that_are_not_there_are_left_out(clock, monkeypatch):
    model = Busy(clock, 10)
    original = Writer.append

    def append(self, table, columns, **more):
        if table == "device_times":
            columns = {name: [*values, *values] for name, values in columns.items()}
            columns["call"][-1] = 12_345
        original(self, table, columns, **more)

    monkeypatch.setattr(Writer, "append", append)
    with modtrace.trace(flops=False) as trace:
        model(given())
    assert on_device(trace) == [10]


def test_clocks_there_are():
    assert clocks.clock_of("cpu") is None
    assert clocks.clock_of("meta") is None
    assert clocks.clock_of("mps") is None  # reading one of its events waits for the device
    if not torch.cuda.is_available():
        assert clocks.clock_of("cuda") is None


# whether the device had run dry ----------------------------------------------------------------------------------


def starts(trace):
    """(name of the phase or type of the root, dry) of each row at whose start that was asked, in order."""
    stored = trace._read()
    calls, labels = stored.table("calls").to_pylist(), stored.table("labels").to_pylist()
    types = stored.table("modules")["type"].to_pylist()
    return [
        (
            types[calls[row["call"]]["module"]] if calls[row["call"]]["module"] is not None
            else labels[calls[row["call"]]["label"]]["name"],
            row["dry"],
        )
        for row in stored.table("device_starts").to_pylist()
    ]  # fmt: skip


def test_a_device_that_has_run_dry_and_one_that_has_not(clock):
    model = Busy(clock, 5, Busy(clock, 2), Busy(clock, 3))
    with modtrace.trace(flops=False) as trace:
        for passed in (None, None, 0, None):
            clock.passed = passed
            model(given())
        clock.passed = None
    assert starts(trace) == [("Busy", True), ("Busy", False), ("Busy", True)], "the first is not asked of"


def test_dry_at_phases(clock):
    model = Trained(clock, 5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(flops=False) as trace:
        for _ in range(2):
            clock.passed = None
            out = model(given()).sum()
            clock.passed = 0
            out.backward()
            clock.passed = None
            optimizer.step()
    assert starts(trace) == [
        ("backward", False), ("optimizer", True), ("Trained", True), ("backward", False), ("optimizer", True),
    ]  # fmt: skip


def test_nothing_is_asked_while_a_graph_is_captured(clock):
    model = Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.capturing = True
        model(given())
        clock.capturing = False
        model(given())
    assert starts(trace) == [("Busy", True)]


def test_another_stream_is_not_taken_for_dry(clock):
    model = Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        for stream in (0, 0, 1, 1):
            clock.in_use = stream
            model(given())
    assert len(starts(trace)) == 2


def test_a_question_that_fails_ends_device_times_alone(clock):
    model = Busy(clock, 5)
    with modtrace.trace(flops=False) as trace:
        model(given())
        clock.broken.add("is_idle")
        with pytest.warns(RuntimeWarning, match="device time is not recorded from here on"):
            model(given())
        model(given())
    assert len(trace.calls) == 3
    assert starts(trace) == []


# several devices -------------------------------------------------------------------------------------------------


def test_a_second_device_is_a_gap(clock, monkeypatch):
    """There is no second `meta`: the test says where the tensors of a signature are."""
    real = device_times.devices_in
    places = iter((0, 0, 1, 1, 2))
    monkeypatch.setattr(
        device_times, "devices_in", lambda key: [(kind, next(places, 0)) for kind, _ in real(key)]
    )
    model = nn.Identity()
    with modtrace.trace(flops=False) as trace:
        for size in range(1, 6):
            model(torch.empty(size, device="meta"))
    told = trace._read().table("gaps").column("reason").to_pylist()
    assert told.count(device_times.SEVERAL) == 1


def test_one_device_is_none(clock):
    model = nn.Identity()
    with modtrace.trace(flops=False) as trace:
        for size in range(1, 6):
            model(torch.empty(size, device="meta"))
    assert trace._read().table("gaps").num_rows == 0


@pytest.mark.skipif(not hasattr(torch, "accelerator"), reason="such devices have no clock")
@pytest.mark.parametrize("numbered", [True, False])
def test_the_stream_in_use_on_another_kind_of_device(monkeypatch, numbered):
    """By its number, without an object for it, where torch tells that."""
    asked, capturing = [], []

    def current_stream(device):
        asked.append(device)
        return SimpleNamespace(stream_id=7 + device)

    monkeypatch.setattr(torch.accelerator, "current_stream", current_stream)
    monkeypatch.setattr(torch.xpu, "is_current_stream_capturing", lambda: bool(capturing), raising=False)
    monkeypatch.setattr(clocks, "xpu_raw_stream", (lambda device: 50 + device) if numbered else None)
    clock = clocks.AcceleratorClock("xpu")
    assert clock.stream(1) == (51 if numbered else 8)
    assert asked == ([] if numbered else [1])
    assert clock.handle(1, 51).stream_id == 8
    capturing.append(True)
    assert clock.stream(1) is None
    assert clock.stream(1, 51) is None
