"""The part that recorders of values share: one watch of the trace, run by the first of them. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.recorder import Recorder

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.value_watch import ValueWatch


class ValueRecorder(Recorder):
    """A recorder that reads values through the `ValueWatch` of its trace."""

    _watch: ValueWatch
    _drives = False

    def start(self) -> None:
        from modtrace.capture.mechanisms.value_watch import ValueWatch

        self._watch = self.context.part(ValueWatch)
        self._drives = not self._watch.driven
        self._watch.driven = True
        if self._drives:
            self.gaps = self._watch.gaps

    def events(self) -> Mapping[str, Callable[..., Any]]:
        return self._watch.events() if self._drives else {}

    def hide(self) -> None:
        if self._drives:
            self._watch.hide()

    def show(self) -> None:
        if self._drives:
            self._watch.show()

    def read(self) -> None:
        if self._drives:
            self._watch.take()

    def stop(self) -> None:
        self._watch.stop()

    @property
    def has_rows(self) -> bool:
        return True

    @property
    def cost_ns(self) -> int:
        return self._watch.spent_ns if self._drives else 0
