"""What is said about modules without use, layers without an optimizer and graphs that are kept, and about none of the
many programs in which all is well.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import modtrace
from modtrace.analysis.findings import findings, training_rules

STEPS = 8
RULES = ("never_ran", "no_optimizer", "earlier_steps")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def train(model, optimizer=None, given=None, steps=STEPS, **options):
    """The trace of a usual loop."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01) if optimizer is None else optimizer
    with modtrace.trace(**options) as trace:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(2, 4) if given is None else given).square().mean().backward()
            optimizer.step()
    return trace


def said(trace, *rules):
    return [one.text for one in findings(trace._read()) if one.rule in (rules or RULES)]


class Tied(nn.Module):
    """Tied weights, weights read directly, a Sequential whose parts are called, a module reached through a list."""

    def __init__(self):
        super().__init__()
        self.shared, self.embed = nn.Embedding(9, 4), nn.Embedding(9, 4)
        self.embed.weight = self.shared.weight
        self.queries, self.relative = nn.Embedding(3, 4), nn.Embedding(3, 4)
        self.conv = nn.Conv1d(4, 4, 3, groups=4)
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, x):
        h = self.embed(torch.tensor([[1, 2, 3]])) + self.queries.weight + self.relative.weight.mean()
        h = functional.conv1d(h.mT, self.conv.weight, self.conv.bias, padding=1, groups=4).mT
        h = self.layers[1][0](self.layers[0](h))
        return functional.linear(h, self.shared.weight)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1)
        self.block = nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0)
        self.recurrent = nn.LSTM(4, 4)

    def forward(self, x):
        return self.block(self.attention(x, x, x)[0]) + self.recurrent(x)[0]


class Wrapper(nn.Module):
    """A wrapper that is not called itself, as peft's LoraModel is not."""

    def __init__(self):
        super().__init__()
        self.base = nn.Module()
        self.base.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        self.base.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.base.model(x) * self.base.scale


class Sometimes(nn.Module):
    """A layer whose weights are read in one step of seven only."""

    def __init__(self):
        super().__init__()
        self.body, self.rare, self.count = nn.Linear(4, 4), nn.Linear(4, 4), 0

    def forward(self, x):
        self.count += 1
        h = self.body(x)
        return functional.linear(h, self.rare.weight, self.rare.bias) if self.count == 7 else h


class Experts(nn.Module):
    """One expert of three, in turn; the last has none of the few steps."""

    def __init__(self):
        super().__init__()
        self.experts, self.count = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), 0

    def forward(self, x):
        self.count += 1
        return self.experts[self.count % 2](x)


def scripted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4)

        def forward(self, x):
            return self.lstm(self.a(x))[0]

    return nn.Sequential(torch.jit.script(Net()), nn.Linear(4, 1))


def compiled():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), nn.Linear(4, 1))
    return torch.compile(net, backend="aot_eager")


def parametrized():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    nn.utils.parametrizations.weight_norm(net[0])
    return net


HEALTHY = {
    "tied": Tied,
    "attention": Attention,
    "wrapper": Wrapper,
    "sometimes": Sometimes,
    "experts": Experts,
    "scripted": scripted,
    "compiled": compiled,
    "parametrized": parametrized,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models(name):
    model = HEALTHY[name]()
    trace = train(model)
    assert len(trace.steps) == STEPS
    assert said(trace) == []


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.idle, self.frozen = nn.Dropout(), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_never_ran(kind):
    """Named are the largest parts. Weights that are frozen may be read, which nothing shows."""
    model = Unused()
    trace = train(model, kind(model.parameters(), 0.1, weight_decay=0.1))
    assert said(trace) == [
        "2 modules with parameters never ran and got no gradient: decoder (Sequential), spare (Linear)"
    ]


def test_never_ran_of_experts_needs_many_steps():
    texts = said(train(Experts(), steps=training_rules.SIBLING_STEPS))
    assert texts == ["1 module with parameters never ran and got no gradient: experts.2 (Linear)"]


def test_never_ran_says_nothing_where_it_cannot_know():
    model = Unused()
    with modtrace.trace() as inference:
        for _ in range(STEPS):
            model(torch.randn(2, 4))
    assert said(inference) == []
    assert said(train(Unused(), steps=1)) == [], "one step"
    assert said(train(model, torch.optim.SGD(model.used.parameters(), 0.1))) == [], (
        "not given to the optimizer"
    )
    with pytest.raises(ValueError, match="stop"), modtrace.trace() as failed:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(STEPS):
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            if step == STEPS - 1:
                raise ValueError("stop")
    assert said(failed) == []


def test_never_ran_of_a_shared_parameter():
    """The same tensor in a module that ran, of another model even."""
    model, other = Unused(), nn.Linear(4, 4)
    other.weight = model.spare.weight
    model.decoder = None
    optimizer = torch.optim.SGD({*model.parameters(), *other.parameters()}, 0.1)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(2, 4)).mean().backward()
            with torch.no_grad():
                other(torch.randn(2, 4))
            optimizer.step()
    assert said(trace) == []


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.out = nn.Linear(4, 8), nn.Linear(8, 1)
        self.hidden = [nn.Linear(8, 8) for _ in range(3)]

    def forward(self, x):
        x = self.inp(x)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


