"""The counters of a device's caching allocator: what it has given out, what it holds, and its own running peak.

They are read, never reset. torch has no cheaper way to them than the whole dictionary of its statistics, which takes
ten microseconds or more to make (`_cuda_memoryStats`, torch 2.11 to 2.13; `torch.cuda.memory_stats` flattens and sorts
it, and takes several times as long).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import torch

from modtrace.capture.torch_private.lookup import places_in_core
from modtrace.capture.torch_private.names import cuda_memory_stats
from modtrace.capture.torch_private.spelled import CUDA_RESETS
from modtrace.capture.unseen import see_through
from modtrace.trace.schema import AT_RECOUNT, AT_RESET

RESETS: Final = dict(zip(CUDA_RESETS, (AT_RESET, AT_RESET, AT_RECOUNT, AT_RECOUNT), strict=True))


class Counters(NamedTuple):
    """Bytes. Since the program began or has last reset the counter `peak_bytes` is the most that was allocated at once,
    `total_bytes` the sum of all allocations: None where the allocator does not count that.
    """

    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    total_bytes: int | None


class DeviceMemory(Protocol):
    """What is asked of the allocator of devices of one kind. Any method may raise: it is then asked no more."""

    kind: str
    """As in `torch.device.type`."""

    def count(self) -> int:
        """How many devices there are."""

    def read(self, device: int) -> Counters | None:
        """The counters now; None while they may not be read."""

    def watch(self, resets: Callable[[int, int], None]) -> None:
        """Tell of each reset of a counter by the program before it happens: (device, AT_RESET or AT_RECOUNT)."""

    def close(self) -> None:
        """Watch no more."""


class CudaMemory:
    """CUDA's caching allocator, and ROCm's."""

    kind = "cuda"

    def __init__(self) -> None:
        self._is_capturing: Any = torch.cuda.is_current_stream_capturing
        self._placed: list[tuple[Any, str, Any, Any]] = []

    def count(self) -> int:
        return int(torch.cuda.device_count())

    def read(self, device: int) -> Counters | None:
        if self._is_capturing():
            return None
        found = cuda_memory_stats(device)
        allocated = found["allocated_bytes"]["all"]
        reserved = found["reserved_bytes"]["all"]["current"]
        # CUDA's own asynchronous allocator does not count: it says 0.
        return Counters(allocated["current"], reserved, allocated["peak"], allocated["allocated"] or None)

    def watch(self, resets: Callable[[int, int], None]) -> None:
        for owner, name in places_in_core(RESETS):
            original = getattr(owner, name)
            replacement = _before(original, functools.partial(_tell, resets, RESETS[name]))
            self._placed.append((owner, name, original, replacement))
            setattr(owner, name, replacement)

    def close(self) -> None:
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if getattr(owner, name, None) is replacement:
                setattr(owner, name, original)


def _tell(resets: Callable[[int, int], None], moment: int, device: int) -> None:
    resets(device, moment)


def _before(original: Callable[..., Any], tell: Callable[[int], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(device: Any, *args: Any, **kwargs: Any) -> Any:
        if type(device) is int:
            tell(device)
        return original(device, *args, **kwargs)

    see_through(run)
    return run


def memory_of(kind: str) -> DeviceMemory | None:
    """The allocator of devices of a kind; None where it has no counters, or has not begun. Starts no driver."""
    cuda: Any = torch.cuda
    if kind != "cuda" or cuda_memory_stats is None:
        return None
    return CudaMemory() if cuda.is_initialized() else None
