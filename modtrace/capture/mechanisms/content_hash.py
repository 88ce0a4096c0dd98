"""A hash of the bits of a tensor, worked out on its device: two runs that have it alike have the same values.

A change of one element always changes it; of several changes one in 2**62 may be missed. Nothing waits for the device,
and what is needed beside the tensor is of a fixed size.
"""

from __future__ import annotations

from typing import Any, Final

import torch

CHUNK: Final = 1 << 20
"""Elements that are taken at a time."""
MASK: Final = (1 << 62) - 1
"""Bits of it that are stored: numbers of a trace are not below zero."""
_ODD: Final = 0x1E3779B97F4A7C15
_MULTIPLIER: Final = 0x2545F4914F6CDD1D
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ContentHash:
    """Hashes tensors; keeps the weights of a chunk on each device. Called out of sight of autograd and modes."""

    def __init__(self) -> None:
        self._weights: dict[Any, Any] = {}

    def into(self, tensor: Any, slot: Any) -> None:
        """Write the hash of a tensor into an int64 tensor of one element on the same device."""
        if tensor.dtype.is_complex:
            tensor = torch.view_as_real(tensor.resolve_conj())
        tensor = tensor.resolve_neg().contiguous()
        bits = tensor.view(_INTEGERS[tensor.element_size()]).reshape(-1)
        weights = self._weights_of(bits)
        slot.fill_(bits.numel())
        for start in range(0, bits.numel(), CHUNK):
            part = bits[start : start + CHUNK].to(torch.int64)
            slot.mul_(_MULTIPLIER).add_((part * weights[: part.numel()]).sum())
        slot.bitwise_and_(MASK)

    def _weights_of(self, bits: Any) -> Any:
        """Odd numbers that differ, as many as a chunk has elements."""
        weights = self._weights.get(bits.device)
        if weights is None:
            with torch.inference_mode(mode=False):
                places = torch.arange(CHUNK, dtype=torch.int64, device=bits.device)
                weights = (
                    (places * _ODD)
                    .bitwise_xor_(places.mul(_MULTIPLIER).bitwise_right_shift_(29))
                    .bitwise_or_(1)
                )
            self._weights[bits.device] = weights
        return weights
