"""Looks for the process that writes a trace on this machine. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SLACK_S = 2.0
"""Clocks of the start of a process are read in ticks and from the moment of the boot."""


def is_alive(pid: int, started_unix_ns: int | None) -> bool:
    """True if a process runs here that may be the one: its number, and begun before the recording was.

    One of another machine is not seen, and one that ended and whose number was given to a later process is not it.
    """
    if pid <= 0 or pid >= 1 << 31:
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False if Path("/proc/self/stat").exists() else _answers(pid)
    if fields[0] in ("Z", "X"):
        return False
    booted = re.search(r"^btime (\d+)$", _text("/proc/stat"), re.MULTILINE)
    if booted is None or started_unix_ns is None:
        return True
    began = int(booted[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return began <= started_unix_ns / 1e9 + _SLACK_S


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _answers(pid: int) -> bool:
    """The same where there is no /proc."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
