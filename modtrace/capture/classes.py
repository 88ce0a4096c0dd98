"""Names, bases and namespaces of classes, past whatever a metaclass has put in their place."""

from __future__ import annotations

from typing import Any, Final

_NAME: Final = type.__dict__["__name__"]
_MRO: Final = type.__dict__["__mro__"]
_NAMESPACE: Final = type.__dict__["__dict__"]


def class_name(kind: type) -> str:
    """The name of a class."""
    name = _NAME.__get__(kind)
    return name if type(name) is str else "?"


def bases(kind: type) -> tuple[type, ...]:
    """A class and its bases in the order in which attributes are looked for."""
    mro: tuple[type, ...] = _MRO.__get__(kind)
    return mro


def namespace(kind: type) -> Any:
    """What a class itself defines."""
    return _NAMESPACE.__get__(kind)


def inherits(kind: type, base: type) -> bool:
    """`issubclass` by identity: a metaclass may answer for itself, or define equality."""
    return any(one is base for one in bases(kind))


def defined(kind: type, name: str) -> tuple[type, Any] | None:
    """The first class that defines a name, and what it defines; None for no class."""
    for base in bases(kind):
        held = namespace(base)
        if name in held:
            return base, held[name]
    return None


def module_of(kind: type) -> str:
    """The name of the Python module that defines a class."""
    name = namespace(kind).get("__module__")
    return name if type(name) is str else "?"
