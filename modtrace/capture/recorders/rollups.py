"""Rollups: sums of each module over windows of steps, and of which steps single calls are written beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from modtrace.capture.engine.recorder import Recorder, RecorderOption, Rows
from modtrace.capture.recorders import register
from modtrace.errors import UsageError
from modtrace.text import plain

if TYPE_CHECKING:
    from modtrace.capture.engine.thinning import Thinning
    from modtrace.capture.mechanisms.step_sums import StepSums

_OFTEN_NS: Final = 500_000_000
"""The window in progress is written no more often."""
ALL: Final = "all"
AUTO: Final = "auto"


def every_of_keep(text: object) -> int | None:
    """Of so many steps one is written: 1 for `auto`, which becomes more as the trace grows; None for `all`.

    Raises:
        UsageError: it is none of these, and no number above zero.
    """
    word = AUTO if text is None else str(text)
    if word == ALL:
        return None
    if word == AUTO:
        return 1
    if not word.isdecimal() or not int(word) or len(word) > 9:
        raise UsageError(
            f"{plain(word, 40)!r} is no choice of steps; there are auto, all and a number such as 50"
        )
    return int(word)


@register
class WindowSums(Recorder):
    """Adds up what is decoded of blocks, by the steps as they are counted while the program runs. Where single calls
    are not written of all steps, sums are kept without being asked for, from the first step on that may be left out.
    """

    name = "rollups"
    tables = ("rollups", "thinned")
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
    further_options = (
        RecorderOption(
            argument="keep",
            flag="--keep",
            value="STEPS",
            default=AUTO,
            help="steps to record in full: auto (all, fewer as --max-size comes near), all, or every Nth",
            doc='steps that are recorded in full: "auto" is all of them until half of `max_bytes` is used, then fewer '
            'and fewer; 50 is every 50th; "all". Sums are kept of all steps where some are left out.',
            check=every_of_keep,
        ),
    )

    @classmethod
    def is_implied(cls, further: Mapping[str, bool | str | None]) -> bool:
        return every_of_keep(further["keep"]) is not None

    def start(self) -> None:
        from modtrace.capture.engine.thinning import Thinning
        from modtrace.capture.mechanisms.step_sums import StepSums

        every, is_asked = every_of_keep(self.further["keep"]), self.further["keep"] not in (None, AUTO)
        if every is not None:
            self.context.thinning = Thinning(every, is_on=is_asked, origin_ns=self.context.origin_ns)
        self._sums: StepSums | None = StepSums() if self.value or (is_asked and every is not None) else None
        self._ends_known = self._is_over = False
        self._written_ns = -_OFTEN_NS

    @property
    def goes_on(self) -> bool:
        return self._sums is not None

    def stop(self) -> None:
        self._is_over = True
        if self.context.thinning is not None:
            self.context.thinning.is_over = True

    @property
    def has_rows(self) -> bool:
        return self._is_over and self._sums is not None

    def step_ended(self, step: int) -> None:
        now = self._now()
        if self._sums is not None:
            self._sums.step_began(step, now)
        if self.context.thinning is not None:
            self.context.thinning.step_began(step, now, is_known=self.context.step_is_known)

    def optimizer_ended(self, optimizer: Any, number: int, end_ns: int) -> None:
        self._ends_known = True
        for steps in (self._sums, self.context.thinning):
            if steps is not None:
                steps.ended_at(end_ns - self.context.origin_ns)

    def step_marked(self, end_ns: int) -> None:
        self._ends_known = True

    def _now(self) -> int:
        return self.context.clock() - self.context.origin_ns

    def blocks_decoded(self, blocks: Any, at_ns: int) -> None:
        thinning = self.context.thinning
        if self._sums is None and thinning is not None and thinning.is_on:
            self._sums = self._sums_from(thinning)
        if self._sums is None:
            return
        for number, calls in blocks:
            self._sums.add(calls, number, self.context.origin_ns, self.context.labels.name_of)
        # Where something ends steps, what is behind the last end is no whole step.
        self._sums.finish(at_ns, with_last=self._is_over and not self._ends_known)
        if self._is_over:
            self._sums.close()

    def _sums_from(self, thinning: Thinning) -> StepSums:
        """Sums that begin with the first step that may be left out."""
        from modtrace.capture.mechanisms.step_sums import StepSums

        sums = StepSums(thinning.begin[0])
        for step, since_ns in thinning.borders():
            sums.step_began(step, since_ns)
        return sums

    def rows(self) -> list[tuple[str, Rows]]:
        return [("rollups", self._sums.closed())] if self._sums is not None else []

    def latest_rows(self) -> list[tuple[str, Rows]]:
        if self._sums is None:
            return []
        now, thinning = self._now(), self.context.thinning
        if now - self._written_ns < _OFTEN_NS and not self._is_over:
            return []
        self._written_ns = now
        rows: list[tuple[str, Rows]] = [("rollups", self._sums.latest())]
        return rows if thinning is None else [*rows, ("thinned", thinning.latest())]
