"""FLOPs of single layers and operations, against counts made by hand."""

from __future__ import annotations

import math
import warnings

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import modtrace
from modtrace.capture.mechanisms.flop_formulas import flops, operation

aten = torch.ops.aten


def counted(module, *given, **named):
    """FLOPs of the forward of a module and of its backward, with the gradients of all that requires grad."""
    with warnings.catch_warnings(), modtrace.trace() as t:
        warnings.simplefilter("ignore")
        result = module(*given, **named)
        if result.requires_grad:
            result.sum().backward()
    root = t.modules.iloc[0]
    assert root["uncounted"] == []
    return [None if pd.isna(value) else int(value) for value in root[["forward_flops", "backward_flops"]]]


def by_hand(conv, shape):
    """2 x (elements that meet a filter) x (filter): those of the output, of a transposed convolution of the input."""
    result = conv(torch.zeros(shape)).shape
    elements = math.prod(shape if conv.transposed else result)
    channels = conv.out_channels if conv.transposed else conv.in_channels
    return 2 * elements * (channels // conv.groups) * math.prod(conv.kernel_size)


CONVOLUTIONS = {
    "plain": (lambda: nn.Conv2d(4, 8, 3, padding=1), (2, 4, 7, 6)),
    "without a bias": (lambda: nn.Conv2d(4, 8, 3, bias=False), (2, 4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4, stride=2), (2, 8, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(8, 8, (3, 1), groups=8, dilation=2), (2, 8, 9, 6)),
    "depthwise with a multiplier": (lambda: nn.Conv2d(6, 18, 3, groups=6, padding="same"), (1, 6, 5, 5)),
    "1-d": (lambda: nn.Conv1d(6, 8, 5, dilation=2, padding=3), (3, 6, 20)),
    "1-d depthwise": (lambda: nn.Conv1d(6, 6, 4, groups=6, padding=3), (3, 6, 20)),
    "3-d": (lambda: nn.Conv3d(2, 4, (1, 3, 3), stride=(1, 2, 2), groups=2), (1, 2, 4, 9, 9)),
    "circular": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
    "without a batch": (lambda: nn.Conv2d(4, 8, 3), (4, 7, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 4, 2, stride=2), (2, 8, 5, 5)),
    "transposed, grouped": (
        lambda: nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1, groups=4, output_padding=1),
        (2, 8, 5, 5),
    ),
    "transposed, dilated": (lambda: nn.ConvTranspose1d(6, 3, 3, dilation=2), (2, 6, 9)),
    "transposed, 3-d": (lambda: nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2), (1, 2, 3, 4, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("wanted", ["both", "input", "weight"])
def test_a_convolution_and_its_backward(name, wanted):
    make, shape = CONVOLUTIONS[name]
    conv = make()
    forward = by_hand(conv, shape)
    conv.weight.requires_grad_(wanted != "input")
    given = torch.randn(shape, requires_grad=wanted != "weight")
    assert counted(conv, given) == [forward, (2 if wanted == "both" else 1) * forward]


def test_a_convolution_whose_bias_alone_is_trained_multiplies_nothing_backward():
    conv = nn.Conv2d(4, 8, 3)
    conv.weight.requires_grad_(False)
    assert counted(conv, torch.randn(2, 4, 7, 6)) == [by_hand(conv, (2, 4, 7, 6)), 0]


@pytest.mark.filterwarnings("ignore")  # torch's own, about accelerators that are not there
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_in_every_layout_and_kernel(onednn, layout):
    conv = nn.Conv2d(8, 8, 3, groups=8).to(memory_format=layout)
    given = torch.randn(2, 8, 7, 6).to(memory_format=layout).requires_grad_()
    forward = by_hand(conv, given.shape)
    with torch.backends.mkldnn.flags(enabled=onednn):
        assert counted(conv, given) == [forward, 2 * forward]


def test_embedding_bags_and_norms_multiply_no_matrices():
    bag = nn.EmbeddingBag(10, 4)
    assert counted(bag, torch.tensor([[1, 2, 3], [4, 5, 6]])) == [0, 0]
    assert counted(nn.GroupNorm(2, 4), torch.randn(2, 4, 3)) == [0, 0]


def test_a_bilinear_layer():
    """x W over its first dimension, then that with y over the second; backward likewise for each gradient."""
    layer = nn.Bilinear(5, 6, 7)
    first, second = torch.randn(3, 5), torch.randn(3, 6)
    forward = 2 * 3 * 7 * 6 * (5 + 1)
    assert counted(layer.requires_grad_(False), first, second)[0] == forward
    assert flops(
        operation(aten._trilinear.default).formula,
        (first, layer.weight, second, [1, 3], [0], [1, 2], [2, 3]),
        {},
        torch.empty(3, 7),
    ) == forward  # fmt: skip


@pytest.mark.parametrize("grads", [True, False])
def test_distances_are_one_product_with_a_column_for_each_square(grads):
    class Distances(nn.Module):
        def forward(self, x, y):
            return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")

    given = [torch.randn(2, 5, 3, requires_grad=grads), torch.randn(2, 4, 3)]
    forward, backward = counted(Distances(), *given)
    assert forward == 2 * 2 * 5 * 4 * (3 + 2)
    assert not grads or backward == 2 * 2 * 2 * 5 * 4 * 3  # torch makes both gradients, wanted or not


def test_an_affine_grid():
    class Grid(nn.Module):
        def forward(self, theta):
            return F.affine_grid(theta, (2, 1, 4, 5), align_corners=False)

    each = 2 * 2 * (4 * 5) * 3 * 2
    assert counted(Grid(), torch.randn(2, 2, 3, requires_grad=True)) == [each, each]


class Products(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *given):
        return self.run(*given)


def tensor(*shape):
    return torch.randn(shape, requires_grad=True)


PRODUCTS = {
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 2 * 3 * 4 * 5),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 2 * 3 * 4 * 5),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 2 * 3 * 4),
    "mv": (torch.mv, [(3, 4), (4,)], 2 * 3 * 4),
    "einsum": (lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 2 * 3 * 4 * 6 * 5),
    "einsum of three": (
        lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c), [(2, 3), (3, 4), (4, 5)], 2 * (2 * 3 * 4 + 2 * 4 * 5),
    ),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)], 2 * 2 * 3 * 4 * 5),
    "inner": (torch.inner, [(2, 3), (4, 3)], 2 * 2 * 3 * 4),
    "power": (lambda a: torch.linalg.matrix_power(a, 3), [(4, 4)], 2 * 2 * 4**3),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_products(name, mode):
    run, shapes, forward = PRODUCTS[name]
    module, given = Products(run), [tensor(*shape) for shape in shapes]
    with mode(), modtrace.trace() as t:
        result = module(*given)
    assert t.modules["forward_flops"].tolist() == [forward]
    assert t.modules["uncounted"].tolist() == [[]]
    with mode():
        assert torch.equal(result, run(*given))


