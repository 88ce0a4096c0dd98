"""The carrier that stands in for `Module.__call__`: it opens a call before the original runs, and closes it behind.

Only a Python function is between who calls a module and torch, so it sees every way that a call can end, the module's
own hooks run inside of it, and torch, which asks for hooks before it takes its fast paths, finds none. Where nothing
else has replaced `Module.__call__`, the function does itself what that does, and looks like it in tracebacks: a call
has as many frames as without a trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import torch

from modtrace.capture.engine import stand_ins
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.costs import cost_of_replaced_calls
from modtrace.capture.engine.decode import Costs
from modtrace.capture.engine.disguise import disguised
from modtrace.capture.engine.dynamo_skip import see_through
from modtrace.capture.engine.events import Halt
from modtrace.capture.engine.imports import AfterImport
from modtrace.capture.engine.module_calls import (
    RUNNERS,
    argument_signature,
    arguments_signature,
    begin,
    close_inside,
    enter,
    keywords_signature,
    leave_call,
    result_signature,
    returned,
    root_mode,
)
from modtrace.capture.engine.tensor_guards import grad_differs
from modtrace.capture.engine.thread_buffer import OpenCall
from modtrace.capture.torch_private import names
from modtrace.capture.torch_private.spelled import INITIALIZE, PLAIN_NAMES
from modtrace.trace.schema import MODULE

Call = Callable[..., Any]
_CALL: Final = "__call__"
_PARENT: Final = 4
"""Frames from the one that opens a call up to that of the call around it, where its forward makes the call."""
REPLACED: Final = (
    "the program replaced Module.__call__ while it was recorded and has not put it back; what stands there calls on "
    "through a function of modtrace, which does nothing any more"
)


class Switch:
    """Switches of a replacement, which it reads in each call.

    original: what it calls.
    direct: `original` is torch's own, and known, so the replacement does itself what that does.
    recording: calls are recorded.
    """

    __slots__ = ("direct", "original", "recording")

    def __init__(self, original: Call) -> None:
        self.recording = True
        self.aim(original)

    def aim(self, original: Call) -> None:
        """Call another one from now on."""
        self.original = original
        self.direct = original is names.plain_call and original.__code__.co_names == PLAIN_NAMES


def replacement(context: TraceContext, switch: Switch) -> Call:
    """A function to be `Module.__call__`."""
    call: Any = _replacement(context, switch)
    if names.plain_call is not None:
        call.__code__ = disguised(call.__code__, names.plain_call.__code__)
        for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(call, name, getattr(names.plain_call, name))
    see_through(call)
    RUNNERS[id(call.__code__)] = call.__code__
    typed: Call = call
    return typed


def _replacement(context: TraceContext, switch: Switch) -> Call:
    """Everything that the three functions of a call touch is bound as a local: a global attribute costs 20 ns."""
    is_dynamo_compiling, frame_callback = torch.compiler.is_dynamo_compiling, names.frame_callback
    clock, open_call, close_call = context.clock, _opening(context, switch), _closing(context, switch)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return switch.original(self, *args, **kwargs)
        opened = None
        if switch.recording:
            opened = open_call(self, args, kwargs)
        else:
            heal(switch)
        through = True
        try:
            if switch.direct and self._compiled_call_impl is None and frame_callback() is None:
                through = False
                result = self._call_impl(*args, **kwargs)
            else:
                result = switch.original(self, *args, **kwargs)
        except BaseException:
            leave(context, opened, kwargs, through=through)
            raise
        if opened is not None:
            close_call(opened, self, args, kwargs, result, clock())
        return result

    return call


def _opening(  # noqa: C901, PLR0915 - the hot path
    context: TraceContext, switch: Switch
) -> Callable[[Any, Any, Any], OpenCall | None]:
    """A function that opens a call: called by the frame that runs it. None for one that is not recorded."""
    get_frame, parent, grad_enabled = sys._getframe, _PARENT, torch.is_grad_enabled
    buffers, clock, next_node = context.buffers, context.clock, context.next_node
    entry_of, empty, events = context.registry.entries.get, context.signatures.empty, context.events

    def open_call(module: Any, args: Any, kwargs: Any) -> OpenCall | None:  # noqa: C901, PLR0912, PLR0915
        if context.off:
            return None
        try:
            buffer = buffers.current
            calls = buffer.calls
            frame_id = id(get_frame(1))
            mode = 0
            try:
                inside = calls and id(get_frame(parent)) == calls[-1][0] and calls[-1][2].kind == MODULE
            except ValueError:  # the stack is not as deep as that
                inside = False
            # Called from the forward of the innermost open call: nothing in between can have changed the mode.
            if not inside:
                mode = begin(context, buffer, module, get_frame(1).f_back)
                if mode < 0:
                    return None
            entry = entry_of(id(module))
            if entry is None:
                entry = enter(context, buffer, module, get_frame(1))
            if len(args) == 1:
                only = args[0]
                alike, requires_grad, args_sig = entry.given
                if not alike(only) or (not grad_enabled() and grad_differs(only, requires_grad)):
                    args_sig = argument_signature(context, buffer, entry, args)
            elif args:
                alike, _, args_sig = entry.args
                if not alike(args):
                    args_sig = arguments_signature(context, buffer, entry, args)
            else:
                args_sig = empty
            if mode:
                if kwargs:
                    entry.has_keywords = True
                args_sig |= root_mode(context, buffer, module, entry, args_sig, mode, get_frame(1))
            number = buffer.next_call()
            for began in events.call_began:
                began(buffer, number, args_sig, entry.number, module, args, get_frame(1))
            opened: OpenCall = (frame_id, number, entry, args_sig, clock(), next_node())
            calls.append(opened)
        except RecursionError:
            events.missed += 1
            return None
        except Halt as halt:
            raise halt.error from None
        except Exception as fault:
            context.fault(fault)
            return None
        return opened

    return open_call


def _closing(context: TraceContext, switch: Switch) -> Callable[[OpenCall, Any, Any, Any, Any, int], None]:
    """A function that closes a call that has returned."""
    buffers, next_node = context.buffers, context.next_node
    grad_enabled, events = torch.is_grad_enabled, context.events

    def close_call(opened: OpenCall, module: Any, args: Any, kwargs: Any, result: Any, now: int) -> None:
        if context.off or not switch.recording:
            context.take_out_left()
            return
        try:
            buffer = buffers.current
            calls = buffer.calls
            if (not calls or calls[-1] is not opened) and not close_inside(buffer, opened):
                return
            _, number, entry, args_sig, start, node = opened
            alike, requires_grad, output = entry.returned
            if not alike(result) or (not grad_enabled() and grad_differs(result, requires_grad)):
                output, requires_grad = result_signature(context, buffer, entry, result)
            named = keywords_signature(context, buffer, entry, kwargs) if kwargs else 0
            for ended in events.call_ended:
                ended(buffer, number, entry.number, named, output, module, args, kwargs, result)
            buffer.extend((number, entry.number, args_sig, len(calls) - 1, start, named, output, now))
            if requires_grad:
                grown = next_node()
                if grown > node:
                    buffer.grew((grown, node, number, entry.number, len(calls) - 1))
            calls.pop()
            if buffer.transformed or (buffer.awaited and buffer.awaited[-1][0] >= len(calls)):
                returned(context, buffer, number)
            if now > context.due:
                context.flush(buffer)
        except RecursionError:  # closed without times with the call around it
            events.missed += 1
        except Halt as halt:
            raise halt.error from None
        except Exception as fault:
            context.fault(fault)

    return close_call


def leave(context: TraceContext, opened: OpenCall | None, kwargs: Any, *, through: bool) -> None:
    """An exception leaves a call, which is in `sys.exc_info()`.

    Args:
        context: that of the trace.
        opened: the call; None for one that is not recorded.
        kwargs: its keyword arguments.
        through: the original was called, so its frame is in the traceback too.
    """
    error = sys.exc_info()[1]
    if error is None:
        return
    try:
        traceback = error.__traceback__
        if through and traceback is not None and traceback.tb_next is not None:
            BaseException.with_traceback(error, traceback.tb_next)
        if opened is None or context.off:
            return
        now = context.clock()
        buffer = context.buffers.current
        if (buffer.calls and buffer.calls[-1] is opened) or close_inside(buffer, opened):
            leave_call(context, buffer, error, kwargs, now)
    except RecursionError:
        context.events.missed += 1
    except Exception as fault:
        context.fault(fault)


# where it stands ----------------------------------------------------------------------------------------------------


class CallCarrier:
    """Puts one replacement in the place of `Module.__call__`, and takes it away.

    Replacements of several traces stand over one another; each calls on to the next one below it that is shown.
    """

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self.gaps: list[str] = []
        self._compiler = AfterImport(names.COMPILER_COUNTERS, self._correct_compiler)
        self._compiled_modules = AfterImport(names.COMPILED_MODULES, self._replace_initialize)
        self._initialize: tuple[Any, Any, Any] | None = None
        self._level: _Level | None = None
        self._switch = Switch(vars(torch.nn.Module)[_CALL])
        self._call = replacement(context, self._switch)
        context.registry.call_code = self._call.__code__
        context.deep = (
            True  # nothing is to be said of deep calls: they take no more frames than without a trace
        )

    def costs(self, clock: Callable[[], int]) -> Costs:
        """Cost of recording a call."""
        return cost_of_replaced_calls(lambda context: replacement(context, Switch(names.plain_call)), clock)

    def start(self) -> None:
        """Begin."""
        below, call = vars(torch.nn.Module)[_CALL], self._call
        self._switch.aim(below)
        self._level = _Level(call, below, self._switch)
        _LEVELS.append(self._level)
        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        self._compiler.install()
        self._compiled_modules.install()

    def hide(self) -> None:
        """Take it out of the way while torch compiles. Calls that are open are closed all the same."""
        if self._level is not None and self._level.shown:
            self._level.hidden = True
            _show(self._level, shown=False)

    def show(self) -> None:
        """Put it back."""
        if self._level is not None and self._level.hidden:
            self._level.hidden = False
            _show(self._level, shown=True)

    def remove(self) -> None:
        """End; does nothing the second time."""
        level, self._level = self._level, None
        self._compiler.remove()
        self._compiled_modules.remove()
        if self._initialize is not None:
            owner, original, replaced = self._initialize
            if vars(owner).get(INITIALIZE) is replaced:
                setattr(owner, INITIALIZE, original)
            self._initialize = None
        if level is not None:
            level.switch.recording = level.hidden = False
            if not _show(level, shown=False):
                self.gaps.append(REPLACED)
            while _LEVELS and vars(torch.nn.Module)[_CALL] is _bottom(_LEVELS[-1]):
                _LEVELS.pop()

    def _correct_compiler(self) -> None:
        """torch's compiler has just noted what `Module.__call__` is: that is what it is without a trace."""
        noted = names.compiler_call()
        level = _level_of(noted)
        if level is not None:
            setattr(sys.modules[names.COMPILER_COUNTERS], names.COMPILER_CALL, _bottom(level))

    def _replace_initialize(self) -> None:
        """Let compiled modules hold torch's own `__call__`: what `torch.compile` makes holds it for ever."""
        place = names.compiled_module()
        if place is None:
            return
        owner, original = place, vars(place)[INITIALIZE]

        def _initialize(module: Any) -> Any:
            self.hide()
            try:
                return original(module)
            except BaseException as error:
                stand_ins.leave(error)
                raise
            finally:
                self.show()

        stand_ins.uncounted(_initialize)
        see_through(_initialize)
        self._initialize = owner, original, _initialize
        setattr(owner, INITIALIZE, _initialize)


