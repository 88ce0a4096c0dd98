"""The part that recorders of operations share: one counting of the trace, in one dispatch mode. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modtrace.capture.engine.recorder import Recorder

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.operation_counting import OperationCounting


class CountingRecorder(Recorder):
    """A recorder that looks at operations through the `OperationCounting` of its trace.

    Several may use it, and one drives it: is told of events, hides and stops it, and answers for its cost. That is the
    one that counts FLOPs, where it runs.
    """

    counts: ClassVar[bool]
    """It counts FLOPs and operations."""
    _counting: OperationCounting | None = None

    def begin_counting(self) -> OperationCounting | None:
        """Take part in the counting of the trace; None, with a gap, where this torch lacks the names it needs."""
        from modtrace.capture.mechanisms.operation_counting import OperationCounting
        from modtrace.capture.torch_private.lookup import FLOPS, missing

        lacks = missing(FLOPS)
        self.gaps += lacks
        if not lacks:
            self._counting = self.context.part(OperationCounting)
            self._counting.counts = self._counting.counts or self.counts
            if self._driven is not None:
                self._counting.gaps = self.gaps
        return self._counting

    @property
    def _driven(self) -> OperationCounting | None:
        """The counting, where this recorder drives it."""
        counting = self._counting
        return counting if counting is not None and counting.counts == self.counts else None

    def events(self) -> Mapping[str, Callable[..., Any]]:
        return {} if self._driven is None else self._driven.events()

    def hide(self) -> None:
        if self._driven is not None:
            self._driven.hide()

    def show(self) -> None:
        if self._driven is not None:
            self._driven.show()

    def stop(self) -> None:
        if self._driven is not None:
            self._driven.stop()

    def stop_at_fault(self) -> None:
        self.stop()

    @property
    def stands_in(self) -> bool:
        return self._counting is not None and self._counting.active

    @property
    def cost_ns(self) -> int:
        return 0 if self._driven is None else self._driven.spent_ns
