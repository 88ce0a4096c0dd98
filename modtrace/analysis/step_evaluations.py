"""The evaluations in front of a training step: which of them belong to it.

A teacher's forward stands in front of every step and is part of each; a validation run between two steps is part of
neither. A module that is trained in training mode and called in eval mode is being validated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainedModules:
    """Modules with training forwards: all of them, and those that were in training mode."""

    all: frozenset[int] = frozenset()
    in_training_mode: frozenset[int] = frozenset()

    def with_more(self, added: TrainedModules) -> TrainedModules:
        """The union of two."""
        return TrainedModules(self.all | added.all, self.in_training_mode | added.in_training_mode)


@dataclass(frozen=True)
class UsualEvaluations:
    """The evaluations that stood in front of earlier steps.

    times: how often each pair of numbers was seen: evaluations of other modules, and of modules that are trained.
    first: those of trained modules in front of the very first step, None before it.
    """

    times: dict[tuple[int, int], int] = field(default_factory=dict)
    first: int | None = None


@dataclass(frozen=True)
class Units:
    """The units of one thread, in order. `step` is the step whose end is the next one.

    leading: evaluations that come before anything else of a step but data and what a loop clears at its end.
    trains: training forwards.
    evaluating: their module is in eval mode.
    """

    module: Ints
    step: Ints
    leading: Bools
    trains: Bools
    evaluating: Bools


def outside(
    units: Units, ended: int, count: int, usual: UsualEvaluations, trained: TrainedModules
) -> tuple[Ints, Ints]:
    """The last leading evaluation of each of `count` steps that is not part of it, -1 for none, and how many
    evaluations of other and of trained modules stand in front of each: shape (2, count).

    `ended` of the steps have come to their end; what is usual is judged by these.
    """
    leading = units.leading & (units.step < count)
    of_trained = leading & _trained_by_now(units, units.trains, trained.all)
    in_training_mode = _trained_by_now(units, units.trains & ~units.evaluating, trained.in_training_mode)
    validates = of_trained & units.evaluating & in_training_mode
    classes = (leading & ~of_trained, of_trained & ~validates)
    evals = np.stack([np.bincount(units.step[of_class], minlength=count) for of_class in classes])
    cut = np.full(count, -1, np.int64)
    position = np.flatnonzero(validates)
    np.maximum.at(cut, units.step[position], position)
    for of_class, each, most in zip(classes, evals, _usual(evals[:, :ended], usual), strict=True):
        position = np.flatnonzero(of_class)
        step = units.step[position]
        rank = np.arange(len(position)) - np.searchsorted(step, step)
        position = position[rank < each[step] - most]
        np.maximum.at(cut, units.step[position], position)
    return cut, evals


def _usual(evals: Ints, usual: UsualEvaluations) -> tuple[int, int]:
    """Number of evaluations of other and of trained modules are part of a step: as many as in front of most steps, and
    of trained modules no more than in front of the first.
    """
    if usual.times:
        pairs = np.array(list(usual.times), np.int64)
        evals = np.concatenate([np.repeat(pairs, list(usual.times.values()), axis=0).T, evals], axis=1)
    if not evals.shape[1]:
        return 0, 0
    others, of_trained = np.median(evals, axis=1).astype(np.int64).tolist()
    return others, min(of_trained, int(evals[1, 0]) if usual.first is None else usual.first)


def _trained_by_now(units: Units, trains: Bools, before: frozenset[int]) -> Bools:
    """Mask of the units of a module that had a training forward in an earlier step or has one in the same."""
    modules, which = np.unique(units.module, return_inverse=True)
    first = np.where(np.isin(modules, list(before)), -1, np.iinfo(np.int64).max)
    np.minimum.at(first, which[trains], units.step[trains])
    return np.asarray(first[which] <= units.step, np.bool_)


def trained_in(units: Units, end: int) -> TrainedModules:
    """The modules with training forwards in the steps before a number."""
    trains = units.trains & (units.step < end)
    in_training_mode = trains & ~units.evaluating
    return TrainedModules(
        frozenset(np.unique(units.module[trains]).tolist()),
        frozenset(np.unique(units.module[in_training_mode]).tolist()),
    )
