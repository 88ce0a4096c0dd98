"""Phases around forward: waiting for data, the optimizer, zero_grad. They are rows of `calls`."""

from __future__ import annotations

from modtrace.capture.engine.recorder import Recorder
from modtrace.capture.recorders import register


@register
class Phases(Recorder):
    """Replaces functions of torch, and listens to its optimizers."""

    name = "phases"
    tables = ("calls",)
    order = 20
    lost = "phases of steps are not recorded"

    def start(self) -> None:
        from modtrace.capture.mechanisms.phase_hooks import PhaseHooks

        self._hooks = PhaseHooks(self.context)

    def install(self) -> None:
        self._hooks.install()

    def remove(self) -> None:
        self._hooks.remove()

    def stop(self) -> None:
        self._hooks.remove()

    def hide(self) -> None:
        self._hooks.hide()

    def show(self) -> None:
        self._hooks.show()
