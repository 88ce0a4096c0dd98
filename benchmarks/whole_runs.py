"""What tracing costs over a whole run: memory, disk, start-up, and opening the trace. Each in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

CALLS = 1_000_000

RECORD = """
import json, os, sys, time
import torch
from torch import nn
sys.path.insert(0, {here!r})
from gpt2 import GPT2, Size
import modtrace

torch.set_num_threads(1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def record(path, model, x, calls_each, calls):
    with modtrace.trace(path=path) as trace:
        for _ in range(max(1, 50_000 // calls_each)):
            model(x)
        start, most = resident(), 0.0
        started = time.perf_counter()
        for _ in range(calls // calls_each):
            model(x)
            most = max(most, resident())
        seconds = time.perf_counter() - started
    return most - start, seconds

chain = nn.Sequential(*[nn.Identity() for _ in range(999)])
growth, seconds = record({identity!r}, chain, torch.ones(1), 1000, {calls})
record({gpt2!r}, GPT2(Size()), torch.randint(0, 256, (2, 32)), 150, 100_000)
json.dump([growth, seconds], sys.stdout)
"""

LOAD = """
import json, sys, time
import pandas, pyarrow
import modtrace
started = time.perf_counter()
calls = modtrace.load(sys.argv[1]).calls
json.dump([time.perf_counter() - started, len(calls)], sys.stdout)
"""

START = "import torch, time; print(time.time_ns())"


def run(code: str, *arguments: object) -> list[float]:
    """Run code in a fresh python; the JSON it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def bytes_of(trace: Path) -> int:
    """All that lies in the trace's directory."""
    return sum(file.stat().st_size for file in trace.rglob("*") if file.is_file())


def long_run() -> dict[str, float]:
    """A million calls of identity modules, and 100,000 of GPT-2's."""
    with TemporaryDirectory() as folder:
        identity, gpt2 = Path(folder) / "identity.mtrace", Path(folder) / "gpt2.mtrace"
        here = str(Path(__file__).parent)
        code = RECORD.format(here=here, identity=str(identity), gpt2=str(gpt2), calls=CALLS)
        growth, seconds = run(code)
        load_seconds, identity_calls = run(LOAD, identity)
        _, gpt2_calls = run(LOAD, gpt2)
        return {
            "identity over 1,000,000 calls, all included [ns a call]": seconds / CALLS * 1e9,
            "memory growth over 1,000,000 calls [MB]": growth,
            "trace on disk, identity modules [bytes a call]": bytes_of(identity) / identity_calls,
            "trace on disk, GPT-2 [bytes a call]": bytes_of(gpt2) / gpt2_calls,
            "open a trace of 1,000,000 calls as a DataFrame [s]": load_seconds,
        }


def start_up(rounds: int) -> dict[str, float]:
    """What `modtrace run` adds to a script that imports torch: until its second line, and until the process is gone."""
    with TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(START)
        commands = {
            "plain": [sys.executable, script],
            "run": [sys.executable, "-m", "modtrace", "run", "-f", "-o", Path(folder) / "s.mtrace", script],
        }
        reached: dict[str, list[float]] = {name: [] for name in commands}
        ended: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                started = time.time_ns()
                done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
                ended[name].append((time.time_ns() - started) / 1e9)
                reached[name].append((int(done.stdout) - started) / 1e9)
    start = statistics.median(reached["run"]) - statistics.median(reached["plain"])
    whole = statistics.median(ended["run"]) - statistics.median(ended["plain"])
    return {
        "start-up of `modtrace run` [s]": start,
        "start-up, end and summary of `modtrace run` [s]": whole,
    }
