"""The pair of hooks in torch's global tables: put there, hidden while torch compiles, taken away without a trace."""

from __future__ import annotations

from itertools import count
from typing import Any, Final

import torch
from torch.utils.hooks import RemovableHandle

from modtrace.capture.torch_private.contexts import hook_ids_from
from modtrace.capture.torch_private.names import (
    asks_for_hooks,
    global_hooks,
    global_hooks_with_kwargs,
    global_pre_hooks,
)
from modtrace.capture.torch_private.spelled import GLOBAL_HOOKS

_PAIRS = count()
_PLACED: Final[set[PlacedHooks]] = set()
_ORIGINAL: Final[list[Any]] = []
"""The function by which torch asks for global hooks, while it is replaced: it warns of them where a compiled module is
called.
"""


class PlacedHooks:
    """One pair of hooks."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._held: list[tuple[RemovableHandle, Any, Any]] = []
        self._last = False

    def place(self, pre: Any, post: Any) -> None:
        """Put the pair in torch's global tables, under ids below zero: torch counts ids up from 0, and a checkpoint
        that holds a user's hooks holds their ids.
        """
        modules = torch.nn.modules.module
        with hook_ids_from(-2 - 2 * next(_PAIRS)):
            self._last = bool(global_pre_hooks or global_hooks)
            first = modules.register_module_forward_pre_hook(pre)
            second = modules.register_module_forward_hook(post, with_kwargs=True, always_call=True)
            self._handles += [first, second]
            self._held = [(first, pre, global_pre_hooks), (second, post, global_hooks)]
        _PLACED.add(self)
        if asks_for_hooks is not None and not _ORIGINAL:
            owner, name = asks_for_hooks
            _ORIGINAL.append(getattr(owner, name))
            setattr(owner, name, _has_hooks_of_the_program)

    def hide(self) -> None:
        """Take the hooks out of torch's tables for a while."""
        for handle, _, table in self._held:
            if table is not None:
                table.pop(handle.id, None)

    def show(self) -> None:
        """Put them back, before those of the user as they were."""
        for handle, hook, table in self._held:
            if table is not None and handle in self._handles:
                table[handle.id] = hook
                table.move_to_end(handle.id, last=self._last)

    def remove(self) -> None:
        """Take the hooks away; does nothing the second time."""
        for handle in self._handles:
            handle.remove()
            global_hooks_with_kwargs.pop(handle.id, None)  # torch 2.13 leaves it there
        self._handles.clear()
        _PLACED.discard(self)
        if asks_for_hooks is not None and _ORIGINAL and not _PLACED:
            owner, name = asks_for_hooks
            original = _ORIGINAL.pop()
            if getattr(owner, name, None) is _has_hooks_of_the_program:
                setattr(owner, name, original)


def _has_hooks_of_the_program() -> bool:
    """True if there is any global hook that is not ours."""
    tables = [getattr(torch.nn.modules.module, name, None) for name in GLOBAL_HOOKS]
    return any(key >= 0 for table in tables if table for key in table)
