"""Limits held against what was measured: fine, exceeded, or not to be told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.limits import FIGURES, FINDINGS, NAN, Limit
from modtrace.analysis.comparing.run_numbers import SUBTREE, RunNumbers, StepTimes
from modtrace.analysis.comparing.side import Side, SideTimes
from modtrace.analysis.comparing.time_changes import (
    FASTER,
    SLOWER,
    TimeChange,
    enough_runs,
    time_changes,
)
from modtrace.errors import UsageError
from modtrace.filter_language import COMPARE, glob, nearest, short

FINE, EXCEEDED, CANNOT_TELL = "fine", "exceeded", "unknown"

_WORST: Final = (EXCEEDED, CANNOT_TELL, FINE)


@dataclass(frozen=True)
class Measured:
    """A number that a limit is about.

    name: of a module; "" for the step or run.
    status: `fine`, `exceeded`, `unknown`.
    baseline, candidate: the number, of several runs the median; None where not known. unit: as in a metric.
    time: of a time its change.
    reason: why it cannot be told.
    """

    name: str
    status: str
    baseline: float | None
    candidate: float | None
    unit: str
    time: TimeChange | None = None
    reason: str = ""


@dataclass(frozen=True)
class LimitResult:
    """A limit and all that it is about, the worst first."""

    limit: Limit
    measured: tuple[Measured, ...]

    @property
    def status(self) -> str:
        """The worst of what it is about."""
        statuses = {one.status for one in self.measured}
        return next((status for status in _WORST if status in statuses), CANNOT_TELL)


def verdict(results: Iterable[LimitResult], *, unknown_ok: bool = False) -> str:
    """The verdict on all limits: the worst; what cannot be told is fine with `unknown_ok`."""
    statuses = {result.status for result in results}
    if EXCEEDED in statuses:
        return EXCEEDED
    return CANNOT_TELL if CANNOT_TELL in statuses and not unknown_ok else FINE


def held_against(comparison: Comparison, limits: Sequence[Limit]) -> list[LimitResult]:
    """Limits held against the change from baseline to candidate; those without a change against the candidate.

    Raises:
        UsageError: a limit names no module that is there, or asks for what traces are not compared by.
    """
    return [_result(limit, _compared(comparison, limit)) for limit in limits]


def held_against_run(
    run: RunNumbers, limits: Sequence[Limit], findings: Callable[[], int]
) -> list[LimitResult]:
    """Limits held against one run.

    Args:
        run: its numbers.
        limits: none of them about a change.
        findings: counts the findings of the run, where a limit is about them.

    Raises:
        UsageError: a limit is about a change, or names no module that is there.
    """
    results = []
    for limit in limits:
        if limit.is_change:
            raise UsageError(
                f"{short(limit.text)!r} is about a change: modtrace diff has a baseline for that"
            )
        measured = (
            [_counted(limit, findings())] if limit.target == FINDINGS else _absolute(Side([run]), limit)
        )
        results.append(_result(limit, measured))
    return results


def _result(limit: Limit, measured: Sequence[Measured]) -> LimitResult:
    return LimitResult(limit, tuple(sorted(measured, key=lambda one: _WORST.index(one.status))))


def _compared(comparison: Comparison, limit: Limit) -> list[Measured]:
    if limit.target == FINDINGS:
        raise UsageError("findings are counted in one trace: modtrace check TRACE --fail-on findings")
    if not limit.is_change:
        return _absolute(comparison.candidate, limit)
    if limit.is_time and limit.figure != FIGURES[0]:
        raise UsageError(
            f"{short(limit.text)!r}: runs are compared by their medians; leave .{limit.figure} out"
        )
    if not limit.of_module:
        if limit.is_time:
            times = [side.step_times([limit.target]) for side in (comparison.baseline, comparison.candidate)]
            return _of_times(limit, [""], times[0], times[1])
        return [
            _of_numbers(
                limit, "", comparison.baseline.total(limit.target), comparison.candidate.total(limit.target)
            )
        ]
    modules = comparison.modules
    chosen = _matching(limit, [(module.name, module.path) for module in modules])
    numbers = [modules[place].number for place in chosen]
    names = [modules[place].name for place in chosen]
    if limit.is_time:
        times = [comparison.side_times(which, limit.quantity, numbers) for which in (0, 1)]
        return _of_times(limit, names, times[0], times[1])
    places = [comparison.places(which, limit.quantity, numbers) for which in (0, 1)]
    values = [
        side.module_numbers(limit.quantity)[places[which]].tolist()
        for which, side in enumerate((comparison.baseline, comparison.candidate))
    ]
    return [
        _of_numbers(limit, name, one, other)
        for name, one, other in zip(names, values[0], values[1], strict=True)
    ]


def _matching(limit: Limit, names: Sequence[tuple[str, str]]) -> list[int]:
    """Positions of the modules whose names, alone or behind that of the root, fit the pattern of a limit.

    Raises:
        UsageError: none does.
    """
    pattern = re.compile(glob(limit.target))
    chosen = [place for place, name in enumerate(names) if any(map(pattern.match, name))]
    if not chosen:
        near = nearest(limit.target, [name for name, _ in names])
        meant = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{short(limit.text)!r}: no module is called {short(limit.target)}{meant}")
    return chosen


# changes of times ---------------------------------------------------------------------------------------------------


def _of_times(
    limit: Limit, names: Sequence[str], baseline: SideTimes, candidate: SideTimes
) -> list[Measured]:
    shares = _shares(limit, baseline)
    runs = baseline.medians_ns.shape[1], candidate.medians_ns.shape[1]
    measured = []
    for share in sorted(set(shares)):
        rows = [row for row, one in enumerate(shares) if one == share]
        first, second = baseline.rows(rows), candidate.rows(rows)
        changes = time_changes(first, second, max(share, 0.0))
        for place, change in enumerate(changes):
            if enough_runs(*runs):
                status = _by_interval(change, share)
            else:
                status = _by_steps(change, first, second, place, share)
            reason = change.reason or "the interval reaches across the limit" if status == CANNOT_TELL else ""
            measured.append(
                Measured(
                    names[rows[place]], status, change.baseline_ns, change.candidate_ns, "ns", change, reason
                )
            )
    return measured


def _shares(limit: Limit, baseline: SideTimes) -> list[float]:
    """The growth that is allowed of each time, as a part of the baseline."""
    if limit.share is not None:
        return [limit.share] * len(baseline.medians_ns)
    values = np.nan_to_num(baseline.values_ns, nan=1.0)
    return [(limit.amount or 0.0) / max(float(value), 1.0) for value in values]


def _by_interval(change: TimeChange, share: float) -> str:
    if change.low is None or change.high is None:
        return CANNOT_TELL
    if change.high <= 1 + share:
        return FINE
    beyond = change.low > 1 + share and (share < 0 or change.verdict == SLOWER)
    return EXCEEDED if beyond else CANNOT_TELL


def _by_steps(change: TimeChange, baseline: SideTimes, candidate: SideTimes, row: int, share: float) -> str:
    """The same where there are too few runs: only where every step says so."""
    if change.verdict == SLOWER:
        return EXCEEDED
    below = candidate.most_ns[row] <= baseline.least_ns[row] * (1 + share)
    return FINE if change.verdict == FASTER or below else CANNOT_TELL


# changes of numbers -------------------------------------------------------------------------------------------------


def _of_numbers(
    limit: Limit, name: str, baseline: Sequence[int | None], candidate: Sequence[int | None]
) -> Measured:
    first, second = _known(baseline), _known(candidate)
    if not first or not second:
        return Measured(name, CANNOT_TELL, None, None, limit.unit, reason="not known in every run")
    most, least = _allowed(limit, max(first)), _allowed(limit, min(first))
    status = FINE if max(second) <= least else EXCEEDED if min(second) > most else CANNOT_TELL
    reason = "it varies from run to run" if status == CANNOT_TELL else ""
    middle = float(np.median(first)), float(np.median(second))
    return Measured(name, status, *middle, limit.unit, reason=reason)


def _known(values: Sequence[int | None]) -> list[int]:
    """The values; none where one is not known."""
    known = [value for value in values if value is not None and value >= 0]
    return known if len(known) == len(values) else []


def _allowed(limit: Limit, value: int) -> float:
    return value * (1 + limit.share) if limit.share is not None else value + (limit.amount or 0.0)


# what is, without a baseline ----------------------------------------------------------------------------------------


def _absolute(side: Side, limit: Limit) -> list[Measured]:
    if limit.target == NAN:
        return [_finite([run.nonfinite for run in side.runs])]
    if not limit.of_module:
        return [_held(limit, "", [_of_run(run, limit) for run in side.runs])]
    forest = side.forest
    numbers = forest.parents_first()
    names = [forest.short_path(number) for number in numbers]
    measured = []
    for place in _matching(limit, [(name, forest.path[at]) for name, at in zip(names, numbers, strict=True)]):
        core = numbers[place]
        at = core if limit.quantity == SUBTREE else forest.outer[core]
        values = [_of_module(run, limit, side.number_in(which, at)) for which, run in enumerate(side.runs)]
        measured.append(_held(limit, names[place], values))
    return measured


def _of_run(run: RunNumbers, limit: Limit) -> int | None:
    if not limit.is_time:
        return run.totals.get(limit.target)
    if limit.target not in run.step_names:
        return None
    return _figure(run.step_times, list(run.step_names).index(limit.target), limit.figure)


def _of_module(run: RunNumbers, limit: Limit, number: int) -> int | None:
    if number < 0:
        return None
    if limit.is_time:
        return _figure(run.module_times[limit.quantity], number, limit.figure)
    value = int(run.module_numbers[limit.quantity][number])
    return value if value >= 0 else None


def _figure(times: StepTimes, number: int, figure: str) -> int | None:
    values = {"p50": times.p50_ns, "p95": times.p95_ns, "max": times.most_ns, "mean": times.mean_ns}[figure]
    return int(values[number]) if values[number] >= 0 else None


def _held(limit: Limit, name: str, values: Sequence[int | None]) -> Measured:
    """A number of each run, which must be what the limit says, in the median of the runs."""
    known = _known(values)
    if not known or limit.amount is None:
        return Measured(name, CANNOT_TELL, None, None, limit.unit, reason="not known")
    middle = float(np.median(known))
    holds = bool(COMPARE[limit.compare](middle, limit.amount))
    return Measured(name, FINE if holds else EXCEEDED, None, middle, limit.unit)


def _counted(limit: Limit, findings: int) -> Measured:
    holds = limit.amount is not None and bool(COMPARE[limit.compare](findings, limit.amount))
    return Measured("", FINE if holds else EXCEEDED, None, findings, "")


def _finite(looked: Sequence[bool | None]) -> Measured:
    if any(looked):
        return Measured("", EXCEEDED, None, None, "", reason="values were not finite")
    if None in looked:
        return Measured("", CANNOT_TELL, None, None, "", reason="nobody looked: modtrace run --nan")
    return Measured("", FINE, None, None, "")
