"""Tells the program's own files from those of torch, python, installed libraries, and ours. Standard library only."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from functools import cache
from typing import Final

_OURS: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_STANDARD: Final = tuple(
    os.path.normpath(path) + os.sep for name, path in sysconfig.get_paths().items() if "stdlib" in name
)
_INSTALLED: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))


def is_own(file: str) -> bool:
    """True for code of modtrace."""
    return file.startswith(_OURS)


@cache
def torch_folder() -> str:
    """The folder of torch, without importing it."""
    module = sys.modules.get("torch")
    file = getattr(module, "__file__", None)
    if file is None:
        spec = importlib.util.find_spec("torch") if module is None else None
        file = spec.origin if spec is not None else None
    return os.path.join(os.path.dirname(file), "") if file else os.sep + "nowhere" + os.sep


def is_of_program(file: str) -> bool:
    """True for code that is not torch's, python's, of an installed library or ours."""
    if file.startswith((_OURS, "<frozen", torch_folder())):
        return False
    return not file.startswith(_STANDARD) and not any(part in file for part in _INSTALLED)


def runs_script(file: str) -> bool:
    """True for what stands above a script that is run: ours, and what python runs modules with."""
    return is_own(file) or file.startswith("<frozen runpy") or os.path.basename(file) == "runpy.py"
