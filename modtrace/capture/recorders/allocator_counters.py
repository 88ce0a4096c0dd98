"""Allocator counters of devices, read at both ends of root calls, phases and spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.counter_readings import CounterReadings


@register
class AllocatorCounters(Recorder):
    """Is told of calls only from the first tensor on a device whose allocator counts."""

    name = "allocator_counters"
    tables = ("device_memory",)
    order = 3
    lost = "memory of devices is not read"

    def start(self) -> None:
        from modtrace.capture.mechanisms.counter_readings import CounterReadings

        self._readings: CounterReadings = CounterReadings(self.context, self._attach, self._detach)
        self.gaps = self._readings.gaps

    def install(self) -> None:
        self._readings.start()

    def signature_seen(self, number: int, key: Any) -> None:
        self._readings.signature_seen(number, key)

    def _attach(self) -> None:
        readings = self._readings
        self.context.events.add(self, root_began=readings.root_began, phase_began=readings.phase_began)

    def _detach(self) -> None:
        self.context.events.remove(self)

    def remove(self) -> None:
        self._readings.stop()

    def stop(self) -> None:
        self._readings.stop()

    def rows(self) -> list[tuple[str, Rows]]:
        return [("device_memory", self._readings.rows())]

    @property
    def has_rows(self) -> bool:
        return self._readings.has_rows

    @property
    def cost_ns(self) -> int:
        return self._readings.spent_ns
