"""Trainer(callbacks=[ModtraceCallback()]): with transformers itself, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import modtrace

pytest.importorskip("transformers", reason="transformers is not installed: its callback is not tested")
pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer needs")

SCRIPT = """
import json, torch
import modtrace
from torch import nn
from transformers import Trainer, TrainingArguments
from modtrace.integrations.trainer_callback import ModtraceCallback
class Net(nn.Module):
    def __init__(self, fails=False):
        super().__init__()
        self.fails, self.body = fails, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    def forward(self, x, labels):
        output = self.body(x[:, :3] if self.fails else x)
        return {"loss": (output - labels).square().mean(), "logits": output}
data = [{"x": torch.randn(4), "labels": torch.randn(1)} for _ in range(8)]
def trainer(model, callback):
    arguments = TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, logging_strategy="no")
    return Trainer(model, arguments, train_dataset=data, callbacks=[callback])
callback = ModtraceCallback("run.mtrace", flops=False)
trainer(Net(), callback).train()
steps = callback.trace.steps
print(json.dumps({"steps": len(steps), "ends": sorted(set(steps["ends"])), "running": bool(modtrace.api._running())}))
failing = ModtraceCallback("failing.mtrace")
try:
    trainer(Net(fails=True), failing).train()
except RuntimeError:
    print(json.dumps({"running": bool(modtrace.api._running())}))
    failing.end()
print(json.dumps({"path": failing.trace.failure.path[-1].name, "running": bool(modtrace.api._running())}))
at_exit = ModtraceCallback("at-exit.mtrace")
try:
    trainer(Net(fails=True), at_exit).train()
except RuntimeError:
    pass
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return folder, [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]


def test_the_steps_of_train_are_recorded(lines):
    folder, (trained, *_) = lines
    assert trained == {"steps": 8, "ends": ["optimizer"], "running": False}
    assert len(modtrace.load(folder / "run.mtrace").steps) == 8


def test_a_recording_that_an_exception_left_open_is_ended(lines):
    folder, (*_, still, failed) = lines
    assert still == {"running": True}
    assert failed == {"path": "body.0", "running": False}
    kept = modtrace.load(folder / "at-exit.mtrace")
    assert kept.failure.path[-1].name == "body.0"
    assert (folder / "at-exit.mtrace" / "rank-0" / "end.json").exists()
