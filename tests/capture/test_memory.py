"""Memory that was watched, against sizes that follow from the shapes and against torch's own profiler."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.memory import NEVER, Memory, curve, memory
from modtrace.analysis.memory_peaks import peaks
from modtrace.capture.mechanisms import profiler_window as watching
from modtrace.capture.mechanisms.allocations import (
    CLOCK_RANGE,
    MOMENTS,
    AddressPurpose,
    Clocks,
    EarlierAllocation,
    Event,
    clocks,
    paired,
)
from modtrace.errors import UsageError
from modtrace.trace.schema import CATEGORIES, GRADIENT, OPTIMIZER_STATE, PARAMETER
from modtrace.views import console

FLOAT = 4


def train(model, given, steps=4, optimizer=torch.optim.Adam, watch="0:3", **options):
    used = optimizer(model.parameters(), lr=0.01)
    with modtrace.trace(memory=watch, **options) as t:
        for _ in range(steps):
            used.zero_grad()
            model(given).sum().backward()
            used.step()
    assert all("FLOPs were not counted" in gap for gap in t._tracer.gaps)  # where every step is watched
    return t


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    return model, train(model, torch.randn(32, 64))


def test_what_calls_allocate_follows_from_shapes(trained):
    _, t = trained
    calls = t.calls[(t.calls["step"] == 1) & (t.calls["kind"] == "module")]
    assert calls.set_index("name")["memory_delta_bytes"].to_dict() == {
        "": (32 * 128 + 32 * 8) * FLOAT,  # the input of the ReLU is not kept
        "0": 32 * 128 * FLOAT,
        "1": 32 * 128 * FLOAT,
        "2": 32 * 8 * FLOAT,
    }
    assert t.calls[t.calls["step"] == 3]["memory_delta_bytes"].isna().all()
    assert t.steps["memory_peak_bytes"].isna().tolist() == [False, False, False, True]


def test_what_memory_is_for(trained):
    model, t = trained
    parameters = sum(p.numel() for p in model.parameters()) * FLOAT
    held = memory(t._read())[0]
    step = t.steps.loc[1]
    end = step["start_ns"] + step["duration_ns"]
    by = {
        name: int(held.size_bytes[held.alive(end) & (held.category == code)].sum())
        for code, name in enumerate(CATEGORIES)
    }
    counters = len(list(model.parameters())) * FLOAT  # Adam's number of steps, one for each parameter
    assert by["gradient"] == parameters
    assert by["optimizer_state"] == 2 * parameters + counters
    assert by["temporary"] <= 64


def test_gradients_belong_to_the_backward_of_their_module(trained):
    _, t = trained
    stored = t._read()
    held = memory(stored)[0]
    calls = t.calls
    mine = (held.category == GRADIENT) & (held.call >= 0)
    made = calls.loc[held.call[mine]].assign(size=held.size_bytes[mine])
    assert set(made["kind"]) == {"backward"}
    assert made.groupby("name", observed=True)["size"].sum().to_dict() == {
        "0": 3 * (64 * 128 + 128) * FLOAT,
        "2": 3 * (128 * 8 + 8) * FLOAT,
    }


def test_activations_are_what_outlives_the_forward(trained):
    _, t = trained
    held = memory(t._read())[0]
    kept = held.category == CATEGORIES.index("activation")
    names = t.calls.loc[held.call[kept], "name"]
    sizes = dict.fromkeys(names, 0)
    for name, size in zip(names, held.size_bytes[kept].tolist(), strict=True):
        sizes[name] += size
    assert sizes == {
        "1": 3 * 32 * 128 * FLOAT,
        "2": 3 * 32 * 8 * FLOAT,
    }  # a ReLU keeps its output, a Linear its input


def test_the_curve_is_the_profilers(trained):
    """The total that torch's profiler reports beside each event is the independent oracle."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
    totals = []

    class Read(nn.Module):
        def forward(self, x):
            return model(x)

    original = watching.memory_event

    def noted(event):
        totals.append((event.start_time_ns, event.extra_fields.total_allocated))
        return original(event)

    watching.memory_event = noted
    try:
        with modtrace.trace(memory="0:2") as t:
            for _ in range(3):
                Read()(torch.ones(4, 16)).sum().backward()
    finally:
        watching.memory_event = original
    totals.sort()
    line = curve(memory(t._read())[0])
    # The curve begins with what was held when the first step began and ends with the last step asked for.
    changes = np.diff(line.held_bytes)[np.diff(line.at_ns).cumsum() > 0].tolist()
    expected = np.diff([total for _, total in totals]).tolist()
    assert len(changes) > 10
    assert any(expected[at : at + len(changes)] == changes for at in range(len(expected)))


