"""What only one system has stands in modtrace/systems alone."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from tests.places import PACKAGE

FILES = sorted(file for file in PACKAGE.rglob("*.py") if "systems" not in file.relative_to(PACKAGE).parts)

OF_PSEUDO_TERMINALS = {"views/live/pty_keeper.py", "views/live/pty_process.py", "views/live/prompt_relay.py"}
"""`run --live`: it is refused in one line where there are no pseudo-terminals, before any of these runs."""
A_FACT_OF_THE_RUN = {"trace/run_json.py"}
"""The system is noted in the trace, and nothing is decided by it."""

ONLY_UNIX = {
    "os": {
        "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY", "O_NOINHERIT", "fork", "forkpty", "openpty",
        "register_at_fork", "pread", "pwrite", "preadv", "kill", "killpg", "setsid", "setpgid", "getpgid", "getpgrp",
        "tcsetpgrp", "getuid", "geteuid", "getgid", "fchmod", "fchown", "chown", "sysconf", "uname", "getloadavg",
        "sched_getaffinity", "mkfifo", "statvfs", "wait", "waitid", "WNOHANG", "nice", "posix_fallocate", "name",
    },
    "signal": {
        "SIGHUP", "SIGKILL", "SIGQUIT", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGSTOP", "SIGCONT",
        "SIGTSTP", "SIGTTOU", "SIGXFSZ", "SIGWINCH", "SIGBREAK", "setitimer", "alarm", "pthread_sigmask",
    },
    "sys": {"platform", "getwindowsversion"},
    "ctypes": {"CDLL", "WinDLL", "windll", "pythonapi"},
}  # fmt: skip
ONLY_THERE = {"fcntl", "pty", "termios", "tty", "resource", "grp", "pwd", "msvcrt", "winreg", "_winapi"}
PLACES = ("/proc", "/dev/", "/sys/", "CONIN$")


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def specific(file: Path) -> list[str]:
    """The names, modules and places of one system that a file has."""
    tree = parsed(file)
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    seen = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in ONLY_UNIX.get(node.value.id, ()):
                seen.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            seen += [alias.name for alias in node.names if alias.name in ONLY_THERE]
        elif isinstance(node, ast.ImportFrom):
            seen += [node.module] if node.module in ONLY_THERE else []
            seen += [alias.name for alias in node.names if alias.name in ONLY_UNIX.get(node.module or "", ())]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            seen += [place for place in PLACES if place in node.value]
    return seen


def test_what_one_system_has_is_in_systems():
    seen = {file.relative_to(PACKAGE).as_posix(): specific(file) for file in FILES}
    assert len(seen) > 300
    for name in OF_PSEUDO_TERMINALS:
        assert seen.pop(name), f"{name} may leave the list"
    for name in A_FACT_OF_THE_RUN:
        assert seen.pop(name) == ["sys.platform"]
    assert {name: names for name, names in seen.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import os; os.open('f', os.O_RDONLY | os.O_NOFOLLOW)", ["os.O_NOFOLLOW"]),
        ("def f():\n    import termios", ["termios"]),
        ("from os import fork", ["fork"]),
        ("open(f'/proc/{pid}/stat')", ["/proc"]),
        ("'''Reads /proc.'''\nos.O_RDONLY", []),
    ],
)
def test_the_search_finds_them(tmp_path, text, seen):
    file = tmp_path / "file.py"
    file.write_text(text, encoding="utf-8")
    assert specific(file) == seen


def test_every_file_is_opened_as_bytes():
    """`os.open` is called in one place: without O_BINARY Windows changes what is written."""
    callers = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "os.open"
        and "os.devnull" not in ast.unparse(node)
    }
    assert callers == {"views/live/pty_keeper.py"}
