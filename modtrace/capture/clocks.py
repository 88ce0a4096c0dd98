"""Clocks of devices: events that are recorded on a stream and say, later, when the device came to them.

Nothing here waits for a device. An event is recorded, and asked from time to time whether the device has passed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import torch

from modtrace.capture.torch_private.names import cuda_raw_stream

NS_PER_MS: Final = 1_000_000
MANY_STREAMS: Final = 1_000
TIMED: Final = ("xpu",)
"""Devices beside CUDA's whose events can be read without a wait. MPS is none of them: `MPSEventPool::elapsedTime`
commits what is queued and waits for it, and reports when the host was told (torch 2.13).
"""


class DeviceClock(Protocol):
    """What is asked of the devices of one kind. Any method may raise: device time is then no longer recorded."""

    kind: str
    """As in `torch.device.type`."""

    def current_device(self) -> int:
        """The index of the device in use on this thread."""

    def stream(self, device: int) -> int | None:
        """A number for the stream in use on this thread; None while no event may be recorded on it."""

    def event(self, device: int) -> Any:
        """A new event, to be recorded again and again on that device."""

    def record(self, event: Any, device: int, stream: int) -> None:
        """Record it on a stream."""

    def is_complete(self, event: Any) -> bool:
        """Whether the device has passed it, without a wait."""

    def elapsed_ns(self, first: Any, second: Any) -> int:
        """Nanoseconds between two events that the device has passed; below zero where the second came first."""


class CudaClock:
    """CUDA, and ROCm, which torch names so. Times come in steps of about half a microsecond."""

    kind = "cuda"

    def __init__(self) -> None:
        self._cuda: Any = torch.cuda
        self._streams: dict[tuple[int, int], Any] = {}

    def current_device(self) -> int:
        return int(self._cuda.current_device())

    def stream(self, device: int) -> int | None:
        if self._cuda.is_current_stream_capturing():
            return None  # the event would become a part of the graph, and its times those of no call
        if cuda_raw_stream is None:
            return self._known(device, int(self._cuda.current_stream(device).cuda_stream))
        return self._known(device, int(cuda_raw_stream(device)))

    def _known(self, device: int, number: int) -> int:
        """Keep the stream of a number: making torch's object for it takes as long as recording an event."""
        if (device, number) not in self._streams:
            if len(self._streams) >= MANY_STREAMS:
                self._streams.clear()
            self._streams[device, number] = self._cuda.current_stream(device)
        return number

    def event(self, device: int) -> Any:
        return self._cuda.Event(enable_timing=True)

    def record(self, event: Any, device: int, stream: int) -> None:
        held = self._streams.get((device, stream))
        event.record(self._cuda.ExternalStream(stream, device) if held is None else held)

    def is_complete(self, event: Any) -> bool:
        return bool(event.query())

    def elapsed_ns(self, first: Any, second: Any) -> int:
        elapsed_ms: float = first.elapsed_time(second)
        return round(elapsed_ms * NS_PER_MS)


class AcceleratorClock:
    """Another device by torch's generic streams and events. Not tried on one: see TIMED for those it is used for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._accelerator: Any = torch.accelerator
        self._event: Any = torch.Event
        self._streams: dict[tuple[int, int], Any] = {}
        module: Any = torch.get_device_module(kind)
        self._is_capturing = getattr(module, "is_current_stream_capturing", None)

    def current_device(self) -> int:
        return int(self._accelerator.current_device_index())

    def stream(self, device: int) -> int | None:
        if self._is_capturing is not None and self._is_capturing():
            return None
        found = self._accelerator.current_stream(device)
        number = int(found.stream_id)
        if len(self._streams) >= MANY_STREAMS:
            self._streams.clear()
        self._streams[device, number] = found
        return number

    def event(self, device: int) -> Any:
        return self._event(torch.device(self.kind, device), enable_timing=True)

    def record(self, event: Any, device: int, stream: int) -> None:
        event.record(self._streams[device, stream])

    def is_complete(self, event: Any) -> bool:
        return bool(event.query())

    def elapsed_ns(self, first: Any, second: Any) -> int:
        elapsed_ms: float = first.elapsed_time(second)
        return round(elapsed_ms * NS_PER_MS)


def clock_of(kind: str) -> DeviceClock | None:
    """The clock of devices of a kind of which a tensor has been seen; None where it has none. Starts no driver."""
    cuda: Any = torch.cuda
    if kind == "cuda":
        return CudaClock() if cuda.is_initialized() else None
    if kind in TIMED and hasattr(torch, "accelerator"):
        return AcceleratorClock(kind)
    return None


def devices_in(key: Any) -> Iterator[tuple[str, int]]:
    """(kind, index) of the device of each tensor in a signature, those that hold nothing left out."""
    if type(key) is not tuple or not key:
        return
    if len(key) == 5 and hasattr(key[2], "index") and hasattr(key[2], "type"):
        yield key[2].type, key[2].index or 0
    elif key[0] == "tensor" and len(key) == 7:
        if key[4] is not None and "FakeTensor" not in key[1]:
            kind, _, index = key[4].partition(":")
            yield kind, int(index) if index.isdigit() else 0
    else:
        for part in key:
            yield from devices_in(part)
