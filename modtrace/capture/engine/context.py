"""Context of one trace: its thread buffers, clock, modules, signatures and events, shared by tracer and recorders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from modtrace.capture.engine.decode import Costs
from modtrace.capture.engine.events import Events
from modtrace.capture.engine.exceptions import Errors
from modtrace.capture.engine.labels import Labels
from modtrace.capture.engine.modules import Registry
from modtrace.capture.engine.pauses import Pauses
from modtrace.capture.engine.signatures import Signatures
from modtrace.capture.engine.thinning import Thinning
from modtrace.capture.engine.thread_buffer import BufferTable, ThreadBuffer, ThreadBuffers
from modtrace.capture.engine.variables import Variables
from modtrace.capture.torch_private.names import next_node

Part = TypeVar("Part")


class TraceContext:
    """Context of one trace, which its recorders share with its tracer.

    threads: every thread buffer of the trace; `buffers.current` is that of the calling thread.
    labels: names of what is no module.
    events: what recorders are told.
    origin_ns: the clock at the start of recording.
    messages: whether texts of exceptions may be kept.
    costs: what recording a call costs here.
    module_calls, function_calls: how many of them have been written.
    due: the clock from which on a block is to be written.
    off: nothing is recorded any more.
    step: the number of the step in progress, as far as can be told while the program runs.
    step_is_known: False while an optimizer that has not stepped yet leaves open where steps end.
    thinning: chooses the steps that are written; None where all are.
    pauses: when the program waited for a person.
    rank: of the process in its job.
    started_unix_ns: the start of recording by the wall clock, nanoseconds since 1970.
    """

    __slots__ = (
        "_parts",
        "admits",
        "buffers",
        "clock",
        "costs",
        "deep",
        "due",
        "errors",
        "events",
        "fault",
        "flush",
        "flush_now",
        "function_calls",
        "labels",
        "left_modes",
        "messages",
        "module_calls",
        "next_node",
        "off",
        "origin_ns",
        "pauses",
        "rank",
        "registry",
        "signatures",
        "stands_in",
        "started_unix_ns",
        "step",
        "step_is_known",
        "thinning",
        "threads",
        "told_by_program",
        "unwatched",
        "variables",
        "warn",
        "watch_again",
    )

    def __init__(  # noqa: PLR0913 - one place makes it
        self,
        *,
        threads: BufferTable,
        registry: Registry,
        signatures: Signatures,
        errors: Errors,
        labels: Labels,
        clock: Callable[[], int],
        origin_ns: int = 0,
        fault: Callable[[BaseException], None],
        warn: Callable[[str], None],
        take_off: Callable[[Any, BaseException], None],
        admits: Callable[[torch.nn.Module], bool] | None = None,
        pauses: Pauses | None = None,
        rank: int = 0,
        started_unix_ns: int = 0,
    ) -> None:
        self.threads = threads
        self.buffers = ThreadBuffers(threads)
        self.registry = registry
        self.signatures = signatures
        self.errors = errors
        self.labels = labels
        self.clock = clock
        self.pauses = Pauses(clock) if pauses is None else pauses
        self.rank = rank
        self.started_unix_ns = started_unix_ns
        self.origin_ns = origin_ns
        self.flush: Callable[[ThreadBuffer], None] = _no_flush
        self.flush_now: Callable[[ThreadBuffer], None] = _no_flush
        self.fault = fault
        self.warn = warn
        self.admits = admits
        self.events = Events(take_off)
        self.messages = True
        self.stands_in: Callable[[], bool] = _never
        self.next_node = next_node
        self.costs = Costs(0, 0)
        self.module_calls = self.function_calls = 0
        self.step = 0
        self.step_is_known = True
        self.thinning: Thinning | None = None
        self.due = 0
        self.deep = False
        self.off = False
        self.variables = Variables()
        self.told_by_program: list[str] = []
        """Gaps whose cause is an error that the program itself reports."""
        self.unwatched = False
        """The thread that looks after the recording has ended before a fork; `watch_again` begins it anew."""
        self.watch_again: Callable[[], None] = _nothing
        self.left_modes: list[Callable[[], bool]] = []
        """Modes of torch's that stand on a thread still, although nothing is recorded by them any more."""
        self._parts: dict[Any, Any] = {}

    def take_out_later(self, take_out: Callable[[], bool]) -> None:
        """Take a mode off its thread where the next call ends there: torch keeps modes by thread, and this is another
        one, or the mode is running and torch puts it back behind us. `take_out` says if it was there.
        """
        self.left_modes.append(take_out)

    def take_out_left(self) -> None:
        """Take off what stands on this thread of the modes that were left there."""
        for take_out in tuple(self.left_modes):
            if take_out():
                self.left_modes.remove(take_out)

    def part(self, make: Callable[[TraceContext], Part]) -> Part:
        """The object that several recorders use together, made by the first of them that asks."""
        known: Part | None = self._parts.get(make)
        if known is None:
            known = self._parts[make] = make(self)
        return known


def _nothing() -> None:
    pass


def _never() -> bool:
    return False


def _no_flush(_: ThreadBuffer) -> None:
    pass
