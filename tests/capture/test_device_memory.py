"""Memory of devices with an allocator of the test's own, whose device is `meta`: it knows all that was ever held."""

from __future__ import annotations

import random

import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.device_memory import wholes
from modtrace.capture.mechanisms import counter_readings as memory_readings
from modtrace.capture.mechanisms import device_memory
from modtrace.capture.mechanisms.device_memory import Counters
from modtrace.errors import TraceError
from modtrace.trace.schema import AT_END, AT_RECORDING, AT_RECOUNT, AT_RESET, AT_START
from modtrace.trace.writer import Writer

SLACK = 1000
"""What the allocator reserves more than it gives out."""


class FakeMemory:
    """Counts as torch's allocator does; `held` is every level that there has been, with what was going on then."""

    kind = "meta"

    def __init__(self):
        self.now = [0, 0]
        self.peak = [0, 0]
        self.ever = [0, 0]
        self.counts = True
        self.held = []
        self.doing = "before"
        self.tell = None
        self.capturing = False
        self.broken = False
        self.asked = 0

    def count(self):
        return 2

    def read(self, device):
        if self.broken:
            raise RuntimeError("broken")
        if self.capturing:
            return None
        self.asked += 1
        ever = self.ever[device] if self.counts else None
        return Counters(self.now[device], self.now[device] + SLACK, self.peak[device], ever)

    def watch(self, resets):
        self.tell = resets

    def close(self):
        self.tell = None

    def change(self, size, device=0):
        self.now[device] += size
        self.ever[device] += max(size, 0)
        self.peak[device] = max(self.peak[device], self.now[device])
        self.held.append((self.doing, self.now[device]))

    def reset(self, *, unseen=False):
        if self.tell is not None and not unseen:
            self.tell(0, AT_RESET)
        self.peak[0] = self.now[0]

    def recount(self):
        if self.tell is not None:
            self.tell(0, AT_RECOUNT)
        self.ever[0] = 0


@pytest.fixture
def memory(monkeypatch):
    fake = FakeMemory()
    monkeypatch.setattr(memory_readings, "memory_of", lambda kind: fake if kind == "meta" else None)
    monkeypatch.setattr(memory_readings, "KINDS", ("meta",))
    return fake


class Holds(nn.Module):
    """Allocates `kept` and `more`, and frees `more`."""

    def __init__(self, memory, kept, more, *inside):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, device="meta"))
        self.memory, self.kept, self.more = memory, kept, more
        self.inside = nn.ModuleList(inside)

    def forward(self, x):
        self.memory.change(self.kept + self.more)
        self.memory.change(-self.more)
        for module in self.inside:
            x = module(x)
        return x * self.scale


def given(size=2):
    return torch.empty(size, device="meta")


def of_roots(trace):
    """(change, peak) of each root call; None for unknown."""
    calls = trace.calls
    calls = calls[(calls["kind"] == "module") & (calls["name"] == "")]
    pairs = zip(calls["memory_delta_bytes"], calls["memory_peak_bytes"], strict=True)
    return [tuple(None if value is pd.NA else int(value) for value in pair) for pair in pairs]


def moments(trace):
    table = trace._read().table("device_memory")
    return list(zip(table.column("moment").to_pylist(), table.column("call").to_pylist(), strict=True))


def gaps(trace):
    return trace._read().table("gaps").column("reason").to_pylist()


def test_root_calls_and_none_inside(memory):
    model = Holds(memory, 10, 100, Holds(memory, 5, 30))
    with modtrace.trace(flops=False) as trace:
        model(given())
        model(given())
    calls = trace.calls
    assert of_roots(trace) == [(15, 110), (15, 125)]
    assert calls[calls["name"] == "inside.0"]["memory_delta_bytes"].isna().all()
    assert moments(trace) == [
        (AT_RECORDING, None),
        (AT_START, 0),
        (AT_END, 0),
        (AT_START, 2),
        (AT_END, 2),
        (AT_RECORDING, None),
    ]
    assert gaps(trace) == []


