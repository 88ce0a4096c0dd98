"""Check 9: CUDA graphs: a capture beside a traced thread, and graphs that torch.compile makes and replays."""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpu_checks.check import SKIP, Check, Measured, Place, Skip, Verdict, verdict
from gpu_checks.sources import profiled

NEAR = 0.05
CAPTURES = 100


def _captures(place: Place, around: AbstractContextManager[Any], count: int) -> tuple[int, int, list[str]]:
    """(captures that succeeded, calls of a model beside them, first errors): the capture's mode is torch's default,
    which forbids every thread of the process what might break it.
    """
    import torch
    from torch import nn

    model, x = nn.Sequential(*[nn.Tanh() for _ in range(4)]), torch.randn(8, 64, device=place.device)
    stop, calls, errors = threading.Event(), 0, []
    on_side = torch.cuda.stream(torch.cuda.Stream()) if place.cuda else nullcontext()

    def serve() -> None:
        nonlocal calls
        with torch.no_grad(), on_side:
            last = None
            while not stop.is_set():
                # The last output keeps the allocator's segment: a new one is forbidden during a capture.
                last = model(x) if last is None else model(last)
                calls += 1
                time.sleep(0.0005)  # the device keeps up: to wait for it is forbidden during a capture

    succeeded = 0
    with around:
        model(x)
        place.wait()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            time.sleep(0.2 if place.cuda else 0.01)
            for _ in range(count):
                try:
                    _capture(place, x)
                    succeeded += 1
                except RuntimeError as error:
                    errors.append(str(error).splitlines()[0])
                time.sleep(0.01 if place.cuda else 0.001)
        finally:
            stop.set()
            thread.join()
    return succeeded, calls, errors[:2]


def _capture(place: Place, x: Any) -> None:
    import torch

    if not place.cuda:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x
        for _ in range(20):
            y = y * 2
            time.sleep(0.0005)  # the other thread has its turns inside the capture
    graph.replay()


def measure_capture(place: Place) -> Measured:
    """Capture on this thread while another runs a model, untraced and traced."""
    import modtrace

    count = place.size(CAPTURES, 2)
    untraced, _, _ = _captures(place, nullcontext(), count)
    succeeded, calls, errors = _captures(place, modtrace.trace(), count)
    return {"captures": count, "untraced": untraced, "traced": succeeded, "calls": calls, "errors": errors}


def judge_capture(measured: Measured) -> Verdict:
    """All captures succeed. Where they do not without modtrace either, nothing is told of it."""
    count = measured["captures"]
    if measured["untraced"] < count:
        return Verdict(SKIP, f"untraced only {measured['untraced']} of {count} succeed")
    figures = f"{measured['traced']} of {count}, beside {measured['calls']:,} calls"
    return verdict(
        "; ".join([figures, *measured["errors"]]), good=measured["traced"] == count and measured["calls"] > 0
    )


def _compiled(place: Place) -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.compiler.reset()
    torch.manual_seed(0)
    width = place.size(4_096, 16)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(4)])
    model = model.to(place.device)
    options = {"mode": "reduce-overhead"} if place.cuda else {"backend": "eager"}
    return torch.compile(model, **options), torch.randn(width, width, device=place.device)


def _losses(model: Any, x: Any, runs: int) -> list[float]:
    import torch

    with torch.no_grad():
        return [float(model(x).sum()) for _ in range(runs)]


def measure_compiled(place: Place) -> Measured:
    """Losses untraced and traced, and the device time of calls that replay a graph beside their kernels."""
    import torch

    import modtrace

    if place.cuda and importlib.util.find_spec("triton") is None:
        raise Skip("triton is not installed")
    if place.cuda and shutil.which("cc") is None and shutil.which("gcc") is None:
        raise Skip("there is no C compiler, which triton needs")
    runs = place.size(30, 3)
    model, x = _compiled(place)
    untraced = _losses(model, x, runs)
    with torch.no_grad():
        with profiled(place.device) as seen:
            for _ in range(runs):
                model(x)
        with modtrace.trace(flops=False) as replayed:
            for _ in range(runs):
                model(x)
    model, x = _compiled(place)
    with modtrace.trace():
        traced = _losses(model, x, runs)
    calls = replayed.calls
    roots = calls[(calls["kind"] == "module") & (calls["depth"] == calls["depth"].min())]
    known = roots["device_ns"].iloc[1:].dropna()
    return {
        "untraced_losses": untraced,
        "traced_losses": traced,
        "graph_launches": sum("GraphLaunch" in one["name"] for one in seen.of("cuda_runtime", "cuda_driver")),
        "kernels_us": seen.device_us / runs,
        "device_us": statistics.mean(known) / 1e3 if len(known) else None,
    }


def judge_compiled(measured: Measured) -> Verdict:
    """The same losses, and the time of the graph."""
    same = measured["untraced_losses"] == measured["traced_losses"]
    if not measured["graph_launches"]:
        return Verdict(SKIP, "torch.compile made no graph here")
    if measured["device_us"] is None or not measured["kernels_us"]:
        return verdict("no device time, or no kernels", good=False)
    differ = measured["device_us"] / measured["kernels_us"] - 1
    figures = (
        f"losses {'equal' if same else 'DIFFER'}; device_ns {measured['device_us']:,.0f} us, "
        f"kernels {measured['kernels_us']:,.0f} us ({differ:+.1%})"
    )
    return verdict(figures, good=same and abs(differ) <= NEAR)


CHECKS = (
    Check(
        "9a",
        "`torch.cuda.graph` beside a thread that runs a traced model",
        f"{CAPTURES} of {CAPTURES} captures succeed",
        measure_capture,
        judge_capture,
        good={"captures": 100, "untraced": 100, "traced": 100, "calls": 9_000, "errors": []},
        bad=(
            {"traced": 88, "errors": ["operation would make the legacy stream depend on a capturing one"]},
            {"calls": 0},
        ),
    ),
    Check(
        "9b",
        '`torch.compile(mode="reduce-overhead")`',
        f"same losses; device_ns of replays within {NEAR:.0%} of their kernels",
        measure_compiled,
        judge_compiled,
        good={
            "untraced_losses": [1.5, 1.5],
            "traced_losses": [1.5, 1.5],
            "graph_launches": 30,
            "kernels_us": 10_000.0,
            "device_us": 10_100.0,
        },
        bad=(
            {"traced_losses": [1.5, 1.25]},
            {"device_us": 10_600.0},
            {"device_us": None},
            {"kernels_us": 0.0},
        ),
        limit_s=120,
        alone=True,
    ),
)
