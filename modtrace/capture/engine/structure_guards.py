"""Checks that say whether a structure of arguments, or an output, has the key of one seen before, without a walk.

A check is an expression in Python, written for one structure and compiled once: a call of a function for each value in
it would cost more than the values. It is true only where `signature` would make the same key; it may be false although
the key is the same, and then a walk tells. Only what a key depends on and can be read without running code of the
program is checked: exact types of python's and torch's own, dataclasses, named tuples, and dicts and sequences of any
class. A tensor is checked by a guard of its own, since a guard of two refuses a pair of one.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import CodeType, MemberDescriptorType
from typing import Any, Final

import torch

from modtrace.capture.engine.argument_guards import is_tensor, never
from modtrace.capture.engine.classes import bases, defined, inherits
from modtrace.capture.engine.signatures import (
    CONSTANTS,
    MAX_DEPTH,
    SCALARS,
    fields_of,
    has_base,
    instance_dict,
    is_opaque_class,
    value_key,
)
from modtrace.capture.engine.tensor_guards import (
    SEVERAL,
    Check,
    Entry,
    Memory,
    guard_of,
    has_grads,
    is_guarded,
)

MOST_VALUES: Final = 40
"""In a structure that has a check, containers included: fewer than a key has room for."""

MOST_HELD: Final = 400
"""In the objects of data in it."""
MANY_GUARDS: Final = 8
"""Checks that are made for one entry: to write one takes as long as a hundred walks."""


class _Unchecked(Exception):
    """There is something in a structure that only a walk can tell of."""


def guard_of_value(value: Any, *, valued: bool) -> Check:
    """A check for values with the key of `value`; `valued` as for the key. `never` where there is none."""
    return _written(lambda writer: writer.add(value, "value", 0), "value", valued=valued)


def guard_of_arguments(args: tuple[Any, ...]) -> Check:
    """A check for positional arguments with the valued key of `args`."""
    return _written(lambda writer: writer.arguments(args, "args"), "args", valued=True)


def guard_of_keywords(kwargs: dict[str, Any]) -> Check:
    """A check for keyword arguments with the valued key of `kwargs`."""
    return _written(lambda writer: writer.keywords(kwargs, "kwargs"), "kwargs", valued=True)


def remember_structure(entry: Entry, last: Memory, number: int, make: Callable[[], Check]) -> Memory:
    """The memory after a structure with a signature, which was not like `last`.

    As for a tensor a check is made when a signature comes twice in a row; not again where it has failed all the same,
    and not more than a few for an entry.
    """
    if last[2] != number:
        return (never, SEVERAL, number)
    if last[0] is not never or entry.guards >= MANY_GUARDS:
        return last
    entry.guards += 1
    check = make()
    return (_unchecked if check is never else check, SEVERAL, number)


def _unchecked(_: Any) -> bool:
    """The check of a structure that only a walk can tell of."""
    return False


def _written(write: Callable[[_Writer], None], args: str, *, valued: bool) -> Check:
    writer = _Writer(valued)
    try:
        write(writer)
        return writer.compiled(args)
    except Exception:  # `_Unchecked`, or an object that cannot be looked at
        return never


class _Writer:
    """Writes the terms of one check. They are evaluated in order, and later ones use what earlier ones have bound."""

    def __init__(self, valued: bool) -> None:
        self._valued = valued
        self._terms: list[str] = []
        self._constants: dict[str, Any] = dict(_FUNCTIONS)
        self._tensors: list[str] = []
        self._require_grad: list[bool] = []
        self._values = 0
        self._held = 0
        self._variables = 0

    def compiled(self, args: str) -> Check:
        """The check, a function of a parameter that is called `args`."""
        terms = list(self._terms)
        if self._tensors:
            wanted = self._constant(tuple(self._require_grad))
            terms.append(f"(grad_enabled() or has_grads(({', '.join(self._tensors)},)) == {wanted})")
        text = f"lambda {args}: {' and '.join(terms) or 'True'}"
        check: Check = eval(_compiled(text), self._constants)  # noqa: S307 - ours, with nothing of the values in it
        return check

    def arguments(self, args: tuple[Any, ...], place: str) -> None:
        """Check positional arguments."""
        self._terms.append(f"len({place}) == {len(args)}")
        for position, value in enumerate(args):
            self.add(value, f"{place}[{position}]", 0)

    def keywords(self, kwargs: dict[str, Any], place: str) -> None:
        """Check keyword arguments, and the order they are in."""
        if any(type(name) is not str for name in kwargs):
            raise _Unchecked
        self._terms.append(f"[*{place}] == {self._constant(list(kwargs))}")
        for name, value in kwargs.items():
            self.add(value, f"{place}[{self._constant(name)}]", 0)

    def add(self, value: Any, place: str, depth: int) -> None:
        """Check the value that the expression `place` gives; `depth` as in a key."""
        self._values += 1
        if self._values > MOST_VALUES:
            raise _Unchecked
        cls = type(value)
        if value is None:
            self._terms.append(f"{place} is None")
        elif cls is torch.Tensor or cls is torch.nn.Parameter:
            self._tensor(value, place)
        elif cls in SCALARS or cls is str or cls in CONSTANTS:
            self._scalar(value, cls, place)
        elif inherits(cls, torch.Tensor) or cls is torch.Size or depth >= MAX_DEPTH:
            raise _Unchecked
        else:
            self._container(value, cls, place, depth)

    def _pairs(self, value: dict[Any, Any], place: str, depth: int) -> None:
        """Check names and values of a dict, in their order. Names that are no texts would run code of theirs."""
        names, values = tuple(dict.keys(value)), tuple(dict.values(value))
        if any(type(name) is not str for name in names):
            raise _Unchecked
        self._names(names, place)
        self._sequence(values, place, depth, "dict_values")

    def _tensor(self, value: Any, place: str) -> None:
        if not is_tensor(value) or not is_guarded(value):
            raise _Unchecked
        self._terms.append(f"{self._constant(guard_of(value))}({place})")
        self._tensors.append(place)
        self._require_grad.append(has_grads((value,))[0])

    def _scalar(self, value: Any, cls: type, place: str) -> None:
        wanted_kind = self._constant(cls)
        self._terms.append(f"type({place}) is {wanted_kind}")
        if cls is str and not self._valued:
            self._terms.append(f"len({place}) == {len(value)}")
        elif self._valued and cls in (float, complex):
            self._terms.append(f"repr({place}) == {self._constant(repr(value))}")  # -0.0 is equal to 0.0
        elif self._valued:
            self._terms.append(f"{place} == {self._constant(value)}")

    def _container(self, value: Any, cls: type, place: str, depth: int) -> None:
        mro = bases(cls)
        self._terms.append(f"type({place}) is {self._constant(cls)}")
        fields = fields_of(value, cls, mro)
        if fields is not None and not (has_base(mro, tuple) and len(fields) == tuple.__len__(value)):
            self._fields(value, cls, place, depth)
        elif has_base(mro, tuple):
            self._sequence(tuple(tuple.__iter__(value)), place, depth, "" if cls is tuple else "tuple_items")
        elif has_base(mro, list):
            self._sequence(tuple(list.__iter__(value)), place, depth, "" if cls is list else "list_items")
        elif has_base(mro, dict):
            self._pairs(value, place, depth)
        elif self._valued and not is_opaque_class(mro):
            key: Any = value_key(value, valued=True)
            if key[0] != "value":  # something in it cannot be looked into
                raise _Unchecked
            self._attributes(value, place, 0)

    def _sequence(self, items: tuple[Any, ...], place: str, depth: int, function: str) -> None:
        """Check items that a function, if one is named, gives of what is at `place`."""
        if function:
            self._variables += 1
            place, of = f"v{self._variables}", place
            self._terms.append(f"len({place} := [*{function}({of})]) == {len(items)}")
        else:
            self._terms.append(f"len({place}) == {len(items)}")
        for position, item in enumerate(items):
            self.add(item, f"{place}[{position}]", depth + 1)

    def _fields(self, value: Any, cls: type, place: str, depth: int) -> None:
        """Check what the fields of a dataclass hold in an instance's own dict."""
        declared = defined(cls, "__dataclass_fields__")
        attributes = instance_dict(value)
        if declared is None:
            raise _Unchecked
        self._variables += 1
        where = f"v{self._variables}"
        self._terms.append(f"({where} := instance_dict({place})) is not None")
        for name in declared[1]:
            constant = self._constant(name)
            slot = defined(cls, name)
            if name in attributes:
                self._terms.append(f"{constant} in {where}")
                self.add(attributes[name], f"{where}[{constant}]", depth + 1)
            elif slot is not None and type(slot[1]) is MemberDescriptorType:
                raise _Unchecked
            else:
                self._terms.append(f"{constant} not in {where}")

    def _attributes(self, value: Any, place: str, depth: int) -> None:
        """Check what an object of data holds, as far as its key has that."""
        self._variables += 1
        where = f"v{self._variables}"
        self._terms.append(f"({where} := instance_dict({place})) is not None")
        self._entries(instance_dict(value), where, depth)

    def _entries(self, value: dict[Any, Any], place: str, depth: int) -> None:
        names, values = tuple(dict.keys(value)), tuple(dict.values(value))
        if any(type(name) is not str for name in names):
            raise _Unchecked
        self._names(names, place)
        self._variables += 1
        where = f"v{self._variables}"
        self._terms.append(f"({where} := [*dict_values({place})]) is not None")
        for position, item in enumerate(values):
            self._entry(item, f"{where}[{position}]", depth)

    def _entry(self, value: Any, place: str, depth: int) -> None:
        """Check one thing that an object holds; types that a key leaves out are checked all the same."""
        self._held += 1
        if self._held > MOST_HELD or depth > MAX_DEPTH:
            raise _Unchecked
        cls = type(value)
        if value is None:
            self._terms.append(f"{place} is None")
        elif cls is torch.Tensor or cls is torch.nn.Parameter:
            if not is_tensor(value):
                raise _Unchecked
            self._terms.append(f"{self._constant(guard_of(value))}({place})")
        elif cls in (bool, int, float, str) or cls in CONSTANTS:
            self._scalar(value, cls, place)
        elif cls is list or cls is tuple:
            self._terms.append(f"type({place}) is {self._constant(cls)}")
            self._terms.append(f"len({place}) == {len(value)}")
            for position, item in enumerate(value):
                self._entry(item, f"{place}[{position}]", depth + 1)
        else:
            mro = bases(cls)
            self._terms.append(f"type({place}) is {self._constant(cls)}")
            if has_base(mro, dict):
                self._entries(value, place, depth + 1)
            elif not has_base(mro, type):
                self._attributes(value, place, depth + 1)

    def _names(self, names: tuple[str, ...], place: str) -> None:
        """Check the names of a dict: nearly always they are the very same objects."""
        wanted = self._constant(names)
        self._terms.append(
            f"(dict_len({place}) == {len(names)} and all(map(is_, dict_keys({place}), {wanted}))"
            f" or names_of({place}) == {wanted})"
        )

    def _constant(self, value: Any) -> str:
        name = f"k{len(self._constants)}"
        self._constants[name] = value
        return name


@functools.lru_cache(maxsize=1_000)
def _compiled(text: str) -> CodeType:
    """Many structures have the same text: they differ in the constants."""
    return compile(text, "<guard>", "eval")


def _names_of(value: dict[Any, Any]) -> tuple[str, ...] | None:
    """The names of a dict; None where one is no text."""
    names = tuple(dict.keys(value))
    for name in names:
        if type(name) is not str:
            return None
    return names


_FUNCTIONS: Final = {
    "__builtins__": {"all": all, "len": len, "map": map, "repr": repr, "type": type},
    "dict_keys": dict.keys,
    "dict_len": dict.__len__,
    "grad_enabled": torch.is_grad_enabled,
    "has_grads": has_grads,
    "instance_dict": instance_dict,
    "is_": operator.is_,
    "names_of": _names_of,
    "dict_values": dict.values,
    "tuple_items": tuple.__iter__,
    "list_items": list.__iter__,
}
