"""Limits on what may change, or be: `step:+5%, encoder.*.forward:+10%, peak<2GB, nan`. Text -> limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from modtrace.analysis.comparing.run_numbers import (
    BACKWARD,
    DEVICE,
    FORWARD,
    MODULE_NUMBERS,
    RUN_NUMBERS,
    STEP,
    SUBTREE,
)
from modtrace.errors import UsageError
from modtrace.filter_language import compared_amount, short
from modtrace.trace.schema import PHASES

NAN, FINDINGS = "nan", "findings"
FIGURES: Final = ("p50", "p95", "max", "mean")
"""Figures of times over the steps that count; the first where none is named."""
STEP_TIMES: Final = (STEP, *PHASES, "other", "other_threads", DEVICE)
"""Times of a step, by name."""
MODULE_QUANTITIES: Final = {FORWARD: FORWARD, BACKWARD: BACKWARD, DEVICE: DEVICE, "time": SUBTREE}
"""Name of a time of a module in a limit -> its key."""
_LIMIT: Final = re.compile(
    r"(?P<target>[^:<>=\s]+)\s*"
    r"(?::\s*(?P<change>[+-][0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?P<unit>%|[A-Za-z]{0,5})"
    r"|(?P<compare><=|>=|=|<|>)\s*(?P<amount>\S+))?\Z"
)
EXAMPLE: Final = "step:+5%, encoder.*.forward:+10%, peak:+1%, flops:+0, nan"


@dataclass(frozen=True)
class Limit:
    """A limit.

    text: as it was written.
    target: `nan`, `findings`, a time of STEP_TIMES, a number of RUN_NUMBERS, or a pattern for names of modules.
    quantity: of a module: a time, or a number of MODULE_NUMBERS; "" for what is no module's.
    figure: of a time: one of FIGURES.
    share: how much more, or less, there may be than in the baseline, as a part of it; None where that is not asked.
    amount: the same in units of the number, or, with `compare`, what the number is compared with.
    compare: key of COMPARE that must hold of the number itself; "" for a limit on its change.
    """

    text: str
    target: str
    quantity: str = ""
    figure: str = FIGURES[0]
    share: float | None = None
    amount: float | None = None
    compare: str = ""

    @property
    def is_change(self) -> bool:
        """It is about the change from a baseline."""
        return self.share is not None or (self.amount is not None and not self.compare)

    @property
    def of_module(self) -> bool:
        """It is about modules."""
        return bool(self.quantity)

    @property
    def is_time(self) -> bool:
        """Its number is a time."""
        return self.quantity in MODULE_QUANTITIES.values() or self.target in STEP_TIMES

    @property
    def unit(self) -> str:
        """Unit of its number: `ns`, `bytes`, `FLOP`; "" for a count."""
        return _unit(self.target, self.quantity)


def _unit(target: str, quantity: str) -> str:
    if quantity in MODULE_QUANTITIES.values() or (not quantity and target in STEP_TIMES):
        return "ns"
    facts = MODULE_NUMBERS.get(quantity) if quantity else RUN_NUMBERS.get(target)
    return facts.unit if facts is not None else ""


def parse_limits(text: str) -> list[Limit]:
    """Read limits with commas between them.

    Raises:
        UsageError: one cannot be read, or there are none.
    """
    limits = [_limit(part.strip()) for part in text.replace("\n", ",").split(",") if part.strip()]
    if not limits:
        raise UsageError(f"--fail-on takes limits such as {EXAMPLE!r}")
    return limits


def _limit(text: str) -> Limit:
    match = _LIMIT.match(text)
    if match is None:
        raise UsageError(f"{short(text)!r} is no limit: write step:+5%, peak<2GB or nan")
    target, change, compare = match["target"], match["change"], match["compare"] or ""
    if target == NAN:
        if change or compare:
            raise UsageError(f"{short(text)!r}: nan has no amount; it fails where any value is not finite")
        return Limit(text, NAN)
    if target == FINDINGS:
        return _of_findings(text, change, compare, match["amount"])
    name, quantity, figure = _resolved(target)
    unit = _unit(name, quantity)
    if change:
        share, amount = _change(text, change, match["unit"], unit)
        return Limit(text, name, quantity, figure, share, amount)
    if not compare:
        raise UsageError(
            f"{short(text)!r} says no limit: write {short(target)}:+5% or {short(target)}<{_example(unit)}"
        )
    amount = compared_amount(name, compare, match["amount"], unit)
    return Limit(text, name, quantity, figure, amount=amount, compare=compare)


def _of_findings(text: str, change: str | None, compare: str, amount: str | None) -> Limit:
    if change:
        raise UsageError(f"{short(text)!r}: findings are counted in one trace: write findings or findings<3")
    if not compare:
        return Limit(text, FINDINGS, amount=1, compare="<")
    return Limit(text, FINDINGS, amount=compared_amount(FINDINGS, compare, amount or "", ""), compare=compare)


def _resolved(target: str) -> tuple[str, str, str]:
    """The number of a run, or the pattern of modules with the number of each; and the figure over steps."""
    name, figure = target, FIGURES[0]
    head, _, tail = target.rpartition(".")
    if head and tail in FIGURES:
        name, figure = head, tail
    if name in STEP_TIMES or name in RUN_NUMBERS:
        if name in RUN_NUMBERS and figure != FIGURES[0]:
            raise UsageError(f"{short(target)}: {figure} is of times, {name} has none")
        return name, "", figure
    head, _, tail = name.rpartition(".")
    if head and tail in MODULE_QUANTITIES:
        return head, MODULE_QUANTITIES[tail], figure
    if head and tail in MODULE_NUMBERS:
        return head, tail, figure
    return name, SUBTREE, figure


def _change(text: str, change: str, asked: str, unit: str) -> tuple[float | None, float | None]:
    """A part of the baseline, or an amount."""
    sign = -1 if change[0] == "-" else 1
    if asked == "%":
        return sign * float(change[1:]) / 100, None
    amount = change[1:]
    if not float(amount):
        return None, 0.0
    if not asked and unit:
        raise UsageError(
            f"{short(text)!r} has no unit: write {change}% or {change}{_example(unit).lstrip('0123456789')}"
        )
    return None, sign * compared_amount(text.partition(":")[0], ":", f"{amount}{asked}", unit)


def _example(unit: str) -> str:
    return {"ns": "50ms", "bytes": "2GB", "FLOP": "3GFLOP"}.get(unit, "100")
