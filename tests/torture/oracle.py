"""What was called, according to python's own profiler: every frame of `Module._wrapped_call_impl`.

It shares nothing with modtrace: no hooks, no clock, no notion of a tree but which of those frames are alive. Where that
function is replaced, a frame that runs in its place has its name and file.
"""

from __future__ import annotations

import dis
import sys
import threading
import weakref
from dataclasses import dataclass
from types import FrameType

from torch import nn

_CODE = nn.Module._wrapped_call_impl.__code__
_RETURNS = frozenset(dis.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in dis.opmap)


def _is_call(frame: FrameType | None) -> bool:
    return (
        frame is not None
        and frame.f_code.co_name == _CODE.co_name
        and frame.f_code.co_filename == _CODE.co_filename
    )


def _class_name(kind: type) -> str:
    """The name itself, also where a metaclass makes `__name__` raise."""
    return type.__dict__["__name__"].__get__(kind)


@dataclass
class OracleCall:
    """One frame: `module` numbers instances in order of first sight, `type` is the class name at the end."""

    thread: int
    depth: int
    parent: int
    module: int
    type: str = ""
    returned: bool | None = None


class Oracle:
    """`with Oracle() as oracle:` then `oracle.calls`, those of one thread in order of their start."""

    def __init__(self) -> None:
        self.calls: list[OracleCall] = []
        self.modules: list[weakref.ref[nn.Module]] = []
        self.lives: list[tuple[int, int]] = []
        """Of each module how many calls there had been when it was first called, and when it died."""
        self._numbers: dict[int, int] = {}
        self._threads = threading.local()
        self._thread_count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Oracle:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_exception: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if not _is_call(frame) or _is_call(
            frame.f_back
        ):  # the second: what is replaced may call the original
            return
        if event == "call":
            self._enter(frame)
        elif event == "return":
            self._leave(frame)

    def _enter(self, frame: FrameType) -> None:
        with self._lock:
            thread, stack = self._this_thread()
            parent = stack[-1] if stack else -1
            module = self._number(frame.f_locals["self"])
            stack.append(len(self.calls))
            self.calls.append(OracleCall(thread, len(stack) - 1, parent, module))

    def _leave(self, frame: FrameType) -> None:
        with self._lock:
            _, stack = self._this_thread()
            call = self.calls[stack.pop()]
            call.type = _class_name(type(frame.f_locals["self"]))
            # python tells a profiler of both ends as "return"; the instruction the frame stopped at differs.
            call.returned = frame.f_code.co_code[frame.f_lasti] in _RETURNS

    def _this_thread(self) -> tuple[int, list[int]]:
        if not hasattr(self._threads, "stack"):
            self._threads.number = self._thread_count
            self._threads.stack = []
            self._thread_count += 1
        return self._threads.number, self._threads.stack

    def _number(self, module: nn.Module) -> int:
        number = self._numbers.get(id(module))
        if number is None or self.modules[number]() is not module:
            number = len(self.modules)
            self._numbers[id(module)] = number
            self.modules.append(weakref.ref(module, lambda _: self._died(number)))
            self.lives.append((len(self.calls), 1 << 62))
        return number

    def _died(self, number: int) -> None:
        self.lives[number] = (self.lives[number][0], len(self.calls))

    def by_thread(self) -> list[list[OracleCall]]:
        """The calls of each thread, threads in order of their first call."""
        threads: dict[int, list[OracleCall]] = {}
        for call in self.calls:
            threads.setdefault(call.thread, []).append(call)
        return list(threads.values())
