"""torch's functions as calls inside the module that makes them. They are rows of `calls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modtrace.capture.engine.recorder import Recorder, RecorderOption
from modtrace.capture.recorders import register

if TYPE_CHECKING:
    from modtrace.capture.mechanisms.function_mode import FunctionMode


@register
class Functions(Recorder):
    """A function mode on the thread that starts the trace."""

    name = "functions"
    tables = ("calls",)
    order = 40
    option = RecorderOption(
        argument="functions",
        flag="--functions",
        value=None,
        default=False,
        help="record torch's functions too, below the module that calls them (main thread)",
        doc="record torch's functions too, as rows below the module that called them, on the thread that starts the "
        "trace.",
    )
    lost = "functions are not recorded"

    def start(self) -> None:
        from modtrace.capture.engine.costs import with_functions
        from modtrace.capture.mechanisms.function_mode import FunctionMode
        from modtrace.capture.torch_private.lookup import CUSTOM_FUNCTIONS, FUNCTIONS, missing

        self._mode: FunctionMode | None = None
        self._shown: dict[tuple[int, int], bool] = {}
        lacks = missing(FUNCTIONS)
        self.gaps += lacks
        if not lacks:
            self.gaps += missing(CUSTOM_FUNCTIONS)
            self.context.costs = with_functions(self.context.costs, self.context.clock)
            self._mode = FunctionMode(self.context)

    def install(self) -> None:
        reason = self._mode.install() if self._mode is not None else None
        self.gaps += [reason] if reason is not None else []

    def remove(self) -> None:
        if self._mode is not None:
            self._mode.remove()

    def stop(self) -> None:
        self.remove()
        if self._mode is not None and self._mode.missed:
            from modtrace.capture.mechanisms.function_mode import MISSED

            self.gaps.append(MISSED.format(self._mode.missed))
            self._mode.missed = 0

    def hide(self) -> None:
        """Take the mode off: compiled code is guarded on the function modes that are there and must not find ours, now
        or later.
        """
        from modtrace.capture.mechanisms.function_mode import STOPPED

        if self._mode is not None and self._mode.active:
            self._mode.remove()
            self.gaps.append(STOPPED)

    def backward_opened(self, buffer: Any, call: int, outputs: Any) -> None:
        """`Tensor.backward` is a function too, so torch has taken the mode off."""
        if self._mode is not None and self._mode.active:
            self._shown[buffer.number, call] = self._mode.show()

    def backward_ended(self, buffer: Any, call: int, error: BaseException | None) -> None:
        if self._shown.pop((buffer.number, call), False) and self._mode is not None:
            self._mode.hide()

    def backward_paths(self, watch: Any, nodes: Sequence[tuple[int, Any]], paths: Sequence[Any]) -> Any:
        """Paths in which the backward of an `autograd.Function` is a call of its own."""
        if self._mode is None or not self._mode.active:
            return paths
        custom, longer = self._mode.custom, []
        for (_, node), path in zip(nodes, paths, strict=True):
            function = custom.class_of(node)
            inserted = () if function is None else (watch.insert(custom.backward_of(function, watch.code)),)
            longer.append((*path, *inserted) if inserted else path)
        return longer

    def stop_at_fault(self) -> None:
        self.stop()

    @property
    def stands_in(self) -> bool:
        return self._mode is not None and self._mode.active

    def owns_error(self, error: BaseException) -> bool:
        """A function of torch in C has no frame."""
        return self._mode is not None

    @property
    def cost_ns(self) -> int:
        costs = self.context.costs
        return self.context.function_calls * (costs.function_inside_ns + costs.function_outside_ns)
