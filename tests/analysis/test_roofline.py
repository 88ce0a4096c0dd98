"""Speeds beside what a device reaches, against numbers worked out by hand; measuring and keeping what it reaches."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.roofline import mfu, roofline
from modtrace.capture import reach as measuring
from modtrace.errors import UsageError
from modtrace.trace.reach import Reach, cached, entry_of
from modtrace.views import console

REACHED = Reach("a device", {"float32": 10**12}, 10**11)


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as t:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(8, 32, requires_grad=True)).sum().backward()
            optimizer.step()
    return t


def test_a_linear_by_hand(trace):
    points = {(one.name, one.backward): one for one in roofline(trace._read(), REACHED)}
    assert set(points) == {("0", False), ("0", True)}  # a ReLU counts nothing
    forward, backward = points["0", False], points["0", True]
    flops, moved = 2 * 8 * 32 * 64, (8 * 32 + 8 * 64 + 32 * 64 + 64) * 4
    assert (forward.calls, forward.flops, forward.bytes, forward.dtype) == (
        3,
        3 * flops,
        3 * moved,
        "float32",
    )
    assert (backward.flops, backward.bytes) == (3 * 2 * flops, 3 * 2 * moved)
    roof = min(10**12, 10**11 * flops / moved)
    assert forward.share == pytest.approx(forward.flops * 1e9 / forward.spent_ns / roof)
    spent = trace.calls[
        (trace.calls["name"] == "0") & (trace.calls["kind"] == "module") & (trace.calls["step"] > 0)
    ]
    assert forward.spent_ns == spent["self_ns"].sum()


def test_what_was_not_measured_is_unknown(trace):
    assert all(one.share is None for one in roofline(trace._read(), None))
    assert all(one.share is None for one in roofline(trace._read(), Reach("other", {"bfloat16": 1}, 1)))
    assert mfu(np.array([10]), np.array([5]), None) == [None]


def test_model_flops_utilisation():
    found = mfu(np.array([10**9, -1, 10**9]), np.array([10**7, 10**7, 0]), REACHED)
    assert found == [pytest.approx(0.1), None, None]


@pytest.mark.parametrize("columns", [20, 80, 120])
def test_as_text(trace, columns, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = console.roofline_text(trace._read(), width=columns)
    assert all(len(line) <= columns for line in text.splitlines())
    if columns > 20:
        assert "modtrace info --device" in text
    key = trace._read().processes[0].devices[0]
    entry = {"flops_per_s": {"float32": 10**12}, "bytes_per_s": 10**11}
    (tmp_path / "modtrace").mkdir()
    (tmp_path / "modtrace" / "devices.json").write_text(json.dumps({key: entry}))
    if columns == 120:
        assert "MFU of a step" in console.roofline_text(trace._read(), width=columns)


def test_no_flops_no_roof():
    with modtrace.trace(flops=False) as t:
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert "no FLOPs are known" in console.roofline_text(t._read())


def test_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in (("SECONDS", 0.001), ("SIZES", (32,)), ("COPY_BYTES", 1 << 16)):
        monkeypatch.setattr(measuring, name, value)
    first = measuring.reach()
    assert first.flops_per_s["float32"] > 0
    assert first.bytes_per_s > 0
    path = tmp_path / "modtrace" / "devices.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cached(measuring.device_key()) == first
    monkeypatch.setattr(measuring, "_products", lambda device: pytest.fail("measured again"))
    assert measuring.reach() == first


@pytest.mark.parametrize(
    "held",
    [None, [], {}, {"flops_per_s": 3}, {"flops_per_s": {"float32": -1}, "bytes_per_s": 5},
     {"flops_per_s": {"float32": 1 << 70}, "bytes_per_s": 5}, {"flops_per_s": {"float32": 5}, "bytes_per_s": "x"}],
)  # fmt: skip
def test_a_broken_cache_says_nothing(held, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert entry_of(held, "x") is None
    assert cached("x") is None
    (tmp_path / "modtrace").mkdir()
    (tmp_path / "modtrace" / "devices.json").write_text("{")
    assert cached("x") is None


def test_a_device_that_is_not_there():
    from modtrace.cli import info

    with pytest.raises(UsageError, match="cannot be measured"):
        info._measured("cuda:99")
