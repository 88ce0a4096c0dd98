"""Rollups: sums of each module over windows of steps, which fit where single calls do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from modtrace.capture.engine.recorder import Recorder, RecorderOption, Rows
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.step_sums import StepSums

_OFTEN_NS: Final = 500_000_000
"""The window in progress is written no more often."""


@register
class WindowSums(Recorder):
    """Adds up what is decoded of blocks, by the steps as they are counted while the program runs."""

    name = "rollups"
    tables = ("rollups",)
    order = 12
    lost = "sums over steps are not kept"
    option = RecorderOption(
        argument="rollups",
        flag="--rollups",
        value=None,
        default=False,
        help="keep sums of each module over windows of steps, beyond --max-size too",
        doc="keep sums of each module over windows of steps; they go on when the trace has reached `max_bytes`.",
    )

    def start(self) -> None:
        from modtrace.capture.mechanisms.step_sums import StepSums

        self._sums: StepSums = StepSums()
        self._ends_known = self._is_over = False
        self._written_ns = -_OFTEN_NS

    def stop(self) -> None:
        self._is_over = True

    @property
    def has_rows(self) -> bool:
        return self._is_over

    def root_began(self, *_: Any) -> int:
        if self.context.step > self._sums.step:
            self._sums.step_began(self.context.step, self._now())
        return 0

    def optimizer_ended(self, optimizer: Any, number: int, end_ns: int) -> None:
        self._ended(end_ns)

    def step_marked(self, end_ns: int) -> None:
        self._ended(end_ns)

    def _ended(self, end_ns: int) -> None:
        self._ends_known = True
        self._sums.step_began(self.context.step, end_ns - self.context.origin_ns)

    def _now(self) -> int:
        return self.context.clock() - self.context.origin_ns

    def blocks_decoded(self, blocks: Any, at_ns: int) -> None:
        for number, calls in blocks:
            self._sums.add(calls, number, self.context.origin_ns, self.context.labels.name_of)
        # Where something ends steps, what is behind the last end is no whole step.
        self._sums.finish(at_ns, with_last=self._is_over and not self._ends_known)
        if self._is_over:
            self._sums.close()

    def rows(self) -> list[tuple[str, Rows]]:
        return [("rollups", self._sums.closed())]

    def latest_rows(self) -> list[tuple[str, Rows]]:
        now = self._now()
        if now - self._written_ns < _OFTEN_NS and not self._is_over:
            return []
        self._written_ns = now
        return [("rollups", self._sums.latest())]
