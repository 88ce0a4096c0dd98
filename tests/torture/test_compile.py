"""torch.compile, export, fx and jit make the same of a model before, inside and after a trace."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.fx.experimental.proxy_tensor import make_fx

import modtrace
from tests.torture.observe import global_hooks

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

BACKENDS = ["eager", "aot_eager"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.shared = self.body[1]

    def forward(self, x, *, scale=1.0):
        return x + scale * self.shared(self.body(self.norm(x)))


class Net(nn.Sequential):
    """A class of our own: torch does not compile the frames of its own containers in place."""

    def forward(self, x):
        for layer in self:
            x = layer(x)
        return x


def make_model():
    torch.manual_seed(0)
    return Net(Block(), Net(Block(), nn.ReLU()), nn.Linear(4, 2))


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    # A recompilation for any reason is a failure, not a number to compare.
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


def assert_one_graph(counter):
    assert counter.frame_count == 1
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("first", ["before", "inside"])
def test_one_graph_for_ever(backend, in_place, first):
    """First run before or inside of a trace, then run inside, after, inside a second one, and after that."""
    model, x = make_model(), torch.randn(3, 4)
    expected = model(x)
    counter = CompileCounterWithBackend(backend)
    if in_place:
        model.compile(backend=counter, fullgraph=True)
        compiled = model
    else:
        compiled = torch.compile(model, backend=counter, fullgraph=True)

    if first == "before":
        assert torch.equal(compiled(x), expected)
    for _ in range(2):
        with modtrace.trace() as trace:
            for _ in range(3):
                assert torch.equal(compiled(x), expected)
        assert_compiled_calls(trace, [3] if not in_place else [0, 3])
        for _ in range(3):
            assert torch.equal(compiled(x), expected)

    assert_one_graph(counter)
    assert not any(global_hooks().values())


def assert_compiled_calls(trace, counts):
    """A compiled region is a row of its own, and what was compiled away has none.

    A module compiled in place (`module.compile()`) may not be seen at all: torch then runs the hooks compiled, too.
    """
    calls = trace.calls
    assert (calls["status"] == "ok").all()
    assert not calls["type"].isin(["Block", "Linear", "LayerNorm", "GELU", "ReLU"]).any()
    assert (calls["parent"] == -1).sum() in counts


def test_compiled_inside_a_trace_only():
    counter = CompileCounterWithBackend("eager")
    model, x = make_model(), torch.randn(3, 4)
    with modtrace.trace() as trace:
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        compiled(x)
        model(x)
    compiled(x)
    model(x)
    assert_one_graph(counter)
    assert (trace.calls["type"] == "Block").sum() == 2


def test_compiled_submodule_and_function():
    """An eager model with a compiled part: the part is one row under its parent."""
    counter = CompileCounterWithBackend("eager")
    model, x = make_model(), torch.randn(3, 4)
    model[1].compile(backend=counter, fullgraph=True)
    step = torch.compile(lambda x: model[0](x) * 2, backend=counter, fullgraph=True)
    model(x), step(x)
    with modtrace.trace() as trace:
        model(x), step(x)
    model(x), step(x)

    assert counter.frame_count == 2
    assert not counters["graph_break"]
    calls = trace.calls
    assert (calls.loc[calls["name"] == "1", "depth"] == 1).all()
    assert not calls["name"].str.startswith("1.").any()


@pytest.mark.parametrize("dynamic", [True, None])
def test_dynamic_shapes_recompile_as_often_as_untraced(dynamic):
    def frames(around):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("eager")
        compiled = torch.compile(make_model(), backend=counter, fullgraph=True, dynamic=dynamic)
        seen = []
        for size in (3, 5, 7, 9):
            with around():
                compiled(torch.randn(size, 4))
            seen.append(counter.frame_count)
        return seen

    with torch._dynamo.config.patch(error_on_recompile=False):
        untraced = frames(lambda: warnings.catch_warnings())
        traced = frames(modtrace.trace)
    assert traced == untraced


def test_training_step():
    def gradients(around):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        model = make_model()
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with around():
            for _ in range(3):
                optimizer.zero_grad()
                compiled(torch.ones(3, 4)).square().sum().backward()
                optimizer.step()
        return counter.frame_count, [parameter.clone() for parameter in model.parameters()]

    frames, untraced = gradients(lambda: warnings.catch_warnings())
    traced_frames, traced = gradients(modtrace.trace)
    assert traced_frames == frames == 1
    assert all(torch.equal(left, right) for left, right in zip(traced, untraced, strict=True))


def test_explain_finds_the_same():
    def facts():
        torch._dynamo.reset()
        found = torch._dynamo.explain(make_model())(torch.ones(3, 4))
        return found.graph_count, found.graph_break_count, found.op_count

    with torch._dynamo.config.patch(error_on_recompile=False):
        untraced = facts()
        with modtrace.trace():
            traced = facts()
        after = facts()
    assert traced == untraced == after
    assert traced[:2] == (1, 0)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's default backend needs a C++ compiler")
def test_default_backend():
    model, x = make_model(), torch.randn(3, 4)
    compiled = torch.compile(model, fullgraph=True)
    with torch._inductor.config.patch(compile_threads=1):  # no pool of processes that outlives the test
        before = compiled(x)
    with modtrace.trace() as trace:
        inside = compiled(x)
    assert torch.equal(inside, before)
    assert torch.equal(compiled(x), before)
    assert counters["stats"]["unique_graphs"] == 1
    assert_compiled_calls(trace, [1])


def exported(model, x):
    return str(torch.export.export(model, (x,)).graph)


def exported_with_dynamic_batch(model, x):
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    return str(program.graph), str(program.range_constraints)


def symbolically_traced(model, x):
    return torch.fx.symbolic_trace(model).code


def graph_of_operations(model, x):
    return [
        make_fx(model, tracing_mode=mode, _allow_non_fake_inputs=True)(x).code
        for mode in ("real", "fake", "symbolic")
    ]


def scripted(model, x):
    return torch.jit.script(model[2]).code


def jit_traced(model, x):
    return torch.jit.trace(model, x).code


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # from 2.14 on
@pytest.mark.parametrize(
    "transform",
    [
        exported,
        exported_with_dynamic_batch,
        symbolically_traced,
        graph_of_operations,
        scripted,
        jit_traced,
    ],
)
def test_other_tracers_find_the_same(transform):
    """And the model itself is still recorded after them."""
    model, x = make_model().eval(), torch.randn(3, 4)
    transform(model, x)
    untraced = transform(model, x)
    with modtrace.trace() as trace:
        traced = transform(model, x)
        model(x)
    assert traced == untraced
    assert transform(model, x) == untraced
    calls = trace.calls
    last = calls[calls["step"] == calls["step"].max()]
    assert list(last["type"])[:3] == ["Net", "Block", "LayerNorm"]
    assert len(last) == 18


def test_strict_export_is_no_worse_than_beside_any_hook():
    """torch 2.13 refuses to export strictly as soon as any global hook exists, one that does nothing included."""

    def outcome():
        torch._dynamo.reset()
        try:
            return str(torch.export.export(make_model(), (torch.ones(3, 4),), strict=True).graph)
        except torch._dynamo.exc.Unsupported as error:
            return str(error).splitlines()[0]

    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    beside_any_hook = outcome()
    handle.remove()
    with modtrace.trace():
        traced = outcome()
    assert traced in (beside_any_hook, outcome())


def test_training_step_compiled_around_backward_and_optimizer():
    """Graph breaks everywhere: no frame of the recorder is compiled, and inside the trace nothing is twice."""

    def train():
        torch._dynamo.reset()
        torch.manual_seed(0)
        graphs = []

        def backend(graph, _):
            graphs.append(len(graph.graph.nodes))
            return graph.forward

        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def forward_and_backward(x):
            loss = model(x).square().mean()
            loss.backward()
            return loss

        def clear(x):
            optimizer.zero_grad()
            return x.to(torch.float64)

        steps = [torch.compile(part, backend=backend) for part in (forward_and_backward, clear)]
        update = torch.compile(optimizer.step, backend=backend)
        losses = []
        for _ in range(4):
            losses.append(steps[0](torch.ones(3, 4)).item())
            update()
            steps[1](torch.ones(3, 4))
        return graphs, losses

    untraced = train()
    with modtrace.trace() as trace:
        traced = train()
    assert traced == untraced
    assert (trace.calls["name"] == "backward").any()
    assert not len(trace._stored.table("gaps"))
