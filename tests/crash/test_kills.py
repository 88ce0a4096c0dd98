"""SIGKILL at random moments: what a killed run leaves behind is true, and is all but its last second.

`MODTRACE_KILLS` is how many runs are killed (20 unless told; 200 in a long run).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

import modtrace

KILLS = int(os.environ.get("MODTRACE_KILLS", "20"))
FLUSH_S = 1.0

# Every call says which it is by the size of its input; every root call is printed, with the script's own clock, when it
# has ended. Some root calls are long, so that blocks are written inside them, too.
SCRIPT = """
import sys, time, torch

class Inner(torch.nn.Module):
    def forward(self, x):
        return x

class Root(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        for _ in range(LONG if len(x) % 50 == 49 else 3):
            self.inner(x)
            time.sleep(PAUSE)
        return x

LONG, PAUSE = int(sys.argv[1]), float(sys.argv[2])
root = Root()
number = 0
while True:
    number += 1
    root(torch.empty(number, device="meta"))
    sys.stdout.write(f"{number} {time.monotonic_ns()}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_keeps_all_but_its_last_second(tmp_path, seed):
    chance = random.Random(seed)
    (tmp_path / "train.py").write_text(SCRIPT)
    long, pause = chance.choice([(3, 0.0), (3, 0.001), (3000, 0.0), (600, 0.002)])
    words = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py", str(long), str(pause)]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as running:
        first = running.stdout.readline()
        time.sleep(chance.uniform(0.0, 2.5))
        running.kill()
        lines = (first + running.stdout.read()).split(b"\n")[:-1]
    ended = [tuple(map(int, line.split())) for line in lines]
    last_ns = ended[-1][1]
    must_be_there = [number for number, at_ns in ended if at_ns < last_ns - FLUSH_S * 1e9]

    trace = modtrace.load(tmp_path / "t.mtrace")
    calls = trace.calls
    summary = trace.summary()
    if calls.empty:  # killed before the first second was written
        assert "ended before anything was written" in summary
        assert not must_be_there
        return
    assert "did not" in summary
    roots = calls[calls["depth"] == 0]
    numbers = [int(text.removeprefix("f32[").split("]")[0]) for text in roots["inputs"]]
    assert numbers == list(range(1, len(numbers) + 1)), "a prefix, in order"
    assert len(numbers) >= len(must_be_there)
    assert set(roots["status"].iloc[:-1]) <= {"ok"}
    assert len(roots[roots["status"] == "ok"]) >= len(must_be_there)

    children = calls[calls["depth"] == 1].groupby("parent").size()
    for number, call, status in zip(numbers, roots.index, roots["status"], strict=True):
        wanted = long if number % 50 == 49 else 3
        assert children.get(call, 0) == wanted if status == "ok" else children.get(call, 0) <= wanted
    known = trace.modules.index
    assert set(calls["module_id"]) <= set(known)
