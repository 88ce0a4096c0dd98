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

from modtrace.capture.engine.dynamo_skip import see_through
from modtrace.capture.torch_private.lookup import places_in_core
from modtrace.capture.torch_private.names import cuda_is_capturing, cuda_memory_stats
from modtrace.capture.torch_private.spelled import CUDA_RESETS
from modtrace.trace.schema import AT_RECOUNT, AT_RESET

RESETS: Final = dict(zip(CUDA_RESETS, (AT_RESET, AT_RESET, AT_RECOUNT, AT_RECOUNT), strict=True))


class AllocatorEvents(NamedTuple):
    """Events of an allocator; None where it does not count them.

    Since the program began or has last reset the counters: how often it emptied its cache because the device had no
    more, how often that did not help, and how often it took memory from the device and gave some back. Now: free bytes
    in the midst of what is used, bytes that are used or waited for by a stream, and bytes that were asked for before
    rounding.
    """

    retries: int | None = None
    ooms: int | None = None
    device_allocs: int | None = None
    device_frees: int | None = None
    inactive_split_bytes: int | None = None
    active_bytes: int | None = None
    requested_bytes: int | None = None


class Counters(NamedTuple):
    """Bytes. Since the program began or has last reset the counter `peak_bytes` is the most that was allocated at once,
    `total_bytes` the sum of all allocations: None where the allocator does not count that.
    """

    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    total_bytes: int | None
    trouble: AllocatorEvents = AllocatorEvents()


class DeviceMemory(Protocol):
    """Protocol of the allocator of devices of one kind. Any method may raise: it is then asked no more."""

    kind: str
    """As in `torch.device.type`."""

    def count(self) -> int:
        """Number of devices."""

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
        self._is_capturing: Any = cuda_is_capturing or torch.cuda.is_current_stream_capturing
        self._placed: list[tuple[Any, str, Any, Any]] = []

    def count(self) -> int:
        return int(torch.cuda.device_count())

    def read(self, device: int) -> Counters | None:
        if self._is_capturing():
            return None
        statistics = cuda_memory_stats(device)
        allocated = statistics["allocated_bytes"]["all"]
        reserved = statistics["reserved_bytes"]["all"]["current"]
        # CUDA's own asynchronous allocator does not count: it says 0.
        total = allocated["allocated"] or None
        trouble = _trouble(statistics) if total is not None else AllocatorEvents()
        return Counters(allocated["current"], reserved, allocated["peak"], total, trouble)

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


class MpsMemory:
    """The allocator of Apple's GPU. It has no counter of a peak: `peak_bytes` is what is allocated."""

    kind = "mps"

    def count(self) -> int:
        return 1

    def read(self, _: int) -> Counters:
        allocated, driver = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
        return Counters(allocated, driver, allocated, None)

    def watch(self, _: Callable[[int, int], None]) -> None:
        """There is no counter to reset."""

    def close(self) -> None:
        """Nothing is watched."""


def _trouble(statistics: dict[str, Any]) -> AllocatorEvents:
    """The events in a dictionary of torch's statistics."""
    events = ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free")
    sizes = ("inactive_split_bytes", "active_bytes", "requested_bytes")
    now = [statistics[name]["all"]["current"] if name in statistics else None for name in sizes]
    return AllocatorEvents(*map(statistics.get, events), *now)


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


def may_have_counters(device_type: str) -> bool:
    """True if the allocator of devices of a kind has counters, once their driver runs."""
    if device_type == "mps":
        return hasattr(torch, "mps") and hasattr(torch.mps, "driver_allocated_memory")
    return device_type == "cuda" and cuda_memory_stats is not None


def memory_of(device_type: str) -> DeviceMemory | None:
    """The allocator of devices of a kind; None where it has no counters, or has not begun. Starts no driver of CUDA.

    MPS is asked for where a tensor on it was seen: whether it runs cannot be told without starting it.
    """
    cuda: Any = torch.cuda
    if device_type == "mps" and may_have_counters(device_type):
        return MpsMemory()
    return CudaMemory() if may_have_counters(device_type) and cuda.is_initialized() else None
