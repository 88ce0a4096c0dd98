"""Walk a module tree without asking the modules anything: their methods may raise or count the question."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def attributes_of(module: nn.Module) -> dict[str, object]:
    """The instance dictionary itself."""
    return object.__getattribute__(module, "__dict__")


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module once, under its first name, in the order of torch's `named_modules`."""
    seen: set[int] = set()
    waiting = [("", root)]
    while waiting:
        name, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield name, module
        children = attributes_of(module).get("_modules") or {}
        waiting += [
            (f"{name}.{key}" if name else key, child)
            for key, child in reversed(list(children.items()))
            if child is not None
        ]


def named_parameters(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """All parameters, shared ones once for each module that holds them."""
    for name, module in named_modules(root):
        for key, parameter in (attributes_of(module).get("_parameters") or {}).items():
            if parameter is not None:
                yield f"{name}.{key}", parameter
