"""Tensors that are not plain: some have no shape, some run code when looked at."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from tests.torture.case import case
from tests.torture.zoo_arguments import Echoes


def _kinds(model):
    x = torch.randn(3, 4)
    return model(
        x.to_sparse(),
        x.relu().to_sparse_csr(),
        torch.randn(0, 3),
        torch.tensor(1.5),
        torch.empty(2, 3, device="meta"),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(2, dtype=torch.bfloat16),
        x.to(torch.float8_e4m3fn),
        x.t(),
        x[:, ::2],
        torch.ones(1).expand(1_000_000, 1_000),
        x._neg_view(),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        nn.Parameter(x),
        nn.Buffer(x),
        x.numpy(),
    )


@case(run=_kinds)
def kinds_of_tensors() -> nn.Module:
    return Echoes()


def _nested(model):
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    strided = torch.nested.nested_tensor(parts, layout=torch.strided)
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    return [list(part.unbind()) for part in (*model[0](strided, jagged), model[1](jagged))]


@case(run=_nested)
def nested_tensors() -> nn.Module:
    return nn.Sequential(Echoes(), nn.Linear(3, 3))


def _quantised(model):
    return model(torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.quint8))[0].dequantize()


@case(run=_quantised)
def quantised_tensors() -> nn.Module:
    return Echoes()


def _fake(model):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return tuple(model(mode.from_tensor(torch.randn(2, 4))).shape)


@case(run=_fake)
def fake_tensors() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


@case(run=lambda model: model(torch.randn(2, 4, device="meta")).shape)
def on_meta_device() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to("meta")


class Tagged(torch.Tensor):
    """A subclass that does nothing."""


class Counting(torch.Tensor):
    """Counts how often torch asks its class what to do."""

    asked = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.asked += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class Private(torch.Tensor):
    """Raises when torch is asked anything about it from outside of the model."""

    open = False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if not cls.open:
            raise RuntimeError("this tensor wants to be left alone")
        return super().__torch_function__(func, types, args, kwargs or {})

    def __repr__(self):
        raise RuntimeError("no text")


class OpensTensor(nn.Module):
    def forward(self, x):
        Private.open = True
        try:
            return x * 2
        finally:
            Private.open = False


def _counting(model):
    Counting.asked = 0
    output = model(torch.randn(2, 4).as_subclass(Counting))
    return output.as_subclass(torch.Tensor), Counting.asked


@case(run=_counting, grad=True)
def counting_subclass() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def _private(model):
    output = model(torch.randn(2, 4).as_subclass(Private))
    with torch._C.DisableTorchFunctionSubclass():
        return output.as_subclass(torch.Tensor)


@case(run=_private)
def private_subclass() -> nn.Module:
    return nn.Sequential(OpensTensor(), nn.Identity())


@case(run=lambda model: type(model(torch.randn(2, 4).as_subclass(Tagged))).__name__)
def trivial_subclass() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


class Wrapper(torch.Tensor):
    """Holds another tensor, and is asked at every operation; with the policy "sizes" also how large it is."""

    asked: list[str]

    @staticmethod
    def __new__(cls, inner, policy):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, dispatch_sizes_strides_policy=policy
        )

    def __init__(self, inner, policy):
        self.inner = inner
        self.policy = policy

    def __repr__(self):
        raise RuntimeError("no text")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.asked.append(str(func))
        policy = next((arg.policy for arg in args if isinstance(arg, Wrapper)), None)

        def unwrap(value):
            return value.inner if isinstance(value, Wrapper) else value

        output = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))
        if not isinstance(output, torch.Tensor):
            return output
        return Wrapper(output, policy)


ABOUT_SIZE = {"aten.sym_size.default", "aten.dim.default"}
"""A class that itself answers how large it is cannot be looked at without asking it."""


def _wrapped(policy):
    def run(model):
        Wrapper.asked = []
        with torch.no_grad():
            output = model(Wrapper(torch.randn(2, 4), policy))
        return output.inner, [name for name in Wrapper.asked if name not in ABOUT_SIZE]

    return run


@case(run=_wrapped(None))
def wrapper_subclass() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


@case(run=_wrapped("sizes"))
def wrapper_subclass_asked_for_size() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())
