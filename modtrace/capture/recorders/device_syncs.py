"""Operations at which the host waits for the device, with the line of the code that asks for them."""

from __future__ import annotations

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.counting_recorder import CountingRecorder
from modtrace.capture.recorders import register


@register
class DeviceSyncs(CountingRecorder):
    """Looks at each operation of each root call, in a dispatch mode."""

    name = "device_syncs"
    tables = ("syncs",)
    order = 31
    option = RecorderOption(
        argument="syncs",
        flag="--syncs",
        value=None,
        default=False,
        help="note where module calls wait for the device (.item(), .cpu(), nonzero); slow",
        doc="note where module calls wait for a device, such as by `.item()`, with the line of the code. Slow.",
    )
    lost = "waits for the device are not noted"

    counts = False

    def start(self) -> None:
        from modtrace.capture.mechanisms.device_waits import Syncs

        counting = self.begin_counting()
        if counting is not None:
            self._waits = counting.waits = Syncs()

    def rows(self) -> list[tuple[str, Rows]]:
        return [("syncs", self._waits.rows())] if self._counting is not None else []
