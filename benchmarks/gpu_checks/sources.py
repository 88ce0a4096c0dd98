"""Numbers that do not depend on modtrace: of the driver, nvidia-smi, and torch's profiler as it writes its file."""

from __future__ import annotations

import bisect
import ctypes
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

ON_DEVICE: Final = ("kernel", "gpu_memcpy", "gpu_memset")
NODE: Final = "autograd::engine::evaluate_function"
NOT_INITIALISED: Final = 3
"""CUDA_ERROR_NOT_INITIALIZED: nobody in this process has called cuInit."""


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def driver_is_initialised() -> bool | None:
    """Whether cuInit has been called in this process; None without a driver. Asking does not initialise it."""
    driver = _driver()
    if driver is None:
        return None
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != NOT_INITIALISED


def devices_with_context() -> list[int] | None:
    """Devices on which this process has a primary context; None without a driver."""
    driver = _driver()
    if driver is None:
        return None
    count, flags, active = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        status = driver.cuDevicePrimaryCtxGetState(index, ctypes.byref(flags), ctypes.byref(active))
        if status == 0 and active.value:
            found.append(index)
    return found


def gpus_of_process(pid: int) -> list[str] | None:
    """UUIDs of GPUs on which nvidia-smi lists a process; None where it lists none, as in most containers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    found = sorted({row[1] for row in rows if len(row) == 2 and row[0] == str(pid)})
    return found or None


@dataclass
class Profiled:
    """What torch's profiler wrote: the events of its file, by category.

    Kernels, copies and fills are told by their category, so ranges that are drawn on a device are none of them.
    """

    events: list[dict[str, Any]] = field(default_factory=list)

    def of(self, *categories: str) -> list[dict[str, Any]]:
        """Events of some categories."""
        return [event for event in self.events if event.get("cat") in categories]

    @property
    def on_device(self) -> list[dict[str, Any]]:
        """Kernels, copies and fills."""
        return self.of(*ON_DEVICE)

    @property
    def device_us(self) -> float:
        """Microseconds of all of them."""
        return float(sum(event["dur"] for event in self.on_device))

    def by_range(self, prefix: str) -> Counter[tuple[str, bool, str]]:
        """How often each kernel ran for each range `prefix ...`: (range, in backward, name of the kernel).

        A kernel is tied to an operator by torch's own `External id`. The operator is in a range by time and thread; in
        backward its node has the sequence number of an operator in the range.
        """
        operators = {event["args"]["External id"]: event for event in self.of("cpu_op")}
        ranges = _Intervals([e for e in self.of("user_annotation") if e["name"].startswith(prefix)])
        nodes = _Intervals([e for e in self.of("cpu_op") if e["name"].startswith(NODE)])
        of_sequence: dict[int, str] = {}
        for event in operators.values():
            around = ranges.around(event)
            number = event["args"].get("Sequence number")
            if around is not None and number is not None and not event["args"].get("Fwd thread id"):
                of_sequence[number] = around["name"]
        found: Counter[tuple[str, bool, str]] = Counter()
        for kernel in self.on_device:
            operator = operators.get(kernel["args"].get("External id"))
            if operator is None:
                continue
            around, node = ranges.around(operator), nodes.around(operator)
            if around is not None:
                found[around["name"], False, comparable(kernel["name"])] += 1
            elif node is not None:
                name = of_sequence.get(node["args"].get("Sequence number", -1))
                if name is not None:
                    found[name, True, comparable(kernel["name"])] += 1
        return found


class _Intervals:
    """Events of which none of a thread lies in another, to be asked for the one around a moment."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self._by_thread: dict[Any, list[dict[str, Any]]] = {}
        for event in sorted(events, key=lambda one: float(one["ts"])):
            self._by_thread.setdefault(event["tid"], []).append(event)

    def around(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """The one that is around the begin of an event on its thread, or is it."""
        mine = self._by_thread.get(event["tid"], [])
        at = bisect.bisect_right(mine, event["ts"], key=lambda one: one["ts"]) - 1
        return mine[at] if at >= 0 and event["ts"] < mine[at]["ts"] + mine[at]["dur"] else None


def comparable(kernel_name: str) -> str:
    """A kernel's name without what a file or a limit of length may change."""
    return "".join(letter for letter in kernel_name if letter.isalnum())[:200]


@contextmanager
def profiled(device: str, *, host: bool = False) -> Iterator[Profiled]:
    """Profile what is inside with torch's profiler, until the device has done it; filled in at the end."""
    import torch

    kinds = torch.profiler.ProfilerActivity
    on_gpu = device == "cuda"
    activities = [*([kinds.CPU] if host or not on_gpu else []), *([kinds.CUDA] if on_gpu else [])]
    found = Profiled()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.profiler.profile(activities=activities) as profiler:
        yield found
        if on_gpu:
            torch.cuda.synchronize()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "profile.json"
        profiler.export_chrome_trace(str(file))
        found.events = json.loads(file.read_text())["traceEvents"]
