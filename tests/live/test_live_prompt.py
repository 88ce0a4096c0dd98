"""A debugger that opens while the run is looked at: the screen is left for the prompt and comes back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import modtrace
from modtrace.trace.onlooker import Onlooker
from modtrace.views.live.prompt_marks import PromptMarks
from tests.live.terminal import LIMIT_S, Terminal, gone, keepers, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")

SCRIPT = """
import os, sys, time, torch
print("ONLOOKER" in str(os.environ), flush=True)
net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for number in range(12):
    while number == 3 and not os.path.exists("go"):
        time.sleep(0.02)
    optimizer.zero_grad()
    net(torch.ones(4, 8)).sum().backward()
    optimizer.step()
print("twelve steps", flush=True)
if len(sys.argv) > 1:
    raise ValueError(sys.argv[1])
"""
ALT_ON, ALT_OFF = b"\x1b[?1049h", b"\x1b[?1049l"


class Watched(Terminal):
    """Texts are looked for behind the last one that was found."""

    seen = 0

    def until(self, pattern):
        start, end = self.seen, time.monotonic() + LIMIT_S

        def found():
            return re.search(pattern, self.text[start:])

        while not found():
            assert self.read(), self.text[-2000:]
            assert time.monotonic() < end, self.text[-3000:]
        self.seen = start + found().end()
        return found()


@pytest.fixture
def live(tmp_path):
    terminals = []

    def start(*options, words=()):
        (tmp_path / "train.py").write_text(SCRIPT)
        command = ("-m", "modtrace", "run", "--live", "-o", "t.mtrace", *options, "train.py", *words)
        terminals.append(Watched(tmp_path, *command))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()
    wait_for(lambda: not keepers(tmp_path / "t.mtrace"), "a process was left over")


def test_the_screen_is_left_and_comes_back(live, tmp_path):
    terminal = live("--break", "name:0 and step=5", "--break", "name:1 and step=7")
    terminal.until(r"LIVE train.py pid \d+")
    terminal.until(r"\[running\]")
    (tmp_path / "go").write_text("")
    terminal.until(r"stopped before 0 \(Linear\), step 5")
    terminal.until(r"\(Pdb\) ")
    assert terminal.raw.count(ALT_OFF) == terminal.raw.count(ALT_ON) == 1
    terminal.press("p 6 * 7, module.out_features\r")
    terminal.until(r"\(42, 8\)")
    terminal.press("mtree\r")
    terminal.until(r"-> +0 \(Linear\)")
    terminal.press("\x03")  # goes to the script, as what is typed does
    terminal.until(r"KeyboardInterrupt")
    terminal.press("!number_of_rows = len(args[0])\r")
    terminal.press("p 100 + number_of_rows\r")
    terminal.until(r"\s104\s")
    terminal.press("c\r")
    terminal.until(r"stopped before 1 \(ReLU\), step 7")  # the next one
    terminal.press("c\r")
    terminal.until(r"FINISHED")
    assert terminal.raw.count(ALT_ON) == terminal.raw.count(ALT_OFF) + 1
    terminal.press("q")
    assert terminal.ended() == 0
    output = (tmp_path / "t.mtrace" / "output.txt").read_bytes()
    assert b"twelve steps" in output
    assert output.startswith(b"False\r\n")  # the script does not see who looks
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert len(trace.steps) == 12
    assert not trace.steps.loc[5, "in_statistics"]


def test_what_ends_the_program_at_the_prompt(live, tmp_path):
    (tmp_path / "go").write_text("")
    terminal = live("--break", "name:0 and step=5")
    terminal.until(r"\(Pdb\) ")
    terminal.press("q\r")
    terminal.until(r"\[exit 1\]")
    terminal.press("q")
    assert terminal.ended() == 1
    assert b"BdbQuit" in (tmp_path / "t.mtrace" / "output.txt").read_bytes()


def test_after_an_exception(live, tmp_path):
    (tmp_path / "go").write_text("")
    terminal = live("--pdb", words=("wrong",))
    terminal.until(r"WHERE IT FAILED|ValueError: wrong")
    terminal.until(r"\(Pdb\) ")
    terminal.press("p number\r")
    terminal.until(r"11")
    terminal.press("q\r")
    terminal.until(r"\[exit 1\]")
    terminal.press("q")
    assert terminal.ended() == 1


def test_nothing_stops_that_nobody_looks_at(live, tmp_path):
    terminal = live("--break", "name:0 and step=5")
    pid = int(terminal.until(r"LIVE train.py pid (\d+)")[1])
    terminal.until(r"\[running\]")
    terminal.press("q")
    assert terminal.ended() == 0
    (tmp_path / "go").write_text("")
    wait_for(lambda: gone(pid), "the script waits for an answer")
    output = (tmp_path / "t.mtrace" / "output.txt").read_bytes()
    assert b"nobody looks at this run any more" in output
    assert b"twelve steps" in output


# marks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_marks_that_are_cut_anywhere(size):
    begin, end = (Onlooker(0, "word").mark(begins=state) for state in (True, False))
    text = b"a\x1b[1mb" + begin + b"(Pdb) \x1b]0;t\x07" + end + b"c" + begin + b"more\x1b" + end + b"d"
    marks, spoken, opened = PromptMarks("word"), b"", []
    for position in range(0, len(text), size):
        spoken += marks.feed(text[position : position + size])
        opened.append(marks.open)
    assert spoken == b"(Pdb) \x1b]0;t\x07more\x1b"
    assert opened[-1] is False


def test_a_prompt_is_shown_at_once_and_other_words_open_nothing():
    marks = PromptMarks("word")
    assert marks.feed(Onlooker(0, "other").mark(begins=True) + b"x") == b""
    assert not marks.open
    assert marks.feed(Onlooker(0, "word").mark(begins=True) + b"(Pdb) ") == b"(Pdb) "
    assert marks.open
