"""Guards of arguments and outputs seen last: the shortest way from a tensor to its signature.

Most modules see one shape again and again. Reading shape, dtype, device, layout and requires_grad of a tensor one by
one and hashing them takes 350 ns; torch's own tensor guard, which the compiler uses, compares all of them in one call
of 140 ns (torch 2.13). It compares type, dispatch keys (device type, layout, functorch wrappers), dtype, device index,
sizes and strides; requires_grad it sees only while grad mode is on, so in no_grad that is compared apart.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, Final

import torch

from modtrace.capture.torch_private.contexts import without_dispatch, without_functions
from modtrace.capture.torch_private.names import (
    CALL_CODE,
    count_function_modes,
    current_level,
    tensor_guards,
)
from modtrace.trace.schema import MODULE

Check = Callable[[Any], bool]
Memory = tuple[Check, int, int]
"""(whether a value is like the remembered one, requires_grad of a tensor or SEVERAL, its signature)."""


SEVERAL: Final = 2
"""Stands for requires_grad in the memory of a structure, whose check sees that of each tensor by itself."""


def _never(_: Any) -> bool:
    return False


NOTHING: Final[Memory] = (_never, False, -1)


class Entry:
    """The thing that a row is an execution of: a module with its last signatures, or a phase, a span, a function.

    A memory is replaced as a whole: threads never see halves of two.

    number: of the module, or of the label where `kind` is one of things without a module.
    kind: index into schema.KINDS.
    code: of the frame that runs an execution; None where no frame says whether it still runs.
    has_keywords: a call of it has had keyword arguments.
    given: of an argument alone. args: of several. kwargs: of keyword arguments. returned: of the output.
    guards: checks of structures that were made for it.
    sites: places in it that call functions, while functions are recorded.
    """

    __slots__ = (
        "args",
        "code",
        "given",
        "guards",
        "has_keywords",
        "kind",
        "kwargs",
        "number",
        "returned",
        "sites",
    )

    def __init__(self, number: int, call_kind: int = MODULE, code: CodeType | None = CALL_CODE) -> None:
        self.number = number
        self.kind = call_kind
        self.code = code
        self.given: Memory = NOTHING
        self.args: Memory = NOTHING
        self.kwargs: Memory = NOTHING
        self.guards = 0
        self.returned: Memory = NOTHING
        self.has_keywords = False
        self.sites: dict[Any, Any] = {}


def remember(last: Memory, value: Any, signature: int) -> Memory:
    """The memory after a tensor that was not like `last`. A guard is made when a signature comes twice in a row, so
    that a module whose shapes change with every call does not pay for guards that never match.
    """
    if last[2] != signature or not is_guarded(value):
        return (_never, False, signature)
    return (guard_of(value), has_grad(value), signature)


def is_guarded(value: Any) -> bool:
    """True if a guard of a tensor, made now, sees all of its signature: torch's takes a tensor that requires grad for
    one that does not while grad mode is off, and would do so for ever.
    """
    return torch.is_grad_enabled() or not has_grad(value)


def _tensor_guard(value: Any) -> Check:
    check: Check = tensor_guards(value, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    return check


def _attribute_guard(value: Any) -> Check:
    cls, attributes = type(value), _attributes(value)

    def check(other: Any) -> bool:
        return (
            type(other) is cls
            and current_level() is None
            and not other.is_nested
            and _attributes(other) == attributes
        )

    return check


def _attributes(value: Any) -> tuple[Any, ...]:
    with without_functions():
        return value.shape, value.dtype, value.device, value.layout, value.requires_grad


def has_grad(value: Any) -> bool:
    """requires_grad of a tensor that is of no subclass, read out of sight of modes."""
    if _count_modes is not None and not _count_modes():
        return bool(value.requires_grad)
    with without_functions():
        return bool(value.requires_grad)


def grad_differs(value: Any, requires_grad: int) -> bool:
    """True if requires_grad of what a guard has passed is another one than was remembered."""
    if requires_grad is SEVERAL:
        return False
    if _count_modes is not None and not _count_modes():
        return value.requires_grad is not requires_grad
    return has_grad(value) is not requires_grad


def has_grads(values: tuple[Any, ...]) -> tuple[bool, ...]:
    """requires_grad of each of some tensors, which are of no subclass."""
    if _count_modes is not None and not _count_modes():
        return tuple([value.requires_grad for value in values])
    with without_functions():
        return tuple([value.requires_grad for value in values])


_count_modes: Final = count_function_modes


def _choose_guard() -> Callable[[Any], Check]:
    """torch's guard where it tells what it should, else one of attributes."""
    try:
        # Out of sight of any mode that the program is in.
        with without_dispatch(), without_functions():
            sample = torch.empty(2, 3, device="meta")
            same = torch.empty(2, 3, device="meta")
            others = (
                torch.empty(2, 4, device="meta"),
                torch.empty(2, 3, 1, device="meta"),
                torch.empty(2, 3, device="meta", dtype=torch.float64),
                torch.nn.Parameter(same),
                None,
            )
            check = _tensor_guard(sample)
            if check(same) and not any(check(other) for other in others):
                return _tensor_guard
    except Exception:  # another torch
        pass
    return _attribute_guard


guard_of = _choose_guard()
