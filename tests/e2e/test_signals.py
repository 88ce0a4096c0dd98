"""SIGTERM and SIGHUP do what they do under python: no handler is there, and what was written before can be read."""

from __future__ import annotations

import subprocess
import sys

import pytest

import modtrace

CALLS = """
import os, signal, sys, threading, time, torch
number = signal.Signals[sys.argv[1]]
model = torch.nn.Linear(2, 2)
for _ in range(7):
    model(torch.ones(1, 2))
"""
WAIT = """
    import datetime, torch.distributed as dist
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=6))
    ready()
    try:
        store.get("never")
    except Exception:
        print("waited to the end", flush=True)
"""
PROGRAMS = {
    "chained": """
before = signal.getsignal(number)
print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP), before)
def handler(signum, frame):
    print("saved", callable(before), flush=True)
    signal.signal(signum, before)
    os.kill(os.getpid(), signum)
signal.signal(number, handler)
os.kill(os.getpid(), number)
time.sleep(5)
""",
    "only_where_none_is": """
if signal.getsignal(number) is signal.SIG_DFL:
    def handler(signum, frame):
        raise SystemExit("stopped in good order")
    signal.signal(number, handler)
try:
    os.kill(os.getpid(), number)
    time.sleep(5)
finally:
    print("finally", flush=True)
""",
    "wait_in_c": f"""
def wait():
    ready = threading.Timer(1.3, os.kill, (os.getpid(), number)).start
{WAIT}
wait()
""",
    "forked_child_waits_in_c": f"""
import multiprocessing
def wait(queue):
    ready = lambda: queue.put(1)
{WAIT}
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=wait, args=(queue,))
child.start()
queue.get()
os.kill(child.pid, number)
child.join()
print(child.exitcode)
""",
    "in_a_forward": """
class Kills(torch.nn.Module):
    def forward(self, x):
        time.sleep(1.3)
        os.kill(os.getpid(), number)
        time.sleep(5)
Kills()(1)
""",
}


def start(folder, *words):
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, "SIGTERM") for name in PROGRAMS), ("chained", "SIGHUP"), ("wait_in_c", "SIGHUP")],
)
def test_a_signal_does_what_it_does_under_python(tmp_path, name, number):
    (tmp_path / "program.py").write_text(CALLS + PROGRAMS[name])
    plain = start(tmp_path, "program.py", number)
    traced = start(tmp_path, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "program.py", number)
    assert (traced.returncode, traced.stdout) == (plain.returncode, plain.stdout)
    assert "waited to the end" not in plain.stdout
    trace = modtrace.load(tmp_path / "t.mtrace")
    dies_late = name in ("wait_in_c", "in_a_forward")
    if plain.returncode >= 0 or dies_late:  # more than a second after the calls, or in good order
        assert (trace.calls["type"] == "Linear").sum() == 7
    assert ("  killed" in trace.summary()) == (plain.returncode < 0)
    if name == "in_a_forward":
        assert trace.calls["status"].tolist()[-1] == "unfinished"


RANKS = """
import datetime, os, sys, time, torch, torch.distributed as dist
model = torch.nn.Linear(2, 2)
rank = int(os.environ["RANK"])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=40))
dist.barrier()
model(torch.ones(1, 2))
if rank == 1:
    time.sleep(1.5)
    os._exit(3)
try:
    dist.distributed_c10d._get_default_store().get("never")
finally:
    print("waited to the end", flush=True)
"""


def test_torchrun_ends_the_other_ranks_of_one_that_died(tmp_path):
    (tmp_path / "program.py").write_text(RANKS)
    runner = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = start(tmp_path, *runner, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "program.py")
    assert done.returncode == 1
    assert "waited to the end" not in done.stdout
    assert "exitcode  : 3" in done.stderr
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert sorted(trace.calls.groupby("rank").size().items()) == [(0, 1), (1, 1)]
    assert "  killed" in trace.summary()
