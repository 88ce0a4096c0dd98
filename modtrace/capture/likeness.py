"""Whether arguments have the signature of others, without making one."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

import torch

from modtrace.capture.seen import Check, guard_of
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
    tensors = [at for at, value in enumerate(args) if is_tensor(value)]
    others = [(at, _likeness(value)) for at, value in enumerate(args) if at not in tensors]
    if any(check is never for _, check in others):
        return never
    checks = [
        (at, guard_of(args[at])) for at in tensors
    ] + others  # each apart: one guard of two refuses a pair of one
    count = len(args)
    if count == len(checks) == 1:
        return _alone(checks[0][1])
    if count == 2:
        return _pair(*[check for _, check in sorted(checks, key=itemgetter(0))])

    def check(given: tuple[Any, ...]) -> bool:
        if len(given) != count:
            return False
        for at, likeness in checks:  # noqa: SIM110 - a generator costs 200 ns
            if not likeness(given[at]):
                return False
        return True

    return check


def _alone(first: Check) -> Check:
    return lambda given: len(given) == 1 and first(given[0])


def _pair(first: Check, second: Check) -> Check:
    return lambda given: len(given) == 2 and first(given[0]) and second(given[1])


def like_keywords(kwargs: dict[str, Any]) -> Check:
    """A check that says whether keyword arguments have the signature of `kwargs`."""
    names = tuple(kwargs)
    alike = like(tuple(kwargs.values()))
    return lambda given: tuple(given) == names and alike(tuple(given.values()))


def _likeness(value: Any) -> Check:
    """A check for what is no tensor: a type, or a short sequence of integers. `never` where only a walk can tell."""
    kind = type(value)
    if kind in _SCALARS:
        return lambda other: type(other) is kind
    if kind is str:
        length = len(value)
        return lambda other: type(other) is str and len(other) == length
    if kind is torch.Size:
        return lambda other: type(other) is torch.Size
    if (kind is tuple or kind is list) and len(value) <= 8 and all(type(item) is int for item in value):
        length = len(value)
        return lambda other: (
            type(other) is kind and len(other) == length and all(type(i) is int for i in other)
        )
    return never


def has_tensor(args: tuple[Any, ...]) -> bool:
    """Whether any argument is a tensor: no guard sees whether one requires grad while grad mode is off."""
    return any(map(is_tensor, args))


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor that a guard can compare: no subclass, not nested."""
    kind = type(value)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return False
    with without_functions():
        return not value.is_nested


def never(_: Any) -> bool:
    """The check that nothing passes."""
    return False
