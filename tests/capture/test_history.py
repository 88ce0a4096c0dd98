"""Memory by the history of an allocator, where the program runs torch's profiler itself."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.memory import curve, memory
from modtrace.capture import held_before, history, profiling
from modtrace.capture.allocations import Event
from modtrace.trace.schema import CATEGORIES, PARAMETER

FLOAT = 4


class FakeHistory:
    """Entries as torch's allocator keeps them, made by `allocate` and `free`."""

    def __init__(self, held=0):
        self.held = held
        self.on = False
        self.entries = []
        self.taken = False

    def begin(self):
        self.on = True
        return [self.held]

    def end(self):
        self.on = False
        return None if self.taken else [self.entries]

    def _note(self, action, address, size):
        """Two microseconds on either side: the entries' clock has no finer steps than one."""
        for after in (False, True):
            until = time.time_ns() + 2_000
            while time.time_ns() < until:
                pass
            if not after and self.on:
                at = time.time_ns() // 1_000
                self.entries.append(
                    {"action": action, "addr": address, "size": size, "stream": 0, "time_us": at}
                )

    def allocate(self, address, size):
        self._note("segment_alloc", address, 1 << 21)
        self._note("alloc", address, size)

    def free(self, address, size):
        self._note("free_requested", address, size)
        self._note("free_completed", address, size)


class Holds(nn.Module):
    def __init__(self, found, first, *inside):
        super().__init__()
        self.found, self.first = found, first
        self.inside = nn.ModuleList(inside)

    def forward(self, x):
        self.found.allocate(self.first, 1_000 + self.first)
        self.found.allocate(1, 5_000)
        self.found.free(1, 5_000)
        for module in self.inside:
            x = module(x)
        return x


def watched(monkeypatch, found, model, steps="0:9"):
    monkeypatch.setattr(profiling, "history_of", lambda: found)
    with torch.profiler.profile(), modtrace.trace(memory=steps, flops=False) as trace:
        model(torch.ones(1))
        found.free(7, 300)
    return trace


def test_calls_and_what_was_held_before(monkeypatch):
    found = FakeHistory(held=10_000)
    trace = watched(monkeypatch, found, Holds(found, 20, Holds(found, 30)))
    assert trace.calls["memory_delta_bytes"].tolist() == [2_050, 1_030]
    assert trace.calls["memory_peak_bytes"].tolist() == [10_000 + 2_050 + 5_000] * 2
    (held,) = memory(trace._read())
    line = curve(held)
    assert held.device == "cuda:0"
    assert (int(line.held_bytes.max()), int(line.held_bytes[-1])) == (17_050, 10_000 + 2_050)
    assert trace._tracer.gaps == [profiling.FROM_HISTORY]
    table = trace._read().table("watched").to_pylist()
    assert [(row["memory"], row["kernels"]) for row in table] == [(True, False)]


def test_a_history_that_the_program_has_begun_itself(monkeypatch):
    found = FakeHistory()
    found.taken = True
    trace = watched(monkeypatch, found, Holds(found, 20))
    assert trace.calls["memory_delta_bytes"].isna().all()
    assert trace._tracer.gaps == [profiling.FROM_HISTORY, profiling.TAKEN]


def test_a_history_that_has_run_over(monkeypatch):
    found = FakeHistory()
    monkeypatch.setattr(profiling, "MOST_ENTRIES", 3)
    trace = watched(monkeypatch, found, Holds(found, 20))
    assert trace.calls["memory_delta_bytes"].isna().all()
    assert trace._tracer.gaps == [profiling.FROM_HISTORY, profiling.OVERRUN]


def test_where_there_is_none_nothing_is_watched(monkeypatch):
    found = FakeHistory()
    monkeypatch.setattr(found, "begin", lambda: None)
    trace = watched(monkeypatch, found, Holds(found, 20))
    assert trace._tracer.gaps == [profiling.BUSY]


def test_a_history_that_fails_ends_watching_alone(monkeypatch):
    found = FakeHistory()

    def broken():
        raise RuntimeError

    monkeypatch.setattr(found, "end", broken)
    trace = watched(monkeypatch, found, Holds(found, 20))
    assert len(trace.calls) == 1
    assert trace._tracer.gaps[1:] == ["memory and kernels were not watched any further: RuntimeError"]