class _Level:
    """A replacement that was placed, and what it was placed over.

    shown: it is called. hidden: it will be shown again.
    """

    def __init__(self, call: Call, below: Call, switch: Switch) -> None:
        self.call = call
        self.below = below
        self.switch = switch
        self.shown = True
        self.hidden = False


_LEVELS: Final[list[_Level]] = []
"""From the lowest up. One whose trace is over stays as long as anything may stand over it."""


def _level_of(call: Any) -> _Level | None:
    return next((level for level in _LEVELS if level.call is call), None)


def _visible(call: Call) -> Call:
    """The function to be called where `call` was: that itself, or what is below a replacement that is not shown."""
    level = _level_of(call)
    while level is not None and not level.shown:
        call, level = level.below, _level_of(level.below)
    return call


def _bottom(level: _Level) -> Call:
    """The function that the program has in the place of `Module.__call__` below all replacements."""
    below = _level_of(level.below)
    return level.below if below is None else _bottom(below)


def _show(level: _Level, *, shown: bool) -> bool:
    """Show or hide a replacement. False where something of the program's stands over it, which is left there."""
    top = _LEVELS[-1].call
    reachable = vars(torch.nn.Module)[_CALL] is _visible(top)
    level.shown = shown
    for other in _LEVELS:
        other.switch.aim(_visible(other.below))
    if reachable:
        torch.nn.Module.__call__ = _visible(top)  # type: ignore[method-assign]
    return reachable


def heal(switch: Switch) -> None:
    """Take a replacement away whose trace is over, where the program has put it back since."""
    call = vars(torch.nn.Module)[_CALL]
    level = _level_of(call)
    if level is not None and level.switch is switch:
        torch.nn.Module.__call__ = _visible(call)  # type: ignore[method-assign]
