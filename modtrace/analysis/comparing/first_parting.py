"""The first call, in order of execution, whose values are not those of the other run (`--values` on both sides)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.comparing.alignment import align
from modtrace.analysis.comparing.module_forest import ModuleForest
from modtrace.analysis.comparing.name_map import NameMap
from modtrace.analysis.comparing.run_extraction import named_modules
from modtrace.analysis.values import ValueRows, value_rows
from modtrace.errors import UsageError
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VALUE_KINDS

TOLERANCES: Final[Mapping[str, float]] = {
    "float64": 1e-7, "complex128": 1e-7, "float32": 1e-4, "complex64": 1e-4, "float16": 1e-2, "complex32": 1e-2,
    "bfloat16": 5e-2,
}  # fmt: skip
"""Type -> how far values that are rounded to it may be apart, as a part of the largest value of the tensor."""
_COARSEST: Final = 0.25
"""The same of all other types, such as float8."""

Key = tuple[int, int, int, str, int]
"""(step, module, kind, path, how many before it have all of these alike)."""


@dataclass(frozen=True)
class TensorFacts:
    """The values of a tensor. Numbers are NaN where an element is; norm, hash: None where not asked for."""

    dtype: str
    elements: int
    minimum: float
    maximum: float
    norm: float | None
    hash: int | None

    @property
    def largest(self) -> float:
        """The greatest absolute value; NaN where an element is."""
        return max(abs(self.minimum), abs(self.maximum)) if not math.isnan(self.minimum) else math.nan


@dataclass(frozen=True)
class Parting:
    """A tensor whose values part.

    step: -1 outside of steps. name, type: of the module; "" for none. kind: of VALUE_KINDS. path: as in `t.values`.
    nth: which of several calls in the step, from 0 on.
    compared: tensors before it, which are alike.
    """

    step: int
    name: str
    type: str
    kind: str
    path: str
    nth: int
    compared: int
    baseline: TensorFacts
    candidate: TensorFacts


@dataclass(frozen=True)
class Numerics:
    """Values of two runs compared, in the order of the baseline.

    compared: tensors that both sides have; alone: of each side those that the other does not have.
    steps: that both have. hashed: bits were compared by hashes, not by ranges alone.
    exact: the first that is not the same bit for bit, as far as is known; None where all are.
    beyond: the first that is further apart than rounding explains; None where none is.
    tolerance: how far apart values may be there, or at the end; of which type that is.
    parted: how many are further apart.
    """

    compared: int
    alone: tuple[int, int]
    steps: tuple[int, ...]
    hashed: bool
    exact: Parting | None
    beyond: Parting | None
    tolerance: float
    tolerance_type: str
    parted: int


def numerics(baseline: Stored, candidate: Stored, names: NameMap | None = None) -> Numerics:
    """Compare the values of two traces, of their first ranks.

    Raises:
        UsageError: one has no values, or no step is in both.
    """
    for stored in (baseline, candidate):
        if not len(stored.table("values")):
            raise UsageError(f"{stored.path.name} has no values: record both with modtrace run --values 0:3")
    forests = [ModuleForest(named_modules(stored)[0]) for stored in (baseline, candidate)]
    pairs = align(forests[0], forests[1], names).pairs
    number_of: tuple[dict[int, int], dict[int, int]] = (
        {pair.baseline: place for place, pair in enumerate(pairs)},
        {pair.candidate: place for place, pair in enumerate(pairs)},
    )
    sides = [
        _Side(stored, forest, numbers)
        for stored, forest, numbers in zip((baseline, candidate), forests, number_of, strict=True)
    ]
    steps = sorted(sides[0].steps & sides[1].steps)
    if not steps:
        raise UsageError("no step has values in both traces: record the same steps with --values")
    comparison = _Walk(sides[0], sides[1], set(steps))
    return comparison.numerics(tuple(steps))


class _Side:
    """Readings of one trace by their key, in the order in which they came to be."""

    def __init__(self, stored: Stored, forest: ModuleForest, number_of: Mapping[int, int]) -> None:
        self.forest = forest
        self.rows: ValueRows = value_rows(stored)
        node = np.append(named_modules(stored)[2], -1)[self.rows.module].tolist()
        cores = {number: forest.core(number) for number in range(len(forest))}
        read_cores = {number for number in node if number >= 0 and cores[number] == number}
        counts: dict[tuple[int, int, int, str], int] = {}
        self.keys: dict[Key, int] = {}
        of_rank = self.rows.process == 0
        for row, number in enumerate(node):
            if not of_rank[row] or not self.rows.read[row]:
                continue
            core = cores[number] if number >= 0 else -1
            if core != number and core in read_cores:
                continue  # a wrapper returns what the wrapped module has returned
            module = number_of.get(core, -2 - core) if core >= 0 else -1
            path = self.rows.places[int(self.rows.place[row])][2]
            key = int(self.rows.step[row]), module, int(self.rows.kind[row]), path
            nth = counts[key] = counts.get(key, -1) + 1
            self.keys[(*key, nth)] = row
        self.steps = {key[0] for key in self.keys}
        self._node = node

    def facts(self, row: int) -> TensorFacts:
        rows = self.rows
        return TensorFacts(
            rows.dtype[row],
            int(rows.elements[row]),
            float(rows.minimum[row]),
            float(rows.maximum[row]),
            float(rows.norm[row]) if rows.with_norm[row] else None,
            int(rows.hash[row]) if rows.hash[row] >= 0 else None,
        )

    def title(self, row: int) -> tuple[str, str]:
        """Name and class of the module of a reading."""
        number = self._node[row]
        if number < 0:
            return "", ""
        core = self.forest.core(number)
        return self.forest.short_path(core), self.forest.modules[core].type


class _Walk:
    """The readings of both sides, one after another."""

    def __init__(self, baseline: _Side, candidate: _Side, steps: set[int]) -> None:
        self.sides = (baseline, candidate)
        self.steps = steps
        self.coarsest, self.tolerance = "float64", 0.0

    def numerics(self, steps: tuple[int, ...]) -> Numerics:
        exact: Parting | None = None
        beyond: Parting | None = None
        compared = parted = 0
        hashed = True
        tolerance: tuple[float, str] | None = None
        baseline, candidate = self.sides
        for key, row in baseline.keys.items():
            other = candidate.keys.get(key)
            if key[0] not in self.steps or other is None:
                continue
            one, two = baseline.facts(row), candidate.facts(other)
            self._widen(one, two)
            hashed &= one.hash is not None and two.hash is not None
            if exact is None and not same_bits(one, two):
                exact = self._parting(key, row, compared, one, two)
            if not alike(one, two, self.tolerance):
                parted += 1
                if beyond is None:
                    beyond = self._parting(key, row, compared, one, two)
                    tolerance = self.tolerance, self.coarsest
            compared += 1
        alone = self._alone(0), self._alone(1)
        final = tolerance or (self.tolerance, self.coarsest)
        return Numerics(compared, alone, steps, hashed and compared > 0, exact, beyond, *final, parted)

    def _widen(self, one: TensorFacts, two: TensorFacts) -> None:
        """Values that have gone through a coarse type stay as far apart as it rounds."""
        for dtype in (one.dtype, two.dtype):
            if (apart := TOLERANCES.get(dtype, _COARSEST)) > self.tolerance:
                self.tolerance, self.coarsest = apart, dtype

    def _alone(self, which: int) -> int:
        other = self.sides[1 - which].keys
        return sum(key[0] in self.steps and key not in other for key in self.sides[which].keys)

    def _parting(self, key: Key, row: int, compared: int, one: TensorFacts, two: TensorFacts) -> Parting:
        name, kind = self.sides[0].title(row)
        return Parting(key[0], name, kind, VALUE_KINDS[key[2]], key[3], key[4], compared, one, two)


def same_bits(one: TensorFacts, other: TensorFacts) -> bool:
    """True if two tensors are the same as far as is known: by their hashes, else by their ranges and norms."""
    if (one.dtype, one.elements) != (other.dtype, other.elements):
        return False
    if one.hash is not None and other.hash is not None:
        return one.hash == other.hash
    norms = (one.norm, other.norm) if one.norm is not None and other.norm is not None else (0.0, 0.0)
    pairs = ((one.minimum, other.minimum), (one.maximum, other.maximum), norms)
    return all(first == second or (math.isnan(first) and math.isnan(second)) for first, second in pairs)


def alike(one: TensorFacts, other: TensorFacts, tolerance: float) -> bool:
    """True if two tensors are no further apart than a part of the largest value."""
    if one.elements != other.elements:
        return False
    scale = max((value for value in (one.largest, other.largest) if math.isfinite(value)), default=0.0)
    pairs = [(one.minimum, other.minimum, scale), (one.maximum, other.maximum, scale)]
    if one.norm is not None and other.norm is not None:
        pairs.append((one.norm, other.norm, max(one.norm, other.norm)))
    return all(_near(first, second, tolerance * largest) for first, second, largest in pairs)


def _near(first: float, second: float, apart: float) -> bool:
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return first == second or abs(first - second) <= apart
