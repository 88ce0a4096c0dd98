"""Remarks about values that drift: planted ones are told of, trainings that learn are not, whatever their schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import modtrace
from modtrace.analysis.findings.value_rules import kendall, mann_kendall, steady_change

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.5, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1),
}
SCHEDULES = {
    "constant": lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    "warm-up": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20)
    ),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40),
    "steps": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1),
}
RULE = torch.randn(16, 3, generator=torch.Generator().manual_seed(9))


def batch(step, targets="classes"):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(64, 16, generator=generator)
    if targets == "noise":
        return x, torch.randint(3, (64,), generator=generator)
    return x, (x @ RULE).argmax(1) if targets == "classes" else x @ RULE[:, :1] * 1e4 + 1e5


def perceptron(outputs=3):
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))


class FromZero(nn.Module):
    """A residual branch and a head that begin at 0: their gradients grow a hundredfold."""

    def __init__(self):
        super().__init__()
        self.inner, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(4, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.inner(x)
        return self.head(self.norm(x + self.up(self.down(x))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.cells(x.view(-1, 4, 4))[0][:, -1])


MODELS = {"perceptron": perceptron, "from zero": FromZero, "recurrent": Recurrent}


class Growing(nn.Module):
    """Multiplies by a factor once more in each call."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x):
        self.calls += 1
        return x * self.factor**self.calls


def drifts(model, steps, optimizer="adam", schedule="constant", targets="classes", rate=None):
    torch.manual_seed(0)
    criterion = functional.mse_loss if targets == "numbers" else functional.cross_entropy
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    for group in optimizer.param_groups if rate is not None else ():
        group["lr"] = rate
    scheduler = SCHEDULES[schedule](optimizer)
    with modtrace.trace(values=(0, steps), flops=False) as trace:
        for step in range(steps):
            optimizer.zero_grad()
            x, y = batch(step, targets)
            criterion(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    return [finding.text for finding in trace.findings.itertuples() if finding.rule == "values_drift"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_learns_is_not_spoken_of(name, schedule, optimizer):
    for steps in (8, 30):
        torch.manual_seed(steps)
        assert drifts(MODELS[name](), steps, optimizer, schedule) == []


@pytest.mark.parametrize("steps", [8, 12, 30])
@pytest.mark.parametrize("rate", [1e-2, 1e-1])
def test_numbers_far_from_0_are_learnt(steps, rate):
    torch.manual_seed(1)
    assert drifts(perceptron(1), steps, targets="numbers", rate=rate) == []


def test_what_settles_or_stays_is_not_spoken_of():
    torch.manual_seed(0)
    assert drifts(perceptron(), 30, targets="noise", rate=1e-3) == []


def test_values_drift():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), Growing(1.2), nn.LayerNorm(8), nn.Linear(8, 3))
    (text,) = drifts(model, 30, "sgd", targets="noise", rate=0.0)
    assert text.startswith("outputs grow step by step while the loss does not fall: 1 (Growing), up to ")
    times = float(text.removesuffix(" times larger").rpartition(" ")[2])
    assert 40 < times < 120  # 1.2 ** 22 is 55


def test_outputs_that_decay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), Growing(0.8), nn.Linear(8, 3))
    (text,) = drifts(model, 30, "sgd", targets="noise", rate=0.0)
    assert text.startswith("outputs shrink step by step while the loss does not fall: 1 (Growing), up to ")
    assert text.endswith("times smaller")


def test_a_training_that_diverges():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 1))
    text = drifts(model, 20, "sgd", targets="numbers", rate=1.05)
    assert any("outputs grow step by step while the loss rises" in one for one in text)
    assert not any("shrink" in one for one in text)


def test_fewer_steps_say_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), Growing(3.0), nn.LayerNorm(8), nn.Linear(8, 3))
    assert drifts(model, 7, "sgd", targets="noise", rate=0.0) == []


def test_inference_is_not_spoken_of():
    model = nn.Sequential(nn.Linear(16, 8), Growing(1.3))
    with modtrace.trace(values=(0, 30)) as trace, torch.no_grad():
        for step in range(30):
            model(batch(step)[0])
    assert "values_drift" not in set(trace.findings["rule"])


def test_trends():
    noise = np.random.default_rng(0)
    line, steps = np.arange(1.0, 41.0), np.arange(40)
    assert kendall(line) == 1.0
    assert kendall(line[::-1]) == -1.0
    assert kendall(np.ones(9)) == 0.0
    assert steady_change(1.1**steps) == pytest.approx(1.1**30)
    assert steady_change(1.1**-steps) == pytest.approx(1.1**-30)
    assert steady_change(1.1**steps * noise.uniform(0.8, 1.25, 40)) == pytest.approx(1.1**30, rel=0.3)
    assert steady_change(np.minimum(1.0 + steps, 9.0)) == 0  # it settles
    assert steady_change(np.ones(40)) == 0
    assert steady_change(np.where(steps < 20, 1.0, 50.0)) == 0  # a step
    assert steady_change(1.1 ** steps[:7]) == 0
    assert steady_change(steps * 1.0) == 0  # begins at 0
    z = [mann_kendall(noise.standard_normal(25)) for _ in range(2_000)]
    assert np.std(z) == pytest.approx(1.0, abs=0.08)  # what the test is made for
    assert np.mean(np.abs(z) > 3) < 0.006
