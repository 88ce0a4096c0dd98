"""Tensors in the arguments and outputs of calls, with their places; and a look at whether their values can be read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import bases, class_name, defined, inherits
from modtrace.capture.engine.signatures import MAX_DEPTH, MAX_LEAVES, entry_name, fields_of, has_base

_NO_OPERATIONS: Final = defined(torch.Tensor, "__torch_dispatch__")
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types whose extremes torch finds on every device."""
EMPTY: Final = ""
"""Reason for a tensor without elements: there is nothing to say of it."""


def tensors_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(place, tensor) of the tensors in a structure, as the places in `signatures`; read past code of its classes."""
    remaining = [MAX_LEAVES]
    yield from _tensors(value, path, 0, remaining)


def _tensors(value: Any, path: str, depth: int, remaining: list[int]) -> Iterator[tuple[str, Any]]:
    cls = type(value)
    remaining[0] -= 1
    if remaining[0] < 0:
        return
    if cls is torch.Tensor or inherits(cls, torch.Tensor):
        yield path, value
    elif depth < MAX_DEPTH and value is not None and cls not in (int, float, bool, str):
        prefix = f"{path}." if path else ""
        for name, item in _items(value, cls):
            yield from _tensors(item, f"{prefix}{name}", depth + 1, remaining)


def _items(value: Any, cls: type) -> Iterator[tuple[Any, Any]]:
    mro = bases(cls)
    fields = fields_of(value, cls, mro)
    if fields is not None:
        yield from fields
    elif cls is not torch.Size and has_base(mro, tuple):
        yield from enumerate(tuple.__iter__(value))
    elif has_base(mro, list):
        yield from enumerate(list.__iter__(value))
    elif has_base(mro, dict):
        yield from [(entry_name(name), item) for name, item in dict.items(value)]


def is_floating(tensor: Any) -> bool:
    """True for a tensor of floating point or complex numbers. Asked out of sight of function modes."""
    dtype = tensor.dtype
    return bool(dtype.is_floating_point or dtype.is_complex)


def has_own_operations(tensor: Any) -> bool:
    """True for a tensor whose class runs operations itself: nothing is asked of it, it would see that."""
    cls = type(tensor)
    return cls is not torch.Tensor and defined(cls, "__torch_dispatch__") != _NO_OPERATIONS


def elements_of(tensor: Any) -> int | None:
    """Number of elements; None where a tensor cannot be asked, or has none that are known."""
    return None if has_own_operations(tensor) or tensor.is_nested else int(tensor.numel())


def why_unread(tensor: Any) -> str | None:
    """Reason for which a floating tensor is not read; EMPTY for one without elements, None where it can be."""
    if has_own_operations(tensor):
        return f"a tensor of class {class_name(type(tensor))}, which has operations of its own"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.device.type == "meta":
        return "a tensor on meta, which has no values"
    if tensor.is_quantized:
        return "a quantized tensor"
    return EMPTY if not tensor.numel() else None


def as_real(tensor: Any) -> Any:
    """A tensor with the same extremes, which torch can find: complex numbers are pairs, float8 is float32."""
    if tensor.dtype in _DTYPES:
        return tensor
    if tensor.dtype.is_complex:
        real = torch.view_as_real(tensor.resolve_conj())
        return real if real.dtype in _DTYPES else real.to(torch.float32)
    return tensor.to(torch.float32)
