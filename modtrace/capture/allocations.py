"""Memory events of torch's profiler -> rows of `allocations`.

The profiler notes every allocation and release of torch's allocators, with its address, in a clock of its own. Ranges
that are opened at both ends of watching tell how that clock and ours differ. Nothing of a tensor is read but where its
memory lies, and that only to tell what long-lived memory is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

CLOCK_RANGE: Final = "modtrace clock"
MOMENTS: Final = 5
"""Ranges at each end; the shortest of each tells best."""


class Event(NamedTuple):
    """One allocation (or release, with a size below zero) in the profiler's clock."""

    at_ns: int
    address: int
    size_bytes: int
    device: str
    thread: int
    """torch's own number of it."""


class Holder(NamedTuple):
    """Memory at an address is known to be held for a purpose at a moment of ours."""

    at_ns: int
    address: int
    category: int


@dataclass(frozen=True)
class Clocks:
    """How the profiler's clock goes beside ours: two moments known in both."""

    theirs: tuple[int, int]
    ours: tuple[int, int]

    def ours_of(self, moment_ns: int) -> int:
        """A moment of the profiler in our clock."""
        between = self.theirs[1] - self.theirs[0]
        rate = (self.ours[1] - self.ours[0]) / between if between > 0 else 1.0
        return self.ours[0] + round((moment_ns - self.theirs[0]) * rate)


@dataclass(frozen=True)
class Rows:
    """Rows of `allocations`; times in our clock, None where there is none."""

    at_ns: list[int]
    freed_ns: list[int | None]
    size_bytes: list[int]
    device: list[str]
    thread: list[int]
    category: list[int | None]


def events_of(roots: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """("memory", event) and ("range", event) of a profiler's event tree, in no order; never recursive."""
    pending = list(roots)
    while pending:
        event = pending.pop()
        pending += event.children
        kind = str(event.tag)
        if kind.endswith("Allocation"):
            yield "memory", event
        elif event.name == CLOCK_RANGE:
            yield "range", event


def memory_event(event: Any) -> Event:
    """What is kept of an allocation event."""
    fields = event.extra_fields
    device = fields.device
    return Event(
        event.start_time_ns, int(fields.ptr or 0), int(fields.alloc_size), str(device), event.start_tid
    )


def clocks(ranges: Sequence[Any], ours: Sequence[tuple[int, int]]) -> Clocks | None:
    """The clocks beside each other, from the ranges in order of time and when we opened and closed each.

    Of the ranges at each end the shortest is believed. None where the profiler has lost some.
    """
    ordered = sorted(ranges, key=lambda one: one.start_time_ns)
    if len(ordered) != len(ours) or len(ours) < 2 * MOMENTS:
        return None
    theirs_at, ours_at = [], []
    for some in (range(MOMENTS), range(len(ours) - MOMENTS, len(ours))):
        best = min(some, key=lambda at: ours[at][1] - ours[at][0])
        theirs_at.append((ordered[best].start_time_ns + ordered[best].end_time_ns) // 2)
        ours_at.append((ours[best][0] + ours[best][1]) // 2)
    return Clocks((theirs_at[0], theirs_at[1]), (ours_at[0], ours_at[1]))


def paired(events: Sequence[Event], beside: Clocks, holders: Sequence[Holder]) -> Rows:
    """An allocation and its release are one row. What was allocated before watching is left out here."""
    rows = Rows([], [], [], [], [], [])
    open_at: dict[tuple[str, int], int] = {}
    for event in sorted(events, key=lambda one: one.at_ns):
        key, at = (event.device, event.address), beside.ours_of(event.at_ns)
        if event.size_bytes > 0:
            open_at[key] = len(rows.at_ns)
            rows.at_ns.append(at)
            rows.freed_ns.append(None)
            rows.size_bytes.append(event.size_bytes)
            rows.device.append(event.device)
            rows.thread.append(event.thread)
            rows.category.append(None)
        elif (found := open_at.pop(key, None)) is not None:
            rows.freed_ns[found] = max(at, rows.at_ns[found])
    _name(rows, events, beside, holders)
    return rows


def _name(rows: Rows, events: Sequence[Event], beside: Clocks, holders: Sequence[Holder]) -> None:
    """Write down what memory is for, where a holder was seen at its address while it was held."""
    by_address: dict[int, list[int]] = {}
    at = 0
    for event in sorted(events, key=lambda one: one.at_ns):
        if event.size_bytes > 0:
            by_address.setdefault(event.address, []).append(at)
            at += 1
    for holder in holders:
        for row in by_address.get(holder.address, ()):
            freed = rows.freed_ns[row]
            if rows.at_ns[row] <= holder.at_ns and (freed is None or freed > holder.at_ns):
                rows.category[row] = holder.category
