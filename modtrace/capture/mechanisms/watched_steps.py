"""Recorders that use torch's profiler in some steps: they share one window, and the first of them runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modtrace.capture.engine.recorder import Recorder, Rows
from modtrace.capture.mechanisms.asked_steps import steps_of

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.profiler_window import ProfilerWindow


class WatchedSteps(Recorder):
    """A recorder of what torch's profiler tells in the steps that its option names."""

    kernels: ClassVar[bool]
    """It wants kernels; else allocations."""

    def start(self) -> None:
        from modtrace.capture.mechanisms.profiler_window import ProfilerWindow

        self._asked: tuple[int, int] | None = steps_of(str(self.value))
        self.window: ProfilerWindow = self.context.part(ProfilerWindow)
        self._runs_it = not self.window.asked
        self.window.ask(*self._asked, kernels=self.kernels)
        if self._runs_it:
            self.window.gaps = self.gaps

    def install(self) -> None:
        self.window.start()

    def events(self) -> Mapping[str, Callable[..., Any]]:
        return self.window.events() if self._runs_it else {}

    def stop(self) -> None:
        self.window.stop()

    def take_asked(self) -> tuple[int, int] | None:
        """The steps that were asked for, once."""
        asked, self._asked = self._asked, None
        return asked

    def window_rows(self) -> list[tuple[str, Rows]]:
        """Rows of `watched`, of the recorder that runs the window."""
        return [("watched", self.window.watched_rows())] if self._runs_it else []

    @property
    def has_rows(self) -> bool:
        return True

    @property
    def cost_ns(self) -> int:
        return self.window.spent_ns if self._runs_it else 0
