"""What root modules are called, in every view: the variable or attribute that held them, no two alike."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

import modtrace
from modtrace.errors import UsageError

X = torch.ones(2, 4)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x):
        return self.layer(x)


class Raises(nn.Module):
    """Runs code of the program wherever it is looked at the wrong way."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def __getattr__(self, name):
        if name == "layer":
            return super().__getattr__(name)
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError("compared")

    def __bool__(self):
        raise RuntimeError("asked")

    __hash__ = nn.Module.__hash__

    def forward(self, x):
        return self.layer(x)


class Loud:
    """A value that must not be looked at: it would tell."""

    said: ClassVar[list[str]] = []

    def __getattribute__(self, name):
        Loud.said.append(name)
        raise RuntimeError(name)

    def __eq__(self, other):
        Loud.said.append("==")
        raise RuntimeError("compared")

    def __bool__(self):
        Loud.said.append("bool")
        raise RuntimeError("asked")

    __hash__ = None  # type: ignore[assignment]

    @property
    def __dict__(self):
        Loud.said.append("__dict__")
        raise RuntimeError("read")

    @property
    def __class__(self):
        Loud.said.append("__class__")
        raise RuntimeError("class")


class Plain:
    shared = Net()

    def __init__(self):
        self.net = Net()
        self.table = {"a": Net()}

    def run(self):
        return self.net(X)

    def of_table(self):
        return self.table["a"](X)

    def of_class(self):
        return self.shared(X)


class Slots:
    __slots__ = ("net",)

    def __init__(self):
        self.net = Net()

    def run(self):
        return self.net(X)


