"""Takes a mode of ours off the stacks that torch keeps of them, wherever it stands there."""

from __future__ import annotations

from typing import Any

from modtrace.capture.torch_private import names


def stands(mode: Any) -> bool:
    """True if a mode is among the function modes of this thread."""
    return any(names.function_mode_at(position) is mode for position in range(names.count_function_modes()))


def take_out_function_mode(mode: Any) -> bool:
    """Take a mode off this thread's function modes; those above it go back. False if it is not among them."""
    if not stands(mode):
        return False
    above: list[Any] = []
    while (top := names.pop_function_mode()) is not mode:
        above.append(top)
    for other in reversed(above):
        names.push_function_mode(other)
    return True


def take_out_dispatch_mode(mode: Any) -> bool:
    """Take a mode off this thread's dispatch modes; those above it go back. False if it is not among them."""
    if not any(names.dispatch_mode_at(position) is mode for position in range(names.count_dispatch_modes())):
        return False
    above: list[Any] = []
    while (top := names.pop_dispatch_mode(None)) is not mode:
        above.append(top)
    for other in reversed(above):
        names.push_dispatch_mode(other)
    return True
