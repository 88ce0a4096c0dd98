"""Lines of the program: the innermost frame that is neither torch's nor ours."""

from __future__ import annotations

import os
from types import CodeType, FrameType
from typing import Final

import torch

_NOT_THE_PROGRAMS: Final = (
    os.path.join(os.path.dirname(torch.__file__), ""),
    os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), ""),
    "<frozen ",
)
_MANY_CODES: Final = 5_000
_MOST_FRAMES: Final = 200
_KNOWN: Final[dict[int, tuple[CodeType, bool]]] = {}
"""By the id of code, whose hash costs much: the code, and whether it is the program's."""


def program_line(frame: FrameType | None) -> tuple[str, int] | None:
    """(file, line) of the innermost frame of the program from `frame` up; None for none."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return None
        code = frame.f_code
        known = _KNOWN.get(id(code))
        if known is None or known[0] is not code:
            if len(_KNOWN) >= _MANY_CODES:
                _KNOWN.clear()
            known = _KNOWN[id(code)] = code, not code.co_filename.startswith(_NOT_THE_PROGRAMS)
        if known[1]:
            return code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None
