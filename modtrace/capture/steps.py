"""Which steps somebody has asked for. Standard library only."""

from __future__ import annotations

from modtrace.errors import UsageError


def steps_of(text: str) -> tuple[int, int]:
    """The first step and the one after the last of a text such as `2:5` or `3`.

    Raises:
        UsageError: it is none.
    """
    first, colon, last = text.partition(":")
    if not first.isdigit() or (colon and not last.isdigit()):
        raise UsageError(f"{text!r} names no steps; write them like 2:5 or 3")
    found = int(first), int(last) if colon else int(first) + 1
    if found[0] >= found[1]:
        raise UsageError(f"{text!r} names no steps: the last is not behind the first")
    return found
