"""All checks, in the order of the list."""

from __future__ import annotations

from typing import Final

from gpu_checks import backwards, clocks, cost, devices, faults, graphs, kernel_rows, starting, tensors
from gpu_checks.check import Check

_FILES = (starting, devices, kernel_rows, cost, clocks, backwards, graphs, tensors, faults)


def _number(check: Check) -> tuple[int, str]:
    digits = check.name.rstrip("abcdefghij")
    return int(digits), check.name


CHECKS: Final[dict[str, Check]] = {
    check.name: check for check in sorted((check for file in _FILES for check in file.CHECKS), key=_number)
}
