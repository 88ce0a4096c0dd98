"""The dispatch mode that sees every operation of torch, and what it costs to go through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from modtrace.capture.engine.dynamo_skip import see_through
from modtrace.capture.engine.stand_ins import leave, uncounted
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.modes import take_out_dispatch_mode
from modtrace.capture.torch_private.names import (
    TAKES_APART,
    count_dispatch_modes,
    current_level,
    has_kernel,
    push_dispatch_mode,
    run_composite,
    without_subclasses,
)

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)


def _sizes() -> frozenset[Any]:
    """Operations by which torch asks tensor subclasses for sizes and strides: they answer themselves."""
    aten: Any = torch.ops.aten
    names = (
        "sym_is_contiguous", "is_contiguous", "is_strides_like_format", "is_non_overlapping_and_dense",
        "size", "sym_size", "stride", "sym_stride", "storage_offset", "sym_storage_offset", "numel",
        "sym_numel", "dim",
    )  # fmt: skip
    sizes = [getattr(aten, name) for name in names if hasattr(aten, name)]
    values = {getattr(packet, overload) for packet in sizes for overload in packet.overloads()}
    layout = getattr(torch.ops.prim, "layout", None)
    return frozenset(values if layout is None else {*values, layout.default})


_SIZES: Final = _sizes()


class Mode:
    """A dispatch mode, to which torch hands every operation while it is on the stack.

    It is put there without the flags that `TorchDispatchMode.__enter__` sets, so that no code which asks whether a
    mode is active, torch's compiler above all, takes another path.
    """

    supports_higher_order_operators = True

    def __init__(
        self, note: Callable[[Mode, Any, Any, dict[str, Any], Any, int, int], None], clock: Any
    ) -> None:
        self._note = note
        self._clock = clock

    @classmethod
    def is_infra_mode(cls) -> bool:
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in _SIZES:
            return NotImplemented
        started = self._clock()
        kwargs = kwargs or {}
        # Called from here an operation would be shown to function modes and to classes of tensors, which it is not when
        # torch calls it. What is written in Python may call functions that they are shown.
        written_in_c = _is_torchs(function) and all(cls in _PLAIN for cls in types)
        try:
            with without_functions() if written_in_c else without_subclasses():
                if written_in_c and torch.is_inference_mode_enabled() and _is_composite(function, args):
                    return self._in_parts(function, args, kwargs)
                ready = self._clock()
                result = function(*args, **kwargs)
                done = self._clock()
        except BaseException as error:
            leave(error)
            raise
        self._note(self, function, args, kwargs, result, ready - started, done)
        return result

    def _in_parts(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operation that is made of others as torch would, and see these."""
        push_dispatch_mode(self)
        try:
            return run_composite(function, args, kwargs)
        finally:
            take_out_dispatch_mode(self)


def _is_composite(function: Any, args: Any) -> bool:
    """True if an operation is nothing but others, which autograd takes apart before a mode sees them. In inference mode
    there is no autograd.
    """
    name = function.name()
    if not TAKES_APART or not has_kernel(name, "CompositeImplicitAutograd"):
        return False
    values = [item for value in args for item in (value if type(value) in (list, tuple) else (value,))]
    first = next((value for value in values if type(value) in _PLAIN), None)
    if first is None or first.layout is not torch.strided:
        return False
    return not has_kernel(name, first.device.type.upper())


def _is_torchs(function: Any) -> bool:
    """True if an operation is one of torch's own, written in C++."""
    return getattr(function, "namespace", None) in ("aten", "prim")


def crossing(clock: Any) -> int:
    """Nanoseconds that torch takes to hand an operation to a mode and back."""
    if count_dispatch_modes() or current_level() is not None:
        return 0
    with without_functions():
        value = torch.empty(0, device="cpu")  # the first operation on a meta tensor imports for a second
        inside: list[int] = []
        mode = Mode(lambda *seen: inside.append(seen[-2] + clock() - seen[-1]), clock)
        plain_ns = min(_time(value, clock) for _ in range(5))
        push_dispatch_mode(mode)
        try:
            through_ns = min(_time(value, clock) for _ in range(5))
        finally:
            take_out_dispatch_mode(mode)
    return max((through_ns - plain_ns) // _TIMED - min(inside), 0)


_TIMED: Final = 20


def _time(value: Any, clock: Any) -> int:
    started: int = clock()
    for _ in range(_TIMED):
        torch.neg(value)
    done: int = clock()
    return done - started


for _function in (Mode.__torch_dispatch__, Mode._in_parts):
    uncounted(_function)
    see_through(_function)
