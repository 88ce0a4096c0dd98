"""A script that runs beside the viewer: started on a pseudo-terminal of its own, which `pty_keeper` keeps."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from modtrace.errors import UsageError
from modtrace.systems.open_files import open_file
from modtrace.text import plain
from modtrace.trace.onlooker import VARIABLE
from modtrace.trace.schema import OUTPUT_FILE
from modtrace.views.live import pty_keeper
from modtrace.views.live.prompt_marks import PromptMarks, onlooker

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class Script:
    """A running script. pid: None until it has started. returncode: None while it runs, below zero for a signal.

    asked_to_end: a signal that came to us was passed on, so the viewer ends when the script does.
    """

    def __init__(
        self, command: Sequence[str], trace: Path, *, env: Mapping[str, str], size: tuple[int, int]
    ) -> None:
        self.trace = trace
        shown_by = onlooker()
        self.marks = PromptMarks(shown_by.word)
        """Where it asks."""
        self.pid: int | None = None
        self.returncode: int | None = None
        self.asked_to_end = False
        self.lost = False
        """The process that keeps the terminal was killed: the exit status will not be known."""
        self._unread_report = b""
        self._first_output_path = trace.with_name(f".{trace.name}.output.{os.getpid()}")
        try:
            self.output = open_file(self._first_output_path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise UsageError(
                f"cannot write a trace at {plain(str(trace))}: {error.strerror or error}"
            ) from None
        self._master, slave = os.openpty()
        if os.isatty(0):
            termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(0))
        self.resize(*size)
        self._report, report = os.pipe()
        os.set_blocking(self._report, False)
        for descriptor in (self._master, slave, report):
            os.set_inheritable(descriptor, True)
        words = [sys.executable, "-I", "-S", pty_keeper.__file__, str(self._master), str(slave), str(report)]
        self._keeper = subprocess.Popen(
            [*words, os.fspath(self._first_output_path), os.fspath(trace), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**env, VARIABLE: shown_by.text}, close_fds=False, start_new_session=True,
        )  # fmt: skip
        os.set_inheritable(self._master, False)
        os.close(slave)
        os.close(report)

    def poll(self) -> int | None:
        """Hear what there is to hear of it; the exit status once it has ended."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._report, 4096):
                self._unread_report += data
            self.lost = self.returncode is None and b"exit " not in self._unread_report
        *lines, self._unread_report = self._unread_report.split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"pid":
                self.pid = int(number)
            else:
                self.returncode = int(number)
                self.lost = False
        return self.returncode

    def wait_for_output(self, seconds: float = 1.0) -> None:
        """Once it has ended: let the keeper write down what is left, unless others go on printing."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(seconds)

    @property
    def output_path(self) -> Path:
        """Where what it prints is kept."""
        return self.trace / OUTPUT_FILE

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size; the script hears of it as of that of a window."""
        fcntl.ioctl(
            self._master, termios.TIOCSWINSZ, struct.pack("HHHH", max(rows, 1), max(columns, 1), 0, 0)
        )

    def type(self, text: str) -> None:
        """Type into its terminal."""
        self.send(text.encode("utf-8", "surrogateescape"))

    def send(self, keys: bytes) -> None:
        """The same with keys as they come from a terminal."""
        with contextlib.suppress(OSError):
            os.write(self._master, keys)

    def interrupt(self) -> None:
        """Send SIGINT, as ctrl+c in a terminal does, to the script and the processes it has started."""
        if self.pid is not None and self.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGINT)

    def forward(self, number: int) -> None:
        """Pass a signal on that was sent to us and is meant for the script."""
        self.asked_to_end = True
        if self.pid is not None and self.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)

    def watch_signals(self) -> None:
        """Pass on what is sent to us from now on. A hang-up means that our terminal is gone, so we go too."""

        def on_signal(number: int, _: object) -> None:
            self.poll()
            self.forward(number)
            if number == signal.SIGHUP:
                die(-number)

        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, on_signal)


def die(returncode: int) -> None:
    """End as the script did: with its exit status, or by the same signal."""
    if returncode < 0:
        import resource

        # The signal may be one that leaves a core file, and this is not the process it would be of.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-returncode, signal.SIG_DFL)
        sys.stdout.flush()
        os.kill(os.getpid(), -returncode)
    raise SystemExit(returncode & 0xFF)
