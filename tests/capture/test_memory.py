"""Memory that was watched, against sizes that follow from the shapes and against torch's own profiler."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.holders import peaks
from modtrace.analysis.memory import curve, memory
from modtrace.capture.allocations import CLOCK_RANGE, MOMENTS, Clocks, Event, Holder, clocks, paired
from modtrace.errors import UsageError
from modtrace.trace.schema import CATEGORIES, GRADIENT
from modtrace.views import console

FLOAT = 4


def train(model, given, steps=4, optimizer=torch.optim.Adam, watch="0:3", **options):
    used = optimizer(model.parameters(), lr=0.01)
    with modtrace.trace(memory=watch, **options) as t:
        for _ in range(steps):
            used.zero_grad()
            model(given).sum().backward()
            used.step()
    assert not t._tracer.gaps
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

    import modtrace.capture.profiling as watching

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
    assert len(line.at_ns) == len(totals)
    assert np.diff(line.held_bytes).tolist() == np.diff([total for _, total in totals]).tolist()


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
    assert "torch's profiler" in t._tracer.gaps[0]
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
    rows = paired(events, beside, [Holder(5045, 1, GRADIENT), Holder(5015, 2, 3)])
    assert rows.at_ns == [5010, 5020, 5040, 5060]
    assert rows.freed_ns == [5030, None, None, None]
    assert rows.size_bytes == [100, 50, 70, 30]
    assert rows.category == [None, None, GRADIENT, None]  # nothing was at 2 yet when its holder was seen


def test_clocks_that_drift():
    class Range:
        def __init__(self, at):
            self.start_time_ns, self.end_time_ns, self.name = at, at + 2, CLOCK_RANGE

    moments = [0, 10, 20, 30, 40, 1000, 1010, 1020, 1030, 1040]
    ours = [(2 * at + 100, 2 * at + 104) for at in moments]
    found = clocks([Range(at) for at in moments], ours)
    assert found is not None
    assert abs(found.ours_of(500) - 1100) <= 2
    assert clocks([Range(at) for at in moments[1:]], ours) is None
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
