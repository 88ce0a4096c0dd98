"""Parameters of each module itself as Python objects: a list of 20,000 takes half a second to make, so it is kept."""

from __future__ import annotations

import weakref
from typing import Any

from modtrace.trace.reader import Stored

_made: weakref.WeakKeyDictionary[Stored, list[list[dict[str, Any]]]] = weakref.WeakKeyDictionary()


def own_parameters(stored: Stored) -> list[list[dict[str, Any]]]:
    """For each row of `modules` its parameters, with the fields of schema.TENSOR_FIELDS."""
    if stored not in _made:
        column = stored.table("modules").column("parameters")
        _made[stored] = [parameters or [] for parameters in column.to_pylist()]
    return _made[stored]
