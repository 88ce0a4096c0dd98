"""`--watch`: a line a call on stderr, and nothing else changes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import modtrace
from modtrace.capture.mechanisms.call_tensors import are_finite, range_of
from tests.debugging.prompts import ROOT

EXAMPLE = ROOT / "examples" / "debugging" / "changing_shape.py"
LINE = re.compile(r"(\S+) (\S+)  \((.*?)\) -> (.*?)  ([\d.]+ \S+)(?:  (\[.*\]))?")


@dataclass
class Pair:
    low: torch.Tensor
    high: torch.Tensor


class Splits(torch.nn.Module):
    def forward(self, x, *, by=None):
        return Pair(x - 1, x + 1)


class Fails(torch.nn.Module):
    def forward(self, x):
        raise ValueError("made up")


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if " -> " in line]


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_lines(capsys, engine):
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(), Splits())
    with modtrace.trace(watch=["1", "Splits"], engine=engine):
        net(torch.tensor([-3.5, 20000.0]))
    matches = [LINE.fullmatch(line).groups() for line in lines(capsys)]
    assert [match[:4] for match in matches] == [
        ("1", "ReLU", "f32[2]", "f32[2]"),
        ("2", "Splits", "f32[2]", "Pair(low=f32[2], high=f32[2])"),
    ]
    assert [match[5] for match in matches] == ["[0, 20000]", "[-1, 20001]"]


def test_keywords_and_what_raises(capsys):
    splits, fails = Splits(), Fails()
    with modtrace.trace(watch="*"):
        splits(torch.ones(2), by=torch.ones(3))
        with pytest.raises(ValueError, match="made up"):
            fails(torch.ones(2))
    first, second = lines(capsys)
    assert first.startswith("splits Splits  (f32[2], by=f32[3]) -> Pair(")
    assert second == "fails Fails  (f32[2]) -> raised ValueError"


def test_steps_and_calls(capsys):
    net = torch.nn.Linear(2, 2)
    with modtrace.trace(watch="Linear and nth=2"):
        for _ in range(3):
            net(torch.ones(1, 2))
    assert len(lines(capsys)) == 1


def test_what_is_not_a_name_is_refused():
    from modtrace.capture.recorders.watch_lines import names_of

    with pytest.raises(modtrace.UsageError, match="duration is for --break"):
        names_of("duration>5ms")


def test_the_example(tmp_path):
    words = [
        "-m",
        "modtrace",
        "run",
        "-q",
        "-o",
        "t.mtrace",
        "--watch",
        "encoder",
        "--watch",
        "head and step=3",
    ]
    plain = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True)
    done = subprocess.run(
        [sys.executable, *words, str(EXAMPLE)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == plain.stdout
    page = (ROOT / "docs" / "debugging.md").read_text()
    shown = [line for line in done.stderr.splitlines() if " -> " in line]
    assert len(shown) == 6
    for line in shown:
        head, _, limits = re.sub(r"  [\d.]+ (us|ms|s)  ", "  TIME  ", line).partition("  TIME  ")
        assert f"{head}  " in page
        assert re.fullmatch(r"\[-?0\.\d+, 0\.\d+\]", limits)


def test_values_are_read_out_of_sight():
    class Loud(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise AssertionError("seen")

    values = torch.tensor([1.0, float("inf")], requires_grad=True) * 1
    before = torch.random.get_rng_state(), values._version
    with Loud():
        assert range_of({"a": [values]}) == (1.0, float("inf"))
        assert not are_finite((values,))
    assert (torch.random.get_rng_state().equal(before[0]), values._version) == (True, before[1])
    low, high = range_of(torch.tensor([1.0, float("nan")]))
    assert math.isnan(low)
    assert math.isnan(high)


@pytest.mark.parametrize(
    "value",
    [
        None, 3, torch.empty(0), torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64),
        torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
    ],
)  # fmt: skip
def test_what_has_no_range(value):
    assert range_of(value) is None
    assert are_finite(value)


def test_sparse_half_and_float8_values():
    assert range_of(torch.tensor([[0.0, 2.0]]).to_sparse()) == (2.0, 2.0)
    assert not are_finite(torch.tensor([[0.0, float("nan")]]).to_sparse())
    assert not are_finite(torch.tensor([float("inf")], dtype=torch.bfloat16))
    assert not are_finite(torch.complex(torch.tensor([1.0]), torch.tensor([float("nan")])))
    assert are_finite(torch.ones(2).to(torch.float8_e4m3fn))
