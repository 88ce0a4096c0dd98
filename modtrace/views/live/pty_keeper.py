"""Keeps the pseudo-terminal of a script that is run with --live. Run as a program of its own; standard library only.

The script must not notice whether anybody looks on: its terminal is kept open and emptied by this process, in a
session of its own, so that the viewer may leave, crash or be killed. It is the script's parent and the leader of its
session, as a shell is: what the script leaves running when it ends gets no hang-up. It ends when nobody holds the
terminal any more.

keeper.py MASTER SLAVE REPORT LOG TRACE COMMAND...: descriptors of the two sides of the terminal and of a pipe that is
told `pid N` and `exit N` (below zero: by that signal); where the output is written first; the trace it is moved into.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
import time

LOG_BYTES = 64 << 20
"""A file of output that is longer is put aside as `output-1.txt`, in place of the one before."""
LOOK_SECONDS = 0.2
ASIDE = "output-1.txt"


class Log:
    """The file of the output: made beside the trace, moved into it once the run has made that."""

    def __init__(self, path: str, trace: str) -> None:
        self._path = path
        self._into = os.path.join(trace, "output.txt")
        self._run = os.path.join(trace, "run.json")
        self._since = time.time() - 1
        self.moved = False
        self._size = 0
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)

    def write(self, data: bytes) -> None:
        """Append; where that cannot be done any more the output is not kept, and the script goes on."""
        try:
            if self.moved and self._size + len(data) > LOG_BYTES:
                self._turn()
            self._size += os.write(self._file, data)
        except OSError:
            pass

    def _turn(self) -> None:
        os.replace(self._path, os.path.join(os.path.dirname(self._path), ASIDE))
        os.close(self._file)
        self._file = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600
        )
        self._size = 0

    def settle(self) -> None:
        """Move it into the trace if the trace of this run is there."""
        if self.moved:
            return
        try:
            if os.stat(self._run).st_mtime >= self._since:
                os.rename(self._path, self._into)
                self._path, self.moved = self._into, True
        except OSError:
            pass

    def end(self) -> None:
        """Leave nothing behind where there never was a trace."""
        self.settle()
        if not self.moved:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def start(command: list[str], slave: int, ours: list[int]) -> int:
    """Start the script on the terminal, in the foreground of it; its process id."""
    go_read, go_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(go_write)
            os.setpgid(0, 0)
            os.read(go_read, 1)
            for standard in (0, 1, 2):
                os.dup2(slave, standard)
            for descriptor in ours:
                os.close(descriptor)
            # Python ignores these, and what is ignored would stay so in the script.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            os.execv(command[0], command)  # noqa: S606 - the user's own python
        except BaseException as error:
            os.write(2, f"{command[0]}: {error}\n".encode(errors="backslashreplace"))
        finally:
            os._exit(127)
    os.close(go_read)
    try:
        os.setpgid(child, child)
        os.tcsetpgrp(slave, child)
    except OSError:
        pass
    os.close(go_write)
    return child


def tell(report: int, text: str) -> None:
    """Tell the viewer, if there still is one."""
    try:
        os.write(report, text.encode())
    except OSError:
        pass


def keep(child: int, master: int, report: int, log: Log) -> None:
    """Write down what the script prints until it has ended and nobody holds its terminal."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running, open_ = True, True
    while running or open_:
        waiting = [woken, *([master] if open_ else [])]
        ready = select.select(waiting, [], [], LOOK_SECONDS if not (log.moved and open_) else None)[0]
        if woken in ready:
            os.read(woken, 512)
        if master in ready or not open_:
            try:
                data = os.read(master, 1 << 16)
            except OSError:
                data = b""  # nobody holds the other side now; a script may open it again by /dev/tty
            open_ = bool(data)
            log.write(data)
        log.settle()
        if running:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                running = False
                tell(report, f"exit {os.waitstatus_to_exitcode(status)}\n")


def leave() -> None:
    """Take the foreground: what is left of the script is not to get the hang-up of a leader that ends."""
    try:
        os.tcsetpgrp(os.open("/dev/tty", os.O_RDWR), os.getpgrp())
    except OSError:
        pass


def main(words: list[str]) -> None:
    """Run the command."""
    master, slave, report = (int(word) for word in words[:3])
    log, command = Log(words[3], words[4]), words[5:]
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    child = start(command, slave, [master, slave, report])
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGTTOU,
        signal.SIGTSTP,
    ):
        signal.signal(number, signal.SIG_IGN)
    os.close(slave)
    tell(report, f"pid {child}\n")
    keep(child, master, report, log)
    log.end()
    leave()


if __name__ == "__main__":
    main(sys.argv[1:])
