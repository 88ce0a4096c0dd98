"""How names of modules are folded and shortened. Standard library only."""

from __future__ import annotations


def fold(name: str) -> str:
    """A name with each number among its components replaced: `h.11.mlp` -> `h.*.mlp`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def below(name: str, above: str) -> str:
    """What of a name comes behind that of a module above it in the same tree, else all of it."""
    prefix = f"{above}." if above else ""
    return name[len(prefix) :] if name.startswith(prefix) and name != prefix else name
