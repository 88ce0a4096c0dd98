"""Whether something can be drawn."""

from __future__ import annotations

import os
import sys


def has_terminal() -> bool:
    """Whether there is a terminal to draw in and to take keys from."""
    if os.environ.get("TERM", "") in ("", "dumb"):
        return False
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed
        return False
