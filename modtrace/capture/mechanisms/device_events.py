"""Device time of module calls, backward rows and phases: an event at each end, read when the device has passed both.

Which device a call is on is told by its tensors, and those by the numbers of their signatures: each is looked at once,
when it is new. Until a tensor on a device with a clock is seen no call is told of. Nothing here raises or waits, but
for the events that are under way when recording stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import torch

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.module_facts import raw
from modtrace.capture.engine.signatures import Key
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import MODE_SHIFT, ThreadBuffer
from modtrace.capture.mechanisms.clocks import DeviceClock, clock_of, devices_in, has_clock, is_of_device
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.lookup import CUDA_TIMES, XPU_TIMES, missing
from modtrace.trace.schema import MODULE, PHASE, THREAD_SHIFT

MOST_EVENTS: Final = 16_384
"""Events there are at most. A call takes two, from its start until the device has passed its end and that was read."""
SPARE, FEW = 4, 64
"""From a SPAREth of them on, events are read when only few are free, also in the middle of a root call."""
WAIT_SECONDS: Final = 5.0
"""Seconds that events are waited for when recording stops."""
RETRY_NS: Final = 10_000_000
"""So often at most they are read where a call ends."""
ANCHOR_NS: Final = 500_000_000
"""CUDA tells the time between two events as a float of milliseconds: from 16 s on it is not true to a microsecond."""
SAMPLED: Final = 31
"""Of each 32 calls the cost of one is measured."""
MANY_STARTS: Final = 1_000_000
MANY_SIGNATURES: Final = 40_000
MANY_MODULES: Final = 100_000
MANY_STREAMS: Final = 1_000
MANY_SUBMODULES: Final = 1_000
NAMES: Final = {"cuda": (CUDA_TIMES,), "xpu": (XPU_TIMES,)}
"""Features, by device type, whose private names of torch are needed there."""
_ARGS: Final = (1 << MODE_SHIFT) - 1
_NONE: Final = -1
_NOWHERE: Final = -2
"""Of a module whose last call had no tensor on a device."""
_PAIR: Final = 4

STOPPED: Final = "device time is not recorded from here on: {}"
UNREAD: Final = "the device time of {:,} calls is not known: the device had not come to their end"
EXHAUSTED: Final = "the device time of {:,} calls is not known: too many events were under way"
SEVERAL: Final = (
    "several devices are in use: the device time of a call is that on the device of its input alone"
)


def devices_met(_: TraceContext) -> set[tuple[str, int]]:
    """(kind, index) of the devices with a clock on which a trace has seen a tensor: a part of its context."""
    return set()


class DeviceStream:
    """A stream of a device as one thread uses it. `handle` is what events are recorded on, `free` the events of the
    device that are not in use. `pending` are calls that have ended, in the order of their ends, four elements each: id,
    events at both ends, whether no other call on that stream was around it.
    """

    __slots__ = ("device", "extend", "free", "handle", "number", "pending")

    def __init__(self, device: int, number: int, handle: Any, free: list[Any]) -> None:
        self.device, self.number = device, number
        self.handle, self.free = handle, free
        self.pending: list[Any] = []
        self.extend = self.pending.extend


Mark = tuple[int, Any, DeviceStream, bool]
"""The start of an open call: (its number, event, stream, whether its tensors are known to be there)."""


class ThreadEvents:
    """One thread's. `open` are the starts of open calls, outermost first; those of calls that did not return are among
    them until one around them ends. `last` is the stream that was used last, `device` the one on which a tensor was.
    """

    __slots__ = ("device", "last", "open", "streams")

    def __init__(self) -> None:
        self.open: list[Mark] = []
        self.streams: dict[tuple[int, int], DeviceStream] = {}
        self.last = DeviceStream(_NONE, _NONE, None, [])
        self.device = _NONE


class DeviceEvents:
    """Records the device times of one trace.

    No event is recorded on a device before a tensor on it was seen: the first one makes a context there.

    Args:
        context: shared with the tracer.
        attach: is called when the first device with a clock is seen: calls are to be told from then on.
        detach: is called when they need not be told any more.
    """

    def __init__(self, context: TraceContext, attach: Callable[[], None], detach: Callable[[], None]) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """Cost of reading events, nanoseconds."""
        self._context = context
        self._attach, self._detach = attach, detach
        self._origin_ns = context.origin_ns
        self._clock: DeviceClock | None = None
        self._without_clock: set[str] = set()
        self._devices: dict[int, int] = {}
        self._met = context.part(devices_met)
        self._of_module: dict[int, int] = {}
        self._marks: dict[int, ThreadEvents] = {}
        """By the number of the thread."""
        self._events: list[Any] = []
        self._free: dict[int, list[Any]] = {}
        self._missed = 0
        self._anchors: dict[int, tuple[Any, int]] = {}
        self._rows: list[tuple[int, str, int | None, int]] = []
        self._starts: list[tuple[int, str, bool]] = []
        self._worked_on: dict[int, int] = {}
        """The stream on each device that a root call or phase began on last."""
        self._reading = threading.Lock()
        self._retry_at = 0
        self._samples = self._sampled_ns = self._calls = 0
        self._off = False

    # what the hooks call --------------------------------------------------------------------------------------------

    def signature_seen(self, number: int, key: Key) -> None:
        """Look at a new signature for the device of its tensors."""
        try:
            # One tensor on a device without a clock, as of every program on the CPU.
            plain = type(key) is tuple and len(key) == 5
            if plain and getattr(key[2], "type", "") in self._without_clock:  # type: ignore[index]
                return
            for device_type, index in devices_in(key):
                if device_type in self._without_clock:
                    continue
                if self._clock is None:
                    self._begin_with(device_type)
                elif self._clock.kind != device_type:
                    continue
                if device_type in self._without_clock:
                    continue
                if len(self._devices) >= MANY_SIGNATURES:
                    for old in list(self._devices)[: MANY_SIGNATURES // 2]:
                        del self._devices[old]
                self._devices[number] = index
                self._meet(device_type, index)
                return
        except Exception as fault:
            self.fail(fault)

    def _begin_with(self, device_type: str) -> None:
        """The first tensor on a kind of device: its clock, which a device whose driver does not run yet gets later."""
        clock = clock_of(device_type)
        if clock is None:
            if not has_clock(device_type):
                self._without_clock.add(device_type)
            return
        self.gaps += missing(*NAMES.get(device_type, ()))
        clock.watch(self._reading)
        self._clock = clock
        if not self._off:
            self._attach()

    def _meet(self, device_type: str, index: int) -> None:
        """A tensor is on a device: of a second one not all is recorded, which is said once."""
        if (device_type, index) not in self._met:
            self._met.add((device_type, index))
            if len(self._met) == 2:
                self.gaps.append(SEVERAL)

    def call_began(
        self, buffer: ThreadBuffer, call: int, args: int, number: int, module: Any, *further: Any
    ) -> None:
        """A call of a module, of that number, is about to begin. Where none of its positional arguments is on a device
        (torch shows the others at the end only), it is taken to be where its last call was, or where its parameters
        are, until its other tensors are known.
        """
        started = 0 if call & SAMPLED else self._context.clock()
        try:
            calls = buffer.calls
            outermost = not calls or calls[-1][2].kind != MODULE
            device = self._devices.get(args & _ARGS, _NONE)
            if device >= 0:
                self._open(buffer, call, device, True, outermost)
            else:
                device = self._of_module.get(number, _NONE)
                if device == _NONE:
                    device = self._guess(buffer, number, module)
                if device >= 0:
                    self._open(buffer, call, device, False, outermost)
        except Exception as fault:
            self.fail(fault)
        if started:
            self._samples += 1
            self._sampled_ns += self._context.clock() - started

    def _guess(self, buffer: ThreadBuffer, number: int, module: Any) -> int:
        """The device of a module's parameters; without any that which its thread has used last."""
        device_type = self._clock.kind if self._clock is not None else ""
        place = _place_of_parameters(module)
        device = self._device_of(buffer)
        if place is not None:
            device = place[1] if place[0] == device_type else _NOWHERE
        if device == _NOWHERE:
            self._remember(number, _NOWHERE)
        return device

    def _device_of(self, buffer: ThreadBuffer) -> int:
        """The device that a thread has used last; _NONE for none."""
        marks = self._marks.get(buffer.number)
        return marks.device if marks is not None else _NONE

    def call_ended(
        self, buffer: ThreadBuffer, call: int, module: int, kwargs: int, output: int, *further: Any
    ) -> None:
        """A module call has returned; `kwargs` and `output` are signatures."""
        started = 0 if call & SAMPLED else self._context.clock()
        try:
            marks = self._marks.get(buffer.number)
            if marks is not None and marks.open and marks.open[-1][0] == call:
                mark: Mark | None = marks.open.pop()
            else:
                mark = self._closed(buffer, call)
            if mark is None:
                device = self._place(kwargs, output, mark)
            else:
                _, event, stream, sure = mark
                device = stream.device if sure else self._place(kwargs, output, mark)
                clock = self._clock
                used = None if clock is None else clock.stream(device, stream.number)
                if device != stream.device or used != stream.number:
                    stream.free.append(event)
                else:
                    self._ended(buffer, mark)
            known = self._of_module.get(module, _NONE)
            # A call that was not measured, as while a graph is captured, tells nothing by having no tensors of its own.
            if known != device and (mark is not None or device >= 0 or known == _NONE):
                self._remember(module, device)
        except Exception as fault:
            self.fail(fault)
        if started:
            self._sampled_ns += self._context.clock() - started

    def _place(self, kwargs: int, output: int, mark: Mark | None) -> int:
        """The device of keyword arguments and of an output; that of a guess, where any of them is there."""
        devices = self._devices.get(kwargs, _NOWHERE), self._devices.get(output, _NOWHERE)
        if mark is not None and mark[2].device in devices:
            return mark[2].device
        return devices[0] if devices[0] >= 0 else devices[1]

    def _remember(self, module: int, device: int) -> None:
        if len(self._of_module) >= MANY_MODULES:
            self._of_module.clear()
        self._of_module[module] = device

    def phase_began(self, buffer: ThreadBuffer, call: int, entry: Entry) -> None:
        """A phase is about to begin: on the device that its thread has used last."""
        try:
            device = self._device_of(buffer)
            if device >= 0 and entry.kind == PHASE:
                self._open(buffer, call, device, True, True)
        except Exception as fault:
            self.fail(fault)

    def phase_ended(self, buffer: ThreadBuffer, call: int, entry: Entry, error: BaseException | None) -> None:
        """A phase has ended."""
        if error is not None:
            return
        try:
            mark = self._closed(buffer, call)
            if mark is not None:
                if self._stream(mark[2]) == mark[2].number:
                    self._ended(buffer, mark)
                else:
                    mark[2].free.append(mark[1])
        except Exception as fault:
            self.fail(fault)

    def module_backward_began(self, buffer: ThreadBuffer, call: int, module: int) -> None:
        """The backward of a module's call is about to begin, on the device of its forward."""
        try:
            device = self._of_module.get(module, _NONE)
            if device >= 0:
                self._open(buffer, call, device, True, False)
        except Exception as fault:
            self.fail(fault)

    def module_backward_ended(self, buffer: ThreadBuffer, call: int) -> None:
        """It has ended. Autograd may have moved on to another stream, or to the thread that called it."""
        try:
            mark = self._closed(buffer, call)
            if mark is not None:
                if self._stream(mark[2]) is not None:
                    self._ended(buffer, mark)
                else:
                    mark[2].free.append(mark[1])
        except Exception as fault:
            self.fail(fault)

    def call_taken_back(self, buffer: ThreadBuffer, call: int) -> None:
        """A call is taken back, with those inside it: it has not begun."""
        try:
            mark = self._closed(buffer, call)
            if mark is not None:
                mark[2].free.append(mark[1])
        except Exception as fault:
            self.fail(fault)

    # events ---------------------------------------------------------------------------------------------------------

    def _stream(self, recorded: DeviceStream) -> int | None:
        """The stream in use where a call ends whose start was recorded."""
        if self._clock is None or self._off:
            return None
        return self._clock.stream(recorded.device, recorded.number)

    def _open(self, buffer: ThreadBuffer, call: int, device: int, sure: bool, begins: bool) -> None:
        clock = self._clock
        if clock is None or self._off:
            return
        marks = self._marks.get(buffer.number)
        if marks is not None and marks.open and not buffer.calls:
            self._closed(buffer, _NONE)
        around = marks.open[-1][2].number if marks is not None and marks.open and not begins else None
        number = clock.stream(device, around)
        if number is None:
            return
        if marks is None:
            marks = self._marks.setdefault(buffer.number, ThreadEvents())
        stream = marks.last
        if stream.number != number or stream.device != device:
            stream = self._use(marks, device, number)
        if begins:
            self._ask_whether_dry(buffer, call, stream)
        try:
            event = stream.free.pop()
        except IndexError:
            event = self._new(stream)
            if event is None:
                self._missed += 1
                return
        clock.record(event, stream.handle)
        marks.open.append((call, event, stream, sure))
        if sure:
            marks.device = device

    def _use(self, marks: ThreadEvents, device: int, number: int) -> DeviceStream:
        """A stream that is not the one used last on a thread."""
        clock = self._clock
        assert clock is not None
        stream = marks.streams.get((device, number))
        if stream is None:
            if len(marks.streams) >= MANY_STREAMS and not marks.open:
                idle = [key for key, known in list(marks.streams.items()) if not known.pending]
                for key in idle:
                    del marks.streams[key]
            free = self._free.setdefault(device, [])
            stream = DeviceStream(device, number, clock.handle(device, number), free)
            marks.streams[device, number] = stream
            if device not in self._anchors:
                anchor = free.pop() if free else self._new(stream)
                if anchor is not None:
                    clock.record(anchor, stream.handle)
                    self._anchors[device] = (anchor, self._context.clock() - self._origin_ns)
        marks.last = stream
        return stream

    def _new(self, stream: DeviceStream) -> Any:
        """A new event; None where there are too many."""
        event_count = len(self._events)
        if event_count >= MOST_EVENTS or self._clock is None:
            return None
        event = self._clock.event(stream.device)
        self._events.append(event)
        return event

    def _ask_whether_dry(self, buffer: ThreadBuffer, call: int, stream: DeviceStream) -> None:
        """Before a root call or a phase gives a device its first work: whether it has come to the end of all that was
        put on the stream before. Not of the first one, before which nothing is known to have been, and not while any
        thread captures a graph, which a question would break.
        """
        clock = self._clock
        if clock is not None and self._worked_on.get(stream.device) == stream.number:
            if not self._reading.acquire(blocking=False):
                return
            try:
                dry = clock.is_idle(stream.handle)
            finally:
                self._reading.release()
            if dry is not None and len(self._starts) < MANY_STARTS:
                row = (buffer.number << THREAD_SHIFT | call, f"{clock.kind}:{stream.device}", dry)
                self._starts.append(row)
        self._worked_on[stream.device] = stream.number

    def _closed(self, buffer: ThreadBuffer, call: int) -> Mark | None:
        """The start of a call, taken off with those of calls inside it that did not return."""
        marks = self._marks.get(buffer.number)
        while marks is not None and marks.open:
            mark = marks.open[-1]
            if mark[0] < call:
                return None
            marks.open.pop()
            if mark[0] == call:
                return mark
            mark[2].free.append(mark[1])
        return None

    def _ended(self, buffer: ThreadBuffer, mark: Mark) -> None:
        call, first, stream, _ = mark
        marks, clock = self._marks.get(buffer.number), self._clock
        if marks is None or clock is None:
            return
        try:
            second = stream.free.pop()
        except IndexError:
            second = self._new(stream)
            if second is None:
                self._missed += 1
                stream.free.append(first)
                self._read_early(buffer)
                return
        clock.record(second, stream.handle)
        top = not marks.open or marks.open[-1][2] is not stream
        stream.extend((buffer.number << THREAD_SHIFT | call, first, second, top))
        if len(stream.free) < FEW and len(self._events) >= MOST_EVENTS // SPARE:
            self._read_early(buffer)

    # reading --------------------------------------------------------------------------------------------------------

    def _read_early(self, buffer: ThreadBuffer) -> None:
        """Read where a call has just ended: what that takes is a cost inside the call around it."""
        now = self._context.clock()
        if now > self._retry_at:
            self.read()
            done = self._context.clock()
            self._retry_at = done + RETRY_NS
            buffer.cost(len(buffer.calls) - 2, done - now)

    def read(self) -> None:
        """Read the events that the device has passed. On a thread of the program's, for only there it can be seen that
        it captures a graph by other means than torch's, which asking for an event would break.
        """
        clock = self._clock
        if clock is None or self._off or not self._reading.acquire(blocking=False):
            return
        started = self._context.clock()
        try:
            streams = [
                stream for marks in list(self._marks.values()) for stream in list(marks.streams.values())
            ]
            streams = [stream for stream in streams if stream.pending]
            if streams and clock.may_read():
                for stream in streams:
                    self._read(clock, stream)
        except Exception as fault:
            self.fail(fault)
        finally:
            self.spent_ns += self._context.clock() - started
            self._reading.release()

    def _read(self, clock: DeviceClock, stream: DeviceStream) -> None:
        """Events of one stream come to pass in order, so few are asked for."""
        pending, device = stream.pending, stream.device
        anchor = self._anchors.get(device)
        low, high = 0, len(pending) // _PAIR
        while low < high:
            middle = (low + high) // 2
            if clock.is_complete(pending[middle * _PAIR + 2]):
                low = middle + 1
            else:
                high = middle
        # The anchor may have been recorded on another stream, which is not as far.
        if not low or anchor is None or not clock.is_complete(anchor[0]):
            return
        name, elapsed_ns = f"{clock.kind}:{device}", clock.elapsed_ns
        give_back, keep = stream.free.append, self._rows.append
        ended = iter(pending[: low * _PAIR])
        for call, first, second, top in zip(ended, ended, ended, ended, strict=True):
            elapsed = elapsed_ns(first, second)
            start = anchor[1] + elapsed_ns(anchor[0], first) if top else None
            if elapsed >= 0:
                keep((call, name, start, elapsed))
            give_back(second)
            if start is not None and start - anchor[1] > ANCHOR_NS:
                give_back(anchor[0])
                anchor = self._anchors[device] = (first, start)
            else:
                give_back(first)
        del pending[: low * _PAIR]
        self._calls += low

    def times(self) -> dict[str, list[Any]]:
        """Rows of `device_times` not handed out before."""
        count = len(self._rows)
        taken = self._rows[:count]
        del self._rows[:count]
        call, device, start, elapsed = zip(*taken, strict=True) if taken else ((), (), (), ())
        return {"call": [*call], "device": [*device], "start_ns": [*start], "device_ns": [*elapsed]}

    def starts(self) -> dict[str, list[Any]]:
        """Rows of `device_starts` not handed out before."""
        count = len(self._starts)
        taken = self._starts[:count]
        del self._starts[:count]
        call, device, dry = zip(*taken, strict=True) if taken else ((), (), ())
        return {"call": [*call], "device": [*device], "dry": [*dry]}

    @property
    def under_way(self) -> int:
        """Events in use: recorded and not read yet."""
        return len(self._events) - sum(map(len, list(self._free.values())))

    @property
    def has_rows(self) -> bool:
        """True if there are rows to hand out."""
        return bool(self._rows or self._starts)

    @property
    def call_ns(self) -> int:
        """Nanoseconds that one call costs more, outside of its measured time."""
        return self._sampled_ns // self._samples if self._samples else 0

    @property
    def cost_ns(self) -> int:
        """Nanoseconds that it has cost in all."""
        return self.call_ns * self._calls + self.spent_ns

    # the end --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Recording stops. The last events are waited for, if not for long: their device may never come to them."""
        self._detach()
        self._off = self._off or self._context.off  # nothing more is written then
        deadline = self._context.clock() + int(WAIT_SECONDS * 1e9)
        self.read()
        while self._unread() and not self._off and self._context.clock() < deadline:
            time.sleep(0.001)
            self.read()
        if not self._off:
            lost = self._unread()
            self.gaps += [UNREAD.format(lost)] if lost else []
            self.gaps += [EXHAUSTED.format(self._missed)] if self._missed else []
        self._off = True
        self._unwatch()

    def _unwatch(self) -> None:
        self._detach()
        if self._clock is not None:
            self._clock.close()

    def _unread(self) -> int:
        streams = [stream for marks in list(self._marks.values()) for stream in list(marks.streams.values())]
        return sum(len(stream.pending) // _PAIR for stream in streams)

    def fail(self, fault: BaseException) -> None:
        """End the recording of device times; all else goes on. Nothing is said where the program's device has failed:
        the program says it.
        """
        if not self._off:
            self._off = True
            self._unwatch()
            self.gaps.append(STOPPED.format(type(fault).__name__))
            if is_of_device(fault):
                self._context.told_by_program.append(self.gaps[-1])
            else:
                self._context.warn(f"{self.gaps[-1]}; the rest is recorded")


def _place_of_parameters(module: Any) -> tuple[str, int] | None:
    """Kind and index of the device of a module's first parameter, or of that of a module in it; None without any."""
    pending, looked = [module], 0
    while pending and looked < MANY_SUBMODULES:
        attributes = raw(pending.pop())
        looked += 1
        for parameter in (attributes.get("_parameters") or {}).values():
            if isinstance(parameter, torch.Tensor):
                with without_functions():
                    device = parameter.device
                return device.type, device.index or 0
        inside = [
            submodule for submodule in (attributes.get("_modules") or {}).values() if submodule is not None
        ]
        pending += islice(reversed(inside), MANY_SUBMODULES)
    return None


unseen(DeviceEvents.read)
