"""Short-lived modules that cannot be told apart share a row; others, and those that live at the same time, never."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import modtrace

LOOP = """
import gc, sys
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
    def forward(self, x):
        return self.second(nn.ReLU()(self.first(x)))
def held():
    gc.collect()
    return len(gc.get_objects()), sys.getallocatedblocks()
def models(count):
    for _ in range(count):
        Net()(torch.ones(1, 4))
import modtrace
with torch.no_grad(), modtrace.trace() as trace:  # what autograd makes is noted for a backward, up to a limit
    models(1_000)
    trace._tracer.flush()
    before = held()
    models(4_000)
    trace._tracer.flush()
    after = held()
print(*(now - then for then, now in zip(before, after)))
"""


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(4, width)

    def forward(self, x):
        return self.layer(x)


def call(model):
    return model(torch.ones(2, 4))


def recorded(run):
    with modtrace.trace() as trace:
        run()
    return trace


def test_models_made_in_a_loop_share_a_row():
    def run():
        for _ in range(50):
            call(Net())

    trace = recorded(run)
    assert trace.modules["name"].tolist() == ["", "layer"]
    assert trace.modules["instances"].tolist() == [50, 50]
    assert trace.modules["calls"].tolist() == [50, 50]
    assert trace.calls["module_id"].tolist() == [0, 1] * 50
    assert trace.calls["name"].tolist() == ["", "layer"] * 50


def test_models_that_live_at_the_same_time_have_a_row_each():
    models = [Net() for _ in range(20)]
    trace = recorded(lambda: [call(model) for model in models])
    assert trace.modules["instances"].tolist() == [1] * 40
    assert trace.calls["module_id"].tolist() == list(range(40))
    assert [trace.module_id_of(model) for model in models] == list(range(0, 40, 2))


def test_a_window_of_models_is_never_mixed_up():
    """Of two models that live at a time the oldest is dropped and a new one made."""
    living: list[nn.Module] = []
    seen = []
    with modtrace.trace() as trace:
        for _ in range(30):
            living = [*living[-1:], Net()]
            for model in living:
                call(model)
            numbers = [trace.module_id_of(model) for model in living]
            assert len(set(numbers)) == len(numbers)
            seen += numbers
    roots = trace.calls.loc[trace.calls["name"] == "", "module_id"].tolist()
    assert roots == seen
    assert trace.modules["instances"].sum() == 60
    assert len(trace.modules) == 6


DIFFERENT = {
    "width": lambda n: Net(4 + n % 2),
    "mode": lambda n: Net().train(n % 2 == 0),
    "dtype": lambda n: nn.ParameterList([torch.ones(1, dtype=torch.float64 if n % 2 else torch.float32)]),
    "trainable": lambda n: Net().requires_grad_(n % 2 == 0),
    "parts": lambda n: nn.Sequential(nn.Linear(4, 4), nn.ReLU() if n % 2 else nn.Tanh()),
    "repr": lambda n: nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=n % 2)),
    "tied": lambda n: tied(n % 2 == 0),
    "class": lambda n: type("A" if n % 2 else "B", (Net,), {})(),
    "buffer": lambda n: with_buffer(n % 2),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_has_rows_of_its_own(name):
    make = DIFFERENT[name]

    def run():
        for n in range(10):
            model = make(n)
            if isinstance(model, nn.ParameterList):
                model = Holds(model)
            call(model)
            del model

    trace = recorded(run)
    roots = trace.modules[trace.modules["name"] == ""]
    assert roots["instances"].tolist() == [5, 5]
    sizes = [sum(p.numel() for p in make(n).parameters()) for n in (0, 1)]
    assert roots["parameter_count"].tolist() == sizes


class Holds(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x


def with_buffer(size):
    model = Net()
    model.register_buffer("state", torch.zeros(size + 1))
    return model


def tied(yes):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    if yes:
        model[1].weight = model[0].weight
    return model


def test_a_model_that_lived_long_keeps_its_row():
    """As the models of a cross-validation: each is trained for a while."""

    def run():
        for _ in range(3):
            model = Net()
            for _ in range(20):
                call(model)

    trace = recorded(run)
    assert trace.modules["instances"].tolist() == [1] * 6
    assert trace.modules.loc[trace.modules["name"] == "", "calls"].tolist() == [20, 20, 20]


def test_two_places_have_two_rows():
    def run():
        for _ in range(5):
            Net()(torch.ones(2, 4))
            Net()(torch.ones(2, 4))

    trace = recorded(run)
    assert trace.modules["instances"].tolist() == [5] * 4


def test_a_part_that_lives_on_keeps_its_own_number():
    backbone = nn.Linear(4, 4)

    def run():
        for _ in range(6):
            call(nn.Sequential(backbone, nn.ReLU()))

    trace = recorded(run)
    assert trace.modules["instances"].tolist() == [1, 1, 1, 5, 5]
    number = trace.module_id_of(backbone)
    assert (trace.calls["module_id"] == number).sum() == 6
    assert set(trace.calls.loc[trace.calls["module_id"] == number, "name"]) == {"0"}
    assert trace.modules.at[number, "instances"] == 1


class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = nn.ReLU()(layer(x))
        x = nn.ReLU()(x)
        return nn.Sequential(nn.Linear(4, 2), nn.Softmax(-1))(x)


def test_modules_made_in_forward_have_a_row_a_class_and_place():
    model = MadeInForward()

    def run():
        for _ in range(7):
            call(model).sum().backward()

    trace = recorded(run)
    modules = trace.modules
    made = modules[~modules.index.isin([trace.module_id_of(module) for module in model.modules()])]
    assert made["type"].tolist() == ["ReLU", "ReLU", "Sequential", "Linear", "Softmax"]
    assert made["calls"].tolist() == [14, 7, 7, 7, 7]
    assert made["instances"].tolist() == [14, 7, 7, 7, 7]


class Replaces(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        self.act = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        return self.act(self.layer(x))


def test_a_child_replaced_in_each_forward_has_one_row():
    model = Replaces()
    trace = recorded(lambda: [call(model) for _ in range(9)])
    acts = trace.modules[trace.modules["name"].str.startswith("act")]
    assert acts["calls"].tolist() == [0, 9, 9, 9]
    assert "act.0" in trace.calls["name"].tolist()


def test_what_models_in_a_loop_leave_is_bounded():
    """Nothing that python counts grows with the models: no objects and no memory blocks to speak of."""
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    objects, blocks = map(int, done.stdout.split()[-2:])
    assert objects < 500
    assert blocks < 4_000


def test_different_models_in_a_loop_are_bounded_too():
    """Of models that do differ only the rows on disk grow."""
    with modtrace.trace() as trace:
        for width in range(3_000):
            call(nn.Linear(4, 1 + width))
        registry = trace._tracer._context.registry
        trace._tracer.flush()
        sizes = {
            name: len(value)
            for name, value in vars(registry).items()
            if isinstance(value, dict) and name != "_classes"
        }
    assert max(sizes.values()) < 50, sizes
    assert len(trace.modules) == 3_000
