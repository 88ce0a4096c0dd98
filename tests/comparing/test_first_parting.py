"""Where the values of two runs part: planted in one module and step, and found there."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.comparing.first_parting import TensorFacts as Facts
from modtrace.analysis.comparing.first_parting import alike, numerics, same_bits
from modtrace.cli import main
from modtrace.errors import UsageError
from modtrace.export.difference_json import numerics_json

LAYERS = 4


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc, self.act, self.out = (
            nn.LayerNorm(8),
            nn.Linear(8, 16),
            nn.GELU(),
            nn.Linear(16, 8),
        )

    def forward(self, x):
        return x + self.out(self.act(self.fc(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


LEAVES = [
    "embed",
    *(f"layers.{n}.{name}" for n in range(LAYERS) for name in ("norm", "fc", "act", "out")),
    "head",
]
CHANGES = {
    "scaled": lambda y: y * 1.5,
    "shifted": lambda y: y + 0.5,
    "flipped": lambda y: -y,
    "tiny": lambda y: y * (1 + 1e-6),
    "nan": lambda y: torch.where(torch.arange(y.numel()).reshape(y.shape) == 3, torch.nan, y),
    "zeroed": lambda y: torch.where(
        torch.arange(y.numel()).reshape(y.shape) == y.argmax(), torch.zeros(()), y
    ),
}


def run(
    plant="", change=None, step=0, *, steps=3, wrap=lambda model: model, prepare=lambda model: None, **options
):
    torch.manual_seed(0)
    model = Net()
    prepare(model)
    at = [0]
    if plant:
        layer = model.get_submodule(plant)
        forward = layer.forward
        layer.forward = lambda x: CHANGES[change](forward(x)) if at[0] == step else forward(x)
    model = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(**{"values": f"0:{steps}", "values_with": "hash", **options}) as t:
        for number in range(steps):
            at[0] = number
            torch.manual_seed(number)
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().mean().backward()
            optimizer.step()
    return t._read()


@pytest.fixture(scope="module")
def base():
    return run()


def planted_cases():
    drawn = random.Random(0)
    return [
        (drawn.choice(LEAVES), change, drawn.randrange(3)) for change in sorted(CHANGES) for _ in range(6)
    ]


@pytest.mark.parametrize(("plant", "change", "step"), planted_cases())
def test_what_is_planted_is_named(base, plant, change, step):
    found = numerics(base, run(plant, change, step))
    assert (found.exact.name, found.exact.step, found.exact.kind) == (plant, step, "output")
    if change == "tiny":
        assert found.beyond is None
    else:
        assert (found.beyond.name, found.beyond.step) == (plant, step)
    assert found.alone == (0, 0)


def test_the_same_run_is_the_same(base):
    found = numerics(base, run())
    assert (found.exact, found.beyond, found.parted, found.hashed) == (None, None, 0, True)
    assert found.compared == len(base.table("values")) > 100
    assert found.steps == (0, 1, 2)


def test_without_hashes_ranges_are_compared(base):
    found = numerics(base, run("layers.1.fc", "scaled", 1, values_with=None))
    assert (found.exact.name, found.exact.step, found.hashed) == ("layers.1.fc", 1, False)


def test_another_weight_is_seen_in_the_first_call_that_has_it(base):
    def change(model):
        with torch.no_grad():
            model.layers[2].fc.weight[3, 3] += 1.0

    found = numerics(base, run(prepare=change))
    assert (found.exact.name, found.exact.kind, found.exact.step) == ("layers.2.fc", "output", 0)


def test_a_forward_that_does_something_else_between_its_children(base, monkeypatch):
    monkeypatch.setattr(Layer, "forward", lambda self, x: x - self.out(self.act(self.fc(self.norm(x)))))
    found = numerics(base, run())
    assert (found.exact.name, found.exact.type) == ("layers.0", "Layer")


def test_wrapped_and_renamed(base):
    found = numerics(base, run("layers.2.out", "scaled", 1, wrap=nn.DataParallel))
    assert (found.exact.name, found.exact.step) == ("layers.2.out", 1)
    found = numerics(base, run(wrap=nn.DataParallel))
    assert found.exact is None
    assert found.compared > 100


def test_what_only_one_side_calls_is_passed_over(base):
    def longer(model):
        model.layers.append(Layer())
        with torch.no_grad():
            for parameter in model.layers[-1].parameters():
                parameter.zero_()

    found = numerics(base, run(prepare=longer, steps=1))
    assert found.alone[1] > 0
    assert found.compared > 60
    assert found.exact is None  # the new layer adds nothing, forward and backward


def test_in_lower_precision_rounding_is_no_parting(base):
    lower = run(wrap=lambda model: model.to(torch.bfloat16), prepare=patched_input)
    found = numerics(base, lower)
    assert found.exact is not None
    assert found.beyond is None, found.beyond
    assert found.tolerance_type == "bfloat16"

    def both(model):
        patched_input(model)
        model.layers[2].act = nn.ReLU()

    found = numerics(base, run(wrap=lambda model: model.to(torch.bfloat16), prepare=both))
    assert found.beyond.name == "layers.2.act"


def patched_input(model):
    model.embed.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.dtype),))


def test_steps_that_both_have(base):
    found = numerics(base, run(steps=2))
    assert found.steps == (0, 1)
    other = run(values="2:3")
    assert numerics(base, other).steps == (2,)
    with pytest.raises(UsageError, match="no step has values in both"):
        numerics(run(values="0:1"), other)
    with pytest.raises(UsageError, match="has no values: record both with"):
        numerics(base, run(values=None, values_with=None))


def facts(low=0.0, high=1.0, norm=None, content=None, dtype="float32", elements=4):
    return Facts(dtype, elements, low, high, norm, content)


@pytest.mark.parametrize(
    ("one", "other", "same", "near"),
    [
        (facts(), facts(), True, True), (facts(high=1.05), facts(), False, True),
        (facts(high=1.2), facts(), False, False), (facts(high=float("inf")), facts(), False, False),
        (facts(content=1), facts(content=2), False, True), (facts(content=1), facts(high=2.0), False, False),
        (facts(float("nan"), float("nan")), facts(float("nan"), float("nan")), True, True),
        (facts(float("nan"), float("nan")), facts(), False, False), (facts(elements=5), facts(), False, False),
        (facts(high=float("inf")), facts(high=float("inf")), True, True),
        (facts(norm=1.0), facts(norm=2.0), False, False), (facts(norm=1.0), facts(), True, True),
        (facts(dtype="bfloat16"), facts(), False, True), (facts(0.0, 0.0), facts(0.0, 0.0), True, True),
    ],
)  # fmt: skip
def test_when_two_tensors_are_alike(one, other, same, near):
    assert same_bits(one, other) == same_bits(other, one) == same
    assert alike(one, other, 0.1) == alike(other, one, 0.1) == near


def test_as_a_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, options in (("a", {}), ("b", {}), ("c", {"plant": "layers.1.fc", "change": "scaled", "step": 1}),
                          ("d", {"plant": "head", "change": "tiny"})):  # fmt: skip
        recorded = run(**options)
        modtrace.api.Trace(recorded).save(f"{name}.mtrace")

    def told(*words):
        main(["diff", *words])
        return capsys.readouterr().out

    assert "  the same bit for bit\n" in told("a.mtrace", "b.mtrace", "--numerics")
    text = told("a.mtrace", "c.mtrace", "--numerics")
    assert "  the same bit for bit until layers.1.fc  Linear, output, step 1\n" in text
    assert " against float32 [" in text
    text = told("a.mtrace", "d.mtrace", "--numerics")
    assert "the same bit for bit until head  Linear, output, step 0" in text
    assert "within 0.01% of the largest value (float32) all the same" in text
    data = json.loads(told("a.mtrace", "c.mtrace", "--numerics", "--json"))
    assert (data["format"], data["exact"]["name"], data["exact"]["step"]) == (
        "modtrace-numerics",
        "layers.1.fc",
        1,
    )
    for words, message in (
        (["a.mtrace", "b.mtrace", "--against", "c.mtrace"], "one trace a side"),
        (["a.mtrace", "b.mtrace", "--fail-on", "step:+5%"], "has no limits"),
        (["a.mtrace", "b.mtrace", "--markdown"], "--numerics"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["diff", "--numerics", *words])
        assert left.value.code == 2
        assert message in capsys.readouterr().err


def test_nan_is_a_text_in_json(base):
    data = json.loads(numerics_json(numerics(base, run("layers.0.act", "nan", 0))))
    assert data["beyond"]["candidate"]["maximum"] == "nan"
