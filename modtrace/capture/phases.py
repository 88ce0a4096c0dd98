"""What stands around the forward of a training step: waiting for data, copies to a device, backward, the optimizer.

Optimizers tell through torch's global step hooks. The rest are functions of torch that are replaced while recording:
each replacement calls the original with what it was given, returns what that returns, and is taken away at the end. A
replacement that the user has wrapped meanwhile stays below the wrapper, and only passes on from then on.
"""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import torch

from modtrace.capture.backward import Backward
from modtrace.capture.functions import Functions
from modtrace.capture.lanes import KIND_SHIFT
from modtrace.capture.optimizers import Optimizers
from modtrace.capture.profiling import Profiling
from modtrace.capture.ranges import NOT_OPENED, Ranges
from modtrace.capture.recomputing import Recomputing
from modtrace.capture.stand_ins import leave, uncounted
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import (
    loader_iterator,
    optimizer_post_hooks,
    optimizer_pre_hooks,
    run_backward,
)
from modtrace.capture.torch_private.spelled import NUM_WORKERS
from modtrace.capture.torch_private.tracing import is_tracing
from modtrace.capture.unseen import see_through, unseen
from modtrace.trace.schema import PHASE

_KEY: Final = -(1 << 60)
"""Of our hooks in torch's tables: torch counts ids up from 0."""
_INHERITED: Final = object()
_MANY_OPTIMIZERS: Final = 4096
"""More optimizers than that share numbers; those of a short stretch of time never do."""

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Phases:
    """Records the phases of one trace between `install` and `remove`."""

    def __init__(
        self,
        ranges: Ranges,
        backward: Backward,
        functions: Functions | None = None,
        profiling: Profiling | None = None,
        optimizers: Optimizers | None = None,
    ) -> None:
        self._ranges = ranges
        self._state = ranges.state
        self._backward = backward
        self._functions = functions
        self._profiling = profiling
        self._recomputing = Recomputing(self._state, self._idle)
        self._ownership = optimizers
        self._placed: list[tuple[Any, str, Any, Any]] = []
        self._hidden = 0
        self._optimizers: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._made_optimizers = itertools.count()

    def install(self) -> None:
        """Put the replacements and hooks in place."""
        for owner, name, wrap in self._replacements():
            original = getattr(owner, name, None)
            if callable(original):
                replacement = wrap(original)
                uncounted(replacement)
                see_through(replacement)
                held = vars(owner).get(name, _INHERITED)
                self._placed.append((owner, name, held, replacement))
                setattr(owner, name, replacement)
        self._listen()

    def remove(self) -> None:
        """Take them away; does nothing the second time."""
        while self._placed:
            owner, name, held, replacement = self._placed.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if held is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, held)
        for table in (optimizer_pre_hooks, optimizer_post_hooks):
            if table is not None:
                table.pop(_KEY - id(self), None)

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

    def hide(self) -> None:
        """Record nothing for a while: torch compiles."""
        self._hidden += 1

    def show(self) -> None:
        """Record again."""
        self._hidden = max(self._hidden - 1, 0)

    def _replacements(self) -> Iterator[tuple[Any, str, Wrap]]:
        if run_backward is not None:
            yield *run_backward, self._running_backward
        yield from self._recomputing.replacements()
        if loader_iterator is not None:
            yield loader_iterator, "__next__", self._in_phase("data", _workers_of)
        yield torch.utils.data.DataLoader, "__iter__", self._in_phase("data", _workers_of)
        yield torch.optim.Optimizer, "zero_grad", self._in_phase("zero_grad", _class_of)
        yield torch.nn.Module, "zero_grad", self._in_phase("zero_grad", _class_of)
        scaler: Any = getattr(getattr(torch, "amp", None), "GradScaler", None)
        if scaler is not None:
            yield scaler, "step", self._scaled_step
        if _accelerator() is not None:
            for name in ("to", "cuda", "xpu"):
                yield torch.Tensor, name, self._copying

    def _idle(self) -> bool:
        """Whether nothing is to be recorded now."""
        return bool(self._state.off or not self._placed or self._hidden or is_tracing())

    # what is replaced -------------------------------------------------------------------------------------------

    def _in_phase(self, name: str, class_of: Callable[[Any], str]) -> Wrap:
        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            ranges, idle, profiling = self._ranges, self._idle, self._profiling

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
                if profiling is not None:
                    profiling.poll()
                ranges.end(call)
                return result

            return run

        return wrap

    def _running_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(t_outputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._idle():
                return original(t_outputs, *args, **kwargs)
            if self._profiling is not None:
                self._profiling.backward_begins()
            accumulates = bool(kwargs.get("accumulate_grad", True))
            watch = self._backward.begin(t_outputs, sys._getframe(), accumulates=accumulates)
            if watch is None:
                return original(t_outputs, *args, **kwargs)
            shown = self._functions is not None and self._functions.show()
            try:
                result = original(t_outputs, *args, **kwargs)
            except BaseException as error:
                watch.end(error)
                leave(error)
                raise
            finally:
                if shown and self._functions is not None:
                    self._functions.hide()
            watch.end()
            if self._profiling is not None:
                self._profiling.at_rest()
            return result

        return run

    def _scaled_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._idle():
                return original(scaler, optimizer, *args, **kwargs)
            call = self._begin_step(optimizer, sys._getframe())
            try:
                result = original(scaler, optimizer, *args, **kwargs)
            except BaseException as error:
                self._ranges.end(call, error)
                leave(error)
                raise
            self._end_step(optimizer, call)
            return result

        return step

    def _copying(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A copy from the host to an accelerator. Whether it is one is known when it is done."""
        accelerator = _accelerator()

        @functools.wraps(original)
        def copy(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if self._idle():
                return original(tensor, *args, **kwargs)
            started = self._state.clock()
            try:
                result = original(tensor, *args, **kwargs)
            except BaseException as error:
                leave(error)
                raise
            try:
                if result is not tensor and _moved(tensor, result, accelerator):
                    self._copied(started, sys._getframe())
            except Exception as fault:
                self._state.fault(fault)
            return result

        return copy

    def _copied(self, started: int, frame: FrameType) -> None:
        now = self._state.clock()
        lane = self._state.lanes.lane
        entry = self._ranges.phase("h2d", "", frame.f_code)
        word = PHASE << KIND_SHIFT | len(lane.calls)
        lane.extend((lane.next_call(), entry.number, 0, word, started, 0, 0, now))

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
        frame: Any = sys._getframe().f_back
        frame = frame.f_back
        call = self._begin_step(optimizer, frame)
        if self._ownership is not None:
            self._ownership.before_step(optimizer)
        if call != NOT_OPENED:
            self._state.lanes.lane.stepping.append((id(optimizer), call))
        if self._profiling is not None:
            self._profiling.step_begins(optimizer)

    def _after_step(self, optimizer: Any) -> None:
        if self._idle():
            return
        if self._ownership is not None:
            self._ownership.after_step(optimizer)
        stepping = self._state.lanes.lane.stepping
        while stepping:
            key, call = stepping.pop()
            if key == id(optimizer):
                self._end_step(optimizer, call)
                return

    def _end_step(self, optimizer: Any, call: int) -> None:
        now = self._state.clock()
        if self._profiling is not None:
            self._profiling.poll()
        self._ranges.end(call)
        if self._profiling is not None and call != NOT_OPENED and not self._state.lanes.lane.stepping:
            self._profiling.step_ends(optimizer, self._number_of(optimizer), now)


unseen(
    Phases._idle, Phases._copied, Phases._before_step, Phases._after_step, Phases._end_step, Phases._number_of
)


def _class_of(thing: Any) -> str:
    return type(thing).__name__


def _workers_of(loader: Any) -> str:
    """How a DataLoader, or an iterator of one, is shown: its processes matter when it is waited for."""
    held = getattr(loader, "__dict__", {})
    return f"DataLoader(num_workers={held.get(NUM_WORKERS, held.get('num_workers', '?'))})"


def _accelerator() -> str | None:
    """The kind of device that copies go to, None where there is none."""
    module: Any = getattr(torch, "accelerator", None)
    if module is not None:
        found = module.current_accelerator() if module.is_available() else None
        return found.type if found is not None else None
    return "cuda" if torch.cuda.is_available() else None


def _moved(before: Any, after: Any, accelerator: str | None) -> bool:
    """Whether a tensor was copied from the host to the accelerator."""
    with without_functions():
        return bool(before.device.type == "cpu" and after.device.type == accelerator)


unseen(_workers_of, _class_of, _moved)