@pytest.mark.parametrize("dims", ["2x3", "3x2", "2x2", "3x3"])
def test_grouped_products(dims):
    tokens, inner, out, groups = 8, 16, 32, 2
    offsets = torch.tensor([3, 8], dtype=torch.int32)
    left = {"2": (tokens, inner), "3": (groups, tokens, inner)}[dims[0]]
    right = {"2": (inner, out), "3": (groups, inner, out)}[dims[2]]
    arguments = [torch.empty(left), torch.empty(right), offsets if dims != "3x3" else None]
    expected = 2 * tokens * inner * out * (groups if dims == "3x3" else 1)
    for name in ("_grouped_mm", "_scaled_grouped_mm"):
        function = operation(getattr(aten, name).default)
        assert flops(function.formula, arguments, {}, torch.empty(1)) == expected


def test_a_grouped_product_in_a_module():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 16, 32, dtype=torch.bfloat16))

        def forward(self, x, ends):
            return F.grouped_mm(x, self.weight, offs=ends).float()

    given = torch.randn(8, 16, dtype=torch.bfloat16, requires_grad=True)
    product = 2 * 8 * 16 * 32
    assert counted(Experts(), given, torch.tensor([3, 8], dtype=torch.int32)) == [product, 2 * product]


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_with_fewer_heads_of_keys_and_wide_values(backend):
    query, key = tensor(2, 4, 5, 8), tensor(2, 2, 7, 8)
    run = Products(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    with sdpa_kernel(backend):
        forward = counted(run, query, key, tensor(2, 2, 7, 8))[0]
    assert forward == 2 * 2 * 2 * 4 * 5 * 7 * 8


def test_kernels_that_take_lengths_before_heads():
    shape = (2, 5, 4, 8)  # batch, length, heads, width
    product = 2 * 2 * 4 * 5 * 5 * 8
    q = torch.empty(shape)
    for name in ("_flash_attention_forward", "_efficient_attention_forward"):
        formula = operation(getattr(aten, name).default).formula
        assert flops(formula, (q, q, q, None, None, None, 5, 5), {}, ()) == 2 * product
        packed = (q, q, q, torch.empty(3), torch.empty(3), torch.empty(3), 5, 5)
        assert flops(formula, packed, {}, ()) is None
    gradient = operation(aten._flash_attention_backward.default).formula
    assert flops(gradient, (q, q, q, q, q, torch.empty(2, 4, 5), None, None, 5, 5), {}, ()) == 5 * product


def test_flexible_attention():
    from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward

    q, product = torch.empty(1, 2, 16, 8), 2 * 2 * 16 * 16 * 8
    assert flops(operation(flex_attention).formula, (q, q, q), {}, q) == 2 * product
    assert flops(operation(flex_attention_backward).formula, (q, q, q, q, q, q), {}, q) == 5 * product


def test_numbers_that_come_in_pairs_and_tensors_without_sizes_have_no_count():
    formula = operation(aten.mm.default).formula
    dense = torch.eye(3)
    assert flops(formula, (dense, dense), {}, dense) == 54
    assert flops(formula, (dense.to_sparse(), dense), {}, dense) is None
    if hasattr(torch, "float4_e2m1fn_x2"):
        pairs = torch.zeros(3, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        assert flops(formula, (pairs, pairs), {}, dense) is None


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_without_autograd(kind):
    layer, given = kind(6, 7, 2, bidirectional=True), torch.randn(5, 3, 6)
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    forward = 2 * 5 * 3 * gates * 7 * ((6 + 7) + (14 + 7)) * 2
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), modtrace.trace() as t:
            result = layer(given)[0]
        assert t.modules["forward_flops"].tolist() == [forward]
        with mode():
            assert torch.equal(result, layer(given)[0])


def test_a_formula_that_the_program_registers_is_used():
    from torch import library
    from torch.utils.flop_counter import register_flop_formula

    @library.custom_op("modtrace_formulas::product", mutates_args=())
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    @register_flop_formula(torch.ops.modtrace_formulas.product)
    def formula(a, b, out_shape=None, **named):
        return 2 * a[0] * a[1] * b[1]

    assert (
        counted(Products(torch.ops.modtrace_formulas.product), torch.randn(3, 4), torch.randn(4, 5))[0] == 120
    )
