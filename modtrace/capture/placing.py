"""The pair of hooks in torch's global tables: put there, hidden while torch compiles, taken away without a trace."""

from __future__ import annotations

import re
import warnings
from itertools import count
from typing import Any, Final

import torch
from torch.utils.hooks import RemovableHandle

from modtrace.capture.torch_private.contexts import hook_ids_from
from modtrace.capture.torch_private.names import global_hooks, global_hooks_with_kwargs, global_pre_hooks

_PAIRS = count()
_COMPILED_WARNING: Final = "Using `torch.compile(module)` when there are global hooks"


class PlacedHooks:
    """One pair of hooks."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._held: list[tuple[RemovableHandle, Any, Any]] = []
        self._last = False
        self._silenced: tuple[list[Any], Any] | None = None

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
        filters: list[Any] = warnings.filters  # type: ignore[assignment]
        self._silenced = (filters, ("ignore", re.compile(re.escape(_COMPILED_WARNING)), UserWarning, None, 0))
        # Not by filterwarnings(): that would let printed warnings print again.
        filters.insert(0, self._silenced[1])

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
        if self._silenced is not None:
            held, entry = self._silenced
            now: Any = warnings.filters
            for filters in (held, now):
                if entry in filters:
                    filters.remove(entry)
