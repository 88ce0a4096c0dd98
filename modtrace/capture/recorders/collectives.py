"""Collectives of ranks (all_reduce, barrier ...): when each was launched, and whether it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.flight_recorder import FlightRecorder

_OFTEN_NS: Final = 400_000_000
"""Those under way are written no more often."""


@register
class Collectives(Recorder):
    """Reads torch's own Flight Recorder, from the first process group on. Nothing is wrapped and nothing is sent."""

    name = "collectives"
    tables = ("process_groups", "collectives")
    order = 13
    lost = "collectives are not recorded"

    def start(self) -> None:
        from modtrace.capture.mechanisms.flight_recorder import FlightRecorder

        self._ring: FlightRecorder = FlightRecorder(self.context)
        self.gaps = self._ring.gaps
        self._written_ns = -_OFTEN_NS
        self._is_over = self._has_latest = False

    def look(self) -> None:
        self._ring.look()

    def stop(self) -> None:
        self._ring.finish()
        self._is_over = True

    @property
    def has_rows(self) -> bool:
        return self._ring.has_news

    @property
    def has_news(self) -> bool:
        return self._ring.has_news

    def rows(self) -> list[tuple[str, Rows]]:
        groups, collectives = self._ring.take()
        return [("process_groups", groups), ("collectives", collectives)]

    def latest_rows(self) -> list[tuple[str, Rows]]:
        now = self.context.clock()
        if self._is_over:
            return [("collectives", {})] if self._has_latest else []
        if not self._ring.has_news or now - self._written_ns < _OFTEN_NS:
            return []
        latest = self._ring.latest()
        if latest is None:
            return []
        self._written_ns, self._has_latest = now, True
        return [("collectives", latest)]

    @property
    def cost_ns(self) -> int:
        return self._ring.spent_ns
