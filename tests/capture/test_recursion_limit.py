"""A program that meets python's limit of recursion and goes on: it costs the calls next to the limit, and no others."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import modtrace

NESTED = 400
PROGRAM = f"""
import torch
from torch import nn
deep = nn.Linear(2, 2)
for _ in range({NESTED}):
    deep = nn.Sequential(deep)
net = nn.Linear(2, 2)
try:
    deep(torch.ones(1, 2))
except RecursionError:
    print("RecursionError")
for _ in range(10):
    print(net(torch.ones(1, 2)).shape)
"""


def caught(run):
    with pytest.raises(RecursionError):
        run()


def deep_model():
    model = nn.Linear(2, 2)
    for _ in range(NESTED):
        model = nn.Sequential(model)
    return model


def traced(engine, program, **options):
    """Calls and gaps of a program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "modtrace: calls are")
        with modtrace.trace(engine=engine, **options) as trace:
            program()
    return trace.calls, [reason for reason in trace.gaps["reason"] if "compile" not in reason]


@pytest.fixture(params=["hooks", "calls"])
def engine(request):
    return request.param


def test_calls_after_a_caught_error_are_recorded(engine):
    deep, net = deep_model(), nn.Linear(2, 2)

    def program():
        for _ in range(2):
            caught(lambda: deep(torch.ones(1, 2)))
        for _ in range(10):
            net(torch.ones(1, 2))

    calls, gaps = traced(engine, program)
    assert list(calls["status"][-10:]) == ["ok"] * 10
    assert list(calls["type"][-10:]) == ["Linear"] * 10
    assert (calls["depth"][:-10].diff().iloc[1:] <= 1).all()
    assert len(gaps) == 1
    assert "next to python's limit of recursion" in gaps[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"values": "0:9999", "nan": True},
        {"functions": True},
        {"memory": "0:9999"},
        {"saved": "0:9999", "syncs": "0:9999"},
    ],
    ids=str,
)
def test_root_calls_at_every_depth_of_the_stack_cost_no_recorder(engine, options):
    """FLOPs are counted and blocks are written on: what a recorder does at the limit is not left half done."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def deeper(count):
        model(torch.ones(1 + count % 3, 2)).sum().backward()
        optimizer.step()
        deeper(count + 1)

    def program():
        model(torch.ones(1, 2)).sum().backward()  # imports
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + 200)
        caught(lambda: deeper(0))
        sys.setrecursionlimit(limit)
        for _ in range(10):
            nn.Linear(3, 3)(torch.ones(1, 3))

    calls, gaps = traced(engine, program, **options)
    calls = calls[calls["kind"] == "module"]
    assert list(calls["type"][-10:]) == ["Linear"] * 10
    assert list(calls["status"][-10:]) == ["ok"] * 10
    expected = {"next to python's limit of recursion"}
    if "memory" in options:  # FLOPs are not counted while every operation is watched
        expected.add("FLOPs were not counted")
    else:
        assert calls["flops"].iloc[-10:].notna().any()
    assert [gap for gap in gaps if not any(reason in gap for reason in expected)] == []


@pytest.mark.parametrize("options", [[], ["--functions"]], ids=["plain", "functions"])
def test_a_script_prints_what_python_prints(engine, options, tmp_path):
    (tmp_path / "deep.py").write_text(PROGRAM)
    plain = subprocess.run(
        [sys.executable, "deep.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    command = [sys.executable, "-m", "modtrace", "run", "-q", "--engine", engine, *options, "-o", "t.mtrace"]
    done = subprocess.run([*command, "deep.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == plain.stdout
    assert "silenced" not in done.stderr
    assert "fault" not in done.stderr
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    assert list(calls[calls["kind"] == "module"]["status"][-10:]) == ["ok"] * 10
