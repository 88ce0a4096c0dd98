"""Check 2: no device is touched that the program does not use, and roots called by keywords have their device time."""

from __future__ import annotations

import os
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.sources import devices_with_context, gpus_of_process


def _roots_by_keyword(device: str, count: int) -> Any:
    """The roots of a trace in which a model was called by keywords, and a model on the CPU beside it."""
    import torch
    from torch import nn

    import modtrace

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(256, 256, device=device)

        def forward(self, *, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    model, other = Named(), nn.Linear(8, 8)
    x = torch.randn(64, 256, device=device)
    with modtrace.trace() as trace:
        for _ in range(count):
            other(torch.zeros(1, 8))
            model(x=x)
    calls = trace.calls
    roots = calls[(calls["kind"] == "module") & (calls["name"] == "")]
    return roots[roots["type"] == "Named"], roots[roots["type"] == "Linear"]


def measure_one(place: Place) -> Measured:
    """A model on the CPU first, then one on the GPU that is called by keywords alone."""
    import torch
    from torch import nn

    import modtrace

    with modtrace.trace():
        nn.Linear(8, 8)(torch.zeros(1, 8))
    before = devices_with_context()
    named, on_cpu = _roots_by_keyword(place.device, 20)
    return {
        "contexts_before": before,
        "calls": len(named),
        "unknown": int(named["device_ns"].iloc[1:].isna().sum()),
        "times_of_cpu_modules": int(on_cpu["device_ns"].notna().sum()),
    }


def judge_one(measured: Measured) -> Verdict:
    """A CPU module makes no context and has no device time; a root called by keywords has one."""
    good = measured["contexts_before"] == [] and measured["calls"] > 1
    good = good and measured["unknown"] == 0 and measured["times_of_cpu_modules"] == 0
    figures = (
        f"contexts after a CPU model: {measured['contexts_before']}; by keywords {measured['unknown']} of "
        f"{measured['calls'] - 1} unknown; CPU modules with a device time: {measured['times_of_cpu_modules']}"
    )
    return verdict(figures, good=good)


def measure_second(place: Place) -> Measured:
    """Everything on the second GPU, named in full; the current device stays the first."""
    named, _ = _roots_by_keyword("cuda:1" if place.cuda else place.device, 20)
    return {
        "contexts": devices_with_context(),
        "nvidia_smi": gpus_of_process(os.getpid()),
        "calls": len(named),
        "unknown": int(named["device_ns"].iloc[1:].isna().sum()),
    }


def judge_second(measured: Measured) -> Verdict:
    """One context, on the second GPU; nvidia-smi, where it lists this process, shows it on one GPU."""
    smi = measured["nvidia_smi"]
    good = measured["contexts"] == [1] and (smi is None or len(smi) == 1)
    good = good and measured["calls"] > 1 and measured["unknown"] == 0
    listed = "does not list this process" if smi is None else f"lists it on {len(smi)} GPUs"
    figures = (
        f"contexts on devices {measured['contexts']}; nvidia-smi {listed}; "
        f"{measured['unknown']} of {measured['calls'] - 1} unknown"
    )
    return verdict(figures, good=good)


CHECKS = (
    Check(
        "2a",
        "a CPU model in a GPU process; `model(x=x)` on the GPU",
        "no context for the CPU model; device_ns null in 0 calls from the second on",
        measure_one,
        judge_one,
        good={"contexts_before": [], "calls": 20, "unknown": 0, "times_of_cpu_modules": 0},
        bad=(
            {"contexts_before": [0]},
            {"contexts_before": None},
            {"calls": 0},
            {"unknown": 19},
            {"times_of_cpu_modules": 1},
        ),
    ),
    Check(
        "2b",
        "all on cuda:1, `model(x=x)`",
        "a context on cuda:1 alone; device_ns null in 0 calls from the second on",
        measure_second,
        judge_second,
        good={"contexts": [1], "nvidia_smi": ["GPU-1"], "calls": 20, "unknown": 0},
        bad=(
            {"contexts": [0, 1]},
            {"contexts": None},
            {"nvidia_smi": ["GPU-0", "GPU-1"]},
            {"unknown": 1},
        ),
        gpus=2,
    ),
)
