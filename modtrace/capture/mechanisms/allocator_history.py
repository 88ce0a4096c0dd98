"""The history that CUDA's caching allocator keeps of itself: of calls, and of all where torch's profiler cannot run.

It tells less than the profiler: sizes as they were asked for, not of the blocks that were given out, so it does not add
up to what `torch.cuda.memory_allocated()` counts; times in microseconds; nothing of the host. From torch 2.13 on the
entries of a thread's allocations carry a text that it has set, so that those of the thread that watches are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import torch

from modtrace.capture.engine.dynamo_skip import see_through
from modtrace.capture.mechanisms.allocations import Event
from modtrace.capture.torch_private.lookup import CUDA_HISTORY, CUDA_MARKS, missing, places_in_core
from modtrace.capture.torch_private.names import (
    cuda_has_history,
    cuda_memory_stats,
    cuda_snapshot,
    mark_allocations,
    mark_of_allocations,
    record_cuda_history,
)
from modtrace.capture.torch_private.spelled import CUDA_HISTORY_STARTS, CUDA_MARKS_ANYTHING

MOST_ENTRIES: Final = 500_000
"""Entries kept; the allocator writes over the oldest from there on."""
CHANGES: Final = {"alloc": 1, "free_requested": -1}
"""Entries after which more, or less, is allocated. A block that waits for another stream counts as freed, as it does in
the allocator's own counters.
"""
NS_PER_US: Final = 1_000
ANY_THREAD, OTHER_THREAD = 0, 1
"""Of an event of the thread that watches, or whose thread is not told; and of one that is known to be another's."""
MARK: Final = "modtrace"
"""Begin of the text of the thread that watches; inside of calls the id of the innermost follows."""

Entry = dict[str, Any]


class AllocatorHistory(Protocol):
    """Protocol of an allocator that keeps a history. Any method may raise.

    marked: what the thread that began it allocates carries MARK.
    lacks: gaps of what this torch lacks for marks.
    """

    marked: bool
    lacks: list[str]

    def begin(self, *, for_marks: bool = False) -> list[int] | None:
        """Begin to keep it; bytes asked for and held by then on each device. None where it cannot be had: the program
        keeps one of its own, or no device is in use; `for_marks` also where nothing can be marked.
        """

    def text(self) -> str:
        """The text that what this thread allocates carries; empty for none."""

    def set_text(self, text: str) -> None:
        """Set it."""

    def end(self) -> list[list[Entry]] | None:
        """The entries of each device in order, and keep no more. None where the program has begun one of its own
        meanwhile, which then goes on.
        """


class CudaHistory:
    """That of CUDA, by torch 2.11 to 2.13's `torch.cuda.memory`."""

    def __init__(self) -> None:
        self._placed: list[tuple[Any, str, Any, Any]] = []
        self._begun = self._taken = False
        self.marked = False
        self.lacks: list[str] = []

    def begin(self, *, for_marks: bool = False) -> list[int] | None:
        cuda: Any = torch.cuda
        if not cuda.is_initialized() or cuda_has_history():
            return None
        self.lacks = missing(CUDA_MARKS)
        self.marked = not self.lacks and _mark()
        if for_marks and not self.marked:
            return None
        record_cuda_history("all", context=None, stacks="python", max_entries=MOST_ENTRIES)
        self._begun = True
        for owner, name in places_in_core(CUDA_HISTORY_STARTS):
            original = getattr(owner, name)
            replacement = self._noticing(original)
            self._placed.append((owner, name, original, replacement))
            setattr(owner, name, replacement)
        if for_marks:
            return []  # sizes are those of the profiler
        stats = [cuda_memory_stats(device) for device in range(cuda.device_count())]
        return [int(one["requested_bytes"]["all"]["current"]) for one in stats]

    def text(self) -> str:
        return str(mark_of_allocations())

    def set_text(self, text: str) -> None:
        mark_allocations(text)

    def end(self) -> list[list[Entry]] | None:
        self._remove()
        if self._taken or not self._begun or not cuda_has_history():
            return None
        try:
            traces: list[list[Entry]] = cuda_snapshot()["device_traces"]
        finally:
            record_cuda_history(None)
        return traces

    def _remove(self) -> None:
        if self.marked and noted_call(self.text()) is not None:
            mark_allocations("")
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if getattr(owner, name, None) is replacement:
                setattr(owner, name, original)

    def _noticing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def record(enabled: Any = None, *args: Any, **kwargs: Any) -> Any:
            if not self._taken:
                if not enabled:
                    return None  # the program has none that could end
                # Entries of ours would stand in its snapshots.
                self._taken = True
                self._remove()
                self.marked = False
                record_cuda_history(None)
            return original(enabled, *args, **kwargs)

        see_through(record)
        return record