def test_a_peak_that_was_not_passed_is_unknown(memory):
    first, second, third = Holds(memory, 0, 100), Holds(memory, 5, 20), Holds(memory, 95, 0)
    with modtrace.trace(flops=False) as trace:
        first(given())
        second(given())
        third(given())  # ends with as much as the peak: no more was held in it, and no less
    assert of_roots(trace) == [(0, 100), (5, None), (95, 100)]


@pytest.mark.parametrize("counts", [True, False])
def test_a_call_that_allocates_only_what_it_keeps(memory, counts):
    memory.counts = counts
    first, second, nothing = Holds(memory, 0, 100), Holds(memory, 5, 0), Holds(memory, 0, 0)
    with modtrace.trace(flops=False) as trace:
        first(given())
        second(given())
        nothing(given())
        memory.recount()
        second(given())
    known = [(5, 5), (0, 5), (5, 10)]
    assert of_roots(trace) == [(0, 100), *(known if counts else [(change, None) for change, _ in known])]
    assert [moment for moment, _ in moments(trace)].count(AT_RECOUNT) == 1


def test_random_programs(memory):
    """Whatever is told of a peak is what was reached; resets and all, in the order of chance."""
    chance = random.Random(1)
    reached = []

    class Random(nn.Module):
        def forward(self, x):
            memory.held = [("", memory.now[0])]
            for _ in range(chance.randrange(4)):
                memory.change(chance.randrange(-min(memory.now[0], 50), 60))
                if chance.random() < 0.1:
                    memory.reset()
            reached.append(max(level for _, level in memory.held))
            return x

    model = Random()
    with modtrace.trace(flops=False) as trace:
        for _ in range(60):
            model(given())
            chance.choice([memory.reset, memory.recount, int, int])()
    found = [peak for _, peak in of_roots(trace)]
    told = [(peak, true) for peak, true in zip(found, reached, strict=True) if peak is not None]
    assert all(peak == true for peak, true in told)
    assert 20 < len(told) < 60


def test_the_peak_of_the_run_is_the_allocators(memory):
    memory.change(50)
    memory.change(-20)
    model = Holds(memory, 7, 400)
    with modtrace.trace(flops=False) as trace:
        for _ in range(3):
            model(given())
        memory.change(1_000)  # outside of all calls
        memory.change(-1_000)
    (whole,) = wholes(trace._read())
    assert (whole.peak_bytes, whole.counter_bytes) == (memory.peak[0], memory.peak[0])
    assert whole.peak_bytes == max(level for _, level in memory.held)
    assert (whole.allocated_bytes, whole.reserved_bytes, whole.resets) == (51, 51 + SLACK, 0)
    assert "memory    meta:0 peak 1.03 KiB   end 51 B of 1.03 KiB reserved" in trace.summary()


def test_a_peak_from_before_is_not_the_runs(memory):
    memory.change(5_000)
    memory.change(-5_000)
    model = Holds(memory, 7, 400)
    with modtrace.trace(flops=False) as trace:
        model(given())
    (whole,) = wholes(trace._read())
    assert whole.peak_bytes is None
    assert (whole.least_bytes, whole.counter_bytes) == (7, 5_000)
    assert "meta:0 peak at least 7 B " in trace.summary()


def test_a_device_of_which_nothing_was_taken_has_a_peak_of_nothing(memory):
    with modtrace.trace(flops=False) as trace:
        Holds(memory, 0, 0)(given())
    (whole,) = wholes(trace._read())
    assert (whole.peak_bytes, whole.least_bytes) == (0, 0)
    assert "at least" not in trace.summary()


