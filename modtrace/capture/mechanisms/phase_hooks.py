"""Phases around the forward of a training step: waiting for data, the optimizer, zero_grad.

Optimizers tell through torch's global step hooks. The rest are functions of torch that are replaced while recording.

Copies to a device are no phases. `Tensor.to` and `Tensor.cuda` are never replaced: torch hands `__torch_function__`
what stands there, and code of tensor subclasses compares it with the original.
"""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.ranges import NOT_OPENED, Ranges
from modtrace.capture.engine.stand_ins import leave
from modtrace.capture.mechanisms.replacements import Replacements, Wrap
from modtrace.capture.torch_private.names import (
    loader_iterator,
    optimizer_post_hooks,
    optimizer_pre_hooks,
)
from modtrace.capture.torch_private.spelled import NUM_WORKERS

_KEY: Final = -(1 << 60)
"""Of our hooks in torch's tables: torch counts ids up from 0."""
_MANY_OPTIMIZERS: Final = 4096
"""More optimizers than that share numbers; those of a short stretch of time never do."""


class PhaseHooks:
    """Records the phases of one trace, but for backward, between `install` and `remove`."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._ranges = context.part(Ranges)
        self._replacements = Replacements(context)
        self._idle = self._replacements.idle
        self._optimizers: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._made_optimizers = itertools.count()
        self._begun = 0
        """Number of steps that optimizers have begun."""
        self._stepping: dict[int, list[tuple[int, int]]] = {}
        """Optimizers whose step is running, by the number of the thread: (id, number of the phase)."""

    def install(self) -> None:
        """Put the replacements and hooks in place."""
        place, loader = self._replacements.place, torch.utils.data.DataLoader
        if loader_iterator is not None:
            place(loader_iterator, "__next__", self._in_phase("data", _workers_of))
        place(loader, "__iter__", self._in_phase("data", _workers_of))
        place(torch.optim.Optimizer, "zero_grad", self._in_phase("zero_grad", _class_of))
        place(torch.nn.Module, "zero_grad", self._in_phase("zero_grad", _class_of))
        scaler: Any = getattr(getattr(torch, "amp", None), "GradScaler", None)
        if scaler is not None:
            place(scaler, "step", self._scaled_step)
        self._listen()

    def remove(self) -> None:
        """Take them away; does nothing the second time."""
        self._replacements.remove()
        for table in (optimizer_pre_hooks, optimizer_post_hooks):
            if table is not None:
                table.pop(_KEY - id(self), None)

    def hide(self) -> None:
        """Record nothing for a while: torch compiles."""
        self._replacements.hide()

    def show(self) -> None:
        """Record again."""
        self._replacements.show()

    def _listen(self) -> None:
        """Put our hooks among those of torch that run around every optimizer's step.

        They stay there while torch compiles: a compiled step is guarded on how many there are.
        """
        is_dynamo_compiling = torch.compiler.is_dynamo_compiling

        def before(optimizer: Any, args: Any, kwargs: Any) -> None:
            if not is_dynamo_compiling():
                self._before_step(optimizer)

        def after(optimizer: Any, args: Any, kwargs: Any) -> None:
            if not is_dynamo_compiling():
                self._after_step(optimizer)

        tables = (optimizer_pre_hooks, optimizer_post_hooks)
        for table, hook in zip(tables, (before, after), strict=True):
            if None not in tables:
                unseen(hook)
                table[_KEY - id(self)] = hook

    # what is replaced -------------------------------------------------------------------------------------------

    def _in_phase(self, name: str, class_of: Callable[[Any], str]) -> Wrap:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            ranges, idle, events = self._ranges, self._idle, self._context.events
            buffers = self._context.buffers
            hands_out = name == "data" and original.__name__ == "__next__"

            @functools.wraps(original)
            def run(self: Any, *args: Any, **kwargs: Any) -> Any:
                if idle():
                    return original(self, *args, **kwargs)
                # A frame that holds itself would live, with the caller's locals, until garbage is collected.
                call = ranges.begin(
                    ranges.phase(name, class_of(self), sys._getframe().f_code), sys._getframe()
                )
                try:
                    result = original(self, *args, **kwargs)
                except BaseException as error:
                    ranges.end(call, None if type(error) is StopIteration else error)
                    leave(error)
                    raise
                ranges.end(call)
                for loaded in events.batch_loaded if hands_out else ():
                    loaded(buffers.current, call, result)
                return result

            return run

        return wrap

    def _scaled_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._idle():
                return original(scaler, optimizer, *args, **kwargs)
            call, begun = self._begin_step(optimizer, sys._getframe()), self._begun
            try:
                result = original(scaler, optimizer, *args, **kwargs)
            except BaseException as error:
                self._ranges.end(call, error)
                leave(error)
                raise
            for skipped in self._context.events.optimizer_skipped if begun == self._begun else ():
                skipped(optimizer, call)
            self._end_step(optimizer, call)
            return result

        return step

    # optimizers -------------------------------------------------------------------------------------------------

    def _begin_step(self, optimizer: Any, frame: FrameType | None) -> int:
        if frame is None:
            return NOT_OPENED
        entry = self._ranges.phase(
            "optimizer", type(optimizer).__name__, frame.f_code, self._number_of(optimizer)
        )
        return self._ranges.begin(entry, frame)

    def _number_of(self, optimizer: Any) -> int:
        """A number that tells an optimizer from others, also from one that is gone and had its address."""
        known = self._optimizers.get(id(optimizer))
        if known is not None and known[0]() is optimizer:
            return known[1]
        try:
            reference = weakref.ref(optimizer)
        except TypeError:
            return id(optimizer)
        number = 1 + next(self._made_optimizers) % _MANY_OPTIMIZERS
        self._optimizers[id(optimizer)] = reference, number
        return number

    def _before_step(self, optimizer: Any) -> None:
        if self._idle():
            return
        self._begun += 1
        frame: Any = sys._getframe().f_back
        frame = frame.f_back
        call = self._begin_step(optimizer, frame)
        if call != NOT_OPENED:
            stepping = self._stepping.setdefault(self._context.buffers.current.number, [])
            stepping.append((id(optimizer), call))
        for began in self._context.events.optimizer_began:
            began(optimizer, call)

    def _after_step(self, optimizer: Any) -> None:
        if self._idle():
            return
        for stepped in self._context.events.optimizer_stepped:
            stepped(optimizer)
        stepping = self._stepping.get(self._context.buffers.current.number, [])
        while stepping:
            key, call = stepping.pop()
            if key == id(optimizer):
                self._end_step(optimizer, call)
                return

    def _end_step(self, optimizer: Any, call: int) -> None:
        now = self._context.clock()
        self._ranges.end(call)
        if call != NOT_OPENED and not self._stepping.get(self._context.buffers.current.number):
            number = self._number_of(optimizer)
            for ended in self._context.events.optimizer_ended:
                ended(optimizer, number, now)


unseen(PhaseHooks._before_step, PhaseHooks._after_step, PhaseHooks._end_step, PhaseHooks._number_of)


def _class_of(thing: Any) -> str:
    return type(thing).__name__


def _workers_of(loader: Any) -> str:
    """Text for a DataLoader, or an iterator of one: its processes matter when it is waited for."""
    attributes = getattr(loader, "__dict__", {})
    return f"DataLoader(num_workers={attributes.get(NUM_WORKERS, attributes.get('num_workers', '?'))})"


unseen(_workers_of, _class_of)
