"""Memory by the history of an allocator, where the program runs torch's profiler itself."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.memory import curve, memory
from modtrace.capture.mechanisms import allocator_history as history
from modtrace.capture.mechanisms import memory_before as held_before
from modtrace.capture.mechanisms import profiler_window as profiling
from modtrace.capture.mechanisms.allocations import Clocks, Event, paired
from modtrace.capture.torch_private.spelled import CUDA_MARKS_ANYTHING
from modtrace.trace.schema import CATEGORIES, PARAMETER

FLOAT = 4


class FakeHistory:
    """Entries as torch's allocator keeps them, made by `allocate` and `free`."""

    def __init__(self, held=0):
        self.held = held
        self.marked, self.lacks = False, []
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
        self.on, self.asked, self.texts = False, [], threading.local()
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
        monkeypatch.setattr(history, "missing", lambda _: [])
        monkeypatch.setattr(history, "mark_allocations", self.mark)
        monkeypatch.setattr(history, "mark_of_allocations", lambda: getattr(self.texts, "text", ""))
        monkeypatch.setattr(torch._C, CUDA_MARKS_ANYTHING, lambda: True, raising=False)

    def mark(self, text):
        self.texts.text = text

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
    # Ours ends first: it would stand in the program's snapshots.
    assert core.asked[1][0] is None
    assert core.asked[2:] == [("all", "all", 5)]
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


def test_what_the_watching_thread_allocates_is_marked(monkeypatch):
    core = Core(monkeypatch)
    found = history.CudaHistory()
    found.begin()
    assert found.marked
    assert core.texts.text == history.MARK
    found.end()
    assert core.texts.text == ""


def test_a_text_of_the_programs_stays(monkeypatch):
    core = Core(monkeypatch)
    core.mark("of the program")
    found = history.CudaHistory()
    found.begin()
    assert not found.marked
    found.end()
    assert core.texts.text == "of the program"
    core.mark("")
    found = history.CudaHistory()
    found.begin()
    core.mark("of the program")
    found.end()
    assert core.texts.text == "of the program"


def test_no_mark_is_left_in_the_programs_own_history(monkeypatch):
    core = Core(monkeypatch)
    found = history.CudaHistory()
    found.begin()
    torch.cuda.memory._record_memory_history(max_entries=5)
    assert core.texts.text == ""


def test_an_allocator_without_marks_is_given_none(monkeypatch):
    core = Core(monkeypatch)
    monkeypatch.setattr(torch._C, CUDA_MARKS_ANYTHING, lambda: False)
    found = history.CudaHistory()
    found.begin()
    assert not found.marked
    assert not hasattr(core.texts, "text")


def test_a_torch_without_marks_says_so(monkeypatch):
    Core(monkeypatch)
    monkeypatch.setattr(history, "missing", lambda part: [f"lacks {part}"])
    found = history.CudaHistory()
    found.begin()
    assert found.lacks == ["lacks marks of threads in the history of CUDA's allocator"]
    assert not found.marked


def test_other_threads_are_told_by_their_marks():
    """An entry as torch 2.13 writes it, of a thread that has no text."""
    entry = {
        "action": "alloc", "addr": 8, "size": 100, "stream": 0, "time_us": 3, "compile_context": "N/A",
        "user_metadata": "", "pool_id": (0, 0), "frames": [],
    }  # fmt: skip
    mine = entry | {"user_metadata": history.MARK, "addr": 9}
    for marked, threads in ((True, [1, 0]), (False, [0, 0])):
        events = list(history.events_in([[entry, mine]], [0], marked=marked))
        assert [event.thread for event in events] == threads


class OnTwoThreads(nn.Module):
    """While it runs another thread allocates."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, x):
        self.found.allocate(20, 1_000)
        thread = threading.Thread(target=self.found.allocate, args=(30, 5_000))
        thread.start()
        thread.join()
        return x


def test_what_another_thread_allocates_is_no_modules(monkeypatch):
    found = FakeHistory()
    found.marked, watching = True, threading.get_ident()
    original = found._note

    def note(*args):
        before = len(found.entries)
        original(*args)
        mark = history.MARK if threading.get_ident() == watching else ""
        for entry in found.entries[before:]:
            entry["user_metadata"] = mark

    monkeypatch.setattr(found, "_note", note)
    trace = watched(monkeypatch, found, OnTwoThreads(found))
    rows = trace._read().table("allocations").to_pylist()
    assert {row["size_bytes"]: row["thread"] for row in rows} == {1_000: 0, 5_000: None, 300: None}


def recorded():
    """A step of one device, with every kind of entry and the fields that `torch.cuda.memory._snapshot` documents.

    A block of 512 bytes is the least that is given out, and sizes are those that were asked for. Memory ran out once,
    the cache was given back, and a block waited for another stream before it could be used again.
    """
    steps = [
        ("segment_alloc", 0x7F00_0000, 2 << 20), ("alloc", 0x7F00_0000, 40), ("alloc", 0x7F00_0200, 512),
        ("oom", None, 80 << 30), ("free_requested", 0x7F00_0200, 512), ("segment_map", 0x7F40_0000, 2 << 20),
        ("free_completed", 0x7F00_0200, 512), ("snapshot", 0, 0), ("annotate", 0x7F00_0000, 0),
        ("segment_unmap", 0x7F40_0000, 2 << 20), ("alloc", 0x7F00_0200, 100), ("segment_free", 0x7F80_0000, 20 << 20),
        ("of a later torch", None, None),
    ]  # fmt: skip
    for at, (action, address, size) in enumerate(steps):
        entry = {"action": action, "stream": 0, "time_us": 1_700_000_000_000_000 + at, "pool_id": (0, 0)}
        entry |= {"frames": [], "compile_context": "N/A", "user_metadata": ""}
        entry |= {"device_free": 1 << 20} if action == "oom" else {"addr": address}
        yield entry if size is None else entry | {"size": size}


def test_a_recorded_history():
    events = list(history.events_in([list(recorded())], [1_000]))
    assert [(event.size_bytes, event.total_bytes) for event in events] == [
        (40, 1_040), (512, 1_552), (-512, 1_040), (100, 1_140),
    ]  # fmt: skip
    clock = Clocks((events[0].at_ns, events[-1].at_ns), (0, events[-1].at_ns - events[0].at_ns))
    rows = paired(events, clock, [], [])
    found = zip(rows.at_ns, rows.freed_ns, rows.size_bytes, strict=True)
    assert sorted(found, key=str) == sorted(
        [(0, None, 40), (1_000, 3_000, 512), (9_000, None, 100), (0, None, 1_000)], key=str
    )
    assert set(rows.device) == {"cuda:0"}


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
