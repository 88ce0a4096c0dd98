"""`modtrace view` from outside: without a terminal, in one, and on traces that are none."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*words, **env):
    return subprocess.run(
        [sys.executable, "-m", "modtrace", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip


def test_without_a_terminal_it_prints_the_tree(gpt):
    shown = run("view", gpt)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == run("info", "--tree", gpt).stdout
    assert "h.* x12" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_plain_is_ascii(gpt):
    shown = run("view", "--plain", gpt)
    assert shown.returncode == 0
    assert shown.stdout.isascii()
    assert shown.stdout == run("info", "--tree", "--plain", gpt).stdout


@pytest.mark.parametrize("kind", ["missing", "a file", "foreign", "empty", "cut"])
def test_what_is_no_trace_is_one_line_and_exit_4(tmp_path, gpt, kind):
    path = tmp_path / "x.mtrace"
    if kind == "a file":
        path.write_text("x")
    elif kind == "foreign":
        path.mkdir()
        (path / "run.json").write_text('{"format": "other", "schema": 1}')
    elif kind == "empty":
        path.mkdir()
    elif kind == "cut":
        path.mkdir()
        (path / "run.json").write_bytes((gpt / "run.json").read_bytes()[:20])
    shown = run("view", path)
    assert shown.returncode == 4
    assert shown.stdout == ""
    assert len(shown.stderr.splitlines()) == 1
    assert "x.mtrace" in shown.stderr


def test_running_does_not_import_textual(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nprint([name for name in sys.modules if name.split('.')[0] == 'textual'])\n"
    )
    shown = run("run", "-o", tmp_path / "a.mtrace", script)
    assert shown.stdout == "[]\n"


def _in_a_terminal(words, keys, term, size=(24, 80)):
    """Exit status and output of a command on a pseudo-terminal; `keys` are typed once something has been drawn."""
    child, terminal = pty.fork()
    if child == 0:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TERM": term,
            "LINES": str(size[0]),
            "COLUMNS": str(size[1]),
        }
        os.execve(sys.executable, [sys.executable, "-m", "modtrace", *map(str, words)], env)
    written, sent, until = b"", False, time.monotonic() + 60
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:
                break
            if not part:
                break
            written += part
        if not sent and b"Quit" in written:
            os.write(terminal, keys)
            sent = True
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written.decode("utf-8", "replace")


def test_in_a_terminal_it_draws_and_leaves(gpt):
    status, shown = _in_a_terminal(["view", gpt], b"jjq", "xterm-256color")
    assert status == 0
    assert "\x1b[?1049h" in shown  # the other screen, and back from it
    assert "\x1b[?1049l" in shown
    assert "GPT" in shown


def test_a_dumb_terminal_gets_text(gpt):
    status, shown = _in_a_terminal(["view", gpt], b"", "dumb")
    assert status == 0
    assert "\x1b" not in shown
    assert "h.* x12" in shown
