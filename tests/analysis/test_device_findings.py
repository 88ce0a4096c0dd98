"""Findings about devices: each with a trace that has it and with one that almost has it. `meta` stands for a device."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import device_rules as rules
from modtrace.analysis.findings import findings
from modtrace.analysis.findings.base import Facts
from modtrace.analysis.step_columns import step_columns
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.schema import KERNEL, MEMORY_COPY

MS = 1_000_000
STEPS = 8


def run(model, x, *, steps=STEPS, **options):
    with modtrace.trace(**options) as trace, torch.no_grad():
        for _ in range(steps):
            model(x)
    return trace


def facts_of(trace):
    steps = step_columns(trace._read(), 0)
    whole = steps.chosen(steps["whole"])
    return Facts(trace._read(), timeline(trace._read()).calls, steps, whole, whole.chosen(slice(1, None)))


def only(rule, facts):
    (one,) = rule(facts)
    assert one.rule == rule.__name__
    return one


@pytest.fixture(scope="module")
def plain():
    return facts_of(run(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(2, 4)))


def with_device(facts, busy_ms, idle_ms, data_ms=0.0):
    """All steps with these times of a device; None for one that is not known."""
    steady = facts.steady.changed(data_ns=int(data_ms * MS))
    for name, value in (("device_ns", busy_ms), ("device_idle_ns", idle_ms)):
        each = value if isinstance(value, list) else [value] * len(steady)
        steady = steady.changed(**{name: np.array([-1 if ms is None else int(ms * MS) for ms in each])})
    return dataclasses.replace(facts, steady=steady)


def test_device_idle(plain):
    assert not list(rules.device_idle(plain)), "nothing is known of a device"
    one = only(rules.device_idle, with_device(plain, 6, 4))
    assert one.text == ("the device idles at least 40.0% of a step (4.00 ms): the host does not keep it busy")
    assert "CUDA graphs" in one.remedy
    assert one.won_ns == 7 * 4 * MS
    waiting = only(rules.device_idle, with_device(plain, 6, 4, data_ms=3))
    assert "waiting for data takes 3.00 ms" in waiting.text
    assert "workers" in waiting.remedy
    assert "keep it busy" in only(rules.device_idle, with_device(plain, 6, 4, data_ms=1)).text


def test_device_idle_almost(plain):
    assert not list(rules.device_idle(with_device(plain, 7.2, 2.8)))
    assert not list(rules.device_idle(with_device(plain, 9, [1, 1, 1, 1, 90, 90, 90]))), "not in most steps"
    assert not list(rules.device_idle(with_device(plain, 0.006, 0.004))), "nothing worth the while"
    few = with_device(plain, 6, 4)
    assert not list(rules.device_idle(dataclasses.replace(few, steady=few.steady.chosen(slice(4)))))
    assert not list(rules.device_idle(with_device(plain, 6, [4, 4, 4, None, None, None, None])))


def test_idle_time_is_that_of_the_steps_for_which_it_is_known(plain):
    """Of two numbers of the middle the mean; what is not known counts neither as a step nor as a time."""
    unknown = [None, None, None]
    one = only(rules.device_idle, with_device(plain, 6, [4, 4, 6, 6, *unknown]))
    assert one.text.startswith("the device idles at least 45.0% of a step (5.00 ms)")
    assert one.won_ns == 20 * MS
    busy_unknown = only(rules.device_idle, with_device(plain, [6, 6, 6, 6, *unknown], [4, 4, 6, 6, 1, 1, 1]))
    assert (busy_unknown.text, busy_unknown.won_ns) == (one.text, one.won_ns)


class Moves(nn.Module):
    """Takes its input to the device inside forward."""

    def forward(self, x):
        return x.to("meta") * 2


def around(module):
    return nn.Sequential(nn.Identity(), module)


BIG = torch.ones(512, 512)
SMALL = torch.ones(511, 512)
"""Less than a MiB."""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {},
            "1 (Moves) is given 1.00 MiB a step on cpu and returns 1.00 MiB on meta: a copy",
        ),
        ({"functions": True}, "Tensor.to (test_device_findings.py:"),
        (
            {"syncs": True},
            "module calls copy 1.00 MiB a step between host and device, most of it to meta in 1 at ",
        ),
    ],
)
def test_copies(options, text):
    one = only(rules.copies, facts_of(run(around(Moves()), BIG, **options)))
    assert text in one.text
    if "syncs" in options:
        assert "test_device_findings.py:" in one.text
    assert not list(rules.copies(facts_of(run(around(Moves()), SMALL, **options))))


def test_copies_almost():
    class Makes(nn.Module):
        """Gives a lot on the device for a little of the host."""

        def forward(self, x):
            return torch.empty(512, 512, device="meta")

    class Both(nn.Module):
        def forward(self, x, y):
            return y * 2

    assert not list(rules.copies(facts_of(run(Makes(), torch.ones(3)))))
    assert not list(rules.copies(facts_of(run(around(nn.Linear(512, 4)), BIG))))
    with modtrace.trace() as trace:
        for _ in range(STEPS):
            Both()(BIG, torch.empty(512, 512, device="meta"))
    assert not list(rules.copies(facts_of(trace))), "it was given both"
    with modtrace.trace() as trace:
        Moves()(BIG)
        for _ in range(STEPS):
            Moves()(torch.ones(3))
    assert not list(rules.copies(facts_of(trace))), "in the first step alone"


def with_kernels(trace, copied_ns, name="Memcpy HtoD (Pageable -> Device)", waited=True):
    """The trace with a kernel and a copy in each call of a Linear."""
    stored = trace._read()
    table = stored.table("calls")
    names = stored.table("modules").column("type").to_pylist()
    at = [
        (start + took // 2, thread)
        for start, took, module, thread in zip(
            table.column("start_ns").to_pylist(),
            table.column("duration_ns").to_pylist(),
            table.column("module").to_pylist(),
            table.column("thread").to_pylist(),
            strict=True,
        )
        if module is not None and names[module] == "Linear"
    ]
    rows = [
        {
            "at_ns": moment,
            "self_ns": spent,
            "name": label,
            "device": "cuda:0",
            "kind": kind,
            "thread": thread,
            "size_bytes": 4 << 20 if kind == MEMORY_COPY else None,
            "waited": waited if kind == MEMORY_COPY else None,
        }
        for moment, thread in at
        for label, kind, spent in (("gemm", KERNEL, 20 * MS), (name, MEMORY_COPY, copied_ns))
    ]
    found = pa.Table.from_pylist(rows, schema=arrow_schema("operators"))
    stored._tables["operators"] = found.append_column("process", pa.array([0] * len(rows), pa.int32()))
    return facts_of(trace)


def test_pageable():
    trace = run(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(2, 4))
    one = only(rules.pageable, with_kernels(trace, MS, waited=False))
    assert "from pageable memory (4.00 MiB a step)" in one.text
    assert "pin_memory" in one.remedy
    for name, waited in (
        ("Memcpy HtoD (Pageable -> Device)", True),
        ("Memcpy HtoD (Pageable -> Device)", None),
        ("Memcpy HtoD (Pinned -> Device)", False),
        ("Memcpy DtoH (Device -> Pageable)", False),
    ):
        assert not list(rules.pageable(with_kernels(trace, MS, name, waited)))


def test_copies_by_kernels():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    trace = run(model, torch.ones(2, 4))
    one = only(rules.copies, with_kernels(trace, 5 * MS))
    assert one.text == (
        "copies between host and device inside forward are 20.0% of what the device did (40.0 ms), most of it in 0"
    )
    assert not list(rules.copies(with_kernels(trace, MS // 2)))
    assert not list(rules.copies(with_kernels(trace, 5 * MS, "Memcpy DtoD (Device -> Device)")))


class Asks(nn.Module):
    def __init__(self, every=1):
        super().__init__()
        self.every, self.calls = every, 0

    def forward(self, x):
        self.calls += 1
        return x * x.amax().item() if self.calls % self.every == 0 else x  # asks


def on_a_device(trace):
    stored = trace._read()
    table = stored.table("syncs")
    at = table.column_names.index("device")
    device = pa.array(["cuda:0"] * len(table), table.schema.field("device").type)
    stored._tables["syncs"] = table.set_column(at, "device", device)
    return facts_of(trace)


def test_syncs():
    line = 1 + [text[-6:] for text in Path(__file__).read_text().splitlines()].index("# asks")
    trace = run(around(Asks()), torch.ones(3), syncs=True)
    assert not list(rules.syncs(facts_of(trace))), "on the CPU nothing waits"
    one = only(rules.syncs, on_a_device(trace))
    assert one.text == (
        "module calls wait for the device 1.0 times a step: "
        f"item in 1 at test_device_findings.py:{line} (1.0 a step)"
    )
    assert not list(rules.syncs(on_a_device(run(Asks(every=2), torch.ones(3), syncs=True))))
    assert not list(rules.syncs(facts_of(run(around(Asks()), torch.ones(3)))))


class Split(nn.Module):
    """Layers on the device, and `left` of them left on the host."""

    def __init__(self, away, left, *, learns=True):
        super().__init__()
        self.away = nn.ModuleList(nn.Linear(4, 4, device="meta") for _ in range(away))
        self.left = nn.ModuleList(nn.Linear(4, 4) if learns else nn.ReLU() for _ in range(left))

    def forward(self, x):
        y = x.to("meta")
        for layer in self.left:
            x = layer(x)
        for layer in self.away:
            y = layer(y)
        return y


def test_other_device():
    x = torch.ones(2, 4)
    one = only(rules.other_device, facts_of(run(Split(3, 1), x)))
    assert one.text == (
        "1 module with parameters computes on cpu, 3 others of Split on meta: left.0 (Linear)"
    )
    assert (
        "2 modules with parameters compute on cpu"
        in only(rules.other_device, facts_of(run(Split(3, 2), x))).text
    )
    assert not list(rules.other_device(facts_of(run(Split(2, 2), x)))), "half of a model is meant to be there"
    assert not list(rules.other_device(facts_of(run(Split(3, 1, learns=False), x))))
    assert not list(rules.other_device(facts_of(run(Split(3, 0), x))))
    assert not list(rules.other_device(facts_of(run(nn.Sequential(nn.Linear(4, 4)), x))))


class Mixed(nn.Module):
    """Two layers under autocast, the second of `width` outputs kept out of it on demand."""

    def __init__(self, width=16, *, out=True, enabled=True):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, width)
        self.out, self.enabled = out, enabled

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            x = self.first(x)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled and not self.out):
                return self.second(x.float())


def test_full_precision():
    x = torch.ones(4, 16)
    one = only(rules.full_precision, facts_of(run(Mixed(), x)))
    assert one.text == "50.0% of the FLOPs of layers inside autocast are in float32: second (Linear)"
    uncounted = only(rules.full_precision, facts_of(run(Mixed(), x, flops=False)))
    assert uncounted.text.startswith("50.0% of the calls of layers")
    assert not list(rules.full_precision(facts_of(run(Mixed(width=1), x)))), "a small head is meant to be so"
    assert not list(rules.full_precision(facts_of(run(Mixed(out=False), x))))
    assert not list(rules.full_precision(facts_of(run(Mixed(enabled=False), x)))), "no autocast"
    both = nn.Sequential(Mixed(out=False), nn.LayerNorm(16))
    assert not list(rules.full_precision(facts_of(run(both, x)))), "a norm is meant to be so"


def test_layers_that_are_half_anyway_are_not_weighed():
    """Autocast has nothing to do for them."""

    class AndHalves(Mixed):
        def __init__(self):
            super().__init__()
            self.narrow = nn.Linear(16, 16).bfloat16()

        def forward(self, x):
            x = super().forward(x)
            return self.narrow(x.bfloat16())

    one = only(rules.full_precision, facts_of(run(AndHalves(), torch.ones(4, 16))))
    assert one.text == "50.0% of the FLOPs of layers inside autocast are in float32: second (Linear)"


def test_they_are_among_the_findings():
    assert "copies" in [one.rule for one in findings(run(around(Moves()), BIG)._read())]
