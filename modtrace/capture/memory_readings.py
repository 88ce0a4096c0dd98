"""Reads the counters of devices' allocators where little happens: at both ends of root calls, phases and spans.

Until a tensor on a device whose allocator has counters is seen, `State.device_memory` is None and `Lane.readings` is
empty, and that is all that is looked at. Nothing here raises.
"""

from __future__ import annotations

from typing import Any, Final

from modtrace.capture.clocks import devices_in
from modtrace.capture.device_memory import Counters, CudaMemory, DeviceMemory, memory_of
from modtrace.capture.lanes import Lane
from modtrace.capture.signature import Key
from modtrace.capture.state import State
from modtrace.capture.torch_private.lookup import CUDA_MEMORY, missing
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import AT_END, AT_RECORDING, AT_START, MODULE, THREAD_SHIFT

KINDS: Final = ("cuda",)
"""Devices whose counters are read when recording begins, where their driver has been started."""
GRACE_NS: Final = 20_000_000
SHARE: Final = 64
"""Reading takes GRACE_NS and a SHAREth of the time at most: in a program of short root calls not each is read."""
MOST_NS: Final = 100_000
"""What one reading is counted as at most: that a thread was not running meanwhile is no cost of it."""
MANY_ROWS: Final = 1_000_000

STOPPED: Final = "memory of devices is not read from here on: {}"
UNTOLD: Final = "memory of devices is not known: their allocator has no counters ({})"

Device = tuple[str, int]
Taken = tuple[int, dict[Device, Counters]]
"""Counters of devices, and when they were read."""


