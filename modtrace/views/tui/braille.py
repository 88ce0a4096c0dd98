"""Curves of braille dots: two by four a character. Plain arrays in, lines of text out."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.views.models.nodes import Ints

_LEFT: Final = (0x40, 0x04, 0x02, 0x01)
_RIGHT: Final = (0x80, 0x20, 0x10, 0x08)
"""Bits of the dots of a character, the lowest first."""
_RAMP: Final = " .:-=+*#%@"


def highest(begins: Ints, values: Ints, view_start: int, view_end: int, columns: int) -> Ints:
    """The highest value that a step function has in each of some equal stretches; 0 before its first.

    Args:
        begins: when each value begins, sorted.
        values: `values[i]` holds from `at[i]` until the next.
        left, right: what is shown.
        columns: the number of stretches.
    """
    if not len(begins) or view_end <= view_start or columns <= 0:
        return np.zeros(max(columns, 0), np.int64)
    edges = view_start + (np.arange(columns + 1) * (view_end - view_start)) // columns
    before = np.searchsorted(begins, edges[:-1], side="right") - 1  # what holds when a stretch begins
    after = np.maximum(np.searchsorted(begins, edges[1:], side="left"), before + 1)
    level = np.append(values, 0)  # level[-1] is what is held before the first
    pairs = np.stack([np.maximum(before, 0), after], 1).ravel()
    pairs = np.minimum(pairs, len(values))
    result = np.maximum.reduceat(level, pairs)[::2]
    none = after <= 0
    return np.where(none, 0, result)


def filled(values: Ints, height: int, top: int) -> list[str]:
    """An area below a curve, two values a column of text, `height` lines, the top one first.

    Args:
        values: twice as many as there are columns.
        height: lines.
        top: the value at the upper edge.
    """
    dots = np.rint(values.astype(np.float64) * (4 * height) / max(top, 1)).astype(np.int64)
    dots = np.where((values > 0) & (dots == 0), 1, np.minimum(dots, 4 * height))
    lines = []
    for line in range(height - 1, -1, -1):
        level = np.clip(dots - 4 * line, 0, 4)
        codes = np.full(len(values) // 2, 0x2800, np.int64)
        for bits, side in ((_LEFT, level[0::2]), (_RIGHT, level[1::2])):
            masks: npt.NDArray[np.int64] = np.cumsum([0, *bits])
            codes += masks[side[: len(codes)]]
        lines.append("".join(map(chr, codes.tolist())))
    return lines


def ramp(values: Ints, top: int) -> str:
    """A curve in one line of ASCII, a value a column: ` .:-=+*#%@`."""
    steps = np.ceil(values.astype(np.float64) * (len(_RAMP) - 1) / max(top, 1)).astype(np.int64)
    return "".join(_RAMP[step] for step in np.clip(steps, 0, len(_RAMP) - 1).tolist())
