"""Marks of a script that is looked at while it runs: at the beginning and the end of each prompt.

They are in what the script prints, so that they come in order with it. They have a word in them that nobody else knows:
what a program prints of its data opens nothing.
"""

from __future__ import annotations

import os
import secrets

from modtrace.trace.onlooker import Onlooker


def onlooker() -> Onlooker:
    """This process, as a script hears of it."""
    return Onlooker(os.getpid(), secrets.token_hex(16))


class PromptMarks:
    """A reader of what a script prints, which it divides at the marks. `open` says that the script asks now."""

    def __init__(self, word: str) -> None:
        self._marks = {state: Onlooker(0, word).mark(begins=state) for state in (True, False)}
        self._rest = b""
        self.open = False

    def feed(self, data: bytes) -> bytes:
        """The part of what was printed that belongs to a prompt, without marks; one may be cut anywhere."""
        text, spoken = self._rest + data, b""
        while True:
            before, mark, behind = text.partition(self._marks[not self.open])
            if not mark:
                break
            spoken += before if self.open else b""
            self.open, text = not self.open, behind
        kept = _begun(text, self._marks[not self.open])
        self._rest = text[len(text) - kept :]
        return spoken + (text[: len(text) - kept] if self.open else b"")


def _begun(text: bytes, mark: bytes) -> int:
    """So many bytes at the end of a text may be the beginning of a mark."""
    return next(
        (size for size in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-size:])), 0
    )
