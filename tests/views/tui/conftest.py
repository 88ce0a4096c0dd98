"""A trace of fixed numbers for the viewer, and the viewer on it without a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.synthetic import write_gpt


@pytest.fixture(scope="session")
def gpt(tmp_path_factory):
    """40 steps of a GPT-2: 252 rows each."""
    path = tmp_path_factory.mktemp("viewer") / "gpt.mtrace"
    write_gpt(path, steps=40)
    return path


FAILING = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        self.head = torch.nn.Linear(5, 2)
    def forward(self, x):
        return self.head(self.body(x))
net = Net()
net(torch.ones(2, 4))
"""


@pytest.fixture(scope="session")
def failed(tmp_path_factory):
    """A script whose last module is given the wrong shape."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "script.py").write_text(FAILING)
    words = [sys.executable, "-m", "modtrace", "run", "-q", "-o", "failed.mtrace", "script.py"]
    assert subprocess.run(words, cwd=folder, capture_output=True, check=False).returncode == 1
    return folder / "failed.mtrace"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No keys and colours of whoever runs the tests; what is exported lands in a folder of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    for name in ("NO_COLOR", "COLORFGBG", "EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
