"""Ranks that work together by Gloo, launched by torchrun: which one the others wait for, and which one failed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import modtrace
from modtrace.cli import main

SCRIPT = """
import os, sys, time
import torch, torch.distributed as dist
from torch import nn

slow, fails = (int(word) for word in sys.argv[1:])
STEPS, PAUSE = 30, 0.03

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.pause = 0.0
        self.fails_at = -1

    def forward(self, x):
        if step == self.fails_at:
            raise ValueError("bad batch")
        time.sleep(self.pause)
        return self.inner(x).relu()

dist.init_process_group("gloo")
rank = dist.get_rank()
layers = [Layer() for _ in range(4)]
layers[2].pause = PAUSE * (rank == slow)
layers[1].fails_at = STEPS - 1 if rank == fails else -1
model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(STEPS):
    optimizer.zero_grad()
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
dist.destroy_process_group()
"""
PAUSE_NS = 30_000_000


def run(folder, *arguments, script=SCRIPT):
    """The trace of two ranks."""
    (folder / "train.py").write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "modtrace", "run", "-q", "-o", "job.mtrace", "train.py", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert (folder / "job.mtrace").is_dir(), done.stderr
    return folder / "job.mtrace"


def shown(path, capsys):
    main(["ranks", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_late_rank_and_its_failure(tmp_path, capsys):
    """Rank 1 pauses in a module; rank 0 waits for it, first in backward, and then for one that has failed."""
    path = run(tmp_path, 1, 1)
    report = shown(path, capsys)
    (late,) = report["late"]
    assert (late["rank"], late["module"], late["direction"]) == (1, "module.2", "forward")
    assert late["excess_ns"] > PAUSE_NS / 2
    assert late["since_step"] is None
    assert late["gain"] > 0.2
    assert report["remarks"][0].startswith(
        "rank 1 failed first: ValueError: bad batch, in module.1, at step 29"
    )
    frame = modtrace.load(path).ranks
    assert frame["late"].tolist() == [False, True]
    assert frame["role"].tolist() == [0, 0]
    assert frame["backward_ns"][0] > PAUSE_NS / 2  # the waiting is in the phase ...
    assert frame["modules_ns"][1] - frame["modules_ns"][0] > PAUSE_NS / 2  # ... and in no module


def test_nobody_is_late_in_the_same_job_without_the_pause(tmp_path, capsys):
    report = shown(run(tmp_path, -1, -1), capsys)
    assert report["compared_steps"] >= 18
    assert not [late for late in report["late"] if late["excess_ns"] > PAUSE_NS / 2]
    assert [rank["state"] for rank in report["ranks"]] == ["exit 0", "exit 0"]


KILLED = """
import os, signal, time
import torch, torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(60):
    if step == 40 and dist.get_rank() == 1:
        while not os.path.exists("written"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
"""


def steps_in_sums(path, rank):
    """How many steps of the rank can be read in the sums that have been written by now."""
    try:
        sums = modtrace.load(path).rollups
    except modtrace.TraceError:  # not there yet
        return 0
    return sums[(sums["rank"] == rank) & (sums["kind"] == "step")]["calls"].sum()


def test_a_killed_rank_of_a_thinned_run_is_named_and_leaves_its_steps(tmp_path, capsys):
    """Rank 1 is killed once its 40 steps can be read from outside. The first has no time: its begin is not known."""
    (tmp_path / "train.py").write_text(KILLED)
    path = tmp_path / "job.mtrace"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with (tmp_path / "errors.txt").open("w") as errors:
        job = subprocess.Popen(
            [*launcher, "-m", "modtrace", "run", "-q", "--keep", "5", "-o", "job.mtrace", "train.py"],
            cwd=tmp_path, stderr=errors,
        )  # fmt: skip
        try:
            while job.poll() is None and steps_in_sums(path, 1) < 39:
                time.sleep(0.3)
            (tmp_path / "written").touch()
            status = job.wait(timeout=120)
        finally:
            job.terminate()
            job.wait()
    assert status == 1
    assert "Signal 9" in (tmp_path / "errors.txt").read_text()
    report = shown(path, capsys)
    rank_0, rank_1 = (rank["state"] for rank in report["ranks"])
    assert rank_1.startswith("killed")
    if not rank_0.startswith(
        "killed"
    ):  # by the launcher, where it was slow to notice: then none is the first
        first = r"rank 1 failed first: killed, or left by os._exit, last written at step (39|40)\b"
        assert re.match(first, report["remarks"][0]), report["remarks"]
    calls = modtrace.load(path).calls
    steps = set(calls[(calls["rank"] == 1) & (calls["type"] == "Linear")]["step"].dropna())
    assert {*range(10), *range(10, 40, 5)} <= steps <= {*range(40)}
    assert len(steps) < 40
    assert steps_in_sums(path, 1) == 39


REDUCES = """
import sys, time
import torch, torch.distributed as dist
from torch import nn

class Sum(nn.Module):
    def forward(self, x):
        dist.all_reduce(x.detach())
        return x * 2

class Slow(nn.Module):
    def forward(self, x):
        if dist.get_rank() == 1:
            time.sleep(0.03)
        return x + 1

dist.init_process_group("gloo")
model = nn.Sequential(nn.Linear(8, 8), Slow(), Sum(), nn.Linear(8, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(30):
    optimizer.zero_grad()
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
dist.destroy_process_group()
"""


def test_waiting_in_a_forward_hides_no_late_rank(tmp_path, capsys):
    """Rank 0 takes as long in the module that adds up as rank 1 in the one that pauses: it stands there."""
    path = run(tmp_path, script=REDUCES)
    report = shown(path, capsys)
    (late,) = report["late"]
    assert (late["rank"], late["module"], late["direction"]) == (1, "1", "forward")
    assert PAUSE_NS / 2 < late["excess_ns"] < 2 * PAUSE_NS
    calls = modtrace.load(path).calls
    sums = calls[(calls["type"] == "Sum") & (calls["kind"] == "module") & (calls["rank"] == 0)]
    assert sums["self_ns"].median() > PAUSE_NS / 2, "the call itself has its whole time"
    (added,) = [row for row in report["modules"] if (row["name"], row["direction"]) == ("2", "forward")]
    assert added["most_ns"] < PAUSE_NS / 2
