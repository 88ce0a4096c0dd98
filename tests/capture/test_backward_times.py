"""The time of each module's backward beside what torch's profiler measured of autograd's nodes in the same run."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

import modtrace

STEPS = 7
NODE = "autograd::engine::evaluate_function: "
MILLISECOND = 1_000_000
RETURN_NS = 100_000
"""What the engine may take to come back from the last node on a machine that is busy."""


def model_of_many_kinds():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(256, 1024),
        nn.GELU(),
        nn.Linear(1024, 1024),
        nn.LayerNorm(1024),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, (16, 8, 8)),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Flatten(),
        nn.Linear(1024, 64),
    )


def profiled_ns(profile, names):
    """name -> nanoseconds of its nodes in each step, by the numbers that the profiler gives to forward operations.

    A node that accumulates a gradient belongs to the node that ran before it.
    """
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    ranges = {name: [e.time_range for e in events if e.name == f"module {name}"] for name in names}
    owner = {}
    for event in events:
        if event.sequence_nr >= 0 and not event.name.startswith(NODE):
            for name, spans in ranges.items():
                if any(span.start <= event.time_range.start <= span.end for span in spans):
                    owner.setdefault(event.sequence_nr, name)
    backward = [e.time_range for e in events if e.name == "whole backward"]
    found = {name: [0.0] * len(backward) for name in names}
    last = None
    for event in events:
        if not event.name.startswith(NODE):
            continue
        if "AccumulateGrad" not in event.name:
            last = owner.get(event.sequence_nr)
        step = next(
            at for at, span in enumerate(backward) if span.start <= event.time_range.start <= span.end
        )
        if last is not None:
            found[last][step] += event.time_range.elapsed_us() * 1000
    return found


def test_within_five_percent_of_the_profiler():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = model_of_many_kinds()
        ranges = {}
        for name, module in model.named_children():
            module.register_forward_pre_hook(
                lambda _module, _args, name=name: ranges.__setitem__(
                    name, torch.profiler.record_function(f"module {name}").__enter__()
                )
            )
            module.register_forward_hook(lambda *_, name=name: ranges.pop(name).__exit__(None, None, None))
        x = torch.randn(256, 256)
        model(x).sum().backward()
        with modtrace.trace() as trace, torch.profiler.profile() as profile:
            for _ in range(STEPS):
                loss = model(x).square().sum()
                with torch.profiler.record_function("whole backward"):
                    loss.backward()
    finally:
        torch.set_num_threads(threads)
    names = [name for name, _ in model.named_children()]
    expected = profiled_ns(profile, names)
    judged = []
    for name in names:
        ours = trace.series(name)["backward_ns"].tolist()
        assert len(ours) == STEPS
        ratios = [a / b for a, b in zip(ours, expected[name], strict=True) if b > MILLISECOND]
        if len(ratios) == STEPS:
            if max(ratios) - min(ratios) > 0.15:
                pytest.skip(f"this machine is too noisy to tell: {min(ratios):.2f} to {max(ratios):.2f}")
            judged.append(name)
            allowed = 0.05 + RETURN_NS / statistics.median(expected[name])
            assert statistics.median(ratios) == pytest.approx(1, abs=allowed), name
    if len(judged) < 3:
        pytest.skip("too few modules take a millisecond here")
