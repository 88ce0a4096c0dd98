"""Where values that are not finite began: a step's ranges in the order of execution, and which of them made the others.

A range that is not finite matters where it reaches the output of a root call, a loss, a gradient or a parameter. From
the first that does the way goes back: into a call, to its inputs, to the output that has the same range, to what the
enclosing call had. It ends at a *producer*, all of whose inputs were finite; those behind it are propagators. What is
not finite in every step, as the -inf of a mask, is taken for meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from modtrace.capture.mechanisms.value_readings import Reading
from modtrace.trace.schema import (
    ALLOWED,
    BATCH,
    FAULT,
    GRADIENT,
    INPUT,
    LOSS,
    OUTPUT,
    PARAMETER_GRADIENT,
    PARAMETER_VALUE,
    SKIPPED,
    THREAD_SHIFT,
    VANISHED,
)

LONG_STREAK: Final = 10
"""So many steps in a row a GradScaler leaves out at its start, at most: then its scale is not the cause."""
_DEEPEST: Final = 100

Place = tuple[int, int, str]
"""(kind, module, path) of a tensor: the same in all steps."""


class Origin(NamedTuple):
    """Where values that are not finite began.

    reading: the first range that is not finite.
    verdict: as in the table `nonfinite`.
    module: number of the module that made them, -1 for none.
    from_loader: a DataLoader handed them out.
    became_nan: number of the module in which infinities became NaN, -1 for none.
    node: autograd's function that made a gradient.
    """

    reading: Reading
    verdict: int
    module: int
    from_loader: bool = False
    became_nan: int = -1
    node: str | None = None


@dataclass
class _Seen:
    """Steps in which a place was read, and those in which it was not finite."""

    steps: int = 0
    nonfinite: int = 0


class History:
    """Ranges of earlier steps at each place: in how many they were not finite."""

    def __init__(self) -> None:
        self._places: dict[Place, _Seen] = {}
        self._last: set[Place] = set()

    def add(self, readings: Sequence[Reading]) -> None:
        """Note a step."""
        nonfinite: dict[Place, bool] = {}
        self._last = {_place(reading) for reading in readings if not reading.is_finite}
        for reading in readings:
            place = _place(reading)
            nonfinite[place] = nonfinite.get(place, False) or not reading.is_finite
        for place, was in nonfinite.items():
            seen = self._places.setdefault(place, _Seen())
            seen.steps += 1
            seen.nonfinite += was

    def is_habit(self, reading: Reading) -> bool:
        """True if the place was not finite in every earlier step."""
        seen = self._places.get(_place(reading))
        return seen is not None and seen.steps == seen.nonfinite

    def was_nonfinite(self, reading: Reading) -> bool:
        """True if the place was not finite in the last step."""
        return _place(reading) in self._last

    def was_finite(self, reading: Reading) -> bool:
        """True if the place has been read before, and was finite in any of these steps."""
        seen = self._places.get(_place(reading))
        return seen is not None and seen.nonfinite < seen.steps


def _place(reading: Reading) -> Place:
    return reading.kind, reading.module, reading.path


def judge(
    readings: Sequence[Reading],
    history: History,
    *,
    skipped: int = 0,
    allowed: Callable[[int], bool] = lambda _: False,
) -> Origin | None:
    """The origin of what is not finite in one step; None where all is finite, or meant.

    Args:
        readings: of the step, in order.
        history: of the steps before.
        skipped: steps in a row, up to this one, that a GradScaler left out; 0 where this one was not.
        allowed: says of a module's number that it may make what is not finite.
    """
    step = _Step(readings, history)
    if not step.nonfinite:
        return None
    serious = step.first_serious()
    if serious is None:
        lost = [reading for reading in step.nonfinite if reading.has_nan and not history.is_habit(reading)]
        return step.trace(lost[0])._replace(verdict=VANISHED) if lost else None
    origin = step.trace(serious)
    if origin.reading.kind == PARAMETER_VALUE and history.was_nonfinite(origin.reading):
        return None  # it began before
    if origin.module >= 0 and allowed(origin.module):
        return origin._replace(verdict=ALLOWED)
    backward = serious.kind in (GRADIENT, PARAMETER_GRADIENT) or (
        serious.kind == LOSS and not serious.has_nan and step.forward_is_finite
    )
    if backward and 0 < skipped < LONG_STREAK:
        return origin._replace(verdict=SKIPPED)
    return origin


class _Step:
    """The readings of a step, in order."""

    def __init__(self, readings: Sequence[Reading], history: History) -> None:
        self.readings = readings
        self.history = history
        self.nonfinite = [reading for reading in readings if not reading.is_finite]
        self._shown = {
            reading.call for reading in readings if reading.kind == OUTPUT and reading.minimum is not None
        }

    @property
    def forward_is_finite(self) -> bool:
        """True if the outputs of root calls are."""
        return all(
            reading.is_finite for reading in self.readings if reading.kind == OUTPUT and reading.parent < 0
        )

    def first_serious(self) -> Reading | None:
        """The first range that is not finite where that matters."""
        return next(filter(self._is_serious, self.nonfinite), None)

    def _is_serious(self, reading: Reading) -> bool:
        if reading.kind in (LOSS, GRADIENT, PARAMETER_GRADIENT):
            return True
        infinite = math.inf in (reading.minimum, reading.maximum)
        if reading.kind == PARAMETER_VALUE:  # one of -inf from the first may be a mask
            return reading.has_nan or infinite or self.history.was_finite(reading)
        if reading.kind == OUTPUT and reading.parent < 0:
            if reading.has_nan:
                return True
            return not self.history.is_habit(reading) if infinite else self.history.was_finite(reading)
        # Inside of a root call that shows no output of its own: of indices, or it has raised.
        unseen = reading.kind in (OUTPUT, INPUT) and reading.root not in self._shown
        return unseen and (reading.has_nan or infinite) and not self.history.is_habit(reading)

    def trace(self, reading: Reading) -> Origin:
        """The origin of one range that is not finite."""
        became_nan = -1
        for _ in range(_DEEPEST):
            source = self._source(reading)
            if source is None:
                break
            if reading.kind == OUTPUT and reading.has_nan and not source.has_nan:
                became_nan = reading.module
            reading = source
        loader = [other for other in self.nonfinite if other.kind == BATCH and other.order <= reading.order]
        from_loader = bool(loader) and reading.kind in (INPUT, BATCH)
        module, node = self._maker(reading)
        return Origin(reading, FAULT, module, from_loader, became_nan, node)

    def _maker(self, reading: Reading) -> tuple[int, str | None]:
        """The module that made a range which nothing before explains, and autograd's function."""
        if reading.kind == GRADIENT:
            return reading.nodes[-1] if reading.nodes else (-1, None)  # the last to run is the nearest
        if reading.kind == INPUT:
            return self._module_of(reading.parent), None
        return (reading.module if reading.kind != LOSS else -1), None

    def _module_of(self, call: int) -> int:
        return next((reading.module for reading in self.readings if reading.call == call), -1)

    def _source(self, reading: Reading) -> Reading | None:
        """The range before that made this one not finite; None for a producer's."""
        before = [other for other in self.nonfinite if other.order < reading.order]
        if reading.kind == OUTPUT:
            return self._best(reading, [other for other in before if _is_part(other, reading)])
        if reading.kind == INPUT:
            outer = [
                other
                for other in before
                if other.kind == INPUT and other.call == reading.parent and _same_range(other, reading)
            ]
            if outer:
                return outer[-1]
            same = [
                other for other in before if other.kind in (OUTPUT, BATCH) and _same_range(other, reading)
            ]
            if same:
                return same[-1] if same[-1].kind == OUTPUT else None
            return self._best(reading, [other for other in before if _is_beside(other, reading)])
        if reading.kind == LOSS:
            outputs = [other for other in before if other.kind == OUTPUT and other.parent < 0]
            same = [other for other in outputs if _same_range(other, reading)]
            return same[-1] if same else self._best(reading, outputs) or self._batch(before)
        return None

    def _batch(self, before: list[Reading]) -> Reading | None:
        """The first batch that is not finite, which explains a loss: its target, say."""
        return next((other for other in before if other.kind == BATCH), None)

    def _best(self, reading: Reading, sources: list[Reading]) -> Reading | None:
        """The first of several ranges that may have made another; a NaN before infinities, none that is meant."""
        if reading.has_nan:
            nans = [source for source in sources if source.has_nan]
            if nans:
                return nans[0]
        return next((source for source in sources if not self.history.is_habit(source)), None)


def _is_part(other: Reading, output: Reading) -> bool:
    """True for what was read in a call, or of its inputs and parameters, before its output."""
    if other.kind not in (OUTPUT, INPUT, PARAMETER_VALUE):
        return False
    if other.call == output.call:
        return other.kind != OUTPUT
    same_thread = other.call >> THREAD_SHIFT == output.call >> THREAD_SHIFT
    return same_thread and other.call > output.call


def _is_beside(other: Reading, given: Reading) -> bool:
    """True for outputs made before in the call that encloses another, and for what that call was given."""
    if given.parent < 0:
        return other.kind == OUTPUT and other.parent < 0
    if other.call == given.parent:
        return other.kind in (INPUT, PARAMETER_VALUE)
    return other.kind == OUTPUT and other.parent == given.parent


def _same_range(other: Reading, reading: Reading) -> bool:
    """True if two tensors may be the same one: equal extremes, number of elements and type."""
    return (
        other.elements == reading.elements
        and other.dtype == reading.dtype
        and repr((other.minimum, other.maximum)) == repr((reading.minimum, reading.maximum))
    )
