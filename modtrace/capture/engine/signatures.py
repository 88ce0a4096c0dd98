"""Structures of inputs and outputs -> small hashable keys -> interned numbers, texts and tensor rows.

A key holds no tensor: sizes, types and names only. It is made in the traced program's time, so it never calls a tensor
operation, never runs code of the values it looks at, and walks a bounded part of them. Text and rows are made from the
key alone, once a key, when a block is written.

The key of arguments is `valued`: a call computes the same where it is given the same, so numbers, truth values and the
hashes of texts are in it, and sizes and numbers in objects that are data alone, such as a cache. They are in no text
and in no row. What cannot be looked into makes a key `opaque`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby
from types import MemberDescriptorType
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import bases, class_name, defined, inherits, namespace
from modtrace.capture.engine.recursion_limit import check_room
from modtrace.capture.torch_private.contexts import READS_WRAPPERS, without_dispatch, without_functions
from modtrace.capture.torch_private.names import is_batched
from modtrace.text import plain
from modtrace.trace.schema import SHORT_DTYPES, TEXT_LIMIT

Key = Hashable

MAX_DEPTH: Final = 4
MAX_LEAVES: Final = 64
"""Of a longer structure the first leaves are recorded and the number of the others."""
MAX_OBJECT_LEAVES: Final = 1_000
"""Values in an object that is looked into; one that holds more is opaque."""
MAX_VALUED: Final = 10_000
"""New keys with values in them. Beyond it values that never repeat (a count of steps) are left out, as opaque."""
MAX_KEYS: Final = 20_000
"""Interned keys held in memory. Beyond it the table starts again: shapes that never repeat cannot fill memory."""

EMPTY: Final[Key] = ("args",)
"""The key of no arguments."""
UNKNOWN: Final[Key] = ("type", "?")
"""The key of what cannot be looked at."""

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)
SCALARS: Final = (bool, int, float, complex)
_NO_OPERATIONS: Final = defined(torch.Tensor, "__torch_dispatch__")


class _Budget:
    """Leaves still to be looked at in one structure, and whether values are a part of its key."""

    __slots__ = ("left", "valued")

    def __init__(self, valued: bool) -> None:
        self.left = MAX_LEAVES
        self.valued = valued


def arguments_key(args: tuple[Any, ...], *, vmapped: bool = False, valued: bool = False) -> Key:
    """The key of positional arguments."""
    try:
        with without_functions():
            return ("args", *_items(args, 0, _Budget(valued), vmapped))
    except Exception:  # an object that cannot be looked at is unknown; it is no fault of the recorder
        return UNKNOWN


def keywords_key(kwargs: dict[str, Any], *, vmapped: bool = False, valued: bool = False) -> Key:
    """The key of keyword arguments."""
    try:
        with without_functions():
            return ("kwargs", *_pairs(kwargs.items(), len(kwargs), 0, _Budget(valued), vmapped))
    except Exception:
        return ("kwargs", ("?", UNKNOWN))


def value_key(value: Any, *, vmapped: bool = False, valued: bool = False) -> Key:
    """The key of one value, such as an output."""
    try:
        with without_functions():
            return _key(value, 0, _Budget(valued), vmapped)
    except Exception:
        return UNKNOWN


def _key(value: Any, depth: int, budget: _Budget, vmapped: bool) -> Key:
    budget.left -= 1
    cls = type(value)
    if (cls is torch.Tensor or cls is torch.nn.Parameter) and not vmapped:
        try:
            key = (value.shape, value.dtype, value.device, value.requires_grad, value.layout)
            hash(key)
        except Exception:
            return _tensor_key(value, cls, vmapped)
        return key
    if value is None:
        return ("type", "None")
    if cls in SCALARS:
        return _scalar_key(value, cls) if budget.valued else ("type", cls.__name__)
    if cls is str:
        text = f"str({len(value)})"
        return ("value", text, hash(value)) if budget.valued else ("type", text)
    mro = bases(cls)
    if inherits(cls, torch.Tensor):
        return _tensor_key(value, cls, vmapped)
    if depth >= MAX_DEPTH:
        return ("opaque" if budget.valued else "type", _name(cls))
    return _container_key(value, cls, mro, depth, budget, vmapped)


def _container_key(
    value: Any, cls: type, mro: Sequence[type], depth: int, budget: _Budget, vmapped: bool
) -> Key:
    fields = fields_of(value, cls, mro)
    if fields is not None:
        return ("fields", _name(cls), *_pairs(fields, len(fields), depth + 1, budget, vmapped))
    if cls is torch.Size:
        return ("value", "Size", tuple(map(_dimension, value))) if budget.valued else ("type", "Size")
    for base in (tuple, list):
        if has_base(mro, base):
            label = base.__name__ if cls is base else _name(cls)
            return ("sequence", label, *_items(value, depth + 1, budget, vmapped, base))
    if has_base(mro, dict):
        label = "dict" if cls is dict else _name(cls)
        return (
            "mapping",
            label,
            *_pairs(dict.items(value), dict.__len__(value), depth + 1, budget, vmapped),
        )
    if not budget.valued:
        return ("type", _name(cls))
    if cls in CONSTANTS:
        return ("value", _name(cls), value)
    contents: list[Any] = []
    if _contents(value, cls, mro, 0, contents):
        return ("value", _name(cls), tuple(contents))
    return ("opaque", _name(cls))


def _scalar_key(value: Any, cls: type) -> Key:
    return (
        "value",
        cls.__name__,
        repr(value),
    )  # a nan is not equal to itself: it would be a new key every time


CONSTANTS: Final = (torch.dtype, torch.device, torch.memory_format, torch.layout, type(...))


def _contents(value: Any, cls: type, mro: Sequence[type], depth: int, contents: list[Any]) -> bool:
    """Append what an object holds, its numbers and the sizes of its tensors; False for one that cannot be looked into:
    it is written in C, a module, holds too much, or something of that sort.
    """
    if depth > MAX_DEPTH or is_opaque_class(mro):
        return False
    try:
        values = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return False
    contents.append(_name(cls))
    return type(values) is dict and _entries(values, depth, contents)


def _entries(entries_by_name: dict[Any, Any], depth: int, contents: list[Any]) -> bool:
    for name, item in dict.items(entries_by_name):
        if type(name) is not str and type(name) is not int:
            return False
        contents.append(name)
        if not _entry(item, depth, contents):
            return False
    return len(contents) < MAX_OBJECT_LEAVES


def _entry(item: Any, depth: int, contents: list[Any]) -> bool:
    cls = type(item)
    if cls is torch.Tensor or cls is torch.nn.Parameter:
        sizes = item.shape
        contents.append(sizes)
        return not item.is_nested and all(type(size) is int for size in sizes)
    if item is None or cls is bool or cls is int or cls in CONSTANTS:
        contents.append(item)
        return True
    if cls is str:
        contents.append(hash(item))
        return True
    if cls is float:
        contents.append(repr(item))
        return True
    if cls is list or cls is tuple:
        contents.append(len(item))
        small = depth < MAX_DEPTH and len(contents) < MAX_OBJECT_LEAVES
        return small and all(_entry(one, depth + 1, contents) for one in item)
    mro = bases(cls)
    if has_base(mro, dict):
        return _entries(item, depth + 1, contents) if depth < MAX_DEPTH else False
    if cls is weakref.ReferenceType or has_base(mro, type):
        return True
    return _contents(item, cls, mro, depth + 1, contents)


def is_opaque_class(mro: Sequence[type]) -> bool:
    """True if no instance of a class can be looked into, told from the class and its bases."""
    return not all(_is_data(base) for base in mro)


_HEAP_TYPE: Final = 1 << 9
_FLAGS: Final = type.__dict__["__flags__"]


def _is_data(base: type) -> bool:
    """True if what a class holds is in the `__dict__` of its instances."""
    if base is object:
        return True
    slots = namespace(base).get("__slots__", ())
    return bool(_FLAGS.__get__(base) & _HEAP_TYPE) and slots == () and base is not torch.nn.Module


def _dimension(size: Any) -> Any:
    return size if type(size) is int else str(size)


def fields_of(value: Any, kind: type, mro: Sequence[type]) -> list[tuple[str, Any]] | None:
    """Fields of a namedtuple or dataclass, read past any property or `__getattr__` of the class."""
    found = defined(kind, "_fields") if has_base(mro, tuple) else None
    names = found[1] if found is not None else None
    if type(names) is tuple and len(names) == tuple.__len__(value):
        return list(zip(map(str, names), tuple.__iter__(value), strict=False))
    found = defined(kind, "__dataclass_fields__")
    if found is None or type(found[1]) is not dict:
        return None
    declared = found[1]
    held = instance_dict(value)
    fields: list[tuple[str, Any]] = []
    for name in declared:
        slot = defined(kind, name)
        if name in held:
            fields.append((str(name), held[name]))
        elif slot is not None and type(slot[1]) is MemberDescriptorType:
            fields.append((str(name), slot[1].__get__(value)))
    if has_base(mro, dict):  # a transformers ModelOutput: absent outputs are fields that hold None
        fields = [(name, item) for name, item in fields if item is not None]
    return fields


def has_base(mro: Sequence[type], base: type) -> bool:
    """True if a class is among the bases of another, by identity."""
    return any(one is base for one in mro)


def instance_dict(value: Any) -> dict[str, Any]:
    """The attributes that an instance itself holds, read past its class."""
    try:
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return held if type(held) is dict else {}


def _items(values: Any, depth: int, budget: _Budget, vmapped: bool, base: type = tuple) -> Iterable[Key]:
    total = base.__len__(values)  # type: ignore[attr-defined]
    keys: list[Key] = []
    for item in base.__iter__(values):  # type: ignore[attr-defined]
        if budget.left <= 0:
            break
        keys.append(_key(item, depth, budget, vmapped))
    if total > len(keys):
        keys.append(("more", total - len(keys)))
    return keys


def entry_name(name: Any) -> str:
    """A key of a dict as places have it: a text, a number, or its class, as others run code of theirs."""
    return name[:60] if type(name) is str else str(name) if type(name) is int else _name(type(name))


def _pairs(
    pairs: Iterable[tuple[Any, Any]], total: int, depth: int, budget: _Budget, vmapped: bool
) -> Iterable[Key]:
    keys: list[Key] = []
    for name, item in pairs:
        if budget.left <= 0:
            break
        shown = entry_name(name)
        keys.append((shown, _key(item, depth, budget, vmapped)))
    if total > len(keys):
        keys.append(("...", ("more", total - len(keys))))
    return keys


def _tensor_key(value: Any, cls: type, vmapped: bool) -> Key:
    """A tensor whose attributes may be absent, symbolic or guarded: everything becomes text or a plain int."""
    if not READS_WRAPPERS and defined(cls, "__torch_dispatch__") != _NO_OPERATIONS:
        return ("type", _name(cls))
    with without_dispatch():  # a wrapper subclass would be asked for its sizes by an operation
        return _read_tensor(value, cls, vmapped)


def _read_tensor(value: Any, cls: type, vmapped: bool) -> Key:
    mark = "" if cls in _PLAIN else _name(cls)
    if vmapped and is_batched(value):
        mark = f"{mark} vmap".strip()
    placements = _placements(value) if mark == "DTensor" else ""
    return (
        "tensor",
        mark + placements,
        _read(lambda: tuple(d if type(d) is int else str(d) for d in value.shape)),
        _read(lambda: _dtype(value.dtype)),
        _read(lambda: str(value.device)),
        _read(lambda: bool(value.requires_grad)),
        _read(lambda: _layout(value.layout)),
    )


def _read(attribute: Any) -> Any:
    try:
        return attribute()
    except Exception:
        return None


def _placements(value: Any) -> str:
    spec = instance_dict(value).get("_spec")
    return str(getattr(spec, "placements", "")) if spec is not None else ""


def _name(cls: type) -> str:
    return class_name(cls)[:120]


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _layout(layout: Any) -> str:
    return str(layout).removeprefix("torch.")


def _no_one_asks(_number: int, _key: Key) -> None:
    pass


class Signatures:
    """The interned keys of one trace. `number` is called by the hooks; `rows` by the writer of a block."""

    def __init__(self) -> None:
        self.known: dict[Key, int] = {}
        self.seen: Callable[[int, Key], None] = _no_one_asks
        """Is seen of each new key."""
        self._fresh: list[tuple[int, Key]] = []
        self._count = 0
        self._valued = 0
        self._keys: dict[int, Key] = {}
        self._older_keys: dict[int, Key] = {}
        self.empty = self.number(EMPTY)

    def number(self, key: Key) -> int:
        """The number of a key, a new one for a new key. A dict and two list operations: safe in any thread."""
        known = self.known.get(key)
        if known is not None:
            return known
        if _has_values(key):
            self._valued += 1
            if self._valued > MAX_VALUED:
                return self.number(_without_values(key))
        if len(self.known) >= MAX_KEYS:
            self.known.clear()
            self._older_keys, self._keys = self._keys, {}
        check_room()
        number = self._count
        self._count = number + 1
        self._fresh.append((number, key))
        self.known[key] = number
        self.seen(number, key)
        return number

    def of_tensor(self, value: Any) -> int:
        """The number of one plain tensor."""
        with without_functions():
            key = (value.shape, value.dtype, value.device, value.requires_grad, value.layout)
        number = self.known.get(key)
        return self.number(key) if number is None else number

    def joined(self, args: int, kwargs: int) -> int:
        """The number for positional and keyword arguments together."""
        return self.number(("call", args, kwargs))

    def rows(self) -> dict[str, list[Any]]:
        """Rows of the `signatures` table not handed out before; empty lists when there are none."""
        fresh, self._fresh = self._fresh, []
        for number, key in fresh:
            self._keys[number] = key
        opaque = [self._is_opaque(key) for _, key in fresh]
        described = [self._describe(key) for _, key in fresh]
        return {
            "signature": [number for number, _ in fresh],
            "text": [text for text, _ in described],
            "tensors": [tensors for _, tensors in described],
            "opaque": opaque,
        }

    def _is_opaque(self, key: Any) -> bool:
        if key[0] != "call":
            return _opaque(key)
        parts = [self._keys.get(part) or self._older_keys.get(part) for part in key[1:]]
        return any(part is None or _opaque(part) for part in parts)

    def _describe(self, key: Any) -> tuple[str, list[dict[str, Any]]]:
        try:
            tensors: list[dict[str, Any]] = []
            if key[0] == "call":
                parts = [self._keys.get(part) or self._older_keys.get(part) for part in key[1:]]
                texts = [_text(part, "", tensors) if part is not None else "?" for part in parts]
                return plain(", ".join(filter(None, texts)), TEXT_LIMIT), tensors
            return plain(_text(key, "", tensors), TEXT_LIMIT), tensors
        except Exception:  # an odd key costs its text, never the recording
            return "?", []


def text_of(key: Any) -> str:
    """The text of a key: `f32[2,8], mask=bool[2,8]`."""
    return plain(_text(key, "", []), TEXT_LIMIT)


def described(key: Any) -> list[dict[str, Any]]:
    """The tensors of a key, as rows of the schema's `tensors`."""
    tensors: list[dict[str, Any]] = []
    _text(key, "", tensors)
    return tensors


