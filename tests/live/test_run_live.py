"""`modtrace run --live` on a real terminal: the script ends as it would without, whatever happens to the view."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import modtrace
from tests.live.terminal import Terminal, gone, keepers, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")

STEPS = """
import os, sys, time, torch
net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def step():
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
for number in range(20):
    step()
print("twenty steps", flush=True)
"""
HELD = (
    STEPS
    + """
while not os.path.exists("go"):
    step()
    time.sleep(0.02)
for number in range(3000):
    print("late line", number, "x" * 60, flush=True)
open("done", "w").write(str(os.getppid()))
"""
)


@pytest.fixture
def live(tmp_path):
    """Starts `modtrace run --live` for a script."""
    terminals = []

    def start(source, *words, size=(32, 120), env=None):
        (tmp_path / "train.py").write_text(source)
        command = ("-m", "modtrace", "run", "--live", "-o", "t.mtrace", "train.py", *words)
        terminals.append(Terminal(tmp_path, *command, size=size, env=env))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()
    wait_for(lambda: not keepers(tmp_path / "t.mtrace"), "a process was left over")


@pytest.mark.parametrize(
    ("end", "status", "shown"),
    [
        (f"{STEPS}\nsys.exit(3)", 3, r"\[exit 3\]"),
        ("raise ValueError('wrong')", 1, r"\[exit 1\]"),
        ("os.kill(os.getpid(), 15)", -15, r"\[ended by signal 15\]"),
        ("os.kill(os.getpid(), 9)", -9, r"\[ended by signal 9\]"),
        ("os.abort()", -6, r"\[ended by signal 6\]"),
    ],
)
def test_the_exit_status_is_that_of_the_script(live, tmp_path, end, status, shown):
    terminal = live(
        end if end.startswith(STEPS) else f"import os\nprint('twenty steps', flush=True)\n{end}\n"
    )
    terminal.until(r"FINISHED")
    terminal.until(shown)
    terminal.press("q")
    assert terminal.ended() == status
    assert b"twenty steps\r\n" in (tmp_path / "t.mtrace" / "output.txt").read_bytes()
    if status == 3:
        assert len(modtrace.load(tmp_path / "t.mtrace").steps) == 20
    assert not list(tmp_path.glob(".*output*"))


def test_it_shows_steps_modules_and_output(live):
    terminal = live(HELD)
    terminal.until(r"LIVE train.py pid \d+")
    terminal.until(r"Sequential")
    terminal.until(r"twenty steps")
    terminal.until(r"\[running\]")
    for key in "kkjj":  # they move, as everywhere
        terminal.press(key)
    terminal.until(r"\[running\]")
    terminal.press("K")
    terminal.until(r"stop the script\?")
    terminal.press("y")
    terminal.until(r"\[ended by signal 2\]")
    terminal.press("q")
    assert terminal.ended() == -signal.SIGINT


def test_it_becomes_the_viewer_and_ends_as_the_script(live):
    terminal = live(f"{STEPS}\nsys.exit(3)")
    terminal.until(r"\[exit 3\]")
    terminal.press("\r")
    terminal.until(r"\[1Hot\]|\[3Tree\]")
    terminal.press("q")
    assert terminal.ended() == 3


def test_ctrl_c_asks_first(live):
    terminal = live(HELD)
    terminal.until(r"twenty steps")
    terminal.press("\x03")
    terminal.until(r"stop the script\?")
    terminal.press("\x03")
    terminal.until(r"\[ended by signal 2\]")
    terminal.press("q")
    assert terminal.ended() == -signal.SIGINT


def test_after_a_detach_the_script_goes_on(live, tmp_path):
    """It prints far more than a terminal holds by then, and has nobody to read it but the keeper."""
    terminal = live(HELD)
    pid = int(terminal.until(r"LIVE train.py pid (\d+)")[1])
    terminal.until(r"twenty steps")
    terminal.press("q")
    terminal.until(r"goes on as process")
    assert terminal.ended() == 0
    assert not gone(pid)
    (tmp_path / "go").write_text("")
    wait_for(lambda: gone(pid), "the script did not end")
    wait_for(lambda: not keepers(tmp_path / "t.mtrace"), "the keeper did not end")
    assert (tmp_path / "done").exists()
    lines = (tmp_path / "t.mtrace" / "output.txt").read_bytes().split(b"\r\n")
    assert [line for line in lines if line.startswith(b"late line")] == [
        b"late line %d %s" % (number, b"x" * 60) for number in range(3000)
    ]
    assert modtrace.load(tmp_path / "t.mtrace").summary()


def test_the_view_is_killed_and_the_script_goes_on(live, tmp_path):
    terminal = live(HELD)
    pid = int(terminal.until(r"LIVE train.py pid (\d+)")[1])
    os.kill(terminal.pid, signal.SIGKILL)
    assert terminal.ended() == -signal.SIGKILL
    assert not gone(pid)
    (tmp_path / "go").write_text("")
    wait_for(lambda: gone(pid), "the script did not end")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(live, tmp_path, number):
    before = signal.signal(
        number, signal.SIG_DFL
    )  # under nohup SIGHUP is ignored, and what is started inherits that
    try:
        terminal = live(HELD)
    finally:
        signal.signal(number, before)
    pid = int(terminal.until(r"LIVE train.py pid (\d+)")[1])
    terminal.until(r"twenty steps")
    os.kill(terminal.pid, number)
    assert terminal.ended() == -number
    wait_for(lambda: gone(pid), "the script did not end")
    assert not (tmp_path / "done").exists()


def test_what_the_script_leaves_running_lives(live, tmp_path):
    """A script that ends is no reason for a hang-up to what it has started, as under a shell."""
    child = "import time; open('child', 'w').write(str(__import__('os').getpid())); time.sleep(60)"
    terminal = live(
        f"import subprocess, sys, time, os\nsubprocess.Popen([sys.executable, '-c', {child!r}],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "while not os.path.exists('child') or not open('child').read(): time.sleep(0.01)\n"
    )
    terminal.until(r"\[exit 0\]")
    terminal.press("q")
    assert terminal.ended() == 0
    pid = int((tmp_path / "child").read_text())
    wait_for(lambda: not keepers(tmp_path / "t.mtrace"), "the keeper did not end")
    assert not gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_the_script_has_a_terminal_and_can_be_typed_to(live):
    terminal = live(
        "import os, sys\nprint([os.isatty(n) for n in range(3)], os.getpgrp() == os.tcgetpgrp(0), flush=True)\n"
        "print('heard', input('say: ').upper())\n"
    )
    terminal.until(r"\[True, True, True\] True")
    terminal.until("say:")
    terminal.press("i")
    terminal.until("a line for the script")
    terminal.press("something\r")
    terminal.until("heard SOMETHING")
    terminal.until(r"\[exit 0\]")
    terminal.press("q")
    assert terminal.ended() == 0


def test_the_script_sees_what_it_would_see(tmp_path, live):
    probe = (
        "import os, sys\n"
        "env = {k: v for k, v in os.environ.items() if k not in ('LINES', 'COLUMNS')}\n"
        "open('told', 'w').write(repr((sys.argv, sys.path, sys.flags, sys._xoptions, sorted(env.items()))))\n"
    )
    (tmp_path / "train.py").write_text(probe)
    env = {**os.environ, "TERM": "xterm-256color"}
    words = ["-X", "mine=1", "-W", "ignore", "-m", "modtrace", "run"]
    subprocess.run(
        [sys.executable, *words, "-q", "-o", "p.mtrace", "train.py", "--live", "-x"],
        cwd=tmp_path,
        check=True,
        env=env,
    )
    plain = (tmp_path / "told").read_text()
    (tmp_path / "told").unlink()
    terminal = Terminal(
        tmp_path,
        *words,
        "-q",
        "train.py",
        "--live",
        "-x",
        env={"MODTRACE_LIVE": "1", "MODTRACE_OUTPUT": "t.mtrace"},
    )
    terminal.until(r"\[exit 0\]")
    terminal.press("q")
    assert terminal.ended() == 0
    seen = (tmp_path / "told").read_text().replace("('MODTRACE_OUTPUT', 't.mtrace'), ", "")
    assert seen == plain


def test_if_the_view_fails_the_output_is_printed(live, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "textual.py").write_text("raise RuntimeError('this is broken')")
    paths = [str(tmp_path / "broken"), str(Path(modtrace.__file__).parents[1])]
    terminal = live(f"{STEPS}\nsys.exit(5)", env={"PYTHONPATH": os.pathsep.join(paths)})
    assert terminal.ended() == 5
    assert "the live view failed: RuntimeError: this is broken" in terminal.text
    assert "twenty steps" in terminal.text


def test_usage_errors_come_before_the_view(tmp_path, live):
    terminal = Terminal(tmp_path, "-m", "modtrace", "run", "--live", "missing.py")
    terminal.until("can't open file")
    assert terminal.ended() == 2
    assert not list(tmp_path.iterdir())
    (tmp_path / "t.mtrace").mkdir()
    (tmp_path / "t.mtrace" / "mine").write_text("")
    terminal = live("print(1)")
    terminal.until(r"exists already")
    terminal.until(r"\[exit 2\]")
    terminal.press("q")
    assert terminal.ended() == 2
    assert not list(tmp_path.glob(".*output*"))


@pytest.mark.parametrize(
    ("env", "told"), [({"TERM": "dumb"}, "cursor"), ({"RANK": "0", "WORLD_SIZE": "1"}, "one process")]
)
def test_where_there_is_nothing_to_draw_on_it_is_a_plain_run(live, env, told):
    terminal = live("print('said'); raise SystemExit(4)", env=env)
    assert terminal.ended() == 4
    first = terminal.text.splitlines()[0]
    assert first.startswith("modtrace: --live")
    assert told in first
    assert "said" in terminal.text


def test_without_a_terminal_it_is_a_plain_run(tmp_path):
    (tmp_path / "train.py").write_text("print('said'); raise SystemExit(4)")
    done = subprocess.run(
        [sys.executable, "-m", "modtrace", "run", "--live", "-q", "train.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "said\n")
    assert re.match(r"modtrace: --live needs a terminal .*\nmodtrace: saved", done.stderr)
    assert "\x1b" not in done.stderr
