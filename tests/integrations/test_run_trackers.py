"""Numbers and report of a trace in trackers: TensorBoard's files are read back, calls to the others are looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import modtrace
from modtrace.integrations.run_trackers import scalars, to_mlflow, to_tensorboard, to_wandb


@pytest.fixture(scope="module")
def t():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as recorded:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    return recorded


def test_numbers_are_those_of_the_steps(t):
    found = dict(scalars(t))
    assert list(found) == t.steps.index.tolist() == [0, 1, 2, 3]
    for step, values in found.items():
        assert values["modtrace/step_ms"] == pytest.approx(t.steps["duration_ns"][step] / 1e6)
        assert values["modtrace/backward_ms"] == pytest.approx(t.steps["backward_ns"][step] / 1e6)


def test_what_is_not_known_is_left_out(t):
    assert t.steps["memory_peak_bytes"].isna().all()
    assert all("modtrace/memory_peak_bytes" not in values for _, values in scalars(t))


def test_tensorboard(t, tmp_path):
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: what is written to it is not read back"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        to_tensorboard(t, writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    read = {event.step: event.value for event in events.Scalars("modtrace/step_ms")}
    assert read == {step: pytest.approx(values["modtrace/step_ms"], rel=1e-6) for step, values in scalars(t)}
    (text,) = events.Tensors("modtrace/summary/text_summary")
    assert b"Sequential" in text.tensor_proto.string_val[0]
    assert (tmp_path / "modtrace.html").read_bytes().startswith(b"<!DOCTYPE html>")


class WandbRun:
    """Takes what a run of wandb takes: `define_metric`, `log`, `log_artifact`."""

    id = "abc"

    def __init__(self):
        self.axes, self.logged, self.files = {}, [], []

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values):
        self.logged.append(values)

    def log_artifact(self, path, name, type):
        self.files.append((Path(path).read_bytes()[:15], name, type))


def test_wandb(t):
    run = WandbRun()
    to_wandb(t, run)
    assert run.axes == {"modtrace/step": None, "modtrace/*": "modtrace/step"}
    assert [values["modtrace/step"] for values in run.logged] == [0, 1, 2, 3]
    assert all(values["modtrace/step_ms"] > 0 for values in run.logged)
    assert run.files == [(b"<!DOCTYPE html>", "modtrace-abc", "modtrace")]


def test_wandb_itself(t, tmp_path, monkeypatch):
    """Without a network: it knows the numbers of the last step, and a copy of the report waits to be sent."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: a stand-in takes its calls")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    with wandb.init(mode="offline", dir=str(tmp_path), settings=wandb.Settings(console="off")) as run:
        to_wandb(t, run)
        last, values = list(scalars(t))[-1]
        assert {name: run.summary[name] for name in ("modtrace/step", *values)} == {
            "modtrace/step": last,
            **values,
        }
    (copy,) = [path for path in (tmp_path / "staged").rglob("*") if path.is_file()]
    assert copy.read_bytes().startswith(b"<!DOCTYPE html>")


class Mlflow:
    """Takes what the module mlflow takes."""

    def __init__(self):
        self.metrics, self.texts, self.files = [], [], []

    def log_metrics(self, values, step):
        self.metrics.append((step, values))

    def log_text(self, text, artifact_file):
        self.texts.append((text, artifact_file))

    def log_artifact(self, path, artifact_path):
        self.files.append((Path(path).name, Path(path).read_bytes()[:15], artifact_path))


def test_mlflow(t):
    mlflow = Mlflow()
    to_mlflow(t, mlflow)
    assert mlflow.metrics == list(scalars(t))
    assert mlflow.texts == [(t.summary(), "modtrace/summary.txt")]
    assert mlflow.files == [("modtrace.html", b"<!DOCTYPE html>", "modtrace")]


def test_mlflow_itself(t, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a store of files needs no database
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: a stand-in takes its calls")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        to_mlflow(t, mlflow)
    client = mlflow.tracking.MlflowClient()
    metrics = client.get_metric_history(run.info.run_id, "modtrace/step_ms")
    assert {metric.step: metric.value for metric in metrics} == {
        step: values["modtrace/step_ms"] for step, values in scalars(t)
    }
    names = {file.path for file in client.list_artifacts(run.info.run_id, "modtrace")}
    assert names == {"modtrace/modtrace.html", "modtrace/summary.txt"}


def test_nothing_is_imported_unless_used():
    import subprocess
    import sys

    code = "import modtrace, modtrace.integrations.run_trackers, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "lightning", "transformers", "tensorboard", "wandb", "mlflow"} & set(loaded)
