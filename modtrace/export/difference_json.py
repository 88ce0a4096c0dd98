"""A comparison for programs. docs/comparing.md describes each field; a field is only ever added within a version."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from modtrace._version import __version__
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.first_parting import Numerics, Parting
from modtrace.analysis.comparing.gate import LimitResult, Measured, verdict
from modtrace.analysis.comparing.plain_changes import NumberChange
from modtrace.analysis.comparing.run_numbers import STEP, SUBTREE
from modtrace.analysis.comparing.time_changes import TimeChange

FORMAT: Final = "modtrace-diff"
VERSION: Final = 1
CHECK_FORMAT: Final = "modtrace-check"
NUMERICS_FORMAT: Final = "modtrace-numerics"
TIME_NAMES: Final = {"forward": "forward", "backward": "backward", "device": "device", SUBTREE: "time"}
"""Key of a time of a module -> its name, as limits have it."""


def difference_json(
    comparison: Comparison, limits: Sequence[LimitResult] = (), *, unknown_ok: bool = False
) -> str:
    """Everything that `modtrace diff` shows and all times of all modules: nanoseconds and bytes, unknown is null."""
    change = comparison.step_change
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "modtrace": __version__,
        "runs": {"baseline": comparison.runs[0], "candidate": comparison.runs[1]},
        "noise": comparison.noise,
        "notes": comparison.notes,
        "environment": [asdict(one) for one in comparison.environment],
        "structure": [asdict(one) for one in comparison.structure],
        "numbers": [_number(one) for one in comparison.numbers],
        "times": {
            "step": _time(comparison.steps[STEP]),
            "phases": {name: _time(time) for name, time in comparison.steps.items() if name != STEP},
            "outside": {name: _time(time) for name, time in comparison.outside.items()},
            "modules": [
                {
                    "name": module.name,
                    "type": module.type,
                    **{TIME_NAMES[kind]: _time(time) for kind, time in module.times.items()},
                }
                for module in comparison.modules
            ],
        },
        "step_change": None
        if change is None
        else {
            "change_ns": change.change_ns,
            "lines": [
                {
                    "name": line.name,
                    "type": line.type,
                    "modules": line.modules,
                    "change_ns": line.change_ns,
                    "rest": line.rest,
                    "part": line.part,
                    "time": _time(line.time),
                }
                for line in change.lines
            ],
            "unmatched_ns": change.unmatched_ns,
            "other_ns": change.other_ns,
        },
        **_limits(limits, unknown_ok=unknown_ok),
    }
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False)


def check_json(limits: Sequence[LimitResult], *, unknown_ok: bool = False) -> str:
    """Limits that were held against one run."""
    data = {"format": CHECK_FORMAT, "version": VERSION, "modtrace": __version__}
    return json.dumps(
        data | _limits(limits, unknown_ok=unknown_ok), indent=2, ensure_ascii=True, allow_nan=False
    )


def numerics_json(found: Numerics) -> str:
    """The first call whose values part, for programs. NaN and infinities are texts: JSON has no such numbers."""
    data = {
        "format": NUMERICS_FORMAT,
        "version": VERSION,
        "modtrace": __version__,
        "compared": found.compared,
        "alone": {"baseline": found.alone[0], "candidate": found.alone[1]},
        "steps": list(found.steps),
        "hashed": found.hashed,
        "exact": _parting(found.exact),
        "beyond": _parting(found.beyond),
        "tolerance": found.tolerance,
        "tolerance_type": found.tolerance_type,
        "parted": found.parted,
    }
    return json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False)


def _parting(parting: Parting | None) -> dict[str, Any] | None:
    if parting is None:
        return None
    data = asdict(parting)
    for side in ("baseline", "candidate"):
        data[side] = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in data[side].items()
        }
    return data


def _limits(limits: Sequence[LimitResult], *, unknown_ok: bool) -> dict[str, Any]:
    return {
        "limits": [
            {
                "limit": result.limit.text,
                "status": result.status,
                "measured": [_measured(one) for one in result.measured],
            }
            for result in limits
        ],
        "verdict": verdict(limits, unknown_ok=unknown_ok) if limits else None,
    }


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "name": one.name,
        "status": one.status,
        "baseline": one.baseline,
        "candidate": one.candidate,
        "unit": one.unit,
        "time": None if one.time is None else _time(one.time),
        "reason": one.reason,
    }


def _number(change: NumberChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "key": change.key,
        "unit": change.facts.unit,
        "baseline": None if change.baseline is None else list(change.baseline),
        "candidate": None if change.candidate is None else list(change.candidate),
        "modules": change.modules,
    }


def _time(time: TimeChange) -> dict[str, Any]:
    figures = {
        key: None if value is None or not math.isfinite(value) else round(value, 6)
        for key, value in (("ratio", time.ratio), ("low", time.low), ("high", time.high), ("p", time.p))
    }
    return {
        "baseline_ns": time.baseline_ns,
        "candidate_ns": time.candidate_ns,
        **figures,
        "verdict": time.verdict,
        "reason": time.reason,
    }