def test_the_profiler_is_used_where_it_can_run(monkeypatch):
    found = FakeHistory()
    monkeypatch.setattr(profiling, "history_of", lambda: found)
    with modtrace.trace(memory="0:9", flops=False) as trace:
        Holds(found, 20)(torch.ones(1))
    assert found.entries == trace._tracer.gaps == []


def test_what_an_optimizer_holds_is_named(monkeypatch):
    found = FakeHistory(held=4_096)
    model = nn.Linear(4, 4, bias=False)
    address = model.weight.untyped_storage().data_ptr()
    monkeypatch.setattr(profiling, "history_of", lambda: found)
    # The weight stands for one on the device.
    for module in (profiling, held_before):
        monkeypatch.setattr(module, "place_of", lambda tensor: (64, "cuda:0"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.profiler.profile(), modtrace.trace(memory="0:9", flops=False) as trace:
        found.allocate(5, 100)
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    (held,) = memory(trace._read())
    assert address
    assert held.size_bytes[held.category == PARAMETER].tolist() == [16 * FLOAT]
    assert CATEGORIES[PARAMETER] == "parameter"
    # With what was allocated before the first step, which is where the curve begins.
    assert int(held.size_bytes[held.at_ns == held.at_ns.min()].sum()) == 4_096 + 100


# torch's own, as far as there is no device to ask ------------------------------------------------------------------


class Core:
    """What `CudaHistory` asks of `torch._C`, put into its place."""

    def __init__(self, monkeypatch):
        self.on, self.asked = False, []
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        for name, stand_in in {
            "_cuda_isHistoryEnabled": lambda: self.on,
            "_cuda_record_memory_history": self.record,
            "_cuda_memorySnapshot": lambda _: {"segments": [], "device_traces": [["entry"]]},
            "_cuda_memoryStats": lambda _: {"requested_bytes": {"all": {"current": 77}}},
        }.items():
            monkeypatch.setattr(torch._C, name, stand_in, raising=False)
        monkeypatch.setattr(history, "cuda_has_history", torch._C._cuda_isHistoryEnabled)
        monkeypatch.setattr(history, "cuda_memory_stats", torch._C._cuda_memoryStats)

    def record(self, enabled, context, stacks, most, *more):
        self.on = enabled is not None
        self.asked.append((enabled, context, most if self.on else None))


def test_torchs_history_is_begun_and_ended(monkeypatch):
    core = Core(monkeypatch)
    found = history.CudaHistory()
    assert found.begin() == [77]
    assert core.on
    assert found.end() == [["entry"]]
    assert core.asked == [("all", None, history.MOST_ENTRIES), (None, "all", None)]
    assert torch._C._cuda_record_memory_history == core.record
    assert not core.on


def test_one_of_the_programs_is_left_alone(monkeypatch):
    core = Core(monkeypatch)
    torch.cuda.memory._record_memory_history(max_entries=5)
    assert history.CudaHistory().begin() is None
    assert core.asked == [("all", "all", 5)]
    assert core.on


def test_one_that_the_program_begins_meanwhile_goes_on(monkeypatch):
    core = Core(monkeypatch)
    found = history.CudaHistory()
    found.begin()
    torch.cuda.memory._record_memory_history(max_entries=5)
    assert found.end() is None
    assert core.on
    assert core.asked[1:] == [("all", "all", 5)]
    assert torch._C._cuda_record_memory_history == core.record


def test_entries_are_events():
    entries = [
        {"action": "alloc", "addr": 8, "size": 100, "stream": 0, "time_us": 3},
        {"action": "snapshot", "addr": 0, "size": 0, "stream": 0, "time_us": 4},
        {"action": "oom", "device_free": 5, "size": 1 << 40, "stream": 0, "time_us": 5},
        {"action": "free_requested", "addr": 8, "size": 100, "stream": 0, "time_us": 6},
        {"action": "free_completed", "addr": 8, "size": 100, "stream": 0, "time_us": 7},
    ]
    assert list(history.events_in([[], entries], [0, 40])) == [
        Event(3_500, 8, 100, "cuda:1", 0, 140),
        Event(6_500, 8, -100, "cuda:1", 0, 40),
    ]


def test_there_is_none_without_a_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert history.CudaHistory().begin() is None


@pytest.mark.parametrize("step", [0, 7])
def test_the_two_clocks_are_read_together(step):
    ticks = iter(range(0, 1_000, 10))
    before = time.time_ns()
    theirs, ours = history.moment(lambda: next(ticks) + step)
    assert before <= theirs <= time.time_ns()
    assert ours == 5 + step