def _parts(key: Any) -> Iterable[Any]:
    """The keys that a key is made of; none for that of a leaf."""
    tag = key[0]
    if tag == "args":
        return tuple(key[1:])
    if tag == "sequence":
        return tuple(key[2:])
    named = key[1:] if tag == "kwargs" else key[2:] if tag in ("mapping", "fields") else ()
    return [part for _, part in named]


def _has_values(key: Any) -> bool:
    return key[0] == "value" or any(_has_values(part) for part in _parts(key))


def _without_values(key: Any) -> Any:
    """A key with its values left out."""
    tag = key[0]
    if tag == "value":
        return ("opaque", key[1])
    if tag == "args":
        return ("args", *map(_without_values, key[1:]))
    if tag == "sequence":
        return (*key[:2], *map(_without_values, key[2:]))
    if tag == "kwargs":
        return ("kwargs", *((name, _without_values(part)) for name, part in key[1:]))
    if tag in ("mapping", "fields"):
        return (*key[:2], *((name, _without_values(part)) for name, part in key[2:]))
    return key


def _opaque(key: Any) -> bool:
    """True if something of a structure was not looked into: work may depend on it."""
    tag = key[0]
    if tag in ("opaque", "more") or key == UNKNOWN:
        return True
    if tag == "tensor":
        return key[2] is None or any(type(size) is not int for size in key[2])
    return any(_opaque(part) for part in _parts(key))


