"""Parameters of each module itself as Python objects: a list of 20,000 takes half a second to make, so it is kept."""

from __future__ import annotations

from typing import Any

from modtrace.trace.derived import once
from modtrace.trace.reader import Stored


@once
def own_parameters(stored: Stored) -> list[list[dict[str, Any]]]:
    """For each row of `modules` its parameters, with the fields of schema.TENSOR_FIELDS."""
    column = stored.table("modules").column("parameters")
    return [parameters or [] for parameters in column.to_pylist()]
