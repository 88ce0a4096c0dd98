"""Check 5: what tracing costs the host and the device."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.sources import profiled

STEP_BAR = 1.02
KERNELS_BAR = 0.01
CALL_BAR_US = 12.0
BUSY_BAR = 1.3


@contextmanager
def traced() -> Iterator[None]:
    """Trace into a folder that is then removed."""
    import modtrace

    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace"):
        yield


def _seconds(place: Place, run: Callable[[], Any], runs: int) -> float:
    """Seconds of a run, the mean of several. Operations are counted in runs 1, 2, 4, 8, ...: none of these is timed."""
    for _ in range(1 << (runs - 1).bit_length()):
        run()
    place.wait()
    started = time.perf_counter()
    for _ in range(runs):
        run()
    place.wait()
    return (time.perf_counter() - started) / runs


def _in_turns(
    place: Place, run: Callable[[], Any], runs: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of a run untraced and traced, taking turns."""
    ways: tuple[Callable[[], AbstractContextManager[None]], ...] = (nullcontext, traced)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for way, taken in zip(ways, seconds, strict=True):
            with way():
                taken.append(_seconds(place, run, runs))
    return seconds


def measure_step(place: Place) -> Measured:
    """A GPU-bound training step: its time, and the time of its kernels."""
    import gpu_workloads

    work = gpu_workloads.gpt2(place.device, large=True, small_model=not place.cuda)
    untraced, with_trace = _in_turns(place, work.step, place.size(7, 2), place.size(5, 2))
    kernels: dict[str, list[float]] = {"untraced": [], "traced": []}
    for _ in range(place.size(3, 1)):
        for name, way in (("untraced", nullcontext), ("traced", traced)):
            with way(), profiled(place.device) as seen:
                for _ in range(2):
                    work.step()
            kernels[name].append(seen.device_us)
    return {
        "untraced_ms": statistics.median(untraced) * 1e3,
        "ratios": [b / a for a, b in zip(untraced, with_trace, strict=True)],
        "untraced_kernels_us": statistics.median(kernels["untraced"]),
        "traced_kernels_us": statistics.median(kernels["traced"]),
    }


def judge_step(measured: Measured) -> Verdict:
    """The step takes as long, and so do its kernels."""
    ratio = statistics.median(measured["ratios"])
    untraced = measured["untraced_kernels_us"]
    kernels = measured["traced_kernels_us"] / untraced - 1 if untraced else float("nan")
    good = ratio <= STEP_BAR and abs(kernels) <= KERNELS_BAR
    figures = (
        f"{ratio:.3f} (from {min(measured['ratios']):.3f} to {max(measured['ratios']):.3f}) of "
        f"{measured['untraced_ms']:.1f} ms; kernels {kernels:+.2%}"
    )
    return verdict(figures, good=good)


def measure_call(place: Place) -> Measured:
    """Many small layers: the host has all the work."""
    import gpu_workloads

    work = gpu_workloads.small_layers(place.device, count=place.size(200, 20))
    untraced, with_trace = _in_turns(place, work.forward, place.size(63, 3), place.size(7, 2))
    return {
        "calls": work.calls,
        "added_us": [(b - a) / work.calls * 1e6 for a, b in zip(untraced, with_trace, strict=True)],
        "untraced_us": statistics.median(untraced) / work.calls * 1e6,
    }


def judge_call(measured: Measured) -> Verdict:
    """What is added to a module call."""
    added = statistics.median(measured["added_us"])
    figures = f"{added:.2f} us a call, beside {measured['untraced_us']:.2f} us untraced"
    return verdict(figures, good=added <= CALL_BAR_US)


def measure_beside_python(place: Place) -> Measured:
    """The same while another thread runs python: an event that lets go of the interpreter waits to get it back."""
    import gpu_workloads

    work = gpu_workloads.small_layers(place.device, count=place.size(200, 4))
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        untraced, with_trace = _in_turns(place, work.forward, place.size(2, 2), place.size(3, 2))
    finally:
        stop.set()
        thread.join()
    return {
        "untraced_ms": statistics.median(untraced) * 1e3,
        "ratios": [b / a for a, b in zip(untraced, with_trace, strict=True)],
    }


def judge_beside_python(measured: Measured) -> Verdict:
    """The ratio of traced to untraced."""
    ratio = statistics.median(measured["ratios"])
    return verdict(f"{ratio:.2f} of {measured['untraced_ms']:.1f} ms", good=ratio <= BUSY_BAR)


CHECKS = (
    Check(
        "5a",
        "GPT-2, 16 x 512 tokens, training step",
        f"traced / untraced at most {STEP_BAR}; time of kernels within {KERNELS_BAR:.0%}",
        measure_step,
        judge_step,
        good={
            "untraced_ms": 110.0,
            "ratios": [1.01, 1.0, 1.03],
            "untraced_kernels_us": 220_000.0,
            "traced_kernels_us": 220_900.0,
        },
        bad=(
            {"ratios": [1.01, 1.03, 1.03]},
            {"traced_kernels_us": 223_000.0},
            {"untraced_kernels_us": 0.0, "traced_kernels_us": 0.0},
        ),
        limit_s=90,
        alone=True,
    ),
    Check(
        "5b",
        "200 linear layers of 8, forward",
        f"at most {CALL_BAR_US:g} us more a module call",
        measure_call,
        judge_call,
        good={"calls": 201, "added_us": [9.0, 10.0, 14.0], "untraced_us": 12.0},
        bad=({"added_us": [9.0, 12.5, 14.0]},),
        alone=True,
    ),
    Check(
        "5c",
        "the same beside a thread that runs python",
        f"traced / untraced at most {BUSY_BAR}",
        measure_beside_python,
        judge_beside_python,
        good={"untraced_ms": 400.0, "ratios": [1.1, 1.2, 1.4]},
        bad=({"ratios": [1.1, 1.35, 1.4]},),
        limit_s=90,
        alone=True,
    ),
)
