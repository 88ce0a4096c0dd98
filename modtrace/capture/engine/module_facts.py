"""Facts about a module that can be read without running any code of its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

import torch

from modtrace.capture.engine.classes import class_name, defined, inherits, module_of
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import uninitialized_mixin
from modtrace.capture.torch_private.spelled import BUFFERS, CHILDREN, COMPILER, PARAMETERS
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

Module = torch.nn.Module


@dataclass
class TensorTotals:
    """Elements and bytes of the tensors of a subtree, shared ones once; `known` is False where a size is not."""

    parameter_count: int = 0
    parameter_bytes: int = 0
    trainable_count: int = 0
    trainable_bytes: int = 0
    buffer_count: int = 0
    buffer_bytes: int = 0
    known: bool = True

    def add(self, other: TensorTotals) -> None:
        self.parameter_count += other.parameter_count
        self.parameter_bytes += other.parameter_bytes
        self.trainable_count += other.trainable_count
        self.trainable_bytes += other.trainable_bytes
        self.buffer_count += other.buffer_count
        self.buffer_bytes += other.buffer_bytes
        self.known = self.known and other.known


def raw(module: Module) -> dict[str, Any]:
    """The instance dictionary, past any `__getattr__` or property."""
    try:
        attributes = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _tensors(module: Module, table: str) -> list[tuple[str, Any]]:
    attributes = raw(module).get(table)
    if not isinstance(attributes, dict):
        return []
    return [(str(name), tensor) for name, tensor in dict.items(attributes) if tensor is not None]


def is_lazy(module: Module) -> bool:
    """True if a parameter or buffer of the module itself has no size yet."""
    tables = (PARAMETERS, BUFFERS)
    return any(
        inherits(type(tensor), uninitialized_mixin)
        for table in tables
        for _, tensor in _tensors(module, table)
    )


def _size(tensor: Any) -> tuple[int, int] | None:
    """(elements, bytes), None where a tensor does not tell."""
    try:
        with without_functions():
            sizes = tuple(tensor.shape)
            if any(type(size) is not int for size in sizes):
                return None
            count = math.prod(sizes)
            return count, count * tensor.dtype.itemsize
    except Exception:
        return None


def _one(tensor: Any, *, parameter: bool) -> TensorTotals:
    size = _size(tensor)
    if size is None:
        return TensorTotals(known=False)
    count, held_bytes = size
    if not parameter:
        return TensorTotals(buffer_count=count, buffer_bytes=held_bytes)
    with without_functions():
        trainable = bool(tensor.requires_grad)
    return TensorTotals(
        parameter_count=count,
        parameter_bytes=held_bytes,
        trainable_count=count * trainable,
        trainable_bytes=held_bytes * trainable,
    )


def children(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The direct children of a module, without running any code of its class."""
    submodules = raw(module).get(CHILDREN)
    if not isinstance(submodules, dict):
        return []
    return [
        (str(key), child) for key, child in dict.items(submodules) if inherits(type(child), torch.nn.Module)
    ]


def subtree_totals(top: Module, modules: Sequence[Module]) -> dict[int, TensorTotals]:
    """id of each module -> totals of its subtree. `modules` is `top` and all below it, parents before children.

    A tensor held once is added up along the tree; one held in several places (tied weights, shared modules) is added
    to every module that has it somewhere below, once.
    """
    parents: dict[int, list[int]] = {id(module): [] for module in modules}
    for module in modules:
        for _, child in children(module):
            if id(child) in parents:
                parents[id(child)].append(id(module))
    totals = {id(module): TensorTotals(known=_transparent(module)) for module in modules}
    holders: dict[int, tuple[Any, bool, list[int]]] = {}
    for module in modules:
        for table in (PARAMETERS, BUFFERS):
            for _, tensor in _tensors(module, table):
                entry = holders.setdefault(id(tensor), (tensor, table == PARAMETERS, []))
                entry[2].append(id(module))
    shared_below = _below_shared(modules, parents)
    for tensor, parameter, held_by in holders.values():
        holder = _one(tensor, parameter=parameter)
        if len(held_by) == 1 and held_by[0] not in shared_below:
            totals[held_by[0]].add(holder)
        else:
            held_by.append(-1)
    _add_up(modules, parents, totals)
    for tensor, parameter, held_by in holders.values():
        if held_by[-1] == -1:
            holder = _one(tensor, parameter=parameter)
            for key in _ancestors(held_by[:-1], parents):
                totals[key].add(holder)
    return totals


def _below_shared(modules: Sequence[Module], parents: dict[int, list[int]]) -> set[int]:
    """Modules with more than one way up to the top."""
    shared: set[int] = set()
    for module in modules:
        above = parents[id(module)]
        if len(above) > 1 or any(key in shared for key in above):
            shared.add(id(module))
    return shared


def _add_up(
    modules: Sequence[Module], parents: dict[int, list[int]], totals: dict[int, TensorTotals]
) -> None:
    for module in reversed(modules):
        above = parents[id(module)]
        if above:
            totals[above[0]].add(totals[id(module)])


