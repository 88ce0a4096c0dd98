"""Saved tensors: the storages that the nodes of a graph hold when its backward begins.

A node gives out what it has saved as it lies there (`_raw_saved_*`), and says whether saved-tensor hooks hold it
instead. Reading that runs no hook and compares no version, where `_saved_*` would unpack. Hooks of our own would see
more, but with any hook torch no longer tells that a saved tensor was changed in place, and saved outputs keep
themselves alive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import class_name, defined, inherits
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.module_facts import raw
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import storage_id
from modtrace.capture.torch_private.spelled import BUFFERS, COMPILED_SAVED, PARAMETERS, RAW_SAVED
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

_HIDDEN: Final = ("CopySlices", "CppFunction")
"""Nodes that keep tensors which nothing gives out: a change of a view in place, and functions made in C++."""
_PLAIN: Final = defined(torch.Tensor, "__torch_dispatch__")


@dataclass
class CallSavedTensors:
    """Storages and bytes that the nodes of one call keep: see table `saved`."""

    saved_bytes: int = 0
    storages: int = 0
    packed: int = 0
    uncounted: dict[str, None] = field(default_factory=dict)


class SavedStorages:
    """Counts for one trace at the backwards that its recorder says.

    Args:
        context: shared with the tracer.
    """

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._rows: list[tuple[int, int, CallSavedTensors]] = []

    def count(self, graph: Any) -> None:
        """Count what a graph keeps whose backward is about to run; a `BackwardGraph`."""
        by_call = count(graph.nodes, graph.calls(), own_storages(self._context.registry.living()))
        backward = graph.backward
        self._rows += [
            (backward, call if call >= 0 else backward, storages) for call, storages in by_call.items()
        ]

    def rows(self) -> dict[str, list[Any]]:
        """Columns of the rows of `saved` that are new since the last call."""
        rows, self._rows = self._rows, []
        return {
            "backward": [backward for backward, _, _ in rows],
            "call": [call for _, call, _ in rows],
            "saved_bytes": [storages.saved_bytes for _, _, storages in rows],
            "storages": [storages.storages for _, _, storages in rows],
            "packed": [storages.packed for _, _, storages in rows],
            "uncounted": [list(storages.uncounted) for _, _, storages in rows],
        }


def count(
    nodes: Sequence[tuple[int, Any]], calls: Sequence[Sequence[int]], parameter_storages: set[int]
) -> dict[int, CallSavedTensors]:
    """Saved tensors of each call, by its id; -1 is outside of any. Calls around others are there, with what is their
    own.

    Args:
        nodes: (number, node) in descending order.
        calls: ids of the calls around each node, outermost first.
        parameter_storages: storages that are not counted.
    """
    by_call: dict[int, CallSavedTensors] = {-1: CallSavedTensors()}
    seen = set(parameter_storages)
    names: dict[type, tuple[str, ...]] = {}
    with without_functions():
        # In the order of forward: a storage is that of the node that kept it first.
        for (_, node), path in zip(reversed(nodes), reversed(calls), strict=True):
            for call in path:
                by_call.setdefault(call, CallSavedTensors())
            _add(by_call[path[-1] if path else -1], node, names, seen)
    return by_call


def _add(total: CallSavedTensors, node: Any, names: dict[type, tuple[str, ...]], seen: set[int]) -> None:
    cls = type(node)
    if cls not in names:
        names[cls] = tuple(name for name in dir(cls) if name.startswith(RAW_SAVED))
    if class_name(cls) in _HIDDEN:
        total.uncounted[plain(class_name(cls), TEXT_LIMIT)] = None
    try:
        for tensor, packed in _saved_by(node, names[cls]):
            if packed:
                total.packed += 1
            elif tensor is not None:
                _add_tensor(total, tensor, seen)
    except RuntimeError:  # what it kept in a list has been freed by another backward
        total.uncounted[plain(class_name(cls), TEXT_LIMIT)] = None


def _saved_by(node: Any, names: Sequence[str]) -> Iterator[tuple[Any, bool]]:
    """(tensor, False) of what a node has saved, (None, True) where hooks hold it; the tensor is None for nothing."""
    for name in names:
        values = getattr(node, name)
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if value is None:
                continue
            packed = value.unpack_hook is not None
            yield (None if packed else value.data), packed
    beside = getattr(node, "__dict__", None)
    compiled_values = beside.get(COMPILED_SAVED) if type(beside) is dict else None
    for value in compiled_values if isinstance(compiled_values, (tuple, list)) else ():
        if inherits(type(value), torch.Tensor):
            yield value, False


def _add_tensor(total: CallSavedTensors, tensor: Any, seen: set[int]) -> None:
    if inherits(type(tensor), torch.nn.Parameter):
        return
    place = _storage(tensor)
    if isinstance(place, str):
        total.uncounted[place] = None
    elif place[0] not in seen:
        seen.add(place[0])
        total.saved_bytes += place[1]
        total.storages += 1


def _storage(tensor: Any) -> tuple[int, int] | str:
    """(key of the storage a tensor lies in, its bytes); the kind of tensor where it has none of its own.

    Not its address: to ask for that would copy what is to be copied on the first write.
    """
    cls = type(tensor)
    if defined(cls, "__torch_dispatch__") != _PLAIN:
        return plain(class_name(cls), TEXT_LIMIT)
    try:
        storage = tensor.untyped_storage()
        return storage_id(storage), int(storage.nbytes())
    except (RuntimeError, NotImplementedError, TypeError):
        return f"{tensor.layout} tensor".removeprefix("torch.")


def own_storages(modules: Sequence[torch.nn.Module]) -> set[int]:
    """The storages of the parameters and buffers of modules."""
    storages = set()
    with without_functions():
        for module in modules:
            attributes = raw(module)
            for table in (attributes.get(PARAMETERS), attributes.get(BUFFERS)):
                for tensor in dict.values(table) if isinstance(table, dict) else ():
                    place = _storage(tensor) if inherits(type(tensor), torch.Tensor) else ""
                    if not isinstance(place, str):
                        storages.add(place[0])
    return storages
