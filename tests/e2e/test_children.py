"""Child processes with work of their own are told of; workers of loaders, pools, executors and other programs not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = '''
import multiprocessing, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
import torch
from torch.utils.data import DataLoader, Dataset

CHILD = """
import time, torch
until = time.time() + 4
while time.time() < until:
    torch.nn.Linear(64, 64)(torch.ones(64, 64))
"""

def spin(_=0):
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass

class Slow(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        spin()
        return torch.ones(2)

def processes(method):
    context = multiprocessing.get_context(method)
    some = [context.Process(target=spin) for _ in range(2)]
    for one in some: one.start()
    for one in some: one.join()

if __name__ == "__main__":
    kind = sys.argv[1]
    if kind in ("fork", "spawn"):
        processes(kind)
    elif kind == "torch":
        torch.multiprocessing.spawn(spin, nprocs=2)
    elif kind == "loader":
        list(DataLoader(Slow(), num_workers=2))
    elif kind == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(spin, range(2))
    elif kind == "executor":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            list(pool.map(spin, range(2)))
    elif kind == "program":
        subprocess.run([sys.executable, "-c", "sum(range(2_000_000))"])
    elif kind in ("trainer", "recorded"):
        words = ["-m", "modtrace", "run", "-q"] if kind == "recorded" else []
        with open("child.py", "w") as file:
            file.write(CHILD)
        subprocess.run([sys.executable, *words, "child.py"], check=True)
'''


@pytest.mark.parametrize(
    ("kind", "processes"),
    [
        ("fork", 2), ("spawn", 2), ("torch", 2), ("loader", 0), ("pool", 0), ("executor", 0), ("program", 0),
        ("trainer", 1), ("recorded", 0),
    ],
)  # fmt: skip
def test_children(tmp_path, kind, processes):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    trace = tmp_path / "t.mtrace"
    command = [sys.executable, "-m", "modtrace", "run", "-q", "-o", str(trace), str(script), kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    children = json.loads((trace / "rank-0" / "end.json").read_text())["children"]
    assert children["processes"] == processes
    if kind == "trainer":
        assert children["cpu_ns"] >= 500_000_000
    if kind == "fork":
        assert children["cpu_ns"] >= 400_000_000
