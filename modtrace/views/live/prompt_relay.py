"""Joins the terminal with that of a script while it asks something."""

from __future__ import annotations

import os
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from modtrace.views.live.prompt_marks import PromptMarks

if TYPE_CHECKING:
    from modtrace.views.live.pty_process import Script
    from modtrace.views.live.scrollback import OutputFile

_LOOK_SECONDS: Final = 0.02


def answer(script: Script, output: OutputFile, marks: PromptMarks, spoken: bytes) -> None:
    """Join the terminal with that of the script until its prompt is over, or it has ended.

    Args:
        script: which asks.
        output: what it prints.
        marks: of its prompts.
        spoken: what it has said so far.
    """
    size = None
    with _raw_keys():
        _write(spoken)
        while marks.open and script.poll() is None and not script.lost:
            if size != shutil.get_terminal_size():
                size = shutil.get_terminal_size()
                script.resize(size.lines, size.columns)
            if select.select([0], [], [], _LOOK_SECONDS)[0]:
                keys = os.read(0, 1 << 12)
                if not keys:
                    return
                script.send(keys)
            if output.look():
                _write(marks.feed(output.fresh))


@contextmanager
def _raw_keys() -> Iterator[None]:
    """Keys come as they are typed: the terminal of the script does with them what a terminal does."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]
