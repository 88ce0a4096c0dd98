"""Checks 6 and 7: how exact the times of a device are, and whether they stay beside those of the host."""

from __future__ import annotations

import statistics
import time
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.sources import profiled

KERNELS_US = (5, 50, 5_000)
BATCH = 50
"""Calls between two waits for the device: fewer than a stream takes in before a launch has to wait."""
LEAST_US, MOST_US, CONSTANT_US = -0.5, 3.0, 2.0
"""An event has steps of half a microsecond."""
LOOP_SECONDS = 45
"""Instead of 10 minutes. At 10 parts in a million, a clock that is not laid anew is 450 us off by then."""
WINDOW_NS = 5_000_000_000
DRIFT_US = 50.0


def _spin(place: Place, cycles: int) -> None:
    """One kernel that does nothing for so many cycles."""
    import torch

    if place.cuda:
        torch.cuda._sleep(cycles)  # noqa: SLF001


def _cycles_per_us(place: Place) -> float:
    """By torch's profiler."""
    cycles = 10_000_000
    with profiled(place.device) as seen:
        _spin(place, cycles)
    return cycles / seen.device_us if seen.device_us else 1_000.0


def _one_kernel(place: Place, cycles: int, count: int) -> tuple[list[int], list[float]]:
    """(device_ns that is known, microseconds of kernels) of calls that run one kernel each; both of the same calls."""
    import torch
    from torch import nn

    import modtrace

    class OneKernel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            _spin(place, cycles)
            return x

    model, x = OneKernel(), torch.zeros(1, device=place.device)
    ahead = 20_000_000  # some 10 ms: the device comes to the calls when all are queued
    with profiled(place.device) as seen, modtrace.trace(flops=False) as trace:
        for _ in range(count // BATCH or 1):
            _spin(place, ahead)
            for _ in range(min(count, BATCH)):
                model(x)
            place.wait()
    calls = trace.calls
    device_ns = [int(one) for one in calls[calls["kind"] == "module"]["device_ns"].dropna()]
    spent = [float(event["dur"]) for event in seen.of("kernel") if "spin" in event["name"]]
    return device_ns, sorted(spent)[: len(spent) - (count // BATCH or 1)] if place.cuda else spent


def measure_resolution(place: Place) -> Measured:
    """Modules with one kernel of a known length, behind work that keeps the device busy until all are queued."""
    per_us = _cycles_per_us(place)
    found: dict[str, Any] = {}
    for microseconds in KERNELS_US:
        count = place.size(1_000 if microseconds < 1_000 else 200, 2)
        ours, theirs = _one_kernel(place, round(microseconds * per_us), count)
        found[str(microseconds)] = {
            "calls": count,
            "known": len(ours),
            "device_us": statistics.mean(ours) / 1e3 if ours else None,
            "kernel_us": statistics.mean(theirs) if theirs else None,
        }
    return {"kernels": found}


def judge_resolution(measured: Measured) -> Verdict:
    """`device_ns` is a little more than the kernel, by as much for short and long ones."""
    rows = measured["kernels"].values()
    if any(row["device_us"] is None or row["kernel_us"] is None for row in rows):
        return verdict("no device time, or no kernels", good=False)
    more = [row["device_us"] - row["kernel_us"] for row in rows]
    good = all(LEAST_US <= one <= MOST_US for one in more) and max(more) - min(more) <= CONSTANT_US
    good = good and all(row["known"] == row["calls"] for row in rows)
    parts = [f"{row['kernel_us']:,.1f} us: {one:+.2f} us" for row, one in zip(rows, more, strict=True)]
    unknown = sum(row["calls"] - row["known"] for row in rows)
    return verdict("; ".join([*parts, *([f"{unknown} unknown"] if unknown else [])]), good=good)


def _minima_us(host_ns: Any, device_ns: Any) -> list[float]:
    """The least distance from the start on the host to the start on the device, in each window of some seconds."""
    import numpy as np

    window = (host_ns - host_ns[0]) // WINDOW_NS
    return [float((device_ns - host_ns)[window == one].min()) / 1e3 for one in np.unique(window)]


def measure_drift(place: Place) -> Measured:
    """A loop that waits for the device in each step: it is idle whenever the next call begins."""
    import torch
    from torch import nn

    import modtrace
    from modtrace.analysis.columns import column, values_and_known
    from modtrace.analysis.device_times import device_times
    from modtrace.analysis.timeline import timeline

    model, x = nn.Linear(64, 64, device=place.device), torch.randn(8, 64, device=place.device)
    seconds = LOOP_SECONDS if place.cuda else 0.02
    with torch.no_grad(), modtrace.trace(flops=False) as trace:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            model(x).sum().item()
            time.sleep(0.002)
    stored = trace._read()  # noqa: SLF001
    times, line = device_times(stored), timeline(stored)
    host = column(line.calls, "start_ns").astype("int64")[times.placed]
    shown = times.start_ns[times.placed]
    raw = stored.table("device_times")
    recorded, known = values_and_known(raw, "start_ns")
    at = line.place[column(raw, "call")][known] if len(raw) else []
    return {
        "seconds": seconds,
        "calls": len(shown),
        "minima_us": _minima_us(host, shown) if len(shown) else [],
        "recorded_us": _minima_us(column(line.calls, "start_ns").astype("int64")[at], recorded[known])
        if len(raw)
        else [],
    }


def judge_drift(measured: Measured) -> Verdict:
    """In every window a call begins on the device when it does on the host."""
    minima = measured["minima_us"]
    if len(minima) < 5:
        return verdict(f"only {len(minima)} windows", good=False)
    good = all(abs(one) <= DRIFT_US for one in minima)
    recorded = measured["recorded_us"]
    drift = f", as recorded from {recorded[0]:+.1f} to {recorded[-1]:+.1f} us" if recorded else ""
    figures = (
        f"{min(minima):+.1f} to {max(minima):+.1f} us over {measured['seconds']} s, "
        f"{measured['calls']:,} calls{drift}"
    )
    return verdict(figures, good=good)


def _resolution(*more: float, known: int = 1_000) -> Measured:
    """A made-up measurement: by how many microseconds `device_ns` is more than its kernel."""
    rows = {
        str(kernel): {"calls": 1_000, "known": known, "device_us": kernel + extra, "kernel_us": float(kernel)}
        for kernel, extra in zip(KERNELS_US, more, strict=True)
    }
    return {"kernels": rows}


CHECKS = (
    Check(
        "6",
        "modules with one kernel of 5 us, 50 us and 5 ms, profiled at the same time",
        f"mean device_ns minus kernel from {LEAST_US} to {MOST_US:g} us, {CONSTANT_US:g} us apart at most: "
        "the resolution",
        measure_resolution,
        judge_resolution,
        good=_resolution(1.5, 1.6, 2.4),
        bad=(
            _resolution(1.5, 1.6, 20.0),
            _resolution(-1.0, -1.0, -1.0),
            _resolution(0.0, 1.0, 2.5),
            _resolution(1.5, 1.6, 2.4, known=999),
            {"kernels": {"5": {"calls": 2, "known": 0, "device_us": None, "kernel_us": None}}},
        ),
        limit_s=90,
        alone=True,
    ),
    Check(
        "7",
        f"`.item()` in each step for {LOOP_SECONDS} s (the list asks for 10 min: shortened to fit)",
        f"start on the device within {DRIFT_US:g} us of the host's, in every window of 5 s",
        measure_drift,
        judge_drift,
        good={"seconds": 45, "calls": 18_000, "minima_us": [6.0] * 9, "recorded_us": [6.0, 456.0]},
        bad=(
            {"minima_us": [6.0, 6.0, 6.0, 6.0, 456.0]},
            {"minima_us": [-60.0, 6.0, 6.0, 6.0, 6.0]},
            {"minima_us": []},
        ),
        limit_s=LOOP_SECONDS + 45,
        alone=True,
    ),
)
