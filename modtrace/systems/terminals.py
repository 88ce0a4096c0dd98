"""Terminals and consoles as each system has them. Standard library only."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, TextIO

from modtrace.systems import WINDOWS, windows_calls

PROMPT_INPUT: Final = "CONIN$" if WINDOWS else "/dev/tty"
PROMPT_OUTPUT: Final = "CONOUT$" if WINDOWS else "/dev/tty"
"""The terminal of this process, whatever its standard streams are."""


def moves_cursor() -> bool:
    """True if a terminal here can move its cursor. Windows sets no TERM, and its consoles can."""
    return WINDOWS or os.environ.get("TERM", "") not in ("", "dumb")


def has_terminal() -> bool:
    """True where there is a terminal to draw in and to take keys from."""
    if not moves_cursor():
        return False
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):  # closed
        return False


def shows_colors(stream: TextIO) -> bool:
    """True if escape sequences are colors on the terminal behind a stream; a console of Windows is told to.

    Raises:
        OSError, ValueError: there is no terminal behind it.
    """
    if WINDOWS:
        return windows_calls.takes_sequences(stream.fileno())
    return os.environ.get("TERM") != "dumb"


def is_console(stream: Any) -> bool:
    """True if text goes to a console of Windows: bytes written to its descriptor would be read in its code page."""
    return WINDOWS and stream is not None and not stream.closed and bool(stream.isatty())


def write_to_terminal(data: bytes) -> None:
    """Write to the terminal of this process.

    Raises:
        OSError: it has none.
    """
    descriptor = os.open(PROMPT_OUTPUT, os.O_WRONLY | getattr(os, "O_NOCTTY", 0))
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def has_pseudo_terminals() -> bool:
    """True if this system can give a script a terminal of its own."""
    try:
        import fcntl  # noqa: F401 - only whether they are there
        import termios  # noqa: F401 - as above
    except ImportError:
        return False
    return hasattr(os, "openpty") and hasattr(os, "fork")
