"""`-f` replaces a trace; never one that a process is still recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import modtrace
from modtrace.errors import UsageError
from modtrace.trace.reader import open_trace

SCRIPT = """
import sys
if "early" not in sys.argv:
    import torch
    torch.nn.ReLU()(torch.ones(2))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("words", [(), ("early",)])
def test_a_trace_that_is_being_recorded_is_not_replaced(tmp_path, words):
    """Neither before torch is imported nor after it; when the process has ended, it is."""
    (tmp_path / "train.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", "train.py", *words]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(run, cwd=tmp_path, **pipes) as first:
        assert first.stdout.readline() == "ready\n"
        second = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, input="", check=False)
        assert second.returncode == 2
        assert second.stdout == "", "the script has not started"
        assert f"recorded by process {first.pid}, which is running" in second.stderr
        assert second.stderr.count("\n") == 1
        first.communicate("\n")
        assert first.returncode == 0
    assert open_trace(tmp_path / "t.mtrace").processes[0].end is not None
    third = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, input="", check=False)
    assert (third.returncode, third.stdout) == (0, "ready\n")


def test_a_trace_of_a_killed_process_is_replaced(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    run = [sys.executable, "-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", "train.py"]
    with subprocess.Popen(run, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        first.kill()
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, input=b"", check=False).returncode == 0


def test_in_one_process(tmp_path):
    path = tmp_path / "t.mtrace"
    with modtrace.trace(path=path) as first:
        torch.nn.ReLU()(torch.ones(2))
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), modtrace.trace(path=path, force=True):
            pass
    assert len(first.calls) == 1
    with modtrace.trace(path=path, force=True) as second:
        pass
    assert len(second.calls) == 0


def test_a_number_that_was_given_to_another_process_is_none(tmp_path):
    path = tmp_path / "t.mtrace"
    with modtrace.trace(path=path):
        pass
    (path / "rank-0" / "end.json").unlink()
    process = json.loads((path / "rank-0" / "process.json").read_text())
    (path / "rank-0" / "process.json").write_text(json.dumps(process | {"started_unix_ns": 10**18}))
    with modtrace.trace(path=path, force=True):
        pass


def test_a_trace_is_not_saved_over_itself(tmp_path):
    path = tmp_path / "t.mtrace"
    with modtrace.trace(path=path):
        torch.nn.ReLU()(torch.ones(2))
    with pytest.raises(UsageError, match="this very trace"):
        modtrace.load(path).save(tmp_path / "." / "t.mtrace", force=True)
    assert len(modtrace.load(path).calls) == 1
