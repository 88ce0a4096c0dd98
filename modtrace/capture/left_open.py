"""Calls that are open when recording stops."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from modtrace.capture.hooks import RUNNERS
from modtrace.capture.lanes import Lane


def abort_left(lanes: Iterable[Lane]) -> None:
    """Say which open calls are not running any more: a `BaseException` left them, or their thread has ended."""
    live = set()
    for frame in sys._current_frames().values():
        current: Any = frame
        while current is not None:
            if id(current.f_code) in RUNNERS:
                live.add(id(current))
            current = current.f_back
    for lane in lanes:
        depth = len(lane.calls)
        while depth and lane.calls[depth - 1][0] not in live and lane.calls[depth - 1][2].code is not None:
            depth -= 1
        lane.abort(depth)
