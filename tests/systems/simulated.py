"""Linux made to look like another system, as far as a program can see it. Run as a program of its own:

python simulated.py windows|macos run  words of modtrace run ...
python simulated.py windows|macos verbs < JSON list of command lines
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path

NOT_IN_WINDOWS = """
    O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_NOCTTY O_DIRECTORY O_SYNC fork forkpty openpty register_at_fork pread
    pwrite preadv pwritev killpg setsid setpgid getpgid getpgrp getsid tcsetpgrp tcgetpgrp getuid geteuid
    getgid getegid sysconf uname getloadavg sched_getaffinity mkfifo statvfs fstatvfs wait waitid WNOHANG
    chown fchown lchown fchmod nice posix_fallocate set_blocking ctermid
""".split()  # noqa: SIM905 - a list would be four screens
SIGNALS_NOT_IN_WINDOWS = """
    SIGHUP SIGKILL SIGQUIT SIGCHLD SIGALRM SIGUSR1 SIGUSR2 SIGPIPE SIGSTOP SIGCONT SIGTSTP SIGTTOU SIGTTIN
    SIGXFSZ SIGWINCH
""".split()  # noqa: SIM905 - a list would be four screens
O_BINARY, O_NOINHERIT = 1 << 28, 1 << 29
OTHER_DRIVE = "drive-d"
"""A folder of this name is another drive."""


class Real:
    """The functions of this system."""

    open, write, close, kill, stat, replace, unlink = (
        os.open, os.write, os.close, os.kill, os.stat, os.replace, os.unlink,
    )  # fmt: skip
    listdir, relpath, exists = os.listdir, os.path.relpath, os.path.exists
    tick = os.sysconf("SC_CLK_TCK")


class Proc:
    """/proc: not to be seen but by the harness."""

    hidden = False

    @classmethod
    @contextlib.contextmanager
    def seen(cls):
        before, cls.hidden = cls.hidden, False
        try:
            yield
        finally:
            cls.hidden = before


def hide_proc():
    def is_in_proc(path):
        return (
            Proc.hidden
            and isinstance(path, (str, bytes, os.PathLike))
            and os.fsdecode(path).startswith("/proc")
        )

    def audit(event, arguments):
        if event in ("open", "os.listdir", "os.scandir") and is_in_proc(arguments[0]):
            raise FileNotFoundError(errno.ENOENT, "hidden", os.fsdecode(arguments[0]))

    def stat(path, *args, **kwargs):
        if is_in_proc(path):
            raise FileNotFoundError(errno.ENOENT, "hidden", os.fsdecode(path))
        return Real.stat(path, *args, **kwargs)

    os.stat = stat
    os.path.exists = lambda path: not is_in_proc(path) and Real.exists(path)
    sys.addaudithook(audit)
    Proc.hidden = True


def text_mode():
    """Descriptors of `os.open` without O_BINARY change what is written; a file object made of them does not."""
    text = set()

    def open_(path, flags, mode=0o777, **kwargs):
        descriptor = Real.open(path, flags & ~(O_BINARY | O_NOINHERIT) | 0o2000000, mode, **kwargs)
        text.discard(descriptor)
        if not flags & O_BINARY:
            text.add(descriptor)
        return descriptor

    def write(descriptor, content):
        if descriptor in text:
            Real.write(descriptor, bytes(content).replace(b"\n", b"\r\n"))
            return len(content)
        return Real.write(descriptor, content)

    def close(descriptor):
        text.discard(descriptor)
        Real.close(descriptor)

    os.open, os.write, os.close = open_, write, close
    os.O_BINARY, os.O_NOINHERIT = O_BINARY, O_NOINHERIT


def open_files_stay():
    """A file that this process has open can be neither removed nor replaced."""

    def refuse_open(path):
        try:
            about = Real.stat(path)
            with Proc.seen():
                descriptors = Real.listdir("/proc/self/fd")
        except OSError:
            return
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(int(descriptor)), about):
                    raise_in_use(path)

    def raise_in_use(path):
        print(f"in use: {path}", file=sys.__stderr__)
        raise InUse(
            errno.EACCES, "The process cannot access the file because it is being used", os.fspath(path)
        )

    def replace(source, target, **kwargs):
        refuse_open(source)
        refuse_open(target)
        Real.replace(source, target, **kwargs)

    def unlink(path, **kwargs):
        refuse_open(path)
        Real.unlink(path, **kwargs)

    os.replace, os.unlink, os.remove = replace, unlink, unlink


class InUse(BaseException):
    """Not caught by what catches an OSError: nothing of modtrace's may come here."""


FUNCTIONS = """
    OpenProcess WaitForSingleObject GetProcessTimes CloseHandle GetStdHandle GetConsoleMode SetConsoleMode
""".split()  # noqa: SIM905 - as above


