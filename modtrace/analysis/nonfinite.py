"""Where NaN and infinities began, with the ranges around and before: what views show of `--nan`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.module_titles import module_titles
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import (
    BATCH,
    FAULT,
    GRADIENT,
    INPUT,
    LOSS,
    MODULE,
    PARAMETER_GRADIENT,
    PARAMETER_VALUE,
    VALUE_KINDS,
)

LARGEST: Final = {"float16": 65_504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}
"""The largest finite number of a type."""
_STEPS_BEFORE: Final = 4
_PLACES: Final = {
    "forward": "forward",
    "backward": "backward",
    "loss": "loss",
    "data": "data",
    "parameter": "before forward",
    "optimizer": "after the optimizer step",
}


@dataclass(frozen=True)
class Range:
    """The range of one tensor. `name` is what it is (`output`, `input 0`, `weight`); extremes are None where unread."""

    name: str
    dtype: str
    shape: str
    minimum: float | None
    maximum: float | None

    @property
    def largest(self) -> float | None:
        """The greatest absolute value; NaN where any element is NaN."""
        if self.minimum is None or self.maximum is None:
            return None
        return math.nan if math.isnan(self.minimum) else max(abs(self.minimum), abs(self.maximum))


@dataclass(frozen=True)
class NonFinite:
    """Values that are not finite, and where they began.

    step: number of the step; None outside of steps.
    verdict: index into VERDICTS.
    place: forward, backward, loss, data, parameter, optimizer.
    is_nan: NaN; else infinities.
    module, type: name and class of the module that made them; empty where none did.
    taker: (name, class) of the module whose tensor was the first; of an input the one that was given it.
    tensor: what the first such tensor was: a `Range`.
    inputs, parameters: ranges of what the call was given, and of the module's own parameters.
    before: the greatest absolute values of the same tensor in the steps before, the oldest first.
    from_loader: a DataLoader handed them out.
    became_nan: (name, class) of the module in which infinities became NaN.
    node: autograd's function that made a gradient. operation: that in the module's forward, with `--nan-pin`.
    line: `file:line` of the program.
    call: row of the timeline.
    """

    step: int | None
    verdict: int
    place: str
    is_nan: bool
    module: str
    type: str
    taker: tuple[str, str]
    tensor: Range
    inputs: list[Range]
    parameters: list[Range]
    before: list[float]
    from_loader: bool
    became_nan: tuple[str, str] | None
    node: str | None
    operation: str | None
    line: str | None
    call: int


@once
def nonfinite(stored: Stored) -> list[NonFinite]:
    """All that was recorded of what is not finite, in order of time; faults first."""
    table = stored.table("nonfinite")
    if not len(table):
        return []
    rows = sorted(table.to_pylist(), key=lambda row: (row["verdict"] != FAULT, row["at_ns"]))
    values = _values(stored)
    return [_described(stored, row, values) for row in rows]


def first_fault(stored: Stored) -> NonFinite | None:
    """The first that should be finite; None for none."""
    return next((entry for entry in nonfinite(stored) if entry.verdict == FAULT), None)


def _values(stored: Stored) -> list[dict[str, Any]]:
    return sorted(stored.table("values").to_pylist(), key=lambda row: row["at_ns"])


def _described(stored: Stored, row: dict[str, Any], values: list[dict[str, Any]]) -> NonFinite:
    line = timeline(stored)
    place = int(line.place[row["call"]])
    steps = nullable_codes(line.calls, "step")
    step = int(steps[place])
    own = next((value for value in values if _is_same(value, row)), None)
    given = [
        value
        for value in values
        if value["call"] == row["call"] and value["at_ns"] <= row["at_ns"] and value is not own
    ]
    shapes = _Shapes(stored, place)
    inputs = [_range(value, shapes) for value in given if value["kind"] == INPUT]
    parameters = [_range(value, shapes) for value in given if value["kind"] == PARAMETER_VALUE]
    module, class_name = _title(stored, row["module"])
    became = row["became_nan"]
    tensor = _range(own, shapes) if own is not None else Range(_tensor_name(row), "", "", None, None)
    return NonFinite(
        step=step if step >= 0 else None,
        verdict=row["verdict"],
        place=_place(stored, row, place),
        is_nan=row["is_nan"],
        module=module,
        type=class_name,
        taker=_title(stored, own["module"] if own is not None else row["module"]),
        tensor=tensor,
        inputs=inputs if row["kind"] != PARAMETER_VALUE else [],
        parameters=parameters if row["kind"] != INPUT else [],
        before=_before(line, values, own, steps, step),
        from_loader=row["from_loader"],
        became_nan=_title(stored, became) if became is not None else None,
        node=row["node"],
        operation=row["operation"],
        line=f"{row['source_file']}:{row['source_line']}" if row["source_file"] else None,
        call=place,
    )


def _is_same(value: dict[str, Any], row: dict[str, Any]) -> bool:
    return all(value[name] == row[name] for name in ("call", "kind", "path", "at_ns"))


def _before(
    line: Any, values: list[dict[str, Any]], own: dict[str, Any] | None, steps: Any, step: int
) -> list[float]:
    """Greatest absolute values of the same tensor in the steps before: of each step the greatest."""
    if own is None:
        return []
    by_step: dict[int, float] = {}
    for value in values:
        same = all(value[name] == own[name] for name in ("kind", "module", "path"))
        if not same or value["at_ns"] >= own["at_ns"] or value["minimum"] is None:
            continue
        of_step = int(steps[line.place[value["call"]]])
        if 0 <= of_step < step:
            largest = max(abs(value["minimum"]), abs(value["maximum"]))
            by_step[of_step] = max(by_step.get(of_step, 0.0), largest)
    return [by_step[of_step] for of_step in sorted(by_step)][-_STEPS_BEFORE:]


class _Shapes:
    """Shapes of what a call was given and gave, by kind and path."""

    def __init__(self, stored: Stored, place: int) -> None:
        table = timeline(stored).calls
        self._shapes: dict[tuple[str, str], str] = {}
        signatures = stored.table("signatures").column("tensors")
        for which in ("inputs", "outputs"):
            code = int(nullable_codes(table, which)[place])
            for tensor in signatures[code].as_py() if code >= 0 else []:
                shape = tensor["shape"]
                text = "" if shape is None else ",".join("?" if size is None else str(size) for size in shape)
                self._shapes[which, tensor["path"]] = f"[{text}]" if shape is not None else ""
        module = int(nullable_codes(table, "module")[place])
        for tensor in stored.table("modules").column("parameters")[module].as_py() if module >= 0 else []:
            self._shapes["parameters", tensor["path"]] = f"[{','.join(map(str, tensor['shape'] or ()))}]"

    def of(self, kind: int, path: str) -> str:
        """`[2,8]`; empty where it is not known."""
        which = {INPUT: "inputs", PARAMETER_VALUE: "parameters", 0: "outputs"}.get(kind, "")
        shape = self._shapes.get((which, path))
        if shape is None and path == "0":  # an argument alone
            shape = self._shapes.get((which, ""))
        return shape or ""


def _range(value: dict[str, Any], shapes: _Shapes) -> Range:
    return Range(
        _tensor_name(value),
        value["dtype"],
        shapes.of(value["kind"], value["path"]),
        value["minimum"],
        value["maximum"],
    )


def _tensor_name(value: dict[str, Any]) -> str:
    kind, path = value["kind"], value["path"]
    if kind in (PARAMETER_VALUE, PARAMETER_GRADIENT):
        return path if kind == PARAMETER_VALUE else f"{path}.grad"
    return f"{VALUE_KINDS[kind]} {path}".strip()


def _place(stored: Stored, row: dict[str, Any], place: int) -> str:
    """Part of the step in which they began."""
    kind = row["kind"]
    if kind in (GRADIENT, PARAMETER_GRADIENT):
        return "backward"
    if kind == LOSS:
        return "loss"
    if kind == BATCH:
        return "data"
    if kind == PARAMETER_VALUE:
        of_module = column(timeline(stored).calls, "kind")[place] == MODULE
        return "parameter" if of_module else "optimizer"
    return "forward"


def _title(stored: Stored, module: int | None) -> tuple[str, str]:
    """Name and class of a module; empty for None."""
    return ("", "") if module is None else module_titles(stored)[module]


def where(entry: NonFinite) -> str:
    """The part of the step, and what made them: `forward   log (SafeLog)`, `input 0 of Net, from the loader`."""
    loader = ", from the loader" if entry.from_loader else ""
    if entry.tensor.name.startswith("input"):
        if entry.from_loader or not entry.module:
            return f"{plain(entry.tensor.name)} of {shown_title(*entry.taker)}{loader}"
        return f"forward   {shown_title(entry.module, entry.type)}, in its code before {shown_title(*entry.taker)}"
    if entry.place == "data":
        return f"{plain(entry.tensor.name)}{loader}"
    place = _PLACES[entry.place]
    if entry.place in ("parameter", "optimizer") or entry.tensor.name.endswith(".grad"):
        return f"{place}   {plain('.'.join(filter(None, (entry.module, entry.tensor.name))))}"
    title = shown_title(entry.module, entry.type) if entry.module else "code outside of modules"
    return f"{place}   {title}"


def shown_title(name: str, class_name: str) -> str:
    """`log (SafeLog)`."""
    return plain(name if not class_name or class_name == name else f"{name} ({class_name})")
