"""A Python without its global lock, and Macs, which tell of processes by ps."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch

import modtrace
from modtrace.errors import UsageError
from modtrace.systems import other_processes
from modtrace.systems.other_processes import is_alive, started_unix
from modtrace.systems.this_process import lacks_interpreter_lock


@pytest.mark.parametrize(("enabled", "lacks"), [(True, False), (False, True), (None, False)])
def test_the_lock_is_asked_for(monkeypatch, enabled, lacks):
    if enabled is None:
        monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    else:
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    assert lacks_interpreter_lock() == lacks


def test_trace_is_refused_without_the_lock(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(UsageError, match=r"without its global lock .*PYTHON_GIL=1"):
        modtrace.trace(path=tmp_path / "a.mtrace").__enter__()
    assert not os.listdir(tmp_path)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True)
    with modtrace.trace() as t:
        torch.nn.Linear(2, 2)(torch.ones(1, 2))
    assert len(t.calls) == 1


WITHOUT_LOCK = """
import sys
sys._is_gil_enabled = lambda: False
from modtrace.cli import main
main(["run", "-o", "a.mtrace", "-c", "import torch; torch.nn.Linear(2, 2)(torch.ones(1, 2)); print('ran')"])
"""


def test_a_script_runs_without_the_lock_and_is_not_recorded(tmp_path):
    words = [sys.executable, "-c", WITHOUT_LOCK]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert done.stderr.splitlines()[0].startswith(
        "modtrace: nothing is recorded: this Python runs without its global"
    )
    assert "Traceback" not in done.stderr


@pytest.fixture
def mac(monkeypatch):
    """No /proc; ps says what is written here: the start by process id."""
    starts = {}

    def ps(words, **_):
        assert words[:4] == ["ps", "-o", "lstart=", "-p"]
        moment = starts.get(int(words[4]))
        if moment is None:
            raise subprocess.CalledProcessError(1, words)
        text = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(moment))
        return subprocess.CompletedProcess(words, 0, f"{text}    \n", "")

    monkeypatch.setattr(other_processes, "process_stat", lambda pid: None)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    monkeypatch.setattr(subprocess, "run", ps)
    return starts


def test_a_process_of_a_mac_is_told_by_its_start(mac):
    pid, began = os.getpid(), 1_700_000_000
    mac[pid] = began
    assert started_unix(pid) == began
    assert is_alive(pid, (began + 5) * 10**9)
    assert is_alive(pid, began * 10**9)
    assert not is_alive(pid, (began - 60) * 10**9)
    assert is_alive(pid, None)


def test_a_process_that_ps_does_not_know_may_be_the_one(mac):
    assert started_unix(os.getpid()) is None
    assert is_alive(os.getpid(), 10**9)
    assert not is_alive((1 << 22) + 5, 10**9)
