"""Device time of module calls, backwards and phases, by pairs of events on the stream that they run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.device_events import DeviceEvents


@register
class DeviceTimes(Recorder):
    """Is told of calls only from the first tensor on a device with a clock on."""

    name = "device_times"
    tables = ("device_times", "device_starts")
    order = 2
    lost = "device time is not recorded"

    def start(self) -> None:
        from modtrace.capture.mechanisms.device_events import DeviceEvents

        self._events: DeviceEvents = DeviceEvents(self.context, self._attach, self._detach)
        self.gaps = self._events.gaps

    def signature_seen(self, number: int, key: Any) -> None:
        self._events.signature_seen(number, key)

    def _attach(self) -> None:
        events = self._events
        self.context.events.add(
            self,
            call_began=events.call_began,
            call_ended=events.call_ended,
            phase_began=events.phase_began,
            phase_ended=events.phase_ended,
            module_backward_began=events.module_backward_began,
            module_backward_ended=events.module_backward_ended,
            call_taken_back=events.call_taken_back,
        )

    def _detach(self) -> None:
        self.context.events.remove(self)

    def read(self) -> None:
        self._events.read()

    def stop(self) -> None:
        self._events.stop()

    def rows(self) -> list[tuple[str, Rows]]:
        return [("device_times", self._events.times()), ("device_starts", self._events.starts())]

    @property
    def has_rows(self) -> bool:
        return self._events.has_rows

    @property
    def cost_ns(self) -> int:
        return self._events.cost_ns

    @property
    def call_cost_ns(self) -> int:
        return self._events.call_ns
