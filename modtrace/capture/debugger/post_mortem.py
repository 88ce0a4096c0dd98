"""Looks at the stack of an exception, from the program's own code inside the failing module on."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from modtrace.capture.debugger.debugger import NO_TERMINAL, hook_of_environment, say
from modtrace.capture.debugger.module_frames import failing_frame
from modtrace.capture.debugger.module_prompt import ModulePrompt, StopPoint
from modtrace.capture.debugger.prompt_signs import SIGNS
from modtrace.capture.debugger.prompt_streams import prompt_streams


def post_mortem(traceback: TracebackType, text: str) -> None:
    """Open the debugger on a traceback.

    Another debugger that `PYTHONBREAKPOINT` names is used where it has a `post_mortem` of its own.

    Args:
        traceback: of the exception.
        text: what is printed above the prompt.
    """
    streams = prompt_streams()
    if streams is None or SIGNS.is_left:
        say(f"modtrace: {NO_TERMINAL}")
        return
    SIGNS.begin()
    try:
        _look(traceback, text, streams)
    finally:
        SIGNS.end()


def _look(traceback: TracebackType, text: str, streams: tuple[Any, Any]) -> None:
    _, hook = hook_of_environment()
    module = sys.modules.get(getattr(hook, "__module__", None) or "")
    other: Any = getattr(module, "post_mortem", None) if hook is not None else None
    if other is not None:
        say(text)
        other(traceback)
        return
    ModulePrompt(streams).post_mortem(traceback, failing_frame(traceback), StopPoint(text))
