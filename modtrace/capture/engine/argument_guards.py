"""Guards: compare arguments with those seen last, without making a signature."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

import torch

from modtrace.capture.engine.tensor_guards import Check, guard_of
from modtrace.capture.torch_private.contexts import without_functions

_SCALARS: Final = (
    int,
    float,
    bool,
    complex,
    type(None),
    torch.dtype,
    torch.device,
    torch.memory_format,
    torch.layout,
)


def like(args: tuple[Any, ...]) -> Check:
    """A check that says whether arguments have the signature of `args`."""
    tensors = [position for position, value in enumerate(args) if is_tensor(value)]
    others = [(position, _likeness(value)) for position, value in enumerate(args) if position not in tensors]
    if any(check is never for _, check in others):
        return never
    checks = [
        (position, guard_of(args[position])) for position in tensors
    ] + others  # each apart: one guard of two refuses a pair of one
    count = len(args)
    if count == len(checks) == 1:
        return _alone(checks[0][1])
    if count == 2:
        return _pair(*[check for _, check in sorted(checks, key=itemgetter(0))])

    def check(given: tuple[Any, ...]) -> bool:
        if len(given) != count:
            return False
        for position, likeness in checks:  # noqa: SIM110 - a generator costs 200 ns
            if not likeness(given[position]):
                return False
        return True

    return check


def _alone(first: Check) -> Check:
    return lambda args: len(args) == 1 and first(args[0])


def _pair(first: Check, second: Check) -> Check:
    return lambda args: len(args) == 2 and first(args[0]) and second(args[1])


def like_keywords(kwargs: dict[str, Any]) -> Check:
    """A check that says whether keyword arguments have the signature of `kwargs`."""
    names = tuple(kwargs)
    alike = like(tuple(kwargs.values()))
    return lambda args: tuple(args) == names and alike(tuple(args.values()))


def _likeness(value: Any) -> Check:
    """A check for what is no tensor: a type, or a short sequence of integers. `never` where only a walk can tell."""
    cls = type(value)
    if cls in _SCALARS:
        return lambda other: type(other) is cls
    if cls is str:
        length = len(value)
        return lambda other: type(other) is str and len(other) == length
    if cls is torch.Size:
        return lambda other: type(other) is torch.Size
    if (cls is tuple or cls is list) and len(value) <= 8 and all(type(item) is int for item in value):
        length = len(value)
        return lambda other: (
            type(other) is cls and len(other) == length and all(type(i) is int for i in other)
        )
    return never


def has_tensor(args: tuple[Any, ...]) -> bool:
    """True if any argument is a tensor: no guard sees whether one requires grad while grad mode is off."""
    return any(map(is_tensor, args))


def is_tensor(value: Any) -> bool:
    """True if a value is a tensor that a guard can compare: no subclass, not nested."""
    cls = type(value)
    if cls is not torch.Tensor and cls is not torch.nn.Parameter:
        return False
    with without_functions():
        return not value.is_nested


def never(_: Any) -> bool:
    """The check that nothing passes."""
    return False
