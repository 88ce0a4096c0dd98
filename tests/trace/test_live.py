"""A trace that is read while it is written."""

from __future__ import annotations

import subprocess
import sys
import time

import modtrace

SCRIPT = """
import sys, time, torch
print("begun", flush=True)
kept = []
for number in range(60):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    kept.append(model)
    for size in range(1, 20):
        model(torch.ones(size + number, 3))
    time.sleep(0.05)
"""


def test_a_reader_beside_the_writer(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "train.py"]
    counts, sizes = [], set()
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"begun\n"
        ended = False
        while not ended:
            ended = running.poll() is not None
            trace = modtrace.load(tmp_path / "t.mtrace")
            calls, modules = trace.calls, trace.modules
            done = calls[calls["status"] == "ok"]
            counts.append(len(done))
            assert set(calls["module_id"]) <= set(modules.index), "every call has its module"
            assert calls["inputs"].notna().all(), "every call has its signature"
            assert done["type"].isin(["Sequential", "Linear", "ReLU"]).all()
            trace.summary()
            sizes.add(len(modules))
            time.sleep(0.02)
    assert running.returncode == 0
    assert counts == sorted(counts), "nothing that was there goes away"
    assert counts[-1] == 60 * 19 * 3
    assert len(set(counts)) > 3, "it grew while it was read"
    assert len(sizes) > 3