def test_the_program_resets_the_peak(memory):
    model = Holds(memory, 1, 300)
    small = Holds(memory, 1, 20)
    with modtrace.trace(flops=False) as trace:
        model(given())
        memory.reset()
        small(given())
        memory.reset()
        small(given())
    assert of_roots(trace) == [(1, 301), (1, 22), (1, 23)]
    (whole,) = wholes(trace._read())
    assert (whole.peak_bytes, whole.counter_bytes, whole.resets) == (301, 23, 2)
    assert "            peak since the program last reset it 23 B" in trace.summary()
    assert [moment for moment, _ in moments(trace)].count(AT_RESET) == 2
    assert memory.tell is None


def test_a_reset_that_was_not_seen(memory):
    class Resets(nn.Module):
        def forward(self, x):
            memory.change(500)
            memory.change(-500)
            memory.reset(unseen=True)
            memory.change(20)
            return x

    first, resets, after = Holds(memory, 3, 300), Resets(), Holds(memory, 0, 60)
    with modtrace.trace(flops=False) as trace:
        first(given())
        resets(given())
        after(given())
    assert of_roots(trace) == [(3, 303), (20, None), (0, 83)]
    (whole,) = wholes(trace._read())
    assert (whole.peak_bytes, whole.least_bytes) == (None, 303)


def test_the_counters_are_as_without_us(memory):
    def run():
        memory.now, memory.peak, memory.held = [0, 0], [0, 0], []
        model = Holds(memory, 10, 100)
        for _ in range(3):
            model(given())
            memory.reset()
            model(given())
        return memory.now[0], memory.peak[0], list(memory.held)

    plain = run()
    with modtrace.trace(flops=False):
        traced = run()
    assert traced == plain


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, memory, size):
        ctx.memory, ctx.size = memory, size
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.memory.change(ctx.size)
        return gradient, None, None


def test_steps_and_phases(memory):
    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, device="meta"))

        def forward(self, x):
            memory.change(40)
            return _Gradient.apply(x * self.scale, memory, 300)

    model = Trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(flops=False) as trace:
        for number in range(4):
            memory.doing = number
            model(given()).sum().backward()
            optimizer.step()
            memory.doing = number + 1
            memory.change(-300)
            memory.change(-30)
    steps = trace.steps.iloc[:4]
    ends = [340, 350, 360, 370]
    assert steps["memory_allocated_bytes"].tolist() == ends
    assert steps["memory_reserved_bytes"].tolist() == [end + SLACK for end in ends]
    expected = [max(level for doing, level in memory.held if doing == number) for number in range(4)]
    assert expected == ends
    assert steps["memory_peak_bytes"].tolist() == expected
    calls = trace.calls
    phases = calls[(calls["kind"] == "phase") & (calls["name"].isin(["forward", "backward", "optimizer"]))]
    found = phases.groupby("name", observed=True)["memory_delta_bytes"].apply(list).to_dict()
    assert found == {"forward": [40] * 4, "backward": [300] * 4, "optimizer": [0] * 4}
    assert phases[phases["name"] == "backward"]["memory_peak_bytes"].tolist() == ends


def test_what_was_allocated_before_the_first_step_is_no_peak_of_it(memory):
    """The first call of all has a reading at its start: the step begins there, not where recording began."""
    model = Holds(memory, 7, 0)
    with modtrace.trace(flops=False) as trace:
        memory.change(1_000)
        memory.change(-1_000)
        for _ in range(2):
            model(given())
    assert trace.steps["memory_peak_bytes"].tolist() == [7, 14]


def test_a_step_that_is_marked(memory):
    model = Holds(memory, 4, 50)
    with modtrace.trace(flops=False) as trace:
        for _ in range(3):
            model(given())
            modtrace.step()
    steps = trace.steps.iloc[:3]
    assert steps["memory_allocated_bytes"].tolist() == [4, 8, 12]
    assert steps["memory_peak_bytes"].tolist() == [54, 58, 62]


