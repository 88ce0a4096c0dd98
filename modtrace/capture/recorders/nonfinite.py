"""Where NaN and infinities begin."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from modtrace.capture.engine.recorder import RecorderOption, Rows
from modtrace.capture.mechanisms.value_recorder import ValueRecorder
from modtrace.capture.recorders import register


@register
class Nonfinite(ValueRecorder):
    """Reads the range of every tensor that modules are given and give, until one is not finite and should be."""

    name = "nonfinite"
    tables = ("nonfinite", "values")
    order = 59
    option = RecorderOption(
        argument="nan",
        flag="--nan",
        value=None,
        default=False,
        help="say where NaN or infinity begins",
        doc="say where NaN or infinity begins: the module, the step, the ranges before.",
    )
    further_options = (
        RecorderOption(
            argument="nan_stop",
            flag="--nan-stop",
            value=None,
            default=False,
            help="raise an error at the module that made it; waits for the device at every call",
            doc="raise NonFiniteError where NaN or infinity begins; waits for the device at every call.",
        ),
        RecorderOption(
            argument="nan_pin",
            flag="--nan-pin",
            value=None,
            default=False,
            help="name the operation too: that forward is run once more; waits at every call",
            doc="find the operation too, by running that forward once more; waits for the device at every call.",
        ),
        RecorderOption(
            argument="nan_allow",
            flag="--nan-allow",
            value="NAMES",
            default=None,
            help="modules that may make it: names such as attn.* or classes, behind commas",
            doc="modules that may make it: names such as `attn.*`, or classes, behind commas.",
        ),
    )
    lost = "values that are not finite are not looked for"

    def start(self) -> None:
        from modtrace.capture.mechanisms.value_watch import NanOptions

        super().start()
        words = str(self.further["nan_allow"] or "").split(",")
        patterns = [name.strip() for name in words if name.strip()]
        title_of = self.context.registry.title_of

        def allows(number: int) -> bool:
            name, class_name = title_of(number)
            return any(fnmatchcase(name, pattern) or pattern == class_name for pattern in patterns)

        self._watch.ask_nan(
            NanOptions(stop=bool(self.further["nan_stop"]), pin=bool(self.further["nan_pin"]), allows=allows)
        )

    @classmethod
    def is_implied(cls, further: Mapping[str, bool | str | None]) -> bool:
        return any(further.values())

    def rows(self) -> list[tuple[str, Rows]]:
        return [("nonfinite", self._watch.origin_rows()), ("values", self._watch.value_rows())]
