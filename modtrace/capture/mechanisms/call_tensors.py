"""Tensors among the arguments and outputs of a call: shapes, whether they are finite, their range.

Values are read without autograd, out of sight of modes and of subclasses, with no random numbers. What cannot be read
so, or is not there (a fake tensor, one on `meta`), is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import bases, defined, inherits
from modtrace.capture.engine.signatures import (
    MAX_DEPTH,
    MAX_LEAVES,
    arguments_key,
    described,
    fields_of,
    has_base,
    keywords_key,
    value_key,
)
from modtrace.capture.torch_private.contexts import without_dispatch, without_functions
from modtrace.capture.torch_private.names import current_level

_CUDA: Final[Any] = torch.cuda
_OPERATIONS: Final = defined(torch.Tensor, "__torch_dispatch__")


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


def tensors_in(*values: Any) -> list[torch.Tensor]:
    """The tensors in nested tuples, lists, dicts and dataclasses, at most MAX_LEAVES, read past any property."""
    found: list[torch.Tensor] = []
    for value in values:
        for tensor in _tensors(value, 0):
            found.append(tensor)
            if len(found) >= MAX_LEAVES:
                return found
    return found


def _tensors(value: Any, depth: int) -> Iterator[torch.Tensor]:
    cls = type(value)
    if inherits(cls, torch.Tensor):
        yield value
        return
    if depth > MAX_DEPTH or value is None or cls in (int, float, bool, str):
        return
    mro = bases(cls)
    fields = fields_of(value, cls, mro)
    if fields is not None:
        parts: Any = [part for _, part in fields]
    elif has_base(mro, tuple):
        parts = tuple.__iter__(value)
    elif has_base(mro, list):
        parts = list.__iter__(value)
    elif has_base(mro, dict):
        parts = list(dict.values(value))
    else:
        return
    for part in parts:
        yield from _tensors(part, depth + 1)


def may_read() -> bool:
    """True if operations on tensors can be run now: no transform is at work and no graph is captured."""
    if current_level() is not None:
        return False
    return not (_uses_cuda() and _CUDA.is_current_stream_capturing())


def are_finite(*values: Any) -> bool:
    """False if a floating or complex tensor in these holds a NaN or an infinity."""
    if not may_read():
        return True
    return all(_is_finite(tensor) for tensor in tensors_in(*values))


def _is_finite(tensor: torch.Tensor) -> bool:
    try:
        with torch.no_grad(), without_functions(), without_dispatch():
            if not _has_values(tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
                return True
            return bool(torch.isfinite(_strided(tensor.detach())).all().item())
    except Exception:  # a dtype or a layout that torch has no such operation for
        return True


def range_of(*values: Any) -> tuple[float, float] | None:
    """The least and the greatest value of the tensors in these; None where there are none that can be read."""
    if not may_read():
        return None
    ranges = [limits for tensor in tensors_in(*values) if (limits := _range(tensor)) is not None]
    if not ranges:
        return None
    lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
    if any(number != number for number in lows + highs):  # noqa: PLR0124 - NaN
        return float("nan"), float("nan")
    return min(lows), max(highs)


def _range(tensor: torch.Tensor) -> tuple[float, float] | None:
    try:
        with torch.no_grad(), without_functions(), without_dispatch():
            if not _has_values(tensor) or tensor.is_complex() or tensor.numel() == 0:
                return None
            low, high = torch.aminmax(_strided(tensor.detach()))
            return float(low.item()), float(high.item())
    except Exception:
        return None


def _has_values(tensor: torch.Tensor) -> bool:
    """False for a wrapper with operations of its own, for a nested, quantized or meta tensor."""
    plain_operations = defined(type(tensor), "__torch_dispatch__") == _OPERATIONS
    return plain_operations and not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """Its values as a dense tensor; of a sparse one those that it holds."""
    if tensor.layout is torch.strided:
        return tensor
    return tensor.coalesce().values() if tensor.is_sparse else tensor.values()


def _uses_cuda() -> bool:
    """True if the program has begun to use a device: nothing is asked of it before."""
    return bool(_CUDA.is_initialized())


def allocated_bytes() -> int | None:
    """Bytes that the allocator of the current device has handed out; None where there is none that tells."""
    return int(_CUDA.memory_allocated()) if _uses_cuda() else None