def _mark() -> bool:
    """Let what this thread allocates carry MARK, where it can carry anything and the program has set nothing."""
    if not all(getattr(owner, name)() for owner, name in places_in_core([CUDA_MARKS_ANYTHING])):
        return False
    if mark_of_allocations():
        return False
    mark_allocations(MARK)
    return bool(mark_of_allocations() == MARK)  # torch 2.13 takes it without a word where it is not kept


def history_of() -> AllocatorHistory | None:
    """The history that there is in this torch."""
    return None if missing(CUDA_HISTORY) else CudaHistory()


def noted_call(text: str) -> int | None:
    """The id of the call that a text names: -1 for one of ours that names none, None for one that is not ours."""
    name, _, number = text.partition(" ")
    if name != MARK:
        return None
    return int(number) if number.isdecimal() else -1


def moment(clock: Callable[[], int]) -> tuple[int, int]:
    """Now, in the clock of the entries (nanoseconds of the time of day) and in ours; of five tries the closest."""
    best = None
    for _ in range(5):
        before, theirs, after = clock(), time.time_ns(), clock()
        if best is None or after - before < best[0]:
            best = (after - before, theirs, (before + after) // 2)
    assert best is not None
    return best[1], best[2]


def events_in(
    traces: Sequence[Sequence[Entry]], addresses: Sequence[int], *, marked: bool = False
) -> Iterator[Event]:
    """The entries of each device as events like the profiler's; `addresses` are bytes at the begin. Where `marked`,
    what the thread that watches has allocated carries MARK.
    """
    for device, entries in enumerate(traces):
        level = addresses[device] if device < len(addresses) else 0
        for entry in entries:
            size = CHANGES.get(entry["action"], 0) * int(entry.get("size", 0))
            if size:
                level += size
                at_ns = int(entry["time_us"]) * NS_PER_US + NS_PER_US // 2
                call = noted_call(entry.get("user_metadata", "")) if marked else -1
                thread = OTHER_THREAD if call is None else ANY_THREAD
                call = call if call is not None and size > 0 else -1
                yield Event(at_ns, int(entry["addr"]), size, f"cuda:{device}", thread, level, call)


def with_noted_calls(events: Sequence[Event], traces: Sequence[Sequence[Entry]]) -> list[Event]:
    """Events of the profiler with the calls that the allocator has noted of the same allocations.

    Both tell of the allocations at one address in the order in which they were made. Where they do not tell of equally
    many, as where other threads allocate, it is not known which is which, and no call is given.
    """
    noted: dict[tuple[str, int], list[int]] = {}
    for event in events_in(traces, (), marked=True):
        if event.size_bytes > 0:
            noted.setdefault((event.device, event.address), []).append(event.call)
    places: dict[tuple[str, int], list[int]] = {}
    for position in sorted(range(len(events)), key=lambda one: events[one].at_ns):
        if events[position].size_bytes > 0:
            places.setdefault((events[position].device, events[position].address), []).append(position)
    joined = list(events)
    for key, positions in places.items():
        calls = noted.get(key, [])
        if len(calls) == len(positions):
            for position, call in zip(positions, calls, strict=True):
                joined[position] = joined[position]._replace(call=call)
    return joined
