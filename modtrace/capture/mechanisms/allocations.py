"""Memory events of torch's profiler -> rows of `allocations`.

The profiler notes every allocation and release of torch's allocators, with its address, in a clock of its own. Ranges
that are opened at both ends of watching tell how that clock and ours differ. Nothing of a tensor is read but where its
memory lies, and that only to tell what long-lived memory is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

CLOCK_RANGE: Final = "modtrace clock "
HOST: Final = "cpu"
NO_THREAD: Final = -1
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
    total_bytes: int = 0
    """Bytes allocated on a device after it; of no use on the host."""
    call: int = -1
    """Id of the call in which it was made, as the allocator has noted it; -1 where it has noted none."""


class AddressPurpose(NamedTuple):
    """Memory at an address is known to be held for a purpose at a moment of ours."""

    at_ns: int
    address: int
    category: int
    size_bytes: int = 0
    device: str = HOST


class EarlierAllocation(NamedTuple):
    """An allocation that was held when watching began; `freed_ns` is when it was seen to be freed, in our clock."""

    size_bytes: int
    category: int
    address: int
    device: str
    freed_ns: int | None = None


@dataclass(frozen=True)
class Clocks:
    """The profiler's clock beside ours: two moments known in both."""

    theirs: tuple[int, int]
    ours: tuple[int, int]

    def ours_of(self, moment_ns: int) -> int:
        """A moment of the profiler in our clock."""
        between = self.theirs[1] - self.theirs[0]
        rate = (self.ours[1] - self.ours[0]) / between if between > 0 else 1.0
        return self.ours[0] + round((moment_ns - self.theirs[0]) * rate)


@dataclass(frozen=True)
class AllocationRows:
    """Rows of `allocations`; times in our clock, None where there is none."""

    at_ns: list[int]
    freed_ns: list[int | None]
    size_bytes: list[int]
    device: list[str]
    thread: list[int]
    category: list[int | None]
    call: list[int | None]


