"""All torture cases. Each file of the zoo registers its own when it is imported."""

from __future__ import annotations

from tests.torture import (
    zoo_arguments,
    zoo_exceptions,
    zoo_hooks,
    zoo_objects,
    zoo_structure,
    zoo_tensors,
    zoo_threads,
    zoo_torch,
)
from tests.torture.case import CASES, Case

__all__ = ["CASES", "CASE_LIST", "Case"]

ZOO = (
    zoo_arguments,
    zoo_exceptions,
    zoo_hooks,
    zoo_objects,
    zoo_structure,
    zoo_tensors,
    zoo_threads,
    zoo_torch,
)

CASE_LIST: tuple[Case, ...] = tuple(CASES.values())
