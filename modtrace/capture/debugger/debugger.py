"""Opens a debugger in a frame of the program: at the first line of a forward, or where a call has come back.

A trace function of Python waits for that frame, on its thread alone, and gives way to the one that was there before.
`PYTHONBREAKPOINT` says which debugger: python's own, which knows modules here, or another.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from modtrace.capture.debugger.module_frames import code_of
from modtrace.capture.debugger.module_prompt import ModulePrompt, StopPoint
from modtrace.capture.debugger.own_code import is_of_program, is_own
from modtrace.capture.debugger.prompt_signs import SIGNS
from modtrace.capture.debugger.prompt_streams import prompt_streams

if TYPE_CHECKING:
    from modtrace.capture.engine.context import TraceContext

_VARIABLE: Final = "PYTHONBREAKPOINT"
NO_TERMINAL: Final = "there is no terminal to ask at: nothing stops"
LEFT: Final = "nobody looks at this run any more: nothing stops"
Hook = Callable[..., Any]


def hook_of_environment() -> tuple[bool, Hook | None]:
    """True if breakpoints stop at all, and the debugger that is asked for; None for python's."""
    name = os.environ.get(_VARIABLE, "")
    if name == "0":
        return False, None
    if name in ("", "pdb.set_trace"):
        return True, None
    module, _, function = name.rpartition(".")
    try:
        return True, getattr(importlib.import_module(module or "builtins"), function)
    except (ImportError, AttributeError, ValueError):
        warnings.warn(f'Ignoring unimportable ${_VARIABLE}: "{name}"', RuntimeWarning, stacklevel=2)
        return False, None


