"""The history that CUDA's caching allocator keeps of itself, for where torch's profiler cannot run.

It tells less than the profiler: sizes as they were asked for, not of the blocks that were given out, so it does not add
up to what `torch.cuda.memory_allocated()` counts; times in microseconds; no threads; nothing of the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import torch

from modtrace.capture.allocations import Event
from modtrace.capture.torch_private.lookup import CUDA_HISTORY, missing, places_in_core
from modtrace.capture.torch_private.names import (
    cuda_has_history,
    cuda_memory_stats,
    cuda_snapshot,
    record_cuda_history,
)
from modtrace.capture.torch_private.spelled import CUDA_HISTORY_STARTS
from modtrace.capture.unseen import see_through

MOST_ENTRIES: Final = 500_000
"""Entries kept; the allocator writes over the oldest from there on."""
CHANGES: Final = {"alloc": 1, "free_requested": -1}
"""Entries after which more, or less, is allocated. A block that waits for another stream counts as freed, as it does in
the allocator's own counters.
"""
NS_PER_US: Final = 1_000
ANY_THREAD: Final = 0
"""Of an event whose thread is not told."""

Entry = dict[str, Any]


class AllocatorHistory(Protocol):
    """What is asked of an allocator that keeps a history. Any method may raise."""

    def begin(self) -> list[int] | None:
        """Begin to keep it; bytes asked for and held by then on each device. None where it cannot be had: the program
        keeps one of its own, or no device is in use.
        """

    def end(self) -> list[list[Entry]] | None:
        """The entries of each device in order, and keep no more. None where the program has begun one of its own
        meanwhile, which then goes on.
        """


class CudaHistory:
    """That of CUDA, by torch 2.11 to 2.13's `torch.cuda.memory`."""

    def __init__(self) -> None:
        self._placed: list[tuple[Any, str, Any, Any]] = []
        self._taken = False

    def begin(self) -> list[int] | None:
        cuda: Any = torch.cuda
        if not cuda.is_initialized() or cuda_has_history():
            return None
        record_cuda_history("all", context=None, stacks="python", max_entries=MOST_ENTRIES)
        for owner, name in places_in_core(CUDA_HISTORY_STARTS):
            original = getattr(owner, name)
            replacement = self._noticing(original)
            self._placed.append((owner, name, original, replacement))
            setattr(owner, name, replacement)
        stats = [cuda_memory_stats(device) for device in range(cuda.device_count())]
        return [int(one["requested_bytes"]["all"]["current"]) for one in stats]

    def end(self) -> list[list[Entry]] | None:
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if getattr(owner, name, None) is replacement:
                setattr(owner, name, original)
        if self._taken or not cuda_has_history():
            return None
        try:
            traces: list[list[Entry]] = cuda_snapshot()["device_traces"]
        finally:
            record_cuda_history(None)
        return traces

    def _noticing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            self._taken = True
            return original(*args, **kwargs)

        see_through(record)
        return record


def history_of() -> AllocatorHistory | None:
    """The history that there is in this torch."""
    return None if missing(CUDA_HISTORY) else CudaHistory()


def moment(clock: Callable[[], int]) -> tuple[int, int]:
    """Now, in the clock of the entries (nanoseconds of the time of day) and in ours; of five tries the closest."""
    best = None
    for _ in range(5):
        before, theirs, after = clock(), time.time_ns(), clock()
        if best is None or after - before < best[0]:
            best = (after - before, theirs, (before + after) // 2)
    assert best is not None
    return best[1], best[2]


def events_in(traces: Sequence[Sequence[Entry]], held: Sequence[int]) -> Iterator[Event]:
    """The entries of each device as events like the profiler's; `held` are bytes at the begin."""
    for device, entries in enumerate(traces):
        level = held[device] if device < len(held) else 0
        for entry in entries:
            size = CHANGES.get(entry["action"], 0) * int(entry["size"])
            if size:
                level += size
                at_ns = int(entry["time_us"]) * NS_PER_US + NS_PER_US // 2
                yield Event(at_ns, int(entry["addr"]), size, f"cuda:{device}", ANY_THREAD, level)
