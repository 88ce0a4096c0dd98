"""Names of modules, folded and shortened. Standard library only."""

from __future__ import annotations

import re
from typing import Final

_NUMBERED: Final = re.compile(r"\[\d+\]|#\d+$")


def fold(name: str) -> str:
    """A name with each number among its components replaced: `h.11.mlp` -> `h.*.mlp`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def below(name: str, above: str) -> str:
    """The part of a name behind that of a module above it in the same tree, else all of it."""
    prefix = f"{above}." if above else ""
    return name[len(prefix) :] if name.startswith(prefix) and name != prefix else name


def fold_root(name: str) -> str:
    """The name of a root without numbers that tell it from others: `nets[3]` -> `nets[*]`, `model#2` -> `model`."""
    return _NUMBERED.sub(lambda number: "[*]" if number[0].startswith("[") else "", name)


def dotted(*parts: str) -> str:
    """Parts of a name put together, empty ones left out."""
    return ".".join(filter(None, parts))
