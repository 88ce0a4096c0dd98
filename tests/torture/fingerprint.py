"""A value as plain data that is equal exactly when the value is the same bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import torch
from torch import nn

Bits = object


def fingerprint(value: object, seen: frozenset[int] = frozenset()) -> Bits:
    """Structures are taken apart, tensors become their facts and bytes, anything else its type."""
    if id(value) in seen:
        return "cycle"
    seen |= {id(value)}
    kind = type(value)
    if issubclass(kind, torch.Tensor):
        return (kind.__name__, *_tensor(value))
    if issubclass(kind, np.ndarray):
        return kind.__name__, value.shape, value.dtype.str, value.tobytes()
    if issubclass(kind, (tuple, list)):
        return kind.__name__, [fingerprint(item, seen) for item in value]
    if issubclass(kind, dict):
        return kind.__name__, [(repr(key), fingerprint(item, seen)) for key, item in value.items()]
    if dataclasses.is_dataclass(kind):
        return kind.__name__, [
            fingerprint(getattr(value, field.name), seen) for field in dataclasses.fields(kind)
        ]
    if value is None or kind in (bool, int, float, complex, str, bytes):
        return kind.__name__, repr(value)
    return kind.__name__


def _tensor(tensor: torch.Tensor) -> tuple[Bits, ...]:
    with torch._C.DisableTorchFunctionSubclass():
        facts = (
            str(tensor.dtype),
            str(tensor.device),
            str(tensor.layout),
            tensor.requires_grad,
            tensor.is_leaf,
        )
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            return (*facts, "uninitialised")
        if tensor.layout is torch.sparse_coo:
            tensor = tensor.detach().coalesce()
            return (*facts, _tensor(tensor.indices()), _tensor(tensor.values()))
        if tensor.layout is torch.sparse_csr:
            return (
                *facts,
                _tensor(tensor.crow_indices()),
                _tensor(tensor.col_indices()),
                _tensor(tensor.values()),
            )
        facts = (*facts, tuple(tensor.shape))
        if tensor.is_quantized:
            return (*facts, _tensor(tensor.int_repr()))
        facts = (*facts, tensor.stride(), tensor.storage_offset(), tensor.is_neg(), tensor.is_conj())
        if tensor.device.type == "meta":
            return facts
        if tensor.numel() > 1_000_000:
            return facts
        memory = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        return (*facts, hashlib.sha256(memory.numpy().tobytes()).hexdigest())