class Kernel:
    """kernel32, with processes of this system."""

    def __init__(self):
        self.error = 0
        self.modes = {0x1_0000_0000 - 11: 3, 0x1_0000_0000 - 12: 7}
        for name in FUNCTIONS:
            method = getattr(self, name)
            setattr(self, name, lambda *arguments, method=method: method(*arguments))

    def OpenProcess(self, access, inherit, pid):
        with Proc.seen():
            there = Real.exists(f"/proc/{pid}")
        self.error = 0 if there else 87
        return pid if there else None

    def WaitForSingleObject(self, handle, milliseconds):
        return 0x102

    def GetProcessTimes(self, handle, began, *_):
        with Proc.seen():
            ticks = Path(f"/proc/{handle}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
            boot = next(
                int(line.split()[1])
                for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines()
                if line.startswith("btime")
            )
        began._obj.value = int((boot + int(ticks) / Real.tick + 11_644_473_600) * 1e7)
        return 1

    def CloseHandle(self, handle):
        return 1

    def GetStdHandle(self, number):
        return number

    def GetConsoleMode(self, handle, mode):
        mode._obj.value = self.modes.get(handle, 0)
        return handle in self.modes

    def SetConsoleMode(self, handle, mode):
        self.modes[handle] = mode
        return 1


KERNEL = Kernel()


def no_signal_zero(pid, number):
    if number == 0:
        print(f"ctrl-C was sent to {pid}", file=sys.__stderr__)
        raise InUse
    Real.kill(pid, number)


def other_drives(path, start=os.curdir):
    if OTHER_DRIVE in Path(path).parts and OTHER_DRIVE not in Path.cwd().parts:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")
    return Real.relpath(path, start)


class NoSuchLibrary(ctypes.CDLL):
    """Windows has no handle of the program itself."""

    def __init__(self, name, *args, **kwargs):
        if name is None:
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *args, **kwargs)


def become_windows():
    for name in NOT_IN_WINDOWS:
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS_NOT_IN_WINDOWS:
        delattr(signal, name)
    for name in ("fcntl", "termios", "tty", "pty", "resource", "grp", "pwd"):
        sys.modules[name] = None
    shutil._use_fd_functions = False
    shutil.rmtree.avoids_symlink_attacks = False
    multiprocessing.set_start_method("spawn", force=True)
    os.environ.pop("TERM", None)
    os.kill, os.path.relpath = no_signal_zero, other_drives
    ctypes.CDLL, ctypes.WinDLL, ctypes.get_last_error = (
        NoSuchLibrary,
        lambda *_, **__: KERNEL,
        lambda: KERNEL.error,
    )
    text_mode()
    open_files_stay()


def become_mac():
    for name in ("sched_getaffinity", "posix_fallocate"):
        delattr(os, name)


def become(system):
    """From here on this process sees the other system; `modtrace` is imported there."""
    hide_proc()
    {"windows": become_windows, "macos": become_mac}[system]()
    here, sys.platform = sys.platform, {"windows": "win32", "macos": "darwin"}[system]
    import modtrace.systems

    assert (system == "windows") == modtrace.systems.WINDOWS
    assert not modtrace.systems.LINUX
    # Nothing else of modtrace asks, which `test_one_place` holds; other packages are made for this system.
    sys.platform = here
    warnings.filterwarnings("error", category=EncodingWarning, module="modtrace")


def preload():
    """Packages that are built for this system look at it when they are imported."""
    import pandas as pd
    import pyarrow.parquet  # noqa: F401
    import textual.app
    import textual.drivers.linux_driver  # noqa: F401
    import torch
    import torch._dynamo

    pd.DataFrame({"a": torch.ones(1).numpy()})


def verbs():
    """Run each command line in this process; print what it said, as JSON."""
    from modtrace.cli import main

    results = []
    for words in json.loads(sys.stdin.read()):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252", newline="\r\n") for _ in range(2))
        status = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if words[0] == "!":
                    exec(words[1], {"__name__": "probe", "kernel": KERNEL})
                else:
                    main(words)
            except SystemExit as left:
                status = left.code
            except BaseException:
                status = 99
                traceback.print_exc()
        said = []
        for stream in (out, err):
            stream.flush()
            said.append(stream.buffer.getvalue().decode("cp1252"))
        results.append([status, *said])
    print(json.dumps(results))


def run(words):
    """Run a script as the command does, in this process, to its end."""
    from modtrace.cli import main

    main(["run", *words])


if __name__ == "__main__":
    system, what, *words = sys.argv[1:]
    preload()
    become(system)
    sys.argv = ["modtrace", what, *words]
    verbs() if what == "verbs" else run(words)