class MemoryReadings:
    """Reads the memory of devices for one trace.

    Args:
        state: shared with the tracer.
        origin_ns: the clock at the start of recording.
    """

    def __init__(self, state: State, origin_ns: int) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """What reading has cost."""
        self._state = state
        self._origin_ns = origin_ns
        self._memories: dict[str, DeviceMemory | None] = {}
        self._devices: list[Device] = []
        self._before: dict[Device, Counters] = {}
        self._began_ns = state.clock()
        self._running: set[str] = set()
        self._rows: list[tuple[int, int | None, int, Device, Counters]] = []
        self._counted_ns = 0
        self._off = False
        state.signatures.watches.append(self.see)

    def start(self) -> None:
        """Recording begins: what is held now is what comes before all that is recorded."""
        try:
            self._began_ns = self._state.clock()
            for kind in KINDS:
                found = memory_of(kind)
                if found is None:
                    continue
                self._running.add(kind)
                for index in range(found.count()):
                    counters = found.read(index)
                    if counters is not None:
                        self._before[kind, index] = counters
        except Exception as fault:
            self._untold(fault)

    # what the hooks call --------------------------------------------------------------------------------------------

    def see(self, _: int, key: Key) -> None:
        """Look at a new signature for devices not seen before."""
        if self._off:
            return
        try:
            # One tensor on a device without counters, as of every program on the CPU.
            plain = type(key) is tuple and len(key) == 5
            if plain and self._memories.get(getattr(key[2], "type", ""), self) is None:  # type: ignore[index]
                return
            for device in devices_in(key):
                if device not in self._devices:
                    self._meet(device)
        except Exception as fault:
            self.fail(fault)

    def _meet(self, device: Device) -> None:
        kind, index = device
        if kind not in self._memories:
            self._memories[kind] = memory_of(kind)
            memory = self._memories[kind]
            if kind in KINDS and (memory is None or isinstance(memory, CudaMemory)):
                self.gaps += missing(CUDA_MEMORY)
            if memory is not None:
                memory.watch(lambda index, moment: self._reset((kind, index), moment))
        memory = self._memories[kind]
        if memory is None:
            return
        try:
            now = memory.read(index)
        except Exception as fault:
            self._untold(fault)
            return
        # Where the driver had not been started nothing was allocated.
        before = self._before.get(device, None if kind in self._running else Counters(0, 0, 0, 0))
        if before is not None:
            self._rows.append((self._began_ns - self._origin_ns, None, AT_RECORDING, device, before))
        self._devices.append(device)
        self._state.device_memory = self
        lane = self._state.lanes.lane
        if now is None or any(call[2].kind == MODULE for call in lane.calls):
            return
        # Seen in what a root call was given, which has not begun.
        depth, at = len(lane.calls), self._state.clock()
        if lane.readings and lane.readings[-1][0] == depth:
            lane.readings[-1][1][1][device] = now
        else:
            lane.readings.append((depth, (at, {device: now})))

    def begin(self, lane: Lane) -> None:
        """A root call, a phase or a span is about to begin inside the open calls."""
        try:
            spent = self.spent_ns
            taken = self._read()
            if taken is not None:
                lane.cost(len(lane.calls) - 1, self.spent_ns - spent)
                lane.readings.append((len(lane.calls), taken))
        except Exception as fault:
            self.fail(fault)

    def end(self, lane: Lane, depth: int, call: int, *, failed: bool = False, at_once: bool = False) -> None:
        """The call at a depth has ended and is no longer among the open ones: by an exception, or when it began."""
        try:
            while lane.readings and lane.readings[-1][0] >= depth:
                found, taken = lane.readings.pop()
                if found == depth:
                    number = lane.number << THREAD_SHIFT | call
                    self._keep(taken, number, AT_START)
                    spent = self.spent_ns
                    later = taken if at_once else self._read(needed=True)
                    if (
                        not failed and not at_once
                    ):  # an error is told to be the same by nothing having been recorded since
                        lane.cost(len(lane.calls) - 1, self.spent_ns - spent)
                    if later is not None:
                        self._keep(later, number, AT_END)
        except Exception as fault:
            self.fail(fault)

    # reading --------------------------------------------------------------------------------------------------------

    def _read(self, *, needed: bool = False) -> Taken | None:
        if self._off:
            return None
        started = self._state.clock()
        if not needed and self._counted_ns > GRACE_NS + (started - self._began_ns) // SHARE:
            return None
        found = {}
        for device in self._devices:
            memory = self._memories[device[0]]
            counters = memory.read(device[1]) if memory is not None else None
            if counters is not None:
                found[device] = counters
        spent = self._state.clock() - started
        self.spent_ns += spent
        self._counted_ns += min(spent, MOST_NS)
        return (started, found) if found else None

    def _keep(self, taken: Taken, call: int | None, moment: int) -> None:
        at, found = taken
        if len(self._rows) < MANY_ROWS:
            self._rows += [(at - self._origin_ns, call, moment, device, it) for device, it in found.items()]

    def _reset(self, device: Device, moment: int) -> None:
        """The program is about to reset a counter of a device: what it has been is told by this alone."""
        try:
            memory = self._memories.get(device[0])
            if device in self._devices and memory is not None and not self._off and not self._state.off:
                at, counters = self._state.clock(), memory.read(device[1])
                if counters is not None:
                    self._keep((at, {device: counters}), None, moment)
        except Exception as fault:
            self.fail(fault)

    def rows(self) -> dict[str, list[Any]]:
        """Rows of `device_memory` not handed out before."""
        count = len(self._rows)
        taken = self._rows[:count]
        del self._rows[:count]
        return {
            "at_ns": [row[0] for row in taken],
            "call": [row[1] for row in taken],
            "moment": [row[2] for row in taken],
            "device": [f"{kind}:{index}" for _, _, _, (kind, index), _ in taken],
            "allocated_bytes": [row[4].allocated_bytes for row in taken],
            "reserved_bytes": [row[4].reserved_bytes for row in taken],
            "peak_bytes": [row[4].peak_bytes for row in taken],
            "total_bytes": [row[4].total_bytes for row in taken],
        }

    @property
    def has_rows(self) -> bool:
        """Whether there are rows to hand out."""
        return bool(self._rows)

    # the end --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Recording stops: the counters are read a last time."""
        try:
            taken = self._read(needed=True) if self._devices and not self._state.off else None
            if taken is not None:
                self._keep(taken, None, AT_RECORDING)
        except Exception as fault:
            self.fail(fault)
        self.remove()

    def remove(self) -> None:
        """Take away what was put in place; does nothing the second time."""
        self._off = True
        self._state.device_memory = None
        if self.see in self._state.signatures.watches:
            self._state.signatures.watches.remove(self.see)
        for memory in self._memories.values():
            if memory is not None:
                memory.close()

    def _untold(self, fault: BaseException) -> None:
        """An allocator of the program's own has no counters: no fault of ours."""
        if not self._off:
            self.gaps.append(UNTOLD.format(type(fault).__name__))
            self.remove()

    def fail(self, fault: BaseException) -> None:
        """End the reading of memory; all else goes on."""
        if not self._off:
            self.gaps.append(STOPPED.format(type(fault).__name__))
            self.remove()
            self._state.warn(f"{self.gaps[-1]}; the rest is recorded")


unseen(MemoryReadings.see, MemoryReadings.begin, MemoryReadings.end, MemoryReadings._reset)