def _text(key: Any, path: str, tensors: list[dict[str, Any]]) -> str:
    tag = key[0]
    if tag == "args":
        return _joined([_text(k, str(i), tensors) for i, k in enumerate(key[1:])])
    if tag == "kwargs":
        return ", ".join(f"{name}={_text(k, name, tensors)}" for name, k in key[1:])
    if tag in ("type", "value", "opaque"):
        return str(key[1])
    if tag == "more":
        return f"... {key[1]} more"
    prefix = f"{path}." if path else ""
    if tag == "sequence":
        texts = [_text(k, f"{prefix}{i}", tensors) for i, k in enumerate(key[2:])]
        remaining, right = ("[", "]") if key[1] == "list" else ("(", ")")
        name = "" if key[1] in ("list", "tuple") else key[1]
        return f"{name}{remaining}{_joined(texts)}{right}"
    if tag == "mapping":
        inside = ", ".join(f"{name}: {_text(k, prefix + name, tensors)}" for name, k in key[2:])
        return f"{'' if key[1] == 'dict' else key[1]}{{{inside}}}"
    if tag == "fields":
        inside = ", ".join(f"{name}={_text(k, prefix + name, tensors)}" for name, k in key[2:])
        return f"{key[1]}({inside})"
    return _tensor_text(key, path, tensors)


