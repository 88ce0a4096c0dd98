"""`--break`: it stops at the right calls of real models, and changes nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.debugging.prompts import STOPPED, run

MODELS = Path(__file__).with_name("models.py")
POISONED = [
    ("after", "h.1.mlp.c_fc"), ("before", "h.1.mlp.act"), ("before", "h.1.mlp.c_proj"), ("after", "h.1.mlp"),
    ("after", "h.1"), ("before", "ln_f"), ("before", "lm_head"), ("after", "model"),
]  # fmt: skip
"""Calls of the step in which a weight of `h.1.mlp.c_fc` is infinite."""
CASES = {
    "gpt": {
        "h.1.mlp and step=1": [("before", "h.1.mlp", 1, 2)],
        "name=h.?.attn and shape changed": [
            ("before", "h.0.attn", 2, 3), ("before", "h.1.attn", 2, 3),
            ("before", "h.0.attn", 3, 4), ("before", "h.1.attn", 3, 4),
        ],
        "class=LayerNorm and nth=2 and not h.*": [("before", "ln_f", 1, 2)],
        "phase=eval and lm_head": [("before", "lm_head", 3, 4)],
        "wte and (nth=1 or step>2)": [("before", "wte", 0, 1), ("before", "wte", 3, 4)],
    },
    "resnet": {
        "raised": [("after", "bn", 2, 3), ("after", "model", 2, 3)],
        "/^layer1\\.0\\.conv/ and nth=3": [("before", "layer1.0.conv1", 2, 3)],
        "shape~[4,5]": [
            ("after", "fc", 0, 1), ("after", "model", 0, 1), ("after", "fc", 1, 2), ("after", "model", 1, 2),
        ],
        "dtype:f64 type:ReLU": [("before", "layer1.0.relu", 2, 4), ("before", "layer1.1.relu", 2, 4)],
    },
    "lstm": {
        "slow and duration>1500ms": [("after", "slow", 1, 2)],
        "LSTM and (step=0 or step=2)": [("before", "lstm", 0, 1), ("before", "lstm", 2, 3)],
        "phase=recompute and step=1": [("before", "hidden", 1, 4)],
        "thread>0": [("before", "out", 3, 4)],
    },
    "transformer": {
        "encoder.layers.2 and step=1": [("before", "encoder.layers.2", 1, 2)],
        "self_attn nth=1 -encoder.layers.0.*": [
            ("before", "encoder.layers.1.self_attn", 0, 1), ("before", "encoder.layers.2.self_attn", 0, 1),
        ],
        "encoder.layers.1.norm1 and shape~[...,16] and step=2": [("before", "encoder.layers.1.norm1", 2, 3)],
        "rank=1": [],
        "memory>0B": [],
    },
}  # fmt: skip


def plain(*words, cwd):
    done = subprocess.run([sys.executable, str(MODELS), *words], capture_output=True, text=True, cwd=cwd)
    return done.stdout, done.returncode


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("model", CASES)
def test_it_stops_at_exactly_the_right_calls(tmp_path, model, engine):
    options = [word for expression in CASES[model] for word in ("--break", expression)]
    out = tmp_path / "out.txt"
    session = run(["--engine", engine, *options], MODELS, model, cwd=tmp_path, stdout=out)
    by_expression = {expression: [] for expression in CASES[model]}
    for stop, match in zip(session.stops, STOPPED.finditer(session.text), strict=True):
        by_expression[match[6]].append(stop)
    assert by_expression == CASES[model], session.text
    assert (out.read_text(), session.status) == plain(model, cwd=tmp_path)


def test_nan_stops_at_the_producer_first_then_at_what_gets_it(tmp_path):
    session = run(["--break", "nan and step<3"], MODELS, "gpt", "poisoned", cwd=tmp_path)
    assert [stop[:2] for stop in session.stops] == POISONED
    assert session.status == 0
