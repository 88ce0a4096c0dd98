"""A check for a terminal to draw in."""

from __future__ import annotations

import os
import sys


def has_terminal() -> bool:
    """True where there is a terminal to draw in and to take keys from."""
    if os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed
        return False
