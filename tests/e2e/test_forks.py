"""A program that forks does so with as many threads as under python, and what it recorded is on disk all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import modtrace

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")

FORKS = """
import os, time, torch
model = torch.nn.Linear(3, 4)
def threads():
    return len(os.listdir("/proc/self/task"))
os.register_at_fork(after_in_parent=lambda: print("threads", threads(), flush=True))
for turn in range(3):
    model(torch.ones(2, 3))
    time.sleep(0.3)
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, at): return torch.ones(3)
for batch in torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2):
    model(batch)
"""


def run(directory, *command):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "always", *command]
    return subprocess.run(words, cwd=directory, env=env, capture_output=True, text=True, timeout=120)


def test_a_fork_finds_no_thread_of_ours(tmp_path):
    (tmp_path / "train.py").write_text(FORKS)
    plain = run(tmp_path, "train.py")
    traced = run(tmp_path, "-m", "modtrace", "run", "--print", "none", "-o", "t.mtrace", "train.py")
    assert plain.returncode == 0
    # From 3.12 on python warns of a fork beside other threads.
    assert (traced.returncode, traced.stdout, traced.stderr) == (0, plain.stdout, plain.stderr)
    assert plain.stdout.startswith("threads 1\n")
    assert (modtrace.load(tmp_path / "t.mtrace").calls["type"] == "Linear").sum() == 5


KILLED = """
import os, signal, threading, time, torch
class Waits(torch.nn.Module):
    def forward(self, x):
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.nn.Linear(3, 4)(torch.ones(2, 3))
if not os.fork():
    os._exit(0)
Waits()(torch.ones(1))
"""


def test_what_follows_a_fork_is_written_in_time(tmp_path):
    (tmp_path / "train.py").write_text(KILLED)
    done = run(tmp_path, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py")
    assert done.returncode == -signal.SIGKILL
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    assert dict(zip(calls["type"], calls["status"], strict=True)) == {"Linear": "ok", "Waits": "unfinished"}