def test_no_optimizer():
    texts = said(train(Hidden()))
    assert texts == ["trainable and given gradients, but in no optimizer: 3 Linear called by Hidden"]


def test_no_optimizer_of_a_part():
    """Built over a subset: the largest parts are named."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 1))
    (text,) = said(train(model, torch.optim.SGD(model[1].parameters(), 0.1)))
    assert text == "trainable and given gradients, but in no optimizer: 0 (Sequential)"


def test_no_optimizer_of_what_came_later():
    """A parameter, and a layer, that were added when the optimizer had been made."""
    model = Wrapper()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.base.scale = nn.Parameter(torch.ones(1))
    model.base.model.add_module("3", nn.Linear(1, 1))
    (text,) = said(train(model, optimizer))
    assert text == ("trainable and given gradients, but in no optimizer: base.model.3 (Linear)")


class MadeInForward(nn.Module):
    def __init__(self, shares):
        super().__init__()
        self.body, self.weight, self.shares = nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4)), shares

    def forward(self, x):
        layer = nn.Linear(4, 4, bias=not self.shares)
        if self.shares:
            layer.weight = self.weight
        return layer(self.body(x)) + self.weight.sum()


def test_no_optimizer_of_modules_made_in_forward():
    (text,) = said(train(MadeInForward(shares=False)))
    assert text == (
        "made anew in every forward, so that no optimizer trains their weights: Linear in MadeInForward"
    )
    assert said(train(MadeInForward(shares=True))) == [], "it is made around a weight that is trained"


def frozen():
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 1))
    return train(model, torch.optim.SGD(model[1].parameters(), 0.1))


def staged():
    """A head first, then all of it by another optimizer, at a step in which nothing else is looked at."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with modtrace.trace() as trace:
        for parameters, steps in ((model[1].parameters(), 5), (model.parameters(), 1)):
            optimizer = torch.optim.Adam(parameters)
            for _ in range(steps):
                optimizer.zero_grad()
                model(torch.randn(2, 4)).mean().backward()
                optimizer.step()
        optimizer = None
    return trace


def added():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    with modtrace.trace() as trace:
        for step in range(STEPS):
            if step == 5:
                optimizer.add_param_group({"params": list(model[0].parameters())})
            optimizer.zero_grad()
            model(torch.randn(2, 4)).mean().backward()
            optimizer.step()
        optimizer = None
    return trace


def averaged():
    """A copy that follows the model, and is only ever evaluated."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    teacher = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            x = torch.randn(2, 4)
            with torch.no_grad():
                aim = teacher(x)
            optimizer.zero_grad()
            (model(x) - aim).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
    return trace


def in_backward():
    """An optimizer a parameter, which steps when its gradient is there."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    optimizers = {parameter: torch.optim.SGD([parameter], 0.1) for parameter in model.parameters()}

    def update(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            model(torch.randn(2, 4)).mean().backward()
    return trace


def adversarial(critics=1):
    """The generator's loss gives the discriminator gradients that its own optimizer does not use."""
    generator, discriminator = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    first = torch.optim.Adam(generator.parameters())
    second = torch.optim.Adam(discriminator.parameters())
    with modtrace.trace() as trace:
        for step in range(STEPS):
            fake = generator(torch.randn(2, 4))
            first.zero_grad()
            discriminator(fake).mean().backward()
            first.step()
            if (step + 1) % critics == 0:
                second.zero_grad()
                (discriminator(fake.detach()) - discriminator(torch.randn(2, 4))).mean().backward()
                second.step()
    return trace


def before_its_first_step():
    """The discriminator's optimizer is there, and has not stepped when recording ends."""
    return adversarial(critics=STEPS + 1)


def master_weights():
    """The optimizer has copies in full precision."""
    model = nn.Linear(4, 4).bfloat16()
    head = nn.Linear(4, 1)
    copies = [nn.Parameter(parameter.detach().float()) for parameter in model.parameters()]
    optimizer = torch.optim.SGD([*copies, *head.parameters()], 0.1)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            model.zero_grad()
            optimizer.zero_grad()
            head(model(torch.randn(2, 4).bfloat16()).float()).mean().backward()
            for full, parameter in zip(copies, model.parameters(), strict=True):
                full.grad = parameter.grad.float()
            optimizer.step()
            for full, parameter in zip(copies, model.parameters(), strict=True):
                parameter.data.copy_(full.data)
    return trace


def by_hand():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            model.zero_grad()
            model(torch.randn(2, 4)).mean().backward()
            optimizer.step()
            with torch.no_grad():
                for parameter in model[0].parameters():
                    parameter -= 0.1 * parameter.grad
    return trace


def closure():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    x = torch.randn(2, 4)

    def loss():
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return value

    with modtrace.trace() as trace:
        for _ in range(STEPS):
            optimizer.step(loss)
    return trace


def accumulated():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace() as trace:
        for step in range(4 * STEPS):
            model(torch.randn(2, 4)).mean().backward()
            if step % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
    return trace


def scaled():
    """A temperature outside of any module beside the model."""
    model, temperature = nn.Linear(4, 4), nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], 0.1)
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            optimizer.zero_grad()
            (model(torch.randn(2, 4)) * temperature).mean().backward()
            optimizer.step()
    return trace


