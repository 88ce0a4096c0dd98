"""The open module calls on a Python stack, and the frames of their forwards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from modtrace.capture.debugger.own_code import is_of_program, is_own

MOST_MODULES: Final = 100_000


@dataclass(frozen=True)
class ModuleFrame:
    """A module call that is open on a stack.

    index: of the frame that runs its forward, in the stack.
    name: FQN in the outermost module; "" for that itself, and for one that is not below it.
    inputs: shapes and dtypes of its arguments, as text.
    """

    index: int
    module: Any
    name: str
    type: str
    inputs: str


def module_frames(frames: Sequence[FrameType]) -> list[ModuleFrame]:
    """The module calls that are open on a stack, the outermost first.

    Args:
        frames: the stack, the outermost first.
    """
    runner = _runner_code()
    if runner is None:
        return []
    opened = [index for index, frame in enumerate(frames) if frame.f_code is runner]
    names: dict[int, str] | None = None
    calls = []
    for index, end in zip(opened, [*opened[1:], len(frames)], strict=True):
        variables = frames[index].f_locals
        module = variables.get("self")
        names = _names_below(module) if names is None else names
        inputs = _text(variables.get("args", ()), variables.get("kwargs", {}))
        calls.append(
            ModuleFrame(
                _forward_index(frames, index, end),
                module,
                names.get(id(module), ""),
                type(module).__name__,
                inputs,
            )
        )
    return calls


def frames_of(traceback: TracebackType | None) -> list[FrameType]:
    """The frames of a traceback, the outermost first."""
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def failing_frame(traceback: TracebackType | None) -> FrameType | None:
    """The innermost frame of the program's own code in a traceback; its last one where there is none.

    Where a module of the program's failed that is the frame inside of it; where one of torch's did, the caller's.
    """
    frames = frames_of(traceback)
    for frame in reversed(frames):
        if is_of_program(frame.f_code.co_filename):
            return frame
    return frames[-1] if frames else None


def _runner_code() -> CodeType | None:
    """Code of the frames that run module calls; None where torch is not imported."""
    module: Any = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
    if module is None:
        return None
    from modtrace.capture.torch_private.names import CALL_CODE

    return CALL_CODE


def code_of(module: Any) -> CodeType | None:
    """The code of a module's forward, behind decorators that say what they wrap; None where it is no Python."""
    function: Any = getattr(module, "forward", None)
    for _ in range(20):
        inner = getattr(function, "__wrapped__", None)
        if inner is None:
            inner = getattr(function, "__func__", None)
        if inner is None:
            inner = getattr(function, "func", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _forward_index(frames: Sequence[FrameType], runner: int, end: int) -> int:
    """The frame of the forward that a frame runs, before the next one that runs a call, at `end`: that of its code,
    else the first one that is not torch's calling of modules, or ours.
    """
    code, file = code_of(frames[runner].f_locals.get("self")), frames[runner].f_code.co_filename
    inside = range(runner + 1, end)
    others = [
        i for i in inside if frames[i].f_code.co_filename != file and not is_own(frames[i].f_code.co_filename)
    ]
    of_forward = [index for index in others if frames[index].f_code is code]
    return next(iter([*of_forward, *others]), runner)


def _names_below(module: Any) -> dict[int, str]:
    from modtrace.capture.engine.modules import named_modules

    names: dict[int, str] = {}
    for part, paths in named_modules(module, ""):
        names[id(part)] = paths[0]
        if len(names) >= MOST_MODULES:
            break
    return names


def _text(args: Any, kwargs: Any) -> str:
    """`(f32[2,8], mask=bool[2,8])`."""
    from modtrace.capture.engine.signatures import arguments_key, keywords_key, text_of

    parts = [text_of(arguments_key(tuple(args)))] if args else []
    parts += [text_of(keywords_key(dict(kwargs)))] if kwargs else []
    return f"({', '.join(parts)})"
