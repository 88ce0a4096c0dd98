"""A terminal for tests: a command on a pseudo-terminal, whose screen is searched for text."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
LIMIT_S = 60.0
"""No test passes or fails for being slower than another: this is only so that none waits for ever."""


class Terminal:
    """A command that runs on a terminal of its own; `text` is all that it has drawn, escape sequences taken out."""

    def __init__(
        self, folder: Path, *words: str, size: tuple[int, int] = (32, 120), env: dict[str, str] | None = None
    ):
        environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        self.pid, self.descriptor = pty.fork()
        if not self.pid:
            os.chdir(folder)
            os.execve(sys.executable, [sys.executable, *words], environment)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.raw = b""
        self.status: int | None = None

    @property
    def text(self) -> str:
        return ESCAPES.sub(b"", self.raw).decode(errors="replace")

    def read(self, seconds: float = 0.05) -> bool:
        """Take what it has drawn; False once nobody holds the other side."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.descriptor, 1 << 16)
        except OSError:
            data = b""
        self.raw += data
        return bool(data)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a text."""
        end = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern, self.text)):
            assert self.read(), f"ended without {pattern!r}: {self.text[-2000:]}"
            assert time.monotonic() < end, f"no {pattern!r}: {self.text[-2000:]}"
        return found

    def press(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def ended(self) -> int:
        """Wait for its end; the exit status, below zero for a signal."""
        end = time.monotonic() + LIMIT_S
        while self.read():
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.status = os.waitstatus_to_exitcode(status)
                while select.select([self.descriptor], [], [], 0.2)[0] and self.read():
                    pass
                break
            assert time.monotonic() < end, self.text[-2000:]
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has waited for yet has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def keepers(trace: Path) -> list[int]:
    """The processes that keep the terminal of a script that makes some trace."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(b"keeper.py") for word in words) and os.fsencode(trace) in words:
                found.append(int(entry.name))
    return found


def wait_for(condition, what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
