"""Changes of times with a verdict: slower, faster, same, or unknown with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.comparing.rank_statistics import (
    ERROR_RATE,
    RatioInterval,
    beyond_chance,
    ratio_interval,
)
from modtrace.analysis.comparing.side import SideTimes

SLOWER, FASTER, UNCHANGED, UNTOLD = "slower", "faster", "same", "unknown"

LEAST_STEPS: Final = 5
"""Steps a side without which nothing is told from the steps of single runs."""
ONE_RUN: Final = "one run a side: cannot tell"
FEW_RUNS: Final = "too few runs to tell: 5 a side do"
FEW_STEPS: Final = "too few steps to tell"
LACKING: Final = "not known in every run"
IN_NOISE: Final = "the noise of the runs is as large"


@dataclass(frozen=True)
class TimeChange:
    """A time of both sides.

    baseline_ns, candidate_ns: the median over the runs; None where it is not known in each.
    ratio: candidate by baseline; low, high: the interval that it is in, None where there are too few runs.
    p: of the Mann-Whitney test alone; None where there are too few runs.
    verdict: `slower`, `faster`, `same` or `unknown`.
    reason: of `unknown`, and of a verdict that rests on the steps of single runs.
    """

    baseline_ns: int | None
    candidate_ns: int | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    verdict: str = UNTOLD
    reason: str = LACKING

    @property
    def change_ns(self) -> int | None:
        """By how much it has grown."""
        if self.baseline_ns is None or self.candidate_ns is None:
            return None
        return self.candidate_ns - self.baseline_ns

    @property
    def changed(self) -> bool:
        """It is slower or faster."""
        return self.verdict in (SLOWER, FASTER)


def enough_runs(first: int, second: int) -> bool:
    """True if so many runs a side can tell anything at all, whatever they are."""
    return first > 0 and second > 0 and 2 / math.comb(first + second, first) <= ERROR_RATE / 2


def time_changes(baseline: SideTimes, candidate: SideTimes, noise: float) -> list[TimeChange]:
    """The changes of several times of one kind, their number allowed for.

    Args:
        baseline, candidate: a row for each time.
        noise: 0.05 for a band of 5 %: changes inside are none.
    """
    known = ~(np.isnan(baseline.medians_ns).any(axis=1) | np.isnan(candidate.medians_ns).any(axis=1))
    rows = np.flatnonzero(known)
    runs = baseline.medians_ns.shape[1], candidate.medians_ns.shape[1]
    first, second = (np.maximum(side.medians_ns[rows], 1.0) for side in (baseline, candidate))
    values = baseline.values_ns, candidate.values_ns
    changes = [
        TimeChange(_whole(one), _whole(other)) for one, other in zip(values[0], values[1], strict=True)
    ]
    if not enough_runs(*runs):
        for row in rows.tolist():
            changes[row] = _by_steps(baseline, candidate, row, noise)
        return changes
    p_values, told = beyond_chance(first, second)
    for place, row in enumerate(rows.tolist()):
        interval = ratio_interval(first[place].tolist(), second[place].tolist())
        verdict = verdict_of(interval, noise, told=told[place])
        changes[row] = TimeChange(
            _whole(values[0][row]),
            _whole(values[1][row]),
            interval.ratio,
            interval.low,
            interval.high,
            p_values[place],
            verdict,
            "" if verdict != UNTOLD else _why_untold(interval, noise),
        )
    return changes


def _why_untold(interval: RatioInterval, noise: float) -> str:
    if interval.low is not None and interval.high is not None and (interval.low > 1 or interval.high < 1):
        return f"not surely more than {100 * noise:g}%"
    return IN_NOISE


def verdict_of(interval: RatioInterval, noise: float, *, told: bool) -> str:
    """The verdict on a ratio.

    Args:
        interval: in which it is.
        noise: half of the band around 1 in which nothing has changed, as 0.05.
        told: the test says that the sides differ.
    """
    if interval.low is None or interval.high is None:
        return UNTOLD
    if told and interval.low > 1 + noise:
        return SLOWER
    if told and interval.high < 1 / (1 + noise):
        return FASTER
    inside = interval.low >= 1 / (1 + noise) and interval.high <= 1 + noise
    return UNCHANGED if inside else UNTOLD


def _by_steps(baseline: SideTimes, candidate: SideTimes, row: int, noise: float) -> TimeChange:
    """The change of one time where there are too few runs: only what is beyond every step of both sides is one."""
    runs = baseline.medians_ns.shape[1], candidate.medians_ns.shape[1]
    values = [max(float(side.values_ns[row]), 1.0) for side in (baseline, candidate)]
    ratio = values[1] / values[0]
    reason = ONE_RUN if max(runs) == 1 else FEW_RUNS
    verdict = UNTOLD
    if min(baseline.steps[row], candidate.steps[row]) < LEAST_STEPS:
        reason = FEW_STEPS
    elif candidate.least_ns[row] > max(baseline.most_ns[row], 1.0) * (1 + noise):
        verdict, reason = SLOWER, "beyond every step of the baseline"
    elif max(candidate.most_ns[row], 1.0) * (1 + noise) < baseline.least_ns[row]:
        verdict, reason = FASTER, "beyond every step of the baseline"
    return TimeChange(
        _whole(baseline.values_ns[row]),
        _whole(candidate.values_ns[row]),
        ratio,
        verdict=verdict,
        reason=reason,
    )


def _whole(value: float) -> int | None:
    return None if math.isnan(value) else round(value)
