"""python's debugger, which knows the open module calls and the call that it has stopped at."""

from __future__ import annotations

import pdb  # noqa: T100 - what is built here
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Final

from modtrace.capture.debugger.module_frames import ModuleFrame, module_frames
from modtrace.capture.debugger.own_code import is_of_program, is_own, runs_script
from modtrace.capture.torch_private.spelled import COMPILING_MODULES
from modtrace.text import plain

SKIPPED: Final = (
    "modtrace",
    "modtrace.*",
    "torch.nn.modules.module",
    "torch.compiler",
    *COMPILING_MODULES,
)
"""Modules of Python that `step` does not stop in: they stand between a call and its forward."""
_VALUE: Final = "_modtrace_value"


@dataclass(frozen=True)
class StopPoint:
    """A place at which a prompt opens.

    text: what is printed above it.
    names: values at hand there, by the names that they can be asked for with.
    """

    text: str
    names: Mapping[str, Any] = field(default_factory=dict)


class ModulePrompt(pdb.Pdb):
    """python's debugger for one process.

    Args:
        streams: input and output; (None, None) for the usual ones.
        waiting: a context around each prompt: the program waits in it.
        released: called when the program goes on without the debugger.
    """

    def __init__(
        self,
        streams: tuple[Any, Any],
        waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        source, target = streams
        super().__init__(stdin=source, stdout=target, skip=SKIPPED, nosigint=True)
        if source is not None:
            self.use_rawinput = False
        self._waiting, self._released = waiting, released
        self._stop = StopPoint("")
        self._chosen: FrameType | None = None
        self._previous: Any = None
        self._traced: list[tuple[FrameType, Any]] = []
        self.goes_on = False
        """The program was let go."""

    # stopping -------------------------------------------------------------------------------------------------------

    def open(
        self, frame: FrameType, stop: StopPoint, chosen: FrameType | None, error: TracebackType | None = None
    ) -> Any:
        """Open a prompt in a frame that is running a trace function, and go on as is asked for there.

        Args:
            frame: the innermost frame.
            stop: what to say.
            chosen: the frame to show first; None for `frame`.
            error: an exception that is leaving the frame.

        Returns:
            The trace function for the frame from now on.

        Raises:
            bdb.BdbQuit: the program is to be ended.
        """
        installed = sys.gettrace()
        if not self._is_own_trace(installed):
            self._previous = installed
        before = frame.f_trace
        self._begin(stop, chosen)
        self.botframe = _outermost(frame)
        self.interaction(frame, error)
        if self.quitting:
            raise pdb.bdb.BdbQuit  # type: ignore[attr-defined]
        if self.goes_on:
            return None if self._is_own_trace(before) else before
        self._trace_from(frame)
        return self.trace_dispatch

    def post_mortem(self, error: TracebackType, chosen: FrameType | None, stop: StopPoint) -> None:
        """Look at the stack of an exception, beginning with one of its frames."""
        self._begin(stop, chosen)
        self.interaction(None, error)

    def _begin(self, stop: StopPoint, chosen: FrameType | None) -> None:
        self.reset()
        self._stop, self._chosen, self.goes_on = stop, chosen, False
        if stop.text:
            self.message(stop.text)

    def _is_own_trace(self, function: Any) -> bool:
        return getattr(function, "__self__", None) is self

    def _trace_from(self, frame: FrameType) -> None:
        """Go on step by step from a frame."""
        upper: FrameType | None = frame
        while upper is not None:
            if not self._is_own_trace(upper.f_trace):
                self._traced.append((upper, upper.f_trace))
            upper.f_trace = self.trace_dispatch
            upper = upper.f_back
        sys.settrace(self.trace_dispatch)

    def set_continue(self) -> None:
        """Go on to the next breakpoint: without a trace function where the person has set none in the prompt."""
        self._set_stopinfo(self.botframe, None, -1)  # type: ignore[attr-defined]
        if not self.breaks:
            self._let_go()

    def set_quit(self) -> None:
        super().set_quit()
        self._let_go()

    def _let_go(self) -> None:
        self.goes_on = True
        sys.settrace(self._previous)
        for frame, before in self._traced:
            frame.f_trace = before
        self._traced.clear()
        self._stop = StopPoint("")  # it holds tensors
        self._released()

    def stop_here(self, frame: FrameType) -> bool:
        """True if the program is to stop in a frame: one that records calls is none of its own."""
        return super().stop_here(frame) and not _is_of_tracing(frame)

    def interaction(self, frame: FrameType | None, tb_or_exc: Any) -> None:
        """Ask, until the program is to go on."""
        try:
            with self._waiting():
                super().interaction(frame, tb_or_exc)
        finally:
            self._chosen = None

    def get_stack(
        self, f: FrameType | None, t: TracebackType | None
    ) -> tuple[list[tuple[FrameType, int]], int]:
        """The stack without what runs the script, and the index of the frame to begin with."""
        stack, index = super().get_stack(f, t)
        first = 0
        while first < len(stack) - 1 and runs_script(stack[first][0].f_code.co_filename):
            first += 1
        stack, index = stack[first:], max(index - first, 0)
        for position, (frame, _) in enumerate(stack):
            if frame is self._chosen:
                index = position
        return stack, index

    # names at hand --------------------------------------------------------------------------------------------------

    def _names_in(self, text: str) -> MutableMapping[str, Any] | None:
        """Variables of the frame with the names of the stop behind them; None where the text has none of these."""
        names = {name for name in self._stop.names if re.search(rf"\b{re.escape(name)}\b", text)}
        if not names:
            return None
        frame: Any = self.curframe
        variables: Any = getattr(self, "curframe_locals", None)
        return _AtHand(frame.f_locals if variables is None else variables, self._stop.names)

    def default(self, line: str) -> None:
        """Run a statement."""
        text = line[1:].strip() if line[:1] == "!" else line
        names = self._names_in(text)
        if names is None:
            super().default(line)
            return
        saved = sys.stdin, sys.stdout, sys.displayhook
        try:
            code = compile(text + "\n", "<stdin>", "single")
            sys.stdin, sys.stdout, sys.displayhook = self.stdin, self.stdout, self.displayhook
            exec(code, self._globals(), names)  # noqa: S102 - what a person has typed
        except BaseException as error:
            self._say_error(error)
        finally:
            sys.stdin, sys.stdout, sys.displayhook = saved

    def _getval(self, arg: str) -> Any:
        names = self._names_in(arg)
        if names is None:
            return super()._getval(arg)
        try:
            code = compile(f"{_VALUE} = ({arg}\n)", "<stdin>", "exec")
            exec(code, self._globals(), names)  # noqa: S102 - what a person has typed
        except BaseException as error:
            self._say_error(error)
            raise
        return names[_VALUE]

    def _globals(self) -> dict[str, Any]:
        frame: Any = self.curframe
        variables: dict[str, Any] = frame.f_globals
        return variables

    def _say_error(self, error: BaseException) -> None:
        self.error(traceback.format_exception_only(error)[-1].strip())

    # commands -------------------------------------------------------------------------------------------------------

    def do_mup(self, arg: str) -> None:
        """mup [count]
        Go to the forward of the module around, or several modules up.
        """
        self._go(arg, -1)

    def do_mdown(self, arg: str) -> None:
        """mdown [count]
        Go to the forward of the module inside, or several modules down.
        """
        self._go(arg, 1)

    def do_mtree(self, arg: str) -> None:
        """mtree
        Show the module calls that are open, the current one marked, with what each was given.
        """
        calls = self._module_frames()
        if not calls:
            self.message("no module call is open here")
        current = self._current(calls)
        for depth, call in enumerate(calls):
            mark = "->" if depth == current else "  "
            name = f"{call.name} ({call.type})" if call.name else call.type
            self.message(plain(f"{mark} {'  ' * depth}{name}  {call.inputs}"))

    def _module_frames(self) -> list[ModuleFrame]:
        return module_frames([frame for frame, _ in self.stack])

    def _current(self, calls: list[ModuleFrame]) -> int:
        """The innermost module call around the current frame; -1 for none."""
        return max((depth for depth, call in enumerate(calls) if call.index <= self.curindex), default=-1)

    def _go(self, arg: str, direction: int) -> None:
        calls = self._module_frames()
        if arg and not arg.isdigit():
            self.error(f"{plain(arg, 20)} is no number")
            return
        current = self._current(calls)
        if direction < 0 and current >= 0 and calls[current].index < self.curindex:
            current += 1  # a function that the forward has called: up is the forward itself
        target = current + direction * (int(arg) if arg else 1)
        if not 0 <= target < len(calls):
            self.error("Outermost module" if direction < 0 else "Innermost module")
            return
        self._select_frame(calls[target].index)


class _AtHand(MutableMapping[str, Any]):
    """Variables of a frame, and behind them names that are no variables of it. What is assigned goes to the frame."""

    def __init__(self, variables: Any, names: Mapping[str, Any]) -> None:
        self._variables, self._names = variables, names
        self._values: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        for names in (self._values, self._variables, self._names):
            if key in names:
                return names[key]
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _VALUE:
            self._values[key] = value
        else:
            self._variables[key] = value

    def __delitem__(self, key: str) -> None:
        del self._variables[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._names, **self._variables})

    def __len__(self) -> int:
        return len({**self._names, **self._variables})


def _is_of_tracing(frame: FrameType) -> bool:
    """True if code of ours has called what a frame runs, or a frame above it, below the program's own code."""
    upper: FrameType | None = frame
    while upper is not None:
        file = upper.f_code.co_filename
        if is_own(file):
            return True
        if is_of_program(file):
            return False
        upper = upper.f_back
    return False


def _outermost(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame
