"""A graph on the processor and on a device, whose nodes autograd runs on a thread of the device's as it does for a GPU.

The device is torch's backend for devices written in Python: its tensors are made once a process, before any backward.
"""

from __future__ import annotations

import torch
from torch import library, nn
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "played"


class OnDevice(torch.Tensor):
    """A tensor on the device; what it holds is on the processor."""

    @staticmethod
    def __new__(cls, held):
        made = torch._C._acc.create_empty_tensor(tuple(held.shape), held.dtype)
        made.__class__ = OnDevice
        made.held = held
        return made


def set_up():
    """Make the device; what it returns must be kept."""
    _setup_privateuseone_for_python_backend(NAME)
    fallback = library.Library("_", "IMPL")
    fallback.fallback(_run, "PrivateUse1")
    return fallback


def _run(operation, *args, **kwargs):
    given, named = tree_map(
        _held, (args, {name: value for name, value in kwargs.items() if name != "device"})
    )
    return tree_map(
        lambda one: OnDevice(one) if isinstance(one, torch.Tensor) else one, operation(*given, **named)
    )


def _held(value):
    return getattr(value, "held", value)


class Node(torch.autograd.Function):
    """One node of a graph, which calls `ran` when it runs."""

    @staticmethod
    def forward(ctx, x, ran):
        ctx.ran = ran
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        ctx.ran()
        return gradient * 1, None


class ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.held * 1

    @staticmethod
    def backward(ctx, gradient):
        return OnDevice(gradient)


class Step(nn.Module):
    def __init__(self, ran):
        super().__init__()
        self.ran = ran

    def forward(self, x):
        return Node.apply(x, self.ran)


class Mixed(nn.Module):
    """Two branches that do not wait for one another in backward."""

    def __init__(self, steps, host_ran, device_ran):
        super().__init__()
        self.host = nn.Sequential(*(Step(host_ran) for _ in range(steps)))
        self.device = nn.Sequential(*(Step(device_ran) for _ in range(steps)))

    def forward(self, on_host, on_device):
        return self.host(on_host).sum() + ToHost.apply(self.device(on_device)).sum()

    @staticmethod
    def inputs():
        return torch.ones(3).requires_grad_(), OnDevice(torch.ones(3)).requires_grad_()
