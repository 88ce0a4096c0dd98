"""Jobs on Gloo that hang: who is missing from which collective is told while they run, and when they were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import modtrace
from modtrace.cli import main

SCRIPT = """
import os, sys, time
import torch, torch.distributed as dist
from torch import nn

how = sys.argv[1]
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

class Stops(nn.Module):
    def forward(self, x):
        if how == "sleeps" and rank == 1 and step == 4:
            time.sleep(1_000)
        return x

model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(16, 16), Stops(), nn.Linear(16, 16)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(6):
    optimizer.zero_grad()
    model(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
if how == "differs":
    dist.barrier() if rank == 0 else dist.all_reduce(torch.ones(500))
"""
SECONDS = 120
"""Longer than a job ever takes until it hangs, and is seen to."""


def begin(folder, ranks, how):
    """The launcher of a job, in a process group of its own."""
    (folder / "train.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*launcher, "-m", "modtrace", "run", "-q", "-o", "job.mtrace", "train.py", how],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def shown(path, capsys):
    main(["ranks", str(path), "--json"])
    return json.loads(capsys.readouterr().out)


def until_told(path, words, capsys):
    """What `modtrace ranks` says of a job that runs, once it speaks of something."""
    remarks, until = [], time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(0.5)
        if path.is_dir() and [*path.glob("rank-*/process.json")]:
            remarks = shown(path, capsys)["remarks"]
            if any(words in remark for remark in remarks):
                return next(remark for remark in remarks if words in remark)
    raise AssertionError(remarks)


def kill(launcher, path):
    """Kill the launcher and all ranks, with no time for them to do anything."""
    pids = [json.loads(file.read_text())["pid"] for file in path.glob("rank-*/process.json")]
    for pid in (launcher.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    launcher.wait(timeout=SECONDS)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_that_never_comes(tmp_path, capsys, ranks):
    """Step 4 is the fifth: three collectives before the first step, one for each backward, buffers once."""
    launcher, path = begin(tmp_path, ranks, "sleeps"), tmp_path / "job.mtrace"
    try:
        told = until_told(path, "is missing from", capsys)
    finally:
        kill(launcher, path)
    others = "rank 0 waits" if ranks == 2 else "ranks 0, 2 wait"
    for text in (told, next(text for text in shown(path, capsys)["remarks"] if "is missing" in text)):
        assert text.startswith("rank 1 is missing from all_reduce ")
        assert f"(group default_pg): {others} in backward for at least " in text
        assert "module.1, at step 4" in text
    rows = modtrace.load(path).collectives
    waiting = rows[~rows["ended"].astype(bool)]
    assert waiting["rank"].tolist() == [rank for rank in range(ranks) if rank != 1]
    assert waiting["sequence"].nunique() == 1
    number = int(waiting["sequence"].iloc[0])
    assert f"all_reduce {number} of 2.13 KiB" in told  # 544 parameters of four bytes
    assert f"rank 1's last is {number - 1}, it is in module.1" in told
    assert rows[rows["rank"] == 1]["sequence"].max() == number - 1
    of_backward = modtrace.load(path).calls.loc[waiting["call"]]
    assert (of_backward["phase"] == "backward").all()


def test_ranks_that_call_different_collectives(tmp_path, capsys):
    """Nothing is open then: the trace is written all the same."""
    launcher, path = begin(tmp_path, 2, "differs"), tmp_path / "job.mtrace"
    try:
        told = until_told(path, "different collectives", capsys)
    finally:
        kill(launcher, path)
    assert told.startswith("ranks have called different collectives (group default_pg): ")
    assert "barrier" in told
    assert "all_reduce" in told
    assert "of 1.95 KiB" in told  # 500 numbers


def test_lateness_is_that_of_the_same_collective_in_all_ranks(tmp_path):
    launcher, path = begin(tmp_path, 2, "neither"), tmp_path / "job.mtrace"
    assert launcher.wait(timeout=SECONDS) == 0
    trace = modtrace.load(path)
    rows = trace.collectives
    assert trace.gaps.empty
    assert rows["ended"].all()
    assert (rows["ranks"] == 2).all()
    assert (rows["group_ranks"] == 2).all()
    first, second = (rows[rows["rank"] == rank].set_index("sequence") for rank in (0, 1))
    assert first.index.tolist() == second.index.tolist() == [*range(1, len(first) + 1)]
    assert (first["operation"] == second["operation"]).all()
    apart = first["late_ns"] - second["late_ns"]
    assert (first["late_ns"].where(first["late_ns"] > 0, second["late_ns"]) == apart.abs()).all()
    assert (first["wait_ns"] == second["late_ns"]).all()
    starts = [
        json.loads((path / f"rank-{rank}" / "process.json").read_text())["started_unix_ns"] for rank in (0, 1)
    ]
    assert (first["start_ns"] + starts[0] - second["start_ns"] - starts[1] == apart).all()
    assert first.loc[first["step"].notna(), "step"].is_monotonic_increasing
    steps, ranks = trace.steps, trace.ranks
    for rank, own in ((0, first), (1, second)):
        counted = steps.xs(rank, level="rank")
        counted = counted[counted["in_statistics"]]
        waits = []
        for number, step in counted.iterrows():
            of_step = own[own["step"] == number]
            waited, end_ns = 0, step["start_ns"] + step["duration_ns"]
            until = 0
            for start, wait in zip(of_step["start_ns"], of_step["wait_ns"], strict=True):
                stop = min(start + wait, end_ns)
                waited, until = waited + max(stop - max(start, until), 0), max(until, stop)
            waits.append(waited)
        assert ranks["wait_ns"][rank] == sorted(waits)[(len(waits) - 1) // 2]
