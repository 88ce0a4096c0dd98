"""What a module was given or returned last: the shortest way from a tensor to its signature.

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
from modtrace.capture.torch_private.names import CALL_CODE, current_level, tensor_guards
from modtrace.trace.schema import MODULE

Check = Callable[[Any], bool]
Memory = tuple[Check, bool, int]
"""(whether a value is like the remembered tensor, its requires_grad, its signature)."""


def _never(_: Any) -> bool:
    return False


NOTHING: Final[Memory] = (_never, False, -1)


class Plan:
    """When root calls of one sort are counted: the first, second, fourth, eighth ...

    skips: calls until the next that is counted; below zero it is due.
    gap: how many calls have been let by between the last two counted ones, and 1.
    """

    __slots__ = ("gap", "skips")

    def __init__(self) -> None:
        self.skips = -1
        self.gap = 1

    def counted(self) -> None:
        """The call that is about to begin is counted, or would have been."""
        self.skips, self.gap = self.gap - 1, 2 * self.gap


_NO_PLAN: Final = Plan()


class Entry:
    """What a row is an execution of: a module with its last signatures, or a phase, a span, a function.

    A memory is replaced as a whole: threads never see halves of two.

    number: of the module, or of the label where `kind` is one of things without a module.
    kind: index into schema.KINDS.
    code: of the frame that runs an execution; None where no frame says whether it still runs.
    counted: signature and mode of a root call of it, without keyword arguments, whose operations have been counted.
    plan: when calls of that sort are counted again.
    sites: places in it that call functions, while functions are recorded.
    """

    __slots__ = ("code", "counted", "given", "kind", "number", "plan", "returned", "sites")

    def __init__(self, number: int, kind: int = MODULE, code: CodeType | None = CALL_CODE) -> None:
        self.number = number
        self.kind = kind
        self.code = code
        self.given: Memory = NOTHING
        self.returned: Memory = NOTHING
        self.counted = -1
        self.plan = _NO_PLAN
        self.sites: dict[Any, Any] = {}


def remember(last: Memory, value: Any, signature: int) -> Memory:
    """The memory after a tensor that was not like `last`. A guard is made when a signature comes twice in a row, so
    that a module whose shapes change with every call does not pay for guards that never match.
    """
    if last[2] != signature:
        return (_never, False, signature)
    return (guard_of(value), has_grad(value), signature)


def _tensor_guard(value: Any) -> Check:
    check: Check = tensor_guards(value, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    return check


def _attribute_guard(value: Any) -> Check:
    kind, attributes = type(value), _attributes(value)

    def check(other: Any) -> bool:
        return (
            type(other) is kind
            and current_level() is None
            and not other.is_nested
            and _attributes(other) == attributes
        )

    return check


def _attributes(value: Any) -> tuple[Any, ...]:
    with without_functions():
        return value.shape, value.dtype, value.device, value.layout


def has_grad(value: Any) -> bool:
    """requires_grad of a tensor, read out of sight of subclasses and modes."""
    with without_functions():
        return bool(value.requires_grad)


def _choose_guard() -> Callable[[Any], Check]:
    """torch's guard where it tells what it should, else one of attributes."""
    try:
        # Out of sight of any mode that the program is in.
        with without_dispatch(), without_functions():
            made = torch.empty(2, 3, device="meta")
            same = torch.empty(2, 3, device="meta")
            others = (
                torch.empty(2, 4, device="meta"),
                torch.empty(2, 3, 1, device="meta"),
                torch.empty(2, 3, device="meta", dtype=torch.float64),
                torch.nn.Parameter(same),
                None,
            )
            check = _tensor_guard(made)
            if check(same) and not any(check(other) for other in others):
                return _tensor_guard
    except Exception:  # another torch
        pass
    return _attribute_guard


guard_of = _choose_guard()
