"""Calls behind the end of the main thread: other threads, pools, exit functions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import modtrace
from modtrace.capture.engine.tracer import Tracer

START = """
import atexit, sys, threading, time, torch
from concurrent.futures import ThreadPoolExecutor
class Late(torch.nn.Module):
    def forward(self, x): return x
m = torch.nn.Linear(1, 1)
late = Late()
x = torch.ones(1, 1)
m(x)
main = threading.main_thread()
def call(name):
    main.join()
    late(x)
    print(name, flush=True)
"""
PROGRAMS = {
    "thread": "threading.Thread(target=call, args=['thread']).start()",
    "thread_by_name": "threading.Thread(target=call, args=['thread'], daemon=False).start()\nsys.exit(3)",
    "exit_function": "atexit.register(lambda: (late(x), print('exit', flush=True)))\n1 / 0",
    "before_threads_are_joined": "threading._register_atexit(lambda: (late(x), print('joining', flush=True)))",
    "pool": "pool = ThreadPoolExecutor(1)\npool.submit(lambda: (time.sleep(0.3), late(x), print('pool', flush=True)))",
    "thread_of_a_thread": "inner = threading.Thread(target=call, args=['inner'])\n"
    "threading.Thread(target=inner.start).start()",
    "raised_there": "def fails():\n    call('fails')\n    m(torch.ones(1, 2))\n"
    "threading.Thread(target=fails).start()",
}


def start(folder, *words):
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_late_calls_are_recorded(tmp_path, name):
    (tmp_path / "program.py").write_text(START + PROGRAMS[name] + "\n")
    plain = start(tmp_path, "program.py")
    traced = start(tmp_path, "-m", "modtrace", "run", "-o", "t.mtrace", "program.py")
    assert (traced.returncode, traced.stdout) == (plain.returncode, plain.stdout)
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert trace.calls["type"].tolist().count("Late") == 1
    assert trace.calls["type"].tolist().count("Linear") == (2 if name == "raised_there" else 1)
    assert "killed" not in trace.summary()
    assert "WHERE THE TIME WENT" in traced.stderr
    assert f"exit {plain.returncode}" in traced.stderr


@pytest.mark.parametrize("late", [False, True])
def test_the_recording_ends_with_the_last_that_ran(tmp_path, late):
    """What modtrace itself does behind the end of the main thread is no time of the program's."""
    tracer = Tracer(tmp_path)
    module = torch.nn.Linear(1, 1)
    tracer.start()
    module(torch.ones(1, 1))
    tracer.main_ended()
    main_ended = tracer._clock() - tracer._context.origin_ns
    if late:
        module(torch.ones(1, 1))
    tracer.stop()
    assert tracer.rows["calls"] == 1 + late
    assert (tracer.end_facts["ended_ns"] > main_ended) == late
