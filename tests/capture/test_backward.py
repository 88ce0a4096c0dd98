"""Which module call the time of backward belongs to, against what torch itself tells of the gradients."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace


class Gradients:
    """The oracle: an independent look at when the gradient of each call's output is there.

    A hook on an output tensor runs when its gradient is complete, just before the backward of the call that made it.
    """

    def __init__(self, model):
        self.order = []
        self.handles = []
        self.calls = 0
        for name, module in model.named_modules():
            if not list(module.children()):
                self.handles.append(module.register_forward_hook(self._watch(name)))

    def _watch(self, name):
        def hook(module, args, output):
            number, self.calls = self.calls, self.calls + 1
            tensors = output if isinstance(output, tuple) else (output,)
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(lambda _: self.order.append((name, number)))

        return hook

    def leaves(self):
        """(name, number of the leaf call) in the order in which their backward began, each once."""
        return list(dict.fromkeys(self.order))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        scale = x.square()
        return x + self.act(self.up(self.norm(x * scale)))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(6, 6), Residual(), nn.Linear(6, 6)])
        self.mix = nn.Linear(18, 6)

    def forward(self, x):
        return self.mix(torch.cat([branch(x) for branch in self.branches], -1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)

    def forward(self, x):
        return self.shared(torch.tanh(self.shared(x)))


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.trained = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x):
        self.unused(x)
        return self.trained(self.frozen(x))


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(6, 12)
        self.flat = nn.Flatten(0, 1)

    def forward(self, x):
        first, second = self.wide(x).chunk(2, -1)
        first = first.clone()
        first.mul_(2)
        return self.flat(torch.stack([first, second]))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        output, _ = self.lstm(x[None])
        return self.head(output)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Dropout(0.5)
        )

    def forward(self, x):
        return self.body(x[:, None]).mean(-1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x):
        return self.layer(x[None])


MODELS = [Residual, Branches, Twice, Frozen, Views, Recurrent, Convolution, Attention]


def make(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), kind())


def leaves_of(trace, model):
    """The same as `Gradients.leaves`, of a trace."""
    calls = trace.calls
    leaves = {name for name, module in model.named_modules() if not list(module.children())}
    modules = calls[(calls["kind"] == "module") & calls["name"].isin(leaves)]
    number = {call: at for at, call in enumerate(modules.index)}
    backward = calls[(calls["kind"] == "backward") & calls["forward"].isin(number)]
    return [(row["name"], number[row["forward"]]) for _, row in backward.iterrows()]


@pytest.mark.parametrize("kind", MODELS)
def test_order_and_nesting_are_those_of_the_gradients(kind):
    model = make(kind)
    oracle = Gradients(model)
    torch.manual_seed(1)
    with modtrace.trace() as trace:
        model(torch.randn(4, 6)).square().sum().backward()
    assert leaves_of(trace, model) == oracle.leaves()
    assert len(leaves_of(trace, model)) > 1

    calls = trace.calls
    (phase,) = calls.index[calls["name"] == "backward"]
    backward = calls[calls["kind"] == "backward"]
    assert len(set(backward["forward"])) == len(backward), "one row a call"
    # Nested as the forward was: the row around a backward is that of the call around its call.
    around = calls.loc[backward["forward"], "parent"].tolist()
    rows = dict(zip(backward["forward"], backward.index, strict=True))
    expected = [rows.get(parent, phase) for parent in around]
    assert backward["parent"].tolist() == expected
    assert (backward["name"].tolist(), backward["module_id"].tolist()) == (
        calls.loc[backward["forward"], "name"].tolist(),
        calls.loc[backward["forward"], "module_id"].tolist(),
    )


@pytest.mark.parametrize("kind", MODELS)
def test_it_adds_up(kind):
    model = make(kind)
    with modtrace.trace() as trace:
        for _ in range(3):
            model(torch.randn(4, 6)).sum().backward()
    calls = trace.calls
    for phase in calls.index[calls["name"] == "backward"]:
        inside = calls.loc[phase : calls["last_call"][phase]]
        own = inside["self_ns"].sum() + inside["tracer_ns"].sum()
        assert own == calls["duration_ns"][phase]


def names(trace):
    calls = trace.calls
    return list(calls[calls["kind"] == "backward"]["name"])


def test_retained_graph_and_parts_of_it():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    x = torch.randn(2, 3, requires_grad=True)
    with modtrace.trace() as trace:
        y = model(x)
        y.sum().backward(retain_graph=True)
        y.square().sum().backward(retain_graph=True)
        torch.autograd.grad(y.sum(), model[2].weight)
    each = ["", "2", "1", "0"]
    assert names(trace) == [*each, *each, "", "2"]


def test_hooks_are_gone_from_a_kept_graph():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    y = model(torch.randn(2, 3))
    with modtrace.trace():
        y = model(torch.randn(2, 3))
        y.sum().backward(retain_graph=True)
    seen = []
    y.grad_fn.register_prehook(lambda _: seen.append("mine"))
    y.sum().backward()
    assert seen == ["mine"]


def test_double_backward():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3, requires_grad=True)

    def penalty():
        model.zero_grad()
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (gradient.square().sum() + model(x).sum()).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = penalty()
    with modtrace.trace() as trace:
        found = penalty()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert names(trace)[:4] == ["", "2", "1", "0"]
    # Nodes made by the first backward are of no module call; those of both forwards are reached by the second.
    assert len(names(trace)) >= 8
    assert (trace.calls["status"] == "ok").all()


def test_inside_a_forward():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = nn.Linear(3, 1)

        def forward(self, x):
            x = x.requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    model = nn.Sequential(Force())
    with modtrace.trace() as trace:
        model(torch.randn(2, 3)).sum().backward()
    calls = trace.calls
    phase = calls[calls["name"] == "backward"].iloc[0]
    assert calls["type"][phase["parent"]] == "Force"
    assert names(trace)[0] == "0.energy"
    assert len(trace.steps) == 1


def test_a_graph_that_several_threads_may_have_made_is_told_of():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    outputs = []
    with modtrace.trace(flops=False) as trace:
        for _ in range(2):
            thread = threading.Thread(target=lambda: outputs.append(model(torch.randn(2, 4))))
            thread.start()
            thread.join()
        outputs[0].sum().backward()
    assert (trace.calls["kind"] == "backward").sum() == 0
    assert list(trace.gaps["reason"]) == [
        "1 backward not divided by module: calls of several threads may have made the graph"
    ]


def test_backward_in_another_thread():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    with modtrace.trace() as trace:
        loss = model(torch.randn(2, 3)).sum()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
    assert names(trace) == ["", "1", "0"]
    backward = trace.calls[trace.calls["kind"] == "backward"]
    assert set(backward["thread"]) == {1}
    assert trace.calls.loc[backward["forward"], "thread"].unique().tolist() == [0]


def test_threads_that_train_side_by_side():
    def train():
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        gate.wait()
        for _ in range(5):
            model(torch.randn(2, 3)).sum().backward()

    gate = threading.Barrier(4)
    with modtrace.trace() as trace:
        threads = [threading.Thread(target=train) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    calls = trace.calls
    backward = calls[calls["kind"] == "backward"]
    # A node does not tell its thread: where numbers of several fit, nothing is claimed. What is claimed is right.
    same = calls.loc[backward["forward"], "thread"].tolist() == backward["thread"].tolist()
    assert same
    assert (calls["name"] == "backward").sum() == 20


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class UsesFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return Doubled.apply(self.linear(x))


def test_custom_function():
    model = nn.Sequential(UsesFunction(), nn.Linear(3, 1))
    with modtrace.trace() as trace:
        model(torch.randn(2, 3)).sum().backward()
    assert names(trace) == ["", "1", "0", "0.linear"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_recompute(reentrant):
    torch.manual_seed(0)
    block, head = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 1)
    x = torch.randn(3, 4, requires_grad=True)

    def train():
        head(checkpoint(block, x, use_reentrant=reentrant)).sum().backward()

    train()
    expected = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    with modtrace.trace() as trace:
        train()
    assert all(torch.equal(a, p.grad) for a, p in zip(expected, block.parameters(), strict=True))
    calls = trace.calls
    again = calls[(calls["phase"] == "recompute") & (calls["kind"] == "module")]
    # torch stops the second time once it has what backward needs: the last Linear may be missing.
    assert list(again["type"])[:3] == ["Sequential", "Linear", "Tanh"]
    assert set(again["status"]) == {"ok"}
    first = calls[(calls["phase"] == "forward") & (calls["kind"] == "module")]
    assert len(first) == 5
    assert len(trace.steps) == 1
    assert trace.steps["recomputed"].iloc[0] == len(again)
    modules = trace.modules
    assert modules["calls"].tolist() == [1] * 5
    assert (modules["recompute_calls"] > 0).sum() == len(again)
    (phase,) = calls.index[(calls["name"] == "backward") & (calls["depth"] <= 1)]
    assert calls["last_call"][phase] >= again.index.max()
    backward = calls[calls["kind"] == "backward"]
    assert {"Linear", "Tanh"} <= set(backward["type"])
    assert trace.steps["backward_ns"].iloc[0] == calls["duration_ns"][phase]
    assert "recompute" in trace.tree()


def test_models_outside_the_trace_are_not_attributed():
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    with modtrace.trace(model) as trace:
        (model(torch.ones(1, 3)) + other(torch.ones(1, 3))).sum().backward()
    assert list(trace.calls[trace.calls["kind"] == "backward"]["type"]) == ["Linear"]


def test_long_ago_and_many_calls(monkeypatch):
    monkeypatch.setattr("modtrace.capture.engine.flusher.MANY_GROWN", 50)
    model = nn.Linear(2, 2)
    with modtrace.trace() as trace:
        early = model(torch.ones(1, 2))
        for _ in range(200):
            model(torch.ones(1, 2))
            trace._tracer._context.due = 0
        late = model(torch.ones(1, 2))
        early.sum().backward()
        late.sum().backward()
    calls = trace.calls
    backward = calls[calls["kind"] == "backward"]
    last = calls.index[calls["kind"] == "module"][-1]
    assert backward["forward"].tolist() == [last]
    assert (calls["name"] == "backward").sum() == 2


@pytest.fixture
def ranks(tmp_path):
    """This process is the one rank of a job."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("ranks")
@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_is_called_behind_the_last_node_is_in_no_module(checkpointed):
    """DistributedDataParallel waits for other ranks there. A module call stands for the waiting: it needs no clock."""
    model, waits = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)), nn.Identity()
    engine = torch.autograd.Variable._execution_engine
    model[0].weight.register_hook(lambda _: engine.queue_callback(lambda: waits(torch.zeros(1))))
    with modtrace.trace() as t:
        for _ in range(2):
            x = torch.ones(2, 3, requires_grad=True)
            output = checkpoint(model, x, use_reentrant=True) if checkpointed else model(x)
            output.sum().backward()
    calls = t.calls
    outer = calls.loc[calls[calls.type == "Identity"].parent.tolist()]
    assert len(outer) == 2
    assert not (outer.kind == "backward").any()
    assert set(outer.name) == {"backward"}
    assert (calls[calls.kind == "backward"].status == "ok").all()