class Debugger:
    """The debugger of one process.

    Args:
        contexts: of the traces that are recorded: their clocks stand still at a prompt.
    """

    def __init__(self, contexts: Sequence[TraceContext] = ()) -> None:
        self._contexts = tuple(contexts)
        self.stops, self._hook = hook_of_environment()
        self._prompt: ModulePrompt | None = None
        self._lock = threading.RLock()
        self._since: dict[int, int] = {}
        """By thread, when it stopped first since it went on last."""

    # where ----------------------------------------------------------------------------------------------------------

    def before_forward(self, module: Any, stop: StopPoint) -> ForwardWait | None:
        """Stop at the first line of the forward that is about to run on this thread; None where it is no Python."""
        code = code_of(module)
        if code is None or not self._can_ask():
            return None
        wait = ForwardWait(self, code, module, stop)
        sys.settrace(wait.trace)
        return wait

    def after_call(self, stop: StopPoint) -> None:
        """Stop in the caller of the module call that is about to come back, or to raise, on this thread."""
        caller = caller_of(sys._getframe(1))
        if caller is not None and self._can_ask():
            CallerWait(self, caller, stop).install()

    def now(self, frame: FrameType, stop: StopPoint) -> None:
        """Stop in a frame at its next line."""
        if self._can_ask():
            CallerWait(self, frame, stop).install()

    @property
    def uses_other(self) -> bool:
        """True if another debugger than python's is asked for."""
        return self._hook is not None

    def _can_ask(self) -> bool:
        """True if a person can be asked; says so once where none can."""
        if not self.stops:
            return False
        if SIGNS.is_left:
            self.stops = False
            warnings.warn(f"modtrace: {LEFT}", RuntimeWarning, stacklevel=2)
            return False
        if self._hook is not None or self._prompt is not None:
            return True
        streams = prompt_streams()
        if streams is None:
            self.stops = False
            warnings.warn(f"modtrace: {NO_TERMINAL}", RuntimeWarning, stacklevel=2)
            return False
        self._prompt = ModulePrompt(streams, self.waiting, self._released)
        return True

    # the prompt -----------------------------------------------------------------------------------------------------

    def open(
        self,
        frame: FrameType,
        stop: StopPoint,
        previous: Any,
        *,
        chosen: FrameType,
        error: TracebackType | None = None,
    ) -> Any:
        """Open the debugger in a frame that runs a trace function; the trace function of the frame from now on.

        Args:
            frame: where.
            stop: what to say.
            previous: the trace function of the thread.
            chosen: the frame to show first: it or one above it.
            error: an exception that is leaving the frame.
        """
        sys.settrace(previous)
        self._since.setdefault(threading.get_ident(), self._moments())
        SIGNS.begin()
        if self._hook is not None:
            return self._open_other(frame, stop)
        with self._lock:
            prompt = self._prompt
            if prompt is None:
                return None
            return prompt.open(frame, stop, chosen, error)

    def _open_other(self, frame: FrameType, stop: StopPoint) -> Any:
        hook = self._hook
        if hook is None:
            return None
        say(stop.text)
        try:
            takes_frame = "frame" in inspect.signature(hook).parameters
        except (TypeError, ValueError):
            takes_frame = False
        with self.waiting():
            hook(frame=frame) if takes_frame else hook()
        self._released()
        return frame.f_trace or sys.gettrace()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A person is asked inside: nothing of this is recorded, and no time passes in the traces."""
        buffers = [context.buffers.current for context in self._contexts]
        for context, buffer in zip(self._contexts, buffers, strict=True):
            context.pauses.begin()
            buffer.paused = True
        try:
            yield
        finally:
            for context, buffer in zip(self._contexts, buffers, strict=True):
                buffer.paused = False
                context.pauses.end()

    def _moments(self) -> int:
        return len(self._contexts) and self._contexts[0].clock()

    def _released(self) -> None:
        """The thread goes on: the steps since it stopped have been disturbed."""
        SIGNS.end()
        since = self._since.pop(threading.get_ident(), None)
        if since is not None:
            for context in self._contexts:
                context.pauses.disturbed(since - context.origin_ns, context.clock() - context.origin_ns)


class ForwardWait:
    """Waits for the frame of a forward, and stops at its first line.

    is_over: it has stopped there, or was called off.
    """

    def __init__(self, debugger: Debugger, code: CodeType, module: Any, stop: StopPoint) -> None:
        self._debugger, self._code, self._module, self._stop = debugger, code, module, stop
        self._previous = sys.gettrace()
        self._local: Any = None
        self._thread = threading.get_ident()
        self.is_over = False

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """The trace function of the thread."""
        if event == "call" and not self.is_over and frame.f_code is self._code and self._is_of_module(frame):
            if self._debugger.uses_other:
                self.is_over = True
                return self._debugger.open(frame, self._stop, self._previous, chosen=frame)
            self._local = _traced(self._previous, frame, event, arg)
            return self._first_line
        return _traced(self._previous, frame, event, arg)

    def _is_of_module(self, frame: FrameType) -> bool:
        code = frame.f_code
        names = code.co_varnames[: max(code.co_argcount, 1)]
        variables = frame.f_locals
        return not names or names[0] not in ("self", "module") or variables.get(names[0]) is self._module

    def _first_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event != "line":
            return self._first_line
        self.is_over = True
        frame.f_trace = self._local
        return self._debugger.open(frame, self._stop, self._previous, chosen=frame)

    def call_off(self) -> None:
        """Wait no more."""
        if not self.is_over and threading.get_ident() == self._thread:
            self.is_over = True
            if getattr(sys.gettrace(), "__self__", None) is self:
                sys.settrace(self._previous)


class CallerWait:
    """Stops in a frame as soon as it goes on: before its next instruction, or where an exception comes to it."""

    def __init__(self, debugger: Debugger, frame: FrameType, stop: StopPoint) -> None:
        self._debugger, self._frame, self._stop = debugger, frame, stop
        self._previous = sys.gettrace()
        self._before, self._opcodes = frame.f_trace, frame.f_trace_opcodes

    def install(self) -> None:
        """Begin to wait."""
        self._frame.f_trace_opcodes = True
        self._frame.f_trace = self._resumed
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        return _traced(self._previous, frame, event, arg)

    def _resumed(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame is not self._frame:
            return None
        frame.f_trace, frame.f_trace_opcodes = self._before, self._opcodes
        error = arg[2] if event == "exception" else None
        chosen = _nearest_of_program(frame)
        return self._debugger.open(frame, self._stop, self._previous, chosen=chosen, error=error)


def _traced(function: Any, frame: FrameType, event: str, arg: Any) -> Any:
    """Let the trace function that was there before see an event."""
    return function(frame, event, arg) if function is not None else None


def say(text: str) -> None:
    """A line on stderr as it is now; nothing where the program has closed it, or replaced it by something else."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except Exception:  # of the program's own stream, too
        pass


def caller_of(frame: FrameType | None) -> FrameType | None:
    """The frame that has called the module whose call runs a frame: above ours and torch's calling of modules."""
    from modtrace.capture.torch_private.names import CALL_CODE

    while frame is not None:
        file = frame.f_code.co_filename
        if file != CALL_CODE.co_filename and not is_own(file):
            return frame
        frame = frame.f_back
    return None


def _nearest_of_program(frame: FrameType) -> FrameType:
    """A frame, or the next one above it of the program's own code where it is torch's that calls modules."""
    upper: FrameType | None = frame
    while upper is not None:
        if is_of_program(upper.f_code.co_filename):
            return upper
        upper = upper.f_back
    return frame
