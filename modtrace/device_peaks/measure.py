"""Measures the peaks of devices of this machine: FLOP/s of matrix products by type, and bytes a second of copies.

Measured each time that somebody asks for it (`modtrace device`), never while a program is recorded, and kept in
the user's cache directory, by device, torch and number of threads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import torch

from modtrace.device_peaks.cache import DevicePeaks, cache_folder, cache_name
from modtrace.systems.this_process import processor_name
from modtrace.trace.folder import read_json, write_json

SECONDS: Final = 0.25
"""Seconds that each measurement may take, about. Shorter ones on a busy machine measured a hundredth of what it
reaches.
"""
SIZES: Final = (512, 1024, 2048, 4096, 8192)
COPY_BYTES: Final = 1 << 28


def measure(device: str = "cpu") -> DevicePeaks:
    """Measure the peaks of a device and keep them in the cache."""
    dtype_name = torch.device(device).type
    if dtype_name not in ("cpu", "cuda"):
        # Nothing waits for the others here, and meta computes nothing: a rate of theirs would be made up.
        raise RuntimeError("only the processor and CUDA devices are")
    key = device_key(device)
    peaks = DevicePeaks(key, _products(device), _bandwidth(device))
    folder = cache_folder()
    previous = read_json(folder / cache_name()) or {}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(
            folder,
            cache_name(),
            {**previous, key: {"flops_per_s": peaks.flops_per_s, "bytes_per_s": peaks.bytes_per_s}},
        )
    except OSError:
        pass  # it is measured again the next time
    return peaks


def device_key(device: str = "cpu") -> str:
    """The key of a device in the cache: its name, and what else decides how fast torch is on it."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{processor_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def device_keys() -> dict[str, str]:
    """Of the processor, and of the CUDA devices where the program has used one: to ask before that would start them."""
    keys = {"cpu": device_key()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # Asked at the end of a trace, inside the program: nothing may leave here.
        with contextlib.suppress(Exception):
            for index in range(torch.cuda.device_count()):
                keys[f"cuda:{index}"] = device_key(f"cuda:{index}")
    return keys


def devices_here() -> list[str]:
    """Every device of this machine that can be measured."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{index}" for index in range(count))]


def _products(device: str) -> dict[str, int]:
    """FLOP/s of the best matrix product, for each type that the device multiplies."""
    products = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        try:
            best = 0.0
            for size in SIZES:
                # Not ones: a device that has fewer bits to flip runs at a higher clock than it does for a model.
                a = torch.rand(size, size, device=device).to(dtype)
                seconds = _seconds(lambda a=a: torch.mm(a, a), device)  # type: ignore[misc]
                best = max(best, 2 * size**3 / seconds)
                # By the best so far: one slow measurement may be a busy machine's.
                if 2 * (2 * size) ** 3 / best > SECONDS:
                    break
            products[str(dtype).removeprefix("torch.")] = round(best)
        except RuntimeError:  # not multiplied here
            continue
    return products


def _bandwidth(device: str) -> int:
    """Bytes a second read and written by a copy that no cache holds."""
    count = COPY_BYTES // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return round(2 * COPY_BYTES / _seconds(lambda: target.copy_(source), device))


def _seconds(work: Callable[[], Any], device: str) -> float:
    """The shortest of some executions."""
    wait: Callable[[], Any] = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    work()
    wait()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while True:
        started = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() > until:
            return max(best, 1e-9)
