"""Watched are the steps of the final numbering, whatever a program's loop looks like.

The oracle is the same program watched from its start to its end: what is said of a step must not depend on the window.
"""

from __future__ import annotations

import gc
import random

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.memory import memory
from modtrace.capture.mechanisms.step_numbers import StepNumbers
from modtrace.trace.optimizer_turns import turns
from modtrace.trace.schema import CATEGORIES
from modtrace.views import console

FLOAT = 4
STEPS = 6


class Block(nn.Module):
    def __init__(self, *, checkpointed=False):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.checkpointed = checkpointed

    def inner(self, x):
        return self.b(self.a(x).relu())

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x)


def model_of(**how):
    torch.manual_seed(0)
    return nn.Sequential(Block(**how), Block(**how))


def batch():
    return torch.ones(4, 16)


def plain(**how):
    model = model_of(**how)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(batch()).sum().backward()
        optimizer.step()
    return model, optimizer


def accumulation():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(4):
            model(batch()).sum().backward()
        optimizer.step()
    return model, optimizer


def validation_first():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.no_grad():
        for _ in range(5):
            model.eval()(batch())
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(batch()).sum().backward()
        optimizer.step()
    return model, optimizer


def long_validation_first():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.no_grad():
        for _ in range(80):
            model.eval()(batch())
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(batch()).sum().backward()
        optimizer.step()
    return model, optimizer


def gan(critic=1):
    generator, critic_model = model_of(), model_of()
    first = torch.optim.Adam(critic_model.parameters())
    second = torch.optim.Adam(generator.parameters())
    for _ in range(STEPS):
        for _ in range(critic):
            first.zero_grad()
            critic_model(generator(batch()).detach()).sum().backward()
            first.step()
        second.zero_grad()
        critic_model(generator(batch())).sum().backward()
        second.step()
    return generator, critic_model, first, second


def many_critics():
    return gan(critic=3)


def two_at_once():
    model = model_of()
    optimizers = [torch.optim.SGD(block.parameters(), 0.1) for block in model]
    for _ in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(batch()).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    return model, optimizers


def one_after_another():
    model = model_of()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for _ in range(2)]
    for optimizer in optimizers:
        for _ in range(STEPS // 2):
            optimizer.zero_grad()
            model(batch()).sum().backward()
            optimizer.step()
    return model, optimizers


def teacher():
    model, other = model_of(), model_of().eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = other(batch())
        (model(batch()) - wanted).square().sum().backward()
        optimizer.step()
    return model, other, optimizer


def scaler():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaled = torch.amp.GradScaler("cpu")
    for _ in range(STEPS):
        optimizer.zero_grad()
        scaled.scale(model(batch()).sum()).backward()
        scaled.step(optimizer)
        scaled.update()
    return model, optimizer


def in_backward():
    model = model_of()
    optimizers = {p: torch.optim.SGD([p], 0.1) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for _ in range(STEPS):
        model(batch()).sum().backward()
    return model, optimizers


def by_hand():
    model = model_of()
    for _ in range(STEPS):
        model(batch()).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    return model


def inference():
    model = model_of()
    with torch.no_grad():
        for _ in range(STEPS):
            model(batch())
    return model


def marks():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(batch()).sum().backward()
        optimizer.step()
        modtrace.step()
    return model, optimizer


def lbfgs():
    model = model_of()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = model(batch()).square().sum()
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return model, optimizer


def in_spans():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.span("epoch"):
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(batch()).sum().backward()
            optimizer.step()
    return model, optimizer


def checkpointed():
    return plain(checkpointed=True)


PROGRAMS = [
    plain, accumulation, validation_first, gan, many_critics, two_at_once, one_after_another, teacher, scaler,
    in_backward, by_hand, inference, marks, lbfgs, in_spans, checkpointed,
]  # fmt: skip


def watched(program, steps):
    gc.collect()
    with modtrace.trace(memory=steps, kernels=steps, saved=steps) as t:
        kept = program()
    assert all("FLOPs were not counted" in gap for gap in t._tracer.gaps)  # a run that is watched whole
    del kept
    return t


def by_step(t):
    kernels = t.kernels[t.kernels["kind"] == "operator"]
    counts = kernels.groupby(["step", "operator"], observed=True)["count"].sum()
    return {
        step: {name: int(n) for (at, name), n in counts.items() if at == step}
        for step in set(kernels["step"].dropna())
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_is_watched_of_a_step_does_not_depend_on_the_window(program):
    whole = watched(program, "0:99")
    count = len(whole.steps)
    peaks, operators = whole.steps["memory_peak_bytes"].tolist(), by_step(whole)
    for first, last in ((0, 2), (2, 4)):
        t = watched(program, f"{first}:{last}")
        assert len(t.steps) == count
        meant = set(range(first, last))
        known = t.steps.index[t.steps["memory_peak_bytes"].notna()]
        assert set(known) == meant, (first, last)
        # A GradScaler's scale and its count of steps are held by nobody who is known.
        unknown = 2 * FLOAT if program is scaler else 0
        for step in known:
            assert 0 <= peaks[step] - t.steps["memory_peak_bytes"][step] <= unknown
        assert by_step(t) == {step: operators[step] for step in meant if step in operators}
        series = t.series()
        assert set(series["step"].dropna()) <= meant
        backward = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "backward")]
        assert set(backward[backward["saved_bytes"].notna()]["step"].dropna()) <= meant
        text = f"steps {first} to {last - 1}"
        assert f"memory    watched whole: {text}" in t.summary()
        assert f"kernels   watched whole: {text}" in console.kernels_text(t._read())
        assert f"memory    watched whole: {text}" in console.memory_text(t._read())


def test_what_could_not_be_watched_is_told_of():
    """A validation of so many batches is not watched to its end, so the first step begins without being seen."""
    t = watched(long_validation_first, "0:2")
    assert t.steps["memory_peak_bytes"].notna().tolist()[:3] == [False, True, False]
    assert "memory    watched whole: step 1\n" in t.summary()
    short = watched(inference, f"{STEPS - 1}:{STEPS + 3}")
    assert f"watched whole: step {STEPS - 1}\n" in short.summary()
    none = watched(inference, "50:52")
    assert "watched whole: none of steps 50 to 51" in none.summary()
    assert not len(none.kernels)
    assert none.steps["memory_peak_bytes"].isna().all()


def test_marks_that_hold_several_steps_of_an_optimizer():
    def program():
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(STEPS):
            for _ in range(2):
                optimizer.zero_grad()
                model(batch()).sum().backward()
                optimizer.step()
            modtrace.step()
        return model, optimizer

    t = watched(program, "1:3")
    assert t.steps["memory_peak_bytes"].notna().tolist() == [False, True, True, *[False] * (STEPS - 3)]


# memory by hand ---------------------------------------------------------------------------------------------------


SIZES = [64 * 64, 64, 64 * 64, 64]
PARAMETERS = sum(SIZES) * FLOAT
STATE = {
    "sgd": 0,
    "momentum": PARAMETERS,
    "adam": 2 * PARAMETERS + len(SIZES) * FLOAT,
    "foreach": 2 * PARAMETERS + len(SIZES) * FLOAT,
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, foreach=False),
    "foreach": lambda p: torch.optim.Adam(p, foreach=True),
}


