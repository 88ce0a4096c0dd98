"""Signs that a debugger asks, for whoever looks at the run by `run --live`. Standard library only."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

from modtrace.systems.terminals import write_to_terminal
from modtrace.trace import onlooker


class PromptSigns:
    """Tells the onlooker of this process, if there is one, that a prompt begins and ends."""

    def __init__(self) -> None:
        self._onlooker: onlooker.Onlooker | None = None
        self._asking = False

    def take(self, text: str | None) -> None:
        """Know the onlooker that `onlooker.VARIABLE` names; None where it is not set."""
        self._onlooker = onlooker.read(text)

    @property
    def is_left(self) -> bool:
        """True if there was an onlooker, who has gone: nobody can be asked."""
        return self._onlooker is not None and not self._onlooker.is_there

    def begin(self) -> None:
        """A prompt is about to open."""
        if not self._asking:
            self._asking = True
            self._say(begins=True)

    def end(self) -> None:
        """The program goes on."""
        if self._asking:
            self._asking = False
            self._say(begins=False)

    def _say(self, *, begins: bool) -> None:
        if self._onlooker is None:
            return
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        with suppress(OSError):
            write_to_terminal(self._onlooker.mark(begins=begins))


def _flush(stream: Any) -> None:
    with suppress(Exception):  # closed, or something of the program's
        stream.flush()


SIGNS: Final = PromptSigns()
"""Those of this process."""
