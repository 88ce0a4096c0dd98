"""Formulas of the FLOPs of operations of torch.

A FLOP is one multiplication or one addition, so a multiply-accumulate is two. Counted are matrix products, convolutions
and attention, as in `torch.utils.flop_counter`; whatever works element by element, reduces or moves data counts nothing
by convention. What may multiply matrices but has no formula is uncounted: that is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import torch

from modtrace.capture.engine.classes import inherits
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import formulas, mkldnn_layout
from modtrace.capture.torch_private.spelled import NAME, PACKET, RAW_FORMULA

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
_READING: Final = frozenset({"_local_scalar_dense", "item", "is_nonzero", "equal"})
_MOVING: Final = frozenset({"c10d", "_c10d_functional", "profiler", "debugprims", "streams"})
"""Namespaces of operations that compute nothing: they communicate or mark."""


_SIZED: Final = (torch.strided, mkldnn_layout)
"""Layouts in which every element of a tensor is there."""
_PAIRS: Final = getattr(torch, "float4_e2m1fn_x2", None)
"""A type whose elements are two numbers each."""


class Operation(NamedTuple):
    """One operation of torch: its name in lists, and its formula; `uncounted` where it needs one and has none. `draws`
    says that it draws random numbers, `reads` that it tells the program the value of a tensor.
    """

    name: str
    formula: Formula | None
    uncounted: bool
    draws: bool = False
    reads: bool = False


def operation(function: Any) -> Operation:
    """Facts about an operation, an `OpOverload` or a higher-order one."""
    packet = getattr(function, PACKET, function)
    namespace = str(getattr(function, "namespace", "?"))
    short = str(getattr(packet, "__name__", None) or getattr(packet, NAME, "?"))
    name = short if namespace in _OWN_NAMESPACES else f"{namespace}.{short}"
    formula = _FORMULAS.get(name) or _registered(packet)
    if formula is not None:
        uncounted = False
    elif namespace not in _OWN_NAMESPACES:
        uncounted = namespace not in _MOVING
    else:
        light = short.removesuffix("_backward") in _LIGHT
        uncounted = not light and not _HEAVY.isdisjoint(short.split("_"))
    draws = torch.Tag.nondeterministic_seeded in getattr(function, "tags", ())
    return Operation(name, formula, uncounted, draws=draws, reads=name in _READING)


def _registered(packet: Any) -> Formula | None:
    """The formula that torch or the program has registered, if it looks at sizes alone: values would have to be read
    from the device.
    """
    formula: Any = formulas.get(packet)
    inner: Formula | None = getattr(formula, "__wrapped__", None)
    return None if getattr(formula, RAW_FORMULA, False) else inner


def flops(formula: Formula, args: Any, kwargs: Any, result: Any) -> int | None:
    """The FLOPs of one execution; None where the formula does not fit what it was given.

    Only sizes are read. A tensor without plain sizes (nested, symbolic, sparse) has no number.
    """
    try:
        shapes = [_shaped(value) for value in args]
        named = {name: _shaped(value) for name, value in kwargs.items()}
        count = formula(*shapes, **named, out_shape=_shaped(result))
    except Exception:
        return None
    return count if type(count) is int and count >= 0 else None


def _shaped(value: Any) -> Any:
    """A value with the sizes of each tensor in its place."""
    cls = type(value)
    if inherits(cls, torch.Tensor):
        with without_functions():
            sizes = tuple(value.shape)
            unsized = value.layout not in _SIZED or value.dtype is _PAIRS
            if unsized or any(type(size) is not int for size in sizes):
                raise ValueError
        return sizes
    if cls is list or cls is tuple:
        return cls(map(_shaped, value))
    return value


def _product(first: Any, right: Any, *_: Any, **__: Any) -> int:
    """Two operations for each pair that meets: of matrices, a matrix and a vector, two vectors."""
    rows = first[0] if len(first) > 1 else 1
    columns = right[1] if len(right) > 1 else 1
    return int(2 * rows * first[-1] * columns)


def _added_product(_: Any, first: Any, right: Any, *__: Any, **___: Any) -> int:
    return _product(first, right)


def _batched_product(first: Any, right: Any, *_: Any, **__: Any) -> int:
    """Matrices (B, M, K) and (B, K, N)."""
    return int(2 * math.prod(first) * right[-1])


def _added_batched_product(_: Any, first: Any, right: Any, *__: Any, **___: Any) -> int:
    return _batched_product(first, right)


def _linear(data: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """Every element of the output is a sum over the last dimension of the input."""
    return int(2 * math.prod(out_shape) * data[-1])


def _matmul(first: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return int(2 * math.prod(out_shape) * first[-1])


def _grouped_product(first: Any, right: Any, *_: Any, **__: Any) -> int:
    """Groups of tokens, each with a matrix of its own. A group is a range of one dimension, so the dimensions of both
    sides are gone through once: (T, K) and (G, K, N), (G, M, K) and (K, T), (M, T) and (T, N), (G, M, K) and (G, K, N).
    """
    groups = first[0] if len(first) == 3 and len(right) == 3 else 1
    return int(2 * groups * first[-2] * first[-1] * right[-1])


def _convolution(
    data: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = None,
    padding: Any = None,
    dilation: Any = None,
    transposed: bool = False,
    *_: Any,
    out_shape: Any,
    **__: Any,
) -> int:
    """Every element of the output meets one filter of (channels of a group) x (kernel); of a transposed convolution
    every element of the input does. `weight` is (channels out, channels in a group, kernel), transposed (channels in,
    channels out a group, kernel).
    """
    return _filtered(data if transposed else out_shape, weight)


def _filtered(elements: Any, weight: Any) -> int:
    return int(2 * math.prod(elements) * math.prod(weight[1:]))


def _plain_convolution(_: Any, weight: Any, *__: Any, out_shape: Any, **___: Any) -> int:
    return _filtered(out_shape, weight)


def _transposed_convolution(data: Any, weight: Any, *_: Any, **__: Any) -> int:
    return _filtered(data, weight)


def _convolution_backward(
    gradient: Any, data: Any, weight: Any, bias_sizes: Any, *_ignored: Any, output_mask: Any = None, **_: Any
) -> int:
    """As much as forward for each gradient that is wanted, of input and weight; that of the bias is a sum."""
    wanted = _ignored[-1] if output_mask is None else output_mask
    transposed = _ignored[3]  # behind stride, padding and dilation
    return int(sum(wanted[:2]) * _filtered(data if transposed else gradient, weight))


def _own_convolution_backward(gradient: Any, data: Any, weight: Any, *_ignored: Any, **named: Any) -> int:
    return _convolution_backward(gradient, data, weight, None, *_ignored, **named)


def _slow_convolution_backward(
    gradient: Any, data: Any, weight: Any, kernel: Any, stride: Any, padding: Any, output_mask: Any, **_: Any
) -> int:
    return int(sum(output_mask[:2]) * _filtered(gradient, weight))


def _convolution_over_time(_: Any, weight: Any, *__: Any, out_shape: Any, **___: Any) -> int:
    """`conv_tbc`, whose weight is (kernel, channels in, channels out)."""
    return int(2 * math.prod(out_shape) * weight[0] * weight[1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products of (..., heads, length, width), whatever is masked; keys and values may have fewer heads."""
    pairs = math.prod(query[:-1]) * key[-2]
    return int(2 * pairs * (query[-1] + value[-1]))


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Five products: the scores again, and the gradients of scores, queries, keys and values."""
    pairs = math.prod(query[:-1]) * key[-2]
    return int(2 * pairs * (3 * query[-1] + 2 * value[-1]))


def _flex_attention_backward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return _attention_backward(None, query, key, value)


def _by_length(shape: Any) -> Any:
    """(batch, length, heads, width) as (batch, heads, length, width)."""
    batch, length, heads, width = shape
    return batch, heads, length, width


def _attention_by_length(query: Any, key: Any, value: Any, *_ignored: Any, **named: Any) -> int | None:
    """A kernel that takes lengths before heads. Packed sequences tell their lengths in values."""
    if (
        any(type(offsets) is tuple for offsets in _ignored[:3])
        or named.get("seqused_k")
        or named.get("seqlen_k")
    ):
        return None
    return _attention(*map(_by_length, (query, key, value)))


def _attention_by_length_backward(
    _: Any, query: Any, key: Any, value: Any, *further: Any, **__: Any
) -> int | None:
    if any(type(further[position]) is tuple for position in (2, 3)):
        return None
    return _attention_backward(None, *map(_by_length, (query, key, value)))


def _efficient_attention_backward(
    _: Any, query: Any, key: Any, value: Any, *_ignored: Any, **__: Any
) -> int | None:
    return _attention_by_length_backward(None, query, key, value, *_ignored)


def _trilinear(
    first: Any,
    second: Any,
    third: Any,
    expand1: Any,
    expand2: Any,
    expand3: Any,
    summed: Any,
    unroll: int = 1,
    **_: Any,
) -> int:
    """A product of three tensors as two products of two: the first two over the summed dimensions that the third does
    not have, then that with the third over the others. A dimension that only one side has is summed before.
    """
    sides = [list(first), list(second), list(third)]
    for dimension in range(len(first) + len(expand1)):
        for side, expanded in zip(sides, (expand1, expand2, expand3), strict=True):
            if dimension in expanded:
                side.insert(dimension, 1)
    once = [dimension for dimension in summed if dimension in expand3 and dimension != unroll]
    then = [dimension for dimension in summed if dimension not in expand3 and dimension != unroll]
    size = max(side[unroll] for side in sides)
    for side in sides:
        side[unroll] = 1
    tensor, between = _contracted(sides[0], sides[1], once)
    two, _last = _contracted(between, sides[2], then)
    return int(size * (tensor + two))


def _contracted(first: list[int], right: list[int], summed: list[int]) -> tuple[int, list[int]]:
    """FLOPs of a product of two tensors that is summed over some dimensions, and the sizes of the result."""
    alone = [dimension for dimension in summed if first[dimension] == 1 or right[dimension] == 1]
    sizes = [
        1 if dimension in alone else max(pair)
        for dimension, pair in enumerate(zip(first, right, strict=True))
    ]
    multiplied = 2 * math.prod(sizes) if summed else 0  # nothing to sum: a product element by element
    return multiplied, [1 if dimension in summed else size for dimension, size in enumerate(sizes)]


def _distances(first: Any, right: Any, *_: Any, **__: Any) -> int:
    """|a|^2 - 2ab + |b|^2 as one product, with a column for each square."""
    return int(2 * math.prod(first[:-1]) * right[-2] * (first[-1] + 2))


def _affine_grid(theta: Any, size: Any, *_: Any, **__: Any) -> int:
    """Every place, with a 1 behind its coordinates, meets the matrix of its sample."""
    return int(2 * size[0] * math.prod(size[2:]) * theta[-1] * theta[-2])


def _recurrent(data: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Every step of every sequence meets every matrix of every layer and direction once."""
    return int(2 * math.prod(data[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2))


def _recurrent_backward(data: Any, weights: Any, *_ignored: Any, **named: Any) -> int:
    """The gradient of the inputs is always made, that of the matrices where it is wanted."""
    wanted = named["output_mask"] if "output_mask" in named else _ignored[-1]
    return int((1 + wanted[3]) * _recurrent(data, weights))


def _recurrent_layer(data: Any, from_input: Any, from_hidden: Any, *_: Any, **__: Any) -> int:
    return _recurrent(data, (from_input, from_hidden))


def _twice(formula: Formula, *shapes: Any, **named: Any) -> int:
    """A backward of matrix products: one for the gradient of the inputs, one for that of the matrices."""
    return int(2 * formula(*shapes, **named))


def _packed_4_bits(data: Any, _: Any, __: Any, features_in: int, features_out: int, **___: Any) -> int:
    return int(2 * math.prod(data[:-1]) * features_in * features_out)


_FORMULAS: Final[dict[str, Formula]] = {
    **dict.fromkeys(("mm", "_scaled_mm", "_scaled_mm_v2", "_int_mm", "mv", "dot", "vdot"), _product),
    **dict.fromkeys(("addmm", "_addmm_activation", "addmv"), _added_product),
    "bmm": _batched_product,
    **dict.fromkeys(("baddbmm", "addbmm"), _added_batched_product),
    **dict.fromkeys(
        ("linear", "mkldnn_linear", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_weight_int8pack_mm"),
        _linear,
    ),
    "matmul": _matmul,
    "_dyn_quant_matmul_4bit": _packed_4_bits,
    **dict.fromkeys(
        ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2", "transformers.grouped_mm_fallback"),
        _grouped_product,
    ),
    "transformers.grouped_mm_fallback_backward": partial(_twice, _grouped_product),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _convolution),
    **dict.fromkeys(
        (
            "conv1d", "conv2d", "conv3d", "cudnn_convolution", "cudnn_convolution_relu", "cudnn_convolution_add_relu",
            "miopen_convolution", "miopen_convolution_relu", "miopen_convolution_add_relu",
            "miopen_depthwise_convolution", "mkldnn_convolution", "_conv_depthwise2d", "conv_depthwise3d",
            "_slow_conv2d_forward", "thnn_conv2d", "slow_conv3d", "slow_conv3d_forward", "slow_conv_dilated2d",
            "slow_conv_dilated3d",
        ),
        _plain_convolution,
    ),
    **dict.fromkeys(
        (
            "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cudnn_convolution_transpose",
            "miopen_convolution_transpose", "slow_conv_transpose2d", "slow_conv_transpose3d",
        ),
        _transposed_convolution,
    ),
    "convolution_backward": _convolution_backward,
    "convolution_backward_overrideable": _own_convolution_backward,
    "_slow_conv2d_backward": _slow_convolution_backward,
    "conv_tbc": _convolution_over_time,
    **dict.fromkeys(
        (
            "scaled_dot_product_attention", "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
            "_scaled_dot_product_attention_math_for_mps", "higher_order.flex_attention",
        ),
        _attention,
    ),
    **dict.fromkeys(
        (
            "_scaled_dot_product_efficient_attention_backward", "_scaled_dot_product_flash_attention_backward",
            "_scaled_dot_product_cudnn_attention_backward", "_scaled_dot_product_flash_attention_for_cpu_backward",
            "_scaled_dot_product_fused_attention_overrideable_backward",
        ),
        _attention_backward,
    ),
    "higher_order.flex_attention_backward": _flex_attention_backward,
    **dict.fromkeys(("_flash_attention_forward", "_efficient_attention_forward"), _attention_by_length),
    "_flash_attention_backward": _attention_by_length_backward,
    "_efficient_attention_backward": _efficient_attention_backward,
    "_trilinear": _trilinear,
    "_euclidean_dist": _distances,
    "affine_grid_generator": _affine_grid,
    "mkldnn_rnn_layer": _recurrent_layer,
    "mkldnn_rnn_layer_backward": partial(_twice, _recurrent_layer),
    "_cudnn_rnn": _recurrent,
    "_cudnn_rnn_backward": _recurrent_backward,
    "miopen_rnn": _recurrent,
    "miopen_rnn_backward": _recurrent_backward,
}  # fmt: skip
"""By name as in lists of operations. Arguments are given with the sizes of each tensor in its place."""
