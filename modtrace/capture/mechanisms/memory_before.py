"""Memory of modules and optimizers at a moment, and when it has been freed.

The profiler says nothing of the release of host memory that was allocated before it began. A weak reference to a
storage keeps nothing alive and says whether its memory is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from modtrace.capture.engine.module_facts import raw
from modtrace.capture.mechanisms.allocations import EarlierAllocation
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import forget_storage, storage_is_gone, weak_storage
from modtrace.capture.torch_private.spelled import BUFFERS, PARAMETERS
from modtrace.trace.schema import BUFFER, GRADIENT, OPTIMIZER_STATE, PARAMETER


class MemoryBefore:
    """Memory that was held when watching began."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: list[EarlierAllocation] = []
        self._freed: dict[int, int] = {}
        self._watched: list[tuple[int, int]] = []

    def begin(self, tensors: Iterable[tuple[Any, int]]) -> None:
        """Note tensors, each with its category; of those with one storage the first counts."""
        self.end()
        addresses = set()
        for tensor, category in tensors:
            address = address_of(tensor)
            if address and address not in addresses:
                addresses.add(address)
                size_bytes, device = place_of(tensor)
                reference = _weak(tensor)
                if reference:
                    self._watched.append((len(self._known), reference))
                self._known.append(EarlierAllocation(size_bytes, category, address, device))

    def poll(self) -> None:
        """Note what has been freed."""
        if not self._watched:
            return
        now = self._clock()
        alive = []
        for row, reference in self._watched:
            if storage_is_gone(reference):
                self._freed[row] = now
                forget_storage(reference)
            else:
                alive.append((row, reference))
        self._watched = alive

    @property
    def rows(self) -> list[EarlierAllocation]:
        """Allocations that were held, with when each was seen to be freed."""
        self.poll()
        return [tensor._replace(freed_ns=self._freed.get(row)) for row, tensor in enumerate(self._known)]

    def end(self) -> None:
        """Forget everything."""
        for _, reference in self._watched:
            forget_storage(reference)
        self._known, self._freed, self._watched = [], {}, []


def _weak(tensor: Any) -> int:
    """A weak reference to the storage of a tensor; 0 where torch has none."""
    if None in (weak_storage, storage_is_gone, forget_storage):
        return 0
    with without_functions():
        return int(weak_storage(tensor.untyped_storage()))


def address_of(tensor: Any) -> int:
    """Where the memory of a tensor lies; 0 for one that has none to tell of."""
    try:
        with without_functions():
            return int(tensor.untyped_storage().data_ptr())
    except Exception:
        return 0


def place_of(tensor: Any) -> tuple[int, str]:
    """(bytes of the memory that a tensor holds, its device)."""
    with without_functions():
        return int(tensor.untyped_storage().nbytes()), str(tensor.device)


def of_optimizers(optimizers: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """Parameters, gradients and state of optimizers."""
    for optimizer in optimizers:
        yield from of_state(optimizer)
        yield from of_gradients(optimizer)


def of_modules(modules: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """Parameters, their gradients, and buffers."""
    for module in modules:
        for category, name in ((PARAMETER, PARAMETERS), (BUFFER, BUFFERS)):
            table = raw(module).get(name)
            for tensor in dict.values(table) if isinstance(table, dict) else ():
                if tensor is not None:
                    yield tensor, category
                if category == PARAMETER and tensor is not None:
                    gradient = _gradient(tensor)
                    if gradient is not None:
                        yield gradient, GRADIENT


def of_gradients(optimizer: Any) -> Iterator[tuple[Any, int]]:
    """Gradients of the parameters of an optimizer."""
    for parameter in _parameters(optimizer):
        gradient = _gradient(parameter)
        if gradient is not None:
            yield gradient, GRADIENT


def of_state(optimizer: Any) -> Iterator[tuple[Any, int]]:
    """Parameters and state of an optimizer."""
    for parameter in _parameters(optimizer):
        yield parameter, PARAMETER
    for state in dict.values(dict(optimizer.state)):
        for value in state.values() if isinstance(state, dict) else ():
            if isinstance(value, torch.Tensor):
                yield value, OPTIMIZER_STATE


def _parameters(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _gradient(parameter: Any) -> Any:
    with without_functions():
        return parameter.grad
