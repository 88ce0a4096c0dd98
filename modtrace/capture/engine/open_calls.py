"""Calls that are open when recording stops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from modtrace.capture.engine.module_calls import RUNNERS
from modtrace.capture.engine.thread_buffer import ThreadBuffer


def abort_left(buffers: Iterable[ThreadBuffer]) -> None:
    """Say which open calls are not running any more: a `BaseException` left them, or their thread has ended."""
    live = _running_calls()
    for buffer in buffers:
        depth = len(buffer.calls)
        while (
            depth and buffer.calls[depth - 1][0] not in live and buffer.calls[depth - 1][2].code is not None
        ):
            depth -= 1
        buffer.abort(depth)


def _running_calls() -> set[int]:
    """Ids of the frames of all threads that run a call or a phase."""
    live = set()
    frames: list[Any] = list(sys._current_frames().values())  # this one too: no local may be left with it
    while frames:
        frame = frames.pop()
        if id(frame.f_code) in RUNNERS:
            live.add(id(frame))
        if frame.f_back is not None:
            frames.append(frame.f_back)
    del frame
    return live
