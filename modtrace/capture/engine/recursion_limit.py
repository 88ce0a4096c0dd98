"""Python's limit of recursion: a call next to it is not recorded, or without times, and the recording goes on.

A `RecursionError` in the middle of a step that changes more than the thread buffer would leave that half done. Such a
step looks first whether the stack has room for it.
"""

from __future__ import annotations

import sys
from typing import Final

MISSED: Final = "{} calls next to python's limit of recursion are not recorded, or without times"
STEP_FRAMES: Final = 60
"""Frames of the stack that a step of recorders takes, at the most."""
DEEP: Final = 3
"""A stack is deep when its frames of Python, which are most of what counts, are that part of the limit."""
BLOCK_FRAMES: Final = 150
"""Frames that writing a block takes, with what it may import."""


def check_room(frames: int = STEP_FRAMES) -> None:
    """Look whether so many frames fit on the stack.

    Raises:
        RecursionError: they do not.
    """
    try:
        sys._getframe(sys.getrecursionlimit() // DEEP)
    except ValueError:  # the stack is not as deep as that
        return
    _descend(frames)


def _descend(frames: int) -> None:
    """Python counts calls of C too, so nothing but going there says whether it is possible."""
    if frames:
        _descend(frames - 1)