@pytest.mark.parametrize("window", ["0:3", "1:3", "2:4"])
@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_categories_at_the_end_of_a_step(kind, to_none, micro, window):
    torch.manual_seed(0)
    with modtrace.trace(memory=window) as t:
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        model.register_buffer("mean", torch.zeros(100))
        optimizer = OPTIMIZERS[kind](model.parameters())
        for _ in range(5):
            optimizer.zero_grad(set_to_none=to_none)
            for _ in range(micro):
                model(torch.ones(8, 64)).sum().backward()
            optimizer.step()
    assert not t._tracer.gaps
    (held,) = memory(t._read())
    first, last = (int(text) for text in window.split(":"))
    for step in range(first, last):
        row = t.steps.loc[step]
        end = row["start_ns"] + row["duration_ns"] - 1
        by = {
            name: int(held.size_bytes[held.alive(end) & (held.category == code)].sum())
            for code, name in enumerate(CATEGORIES)
        }
        assert by.pop("temporary") <= 64
        assert by == {
            "parameter": PARAMETERS,
            "buffer": 100 * FLOAT,
            "gradient": PARAMETERS,
            "optimizer_state": STATE[kind],
            "activation": 0,
        }, step
        assert row["memory_peak_bytes"] >= sum(by.values())


@pytest.mark.parametrize("window", ["0:2", "1:3"])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_made_before_recording_holds_its_parameters(training, window):
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace(memory=window) as t:
        for _ in range(4):
            if training:
                optimizer.zero_grad()
                model(torch.ones(8, 64)).sum().backward()
                optimizer.step()
            else:
                with torch.no_grad():
                    model(torch.ones(8, 64))
    end = t.series().iloc[-1]
    assert end["parameter_bytes"] == PARAMETERS + 2 * 64 * FLOAT
    assert end["buffer_bytes"] == 2 * 64 * FLOAT + 8  # running mean and variance, and a count of batches
    assert end["gradient_bytes"] == (PARAMETERS + 2 * 64 * FLOAT if training else 0)


def test_gradients_that_the_program_drops_itself():
    def program():
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(4):
            for parameter in model.parameters():
                parameter.grad = None
            model(batch()).sum().backward()
            optimizer.step()
        return model

    peaks = [watched(program, steps).steps["memory_peak_bytes"].tolist() for steps in ("0:4", "1:3", "2:4")]
    assert peaks[1][1:3] == peaks[0][1:3]
    assert peaks[2][2:4] == peaks[0][2:4]


# the numbers ------------------------------------------------------------------------------------------------------


class Any:
    """An optimizer, as far as its number is concerned."""


@pytest.mark.parametrize("seed", range(40))
def test_the_number_of_a_step_is_among_those_thought_possible(seed):
    """Of random loops of several optimizers, against what the whole sequence is divided into afterwards."""
    draw = random.Random(seed)
    optimizers = [Any() for _ in range(draw.randrange(1, 4))]
    loop = [(at, draw.random() < 0.7) for at in range(len(optimizers)) for _ in range(draw.randrange(1, 3))]
    makers, passes, backwards, seen = [], [], 0, []
    numbers = StepNumbers(0, 1 << 30)
    numbers._living = {-1, -2}
    for _ in range(12):
        for at, runs_backward in loop:
            if runs_backward:
                backwards += 1
                numbers.backward_begins()
            numbers.optimizer_ended(optimizers[at], at + 1)
            makers.append(at + 1)
            passes.append(backwards)
            seen.append(numbers.possible)
    last = turns(makers, passes).last
    for at, possible in enumerate(seen[: -len(loop)]):
        ended = sum(end <= at for end in last)
        assert ended in possible, (at, possible, loop)
        assert max(possible) - min(possible) <= 3
