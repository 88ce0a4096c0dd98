"""Operators by module, against what torch's own profiler adds up and against what modules are known to run."""

from __future__ import annotations

import pytest
import torch
from torch import library as torch_library
from torch import nn
from torch.nn import functional as F

import modtrace
import modtrace.capture.mechanisms.profiler_window as watching
from modtrace.analysis.kernels import ran
from modtrace.capture.mechanisms.allocations import CLOCK_RANGE
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


def table_of(results):
    """name -> (count, self time in nanoseconds) as `key_averages` of torch's profiler gives them: the oracle."""
    from torch.autograd.profiler_util import EventList

    profiler = torch.autograd.profiler.profile(profile_memory=False)
    profiler.kineto_results = results
    events = EventList(profiler._parse_kineto_results(results), use_device=None, profile_memory=False)
    events._build_tree()
    table = {one.key: (one.count, one.self_cpu_time_total * 1000) for one in events.key_averages()}
    return {name: row for name, row in table.items() if not name.startswith((CLOCK_RANGE, "Optimizer."))}


def dispatches_to_itself(library):
    """`modtrace_test::double`, whose kernel calls the operator of the same name once more, below autograd."""
    library.define("double(Tensor x) -> Tensor")

    def above(x):
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.modtrace_test.double(x)

    library.impl("double", above, "AutogradCPU")
    library.impl("double", lambda x: x * 2, "CPU")


@pytest.mark.parametrize("name", [*MODELS, "double"])
def test_the_table_is_torchs_own(monkeypatch, name):
    """Operators that only dispatch to themselves are in neither."""
    seen = []
    original = watching._disable

    def noted():
        results = original()
        seen.append(table_of(results))
        return results

    monkeypatch.setattr(watching, "_disable", noted)
    if name == "double":
        with torch_library._scoped_library("modtrace_test", "FRAGMENT") as library:
            dispatches_to_itself(library)

            class Double(nn.Module):
                def forward(self, x):
                    return torch.ops.modtrace_test.double(x)

            x = torch.ones(4)
            with modtrace.trace(kernels="0:1") as t:
                Double()(x)
        assert seen[0]["modtrace_test::double"][0] == 1
    else:
        t, _ = train(name)
    by_name = t.kernels.groupby("operator", observed=True)[["count", "total_ns"]].sum()
    found = {key: (int(row["count"]), float(row["total_ns"])) for key, row in by_name.iterrows()}
    # Where another test has left an optimizer alive the end of a step is known one step later: more is watched then.
    watched = round(
        2 * sum(count for count, _ in seen[0].values()) / sum(count for count, _ in found.values())
    )
    assert watched in (2, 3)
    assert {key: watched * count for key, (count, _) in found.items()} == {
        key: 2 * count for key, (count, _) in seen[0].items()
    }
    if watched != 2:
        return
    for key, (count, own) in found.items():
        assert abs(own - seen[0][key][1]) <= 2 * count, key


def test_results_are_those_of_an_unwatched_run():
    _, watched = train("convolutions")
    _, plain = train("convolutions", kernels=None)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    assert not torch._C._autograd._profiler_enabled()


def test_memory_and_kernels_in_one_run():
    t, _ = train("mlp", kernels="1:2", memory="2:3")
    assert set(t.kernels["step"].dropna()) == {1}
    assert t.steps["memory_peak_bytes"].notna().tolist() == [False, False, True, False, False]


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
    assert any("ZeroDivisionError" in gap for gap in t._tracer.gaps)
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
