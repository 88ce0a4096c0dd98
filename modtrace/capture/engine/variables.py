"""Holders of modules: the variable or attribute by which the code that calls it reaches it.

Frames are read when a root module is called for the first time, outermost torch's own left out. No code of the program
runs: values are compared by identity, and instances are looked into past `__getattribute__`, properties and
`__class__`. No frame and none of its variables is kept.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import sys
from collections.abc import Hashable, Iterator
from inspect import CO_OPTIMIZED
from operator import itemgetter
from types import (
    CodeType,
    FrameType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import class_name, defined, inherits, namespace
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

MANY_FRAMES: Final = 12
MANY_MISSES: Final = 4
"""Modules that nothing holds, after which a place is not searched any more."""
MANY_SEARCHES: Final = 256
"""Modules first called in one place, after which it is only looked for variables that are the module."""
MANY_PLACES: Final = 1_000
MANY_VARIABLES: Final = 20_000
MANY_ITEMS: Final = 1_000
"""Elements of a list or dictionary that are looked at."""
FEW_ITEMS: Final = 8
"""Of a list or dictionary that is no longer than that the elements are looked into."""
MANY_HOLDERS: Final = 200
"""Objects that are looked into for one frame."""
DEEP: Final = 3
"""Attributes of attributes: `self.agent.policy.net`."""

_ATOMS: Final = frozenset(
    map(
        id,
        (
            str,
            bytes,
            int,
            float,
            bool,
            complex,
            type(None),
            torch.Tensor,
            torch.nn.Parameter,
            FunctionType,
            type(len),
        ),
    )
)
"""Ids of types without attributes worth a look: a metaclass may answer for equality and hash."""
_TORCH: Final = os.path.dirname(torch.__file__) + os.sep
_HERE: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_PROXIES: Final = sys.version_info >= (3, 13)
"""True if `f_locals` of a function is a view of its variables; before, it is a copy that the frame keeps."""


class Variables:
    """Looks up what holds modules, for one trace. Places where nothing does are not searched for ever."""

    def __init__(self) -> None:
        self._searches: dict[Hashable, tuple[int, int]] = {}
        """Place -> how often it was searched, and how often in vain."""
        self._general: dict[Hashable, frozenset[str]] = {}

    def of(self, module: Any, frame: FrameType | None, place: Hashable = None) -> str | None:
        """The name by which the code around a call reaches a module: `G`, `nets[0]`, `Trainer.model`; None for none.

        A parameter or the variable of a loop names many modules one after another: where the callers have another
        name, that is taken.

        Args:
            module: what is called.
            frame: the innermost one around the call.
            place: where that is.
        """
        if len(self._searches) >= MANY_PLACES:
            self._searches.clear()
        searches, missed = self._searches.get(place, (0, 0))
        if missed >= MANY_MISSES:
            return None
        name = self._search(module, frame, deep=searches < MANY_SEARCHES)
        self._searches[place] = searches + 1, missed + (name is None)
        return None if name is None else plain(name, TEXT_LIMIT)

    def _search(self, module: Any, frame: FrameType | None, *, deep: bool) -> str | None:
        fallback = None
        for code, variables, local in _scopes(frame):
            name, general = None, False
            with contextlib.suppress(Exception):  # an odd namespace costs the name
                name, general = self._in_scope(module, code, variables, local=local, deep=deep)
            if name is not None and not general:
                return name
            fallback = fallback or name
        return fallback

    def _in_scope(
        self, module: Any, code: CodeType, variables: dict[str, Any], *, local: bool, deep: bool
    ) -> tuple[str | None, bool]:
        """The name of a module among some variables, and whether it is one that other modules have too."""
        direct = [name for name, value in list(variables.items()) if type(name) is str and _is(value, module)]
        direct.sort(key=lambda name: name.startswith("_"))
        general = self._general_names(code) if direct else frozenset()
        for name in direct:
            if name not in general:
                return name, False
        if not deep:
            return (direct[0], True) if direct else (None, False)
        mentioned = {*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars}
        first = code.co_varnames[0] if local and code.co_argcount else None
        holders = [(name, variables[name]) for name in mentioned & variables.keys()]
        shown = [
            (_shown(name, value, code) if name == first else name, value)
            for name, value in sorted(holders, key=itemgetter(0))
        ]
        path = _below(module, shown, mentioned)
        if path is not None:
            return path, False
        return (direct[0], True) if direct else (None, False)

    def _general_names(self, code: CodeType) -> frozenset[str]:
        key = (code.co_filename, code.co_firstlineno, code.co_name, len(code.co_code))
        known = self._general.get(key)
        if known is None:
            if len(self._general) >= MANY_PLACES:
                self._general.clear()
            known = self._general[key] = _general(code)
        return known


def _scopes(frame: FrameType | None) -> Iterator[tuple[CodeType, dict[str, Any], bool]]:
    """Code and variables of the frames around a call, its globals behind its locals; whether they are its locals."""
    count = 0
    while frame is not None and count < MANY_FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith((_TORCH, _HERE)):
            count += 1
            if code.co_flags & CO_OPTIMIZED:
                yield code, _locals(frame), True
            elif type(frame.f_locals) is dict and frame.f_locals is not frame.f_globals:
                yield code, frame.f_locals, True
            if len(frame.f_globals) <= MANY_VARIABLES:
                yield code, frame.f_globals, False
        frame = frame.f_back


def _locals(frame: FrameType) -> dict[str, Any]:
    """The variables of a function.

    Before Python 3.13 they are copied into a dictionary that lives as long as the frame: it is emptied again, unless
    the program has it too. Under a debugger, which may have changed it, it is not asked for.
    """
    if _PROXIES:
        return dict(frame.f_locals)
    if sys.gettrace() is not None:
        return {}
    shared = frame.f_locals
    copied = dict(shared)
    if sys.getrefcount(shared) <= 3:  # the frame's, this function's, and that of the question
        shared.clear()
    return copied


def _shown(name: str, value: Any, code: CodeType) -> str:
    """The first parameter of a method is shown by the class of what it is."""
    text = defined(type(value), code.co_name)
    method = text is not None and type(text[1]) is FunctionType and text[1].__code__ is code
    return class_name(type(value)) if method or name == "self" else name


def _below(module: Any, holders: list[tuple[str, Any]], mentioned: set[str]) -> str | None:
    """Where a module is inside of some objects, breadth first."""
    seen: set[int] = set()
    for _ in range(DEEP):
        following: list[tuple[str, Any]] = []
        for path, holder in holders:
            if id(type(holder)) in _ATOMS or id(holder) in seen or len(seen) > MANY_HOLDERS:
                continue
            seen.add(id(holder))
            for step, value, leads_on in _parts(holder, mentioned):
                if _is(value, module):
                    return path + step
                if leads_on:
                    following.append((path + step, value))
        holders = following
    return None


def _parts(holder: Any, mentioned: set[str]) -> Iterator[tuple[str, Any, bool]]:
    """Contents of an object: (text by which code reaches it, value, true if it may be looked into)."""
    cls = type(holder)
    if cls is list or cls is tuple:
        for index, value in enumerate(holder[:MANY_ITEMS]):
            yield f"[{index}]", value, len(holder) <= FEW_ITEMS
    elif cls is dict:
        for key, value in list(holder.items())[:MANY_ITEMS]:
            if type(key) is str or type(key) is int:
                yield f"[{key!r}]", value, len(holder) <= FEW_ITEMS
    elif cls is ModuleType:
        names = _instance_dict(holder, cls)
        yield from ((f".{name}", names[name], True) for name in mentioned & names.keys())
    else:
        if inherits(cls, torch.nn.Module):
            yield from _children(holder)
        yield from _attributes(holder, cls, mentioned)


def _attributes(holder: Any, cls: type, mentioned: set[str]) -> Iterator[tuple[str, Any, bool]]:
    """Attributes of an instance, in its dictionary, its slots or its class; of a class its own."""
    names: Any = namespace(holder) if cls is type else _instance_dict(holder, cls)
    for name, value in list(names.items())[:MANY_ITEMS]:
        if type(name) is str:
            yield f".{name}", value, name in mentioned
    for name in sorted(mentioned):
        slot = defined(cls, name)
        if slot is not None and type(slot[1]) is MemberDescriptorType:
            with contextlib.suppress(AttributeError):
                yield f".{name}", slot[1].__get__(holder), True
        elif slot is not None and inherits(type(slot[1]), torch.nn.Module):
            yield f".{name}", slot[1], False


def _children(holder: Any) -> Iterator[tuple[str, Any, bool]]:
    """Modules anywhere in the tree of one, by their names there."""
    from modtrace.capture.engine.modules import named_modules

    for index, (child, names) in enumerate(named_modules(holder, "")):
        if index >= MANY_VARIABLES:
            return
        if names[0]:
            yield f".{names[0]}", child, False


def _instance_dict(value: Any, cls: type) -> dict[str, Any]:
    """The attributes of an instance, read by python's own descriptor or not at all."""
    found = defined(cls, "__dict__")
    if found is None:
        return {}
    descriptor = type(found[1])
    if descriptor is not GetSetDescriptorType and descriptor is not MemberDescriptorType:
        return {}
    attributes = found[1].__get__(value)
    return attributes if type(attributes) is dict else {}


def _is(value: Any, module: Any) -> bool:
    """True if a value is the module, or calls it: a partial of it, or a method bound to it."""
    if value is module:
        return True
    if type(value) is functools.partial:
        return value.func is module
    return type(value) is MethodType and value.__self__ is module


def _general(code: CodeType) -> frozenset[str]:
    """Parameters, and variables that a loop or comprehension sets."""
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    loops: set[str] = set()
    setting = 0
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name == "FOR_ITER":
            setting = 1
        elif setting and name in ("UNPACK_SEQUENCE", "UNPACK_EX"):
            setting += (instruction.arg or 1) - 1
        elif setting and name.startswith("STORE_FAST_STORE_FAST"):  # Python 3.13: two at once
            loops.update(map(str, instruction.argval))
            setting = max(setting - 2, 0)
        elif setting and name.startswith("STORE_"):
            loops.add(str(instruction.argval))
            setting -= 1
        elif setting and name not in ("EXTENDED_ARG", "CACHE"):
            setting = 0
    return frozenset({*parameters, *loops})
