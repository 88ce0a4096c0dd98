"""Tensors among the arguments and outputs of a call: shapes, whether they are finite, their range.

Values are read without autograd, out of sight of modes and of subclasses, with no random numbers. What cannot be read
so, or is not there (a fake tensor, one on `meta`), is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import torch

from modtrace.capture.engine.signatures import arguments_key, described, keywords_key, value_key
from modtrace.capture.mechanisms.value_readings import Hidden
from modtrace.capture.mechanisms.value_tensors import (
    as_real,
    has_own_operations,
    is_floating,
    tensors_of,
    why_unread,
)

_CUDA: Final[Any] = torch.cuda


def shapes_of_arguments(args: Any, kwargs: Any) -> list[tuple[tuple[int | None, ...] | None, str]]:
    """Shape and dtype of each tensor among arguments."""
    rows = described(arguments_key(args)) + (described(keywords_key(kwargs)) if kwargs else [])
    return [_shape(row) for row in rows]


def shapes_of_output(output: Any) -> list[tuple[tuple[int | None, ...] | None, str]]:
    """The same of an output."""
    return [_shape(row) for row in described(value_key(output))]


def _shape(row: dict[str, Any]) -> tuple[tuple[int | None, ...] | None, str]:
    shape = row["shape"]
    return None if shape is None else tuple(shape), row["dtype"]


def are_finite(*values: Any) -> bool:
    """False if a floating or complex tensor in these holds a NaN or an infinity."""
    return all(math.isfinite(number) for limits in _limits(values, floating=True) for number in limits)


def range_of(*values: Any) -> tuple[float, float] | None:
    """The least and the greatest value of the tensors in these; None where there are none that can be read.

    Complex numbers count as pairs.
    """
    ranges = list(_limits(values))
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    if any(map(math.isnan, lows)):
        return math.nan, math.nan
    return (min(lows), max(highs)) if ranges else None


def _limits(values: Any, *, floating: bool = False) -> Iterator[tuple[float, float]]:
    """The extremes of each tensor that can be read; of floating and complex ones alone."""
    if not Hidden().usable:
        return
    for value in values:
        for _, tensor in tensors_of(value):
            limits = None
            try:
                with Hidden():
                    if is_floating(tensor) or not floating:
                        limits = _extremes(tensor)
            except Exception:  # a dtype or a layout that torch has no such operation for
                limits = None
            if limits is not None:
                yield limits


def _extremes(tensor: Any) -> tuple[float, float] | None:
    if has_own_operations(tensor) or tensor.is_nested:
        return None
    dense = tensor.detach()
    if dense.layout is not torch.strided:  # those that it holds
        dense = dense.coalesce().values() if dense.is_sparse else dense.values()
    if why_unread(dense) is not None:
        return None
    low, high = torch.aminmax(as_real(dense) if is_floating(dense) else dense)
    return float(low.item()), float(high.item())


def _uses_cuda() -> bool:
    """True if the program has begun to use a device: nothing is asked of it before."""
    return bool(_CUDA.is_initialized())


def allocated_bytes() -> int | None:
    """Bytes that the allocator of the current device has handed out; None where there is none that tells."""
    return int(_CUDA.memory_allocated()) if _uses_cuda() else None
