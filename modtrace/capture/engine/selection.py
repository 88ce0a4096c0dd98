"""Selection of the root calls that a trace of one model keeps."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Container
from typing import Any, Final

import torch

from modtrace.capture.engine.modules import Registry
from modtrace.capture.engine.variables import Variables

MANY_REFUSED: Final = 10_000


class Selection:
    """Tells whether a module is in the tree of the traced model, which may grow while it is traced.

    Args:
        model: the traced model.
        known: identities of modules that the trace has seen and that are alive.
    """

    def __init__(self, model: torch.nn.Module, known: Container[int]) -> None:
        self._model = weakref.ref(model)
        self._known = known
        self._selected: set[int] = set()
        self._refused: dict[int, Any] = {}

    def enter(self, registry: Registry) -> None:
        """Give the modules of the model, while it lives, their numbers."""
        model = self._model()
        if model is not None:
            frame = sys._getframe(1)
            registry.root_entry(model, variable=lambda: Variables().of(model, frame))

    def __call__(self, module: torch.nn.Module) -> bool:
        if id(module) in self._selected and id(module) in self._known:
            return True
        if id(module) in self._refused:
            return False
        model = self._model()
        if model is not None:
            self._selected = set(map(id, model.modules()))
        if id(module) in self._selected:
            return True
        if len(self._refused) > MANY_REFUSED:
            self._refused.clear()
        key = id(module)
        self._refused[key] = weakref.ref(module, lambda _: self._refused.pop(key, None))
        return False
