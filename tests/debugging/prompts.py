"""Drives a debugger through a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROMPT = b"(Pdb) "
STOPPED = re.compile(
    r"modtrace: stopped (before|after|in) (\S+) \((\w+)\), step (\d+)(?:, call (\d+))?(?:: --break '(.*)')?"
)


@dataclass
class Session:
    """What a program has printed on its terminal, and how it ended."""

    text: str
    status: int

    @property
    def stops(self):
        """(before or after, name, step, nth call) of each stop."""
        return [(m[1], m[2], int(m[4]), int(m[5] or 0)) for m in STOPPED.finditer(self.text)]


def drive(words, answers=(), *, cwd, env=None, stdin=None, stdout=None, timeout=150):
    """Run a program on a terminal; answer each prompt with the next line, and with `c` when there are none left.

    stdin, stdout: paths that take the place of the terminal.
    """
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        os.environ.update({"TERM": "dumb", "PYTHONPATH": path, **(env or {})})
        writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for name, number, flags in ((stdin, 0, os.O_RDONLY), (stdout, 1, writes)):
            if name is not None:
                os.dup2(os.open(name, flags), number)
        os.execv(sys.executable, [sys.executable, *words])
    output, seen, answers, end = b"", 0, list(answers), time.monotonic() + timeout
    while time.monotonic() < end:
        if not select.select([master], [], [], 0.5)[0]:
            continue
        try:
            part = os.read(master, 1 << 16)
        except OSError:
            break
        if not part:
            break
        output += part
        if output[seen:].endswith(PROMPT):
            seen = len(output)
            os.write(master, ((answers.pop(0) if answers else "c") + "\n").encode())
    else:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    os.close(master)
    return Session(output.decode(errors="replace").replace("\r\n", "\n"), os.waitstatus_to_exitcode(status))


ROOT = Path(__file__).resolve().parents[2]


def run(options, script, *words, cwd, answers=(), **settings):
    """`modtrace run` of a script, on a terminal."""
    command = [
        "-m",
        "modtrace",
        "run",
        "-q",
        "-f",
        "-o",
        str(Path(cwd) / "t.mtrace"),
        *options,
        str(script),
        *words,
    ]
    return drive(command, answers, cwd=cwd, **settings)
