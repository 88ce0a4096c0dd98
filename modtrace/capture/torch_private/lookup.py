"""Looks private names of torch up, and keeps the table of them: what each is for, and whether this torch has it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

CALLS: Final = "calls"
PHASES: Final = "phases"
COMPILING: Final = "compiling"
FUNCTIONS: Final = "functions"
CUSTOM_FUNCTIONS: Final = "custom functions"
FLOPS: Final = "flops"
FORMULAS: Final = "formulas"
PROFILER: Final = "profiler"
DEVICE_ROWS: Final = "kernels of devices"
SAVED: Final = "saved"
CUDA_MEMORY: Final = "memory of CUDA devices"
CUDA_HISTORY: Final = "history of CUDA's allocator"
CUDA_MARKS: Final = "marks of threads in the history of CUDA's allocator"
CUDA_TIMES: Final = "device time"
XPU_TIMES: Final = "device time of XPU"
COLLECTIVES: Final = "collectives"
"""Features that names are for. Where any of FUNCTIONS, FLOPS, PROFILER, SAVED or one of CUDA's is absent, that is not
recorded; for each of the others something stands in.
"""


@dataclass
class PrivateName:
    """A row of the table.

    paths: from `torch` on; any of them will do, the first that there is is used. A part that ends in `()` is called.
    lost: what a trace lacks without it.
    part: what it is for.
    loads: the module that must be loaded for it to matter; None for one that always is.
    present: whether this torch has it.
    """

    paths: tuple[str, ...]
    lost: str
    part: str
    loads: str | None = None
    present: bool = True

    @property
    def gap(self) -> str:
        """The gap where it is absent."""
        return f"{self.lost}: torch {torch.__version__} has no {' or '.join(self.paths)}"


TABLE: Final[list[PrivateName]] = []


def look_up(path: str) -> tuple[Any, str]:
    """The object that holds a name, and the name in it; raises AttributeError where there is none."""
    parts = path.split(".")
    count = next((at for at in range(len(parts) - 1, 0, -1) if ".".join(parts[:at]) in sys.modules), 0)
    if not count:
        raise AttributeError(path)
    owner: Any = sys.modules[".".join(parts[:count])]
    for part in parts[count:-1]:
        owner = getattr(owner, part.removesuffix("()"))
        owner = owner() if part.endswith("()") else owner
    getattr(owner, parts[-1])
    return owner, parts[-1]


def find(path: str) -> tuple[Any, str] | None:
    """As `look_up`; None where there is none, whatever a module of another torch does when it is asked."""
    try:
        return look_up(path)
    except Exception:
        return None


def _first(paths: tuple[str, ...], lost: str, part: str, loads: str | None = None) -> tuple[Any, str] | None:
    value = next(filter(None, map(find, paths)), None)
    TABLE.append(PrivateName(paths, lost, part, loads, present=value is not None or loads is not None))
    return value


def take(*paths: str, lost: str, part: str = CALLS, instead: Any = None, loads: str | None = None) -> Any:
    """The value of a name; `instead` where this torch has none."""
    value = _first(paths, lost, part, loads)
    return getattr(*value) if value is not None else instead


def place(*paths: str, lost: str, part: str = CALLS) -> tuple[Any, str] | None:
    """Where a name stands: who holds it and what it is called there. None where this torch has none."""
    return _first(paths, lost, part)


def ask(*paths: str, lost: str, part: str = CALLS, instead: Any) -> Callable[[], Any]:
    """A question without arguments, of a function or of a variable that is read each time. Always `instead` where this
    torch has none, or one that wants to know more.
    """
    found = _first(paths, lost, part)
    if found is not None:
        owner, name = found
        value = getattr(owner, name)
        if not callable(value):
            return functools.partial(vars(owner).get, name, instead)
        try:
            value()
        except Exception:
            TABLE[-1].present = False
        else:
            question: Callable[[], Any] = value
            return question
    return lambda: instead


def later(path: str, loads: str, *, lost: str, part: str) -> Callable[[], Any]:
    """Gives out the value of a name in a module that may not be loaded yet; None where it is not, or there is none."""
    name = PrivateName((path,), lost, part, loads)
    TABLE.append(name)

    def get() -> Any:
        if loads not in sys.modules:
            return None
        value = find(path)
        return getattr(*value) if value is not None else None

    return get


def missing(*parts: str) -> list[str]:
    """Gaps for the names of some parts that this torch does not have now, as far as their modules are loaded."""
    return [name.gap for name in TABLE if name.part in parts and not _is_there(name)]


def _is_there(name: PrivateName) -> bool:
    if not name.present or (name.loads is not None and name.loads not in sys.modules):
        return name.present
    return any(map(find, name.paths))


def places(paths: Iterable[str]) -> Iterator[tuple[Any, str]]:
    """Where names stand, of those that this torch has and has loaded."""
    return filter(None, map(find, paths))


def places_in_core(names: Iterable[str]) -> Iterator[tuple[Any, str]]:
    """Where names of `torch._C` stand, of those that this torch has."""
    return filter(None, (find(f"torch._C.{name}") for name in names))