def _ancestors(keys: Sequence[int], parents: dict[int, list[int]]) -> set[int]:
    ancestors: set[int] = set()
    pending = list(keys)
    while pending:
        key = pending.pop()
        if key not in ancestors:
            ancestors.add(key)
            pending.extend(parents[key])
    return ancestors


def _transparent(module: Module) -> bool:
    """True if the module's tensors can be seen from Python (those of a scripted module cannot)."""
    attributes = raw(module)
    return all(isinstance(attributes.get(table), dict) for table in (PARAMETERS, BUFFERS, CHILDREN))


class ClassFacts(NamedTuple):
    """Facts about a class."""

    type: str
    type_module: str
    source_file: str | None
    source_line: int | None
    overrides_call: bool


class ModuleFacts(NamedTuple):
    """Facts about one module without those below it. Equal for modules that cannot be told apart.

    parameters, buffers: (name, shape, dtype, device, layout, requires_grad) of each; the shape is null where it is
    not known.
    """

    of_class: ClassFacts
    training: bool | None
    extra_repr: str | None
    parameters: tuple[tuple[Any, ...], ...]
    buffers: tuple[tuple[Any, ...], ...]


def class_facts(cls: type) -> ClassFacts:
    """The facts of a class."""
    source_file, source_line = _source(cls)
    return ClassFacts(
        plain(class_name(cls), TEXT_LIMIT),
        plain(module_of(cls), TEXT_LIMIT),
        source_file,
        source_line,
        _overrides_call(cls),
    )


def module_facts(module: Module, of_class: ClassFacts) -> ModuleFacts:
    """The facts of a module."""
    return ModuleFacts(
        of_class,
        _training(module),
        _extra_repr(module, type(module)),
        _tensor_facts(_tensors(module, PARAMETERS)),
        _tensor_facts(_tensors(module, BUFFERS)),
    )


def module_row(
    number: int, facts: ModuleFacts, totals: TensorTotals | None, variable: str | None, *, instances: int
) -> dict[str, Any]:
    """One row of the `modules` table."""
    counted = totals if totals is not None and totals.known else None
    return {
        "module": number,
        **{name: getattr(facts.of_class, name) for name in ClassFacts._fields},
        "parameter_count": counted and counted.parameter_count,
        "parameter_bytes": counted and counted.parameter_bytes,
        "trainable_count": counted and counted.trainable_count,
        "trainable_bytes": counted and counted.trainable_bytes,
        "buffer_count": counted and counted.buffer_count,
        "buffer_bytes": counted and counted.buffer_bytes,
        "parameters": [_described(*values) for values in facts.parameters],
        "training": facts.training,
        "extra_repr": facts.extra_repr,
        "variable": variable,
        "instances": instances,
    }


def tensors_of(module: Module) -> list[Any]:
    """The module's own parameters and buffers."""
    return [tensor for table in (PARAMETERS, BUFFERS) for _, tensor in _tensors(module, table)]


def _tensor_facts(tensors: list[tuple[str, Any]]) -> tuple[tuple[Any, ...], ...]:
    if not tensors:
        return ()
    with without_functions():
        return tuple(
            [
                (name, _shape(tensor), tensor.dtype, tensor.device, tensor.layout, bool(tensor.requires_grad))
                for name, tensor in tensors
            ]
        )


def _shape(tensor: Any) -> tuple[int | None, ...] | None:
    try:
        return tuple([size if type(size) is int else None for size in tensor.shape])
    except Exception:
        return None


def _described(
    name: str, shape: tuple[int | None, ...] | None, dtype: Any, device: Any, layout: Any, requires_grad: bool
) -> dict[str, Any]:
    """An element of a `tensors` column."""
    return {
        "path": plain(name, TEXT_LIMIT),
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "layout": str(layout).removeprefix("torch."),
        "requires_grad": requires_grad,
    }


def _training(module: Module) -> bool | None:
    value = raw(module).get("training")
    return value if type(value) is bool else None


def _extra_repr(module: Module, cls: type) -> str | None:
    """torch's own description. A class's own extra_repr is not called: it may compute, print or communicate."""
    defined_repr = defined(cls, "extra_repr")
    if defined_repr is None or not module_of(defined_repr[0]).startswith("torch.nn.modules."):
        return None
    try:
        return plain(str(defined_repr[1](module)), TEXT_LIMIT)
    except Exception:
        return None


def _source(cls: type) -> tuple[str | None, int | None]:
    found = defined(cls, "forward")
    if found is None or found[0] is Module:
        return None, None
    forward = found[1]
    for _ in range(8):  # decorated: the innermost function is the one the person wrote
        inner = getattr(forward, "__dict__", {}).get("__wrapped__")
        if inner is None:
            break
        forward = inner
    code = getattr(forward, "__code__", None)
    if type(code) is not CodeType:
        return None, None
    return plain(code.co_filename, TEXT_LIMIT), code.co_firstlineno


def _overrides_call(cls: type) -> bool:
    defined_call = defined(cls, "__call__")
    torch_own = ("torch.jit", f"torch.{COMPILER}", "torch.nn", "torch.fx")
    return (
        defined_call is not None
        and defined_call[0] is not Module
        and not module_of(defined_call[0]).startswith(torch_own)
    )