def events_of(roots: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """("memory", event) and ("range", event) of a profiler's event tree, in no order; never recursive."""
    pending = list(roots)
    while pending:
        event = pending.pop()
        pending += event.children
        event_kind = str(event.tag)
        if event_kind.endswith("Allocation"):
            yield "memory", event
        elif event.name.startswith(CLOCK_RANGE):
            yield "range", event


def memory_event(event: Any) -> Event:
    """The columns kept of an allocation event."""
    fields = event.extra_fields
    device = fields.device
    return Event(
        event.start_time_ns,
        int(fields.ptr or 0),
        int(fields.alloc_size),
        str(device),
        event.start_tid,
        int(fields.total_allocated),
    )


def clocks(ranges: Sequence[Any], ours: Sequence[tuple[int, int]]) -> Clocks | None:
    """The clocks beside each other, from the ranges, by the numbers in their names, and when we opened and closed each.

    Of the ranges at each end the shortest is believed, of those that the profiler has kept: on a busy machine it drops
    what seems to have begun before itself. None where it has dropped all at an end.
    """
    tick_pairs = {int(tick.name.removeprefix(CLOCK_RANGE)): tick for tick in ranges}
    theirs_at, ours_at = [], []
    for ticks in (range(MOMENTS), range(len(ours) - MOMENTS, len(ours))):
        their_ns = [position for position in ticks if position in tick_pairs]
        if not their_ns:
            return None
        best = min(their_ns, key=lambda position: ours[position][1] - ours[position][0])
        theirs_at.append((tick_pairs[best].start_time_ns + tick_pairs[best].end_time_ns) // 2)
        ours_at.append((ours[best][0] + ours[best][1]) // 2)
    return Clocks((theirs_at[0], theirs_at[1]), (ours_at[0], ours_at[1]))


def paired(
    events: Sequence[Event],
    beside: Clocks,
    holders: Sequence[AddressPurpose],
    before: Sequence[EarlierAllocation] = (),
    began_ns: int = 0,
) -> AllocationRows:
    """An allocation and its release are one row, and what was held when watching began, as far as it is known.

    On a device each event says how much is allocated in all, so there all that was held before is in the rows: what
    was released while watching, what a holder has that was not allocated meanwhile, and the rest as one row. The host
    does not say; there, what was allocated before is left out unless it is a part of `before` or has a holder. What is
    a part of `before` is gone when it was seen to be, or something else was allocated at its address.
    """
    rows = _Pairing(began_ns)
    for one in before:
        row = rows.add(began_ns, one.size_bytes, one.device, NO_THREAD, one.address, one.category)
        if one.device == HOST and one.freed_ns is not None:
            rows.rows.freed_ns[row] = max(one.freed_ns, began_ns)
    levels: dict[str, int] = {}
    for event in sorted(events, key=lambda one: one.at_ns):
        if event.device != HOST:
            levels.setdefault(event.device, event.total_bytes - event.size_bytes)
        rows.take(event, beside.ours_of(event.at_ns))
    for holder in holders:
        rows.name(holder, room=levels.get(holder.device, 0) - rows.before.get(holder.device, 0))
    for device, level in levels.items():
        remaining = level - rows.before.get(device, 0)
        if remaining > 0:
            rows.add(began_ns, remaining, device, NO_THREAD, 0, None)
    return rows.rows


class _Pairing:
    """Rows in the making, and where the memory of each lies. `before` are the bytes of those for what was held when
    watching began, by device.
    """

    def __init__(self, began_ns: int) -> None:
        self.rows = AllocationRows([], [], [], [], [], [], [])
        self._began_ns = began_ns
        self._open: dict[tuple[str, int], int] = {}
        self._at: dict[int, list[int]] = {}
        self.before: dict[str, int] = {}

    def add(
        self,
        row: int,
        size_bytes: int,
        device: str,
        thread: int,
        address: int,
        category: int | None,
        call: int = -1,
    ) -> int:
        rows, number = self.rows, len(self.rows.at_ns)
        rows.at_ns.append(row)
        rows.freed_ns.append(None)
        rows.size_bytes.append(size_bytes)
        rows.device.append(device)
        rows.thread.append(thread)
        rows.category.append(category)
        rows.call.append(call if call >= 0 else None)
        if thread == NO_THREAD:
            self.before[device] = self.before.get(device, 0) + size_bytes
        self._open[device, address] = number
        self._at.setdefault(address, []).append(number)
        return number

    def take(self, event: Event, row: int) -> None:
        """An allocation, or a release. The size of a release is that of the block, which a holder does not know."""
        key = (event.device, event.address)
        if event.size_bytes > 0:
            replaced = self._open.get(key)
            if replaced is not None and self.rows.thread[replaced] == NO_THREAD:
                freed = self.rows.freed_ns[replaced]
                self.rows.freed_ns[replaced] = max(row if freed is None else min(freed, row), self._began_ns)
            self.add(row, event.size_bytes, event.device, event.thread, event.address, None, event.call)
            return
        rows = self._open.pop(key, None)
        if rows is None and event.device != HOST:
            rows = self.add(self._began_ns, -event.size_bytes, event.device, NO_THREAD, event.address, None)
            del self._open[key]
        if rows is not None:
            self.rows.freed_ns[rows] = max(row, self.rows.at_ns[rows])
            if event.device != HOST:
                if self.rows.thread[rows] == NO_THREAD:
                    self.before[event.device] -= event.size_bytes + self.rows.size_bytes[rows]
                self.rows.size_bytes[rows] = -event.size_bytes

    def name(self, holder: AddressPurpose, *, room: int) -> None:
        """Write down what memory is for, where a holder was seen at its address while it was held. What is not there
        was held before, if there is `room` for so many bytes among that.
        """
        rows, missing = self.rows, True
        for row in self._at.get(holder.address, ()):
            freed = rows.freed_ns[row]
            if rows.at_ns[row] <= holder.at_ns and (freed is None or freed > holder.at_ns):
                rows.category[row] = holder.category
                missing = False
        never_here = holder.device == HOST and holder.address not in self._at
        if missing and (never_here or 0 < holder.size_bytes <= room):
            self.add(
                self._began_ns,
                holder.size_bytes,
                holder.device,
                NO_THREAD,
                holder.address,
                holder.category,
            )
