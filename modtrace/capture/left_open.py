"""Calls that are open when recording stops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from modtrace.capture.hooks import RUNNERS
from modtrace.capture.lanes import Lane


def abort_left(lanes: Iterable[Lane]) -> None:
    """Say which open calls are not running any more: a `BaseException` left them, or their thread has ended."""
    live = _running_calls()
    for lane in lanes:
        depth = len(lane.calls)
        while depth and lane.calls[depth - 1][0] not in live and lane.calls[depth - 1][2].code is not None:
            depth -= 1
        lane.abort(depth)


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
