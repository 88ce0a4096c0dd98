"""The benchmark for a GPU: without one it says so, and as much of it as can runs on a processor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def go(*words):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [bash, ROOT / "benchmarks" / "gpu.sh", *words],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        cwd=ROOT.parent,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_and_status_2():
    done = go()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "there is no GPU here" in done.stderr


def test_all_of_it_runs_on_a_processor():
    done = go("--cpu", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    titles = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Tests",
        "## Overhead",
        "## Device time beside kernels",
        "## Peaks",
        "## Out of memory",
        "## Missed",
    ]
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    watched = [row[1] for row in rows if len(row) == 7 and row[0] != "| run"]
    assert watched == ["untraced", "modtrace", "torch.profiler"] * 9
    assert done.stdout.count("eeds CUDA") == 1 + 4 + 2  # what is left out is named
    assert "nothing seen of a device" in done.stdout
    assert "OUT OF MEMORY   asked for 4096 TiB" in done.stdout
    assert done.stdout.endswith("## Missed\n\nNothing.\n")
