"""Python functions that are called in place of torch's: out of the way of warnings, log records and tracebacks.

A warning says how many frames up it belongs to (`stacklevel`), and so does a log record. python does not count frames
of its import system there, which it knows by their file names: a stand-in has such a name. An exception that leaves a
stand-in loses that frame, so that whoever prints it prints what there would be without us.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

from modtrace.capture.torch_private.spelled import OPERATIONS

_CALL: Final = "__call__"
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
_FOLDERS: Final = tuple(os.path.join(_PACKAGE, name, "") for name in ("capture", "launch"))
_OPERATIONS: Final = os.path.join(*OPERATIONS)
_UNCOUNTED: Final = " (as importlib._bootstrap)"
"""Text that python looks for in the name of a file whose frames it does not count."""


def uncounted(function: Callable[..., Any]) -> None:
    """Make the frames of a function such that warnings and log records do not count them."""
    function.__code__ = _uncounted(function.__code__)


@functools.cache
def _uncounted(code: CodeType) -> CodeType:
    """The same code under a name that is not counted: one for all traces of a process."""
    if code.co_filename.endswith(_UNCOUNTED):
        return code
    return code.replace(co_filename=code.co_filename + _UNCOUNTED)


def is_stand_in(code: CodeType) -> bool:
    """True if code is that of a stand-in, or of what one calls."""
    return code.co_filename.startswith(_FOLDERS)


def calls_operation(code: CodeType) -> bool:
    """True if code is that in which torch calls an operation through its object, as a dispatch mode must."""
    return code.co_name == _CALL and code.co_filename.endswith(_OPERATIONS)


def leave(error: BaseException) -> None:
    """Take the frame of the stand-in that catches an exception off its traceback; a bare `raise` must follow."""
    entry = error.__traceback__
    while entry is not None and is_stand_in(entry.tb_frame.f_code):
        entry = entry.tb_next
        while entry is not None and calls_operation(entry.tb_frame.f_code):
            entry = entry.tb_next
    BaseException.with_traceback(error, entry)
