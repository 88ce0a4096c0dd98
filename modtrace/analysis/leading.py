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
class Trained:
    """Modules with training forwards: all of them, and those that were in training mode."""

    all: frozenset[int] = frozenset()
    in_training_mode: frozenset[int] = frozenset()

    def with_more(self, more: Trained) -> Trained:
        """The union of two."""
        return Trained(self.all | more.all, self.in_training_mode | more.in_training_mode)


@dataclass(frozen=True)
class Usual:
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


def outside(units: Units, ended: int, count: int, usual: Usual, trained: Trained) -> tuple[Ints, Ints]:
    """The last leading evaluation of each of `count` steps that is not part of it, -1 for none, and how many
    evaluations of other and of trained modules stand in front of each: shape (2, count).

    `ended` of the steps have come to their end; what is usual is judged by these.
    """
    leading = units.leading & (units.step < count)
    own = leading & _trained_by_now(units, units.trains, trained.all)
    in_training_mode = _trained_by_now(units, units.trains & ~units.evaluating, trained.in_training_mode)
    validates = own & units.evaluating & in_training_mode
    classes = (leading & ~own, own & ~validates)
    evals = np.stack([np.bincount(units.step[some], minlength=count) for some in classes])
    cut = np.full(count, -1, np.int64)
    at = np.flatnonzero(validates)
    np.maximum.at(cut, units.step[at], at)
    for some, each, most in zip(classes, evals, _usual(evals[:, :ended], usual), strict=True):
        at = np.flatnonzero(some)
        step = units.step[at]
        rank = np.arange(len(at)) - np.searchsorted(step, step)
        at = at[rank < each[step] - most]
        np.maximum.at(cut, units.step[at], at)
    return cut, evals


def _usual(evals: Ints, usual: Usual) -> tuple[int, int]:
    """How many evaluations of other and of trained modules are part of a step: as many as in front of most steps, and
    of trained modules no more than in front of the first.
    """
    if usual.times:
        pairs = np.array(list(usual.times), np.int64)
        evals = np.concatenate([np.repeat(pairs, list(usual.times.values()), axis=0).T, evals], axis=1)
    if not evals.shape[1]:
        return 0, 0
    others, own = np.median(evals, axis=1).astype(np.int64).tolist()
    return others, min(own, int(evals[1, 0]) if usual.first is None else usual.first)


def _trained_by_now(units: Units, trains: Bools, before: frozenset[int]) -> Bools:
    """Which units are of a module that had a training forward in an earlier step or has one in the same."""
    modules, which = np.unique(units.module, return_inverse=True)
    first = np.where(np.isin(modules, list(before)), -1, np.iinfo(np.int64).max)
    np.minimum.at(first, which[trains], units.step[trains])
    return np.asarray(first[which] <= units.step, np.bool_)


def trained_in(units: Units, end: int) -> Trained:
    """The modules with training forwards in the steps before a number."""
    some = units.trains & (units.step < end)
    in_training_mode = some & ~units.evaluating
    return Trained(
        frozenset(np.unique(units.module[some]).tolist()),
        frozenset(np.unique(units.module[in_training_mode]).tolist()),
    )
