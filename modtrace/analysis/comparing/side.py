"""One side of a comparison: the runs of a baseline, or those of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.comparing.module_forest import ModuleForest
from modtrace.analysis.comparing.run_numbers import UNKNOWN, RunNumbers, StepTimes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SideTimes:
    """Times of several things in the runs of a side.

    medians_ns: of the steps of each run, shape (things, runs); NaN where not known.
    least_ns, most_ns: over the steps of all runs, shape (things,); NaN where not known.
    steps: how many steps those are, all runs together.
    share: of the steps that count those in which it ran, the mean over the runs, shape (things,).
    """

    medians_ns: Floats
    least_ns: Floats
    most_ns: Floats
    steps: Ints
    share: Floats

    def rows(self, numbers: Sequence[int]) -> SideTimes:
        """Some of the things; -1 for one that this side does not have."""
        chosen = np.asarray(numbers, np.int64)
        lacking = chosen < 0

        def taken(values: Floats, missing: float) -> Floats:
            if not len(values):
                return np.full((len(chosen), *values.shape[1:]), missing)
            result = values[chosen]
            result[lacking] = missing
            return result

        return SideTimes(
            taken(self.medians_ns, np.nan),
            taken(self.least_ns, np.nan),
            taken(self.most_ns, np.nan),
            taken(self.steps.astype(np.float64), 0).astype(np.int64),
            taken(self.share, 0),
        )

    @property
    def values_ns(self) -> Floats:
        """The median over the runs, NaN where it is not known in each."""
        if not self.medians_ns.shape[1]:
            return np.full(len(self.medians_ns), np.nan)
        middle: Floats = np.median(self.medians_ns, axis=1)
        return middle


class Side:
    """Runs of one program. Modules are those of the first; those of the others are known by their names.

    Args:
        runs: at least one.
    """

    def __init__(self, runs: Sequence[RunNumbers]) -> None:
        self.runs = list(runs)
        self.first = self.runs[0]
        keys = [(module.root, module.name) for module in self.first.modules]
        self._numbers = []
        for run in self.runs:
            number_of = {(module.root, module.name): number for number, module in enumerate(run.modules)}
            self._numbers.append([number_of.get(key, -1) for key in keys])

    @property
    def forest(self) -> ModuleForest:
        """The modules of the first run."""
        return self.first.forest

    @property
    def alike(self) -> bool:
        """True if all runs have the same modules."""
        first = {(module.root, module.name, module.type) for module in self.first.modules}
        return all(
            {(module.root, module.name, module.type) for module in run.modules} == first for run in self.runs
        )

    def number_in(self, run: int, number: int) -> int:
        """The position in one run of a module of the first; -1 where it has none of that name."""
        return self._numbers[run][number]

    def module_times(self, which: str) -> SideTimes:
        """A time of MODULE_TIMES of each module of the first run."""
        return _joined(
            [run.module_times[which] for run in self.runs], self._numbers, [run.steps for run in self.runs]
        )

    def step_times(self, names: Sequence[str]) -> SideTimes:
        """Times of the step and its phases."""
        numbers = [_positions(run.step_names, names) for run in self.runs]
        return _joined([run.step_times for run in self.runs], numbers, [run.steps for run in self.runs])

    def outside_times(self, names: Sequence[str]) -> SideTimes:
        """Times of what is in no module."""
        numbers = [_positions(run.outside_names, names) for run in self.runs]
        return _joined([run.outside_times for run in self.runs], numbers, [run.steps for run in self.runs])

    def module_numbers(self, which: str) -> Ints:
        """A number of MODULE_NUMBERS in each run, shape (modules of the first run, runs); UNKNOWN where not known."""
        columns = [
            np.append(run.module_numbers[which], UNKNOWN)[numbers]
            for run, numbers in zip(self.runs, self._numbers, strict=True)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0), np.int64)

    def total(self, which: str) -> list[int | None]:
        """A number of RUN_NUMBERS in each run."""
        return [run.totals.get(which) for run in self.runs]

    def facts(self, name: str) -> list[str | None]:
        """A fact of the environment, each value once, in order of the runs."""
        return list(dict.fromkeys(run.environment.get(name) for run in self.runs))


def _positions(names: Sequence[str], chosen: Sequence[str]) -> list[int]:
    position = {name: number for number, name in enumerate(names)}
    return [position.get(name, -1) for name in chosen]


def _joined(
    parts: Sequence[StepTimes], numbers: Sequence[Sequence[int]], all_steps: Sequence[int]
) -> SideTimes:
    """Times of several runs beside each other; `numbers` says which of each run are of one thing."""
    p50, least, most, steps = (
        np.stack(
            [
                np.append(getattr(part, name), UNKNOWN)[np.asarray(chosen, np.int64)]
                for part, chosen in zip(parts, numbers, strict=True)
            ],
            axis=1,
        ).astype(np.float64)
        for name in ("p50_ns", "least_ns", "most_ns", "steps")
    )
    known = p50 >= 0
    steps = np.maximum(steps, 0)
    total = np.maximum(np.asarray(all_steps, np.float64), 1)
    every = known.all(axis=1)
    return SideTimes(
        np.where(known, p50, np.nan),
        np.where(every, np.where(known, least, np.inf).min(axis=1), np.nan),
        np.where(every, most.max(axis=1), np.nan),
        steps.sum(axis=1).astype(np.int64),
        np.minimum(steps / total, 1).mean(axis=1),
    )