class Lit(nn.Module):
    """A module that calls its parts, as a LightningModule does."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
        self.parts = nn.ModuleList([Net()])

    def training_step(this):
        return this.decoder(this.encoder(X)), this.parts[0](X)


def roots(run):
    with modtrace.trace() as trace:
        run()
    calls = trace.calls
    return calls.loc[calls["name"] == "", "root"].astype(str).tolist(), trace


def of_parameter(model):
    return model(X)


def a_local():
    net = Net()
    net(X)


def closure():
    net = Net()

    def inside():
        return net(X)

    inside()


def a_list():
    nets = [Net(), Net(5)]
    for each in nets:
        each(X)


def a_dict():
    nets = {"one": Net(), "two": Net(5)}
    for name, each in nets.items():
        assert name
        each(X)


def comprehension():
    nets = [Net(), Net(5)]
    return [each(X) for each in nets]


def passed_on():
    net, other = Net(), Net()
    of_parameter(net)
    of_parameter(other)


def a_lambda():
    net = Net()
    run = lambda: net(X)  # noqa: E731
    run()


def a_partial():
    run = functools.partial(Net())
    run(X)


def two_names():
    net = same = Net()
    same(X)
    net(X)


def deleted():
    net = Net()
    nets = [net]
    del net
    nets.pop()(X)


def nameless():
    Net()(X)
    Net(5)(X)


def a_parameter_alone():
    of_parameter(Net())
    of_parameter(Net(5))


def hostile():
    odd, table = Loud(), [Loud()]
    net = Raises()
    net(X)
    del odd, table
    assert Loud.said == []


def compiled():
    net = torch.compile(Net(), backend="eager")
    net(X)


def hidden_behind_a_loud_self(self):
    return self, Net()(X)


EXPECTED = {
    a_local: ["net"],
    closure: ["net"],
    a_list: ["nets[0]", "nets[1]"],
    a_dict: ["nets['one']", "nets['two']"],
    comprehension: ["nets[0]", "nets[1]"],
    passed_on: ["net", "other"],
    a_lambda: ["net"],
    a_partial: ["run"],
    two_names: ["net", "net"],
    deleted: ["Net"],
    nameless: ["Net", "Net#2"],
    a_parameter_alone: ["model", "model#2"],
    hostile: ["net"],
    compiled: ["net"],
}


@pytest.mark.parametrize("run", EXPECTED, ids=lambda run: run.__name__)
def test_names(run):
    assert roots(run)[0] == EXPECTED[run]


def test_names_of_attributes():
    plain, lit = Plain(), Lit()

    def run():
        plain.run()
        plain.of_table()
        plain.of_class()
        Slots().run()
        lit.training_step()

    names = ["Plain.net", "Plain.table['a']", "Plain.shared", "Slots.net", "Lit.encoder", "Lit.decoder"]
    assert roots(run)[0] == [*names, "Lit.parts.0"]


def test_a_part_of_a_model_that_is_called_too():
    """A module of a tree that is known already has its place there as its name."""

    def run():
        lit = nn.Sequential(Net(), nn.ReLU())
        lit(X)
        lit[0](X)

    assert roots(run)[0] == ["lit", "lit.0"]


def test_a_hostile_self_costs_the_name_only():
    Loud.said.clear()
    names, _ = roots(lambda: hidden_behind_a_loud_self(Loud()))
    assert names == ["Net"]
    assert Loud.said == []


def test_nothing_of_a_frame_is_kept():
    """With the garbage collector off: variables die as they do without a trace, in the middle of a function too."""

    class Big:
        pass

    def run():
        net, big = Net(), Big()
        reference = weakref.ref(big)
        net(X)
        del big
        assert reference() is None
        gone = weakref.ref(net)
        del net
        return gone

    gc.disable()
    try:
        with modtrace.trace():
            gone = run()
            assert gone() is None
    finally:
        gc.enable()


def test_locals_of_the_program_stay_its_own():
    """A dictionary from `locals()` that the program keeps is not emptied, and shows what it did before."""

    def run():
        net, number = Net(), 1
        kept = locals()
        net(X)
        return kept, number

    with modtrace.trace():
        kept, _ = run()
    assert kept["number"] == 1
    assert type(kept["net"]) is Net


@pytest.fixture(scope="module")
def gan():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    D = nn.Sequential(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(G.parameters(), 0.1)
    with modtrace.trace() as trace:
        for _ in range(3):
            D(G(X)).sum().backward()
            optimizer.step()
    return trace, G, D


def test_two_models_in_every_view(gan, tmp_path):
    trace, _, _ = gan
    assert set(trace.calls["root"].dropna()) == {"G", "D"}
    assert trace.modules["root"].tolist() == ["G"] * 4 + ["D"] * 2
    assert "G Sequential  40 parameters (+1 more)" in trace.summary()
    tree = [line.split()[:2] for line in trace.tree().splitlines()]
    assert ["G", "Sequential"] in tree
    assert ["D", "Sequential"] in tree
    assert ["0", "Linear"] in tree  # the only numbered child of D
    assert "D.0  Linear" in trace.summary(width=120)
    trace.to_csv(tmp_path / "calls.csv")
    assert ",G," in (tmp_path / "calls.csv").read_text()
    for write, name in ((trace.to_chrome, "chrome.json"), (trace.to_speedscope, "speedscope.json")):
        write(tmp_path / name)
        assert "D.0 Linear" in (tmp_path / name).read_text()
    trace.to_html(tmp_path / "page.html")


def test_series_of_two_models(gan):
    trace, G, D = gan
    with pytest.raises(UsageError, match=r"several roots.*G\.0, D\.0"):
        trace.series("0")
    expected = trace.calls[trace.calls["kind"] == "module"].groupby("module_id").size()
    for module, name in ((G[0], "G.0"), (D[0], "D.0"), (G, "G"), (D, "D"), (G[2], "2")):
        number = trace.module_id_of(module)
        by_name, by_number, by_module = trace.series(name), trace.series(number), trace.series(module)
        assert by_name["calls"].sum() == expected[number]
        assert by_name.equals(by_number)
        assert by_name.equals(by_module)
    with pytest.raises(UsageError, match=r"no module or phase named 'E\.0' ran; did you mean G\.0 or D\.0"):
        trace.series("E.0")
    with pytest.raises(UsageError, match="not seen"):
        trace.series(nn.Linear(1, 1))


class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.inner = Net()

    def forward(self, x):
        for layer in self.layers:
            x = nn.ReLU()(layer(x))
        return nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1))(nn.ReLU()(x))


def test_modules_made_in_forward_are_named_in_their_root():
    net = MadeInForward()
    with modtrace.trace() as trace:
        for _ in range(3):
            net(X)
    made = trace.modules[trace.modules["name"].str.contains("(", regex=False)]
    assert made["name"].tolist() == ["(ReLU)", "(ReLU)#2", "(Sequential)", "(Sequential).0", "(Sequential).1"]
    assert set(made["root"]) == {"net"}
    assert len(trace.series("(Sequential).0")) == 3
    assert set(trace.calls["root"]) == {"net"}


def test_names_in_a_script(tmp_path):
    script = tmp_path / "gan.py"
    script.write_text(
        "import torch\nfrom torch import nn\nG, D = nn.Linear(4, 4), nn.Linear(4, 1)\n"
        "for _ in range(2):\n    D(G(torch.ones(1, 4)))\n"
    )
    command = [sys.executable, "-m", "modtrace", "run", "-o", str(tmp_path / "t.mtrace"), str(script)]
    subprocess.run(command, check=True, capture_output=True)
    assert set(modtrace.load(tmp_path / "t.mtrace").calls["root"].dropna()) == {"G", "D"}
