"""A debugger for `PYTHONBREAKPOINT` that notes where it is called, and goes on."""

from __future__ import annotations

STOPS = []
ACTIONS = []


def set_trace(frame=None):
    STOPS.append((frame.f_code.co_name, frame))
    for action in ACTIONS:
        action(frame)


def without_frame():
    STOPS.append(("", None))
