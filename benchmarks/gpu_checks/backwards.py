"""Check 8: a backward that runs on the CPU and on a GPU at once, or on two GPUs, keeps the trace whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.scripts import gaps_of, opened


def _mixed(place: Place) -> Callable[[], None]:
    """A step of a model with its embedding on the CPU and the rest on the device."""
    import torch
    from torch import nn

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bags = nn.ModuleList(nn.EmbeddingBag(1_000, 16) for _ in range(4))
            self.top = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).to(place.device)

        def forward(self, indices: torch.Tensor) -> torch.Tensor:
            pooled = torch.cat([bag(indices) for bag in self.bags], 1)
            return self.top(pooled.to(place.device)).sum()

    model, indices = Mixed(), torch.randint(0, 1_000, (32, 4))
    return lambda: model(indices).backward()


def _two_devices(place: Place) -> Callable[[], None]:
    """A step of a model with a half on each of two devices."""
    import torch
    from torch import nn

    devices = ("cuda:0", "cuda:1") if place.cuda else (place.device, place.device)

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 64, device=devices[0])
            self.second = nn.Linear(64, 64, device=devices[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).to(devices[1])).sum()

    model, x = Halves(), torch.randn(8, 64, device=devices[0])
    return lambda: model(x).backward()


def _rows(step: Callable[[], None], count: int) -> tuple[Measured, Any]:
    """Run a step again and again in a trace on disk, open that, and count calls of each module, and those of them that
    have a backward row. They may have several: where threads run nodes at once, a row ends where another begins one.
    """
    import modtrace

    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.mtrace"
        with modtrace.trace(path=path):
            for _ in range(count):
                step()
        trace, reason = opened(path)
        if trace is None:
            return {"backwards": count, "fault": reason, "forward": {}, "backward": {}, "gaps": []}, None
        calls = trace.calls
        modules, nodes = calls[calls["kind"] == "module"], calls[calls["kind"] == "backward"]
        found = {
            "backwards": count,
            "fault": "",
            "forward": _by_name(modules.groupby("name", observed=True).size()),
            "backward": _by_name(nodes.groupby("name", observed=True)["forward"].nunique()),
            "gaps": gaps_of(trace),
        }
        return found, calls


def _by_name(counts: Any) -> dict[str, int]:
    return {str(name) or "(root)": int(count) for name, count in counts.items()}


def measure_mixed(place: Place) -> Measured:
    """The CPU's nodes run on the thread that calls backward, the device's on a thread of the engine."""
    return _rows(_mixed(place), place.size(5_000, 3))[0]


def judge_mixed(measured: Measured) -> Verdict:
    """The trace opens, nothing is lost, and each call has its backward."""
    forward, backward = measured["forward"], measured["backward"]
    lacking = {name: rows - backward.get(name, 0) for name, rows in forward.items()}
    lacking = {name: rows for name, rows in lacking.items() if rows}
    good = not measured["fault"] and not measured["gaps"] and not lacking
    good = good and len(forward) > 1 and set(forward.values()) == {measured["backwards"]}
    figures = measured["fault"] or (
        f"{sum(backward.values()):,} of {sum(forward.values()):,} calls have a backward"
        + "".join(f", {name} lacks {rows:,}" for name, rows in lacking.items())
    )
    return verdict("; ".join([figures, *measured["gaps"]]), good=good)


def measure_two(place: Place) -> Measured:
    """Calls with a backward by half, and what is known of their device times."""
    found, calls = _rows(_two_devices(place), place.size(1_000, 3))
    known = {}
    if calls is not None:
        modules = calls[calls["kind"] == "module"]
        known = _by_name(modules.groupby("name", observed=True)["device_ns"].count())
    return found | {"forward_times": known}


def judge_two(measured: Measured) -> Verdict:
    """The trace opens, each call has its backward, and the forwards on both devices have their time."""
    count, times = measured["backwards"], measured["forward_times"]
    halves = ("first", "second")
    gaps = [gap for gap in measured["gaps"] if not gap.startswith("several devices")]  # what it says is so
    good = not measured["fault"] and not gaps
    good = good and all(times.get(name, 0) >= count - 1 for name in halves)
    good = good and all(
        measured["backward"].get(name, 0) == measured["forward"].get(name) == count for name in halves
    )
    figures = measured["fault"] or "; ".join(
        f"{name}: {times.get(name, 0):,} times, {measured['backward'].get(name, 0):,} backwards of {count:,}"
        for name in halves
    )
    return verdict("; ".join([figures, *measured["gaps"]]), good=good)


_NAMES = ("(root)", "bags.0", "top", "top.0")

CHECKS = (
    Check(
        "8a",
        "embeddings on the CPU, MLP on the GPU, 5,000 backwards",
        "the trace opens; every call of a module has backward rows",
        measure_mixed,
        judge_mixed,
        good={
            "backwards": 5_000,
            "fault": "",
            "forward": dict.fromkeys(_NAMES, 5_000),
            "backward": dict.fromkeys(_NAMES, 5_000),
            "gaps": [],
        },
        bad=(
            {"fault": "the trace contradicts itself: a root call has a depth", "forward": {}, "backward": {}},
            {"backward": dict.fromkeys(_NAMES[:-1], 5_000)},
            {"forward": {}, "backward": {}},
            {"gaps": ["5 rows contradict others and were left out"]},
        ),
        limit_s=90,
        on_cpu=True,
    ),
    Check(
        "8b",
        "a half of the model on each of two GPUs, 1,000 backwards",
        "the trace opens; calls on both have device_ns and backward rows",
        measure_two,
        judge_two,
        good={
            "backwards": 1_000,
            "fault": "",
            "forward": {"(root)": 1_000, "first": 1_000, "second": 1_000},
            "backward": {"(root)": 1_000, "first": 1_000, "second": 1_000},
            "gaps": [],
            "forward_times": {"(root)": 0, "first": 1_000, "second": 1_000},
        },
        bad=(
            {"fault": "the trace contradicts itself"},
            {"forward_times": {"first": 1_000, "second": 0}},
            {"backward": {"(root)": 1_000, "second": 1_000}},
            {"gaps": ["device time is not recorded from here on: RuntimeError"]},
        ),
        gpus=2,
    ),
)
