"""Exceptions that passed through calls: their type and first line, without running code of theirs."""

from __future__ import annotations

import builtins
from typing import Any, Final

from modtrace.capture.engine.classes import class_name
from modtrace.capture.engine.raised_at import RaisedAt, raised_at
from modtrace.capture.torch_private.spelled import EARLY_STOP
from modtrace.text import plain
from modtrace.trace.schema import MEMORY_MESSAGE_LIMIT, MESSAGE_LIMIT, OUT_OF_MEMORY, TEXT_LIMIT

_SIMPLE: Final = (str, int, float, bool, type(None))
_BUILTIN_TEXTS: Final = {
    kind.__dict__["__str__"]
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, BaseException) and "__str__" in kind.__dict__
}


class Errors:
    """The exceptions of one trace, numbered as they are seen."""

    def __init__(self, *, messages: bool) -> None:
        self._messages = messages
        self._rows: list[tuple[int, str, str | None, RaisedAt, bool]] = []
        self._count = 0

    def number(self, error: BaseException, *, left_calls: bool = True) -> int:
        """A new number for an exception just seen for the first time. No reference to it is kept.

        `left_calls` is whether it left a call, a backward or an optimizer's step; else it ended the recording without.
        """
        number = self._count
        self._count = number + 1
        name = plain(class_name(type(error)), TEXT_LIMIT)
        message = first_line(error) if self._messages else None
        self._rows.append((number, name, message, raised_at(error), left_calls))
        return number

    @property
    def has_rows(self) -> bool:
        """True if there are rows not handed out before."""
        return bool(self._rows)

    def rows(self) -> dict[str, list[Any]]:
        """Rows of the `errors` table not handed out before."""
        rows, self._rows = self._rows, []
        return {
            "error": [number for number, *_ in rows],
            "type": [name for _, name, *_ in rows],
            "message": [message for _, _, message, *_ in rows],
            "source_file": [place.file for *_, place, _ in rows],
            "source_line": [place.line for *_, place, _ in rows],
            "function": [place.function for *_, place, _ in rows],
            "arguments": [place.arguments for *_, place, _ in rows],
            "left_calls": [left_calls for *_, left_calls in rows],
        }


def first_line(error: BaseException) -> str | None:
    """The first line of the message; None when only code of the exception's own class could tell."""
    text = _message(error)
    if text is None:
        return None
    lines = text.strip().splitlines()
    # What torch says when memory runs out is one long line; the numbers that matter come late in it.
    return plain(lines[0], MEMORY_MESSAGE_LIMIT if "allocat" in lines[0] else MESSAGE_LIMIT) if lines else ""


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, told without running code of the exception's own class."""
    cls = type(error)
    if cls is not RuntimeError:
        return issubclass(cls, MemoryError) or class_name(cls) == "OutOfMemoryError"
    text = _message(error)
    return text is not None and any(words in text for words in OUT_OF_MEMORY)


def _message(error: BaseException) -> str | None:
    args = BaseException.__dict__["args"].__get__(error)
    method = next(base.__dict__["__str__"] for base in type(error).__mro__ if "__str__" in base.__dict__)
    if all(type(arg) in _SIMPLE for arg in args) and method in _BUILTIN_TEXTS:
        return str(error)
    if args and type(args[0]) is str:
        return args[0]
    return None


def is_early_stop(error: BaseException) -> bool:
    """True if this is how activation checkpointing ends a recomputation that has come far enough: no fault."""
    cls = type(error)
    return (cls.__module__, cls.__name__) == EARLY_STOP