def test_nothing_is_read_on_the_cpu(memory):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        asked = memory.asked
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        assert [handler for handler in trace._tracer._context.events.phase_began if handler] == []
    assert memory.asked == asked
    assert trace._read().table("device_memory").num_rows == 0
    columns = ["memory_allocated_bytes", "memory_reserved_bytes", "memory_peak_bytes"]
    assert trace.steps[columns].isna().all(axis=None)
    assert "  memory" not in trace.summary()


def test_nothing_while_a_graph_is_captured(memory):
    model = Holds(memory, 1, 10)
    with modtrace.trace(flops=False) as trace:
        model(given())
        memory.capturing = True
        model(given())
        memory.reset()
        memory.capturing = False
        model(given())
    assert of_roots(trace) == [(1, 11), (None, None), (1, 13)]
    assert gaps(trace) == []


def test_a_call_that_raises_and_one_that_is_interrupted(memory):
    class Fails(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, x):
            memory.change(70)
            raise self.error

    fails, stops, after = Fails(ValueError()), Fails(KeyboardInterrupt()), Holds(memory, 2, 5)
    with modtrace.trace(engine="hooks", flops=False) as trace:
        with pytest.raises(ValueError):
            fails(given())
        with pytest.raises(KeyboardInterrupt):
            stops(given())
        after(given())
    assert of_roots(trace) == [(70, 70), (None, None), (2, 147)]
    assert trace._tracer._context.buffers.current.awaited == []


def test_one_error_through_a_span_stays_one(memory):
    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError

    first, fails = Holds(memory, 1, 0), Fails()
    with modtrace.trace(flops=False) as trace:
        first(given())
        with pytest.raises(ValueError), modtrace.span("around"), modtrace.span("again"):
            fails(given())
    assert trace._read().table("errors").num_rows == 1


def test_own_hooks(memory):
    model = Holds(memory, 1, 0)
    model.register_forward_hook(lambda *_: memory.change(30))
    with modtrace.trace(flops=False) as trace:
        model(given())
        model(given())
    assert of_roots(trace) == [(31, 31), (31, 62)]


def test_two_devices(memory, monkeypatch):
    monkeypatch.setattr(
        memory_readings, "devices_in", lambda key: [("meta", 0), ("meta", 1)] if len(key) == 5 else []
    )

    class Both(nn.Module):
        def forward(self, x):
            memory.change(10, 0)
            memory.change(20, 1)
            return x

    model = Both()
    with modtrace.trace(flops=False) as trace:
        model(given())
        model(given())
    assert of_roots(trace) == [(30, None), (30, None)]  # two peaks of different moments are no peak
    assert [(one.device, one.peak_bytes) for one in wholes(trace._read())] == [("meta:0", 20), ("meta:1", 40)]
    assert trace.steps["memory_allocated_bytes"].tolist() == [30, 60]


def test_a_driver_that_starts_later_held_nothing(memory, monkeypatch):
    monkeypatch.setattr(memory_readings, "KINDS", ())
    model = Holds(memory, 5, 10)
    with modtrace.trace(flops=False) as trace:
        memory.change(100)
        memory.change(-90)
        model(given())
    (whole,) = wholes(trace._read())
    assert whole.peak_bytes == 100
    assert of_roots(trace) == [(5, None)]


def test_an_allocator_that_fails(memory):
    model = Holds(memory, 5, 10)
    with pytest.warns(RuntimeWarning, match="memory of devices is not read from here on: RuntimeError"):  # noqa: SIM117
        with modtrace.trace(flops=False) as trace:
            model(given())
            memory.broken = True
            for _ in range(3):
                model(given())
    assert of_roots(trace) == [(5, 15), (None, None), (None, None), (None, None)]
    assert gaps(trace) == [memory_readings.STOPPED.format("RuntimeError")]
    assert memory.tell is None


def test_an_allocator_without_counters_is_no_fault(memory, recwarn):
    memory.broken = True
    model = Holds(memory, 5, 10)
    with modtrace.trace(flops=False) as trace:
        model(given())
    assert of_roots(trace) == [(None, None)]
    assert gaps(trace) == [memory_readings.UNTOLD.format("RuntimeError")]
    assert not recwarn