LOOPS = (
    frozen, staged, added, averaged, in_backward, adversarial, before_its_first_step, master_weights, by_hand,
    closure, accumulated, scaled,
)  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_healthy_loops(loop):
    trace = loop()
    assert len(trace._read().table("parameters")), "it was looked at"
    assert said(trace) == []


class Recurrent(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.cell, self.head, self.keep, self.state = nn.LSTMCell(4, 4), nn.Linear(4, 1), keep, None

    def forward(self, x):
        state = self.state
        if state is not None and not self.keep:
            state = tuple(part.detach() for part in state)
        self.state = self.cell(x, state)
        return self.head(self.state[0])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("steps", ["none", "head"])
def test_earlier_steps(keep, steps):
    net = Recurrent(keep)
    optimizer = torch.optim.SGD(net.head.parameters(), 0.0) if steps == "head" else None
    with modtrace.trace() as trace:
        for _ in range(12):
            loss = net(torch.randn(2, 4)).square().mean()
            net.zero_grad()
            loss.backward(retain_graph=keep)
            if optimizer is not None:
                optimizer.step()
    texts = said(trace, "earlier_steps")
    assert len(texts) == keep
    if keep:
        assert "11 earlier steps, mostly in cell (LSTMCell)" in texts[0]
    assert not [one for one in findings(trace._read()) if keep and one.rule in ("drift", "long_backward")]


def test_earlier_steps_of_a_window():
    """Truncated backpropagation goes back a few steps on purpose."""
    cell, head = nn.RNNCell(4, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(head.parameters(), 0.0)
    states = [torch.zeros(2, 4)]
    with modtrace.trace() as trace:
        for _ in range(20):
            if len(states) > 3:
                states = [states[0].detach(), *states[1:]]
            state = states[-1] if len(states) < 4 else states[-1].detach()
            states = [*states[-3:], cell(torch.randn(2, 4), state)]
            head(states[-1]).mean().backward(retain_graph=True)
            optimizer.step()
    assert said(trace, "earlier_steps") == []


def test_looks_are_few_and_keep_nothing_alive():
    """No weak reference to a tensor, which `swap_tensors` would refuse; no parameter lives longer for it."""
    import weakref

    model = nn.Linear(4, 4)
    train_once = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace() as trace:
        for _ in range(3):
            model(torch.randn(2, 4)).mean().backward()
            train_once.step()
        assert not any(weakref.getweakrefs(parameter) for parameter in model.parameters())
        torch.utils.swap_tensors(model.weight, nn.Parameter(torch.ones(4, 4)))
        watch = weakref.ref(model.weight)
        del model, train_once
        assert watch() is None
    assert len(trace._read().table("parameters")) == 2


def test_a_fault_of_a_look_ends_the_looks_alone(monkeypatch):
    from modtrace.capture.mechanisms import optimizer_parameters as optimizers

    def broken(_):
        raise TypeError("no")

    monkeypatch.setattr(optimizers, "_groups", broken)
    trace = train(Unused())
    assert trace._read().table("gaps").column("reason").to_pylist() == [
        "which parameters are in an optimizer is not known: TypeError"
    ]
    assert len(trace.steps) == STEPS
    assert said(trace) == []


def test_children(tmp_path):
    """Their number and CPU time stand in end.json; also told where nothing else was recorded."""
    path = tmp_path / "t.mtrace"
    with modtrace.trace(path=path):
        pass
    file = path / "rank-0" / "end.json"
    facts = json.loads(file.read_text())
    assert facts["children"] == {"processes": 0, "cpu_ns": facts["children"]["cpu_ns"]}
    for processes, cpu_ns, fires in (
        (2, 18_000_000_000, True),
        (1, 900_000_000, False),
        (0, 9_000_000_000, False),
        (2, None, False),
    ):
        file.write_text(json.dumps(facts | {"children": {"processes": processes, "cpu_ns": cpu_ns}}))
        trace = modtrace.load(path)
        text = "2 child processes used 18.0 s of CPU and were not recorded"
        assert said(trace, "children") == [text] * fires
        assert (text in " ".join(trace.summary().split())) is fires
