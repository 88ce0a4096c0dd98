"""Device time of module calls, backward rows and phases: an event at each end, read when the device has passed both.

Which device a call is on is told by its tensors, and those by the numbers of their signatures: each is looked at once,
when it is new. Until a tensor on a device with a clock is seen, `State.device_times` is None and that is all that the
hooks look at. Nothing here raises or waits, but for the events that are under way when recording stops.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from modtrace.capture.clocks import CudaClock, DeviceClock, clock_of, devices_in
from modtrace.capture.lanes import MODE_SHIFT, Lane
from modtrace.capture.signature import Key
from modtrace.capture.state import State
from modtrace.capture.torch_private.lookup import CUDA_TIMES, missing
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import THREAD_SHIFT

MOST_EVENTS: Final = 16_384
"""Events there are at most. A call takes two, from its start until the device has passed its end and that was read."""
WAIT_SECONDS: Final = 5.0
"""How long events are waited for when recording stops."""
RETRY_NS: Final = 10_000_000
"""With many events under way they are read at the end of a root call, so often at most."""
ANCHOR_NS: Final = 500_000_000
"""CUDA tells the time between two events as a float of milliseconds: from 16 s on it is not true to a microsecond."""
SAMPLED: Final = 31
"""Of each 32 calls the cost of one is measured."""
MANY_SIGNATURES: Final = 40_000
MANY_MODULES: Final = 100_000
_GIVEN: Final = (1 << MODE_SHIFT) - 1
_NONE: Final = -1
_PAIR: Final = 4

STOPPED: Final = "device time is not recorded from here on: {}"
UNREAD: Final = "the device time of {:,} calls is not known: the device had not come to their end"
EXHAUSTED: Final = "the device time of {:,} calls is not known: too many events were under way"

Mark = tuple[int, Any, int, int, bool]
"""The start of an open call: (its number, event, device, stream, whether its tensors are known to be there)."""


class Marks:
    """One thread's. `open` are the starts of open calls, outermost first; those of calls that did not return are among
    them until one around them ends. `pending` are, by device and stream, calls that have ended, in the order of their
    ends, four elements each: id, events at both ends, whether no other call on that stream was around it. `device` is
    the one that was used last.
    """

    __slots__ = ("device", "open", "pending")

    def __init__(self) -> None:
        self.open: list[Mark] = []
        self.pending: dict[tuple[int, int], list[Any]] = {}
        self.device = _NONE


class DeviceTimes:
    """Records the device times of one trace.

    Args:
        state: shared with the tracer.
        origin_ns: the clock at the start of recording.
    """

    def __init__(self, state: State, origin_ns: int) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """What reading events has cost."""
        self._state = state
        self._origin_ns = origin_ns
        self._clock: DeviceClock | None = None
        self._clocks: dict[str, DeviceClock | None] = {}
        self._devices: dict[int, int] = {}
        self._of_module: dict[int, int] = {}
        self._all: list[Marks] = []
        self._free: dict[int, list[Any]] = {}
        self._made = self._under_way = self._missed = 0
        self._anchors: dict[int, tuple[Any, int]] = {}
        self._rows: list[tuple[int, str, int | None, int]] = []
        self._reading = threading.Lock()
        self._retry_at = 0
        self._samples = self._sampled_ns = self._calls = 0
        self._off = False
        state.signatures.watches.append(self.see)

    # what the hooks call --------------------------------------------------------------------------------------------

    def see(self, number: int, key: Key) -> None:
        """Look at a new signature for the device of its tensors."""
        try:
            # One tensor on a device without a clock, as of every program on the CPU.
            plain = type(key) is tuple and len(key) == 5
            if plain and self._clocks.get(getattr(key[2], "type", ""), self) is None:  # type: ignore[index]
                return
            for kind, index in devices_in(key):
                if kind not in self._clocks:
                    self._clocks[kind] = clock_of(kind) if self._clock is None else None
                    self._clock = self._clock or self._clocks[kind]
                    self.gaps += missing(CUDA_TIMES) if isinstance(self._clock, CudaClock) else []
                if self._clocks[kind] is not None:
                    if len(self._devices) >= MANY_SIGNATURES:
                        for old in list(self._devices)[: MANY_SIGNATURES // 2]:
                            del self._devices[old]
                    self._devices[number] = index
                    self._state.device_times = None if self._off else self
                    return
        except Exception as fault:
            self.fail(fault)

    def begin(self, lane: Lane, call: int, given: int) -> None:
        """A module call is about to begin. Where none of its positional arguments is on a device (torch shows the
        others at the end only), it is taken to be on the one in use until its other tensors are known.
        """
        started = 0 if call & SAMPLED else self._state.clock()
        try:
            device = self._devices.get(given & _GIVEN, _NONE)
            if device != _NONE:
                self._open(lane, call, device, sure=True)
            elif self._clock is not None:
                self._open(lane, call, self._clock.current_device(), sure=False)
        except Exception as fault:
            self.fail(fault)
        if started:
            self._samples += 1
            self._sampled_ns += self._state.clock() - started

    def end(self, lane: Lane, call: int, module: int, named: int, result: int) -> None:
        """A module call has returned; `named` and `result` are signatures."""
        started = 0 if call & SAMPLED else self._state.clock()
        try:
            mark = self._closed(lane, call)
            if mark is not None:
                _, event, device, stream, sure = mark
                of = self._devices.get
                here = sure or device in (of(named, _NONE), of(result, _NONE))
                if not here or self._stream(device) != stream:
                    self._give_back(device, event)
                    return
                self._ended(lane, mark)
                if self._of_module.get(module) != device:
                    if len(self._of_module) >= MANY_MODULES:
                        self._of_module.clear()
                    self._of_module[module] = device
        except Exception as fault:
            self.fail(fault)
        if started:
            self._sampled_ns += self._state.clock() - started
        if self._under_way > MOST_EVENTS // 2:
            self._read_early(lane)

    def begin_phase(self, lane: Lane, call: int) -> None:
        """A phase is about to begin: on the device that its thread has used last."""
        try:
            if lane.marks is not None and lane.marks.device != _NONE:
                self._open(lane, call, lane.marks.device, sure=True)
        except Exception as fault:
            self.fail(fault)

    def end_phase(self, lane: Lane, call: int) -> None:
        """A phase has ended."""
        try:
            mark = self._closed(lane, call)
            if mark is not None and self._stream(mark[2]) == mark[3]:
                self._ended(lane, mark)
            elif mark is not None:
                self._give_back(mark[2], mark[1])
        except Exception as fault:
            self.fail(fault)

    def begin_backward(self, lane: Lane, call: int, module: int) -> None:
        """The backward of a module's call is about to begin, on the device of its forward."""
        try:
            device = self._of_module.get(module, _NONE)
            if device != _NONE:
                self._open(lane, call, device, sure=True)
        except Exception as fault:
            self.fail(fault)

    def end_backward(self, lane: Lane, call: int) -> None:
        """It has ended. Autograd may have moved on to another stream, or to the thread that called it."""
        try:
            mark = self._closed(lane, call)
            if mark is not None and self._stream(mark[2]) is not None:
                self._ended(lane, mark)
            elif mark is not None:
                self._give_back(mark[2], mark[1])
        except Exception as fault:
            self.fail(fault)

    def drop(self, lane: Lane, call: int) -> None:
        """A call is taken back, with those inside it: it has not begun."""
        try:
            mark = self._closed(lane, call)
            if mark is not None:
                self._give_back(mark[2], mark[1])
        except Exception as fault:
            self.fail(fault)

    # events ---------------------------------------------------------------------------------------------------------

    def _stream(self, device: int) -> int | None:
        return None if self._clock is None or self._off else self._clock.stream(device)

    def _open(self, lane: Lane, call: int, device: int, *, sure: bool) -> None:
        stream = self._stream(device)
        if stream is None:
            return
        marks = lane.marks
        if marks is None:
            marks = lane.marks = Marks()
            self._all.append(marks)
        if marks.open and not lane.calls:
            self._closed(lane, _NONE)
        if device not in self._anchors:
            anchor = self._recorded(device, stream)
            if anchor is not None:
                self._anchors[device] = (anchor, self._state.clock() - self._origin_ns)
        event = self._recorded(device, stream)
        if event is None:
            self._missed += 1
            return
        marks.open.append((call, event, device, stream, sure))
        if sure:
            marks.device = device

    def _closed(self, lane: Lane, call: int) -> Mark | None:
        """The start of a call, taken off with those of calls inside it that did not return."""
        marks = lane.marks
        while marks is not None and marks.open:
            mark = marks.open[-1]
            if mark[0] < call:
                return None
            marks.open.pop()
            if mark[0] == call:
                return mark
            self._give_back(mark[2], mark[1])
        return None

    def _ended(self, lane: Lane, mark: Mark) -> None:
        call, first, device, stream, _ = mark
        second = self._recorded(device, stream)
        marks = lane.marks
        if second is None or marks is None:
            self._missed += 1
            self._give_back(device, first)
            return
        top = not marks.open or marks.open[-1][2:4] != (device, stream)
        pending = marks.pending.get((device, stream))
        if pending is None:
            pending = marks.pending[device, stream] = []
        pending.extend((lane.number << THREAD_SHIFT | call, first, second, top))
        self._calls += 1

    def _recorded(self, device: int, stream: int) -> Any:
        """An event, recorded now; None where there are too many."""
        clock = self._clock
        if clock is None:
            return None
        free = self._free.setdefault(device, [])
        try:
            event = free.pop()
        except IndexError:
            if self._made >= MOST_EVENTS:
                return None
            self._made += 1
            event = clock.event(device)
        self._under_way += 1
        clock.record(event, device, stream)
        return event

    def _give_back(self, device: int, event: Any) -> None:
        self._under_way -= 1
        self._free.setdefault(device, []).append(event)

    # reading --------------------------------------------------------------------------------------------------------

    def _read_early(self, lane: Lane) -> None:
        now = self._state.clock()
        if now > self._retry_at and lane.marks is not None and not lane.marks.open:
            self.read()
            done = self._state.clock()
            self._retry_at = done + RETRY_NS
            lane.cost(len(lane.calls) - 2, done - now)

    def read(self) -> None:
        """Read the events that the device has passed. On a thread of the program's, for only there it can be seen that
        a graph is being captured, which asking for an event would break.
        """
        clock = self._clock
        if clock is None or self._off or not self._reading.acquire(blocking=False):
            return
        started = self._state.clock()
        try:
            if self._under_way and clock.stream(clock.current_device()) is not None:
                for marks in list(self._all):
                    for (device, _), pending in list(marks.pending.items()):
                        self._read(clock, device, pending)
        except Exception as fault:
            self.fail(fault)
        finally:
            self.spent_ns += self._state.clock() - started
            self._reading.release()

    def _read(self, clock: DeviceClock, device: int, pending: list[Any]) -> None:
        """Events of one stream come to pass in order, so few are asked for."""
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
        name = f"{clock.kind}:{device}"
        for at in range(0, low * _PAIR, _PAIR):
            call, first, second, top = pending[at : at + _PAIR]
            elapsed = clock.elapsed_ns(first, second)
            start = anchor[1] + clock.elapsed_ns(anchor[0], first) if top else None
            if elapsed >= 0:
                self._rows.append((call, name, start, elapsed))
            self._give_back(device, second)
            if start is not None and start - anchor[1] > ANCHOR_NS:
                self._give_back(device, anchor[0])
                anchor = self._anchors[device] = (first, start)
            else:
                self._give_back(device, first)
        del pending[: low * _PAIR]

    def rows(self) -> dict[str, list[Any]]:
        """Rows of `device_times` not handed out before."""
        count = len(self._rows)
        taken = self._rows[:count]
        del self._rows[:count]
        call, device, start, elapsed = zip(*taken, strict=True) if taken else ((), (), (), ())
        return {"call": [*call], "device": [*device], "start_ns": [*start], "device_ns": [*elapsed]}

    @property
    def has_rows(self) -> bool:
        """Whether there are rows to hand out."""
        return bool(self._rows)

    @property
    def call_ns(self) -> int:
        """What one call costs more, outside of its measured time."""
        return self._sampled_ns // self._samples if self._samples else 0

    @property
    def cost_ns(self) -> int:
        """What it has cost in all."""
        return self.call_ns * self._calls + self.spent_ns

    # the end --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Recording stops. The last events are waited for, if not for long: their device may never come to them."""
        self._unwatch()
        self._off = self._off or self._state.off  # nothing more is written then
        deadline = self._state.clock() + int(WAIT_SECONDS * 1e9)
        self.read()
        while self._unread() and not self._off and self._state.clock() < deadline:
            time.sleep(0.001)
            self.read()
        if not self._off:
            lost = self._unread()
            self.gaps += [UNREAD.format(lost)] if lost else []
            self.gaps += [EXHAUSTED.format(self._missed)] if self._missed else []
        self._off = True

    def _unwatch(self) -> None:
        self._state.device_times = None
        if self.see in self._state.signatures.watches:
            self._state.signatures.watches.remove(self.see)

    def _unread(self) -> int:
        return sum(len(pending) // _PAIR for marks in self._all for pending in marks.pending.values())

    def fail(self, fault: BaseException) -> None:
        """End the recording of device times; all else goes on."""
        if not self._off:
            self._off = True
            self._unwatch()
            self.gaps.append(STOPPED.format(type(fault).__name__))
            self._state.warn(f"{self.gaps[-1]}; the rest is recorded")


unseen(
    DeviceTimes.see,
    DeviceTimes.begin,
    DeviceTimes.end,
    DeviceTimes.begin_phase,
    DeviceTimes.end_phase,
    DeviceTimes.begin_backward,
    DeviceTimes.end_backward,
    DeviceTimes.read,
)
