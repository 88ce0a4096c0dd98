"""Takes a mode of ours off the stacks that torch keeps of them, wherever it stands there."""

from __future__ import annotations

from typing import Any

import torch


def stands(mode: Any) -> bool:
    """Whether a mode is among the function modes of this thread."""
    core: Any = torch._C
    return any(core._get_function_stack_at(at) is mode for at in range(core._len_torch_function_stack()))


def take_out_function_mode(mode: Any) -> None:
    """Take a mode off this thread's function modes; those above it go back."""
    if not stands(mode):
        return
    core: Any = torch._C
    above: list[Any] = []
    while (top := core._pop_torch_function_stack()) is not mode:
        above.append(top)
    for one in reversed(above):
        core._push_on_torch_function_stack(one)


def take_out_dispatch_mode(mode: Any) -> None:
    """Take a mode off this thread's dispatch modes; those above it go back."""
    core: Any = torch._C
    if not any(core._get_dispatch_stack_at(at) is mode for at in range(core._len_torch_dispatch_stack())):
        return
    above: list[Any] = []
    while (top := core._pop_torch_dispatch_stack(None)) is not mode:
        above.append(top)
    for one in reversed(above):
        core._push_on_torch_dispatch_stack(one)
