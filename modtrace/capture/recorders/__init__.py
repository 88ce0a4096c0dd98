"""The recorders, a file each. Importing them imports no torch: each imports what it needs of it in `start`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Final

from modtrace.capture.engine.recorder import Recorder, RecorderOption
from modtrace.trace.schema import TABLES

_REGISTERED: Final[dict[str, type[Recorder]]] = {}
_FOUND: Final[list[bool]] = []


def register(recorder: type[Recorder]) -> type[Recorder]:
    """Add a recorder to those that every trace has, as a decorator. One of the same name is replaced."""
    _REGISTERED[recorder.name] = recorder
    TABLES.update(recorder.new_tables)
    return recorder


def unregister(name: str) -> None:
    """Take a recorder out again; does nothing where there is none of that name."""
    recorder = _REGISTERED.pop(name, None)
    for table in recorder.new_tables if recorder is not None else ():
        TABLES.pop(table, None)


def recorders() -> list[type[Recorder]]:
    """All recorders in the order in which they start."""
    if not _FOUND:
        _FOUND.append(True)
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_REGISTERED.values(), key=lambda recorder: (recorder.order, recorder.name))


def options() -> list[tuple[str, RecorderOption]]:
    """(name of the recorder, its option) of those that are asked for."""
    return [
        (recorder.name, option)
        for recorder in recorders()
        if recorder.option is not None
        for option in (recorder.option, *recorder.further_options)
    ]


def option_texts(values: Mapping[str, object]) -> dict[str, str]:
    """The options that differ from their defaults as texts, by argument: `on`, `off`, or the value."""
    texts = {}
    for _, option in options():
        value = values.get(option.argument)
        if option.argument in values and value != option.default:
            texts[option.argument] = str(value) if not isinstance(value, bool) else "on" if value else "off"
    return texts
