"""Streams for a prompt: those of the process if they are a terminal, else the terminal. Standard library only."""

from __future__ import annotations

import sys
from typing import Any

from modtrace.systems.terminals import PROMPT_INPUT, PROMPT_OUTPUT


def prompt_streams() -> tuple[Any, Any] | None:
    """Input and output for a prompt; (None, None) is the way that python's debugger asks, also in a notebook.

    None where nobody can be asked: there is no terminal.
    """
    if is_notebook() or (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        return None, None
    try:
        return open(PROMPT_INPUT, encoding="utf-8"), open(PROMPT_OUTPUT, "w", encoding="utf-8")
    except OSError:
        return None


def is_notebook() -> bool:
    """True where a kernel runs the code, and has put its own input in the place of python's."""
    interactive: Any = sys.modules.get("IPython")
    shell = interactive.get_ipython() if hasattr(interactive, "get_ipython") else None
    return hasattr(shell, "kernel")


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except Exception:  # closed, or something of the program's
        return False
