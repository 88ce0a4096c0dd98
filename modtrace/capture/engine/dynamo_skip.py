"""Keeps torch's compiler away from the frames of the recorder.

Inside a region that `torch.compile` could not compile whole it looks at every Python frame that runs, and would compile
the recorder's too. It can be told of single functions to let them be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modtrace.capture.torch_private.names import frame_action, frame_strategy, set_code_strategy


def _mark(function: Callable[..., Any], *, below: bool) -> None:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or None in (set_code_strategy, frame_action, frame_strategy):
        return
    below_it = frame_action.SKIP if below else frame_action.DEFAULT
    set_code_strategy(code, frame_strategy(frame_action.SKIP, below_it))


def unseen(*functions: Callable[..., Any]) -> None:
    """The compiler does not look at these functions nor at what they call."""
    for function in functions:
        _mark(function, below=True)


def see_through(function: Callable[..., Any]) -> None:
    """The compiler does not look at this function, but does at what it calls: torch's own, which it stands for."""
    _mark(function, below=False)
