"""Reads the counters of devices' allocators where little happens: at both ends of root calls, phases and spans.

Until a tensor on a device whose allocator has counters is seen no call is told of. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.signatures import Key
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import ABORTED, RAISED, ThreadBuffer
from modtrace.capture.mechanisms.clocks import devices_in, is_of_device
from modtrace.capture.mechanisms.device_memory import (
    AllocatorEvents,
    Counters,
    CudaMemory,
    DeviceMemory,
    may_have_counters,
    memory_of,
)
from modtrace.capture.torch_private.lookup import CUDA_MEMORY, missing
from modtrace.trace.schema import AT_END, AT_RECORDING, AT_START, STEP, THREAD_SHIFT

KINDS: Final = ("cuda",)
"""Devices whose counters are read when recording begins, where their driver has been started."""
GRACE_NS: Final = 20_000_000
SHARE: Final = 64
"""Reading takes GRACE_NS and a SHAREth of the time at most: in a program of short root calls not each is read."""
MOST_NS: Final = 100_000
"""Most nanoseconds that one reading counts as: that a thread was not running meanwhile is no cost of it."""
MANY_ROWS: Final = 1_000_000

STOPPED: Final = "memory of devices is not read from here on: {}"
UNTOLD: Final = "memory of devices is not known: their allocator has no counters ({})"

NOTHING: Final = Counters(0, 0, 0, 0, AllocatorEvents(*[0] * len(AllocatorEvents._fields)))
Device = tuple[str, int]
Taken = tuple[int, dict[Device, Counters]]
"""Counters of devices, and when they were read."""


class CounterReadings:
    """Reads the memory of devices for one trace.

    Args:
        context: shared with the tracer.
        attach: is called when the first device is seen: root calls, phases and spans are to be told from then on.
        detach: is called when they need not be told any more.
    """

    def __init__(self, context: TraceContext, attach: Callable[[], None], detach: Callable[[], None]) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """Cost of reading, nanoseconds."""
        self._context = context
        self._attach, self._detach = attach, detach
        self._origin_ns = context.origin_ns
        self._memories: dict[str, DeviceMemory] = {}
        self._without_counters: set[str] = set()
        self._devices: list[Device] = []
        self._before: dict[Device, Counters] = {}
        self._began_ns = context.clock()
        self._running: set[str] = set()
        self._told: set[str] = set()
        """Kinds for which it was told what torch lacks."""
        self._rows: list[tuple[int, int | None, int, Device, Counters]] = []
        self._counted_ns = 0
        self._off = False

    def start(self) -> None:
        """Recording begins: what is held now is what comes before all that is recorded."""
        try:
            self._began_ns = self._context.clock()
            for device_type in KINDS:
                memory = memory_of(device_type)
                if memory is None:
                    continue
                self._running.add(device_type)
                for index in range(memory.count()):
                    counters = memory.read(index)
                    if counters is not None:
                        self._before[device_type, index] = counters
        except Exception as fault:
            self._untold(fault)

    # what the hooks call --------------------------------------------------------------------------------------------

    def signature_seen(self, _: int, key: Key) -> None:
        """Look at a new signature for devices not seen before."""
        if self._off:
            return
        try:
            # One tensor on a device without counters, as of every program on the CPU.
            plain = type(key) is tuple and len(key) == 5
            if plain and getattr(key[2], "type", "") in self._without_counters:  # type: ignore[index]
                return
            for device in devices_in(key):
                if device not in self._devices:
                    self._meet(device)
        except Exception as fault:
            self.fail(fault)

    def _memory(self, device_type: str) -> DeviceMemory | None:
        """The allocator of a kind of device; one whose driver does not run yet gets its counters later."""
        known = self._memories.get(device_type)
        if known is not None or device_type in self._without_counters:
            return known
        memory = memory_of(device_type)
        if memory is not None:
            self._memories[device_type] = memory
            memory.watch(lambda index, moment: self._reset((device_type, index), moment))
        elif not may_have_counters(device_type):
            self._without_counters.add(device_type)
        if (
            device_type in KINDS
            and (memory is None or isinstance(memory, CudaMemory))
            and device_type not in self._told
        ):
            self._told.add(device_type)
            self.gaps += missing(CUDA_MEMORY)
        return memory

    def _meet(self, device: Device) -> None:
        device_type, index = device
        memory = self._memory(device_type)
        if memory is None:
            return
        try:
            memory.read(index)
        except Exception as fault:
            self._untold(fault)
            return
        # Where the driver had not been started nothing was allocated; of MPS it is not known whether it was.
        is_known = device_type not in self._running and device_type != "mps"
        before = self._before.get(device, NOTHING if is_known else None)
        if before is not None:
            self._rows.append((self._began_ns - self._origin_ns, None, AT_RECORDING, device, before))
        first = not self._devices
        self._devices.append(device)
        if first and not self._off:
            self._attach()

    def root_began(self, buffer: ThreadBuffer, *_: Any) -> int:
        """A root call is about to begin inside the open calls."""
        self._began(buffer, at_once=False)
        return 0

    def phase_began(self, buffer: ThreadBuffer, _: int, entry: Entry) -> None:
        """A phase, a span or the mark of a step is about to begin."""
        self._began(buffer, at_once=entry.kind == STEP)

    def _began(self, buffer: ThreadBuffer, *, at_once: bool) -> None:
        try:
            spent = self.spent_ns
            taken = self._read()
            if taken is not None:
                buffer.cost(len(buffer.calls) - 1, self.spent_ns - spent)

                def closed(buffer: ThreadBuffer, call: int, code: int) -> None:
                    self._closed(buffer, call, code, taken, at_once=at_once)

                buffer.await_close(len(buffer.calls), closed)
        except Exception as fault:
            self.fail(fault)

    def _closed(self, buffer: ThreadBuffer, call: int, code: int, taken: Taken, *, at_once: bool) -> None:
        """A call is closed and no longer among the open ones: what was read when it began, and is now."""
        if self._off or code == ABORTED:
            return
        try:
            number = buffer.number << THREAD_SHIFT | call
            self._keep(taken, number, AT_START)
            spent = self.spent_ns
            later = taken if at_once else self._read(needed=True)
            if code != RAISED and not at_once:
                # An error is told to be the same by nothing having been recorded since.
                buffer.cost(len(buffer.calls) - 1, self.spent_ns - spent)
            if later is not None:
                self._keep(later, number, AT_END)
        except Exception as fault:
            self.fail(fault)

    # reading --------------------------------------------------------------------------------------------------------

    def _read(self, *, needed: bool = False) -> Taken | None:
        if self._off:
            return None
        started = self._context.clock()
        if not needed and self._counted_ns > GRACE_NS + (started - self._began_ns) // SHARE:
            return None
        by_device = {}
        for device in self._devices:
            counters = self._memories[device[0]].read(device[1])
            if counters is not None:
                by_device[device] = counters
        spent = self._context.clock() - started
        self.spent_ns += spent
        self._counted_ns += min(spent, MOST_NS)
        return (started, by_device) if by_device else None

    def _keep(self, taken: Taken, call: int | None, moment: int) -> None:
        read_ns, by_device = taken
        if len(self._rows) < MANY_ROWS:
            self._rows += [
                (read_ns - self._origin_ns, call, moment, device, it) for device, it in by_device.items()
            ]

    def _reset(self, device: Device, moment: int) -> None:
        """The program is about to reset a counter of a device: what it has been is told by this alone."""
        try:
            memory = self._memories.get(device[0])
            if device in self._devices and memory is not None and not self._off and not self._context.off:
                read_ns, counters = self._context.clock(), memory.read(device[1])
                if counters is not None:
                    self._keep((read_ns, {device: counters}), None, moment)
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
            "device": [f"{device_type}:{index}" for _, _, _, (device_type, index), _ in taken],
            "allocated_bytes": [row[4].allocated_bytes for row in taken],
            "reserved_bytes": [row[4].reserved_bytes for row in taken],
            "peak_bytes": [row[4].peak_bytes for row in taken],
            "total_bytes": [row[4].total_bytes for row in taken],
            **{name: [getattr(row[4].trouble, name) for row in taken] for name in AllocatorEvents._fields},
        }

    @property
    def has_rows(self) -> bool:
        """True if there are rows to hand out."""
        return bool(self._rows)

    # the end --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Recording stops: the counters are read a last time."""
        try:
            taken = self._read(needed=True) if self._devices and not self._context.off else None
            if taken is not None:
                self._keep(taken, None, AT_RECORDING)
        except Exception as fault:
            self.fail(fault)
        self.remove()

    def remove(self) -> None:
        """Take away what was put in place; does nothing the second time."""
        self._off = True
        self._detach()
        for memory in self._memories.values():
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
            if is_of_device(fault):  # the program tells of a device of its own that has failed
                self._context.told_by_program.append(self.gaps[-1])
            else:
                self._context.warn(f"{self.gaps[-1]}; the rest is recorded")
