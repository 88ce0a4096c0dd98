"""Torch's functions as calls: what a module computes itself, between its submodules.

A function mode on the thread that starts the recording is handed every function of torch that Python calls there, the
outermost ones only: what `F.cross_entropy` calls in turn is its own affair. `autograd.Function.apply` is no such
function, so it is replaced while recording. A call is known by the place in the code that makes it: its name, its line
and the signatures seen last are kept with that place, so a call like the last one there costs two comparisons.

The program's functions run as they were called, once. What asks whether a tensor is overridden is answered as if
nothing were there: torch leaves its fused kernels where it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final

import torch

from modtrace.capture.engine.argument_guards import has_tensor, is_tensor, like, like_keywords, never
from modtrace.capture.engine.classes import defined
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.module_calls import unwind
from modtrace.capture.engine.ranges import left_by, still_open
from modtrace.capture.engine.signatures import arguments_key, keywords_key, value_key
from modtrace.capture.engine.stand_ins import leave, uncounted
from modtrace.capture.engine.tensor_guards import Check, Entry, Memory, has_grad, remember
from modtrace.capture.engine.thread_buffer import KIND_SHIFT, OpenCall, ThreadBuffer
from modtrace.capture.mechanisms.custom_functions import CustomFunctions
from modtrace.capture.mechanisms.function_names import (
    ASKING,
    DISPATCHING,
    function_name,
    has_compiled,
    lasts,
)
from modtrace.capture.torch_private.modes import stands, take_out_function_mode
from modtrace.capture.torch_private.names import (
    count_function_modes,
    function_mode_at,
    pop_function_mode,
    push_function_mode,
)
from modtrace.capture.torch_private.tracing import is_tracing
from modtrace.trace.schema import FUNCTION

MANY_SITES: Final = 100_000
"""Places that are remembered; what a program calls elsewhere after that is looked at anew each time."""
MISSED: Final = "{} calls of functions next to python's limit of recursion are not recorded, or without times"
STOPPED: Final = "functions are not recorded any more: the program compiles with torch.compile"
COMPILED_BEFORE: Final = (
    "functions are not recorded: the program had compiled with torch.compile before the trace"
)
_SHAPE: Any = defined(torch.Tensor, "shape")
_ACCESSOR: Final = type(_SHAPE[1].__get__)
"""Of attributes of tensors."""
_GET_FRAME: Final = sys._getframe
_WORD: Final = FUNCTION << KIND_SHIFT
_NO_KEYWORDS: Final[tuple[Check, int]] = (never, 0)
"""The guard and the signature of a call without keyword arguments."""
Sites = dict[Any, "Site"]
"""(id of the code, instruction, and for a second function there its id) -> place."""


class Site(Entry):
    """A place in the code that calls a function of torch."""

    __slots__ = ("function", "made_in", "named", "passes")

    def __init__(self, number: int, function: Any, made_in: CodeType, *, passes: bool) -> None:
        super().__init__(number, FUNCTION, None)
        self.function = function
        self.made_in = made_in
        self.named: tuple[Check, int] = (never, -1)
        self.passes = passes


class FunctionMode:
    """Records the functions of one trace between `install` and `remove`."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._labels = context.labels
        self._count = 0
        self._nothing: OpenCall = (0, -1, Entry(-1, FUNCTION, None), 0, 0, -1)
        """Stands for the open call around where there is none."""
        self._mode: Any = None
        self.missed = 0
        """Calls that are not recorded, or without times: python's limit of recursion was met."""
        self._running: list[bool] = []
        self.custom = CustomFunctions(context)
        self._asks: tuple[Any, Any] | None = None

    @property
    def active(self) -> bool:
        """True if functions are being recorded."""
        return self._mode is not None

    def install(self) -> str | None:
        """Begin, on this thread. Why it could not is what is returned."""
        if has_compiled():
            return COMPILED_BEFORE
        self._mode = _mode_class(self._handler())()
        self._running.append(True)
        push_function_mode(self._mode)
        self.custom.install()
        self._answer()
        return None

    @contextmanager
    def mode_alone(self) -> Iterator[None]:
        """The mode alone, for as long as its cost is measured."""
        self._mode = self._mode or _mode_class(self._handler())()
        self._running[:] = [True]
        push_function_mode(self._mode)
        try:
            yield
        finally:
            take_out_function_mode(self._mode)

    def remove(self) -> None:
        """End; does nothing the second time. On another thread than that of `install` the mode only passes on, until
        the next call on its own.
        """
        mode, self._mode = self._mode, None
        self._running.clear()
        if mode is not None and not take_out_function_mode(mode):
            self._context.take_out_later(partial(take_out_function_mode, mode))
        self.custom.remove()
        overrides: Any = torch.overrides
        if self._asks is not None and overrides.has_torch_function is self._asks[1]:
            overrides.has_torch_function = self._asks[0]
        self._asks = None

    def show(self) -> bool:
        """Put the mode back for a backward: `Tensor.backward` is a function too, so torch has taken it off. Whether
        that was needed is returned, and `hide` must follow then.
        """
        mode = self._mode
        if mode is None or stands(mode):
            return False
        push_function_mode(mode)
        return True

    def hide(self) -> None:
        """Take the mode off again."""
        mode = self._mode
        if mode is not None:
            take_out_function_mode(mode)

    def failed(self, fault: Exception) -> None:
        """A call was not recorded; next to python's limit of recursion that is no fault, and costs that call alone."""
        if isinstance(fault, RecursionError):
            self.missed += 1
        else:
            self._context.fault(fault)

    # the mode ---------------------------------------------------------------------------------------------------

    def _handler(self) -> Callable[..., Any]:  # noqa: C901, PLR0915 - the hot path, where each call costs 50 ns
        """`__torch_function__` of the mode. A function closes its row whatever leaves it: no frame need tell."""
        context, running, find_site, nothing = self._context, self._running, self._site, self._nothing
        buffers, clock, grad_enabled = context.buffers, context.clock, torch.is_grad_enabled
        looked_at = 0  # the frame and the open call that were last seen to fit, as one number

        def run(_: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: C901, PLR0912, PLR0915
            if type(function) is _ACCESSOR or not running:
                return function(*args, **kwargs) if kwargs else function(*args)
            nonlocal looked_at
            opened: OpenCall | None = None
            try:
                buffer = buffers.current
                calls = buffer.calls
                around = calls[-1] if calls else nothing
                frame = _GET_FRAME(1)
                site: Any = around[2].sites.get((id(frame.f_code), frame.f_lasti))
                if site is None or site.function is not function:
                    site, frame = find_site(around[2].sites, function, frame)
                if not site.passes:
                    if looked_at != id(frame) ^ around[1]:
                        if calls and not _made_by(frame, around[0]):
                            unwind(buffer, frame)
                        looked_at = id(frame) ^ (calls[-1] if calls else nothing)[1]
                    alike, graded, args_sig = site.given
                    if not alike(args) or (graded and not grad_enabled()):
                        args_sig = _arguments(context, buffer, site, args)
                    opened = (0, buffer.next_call(), site, args_sig, clock(), -1)
                    calls.append(opened)
            except Exception as fault:
                self.failed(fault)
            try:
                result = function(*args, **kwargs) if kwargs else function(*args)
            except BaseException as error:
                if opened is not None:
                    left_by(context, buffer, opened, error)
                leave(error)
                raise
            if opened is None:
                return result
            now = clock()
            try:
                if (not calls or calls[-1] is not opened) and not still_open(buffer, opened):
                    return result
                alike, requires_grad, returned = site.returned
                if not alike(result) or (not grad_enabled() and has_grad(result) is not requires_grad):
                    returned = _result(context, buffer, site, result)
                same, kwargs_sig = site.named if kwargs else _NO_KEYWORDS
                if kwargs and not same(kwargs):
                    kwargs_sig = _keywords(context, buffer, site, kwargs)
                calls.pop()
                depth = _WORD | len(calls)
                buffer.extend((opened[1], site.number, args_sig, depth, opened[4], kwargs_sig, returned, now))
                if now > context.due:
                    context.flush(buffer)
            except Exception as fault:
                self.failed(fault)
            return result

        return run

    def _site(self, sites: Sites, function: Any, frame: FrameType) -> tuple[Site, FrameType]:
        """The place that calls a function, and the frame of the code that does: not one of torch's that dispatches.

        Places are kept apart for each module that is running: the linear layers of a model all call in one place.
        """
        caller = frame
        while caller.f_code.co_filename in DISPATCHING and caller.f_back is not None:
            caller = caller.f_back
        place = (id(caller.f_code), caller.f_lasti)
        site = sites.get(place)
        if site is not None and site.function is function:
            return site, caller
        more = (*place, id(function))
        site = sites.get(more)
        if site is None or site.function is not function:
            site = self._new_site(function, caller)
            if self._count < MANY_SITES and lasts(function):
                self._count += 1
                sites[more if place in sites else place] = site
        return site, caller

    def _new_site(self, function: Any, frame: FrameType) -> Site:
        name = function_name(function)
        passes = name.rpartition(".")[2] in ASKING or name.startswith("torch.ops.profiler.") or is_tracing()
        code = frame.f_code
        number = 0
        if not passes:
            number = self._labels.place(name, code.co_filename, frame.f_lineno, frame.f_lasti)
        return Site(number, function, code, passes=passes)

    # what asks --------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Let torch answer as without us if a tensor is overridden: torch's fused layers ask, and take another path."""
        overrides: Any = torch.overrides
        original = overrides.has_torch_function

        def has_torch_function(relevant_args: Any) -> bool:
            if not original(relevant_args):
                return False
            mode = self._mode
            if mode is None or count_function_modes() != 1 or function_mode_at(0) is not mode:
                return True
            pop_function_mode()
            try:
                return bool(original(relevant_args))
            finally:
                push_function_mode(mode)

        self._asks = (original, has_torch_function)
        overrides.has_torch_function = has_torch_function


def _made_by(frame: FrameType, runner: int) -> bool:
    """True if a frame is that of the forward which a frame of `_call_impl`, by its id, has called."""
    back = frame.f_back
    return back is not None and (id(back) == runner or id(back.f_back) == runner)


def _arguments(context: TraceContext, buffer: ThreadBuffer, site: Site, args: tuple[Any, ...]) -> int:
    """The signature of arguments that are not like the last ones; while grad mode is off no guard sees all of it."""
    started = context.clock()
    number = context.signatures.number(arguments_key(args, vmapped=buffer.transformed > 0))
    last: Memory = site.given
    if last[2] != number:
        site.given = (never, True, number)
    elif last[0] is never and not buffer.transformed:
        site.given = (like(args), has_tensor(args), number)
    buffer.cost(len(buffer.calls) - 1, context.clock() - started)
    return number


def _keywords(context: TraceContext, buffer: ThreadBuffer, site: Site, kwargs: dict[str, Any]) -> int:
    started = context.clock()
    number = context.signatures.number(keywords_key(kwargs, vmapped=buffer.transformed > 0))
    same = like_keywords(kwargs) if site.named[1] == number and not buffer.transformed else never
    site.named = (_while_graded(same) if has_tensor(tuple(kwargs.values())) else same, number)
    buffer.cost(len(buffer.calls) - 2, context.clock() - started)
    return number


def _result(context: TraceContext, buffer: ThreadBuffer, site: Site, value: Any) -> int:
    if is_tensor(value) and not buffer.transformed:
        number = context.signatures.of_tensor(value)
        site.returned = remember(site.returned, value, number)
        return number
    started = context.clock()
    number = context.signatures.number(value_key(value, vmapped=buffer.transformed > 0))
    if type(value) is tuple and site.returned[2] == number and not buffer.transformed:
        site.returned = (_while_graded(_tuples(like(value))), False, number)
    else:
        site.returned = (never, False, number)
    buffer.cost(len(buffer.calls) - 2, context.clock() - started)
    return number


def _while_graded(alike: Check) -> Check:
    """A check of several tensors, in grad mode only: outside of it no guard sees which of them require grad."""
    grad_enabled = torch.is_grad_enabled
    return lambda value: grad_enabled() and alike(value)


def _tuples(alike: Check) -> Check:
    return lambda value: type(value) is tuple and alike(value)


def _mode_class(run: Callable[..., Any]) -> type:
    """torch looks `__torch_function__` up as a method and calls it with the mode."""
    uncounted(run)
    unseen(run)
    return type("Mode", (), {"__torch_function__": run})
