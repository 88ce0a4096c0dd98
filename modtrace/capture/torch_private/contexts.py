"""Reading tensors, and making some, out of sight of the program's subclasses and modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from modtrace.capture.torch_private import names
from modtrace.capture.torch_private.lookup import take


class _WithoutFunctions:
    """As `DisableTorchFunction`: nothing is shown to classes of tensors nor to function modes."""

    def __enter__(self) -> None:
        count = names.count_function_modes() if names.count_function_modes is not None else 0
        self._modes = [names.pop_function_mode() for _ in range(count)]
        self._inner: Any = names.without_subclasses()
        self._inner.__enter__()

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)
        for mode in reversed(self._modes):
            names.push_function_mode(mode)


class _WithoutModes:
    """As `_DisableTorchDispatch` for plain tensors: no operation is shown to dispatch modes."""

    def __enter__(self) -> None:
        count = names.count_dispatch_modes() if names.count_dispatch_modes is not None else 0
        self._modes = [names.pop_dispatch_mode(None) for _ in range(count)]

    def __exit__(self, *error: object) -> None:
        for mode in reversed(self._modes):
            names.push_dispatch_mode(mode)


without_functions: Final[Any] = take(
    "torch._C.DisableTorchFunction", lost="recording a call costs more", instead=_WithoutFunctions
)
_disable_dispatch: Final[Any] = take(
    "torch._C._DisableTorchDispatch",
    lost="what subclasses of tensors with operations of their own hold is not known",
)
READS_WRAPPERS: Final[bool] = _disable_dispatch is not None
"""True if a tensor whose class has operations of its own can be read without running them."""
without_dispatch: Final[Any] = _disable_dispatch if READS_WRAPPERS else _WithoutModes


@contextmanager
def hook_ids_from(first: int) -> Iterator[None]:
    """Hooks that are registered inside get numbers from `first` up, not from torch's own counter."""
    if names.next_hook_id is None:
        yield
        return
    owner, name = names.next_hook_id
    following = getattr(owner, name)
    try:
        setattr(owner, name, first)
        yield
    finally:
        setattr(owner, name, following)
