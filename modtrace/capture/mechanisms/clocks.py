"""Clocks of devices: events that are recorded on a stream and say, later, when the device came to them.

Nothing here waits for a device. An event is recorded, and asked from time to time whether the device has passed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Final, Protocol

import torch

from modtrace.capture.mechanisms.graph_captures import Captures
from modtrace.capture.torch_private.names import (
    cuda_elapsed,
    cuda_is_capturing,
    cuda_query,
    cuda_raw_stream,
    cuda_record,
    xpu_raw_stream,
)

NS_PER_MS: Final = 1_000_000
TIMED: Final = ("xpu",)
"""Devices beside CUDA's whose events can be read without a wait. MPS is none of them: `MPSEventPool::elapsedTime`
commits what is queued and waits for it, and reports when the host was told (torch 2.13).
"""


class DeviceClock(Protocol):
    """Protocol of the clock of one kind of device. Any method may raise: device time is then no longer recorded."""

    kind: str
    """As in `torch.device.type`."""
    record: Callable[[Any, Any], object]
    """Records an event on a stream, as `handle` gives it."""

    def watch(self, reading: Lock) -> None:
        """Notice captures of graphs from now on: none begins while `reading` is held."""

    def close(self) -> None:
        """Watch no more."""

    def stream(self, device: int, recorded: int | None = None) -> int | None:
        """A number for the stream in use on this thread; None while no event may be recorded on it. `recorded` is that
        of a stream on which an event of an open call of this thread was recorded.
        """

    def handle(self, device: int, stream: int) -> Any:
        """The handle that `record` takes for the stream in use on this thread."""

    def event(self, device: int) -> Any:
        """A new event, to be recorded again and again on that device."""

    def may_read(self) -> bool:
        """True if events may be asked for now: no thread captures a graph."""

    def is_idle(self, handle: Any) -> bool | None:
        """The device has done all that was put on a stream, as `handle` gives it; None while a thread captures a graph.
        Never a wait. For the stream that `stream` has just given.
        """

    def is_complete(self, event: Any) -> bool:
        """True if the device has passed it, without a wait."""

    def elapsed_ns(self, first: Any, second: Any) -> int:
        """Nanoseconds between two events that the device has passed; below zero where the second came first."""


class CudaClock:
    """CUDA, and ROCm, which torch names so. Times come in steps of about half a microsecond.

    Whether the stream in use is captured is not asked on the default one, number 0, on which nothing can be, and not
    inside a call whose start was recorded on it: a capture would have begun since then, and torch's own are counted.
    """

    kind = "cuda"

    def __init__(self) -> None:
        cuda: Any = torch.cuda
        self._cuda = cuda
        self._captures = Captures()
        self._raw_stream: Callable[[int], int] = cuda_raw_stream or self._number_of_stream
        self._is_capturing: Callable[[], bool] = cuda_is_capturing or cuda.is_current_stream_capturing
        self._query: Callable[[Any], bool] = cuda_query or cuda.Event.query
        self._elapsed: Callable[[Any, Any], float] = cuda_elapsed or cuda.Event.elapsed_time
        self.record: Callable[[Any, Any], object] = cuda_record or cuda.Event.record

    def watch(self, reading: Lock) -> None:
        self._captures.watch(reading)

    def close(self) -> None:
        self._captures.close()

    def stream(self, device: int, recorded: int | None = None) -> int | None:
        number = self._raw_stream(device)
        # An event would become a part of the graph, and its times those of no call. What is asked of CUDA is about the
        # current device only.
        if number and self._captures.under_way:
            return None
        if number and not (number == recorded and self._captures.counted) and self._is_capturing():
            return None
        return number

    def _number_of_stream(self, device: int) -> int:
        return int(self._cuda.current_stream(device).cuda_stream)

    def handle(self, device: int, stream: int) -> Any:
        return self._cuda.current_stream(device)

    def event(self, device: int) -> Any:
        return self._cuda.Event(enable_timing=True)

    def may_read(self) -> bool:
        return not self._captures.under_way and not self._is_capturing()

    def is_idle(self, handle: Any) -> bool | None:
        return None if self._captures.under_way else bool(handle.query())

    def is_complete(self, event: Any) -> bool:
        return self._query(event)

    def elapsed_ns(self, first: Any, second: Any) -> int:
        return round(self._elapsed(first, second) * NS_PER_MS)


class AcceleratorClock:
    """Another device by torch's generic streams and events. Not tried on one: see TIMED for those it is used for."""

    def __init__(self, device_type: str) -> None:
        self.kind = device_type
        self._accelerator: Any = torch.accelerator
        self._event: Any = torch.Event
        self.record: Callable[[Any, Any], object] = self._event.record
        self._captures = Captures()
        module: Any = torch.get_device_module(device_type)
        self._is_capturing: Callable[[], bool] = getattr(module, "is_current_stream_capturing", _never)
        known = xpu_raw_stream if device_type == "xpu" else None
        self._raw_stream: Callable[[int], int] = known or self._number_of_stream

    def watch(self, reading: Lock) -> None:
        self._captures.watch(reading)

    def close(self) -> None:
        self._captures.close()

    def stream(self, device: int, recorded: int | None = None) -> int | None:
        if self._captures.under_way or self._is_capturing():
            return None
        return self._raw_stream(device)

    def _number_of_stream(self, device: int) -> int:
        return int(self._accelerator.current_stream(device).stream_id)

    def handle(self, device: int, stream: int) -> Any:
        return self._accelerator.current_stream(device)

    def event(self, device: int) -> Any:
        return self._event(torch.device(self.kind, device), enable_timing=True)

    def may_read(self) -> bool:
        return not self._captures.under_way and not self._is_capturing()

    def is_idle(self, handle: Any) -> bool | None:
        return None if self._captures.under_way else bool(handle.query())

    def is_complete(self, event: Any) -> bool:
        return bool(event.query())

    def elapsed_ns(self, first: Any, second: Any) -> int:
        elapsed_ms: float = first.elapsed_time(second)
        return round(elapsed_ms * NS_PER_MS)


def _never() -> bool:
    return False


def has_clock(device_type: str) -> bool:
    """True if devices of a kind have a clock, once their driver runs."""
    return device_type == "cuda" or (device_type in TIMED and hasattr(torch, "accelerator"))


def clock_of(device_type: str) -> DeviceClock | None:
    """The clock of devices of a kind; None where it has none, or its driver does not run yet. Starts no driver."""
    cuda: Any = torch.cuda
    if device_type == "cuda":
        return CudaClock() if cuda.is_initialized() else None
    return AcceleratorClock(device_type) if has_clock(device_type) else None


def is_of_device(fault: BaseException) -> bool:
    """True if an error is one of the device's, which every function has raised since the program has caused it."""
    cls: Any = getattr(torch, "AcceleratorError", None)
    if isinstance(cls, type) and isinstance(fault, cls):
        return True
    return isinstance(fault, RuntimeError) and str(fault).startswith(("CUDA error", "HIP error"))


def devices_in(key: Any) -> Iterator[tuple[str, int]]:
    """(kind, index) of the device of each tensor in a signature, those that hold nothing left out."""
    if type(key) is not tuple or not key:
        return
    if len(key) == 5 and hasattr(key[2], "index") and hasattr(key[2], "type"):
        yield key[2].type, key[2].index or 0
    elif key[0] == "tensor" and len(key) == 7:
        if key[4] is not None and "FakeTensor" not in key[1]:
            device_type, _, index = key[4].partition(":")
            yield device_type, int(index) if index.isdigit() else 0
    else:
        for part in key:
            yield from devices_in(part)
