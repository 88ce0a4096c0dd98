"""Each example runs as it is, prints the same under modtrace, and leaves the tree a reader expects."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import modtrace
from tests.torture.compare import module_calls

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ["feature_regression", "lenet", "training_loop", "broken_lenet"]
EXIT_STATUS = dict.fromkeys(NAMES, 0) | {"broken_lenet": 1}


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module", params=NAMES)
def example(request, tmp_path_factory):
    """(name, the plain run, the recorded run, its trace)."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    script = EXAMPLES / f"{name}.py"
    plain = run(script, cwd=folder)
    traced = run("-m", "modtrace", "run", "-o", "out.mtrace", script, cwd=folder)
    return name, plain, traced, modtrace.load(folder / "out.mtrace")


def test_prints_the_same(example):
    name, plain, traced, _ = example
    assert plain.returncode == traced.returncode == EXIT_STATUS[name], plain.stderr
    assert traced.stdout == plain.stdout
    assert own_lines(traced.stderr)[: len(own_lines(plain.stderr))] == own_lines(plain.stderr)
    assert "out.mtrace" in traced.stderr


def own_lines(stderr):
    """What is left of a traceback without torch's frames, of which there is one more a call when there are hooks."""
    return re.sub(r'  File "[^"]*/torch/nn/modules/module.py".*\n(    .*\n)*', "", stderr).splitlines()


def test_losses_fall(example):
    name, plain, _, _ = example
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", plain.stdout)]
    if name == "broken_lenet":
        assert not losses
        assert "mat1 and mat2 shapes cannot be multiplied (64x120 and 100x84)" in plain.stderr
    else:
        assert len(losses) >= 4
        assert losses[-1] < losses[0] / 1.5


def test_example_does_not_know_modtrace():
    for script in EXAMPLES.glob("*.py"):
        assert "modtrace" not in script.read_text()
        assert script.stem in NAMES


TREES = {
    "feature_regression": [
        (0, "", "MatchingNet", "f32[8,6]"),
        (1, "normalise", "FeatureL2Norm", "f32[8,225,15,15]"),
        (1, "regress", "FeatureRegression", "f32[8,6]"),
        (2, "regress.conv", "Sequential", "f32[8,64,5,5]"),
        (3, "regress.conv.0", "Conv2d", "f32[8,128,9,9]"),
        (3, "regress.conv.1", "BatchNorm2d", "f32[8,128,9,9]"),
        (3, "regress.conv.2", "ReLU", "f32[8,128,9,9]"),
        (3, "regress.conv.3", "Conv2d", "f32[8,64,5,5]"),
        (3, "regress.conv.4", "BatchNorm2d", "f32[8,64,5,5]"),
        (3, "regress.conv.5", "ReLU", "f32[8,64,5,5]"),
        (2, "regress.linear", "Linear", "f32[8,6]"),
    ],
    "lenet": [
        (0, "", "LeNet", "f32[64,10]"),
        (1, "layer1", "Sequential", "f32[64,6,14,14]"),
        (2, "layer1.conv1", "Conv2d", "f32[64,6,28,28]"),
        (2, "layer1.pool1", "MaxPool2d", "f32[64,6,14,14]"),
        (1, "layer2", "Sequential", "f32[64,16,5,5]"),
        (2, "layer2.conv2", "Conv2d", "f32[64,16,10,10]"),
        (2, "layer2.pool2", "MaxPool2d", "f32[64,16,5,5]"),
        (1, "layer3", "Sequential", "f32[64,10]"),
        (2, "layer3.fc1", "Linear", "f32[64,120]"),
        (2, "layer3.fc2", "Linear", "f32[64,84]"),
        (2, "layer3.fc3", "Linear", "f32[64,10]"),
    ],
    "training_loop": [
        (0, "", "Sequential", "f32[32,1]"),
        (1, "0", "Linear", "f32[32,32]"),
        (1, "1", "Tanh", "f32[32,32]"),
        (1, "2", "Linear", "f32[32,1]"),
    ],
    "broken_lenet": [
        (0, "", "LeNet", None),
        (1, "layer1", "Sequential", "f32[64,6,14,14]"),
        (2, "layer1.conv1", "Conv2d", "f32[64,6,28,28]"),
        (2, "layer1.pool1", "MaxPool2d", "f32[64,6,14,14]"),
        (1, "layer2", "Sequential", "f32[64,16,5,5]"),
        (2, "layer2.conv2", "Conv2d", "f32[64,16,10,10]"),
        (2, "layer2.pool2", "MaxPool2d", "f32[64,16,5,5]"),
        (1, "layer3", "Sequential", None),
        (2, "layer3.fc1", "Linear", "f32[64,120]"),
        (2, "layer3.fc2", "Linear", None),
    ],
}
STEPS = {"feature_regression": 5, "lenet": 32, "training_loop": 40, "broken_lenet": 1}


def test_tree(example):
    name, _, _, trace = example
    calls = module_calls(trace.calls)
    roots = calls[(calls["parent"] == -1) & (calls["type"] == TREES[name][0][2])]
    assert len(roots) == STEPS[name]

    first = calls.loc[roots.index[0] : roots["last_call"].iloc[0]]
    outputs = first["outputs"].astype(object).where(first["outputs"].notna(), None)
    assert list(zip(first["depth"], first["name"], first["type"], outputs, strict=True)) == TREES[name]


def test_broken_example_shows_where_and_why(example):
    name, _, traced, trace = example
    if name != "broken_lenet":
        assert (trace.calls["status"] == "ok").all()
        return
    failed = trace.calls[trace.calls["status"] == "raised"]
    assert list(failed["name"]) == ["", "layer3", "layer3.fc2"]
    assert failed["error"].str.startswith("RuntimeError: mat1 and mat2").all()
    assert failed["inputs"].iloc[-1] == "f32[64,120]"
    report = traced.stderr.partition("cannot be multiplied")[2]
    for fact in ("layer3.fc2", "Linear", "120", "100"):
        assert fact in report
