"""What measures a GPU works, as far as that shows without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(*words):
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=250)


def test_costs_are_measured_on_the_processor():
    done = run(sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--cpu", "--rounds", "1", "--runs", "1")
    assert done.returncode == 0, done.stderr
    rows = [
        line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ") and "batch" in line
    ]
    assert len(rows) == 8 * 3
    assert {row[1] for row in rows} == {"untraced", "modtrace", "torch.profiler"}
    assert "skipped" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so():
    done = run(str(ROOT / "benchmarks" / "gpu.sh"))
    assert done.returncode == 2
    assert done.stderr == "no GPU is here, or no torch that can use it\n"
    assert done.stdout == ""