def test_reading_has_a_share_of_the_time(memory, monkeypatch):
    monkeypatch.setattr(memory_readings, "GRACE_NS", -1)
    monkeypatch.setattr(memory_readings, "SHARE", 1 << 60)
    model = Holds(memory, 5, 10)
    with modtrace.trace(flops=False) as trace:
        for _ in range(5):
            model(given())
    assert of_roots(trace)[1:] == [(None, None)] * 4
    (whole,) = wholes(trace._read())
    assert whole.peak_bytes == memory.peak[0]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("allocated_bytes", -1),
        ("peak_bytes", 1 << 60),
        ("total_bytes", -2),
        ("moment", 9),
        ("at_ns", -(1 << 63)),
    ],
)
def test_impossible_readings_are_refused(memory, monkeypatch, column, wrong):
    original = Writer.append

    def append(self, table, columns, **more):
        if table == "device_memory":
            columns = {**columns, column: [wrong for _ in columns[column]]}
        original(self, table, columns, **more)

    monkeypatch.setattr(Writer, "append", append)
    with modtrace.trace(flops=False) as trace:
        Holds(memory, 1, 1)(given())
    with pytest.raises(TraceError, match="contradicts itself"):
        _ = trace.calls


def test_a_reading_of_a_call_that_is_not_there(memory, monkeypatch):
    original = Writer.append

    def append(self, table, columns, **more):
        if table == "device_memory":
            columns = {**columns, "call": [None if call is None else 99 for call in columns["call"]]}
        original(self, table, columns, **more)

    monkeypatch.setattr(Writer, "append", append)
    with modtrace.trace(flops=False) as trace:
        Holds(memory, 1, 1)(given())
    assert of_roots(trace) == [(None, None)]
    assert wholes(trace._read())[0].peak_bytes == 2


def test_resets_are_told_of_and_made(monkeypatch):
    done, told = [], []
    monkeypatch.setattr(device_memory, "RESETS", {"_made_up_reset": AT_RESET, "_not_there": AT_RECOUNT})
    monkeypatch.setattr(torch._C, "_made_up_reset", done.append, raising=False)
    found = device_memory.CudaMemory()
    found.watch(lambda *what: told.append((what, list(done))))
    torch._C._made_up_reset(3)
    found.close()
    torch._C._made_up_reset(4)
    assert (done, told) == ([3, 4], [((3, AT_RESET), [])])


def test_what_torch_calls_the_counters(monkeypatch):
    """The names that torch.cuda's own functions look up, given a dictionary that these read the same from."""
    counted = {
        name: {"all": {"current": at, "peak": at + 1, "allocated": at + 2, "freed": 0}}
        for at, name in ((10, "allocated_bytes"), (20, "reserved_bytes"))
    }
    monkeypatch.setattr(torch._C, "_cuda_memoryStats", lambda device: counted, raising=False)
    monkeypatch.setattr(device_memory, "cuda_memory_stats", lambda device: counted)
    monkeypatch.setattr(torch.cuda.memory, "is_initialized", lambda: True)
    monkeypatch.setattr(device_memory, "cuda_is_capturing", lambda: False)
    found = device_memory.CudaMemory().read(0)
    asked = torch.cuda.memory_allocated, torch.cuda.memory_reserved, torch.cuda.max_memory_allocated
    assert found[:3] == tuple(function(0) for function in asked)
    assert found.total_bytes == torch.cuda.memory_stats(0)["allocated_bytes.all.allocated"]
    counted["allocated_bytes"]["all"]["allocated"] = 0
    assert device_memory.CudaMemory().read(0).total_bytes is None


def test_memories_there_are():
    assert device_memory.memory_of("cpu") is None
    if not torch.cuda.is_available():
        assert device_memory.memory_of("cuda") is None