def _joined(texts: list[str]) -> str:
    """Texts with runs of equal ones folded: `f32[2] x24`."""
    runs = [(text, len(list(group))) for text, group in groupby(texts)]
    return ", ".join(text if count == 1 else f"{text} x{count}" for text, count in runs)


def _tensor_text(key: Any, path: str, tensors: list[dict[str, Any]]) -> str:
    if key[0] == "tensor":
        _, mark, shape, dtype, device, requires_grad, layout = key
    else:
        shape, dtype, device, requires_grad, layout = key
        mark, shape, dtype, device, layout = "", tuple(shape), _dtype(dtype), str(device), _layout(layout)
    tensors.append(
        {
            "path": plain(path, TEXT_LIMIT),
            "shape": None if shape is None else [d if type(d) is int else None for d in shape],
            "dtype": dtype or "?",
            "device": device or "?",
            "layout": layout or "?",
            "requires_grad": bool(requires_grad),
        }
    )
    sizes = "?" if shape is None else ",".join(map(str, shape))
    if shape is None and (layout in (None, "strided")):
        return "nested[?]"
    where = "" if device in ("cpu", None) else f"@{device}"
    class_text = "" if layout in ("strided", None) else f":{layout}"
    name = f"{mark}:" if mark else ""
    return f"{name}{SHORT_DTYPES.get(dtype or '', dtype or '?')}[{sizes}]{class_text}{where}"
