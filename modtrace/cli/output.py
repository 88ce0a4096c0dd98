"""Texts on stdout and stderr, whatever their encoding: what it does not have is written as an escape."""

from __future__ import annotations

import sys


def show(text: str) -> None:
    """Print to stdout, as it is."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def say(text: str) -> None:
    """Print a line to stderr, in ASCII."""
    print(text.encode("ascii", "backslashreplace").decode(), file=sys.stderr)
