"""Numbers of a trace, and its report, in trackers of experiments. What logs is handed in: nothing is imported here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from modtrace.api import Trace

PREFIX: Final = "modtrace/"
_MILLISECONDS: Final = 1e-6
COLUMNS: Final = {
    "duration_ns": ("step_ms", _MILLISECONDS),
    **{
        f"{phase}_ns": (f"{phase}_ms", _MILLISECONDS)
        for phase in ("data", "forward", "loss", "backward", "optimizer", "other")
    },
    "flops_per_s": ("flops_per_s", 1.0),
    "memory_peak_bytes": ("memory_peak_bytes", 1.0),
}
"""Columns of `t.steps`: the name under which each is logged, and the factor to its unit there."""


def scalars(trace: Trace) -> Iterator[tuple[int, dict[str, float]]]:
    """The numbers of each step that came to its end: (number of the step, name to value).

    Times are milliseconds, memory is bytes, FLOP/s are as `t.steps` has them; what is not known is left out. Of several
    ranks those of the first.
    """
    steps = trace.steps.reset_index()
    if "rank" in steps:
        steps = steps[steps["rank"] == steps["rank"].min()]
    steps = steps[steps["whole"]]
    numbers = steps[list(COLUMNS)].to_numpy(dtype="float64", na_value=math.nan)
    for step, values in zip(steps["step"].tolist(), numbers.tolist(), strict=True):
        named = zip(COLUMNS.values(), values, strict=True)
        yield step, {PREFIX + name: value * unit for (name, unit), value in named if not math.isnan(value)}


def to_tensorboard(trace: Trace, writer: Any) -> None:
    """Write the numbers of each step, the summary as text, and the report beside the event files.

    Args:
        trace: a trace that has ended.
        writer: a `torch.utils.tensorboard.SummaryWriter`, or what has its `add_scalar`, `add_text` and `log_dir`.
    """
    for step, values in scalars(trace):
        for name, value in values.items():
            writer.add_scalar(name, value, step)
    writer.add_text(f"{PREFIX}summary", "".join(f"    {line}\n" for line in trace.summary().splitlines()))
    trace.to_html(Path(writer.log_dir) / "modtrace.html", force=True)


def to_wandb(trace: Trace, run: Any) -> None:
    """Log the numbers of each step, against an axis of their own, and the report as an artifact.

    Args:
        trace: a trace that has ended.
        run: what `wandb.init()` returned.
    """
    axis = f"{PREFIX}step"
    run.define_metric(axis)
    run.define_metric(f"{PREFIX}*", step_metric=axis)
    for step, values in scalars(trace):
        run.log({axis: step, **values})
    with tempfile.TemporaryDirectory(prefix="modtrace-") as folder:
        report = Path(folder) / "modtrace.html"
        trace.to_html(report)
        run.log_artifact(str(report), name=f"modtrace-{run.id}", type="modtrace")  # a copy is made of it now


def to_mlflow(trace: Trace, mlflow: Any) -> None:
    """Log the numbers of each step, the summary and the report to the active run.

    Args:
        trace: a trace that has ended.
        mlflow: the module, or what has its `log_metrics`, `log_text` and `log_artifact`.
    """
    for step, values in scalars(trace):
        mlflow.log_metrics(values, step=step)
    mlflow.log_text(trace.summary(), "modtrace/summary.txt")
    with tempfile.TemporaryDirectory(prefix="modtrace-") as folder:
        report = Path(folder) / "modtrace.html"
        trace.to_html(report)
        mlflow.log_artifact(str(report), "modtrace")
