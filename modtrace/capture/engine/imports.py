"""Does something right after a module has been imported, without importing it and without leaving a mark on it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

_ARROW_ALLOCATOR: Final = "JE_ARROW_MALLOC_CONF"


@contextlib.contextmanager
def without_arrow_thread() -> Iterator[None]:
    """Import pyarrow in here: its allocator starts no thread then, and the program stays one of as many threads."""
    before = os.environ.get(_ARROW_ALLOCATOR)
    if before is None and "pyarrow" not in sys.modules:
        os.environ[_ARROW_ALLOCATOR] = "background_thread:false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_ARROW_ALLOCATOR, None)


class AfterImport:
    """A finder at the head of `sys.meta_path` that lets the others find one module, and calls `action` when its code
    has run. It then takes itself away. A module that is loaded already counts as just imported.
    """

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        self._name = name
        self._action = action

    def install(self) -> None:
        """Start to wait."""
        if self._name in sys.modules:
            self._action()
        else:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Stop to wait; does nothing the second time."""
        while self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        for finder in list(sys.meta_path):
            find: Any = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if finder is not self and find is not None else None
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec, self)
                return spec  # type: ignore[no-any-return]
        return None

    def loaded(self) -> None:
        """The module's code has run."""
        self.remove()
        self._action()


class _Loader:
    """The real loader, for one import: puts itself back into the spec before the module's code can see it."""

    def __init__(self, spec: ModuleSpec, waiting: AfterImport) -> None:
        self._spec = spec
        self._real: Any = spec.loader
        self._waiting = waiting

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        make = getattr(self._real, "create_module", None)
        return make(spec) if make is not None else None

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        self._waiting.loaded()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
