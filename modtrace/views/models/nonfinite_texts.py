"""WHERE NAN BEGAN: lines about the first values that are not finite."""

from __future__ import annotations

import math
import textwrap
from typing import Final

from modtrace.analysis.nonfinite import (
    LARGEST,
    NonFinite,
    Range,
    first_fault,
    nonfinite,
    shown_title,
    where,
)
from modtrace.text import fit, plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import ALLOWED, FAULT, SHORT_DTYPES, SKIPPED
from modtrace.units import value

_MANY: Final = 4


def head(entry: NonFinite) -> str:
    """`WHERE NAN BEGAN   step 4   forward   log (SafeLog)`."""
    step = "" if entry.step is None else f"step {entry.step}   "
    return f"WHERE {'NAN' if entry.is_nan else 'INF'} BEGAN   {step}{where(entry)}"


def nonfinite_lines(entry: NonFinite, width: int) -> list[str]:
    """The lines under it: ranges, the steps before, and the line of the program."""
    lines = [f"  {head(entry)}"]
    lines += _table([entry.tensor, *entry.inputs[:_MANY], *entry.parameters[:_MANY]])
    if entry.before:
        last = "NaN" if entry.is_nan else "inf"
        series = ", ".join([*map(value, entry.before), last])
        end = LARGEST.get(entry.tensor.dtype)
        limit = (
            f": {entry.tensor.dtype} ends at {_ending(end)}" if end and entry.before[-1] > end / 1e3 else ""
        )
        lines.append(f"    step by step, largest: {series}{limit}")
    if entry.became_nan is not None:
        lines.append(f"    the infinity became NaN in {shown_title(*entry.became_nan)}")
    if entry.node is not None:
        lines.append(f"    the gradient came out of {plain(entry.node)}")
    if entry.place == "parameter":
        lines.append("    it was finite after the last optimizer step: something else has changed it")
    operation = f"{plain(entry.operation)}   " if entry.operation else ""
    if entry.line is not None or operation:
        verb = "called at" if entry.tensor.name.startswith("output") and not operation else "at"
        place = fit(plain(entry.line or ""), max(width - 8 - len(operation) - len(verb), 20), keep_end=True)
        lines.append(f"    {operation}{verb} {place}" if entry.line else f"    in {operation}".rstrip())
    return lines


def nonfinite_summary(stored: Stored, width: int) -> list[str]:
    """The lines about the first fault of a trace, and those that are none; empty where all was finite."""
    fault = first_fault(stored)
    return [*(nonfinite_lines(fault, width) if fault is not None else []), *notes(nonfinite(stored), width)]


def note(entry: NonFinite) -> str:
    """One line about values that are not finite and may be: of a step left out, an allowed module, or gone again."""
    what = "NaN" if entry.is_nan else "infinity"
    step = "" if entry.step is None else f"step {entry.step}: "
    if entry.verdict == SKIPPED:
        return f"{step}the GradScaler left a step out: {what} in {where(entry)}"
    if entry.verdict == ALLOWED:
        return f"{step}{what} in {where(entry)}, which is allowed"
    return f"{step}{what} in {where(entry)}, gone again in what follows"


def notes(entries: list[NonFinite], width: int) -> list[str]:
    """Lines about those that are no fault; the first of them, and how many more there are."""
    others = [entry for entry in entries if entry.verdict != FAULT]
    if not others:
        return []
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    text = f"{note(others[0])}{more}"
    return textwrap.wrap(text, max(width, 30), initial_indent="  ", subsequent_indent="    ")


def _table(ranges: list[Range]) -> list[str]:
    names = [f"{plain(entry.name)}" for entry in ranges]
    types = [f"{SHORT_DTYPES.get(entry.dtype, entry.dtype)}{entry.shape}" for entry in ranges]
    wide, wide_type = max(map(len, names)), max(map(len, types))
    return [
        f"    {name:{wide}}  {text:{wide_type}}  {range_text(entry)}".rstrip()
        for name, text, entry in zip(names, types, ranges, strict=True)
    ]


def range_text(entry: Range) -> str:
    """`[-3.1, 2.8]`, `NaN`, `[-inf, 4]`; `?` where it was not read."""
    if entry.minimum is None or entry.maximum is None:
        return "?"
    if math.isnan(entry.minimum):
        return "NaN"
    return f"[{value(entry.minimum)}, {value(entry.maximum)}]"


def _ending(end: float) -> str:
    return f"{end:,.0f}" if end < 1e6 else value(end)
