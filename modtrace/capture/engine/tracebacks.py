"""Makes an uncaught exception's traceback the one that plain python prints.

Two things differ while recording: frames of modtrace stand above the script's, and torch calls `forward` of a module
from a nested function as soon as there is any hook. Both are taken out when the traceback is printed: the first are
left off, and for a module that has no hooks of its own torch's direct call is shown, at the line and column it has.
"""

from __future__ import annotations

import dis
import runpy
import sys
from collections.abc import Collection
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from modtrace.capture.engine.stand_ins import calls_operation, is_stand_in
from modtrace.capture.torch_private.spelled import (
    CALL,
    FORWARD,
    GLOBAL_HOOKS,
    MODULE_HOOKS,
    NESTED_CALL,
)

_RUNPY: Final = ("<frozen runpy>", runpy.run_path.__code__.co_filename)
"""Files of what runs a module as a program; it is frozen from Python 3.11 on."""
_HANDS_OVER: Final = "handle_torch_function"
_DEEP: Final = 4
"""So many frames at the most a function of torch has above the one that hands it over to a mode, with that."""


def clean(error: BaseException, traceback: TracebackType | None, own_files: Collection[str]) -> BaseException:
    """The exception with the traceback of plain python, and those that it was raised from likewise."""
    seen: set[int] = set()
    pending = [error.__cause__, error.__context__]
    while pending:
        other = pending.pop()
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            other.with_traceback(_direct(_below(other.__traceback__, own_files)))
            pending += [other.__cause__, other.__context__]
    return error.with_traceback(_direct(_below(traceback, own_files)))


def _below(traceback: TracebackType | None, own_files: Collection[str]) -> TracebackType | None:
    """The traceback below the frames of some files at its head, and of what python puts above and between them."""
    below = entry = traceback
    while entry is not None and entry.tb_frame.f_code.co_filename in (*own_files, *_RUNPY):
        if entry.tb_frame.f_code.co_filename not in _RUNPY:
            below = entry.tb_next
        entry = entry.tb_next
    return below


def _direct(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback with torch's hooked calls of hookless modules shown as the direct calls they are without us, and
    without the frames that stand in for functions of torch.
    """
    torch: Any = sys.modules.get("torch")
    module: Any = getattr(getattr(torch, "nn", None), "Module", None)
    code = getattr(getattr(module, CALL, None), "__code__", None)
    place = _direct_call(code) if isinstance(code, CodeType) else None
    entries = _without_stand_ins(traceback)
    shown: TracebackType | None = None
    if not entries:
        return shown
    skip = False
    for entry, above in zip(reversed(entries), [*reversed(entries[:-1]), None], strict=True):
        if skip and place is not None:
            shown = TracebackType(shown, entry.tb_frame, *place)
            skip = False
        elif (
            place is not None
            and above is not None
            and above.tb_frame.f_code is code
            and _nested(entry, above)
        ):
            skip = True
        else:
            shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown


def _without_stand_ins(traceback: TracebackType | None) -> list[TracebackType]:
    """The entries that would be there without what stands in for functions of torch.

    A function of torch that is written in Python hands itself over to a mode, which calls it again: of the two the
    second is kept. An operation that a mode sees is called through its object.
    """
    entries: list[TracebackType] = []
    stood_in = False
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_stand_in(code):
            stood_in = True
        elif not (stood_in and calls_operation(code)):
            _drop_handed_over(entries, code)
            entries.append(traceback)
            stood_in = False
        traceback = traceback.tb_next
    return entries


def _drop_handed_over(entries: list[TracebackType], code: CodeType) -> None:
    """Drop the frames of a function that has handed itself over and is called again. A mode or a class of the program's
    would have a frame of its own in between.
    """
    if not entries or entries[-1].tb_frame.f_code.co_name != _HANDS_OVER:
        return
    for entry in range(len(entries) - 2, max(len(entries) - 1 - _DEEP, -1), -1):
        if entries[entry].tb_frame.f_code is code:
            del entries[entry:]
            return


def unlink(error: BaseException) -> None:
    """Take what stands in for functions of torch out of the traceback of an exception that is on its way."""
    first = error.__traceback__
    if first is None:
        return
    entries = _without_stand_ins(first)
    if not entries or entries[0] is not first:
        return
    for entry, following in zip(entries, [*entries[1:], None], strict=True):
        if entry.tb_next is not following:
            entry.tb_next = following


def _nested(entry: TracebackType, above: TracebackType) -> bool:
    """True if a frame is torch's nested function that called the forward of a module without hooks."""
    code = entry.tb_frame.f_code
    return (
        code.co_name == NESTED_CALL
        and code.co_filename == above.tb_frame.f_code.co_filename
        and not _hooked(above.tb_frame)
    )


def _hooked(frame: FrameType) -> bool:
    """True if the module whose call a frame runs has hooks, or there are global ones, that are not ours: the ids of
    those are below zero.
    """
    frames = getattr(frame.f_locals.get("self"), "__dict__", {})
    tables = [frames.get(name) for name in MODULE_HOOKS] + [
        frame.f_globals.get(name) for name in GLOBAL_HOOKS
    ]
    return any(key >= 0 for table in tables if table for key in table)


def _direct_call(code: CodeType) -> tuple[int, int] | None:
    """(instruction, line) of the call of forward that torch makes where there are no hooks."""
    ready = False
    for instruction in dis.get_instructions(code):
        if instruction.argval == FORWARD and instruction.opname.startswith("LOAD"):
            ready = True
        elif ready and instruction.opname.startswith("CALL"):
            for start, line in reversed(list(dis.findlinestarts(code))):
                if start <= instruction.offset and line is not None:
                    return instruction.offset, line
        elif instruction.opname.startswith("RETURN"):
            ready = False
    return None
