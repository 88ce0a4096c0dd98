"""Memory on a real GPU, beside what torch's own counters say."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
from torch import nn

import modtrace
import modtrace.views.console
from modtrace.analysis.device_memory import wholes
from modtrace.analysis.failure import last_failure
from modtrace.analysis.memory import curve, memory
from modtrace.analysis.out_of_memory import autopsy
from modtrace.capture.mechanisms import profiler_window as profiling

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

FLOAT = 4
WIDE = 1024


def model_and_batch(layers=3):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDE, WIDE), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*blocks).cuda(), torch.randn(512, WIDE, device="cuda")


def train(model, x, optimizer, steps, after=None):
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        if after is not None:
            after()


def clean():
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def test_a_root_call_and_its_peak():
    model, x = model_and_batch()
    with torch.no_grad():
        model(x)
        clean()
        with modtrace.trace(model, flops=False) as trace:
            before = torch.cuda.memory_allocated()
            kept = model(x)
            after, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    modules = trace.calls[trace.calls["kind"] == "module"]
    root = modules.iloc[0]
    assert after - before >= kept.numel() * FLOAT
    assert root["memory_delta_bytes"] == after - before
    assert root["memory_peak_bytes"] == peak
    assert modules.iloc[1:]["memory_delta_bytes"].isna().all()


def test_the_peak_of_the_run_is_torchs():
    model, x = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters())
    clean()
    with modtrace.trace(flops=False) as trace:
        train(model, x, optimizer, 4)
    (whole,) = [one for one in wholes(trace._read()) if one.device == "cuda:0"]
    assert whole.peak_bytes == whole.counter_bytes == torch.cuda.max_memory_allocated()
    assert whole.allocated_bytes == torch.cuda.memory_allocated()
    assert whole.reserved_bytes == torch.cuda.memory_reserved()
    assert "memory    cuda:0 peak" in trace.summary()


def test_the_peak_of_each_step_where_the_program_resets_it():
    model, x = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters())
    peaks, ends = [], []

    def note():
        peaks.append(torch.cuda.max_memory_allocated())
        ends.append(torch.cuda.memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    clean()
    with modtrace.trace(flops=False) as trace:
        train(model, x, optimizer, 5, note)
    steps = trace.steps.iloc[:5]
    assert steps["memory_peak_bytes"].tolist() == peaks
    assert steps["memory_allocated_bytes"].tolist() == ends
    assert max(peaks) == next(one for one in wholes(trace._read()) if one.device == "cuda:0").peak_bytes


def test_the_programs_counters_are_as_without_us():
    def run():
        model, x = model_and_batch()
        optimizer = torch.optim.Adam(model.parameters())
        clean()
        train(model, x, optimizer, 3)
        first = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.accelerator.reset_peak_memory_stats()
        torch.cuda.reset_accumulated_memory_stats()
        train(model, x, optimizer, 1)
        return first, torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()

    run()  # what libraries allocate once is there from here on
    plain = run()
    with modtrace.trace(flops=False):
        traced = run()
    assert traced == plain
    assert type(torch._C._cuda_resetPeakMemoryStats).__name__ == "builtin_function_or_method"


def test_nothing_is_read_while_a_graph_is_captured():
    model, x = model_and_batch(1)
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with modtrace.trace(flops=False) as trace, torch.no_grad():
        with torch.cuda.stream(side):
            model(x)
        side.synchronize()
        with torch.cuda.graph(graph):
            model(x)
        graph.replay()
        model(x)
    torch.cuda.synchronize()
    roots = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["name"] == "")]
    assert roots["memory_delta_bytes"].isna().tolist() == [False, True, False]


def test_watched_memory_is_the_allocators():
    model, x = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, x, optimizer, 1)
    clean()
    with modtrace.trace(memory="1:3", flops=False) as trace:
        train(model, x, optimizer, 1)
        torch.cuda.reset_peak_memory_stats()
        train(model, x, optimizer, 2)
        peak, end = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        train(model, x, optimizer, 1)
    assert not trace._tracer.gaps
    (held,) = [one for one in memory(trace._read()) if one.device == "cuda:0"]
    line = curve(held)
    assert (int(line.held_bytes.max()), int(line.held_bytes[-1])) == (peak, end)
    steps = trace.steps
    assert steps.loc[[1, 2], "memory_peak_bytes"].max() == peak
    of_modules = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["step"] == 2)]
    assert of_modules["memory_peak_bytes"].notna().all()
    linear = of_modules[of_modules["name"] == "1.0"]
    assert linear["memory_delta_bytes"].tolist()[0] >= 512 * WIDE * FLOAT
    held_for = held.size_bytes[held.alive(int(steps.loc[2, "start_ns"]))].sum()
    assert held_for >= 3 * sum(p.numel() for p in model.parameters()) * FLOAT


def test_categories_of_watched_memory():
    model, x = model_and_batch()
    optimizer = torch.optim.Adam(model.parameters())
    with modtrace.trace(memory="0:3", flops=False) as trace:
        train(model, x, optimizer, 3)
    size = sum(p.numel() for p in model.parameters()) * FLOAT
    text = modtrace.views.console.memory_text(trace._read())
    assert "optimizer state" in text
    (held,) = [one for one in memory(trace._read()) if one.device == "cuda:0"]
    at = int(curve(held).at_ns[-1])
    by = [int(held.size_bytes[held.alive(at) & (held.category == code)].sum()) for code in range(6)]
    blocks = (
        512 * 4 * len(list(model.parameters()))
    )  # what sizes are rounded up by, and Adam's numbers of steps
    for code in (0, 2):
        assert size <= by[code] <= size + blocks
    assert 2 * size <= by[3] <= 2 * size + blocks


OUT_OF_MEMORY = """
import torch
from torch import nn
class Hungry(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.more = nn.Linear(1024, 1024), 0
    def forward(self, x):
        x = self.first(x)
        return x, torch.empty(self.more, device="cuda") if self.more else None
torch.cuda.set_per_process_memory_fraction(0.05)
model = Hungry().cuda()
x = torch.randn(256, 1024, device="cuda")
kept = []
for step in range(4):
    kept.append(model(x)[0].sum())
    kept.append(torch.empty(8 << 20, device="cuda"))
total = torch.cuda.get_device_properties(0).total_memory
model.more = total // 8
try:
    model(x)
except torch.OutOfMemoryError:
    print(torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    raise
"""


def test_memory_that_runs_out(tmp_path):
    (tmp_path / "hungry.py").write_text(OUT_OF_MEMORY)
    command = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "hungry.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "OutOfMemoryError" in done.stderr
    assert "OUT OF MEMORY   asked for" in done.stderr
    trace = modtrace.load(tmp_path / "t.mtrace")
    found = autopsy(trace._stored, last_failure(trace._stored))
    assert found.told.asked is not None
    assert found.told.unused is not None
    allocated, reserved = map(int, done.stdout.split())
    # The message rounds to hundredths of its unit.
    assert found.told.allocated == pytest.approx(allocated, rel=0.02)
    assert found.told.unused == pytest.approx(reserved - allocated, abs=reserved // 50)
    assert len(found.ends_bytes) == 4
    # Each of the first three keeps 32 MiB, which is allocated after its root call: it is there at the end of the next.
    assert [b - a >= 32 << 20 for a, b in zip(found.ends_bytes, found.ends_bytes[1:], strict=False)] == [
        True
    ] * 3


def test_the_history_where_the_program_profiles_itself():
    model, x = model_and_batch()
    with torch.no_grad():
        model(x)
        with torch.profiler.profile(), modtrace.trace(model, memory="0:9", flops=False) as trace:
            kept = model(x)
    assert trace._tracer.gaps == [profiling.FROM_HISTORY]
    assert not torch._C._cuda_isHistoryEnabled()
    modules = trace.calls[trace.calls["kind"] == "module"]
    assert modules["memory_delta_bytes"].notna().all()
    # A microsecond is about as long as a hook: what lies at the ends of a call may fall outside of it.
    assert modules.iloc[0]["memory_delta_bytes"] >= kept.numel() * FLOAT
    assert {held.device for held in memory(trace._read())} == {"cuda:0"}


def test_a_history_of_the_programs_own_goes_on():
    model, x = model_and_batch()
    torch.cuda.memory._record_memory_history(max_entries=1_000)
    try:
        watched = modtrace.trace(model, memory="0:9", flops=False)
        with torch.no_grad(), torch.profiler.profile(), watched as trace:
            model(x)
        assert torch._C._cuda_isHistoryEnabled()
        assert trace._tracer.gaps == [profiling.BUSY]
        entries = torch.cuda.memory._snapshot()["device_traces"][0]
        assert any("frames" in entry for entry in entries)
    finally:
        torch.cuda.memory._record_memory_history(None)
