"""Names, bases and namespaces of classes, past whatever a metaclass has put in their place."""

from __future__ import annotations

from typing import Any, Final

_NAME: Final = type.__dict__["__name__"]
_MRO: Final = type.__dict__["__mro__"]
_INHERITS: Final = type.__subclasscheck__
_NAMESPACE: Final = type.__dict__["__dict__"]


def class_name(cls: type) -> str:
    """The name of a class."""
    name = _NAME.__get__(cls)
    return name if type(name) is str else "?"


def bases(cls: type) -> tuple[type, ...]:
    """A class and its bases in the order in which attributes are looked for."""
    mro: tuple[type, ...] = _MRO.__get__(cls)
    return mro


def namespace(cls: type) -> Any:
    """The namespace of a class, without what it inherits."""
    return _NAMESPACE.__get__(cls)


def inherits(cls: type, base: type) -> bool:
    """`issubclass` without what a metaclass would answer: of real classes `type` looks at the bases by identity."""
    return _INHERITS(base, cls)


def defined(cls: type, name: str) -> tuple[type, Any] | None:
    """The first class that defines a name, and what it defines; None for no class."""
    for base in bases(cls):
        attributes = namespace(base)
        if name in attributes:
            return base, attributes[name]
    return None


def module_of(cls: type) -> str:
    """The name of the Python module that defines a class."""
    name = namespace(cls).get("__module__")
    return name if type(name) is str else "?"
