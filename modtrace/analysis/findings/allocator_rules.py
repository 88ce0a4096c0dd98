"""Rules about the allocators of devices: memory that is taken and given back while steps run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from modtrace.analysis.call_titles import titles
from modtrace.analysis.device_memory import UNBOUNDED, of_rows, readings
from modtrace.analysis.findings.base import Facts, Finding
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, PHASE
from modtrace.units import percent, plural, size

TIMES: Final = 2
"""Steps in which it happened, at the least: once may be the last time that memory was short."""
OFTEN: Final = 0.5
FRAGMENTED: Final = 0.2
FRAGMENT_BYTES: Final = 64 << 20
PUT_IN: Final = ("forward", "eval")
"""Phases that are rows put in around their root call."""
ONE_NAME: Final = (2, 12)
"""From this version of torch on PYTORCH_ALLOC_CONF sets expandable segments; before it CUDA's own name does alone."""


def retries(facts: Facts) -> Iterator[Finding]:
    """An allocator emptied its cache in TIMES steps or more, because the device had no more memory."""
    counts = facts.steady.known("memory_retries")
    times, steps = int(counts.sum()), int((counts > 0).sum())
    if steps < TIMES:
        return
    text = (
        f"the device had no more memory {plural(times, 'time')} in {steps} of {plural(len(counts), 'step')}: "
        f"the allocator waited for it and gave back what was free{_where(facts, 'memory_retries')}"
    )
    unused = _unused(facts)
    if unused is None:
        yield Finding("retries", text, "use a smaller batch, or hold less")
        return
    text = f"{text}; {size(unused[0])} that it held ({percent(*unused)}%) was never in use meanwhile, but in pieces"
    yield Finding("retries", text, f"set {alloc_conf(facts.stored)}=expandable_segments:True")


def device_allocs(facts: Facts) -> Iterator[Finding]:
    """An allocator takes memory from its device in OFTEN of the steps, and holds no more at their ends: it is given
    back in each. Where memory was short `retries` says why.
    """
    steps = facts.steady.chosen(facts.steady["memory_device_allocs"] >= 0)
    if not facts.enough or not len(steps):
        return
    taken, reserved_bytes = steps["memory_device_allocs"], steps["memory_reserved_bytes"]
    back = np.append(False, (taken[1:] > 0) & (np.diff(reserved_bytes) <= 0))
    back &= steps["memory_retries"] <= 0
    if back.sum() < OFTEN * len(steps):
        return
    text = (
        f"the allocator takes memory from the device {float(np.mean(taken)):.1f} times a step and gives it back: in "
        f"{int(back.sum())} of {plural(len(steps), 'step')} it held no more afterwards"
        f"{_where(facts, 'memory_device_allocs')}"
    )
    remedy = (
        "look for torch.cuda.empty_cache() in the loop, or a garbage_collection_threshold of the allocator"
    )
    yield Finding("device_allocs", text, remedy)


def _where(facts: Facts, column: str) -> str:
    """The root calls or phases in which most of it happened: `, most in optimizer SGD`."""
    read = of_rows(facts.stored)
    events = read.retries if column == "memory_retries" else read.device_allocs
    call_kind = facts.calls.values("kind")
    put_in = np.logical_or.reduce([facts.phase_rows(name) for name in PUT_IN])
    rows = np.flatnonzero(
        facts.steady_rows & (events > 0) & ((call_kind == MODULE) | ((call_kind == PHASE) & ~put_in))
    )
    if not len(rows):
        return ""
    code, named = titles(facts.stored)
    sums = np.bincount(code[rows], events[rows], minlength=len(named))
    return f", most in {named[int(sums.argmax())]}"


def _unused(facts: Facts) -> tuple[int, int] | None:
    """(unused, reserved) bytes of the allocator around the times that memory was short; None where the unused part was
    too little to matter, or is not known.

    The unused bytes are a lower bound: those reserved at the reading behind, without the most that can have been given
    out at once since the one before. Free segments were given back then, so it was in pieces of others.
    """
    sizes_bytes = []
    for device in readings(facts.stored):
        short = (device.retries[:-1] >= 0) & (device.retries[1:] > device.retries[:-1])
        positions = np.flatnonzero(short & (device.upper_bytes < UNBOUNDED))
        unused = device.reserved_bytes[positions + 1] - device.upper_bytes[positions]
        if len(positions):
            middle = int(np.argsort(unused, kind="stable")[(len(positions) - 1) // 2])
            sizes_bytes.append((int(unused[middle]), int(device.reserved_bytes[positions[middle] + 1])))
    unused_bytes, reserved_bytes = max(sizes_bytes, default=(0, 0))
    enough = unused_bytes >= max(FRAGMENT_BYTES, FRAGMENTED * reserved_bytes)
    return (unused_bytes, reserved_bytes) if enough else None


def alloc_conf(stored: Stored) -> str:
    """The environment variable by which the torch of a trace is told about its allocator."""
    parts = (stored.processes[0].torch or "").split(".")[:2] if stored.processes else []
    version = tuple(int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 4)
    return "PYTORCH_ALLOC_CONF" if version >= ONE_NAME else "PYTORCH_CUDA_ALLOC_CONF"
