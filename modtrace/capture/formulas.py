"""What an operation of torch computes, in FLOPs: torch's own formulas, by operation.

A FLOP is one multiplication or one addition, so a multiply-accumulate is two. Counted are matrix products, convolutions
and attention, as in `torch.utils.flop_counter`, whose formulas these are; whatever works element by element, reduces or
moves data counts nothing by convention. What may multiply matrices but has no formula is uncounted: that is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch.utils import flop_counter

from modtrace.capture.classes import inherits

Formula = Callable[..., Any]

_HEAVY: Final = frozenset((
    "addbmm", "addmm", "addmv", "attention", "baddbmm", "bilinear", "bmm", "cdist", "cholesky", "conv",
    "convolution", "depthwise2d", "depthwise3d", "dot", "eig", "eigh", "expm", "fft", "geqrf", "gemm",
    "gru", "int4pack", "int8pack", "inverse", "linalg", "linear", "lstm", "lu", "matmul", "mm", "mv",
    "ormqr", "orgqr", "pdist", "pinverse", "qr", "rnn", "solve", "svd", "transformer", "trilinear", "trsm",
    "vdot",
))  # fmt: skip
"""Words in the names of torch's operations that may multiply matrices."""
_LIGHT: Final = frozenset(
    {"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "_cudnn_rnn_flatten_weight", "_fused_sdp_choice"}
)
_OWN_NAMESPACES: Final = frozenset({"aten", "prim", "prims"})
_MOVING: Final = frozenset({"c10d", "_c10d_functional", "profiler", "debugprims", "streams"})
"""Namespaces of operations that compute nothing: they communicate or mark."""


class Operation(NamedTuple):
    """One operation of torch: its name in lists, and its formula; `uncounted` where it needs one and has none."""

    name: str
    formula: Formula | None
    uncounted: bool


def operation(function: Any) -> Operation:
    """What is known of an operation, an `OpOverload` or a higher-order one."""
    packet = getattr(function, "_overloadpacket", function)
    namespace = str(getattr(function, "namespace", "?"))
    short = str(getattr(packet, "__name__", None) or getattr(packet, "_name", "?"))
    formula = _formulas().get(packet)
    name = short if namespace in _OWN_NAMESPACES else f"{namespace}.{short}"
    if formula is not None:
        return Operation(name, formula, uncounted=False)
    if namespace not in _OWN_NAMESPACES:
        return Operation(name, None, uncounted=namespace not in _MOVING)
    light = short.removesuffix("_backward") in _LIGHT
    return Operation(name, None, uncounted=not light and not _HEAVY.isdisjoint(short.split("_")))


def flops(formula: Formula, args: Any, kwargs: Any, result: Any) -> int | None:
    """The FLOPs of one execution; None where the formula does not fit what it was given.

    Only sizes are read. A tensor without plain sizes (nested, symbolic, sparse) has no number.
    """
    try:
        shapes = [_shaped(one) for one in args]
        named = {name: _shaped(one) for name, one in kwargs.items()}
        found = formula(*shapes, **named, out_shape=_shaped(result))
    except Exception:
        return None
    return found if type(found) is int and found >= 0 else None


def _shaped(value: Any) -> Any:
    """A value with the sizes of each tensor in its place."""
    kind = type(value)
    if inherits(kind, torch.Tensor):
        with torch._C.DisableTorchFunction():
            sizes = tuple(value.shape)
            if value.layout is not torch.strided or any(type(size) is not int for size in sizes):
                raise ValueError
        return sizes
    if kind is list or kind is tuple:
        return kind(map(_shaped, value))
    return value


def _formulas() -> dict[Any, Formula]:
    """Formula by operation: torch's, without those that look at values of tensors, and where it has none for a kernel
    that does the work of another, that of the other.
    """
    global _known  # noqa: PLW0603 - made at the first use: torch.ops looks operations up one by one
    if _known is None:
        own: dict[Any, Any] = flop_counter.flop_registry
        _known = {}
        for packet, formula in own.items():
            inner = getattr(formula, "__wrapped__", None)
            if inner is not None and not getattr(formula, "_get_raw", False):
                _known[packet] = inner
        for name, formula in _more().items():
            packet = getattr(torch.ops.aten, name, None)
            if packet is not None:
                _known.setdefault(packet, formula)
    return _known


_known: dict[Any, Formula] | None = None


def _more() -> dict[str, Formula]:
    counter: Any = flop_counter
    attention, attention_backward = counter.sdpa_flop_count, counter.sdpa_backward_flop_count
    return {
        "_scaled_dot_product_flash_attention_for_cpu": partial(_first, attention, 3),
        "_scaled_dot_product_flash_attention_for_cpu_backward": partial(_first, attention_backward, 4),
        "_scaled_dot_product_fused_attention_overrideable": partial(_first, attention, 3),
        "_scaled_dot_product_attention_math_for_mps": partial(_first, attention, 3),
        "_addmm_activation": _of_addmm,
        "_int_mm": _of_product,
        "mv": _of_product,
        "dot": _of_product,
        "vdot": _of_product,
        "addmv": _of_addmm,
        "mkldnn_rnn_layer": _of_recurrent_layer,
        "mkldnn_rnn_layer_backward": partial(_twice, _of_recurrent_layer),
        "_cudnn_rnn": _of_recurrent,
        "_cudnn_rnn_backward": partial(_twice, _of_recurrent),
        "mkldnn_convolution": _of_convolution,
        "miopen_convolution": _of_convolution,
    }


def _first(formula: Formula, count: int, *shapes: Any, **_: Any) -> Any:
    return formula(*shapes[:count])


def _of_product(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Two operations for each pair that meets: of matrices, a matrix and a vector, two vectors."""
    rows = left[0] if len(left) > 1 else 1
    columns = right[1] if len(right) > 1 else 1
    return int(2 * rows * left[-1] * columns)


def _of_addmm(_: Any, left: Any, right: Any, *__: Any, **___: Any) -> int:
    return _of_product(left, right)


def _of_recurrent(given: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Every step of every sequence meets every matrix of every layer and direction once."""
    return int(2 * math.prod(given[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2))


def _of_recurrent_layer(given: Any, from_input: Any, from_hidden: Any, *_: Any, **__: Any) -> int:
    return _of_recurrent(given, (from_input, from_hidden))


def _twice(formula: Formula, *shapes: Any, **named: Any) -> int:
    """A backward of matrix products: one for the gradient of the inputs, one for that of the matrices."""
    return int(2 * formula(*shapes, **named))


def _of_convolution(given: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return int(flop_counter.conv_flop_count(given, weight, out_shape, transposed=False))