def test_checkpointing_keeps_less():
    class Net(nn.Module):
        def __init__(self, *, checkpointed):
            super().__init__()
            self.checkpointed = checkpointed
            self.block = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(6)])

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)

    kept = []
    for checkpointed in (False, True):
        t = train(Net(checkpointed=checkpointed), torch.ones(128, 64), optimizer=torch.optim.SGD)
        peak = peaks(t._read())[0]
        held = memory(t._read())[0]
        kept.append(int(held.size_bytes[held.category == CATEGORIES.index("activation")].sum()))
        assert peak.held_bytes == int(curve(held).held_bytes.max())
    assert kept[1] * 4 < kept[0]


def test_watching_changes_no_result_and_leaves_nothing_running():
    results = []
    for watch in (None, "1:2"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.BatchNorm1d(8))
        train(model, torch.randn(4, 8), watch=watch)
        results.append([p.detach().clone() for p in model.parameters()])
        assert not torch._C._autograd._profiler_enabled()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_later_stretch_knows_what_was_held_before():
    model = nn.Linear(32, 32)
    t = train(model, torch.ones(4, 32), steps=5, watch="2:4")
    held = memory(t._read())[0]
    begun = int(held.at_ns[0])
    before = held.alive(begun)
    by = {
        name: int(held.size_bytes[before & (held.category == code)].sum())
        for code, name in enumerate(CATEGORIES)
    }
    size = (32 * 32 + 32) * FLOAT
    assert (by["parameter"], by["gradient"], by["optimizer_state"]) == (size, size, 2 * size + 2 * FLOAT)
    assert t.steps["memory_peak_bytes"].isna().tolist() == [True, True, False, False, True]


def test_a_program_that_profiles_itself_is_left_alone():
    model = nn.Linear(4, 4)
    with torch.profiler.profile() as profiler:
        with modtrace.trace(memory="0:2") as t:
            model(torch.ones(2, 4))
        model(torch.ones(2, 4))
    assert any("torch's profiler" in gap for gap in t._tracer.gaps if "FLOPs" not in gap)
    assert sum(event.key == "aten::addmm" for event in profiler.events()) == 2
    assert t.calls["flops"].isna().all()  # counting would show in what the program profiles


def test_a_trace_that_ends_early_and_an_error_inside():
    model = nn.Linear(4, 4)
    with pytest.raises(RuntimeError), modtrace.trace(memory="0:9") as t:
        model(torch.ones(2, 4))
        model(torch.ones(2, 5))
    assert not torch._C._autograd._profiler_enabled()
    assert t.calls["memory_delta_bytes"].iloc[0] == 2 * 4 * FLOAT
    assert "peak" in console.memory_text(t._read())


def test_inference_without_an_optimizer():
    model = nn.Linear(4, 4)
    with torch.no_grad(), modtrace.trace(memory="1:3") as t:
        for _ in range(5):
            model(torch.ones(2, 4))
    known = t.calls["memory_peak_bytes"].notna().tolist()
    assert known == [False, True, True, False, False]


