"""What autograd keeps for backward: the storages that the nodes of a graph hold when its backward begins.

A node gives out what it has saved as it lies there (`_raw_saved_*`), and says whether saved-tensor hooks hold it
instead. Reading that runs no hook and compares no version, where `_saved_*` would unpack. Hooks of our own would see
more, but with any hook torch no longer tells that a saved tensor was changed in place, and saved outputs keep
themselves alive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from modtrace.capture.classes import class_name, defined, inherits
from modtrace.capture.facts import raw
from modtrace.capture.state import State
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.lookup import SAVED, missing
from modtrace.capture.torch_private.names import storage_id
from modtrace.capture.torch_private.spelled import BUFFERS, COMPILED_SAVED, PARAMETERS, RAW_SAVED
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

_HIDDEN: Final = ("CopySlices", "CppFunction")
"""Nodes that keep tensors which nothing gives out: a change of a view in place, and functions made in C++."""
_PLAIN: Final = defined(torch.Tensor, "__torch_dispatch__")


@dataclass
class Kept:
    """What the nodes of one call keep: see table `saved`."""

    saved_bytes: int = 0
    storages: int = 0
    packed: int = 0
    uncounted: dict[str, None] = field(default_factory=dict)


class Saved:
    """Counts at the backwards of some steps of one trace. Nothing here raises.

    Args:
        state: shared with the tracer.
        steps: the first step in which it counts and the one after the last.
    """

    def __init__(self, state: State, steps: tuple[int, int]) -> None:
        self.gaps: list[str] = []
        self._state = state
        self._first, self._last = steps
        self._rows: list[tuple[int, int, Kept]] = []
        self.watching = self._first == 0
        lacks = missing(SAVED)
        if lacks:
            self.watching, self._last = False, -1
            self.gaps += lacks

    def watch(self, possible: Collection[int]) -> None:
        """Count from here on if the step in progress may have one of these numbers."""
        self.watching = any(self._first <= step < self._last for step in possible)

    def count(self, backward: int, nodes: Sequence[tuple[int, Any]], calls: Sequence[Sequence[int]]) -> None:
        """Count what a graph keeps.

        Args:
            backward: id of the backward phase that is about to run.
            nodes: (number, node) of the graph in descending order.
            calls: ids of the calls around each node, outermost first.
        """
        try:
            found = count(nodes, calls, own_storages(self._state.registry.living()))
            self._rows += [(backward, call if call >= 0 else backward, kept) for call, kept in found.items()]
        except Exception as fault:
            self.watching, self._last = False, -1
            self.gaps.append(f"what is kept for backward was not counted any further: {type(fault).__name__}")
            self._state.warn(f"{self.gaps[-1]}; the rest is recorded")

    def rows(self) -> dict[str, list[Any]]:
        """Columns of the rows of `saved` that are new since the last call."""
        rows, self._rows = self._rows, []
        return {
            "backward": [backward for backward, _, _ in rows],
            "call": [call for _, call, _ in rows],
            "saved_bytes": [kept.saved_bytes for _, _, kept in rows],
            "storages": [kept.storages for _, _, kept in rows],
            "packed": [kept.packed for _, _, kept in rows],
            "uncounted": [list(kept.uncounted) for _, _, kept in rows],
        }


def count(nodes: Sequence[tuple[int, Any]], calls: Sequence[Sequence[int]], own: set[int]) -> dict[int, Kept]:
    """What each call keeps, by its id; -1 is outside of any. Calls around others are there, with what is their own.

    Args:
        nodes: (number, node) in descending order.
        calls: ids of the calls around each node, outermost first.
        own: storages that are not counted.
    """
    found: dict[int, Kept] = {-1: Kept()}
    seen = set(own)
    names: dict[type, tuple[str, ...]] = {}
    with without_functions():
        # In the order of forward: a storage is that of the node that kept it first.
        for (_, node), path in zip(reversed(nodes), reversed(calls), strict=True):
            for call in path:
                found.setdefault(call, Kept())
            _add(found[path[-1] if path else -1], node, names, seen)
    return found


def _add(kept: Kept, node: Any, names: dict[type, tuple[str, ...]], seen: set[int]) -> None:
    kind = type(node)
    if kind not in names:
        names[kind] = tuple(name for name in dir(kind) if name.startswith(RAW_SAVED))
    if class_name(kind) in _HIDDEN:
        kept.uncounted[plain(class_name(kind), TEXT_LIMIT)] = None
    try:
        for tensor, packed in _saved_by(node, names[kind]):
            if packed:
                kept.packed += 1
            elif tensor is not None:
                _add_tensor(kept, tensor, seen)
    except RuntimeError:  # what it kept in a list has been freed by another backward
        kept.uncounted[plain(class_name(kind), TEXT_LIMIT)] = None


def _saved_by(node: Any, names: Sequence[str]) -> Iterator[tuple[Any, bool]]:
    """(tensor, False) of what a node has saved, (None, True) where hooks hold it; the tensor is None for nothing."""
    for name in names:
        held = getattr(node, name)
        for one in held if isinstance(held, (tuple, list)) else (held,):
            if one is None:
                continue
            packed = one.unpack_hook is not None
            yield (None if packed else one.data), packed
    beside = getattr(node, "__dict__", None)
    more = beside.get(COMPILED_SAVED) if type(beside) is dict else None
    for one in more if isinstance(more, (tuple, list)) else ():
        if inherits(type(one), torch.Tensor):
            yield one, False


def _add_tensor(kept: Kept, tensor: Any, seen: set[int]) -> None:
    if inherits(type(tensor), torch.nn.Parameter):
        return
    found = _storage(tensor)
    if isinstance(found, str):
        kept.uncounted[found] = None
    elif found[0] not in seen:
        seen.add(found[0])
        kept.saved_bytes += found[1]
        kept.storages += 1


def _storage(tensor: Any) -> tuple[int, int] | str:
    """Which storage a tensor lies in, and its bytes; what kind of tensor it is where it has none of its own.

    Not its address: to ask for that would copy what is to be copied on the first write.
    """
    kind = type(tensor)
    if defined(kind, "__torch_dispatch__") != _PLAIN:
        return plain(class_name(kind), TEXT_LIMIT)
    try:
        storage = tensor.untyped_storage()
        return storage_id(storage), int(storage.nbytes())
    except (RuntimeError, NotImplementedError, TypeError):
        return f"{tensor.layout} tensor".removeprefix("torch.")


def own_storages(modules: Sequence[torch.nn.Module]) -> set[int]:
    """The storages of the parameters and buffers of modules."""
    found = set()
    with without_functions():
        for module in modules:
            held = raw(module)
            for table in (held.get(PARAMETERS), held.get(BUFFERS)):
                for tensor in dict.values(table) if isinstance(table, dict) else ():
                    place = _storage(tensor) if inherits(type(tensor), torch.Tensor) else ""
                    if not isinstance(place, str):
                        found.add(place[0])
    return found
