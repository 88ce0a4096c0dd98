"""What the recorders of one trace share: where they record to, and what they ask of the tracer."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import torch

from modtrace.capture.lanes import Lane, Lanes
from modtrace.capture.raised import Errors
from modtrace.capture.registry import Registry
from modtrace.capture.seen import Entry
from modtrace.capture.signature import Signatures
from modtrace.capture.torch_private.names import next_node
from modtrace.capture.variables import Variables

if TYPE_CHECKING:
    from modtrace.capture.device_times import DeviceTimes
    from modtrace.capture.memory_readings import MemoryReadings


class State:
    """What the hooks of one trace share with its tracer."""

    __slots__ = (
        "admits",
        "clock",
        "count",
        "counts",
        "deep",
        "device_memory",
        "device_times",
        "due",
        "errors",
        "fault",
        "flush",
        "flush_now",
        "lanes",
        "next_node",
        "off",
        "registry",
        "root_begins",
        "signatures",
        "stands_in",
        "unwatched",
        "variables",
        "warn",
        "watch_again",
    )

    def __init__(
        self,
        *,
        lanes: Lanes,
        registry: Registry,
        signatures: Signatures,
        errors: Errors,
        clock: Callable[[], int],
        flush: Callable[[Lane], None],
        fault: Callable[[BaseException], None],
        warn: Callable[[str], None],
        admits: Callable[[torch.nn.Module], bool] | None,
    ) -> None:
        self.lanes = lanes
        self.registry = registry
        self.signatures = signatures
        self.errors = errors
        self.clock = clock
        self.flush = flush
        self.flush_now = flush
        self.fault = fault
        self.warn = warn
        self.admits = admits
        self.count: Callable[[Lane, Entry, int, int, FrameType], int] = _not_counted
        self.counts = False
        self.device_times: DeviceTimes | None = None
        self.device_memory: MemoryReadings | None = None
        self.root_begins: Callable[[torch.nn.Module], None] | None = None
        self.stands_in: Callable[[], bool] = _never
        self.next_node = next_node
        self.due = 0
        self.deep = False
        self.off = False
        self.variables = Variables()
        self.unwatched = False
        """The thread that looks after the recording has ended before a fork; `watch_again` begins it anew."""
        self.watch_again: Callable[[], None] = _nothing


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def _not_counted(_lane: Lane, _entry: Entry, _given: int, mode: int, _frame: FrameType) -> int:
    return mode