def test_a_step_of_several_root_calls(monkeypatch):
    for name in ("FIRST_NS", "OUTSIDE_NS", "INSIDE_NS"):  # nothing is written before the end
        monkeypatch.setattr(f"modtrace.capture.engine.flusher.{name}", 1 << 60)
    monkeypatch.setattr("modtrace.capture.engine.watch_thread.WATCH_SECONDS", 1e6)
    model, where = nn.Linear(4, 4), torch.ones(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(memory="1:2", saved="1:2") as t:
        for _ in range(3):
            for _ in range(3):
                model(where).sum().backward()
            optimizer.step()
    for name in ("memory_peak_bytes", "saved_bytes"):
        known = t.calls[t.calls[name].notna()]
        assert set(known["step"]) == {1}, name


def test_other_threads_are_not_watched():
    model = nn.Linear(64, 64)
    kept = []
    with modtrace.trace(memory="0:9") as t:
        model(torch.ones(2, 64))
        thread = threading.Thread(target=lambda: kept.append(torch.ones(1000)))
        thread.start()
        thread.join()
    held = memory(t._read())[0]
    assert 1000 * FLOAT not in held.size_bytes.tolist()
    assert 2 * 64 * FLOAT in held.size_bytes.tolist()


def test_steps_that_are_none():
    for text in ("x", "3:2", "2:2", "-1", "", "1:"):
        if text:
            with pytest.raises(UsageError), modtrace.trace(memory=text):
                pass


@pytest.mark.parametrize("option", ["--memory", "--kernels"])
def test_steps_that_are_none_start_nothing(tmp_path, option):
    (tmp_path / "train.py").write_text("print('ran')")
    command = [sys.executable, "-m", "modtrace", "run", option, "5:2", "train.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "names no steps" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_whole_run_says_where_the_peak_was(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))\n"
        "optimizer = torch.optim.AdamW(model.parameters())\n"
        "for step in range(4):\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.ones(64, 64)).sum().backward()\n"
        "    optimizer.step()\n"
        "print('done')\n"
    )
    command = [sys.executable, "-m", "modtrace", "run", "--memory", "0:3", "-o", "t.mtrace", "train.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "done\n"
    assert "  memory    peak " in done.stderr
    assert "profiler_start" not in done.stderr
    command = [sys.executable, "-m", "modtrace", "info", "--memory", "t.mtrace"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "optimizer state" in told
    assert "activation" in told


# the parts, on made-up events ------------------------------------------------------------------------------------


def test_allocation_and_release_are_one_row():
    beside = Clocks((0, 1000), (5000, 6000))
    events = [
        Event(10, 1, 100, "cpu", 1),
        Event(30, 1, -100, "cpu", 1),
        Event(20, 2, 50, "cpu", 2),
        Event(40, 1, 70, "cpu", 1),  # the same address again
        Event(50, 9, -5, "cpu", 1),  # allocated before
        Event(60, 1, 30, "cuda:0", 1),  # the same address elsewhere
    ]
    rows = paired(events, beside, [AddressPurpose(5045, 1, GRADIENT), AddressPurpose(5015, 2, 3)])
    assert rows.at_ns == [5010, 5020, 5040, 5060]
    assert rows.freed_ns == [5030, None, None, None]
    assert rows.size_bytes == [100, 50, 70, 30]
    assert rows.category == [None, None, GRADIENT, None]  # nothing was at 2 yet when its holder was seen


def test_clocks_that_drift():
    class Range:
        def __init__(self, number, at):
            self.start_time_ns, self.end_time_ns, self.name = at, at + 2, f"{CLOCK_RANGE}{number}"

    moments = [0, 10, 20, 30, 40, 1000, 1010, 1020, 1030, 1040]
    ours = [(2 * at + 100, 2 * at + 104) for at in moments]
    ranges = [Range(number, at) for number, at in enumerate(moments)]
    for kept in (ranges, ranges[3:], ranges[::-1], ranges[:6]):
        found = clocks(kept, ours)
        assert found is not None
        assert abs(found.ours_of(500) - 1100) <= 2
    assert clocks(ranges[5:], ours) is None
    assert clocks(ranges[:5], ours) is None
    assert len(moments) == 2 * MOMENTS


def test_innermost_call_of_a_moment(trained):
    from modtrace.analysis.memory import innermost
    from modtrace.analysis.timeline import timeline

    _, t = trained
    table = timeline(t._read()).calls
    calls = t.calls
    moments = np.linspace(calls["start_ns"].min() - 10, calls["start_ns"].max() + 10_000, 500).astype(
        np.int64
    )
    found = innermost(table, moments, np.zeros(len(moments), np.int64))
    end = calls["start_ns"] + calls["duration_ns"]
    for moment, at in zip(moments.tolist(), found.tolist(), strict=True):
        around = calls.index[(calls["start_ns"] <= moment) & (end > moment)]
        assert at == (around[-1] if len(around) else -1)


class Blocks:
    """Counts as a caching allocator of a device does: in blocks of 512 bytes, all of it from the program's start on."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.held = {}
        self.events = []
        self.now = self.clock = 0
        self.levels = []
        self.watching = False

    def _tell(self, address, size):
        self.now += size
        self.clock += 10
        if self.watching:
            self.levels.append(self.now)
            self.events.append(Event(self.clock, address, size, "cuda:0", 1, self.now))

    def allocate(self, nbytes):
        address = self.random.choice([at for at in range(512, 200 * 512, 512) if at not in self.held])
        self.held[address] = -(-nbytes // 512) * 512
        self._tell(address, self.held[address])
        return address

    def free(self, address):
        self._tell(address, -self.held.pop(address))

    def some(self, times):
        for _ in range(times):
            if self.held and self.random.random() < 0.5:
                self.free(self.random.choice(list(self.held)))
            elif len(self.held) < 150:
                self.allocate(self.random.randrange(1, 5_000))


@pytest.mark.parametrize("seed", range(10))
def test_what_is_held_on_a_device_is_what_its_allocator_counts(seed):
    allocator = Blocks(seed)
    allocator.some(100)
    state, parameter, lost = (allocator.allocate(1_000) for _ in range(3))
    start, began = allocator.now, allocator.clock
    allocator.watching = True
    allocator.free(lost)
    allocator.some(300)
    kept = [at for at in (state, parameter) if at in allocator.held]
    holders = [
        AddressPurpose(allocator.clock, at, PARAMETER, 1_000, "cuda:0") for at in kept if at == parameter
    ]
    before = [EarlierAllocation(1_000, OPTIMIZER_STATE, state, "cuda:0")]
    rows = paired(allocator.events, Clocks((0, 10_000), (0, 10_000)), holders, before, began)
    nothing = np.full(len(rows.at_ns), -1)
    freed = np.array([NEVER if at is None else at for at in rows.freed_ns])
    held = Memory(0, "cuda:0", np.array(rows.at_ns), freed, np.array(rows.size_bytes), nothing, nothing)
    moments = np.array([began, *(event.at_ns for event in allocator.events)])
    assert [int(held.size_bytes[held.alive(at)].sum()) for at in moments] == [start, *allocator.levels]
    assert int(curve(held).held_bytes.max()) == max(start, *allocator.levels)
    assert rows.category.count(OPTIMIZER_STATE) == 1
    assert rows.category.count(PARAMETER) == (parameter in allocator.held)


def test_a_holder_that_was_not_there_before_takes_nothing_from_what_was():
    beside = Clocks((0, 1000), (0, 1000))
    events = [Event(10, 512, 1024, "cuda:0", 1, 1536)]
    held_by_another_thread = AddressPurpose(20, 9999, GRADIENT, 4096, "cuda:0")
    rows = paired(events, beside, [held_by_another_thread], [], 5)
    assert (rows.size_bytes, rows.at_ns, rows.category) == ([1024, 512], [10, 5], [None, None])


def test_the_memory_of_a_device_is_that_of_calls_beside_the_hosts(monkeypatch):
    """Where a device was watched, the host's memory is in no sum with it."""
    original = watching.memory_event

    def on_both(event):
        found = original(event)
        on_device = abs(found.size_bytes) == 256
        return found._replace(device="cuda:0", total_bytes=max(found.size_bytes, 0)) if on_device else found

    monkeypatch.setattr(watching, "memory_event", on_both)

    class Makes(nn.Module):
        def forward(self, x):
            self.kept = torch.empty(64)
            self.other = torch.empty(1000)
            return x

    with modtrace.trace(memory="0:1") as t:
        Makes()(torch.ones(1))
    assert t.calls["memory_delta_bytes"].tolist()[0] == 256
    assert {held.device for held in memory(t._read())} == {"cpu", "cuda:0"}
