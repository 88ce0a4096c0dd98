"""Runs a script, a module or a string as `python` would, in this process. Standard library only.

Exceptions are not caught: they leave through the interpreter, which prints them, sets the exit status or dies by the
signal as always; only our own frames are taken off the traceback on its way.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import io
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from modtrace.errors import UsageError
from modtrace.systems.open_files import as_main_file, portable_name
from modtrace.text import plain


@dataclass(frozen=True)
class Target:
    """The thing to run. `kind` is script, module or code; `what` the path, the module's name or the source text."""

    kind: str
    what: str
    args: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in a summary and in file names."""
        if self.kind == "code":
            return "-c"
        return os.path.basename(os.path.normpath(self.what)) if self.kind == "script" else self.what

    @property
    def stem(self) -> str:
        """The start of the default file name."""
        if self.kind == "code":
            return "command"
        return portable_name(os.path.splitext(self.name)[0] or "script")


def run(target: Target) -> None:
    """Run a target to its end; whatever it raises goes on up."""
    {"script": _run_script, "module": _run_module, "code": _run_code}[target.kind](target.what, target.args)


def check(target: Target) -> None:
    """Raise UsageError for a script that cannot be opened, before anything has been made or started."""
    if target.kind != "script":
        return
    path = target.what
    if _importer(path) is not None:
        _main_spec(path)
        return
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise UsageError(f"can't open file {plain(path)!r}: {error.strerror}") from None


def _main_module(loader: Any, file: str | None) -> ModuleType:
    module = ModuleType("__main__")
    module.__dict__.update(
        {
            "__builtins__": builtins,
            "__spec__": None,
            "__package__": None,
            "__loader__": loader,
        }
    )
    if sys.version_info < (3, 14):  # from then on annotations are made when they are asked for
        module.__dict__["__annotations__"] = {}
    if file is not None:
        module.__dict__.update({"__file__": file, "__cached__": None})
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


def _set_path(first: str) -> None:
    """`sys.path[0]` as python sets it; left alone where python sets none (-I, -P, PYTHONSAFEPATH)."""
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    sys.path[0:1] = [first]


def _run_script(path: str, args: Sequence[str]) -> None:
    sys.argv = [path, *args]
    importer = _importer(path)
    if importer is not None:  # a directory or archive: python runs its __main__
        if not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated):
            del sys.path[0]
        sys.path.insert(0, path)
        _run_main_of(path)
        return
    _set_path(os.path.dirname(os.path.realpath(path)))
    file = as_main_file(path)
    try:
        with io.open_code(file) as opened:
            source = opened.read()
    except OSError as error:
        raise UsageError(f"can't open file {plain(file)!r}: {error.strerror}") from None
    loader = importlib.machinery.SourceFileLoader("__main__", file)
    module = _main_module(loader, file)
    _execute(compile(source, file, "exec", dont_inherit=True), module)


def _importer(path: str) -> Any:
    if os.path.isfile(path) and path.endswith((".py", ".pyw")):
        return None
    for hook in sys.path_hooks:
        try:
            return hook(path)
        except ImportError:
            continue
    return None


def _main_spec(path: str) -> importlib.machinery.ModuleSpec:
    """The `__main__` of a directory or an archive.

    Raises:
        UsageError: it has none.
    """
    spec = importlib.machinery.PathFinder.find_spec("__main__", [path])
    if spec is None or spec.loader is None:
        raise UsageError(f"can't find '__main__' module in {plain(os.path.abspath(path))!r}")
    return spec


def _run_main_of(path: str) -> None:
    spec = _main_spec(path)
    assert spec.loader is not None
    code = spec.loader.get_code("__main__")  # type: ignore[attr-defined]
    module = _main_module(spec.loader, spec.origin)
    module.__dict__.update({"__spec__": spec, "__package__": ""})
    _execute(code, module)


def _run_code(source: str, args: Sequence[str]) -> None:
    sys.argv = ["-c", *args]
    _set_path("")
    module = _main_module(importlib.machinery.BuiltinImporter, None)
    code = compile(source, "<string>", "exec", dont_inherit=True)
    if sys.version_info >= (3, 13):  # from then on tracebacks show the lines of -c
        import linecache

        register_lines: Any = getattr(linecache, "_register_code", None)
        if register_lines is not None:
            by_code = hasattr(linecache, "_interactive_cache")  # 3.13.0 keeps them by name
            register_lines(code if by_code else "<string>", source, "<string>")
    _execute(code, module)


def _run_module(name: str, args: Sequence[str]) -> None:
    sys.argv = ["-m", *args]
    _set_path(os.getcwd())
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    as_main: Any = runpy._run_module_as_main  # type: ignore[attr-defined]  # noqa: SLF001 - what python itself runs for -m
    sys.modules["__mp_main__"] = main
    as_main(name)


def _execute(code: CodeType, module: ModuleType) -> None:
    exec(code, module.__dict__)  # noqa: S102 - this is what running a script is
