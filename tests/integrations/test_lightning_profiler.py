"""Trainer(profiler=ModtraceProfiler()): with Lightning itself, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import modtrace

pytest.importorskip("lightning", reason="Lightning is not installed: its profiler is not tested")

SCRIPT = """
import json, logging, torch
import modtrace
import lightning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from modtrace.integrations.lightning_profiler import ModtraceProfiler
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
class Lit(lightning.LightningModule):
    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    def training_step(self, batch, number):
        return self.body(batch[0][:, :3] if self.fails and number == 2 else batch[0]).square().mean()
    def validation_step(self, batch, _):
        self.log("validation", self.body(batch[0]).mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=2)
def trainer(profiler):
    return lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, profiler=profiler)
profiler = ModtraceProfiler("fit.mtrace", flops=False)
told = trainer(profiler)
told.fit(Lit(), data, data)
fit = profiler.trace
print(json.dumps({"steps": len(fit.steps), "ends": sorted(set(fit.steps["ends"])), "failed": fit.failure is not None}))
told.validate(Lit(), data, verbose=False)
print(json.dumps({"steps": len(profiler.trace.steps), "another": profiler.trace is not fit}))
failing = ModtraceProfiler("failing.mtrace")
try:
    trainer(failing).fit(Lit(fails=True), data)
except RuntimeError as error:
    print(json.dumps({"error": str(error)}))
print(json.dumps({"path": failing.trace.failure.path[-1].name, "running": bool(modtrace.api._running())}))
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lightning")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return folder, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_steps_of_fit_are_recorded(lines):
    _, (fit, *_) = lines
    assert fit == {"steps": 8, "ends": ["optimizer"], "failed": False}


def test_each_run_of_the_trainer_is_a_trace_and_the_last_is_kept(lines):
    folder, (_, validated, *_) = lines
    assert validated["another"]
    kept = modtrace.load(folder / "fit.mtrace")
    assert len(kept.steps) == validated["steps"]
    assert not (kept.calls["kind"] == "backward").any()


def test_an_exception_ends_the_recording(lines):
    folder, (*_, raised, failed) = lines
    assert "shapes cannot be multiplied" in raised["error"]
    assert failed == {"path": "0", "running": False}
    assert modtrace.load(folder / "failing.mtrace").failure.error.startswith("RuntimeError")
