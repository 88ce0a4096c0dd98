"""A terminal for tests: a command on a pseudo-terminal, whose screen is searched for text."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Takes the terminal, then becomes the command."""
LIMIT_S = 120.0
"""No test passes or fails for being slower than another: this is only so that none waits for ever."""


class Terminal:
    """A command that runs on a terminal of its own; `text` is all that it has drawn, escape sequences taken out."""

    def __init__(
        self, folder: Path, *words: str, size: tuple[int, int] = (32, 120), env: dict[str, str] | None = None
    ):
        environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        self.descriptor, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE, sys.executable, *words],
            cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        self.pid = self.process.pid
        os.close(slave)
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
            self.status = self.process.poll()
            if self.status is not None:
                while select.select([self.descriptor], [], [], 0.2)[0] and self.read():
                    pass
                break
            assert time.monotonic() < end, self.text[-2000:]
        if self.status is None:
            self.status = self.process.wait(LIMIT_S)
        return self.status

    def close(self) -> None:
        if self.status is None:
            self.process.kill()
            self.process.wait()
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
