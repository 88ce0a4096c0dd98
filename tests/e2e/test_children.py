"""Child processes with work of their own are told of; workers of loaders, pools, executors and other programs not."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modtrace.capture.engine import children
from modtrace.systems import this_process

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


def test_time_of_children_that_were_not_looked_at_is_what_was_added(monkeypatch):
    """Of processes that ended between two looks: user and system time of all since the recording began."""
    spent = SimpleNamespace(ru_utime=3.0, ru_stime=0.5)
    monkeypatch.setattr(
        this_process, "resource", SimpleNamespace(RUSAGE_CHILDREN=-1, getrusage=lambda _: spent)
    )
    noted = children.Children()
    noted._note(SimpleNamespace(_identity=(1,), daemon=False, name="Process-1"))
    spent.ru_utime, spent.ru_stime = 5.0, 1.5
    assert noted.facts() == {"processes": 1, "cpu_ns": 3_000_000_000}


def test_a_program_without_torch_is_no_work_however_often_it_is_looked_at():
    programs = children._Programs()
    code = "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        running.stdout.readline()  # it has been started in place of its fork
        for _ in range(3):
            programs.look(set())
        running.communicate(b"\n")
    assert running.pid not in {pid for pid, _ in programs.spent_ns}


def test_time_of_children_is_that_of_those_with_work_of_their_own(monkeypatch):
    """Of a daemon and a process of the program's, each looked at while it ran."""
    spent = {11: 5_000_000_000, 12: 1_000_000_000}
    running = [
        SimpleNamespace(
            _identity=(pid,), _popen=SimpleNamespace(pid=pid), daemon=pid == 11, name=f"Process-{pid}"
        )
        for pid in spent
    ]
    monkeypatch.setattr("multiprocessing.process._children", running)
    monkeypatch.setattr(children, "process_stat", lambda pid: SimpleNamespace(cpu_ns=spent[pid]))
    noted = children.Children()
    noted.look()
    assert noted.facts() == {"processes": 1, "cpu_ns": 1_000_000_000}
