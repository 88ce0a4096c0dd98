"""Ranges that were finite in earlier steps, and those of which nothing is known yet."""

from __future__ import annotations

import math

import pytest

from modtrace.capture.mechanisms.nonfinite_origin import History, judge
from modtrace.capture.mechanisms.value_readings import Reading
from modtrace.trace.schema import OUTPUT, PARAMETER_VALUE


def reading(kind, minimum, maximum=1.0):
    return Reading(0, kind, 5, -1, 5, 2, "weight", "float32", 4, 0, minimum, maximum)


@pytest.mark.parametrize("kind", [OUTPUT, PARAMETER_VALUE])
@pytest.mark.parametrize(
    ("earlier", "is_told"),
    [([], False), ([-math.inf], False), ([0.0], True), ([0.0, -math.inf, 0.0], True)],
)
def test_minus_infinity_is_told_of_where_the_place_was_finite(kind, earlier, is_told):
    """From the first on it may be a mask."""
    history = History()
    for minimum in earlier:
        history.add([reading(kind, minimum)])
    origin = judge([reading(kind, -math.inf)], history)
    assert (origin is not None) is is_told
