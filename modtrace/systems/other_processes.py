"""Facts that a system tells of processes. Where it does not tell one, it is None. Standard library only.

Linux has them in /proc, macOS in `ps`, Windows in calls of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Final, NamedTuple

from modtrace.systems import WINDOWS, windows_calls

_SLACK_S: Final = 2.0
"""Clocks of the start of a process are read in ticks and from the moment of the boot."""


class ProcessStat(NamedTuple):
    """A process as Linux describes it.

    state: one letter; Z and X have ended.
    parent: process id.
    start_ticks: when it started, in ticks since the boot.
    cpu_ns, waited_cpu_ns: CPU time, its own and of the children that it has waited for.
    """

    state: str
    parent: int
    start_ticks: int
    cpu_ns: int
    waited_cpu_ns: int


def process_stat(pid: int) -> ProcessStat | None:
    """The description of a process; None where there is none, or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as opened:
            fields = opened.read().rpartition(")")[2].split()
        ticks = list(map(int, fields[11:15]))
        tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        cpu_ns, waited_ns = sum(ticks[:2]) * tick_ns, sum(ticks[2:]) * tick_ns
        return ProcessStat(fields[0], int(fields[1]), int(fields[19]), cpu_ns, waited_ns)
    except (OSError, ValueError, IndexError):
        return None


def is_alive(pid: int, started_unix_ns: int | None) -> bool:
    """True if a process runs here that may be the one: its number, and begun before the recording was.

    One of another machine is not seen, and one that ended and whose number was given to a later process is not it.
    """
    if pid <= 0 or pid >= 1 << 31:
        return False
    if os.path.exists("/proc/self/stat"):
        about = process_stat(pid)
        if about is None or about.state in ("Z", "X"):
            return False
    elif not (windows_calls.runs(pid) if WINDOWS else _answers(pid)):
        return False
    began = started_unix(pid) if started_unix_ns is not None else None
    return began is None or started_unix_ns is None or began <= started_unix_ns / 1e9 + _SLACK_S


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def started_unix(pid: int) -> float | None:
    """When a process started, in seconds since 1970. Every process that asks comes to the same."""
    if WINDOWS:
        return windows_calls.started_unix(pid)
    about = process_stat(pid)
    if about is None:
        return _started_by_ps(pid)
    try:
        with open("/proc/stat", encoding="utf-8", errors="replace") as opened:
            booted = re.search(r"^btime (\d+)$", opened.read(), re.MULTILINE)
    except OSError:
        return None
    # From the fixed moment of the boot, so that every rank comes to the same second.
    return int(booted[1]) + about.start_ticks / os.sysconf("SC_CLK_TCK") if booted is not None else None


def _started_by_ps(pid: int) -> float | None:
    """The same where there is no /proc, as on macOS, to the second."""
    import subprocess

    try:
        output = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)],  # noqa: S607 - where it lies differs between systems
            capture_output=True,
            text=True,
            encoding="ascii",
            errors="replace",
            timeout=5,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout.strip()
        return time.mktime(time.strptime(output, "%a %b %d %H:%M:%S %Y"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def parent_of(pid: int) -> int | None:
    """Process id of the parent; Linux only."""
    about = process_stat(pid)
    return about.parent if about is not None else None


def was_started_with(pid: int, variable: str) -> bool:
    """True if a process was started with a variable in its environment, and the system tells (Linux)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as opened:
            environment = opened.read()
    except OSError:  # another user's, or no such system
        return False
    return any(line.startswith(f"{variable}=".encode()) for line in environment.split(b"\0"))


def child_pids() -> set[int]:
    """Process ids of the children of this process; none where the system does not tell (not Linux)."""
    pids: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as opened:
                pids.update(map(int, opened.read().split()))
    return pids


def command_of(pid: int) -> bytes:
    """The command line, a zero byte behind each word; empty where the system does not tell (not Linux)."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as opened:
            return opened.read()
    except OSError:
        return b""


def is_python_with(pid: int, library: bytes) -> bool:
    """True if a process is a python that has loaded a library, such as `/libtorch`; Linux only."""
    try:
        if not os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("python"):
            return False
        with open(f"/proc/{pid}/maps", "rb") as opened:
            return library in opened.read()
    except OSError:
        return False
