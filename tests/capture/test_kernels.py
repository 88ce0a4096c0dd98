"""Operators by module, against what torch's own profiler adds up and against what modules are known to run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modtrace
import modtrace.capture.profiling as watching
from modtrace.analysis.kernels import ran
from modtrace.capture.allocations import CLOCK_RANGE
from modtrace.capture.operators import kernels_of, kind_of
from modtrace.trace.schema import KERNEL, MEMORY_COPY, MEMORY_SET
from modtrace.views import console


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).mean((2, 3)))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2)), (4, 8)),
    "attention": (Attention, (2, 5, 16)),
    "convolutions": (Convolutions, (2, 3, 8, 8)),
}
FORWARD = {
    "mlp": {"0": "aten::addmm", "1": "aten::tanh", "2": "aten::addmm"},
    "attention": {
        "qkv": "aten::addmm",
        "": "aten::_scaled_dot_product_flash_attention_for_cpu",
        "out": "aten::addmm",
    },
    "convolutions": {
        "conv": "aten::mkldnn_convolution",
        "norm": "aten::native_batch_norm",
        "act": "aten::clamp_min_",
    },
}
BACKWARD = {
    "mlp": {"0": "AddmmBackward0", "1": "TanhBackward0", "2": "AddmmBackward0"},
    "attention": {
        "": "ScaledDotProductFlashAttentionForCpuBackward0",
        "qkv": "AddmmBackward0",
        "out": "AddmmBackward0",
    },
    "convolutions": {
        "conv": "ConvolutionBackward0",
        "norm": "NativeBatchNormBackward0",
        "act": "ReluBackward0",
    },
}


def train(name, *, steps=5, kernels="1:3", **options):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, given = make(), torch.randn(shape)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(kernels=kernels, **options) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            model(given).sum().backward()
            optimizer.step()
    assert not t._tracer.gaps
    return t, model


@pytest.mark.parametrize("name", MODELS)
def test_operators_belong_to_the_module_that_ran_them(name):
    t, _ = train(name)
    frame = t.kernels
    assert set(frame["step"].dropna()) == {1, 2}
    for backward, expected in ((False, FORWARD[name]), (True, BACKWARD[name])):
        rows = frame[frame["backward"] == backward]
        for module, operator in expected.items():
            mine = rows[(rows["module"] == module) & (rows["operator"] == operator)]
            assert len(mine) == 2, (module, operator, rows[rows["operator"] == operator])
            assert (mine["total_ns"] > 0).all()
        other = rows[rows["operator"].isin(set(expected.values())) & rows["module"].notna()]
        assert {(m, o) for m, o in zip(other["module"], other["operator"], strict=True)} <= {
            *expected.items(),
            ("head", "aten::addmm"),
            ("head", "AddmmBackward0"),
        }


def test_every_operator_counts_once(monkeypatch):
    """torch's own events of the same run, read another way, are the oracle of the total."""
    seen = []
    original = watching._disable

    def noted():
        results = original()
        inside = {}
        events = [
            e
            for e in results.events()
            if not e.is_user_annotation() and e.name() != "[memory]" and not e.name().startswith(CLOCK_RANGE)
        ]
        events.sort(key=lambda e: (e.start_ns(), -e.duration_ns()))
        stack = []
        for event in events:
            while stack and stack[-1].start_ns() + stack[-1].duration_ns() <= event.start_ns():
                stack.pop()
            inside[id(event)] = event.duration_ns()
            if stack:
                inside[id(stack[-1])] -= event.duration_ns()
            stack.append(event)
        seen.append((len(events), sum(inside.values())))
        return results

    monkeypatch.setattr(watching, "_disable", noted)
    t, _ = train("mlp")
    frame = t.kernels
    count, total = seen[0]
    assert int(frame["count"].sum()) == count
    assert abs(int(frame["total_ns"].sum()) - total) <= 0.01 * total


def test_results_are_those_of_an_unwatched_run():
    _, watched = train("convolutions")
    _, plain = train("convolutions", kernels=None)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    assert not torch._C._autograd._profiler_enabled()


def test_memory_and_kernels_in_one_run():
    t, _ = train("mlp", kernels="1:2", memory="2:3")
    assert set(t.kernels["step"].dropna()) == {1, 2}
    assert t.steps["memory_peak_bytes"].notna().tolist() == [False, True, True, False, False]


def test_an_error_inside_and_a_trace_that_ends_early():
    model = nn.Linear(4, 4)
    with pytest.raises(RuntimeError), modtrace.trace(kernels="0:9") as t:
        model(torch.ones(2, 4))
        model(torch.ones(2, 5))
    assert "aten::addmm" in set(t.kernels["operator"])
    assert not torch._C._autograd._profiler_enabled()


def test_a_fault_while_reading_stops_the_profiler_and_not_the_program(monkeypatch):
    def fails(_):
        raise ZeroDivisionError

    monkeypatch.setattr(watching, "operators_of", fails)
    model = nn.Linear(4, 4)
    with modtrace.trace(kernels="0:1") as t:
        for _ in range(3):
            model(torch.ones(2, 4))
    assert "ZeroDivisionError" in t._tracer.gaps[0]
    assert not torch._C._autograd._profiler_enabled()
    assert len(t.calls) == 3


def test_as_text():
    t, _ = train("mlp")
    for columns in (20, 80, 140):
        text = console.kernels_text(t._read(), width=columns)
        assert all(len(line) <= columns for line in text.splitlines())
    device, groups = ran(t._read())
    assert device == "cpu"
    assert {"0", "1", "2"} <= {one.name for one in groups}
    with modtrace.trace() as empty:
        nn.Identity()(1)
    assert "were not watched" in console.kernels_text(empty._read())


class Made:
    """An event of torch's profiler, made up: its methods, as kineto has them."""

    def __init__(self, name, device_type, start, duration, correlation):
        values = {
            "name": name, "device_type": device_type, "start_ns": start, "duration_ns": duration,
            "correlation_id": correlation, "start_thread_id": 1, "device_index": 0,
        }  # fmt: skip
        for key, value in values.items():
            setattr(self, key, lambda value=value: value)


def test_kernels_are_placed_at_their_launch():
    kinds = torch._C._autograd.DeviceType
    events = [
        Made("cudaLaunchKernel", kinds.CPU, 100, 5, 7),
        Made("gemm", kinds.CUDA, 900, 50, 7),
        Made("Memcpy HtoD (Pageable -> Device)", kinds.CUDA, 950, 10, 8),
        Made("cudaMemcpyAsync", kinds.CPU, 110, 5, 8),
        Made("orphan", kinds.CUDA, 990, 10, 9),
    ]
    found = kernels_of(events, kinds.CUDA)
    assert [(one.at_ns, one.self_ns, one.name, one.device, one.kind) for one in found] == [
        (100, 50, "gemm", "cuda:0", KERNEL),
        (110, 10, "Memcpy HtoD (Pageable -> Device)", "cuda:0", MEMORY_COPY),
    ]
    assert kind_of("Memset (Device)") == MEMORY_SET
