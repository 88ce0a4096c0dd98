"""Where an exception was raised: the last line of the program's own code, and the function of torch called there."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, NamedTuple

import torch

from modtrace.capture.engine.classes import inherits
from modtrace.capture.engine.signatures import described, keywords_key
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

_TORCH: Final = os.path.dirname(torch.__file__) + os.sep
_OURS: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_STANDARD: Final = tuple(
    os.path.normpath(path) + os.sep for name, path in sysconfig.get_paths().items() if "stdlib" in name
)
_INSTALLED: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
MOST_FRAMES: Final = 1_000
"""So many are looked at: a RecursionError has more."""


class RaisedAt(NamedTuple):
    """A line of the program, and what it called of torch: a Python function, such as those of
    `torch.nn.functional`, and the tensors that this was given (rows of the schema's `tensors`); None, and no tensors,
    where it called something else.
    """

    file: str | None
    line: int | None
    function: str | None
    arguments: list[dict[str, Any]]


UNKNOWN: Final = RaisedAt(None, None, None, [])


def raised_at(error: BaseException) -> RaisedAt:
    """Where an exception that is being handled came from. Raises nothing and keeps nothing of the frames."""
    try:
        return _raised_at(error)
    except Exception:
        return UNKNOWN


def _raised_at(error: BaseException) -> RaisedAt:
    raised = list(_traceback_frames(error))
    outer = raised[0][0].f_back if raised else sys._getframe()
    around = list(_frames_from(outer))
    for belongs in (_is_users, _is_librarys):
        for at in range(len(raised) - 1, -1, -1):
            frame, line = raised[at]
            if belongs(frame.f_code.co_filename):
                function, arguments = _called(raised[at + 1][0]) if at + 1 < len(raised) else (None, [])
                return RaisedAt(plain(frame.f_code.co_filename, TEXT_LIMIT), line, function, arguments)
        for frame in around:
            if belongs(frame.f_code.co_filename):
                return RaisedAt(plain(frame.f_code.co_filename, TEXT_LIMIT), frame.f_lineno, None, [])
    return UNKNOWN


def _traceback_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames of a traceback with their lines, outermost first, the last of them where there are many."""
    entry = error.__traceback__
    frames = []
    while entry is not None:
        frames.append((entry.tb_frame, entry.tb_lineno))
        entry = entry.tb_next
    yield from frames[-MOST_FRAMES:]


def _frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(MOST_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _is_librarys(file: str) -> bool:
    """True if a file is code of the program or of a library that it uses, not torch's, python's or ours."""
    if file.startswith((_TORCH, _OURS, "<frozen")):
        return False
    installed = any(part in file for part in _INSTALLED)
    return installed or not file.startswith(_STANDARD)


def _is_users(file: str) -> bool:
    return _is_librarys(file) and not any(part in file for part in _INSTALLED)


def _called(frame: FrameType) -> tuple[str | None, list[dict[str, Any]]]:
    """The function of torch that a frame runs, and the tensors among its arguments."""
    code = frame.f_code
    name = frame.f_globals.get("__name__")
    if not code.co_filename.startswith(_TORCH) or name != "torch.nn.functional":
        return None, []
    values = frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    tensors = {name: values[name] for name in names if name in values and _is_tensor(values[name])}
    return f"F.{code.co_name}", described(keywords_key(tensors))


def _is_tensor(value: Any) -> bool:
    return inherits(type(value), torch.Tensor)
