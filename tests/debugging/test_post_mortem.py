"""`--pdb` and `modtrace.pm()`: the debugger where an exception has ended the program."""

from __future__ import annotations

import subprocess
import sys

import pytest

import modtrace
from tests.debugging.prompts import ROOT, drive, run

BROKEN = ROOT / "examples" / "broken_lenet.py"
SCRIPT = """
import sys, torch
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
    def forward(self, x):
        return self.finish(self.fc(x))
    def finish(self, y):
        raise KeyError("made up")
net = torch.nn.Sequential(torch.nn.Identity(), Block())
net(torch.ones(2, 4))
"""
PM = """
import sys, torch, modtrace
net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3))
try:
    with modtrace.trace() as t:
        net(torch.ones(1, 2))
except RuntimeError:
    sys.last_traceback = sys.exc_info()[2]
modtrace.pm()
print("goes on")
"""


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_it_opens_in_the_program_inside_the_failing_module(tmp_path, engine):
    (tmp_path / "script.py").write_text(SCRIPT)
    answers = ["p y.shape", "mtree", "mup", "mup", "mdown", "w", "q"]
    session = run(["--engine", engine, "--pdb"], "script.py", cwd=tmp_path, answers=answers)
    plain = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert session.status == plain.returncode == 1
    order = ["Traceback (most recent call last)", "KeyError: 'made up'", "WHERE IT FAILED", "(Pdb) "]
    assert sorted(order, key=session.text.index) == order
    assert plain.stderr.splitlines()[-1] in session.text
    assert '(10)finish()\n-> raise KeyError("made up")' in session.text
    assert "(Pdb) p y.shape\ntorch.Size([2, 4])" in session.text
    assert "   Sequential  (f32[2,4])\n->   1 (Block)  (f32[2,4])" in session.text
    assert "-> return self.finish(self.fc(x))" in session.text
    assert "modtrace/cli" not in session.text
    assert session.text.count("(Pdb) ") == len(answers)


def test_the_session_of_the_page(tmp_path):
    session = run(["--pdb"], BROKEN, cwd=tmp_path, answers=["mtree", "q"])
    page = (ROOT / "docs" / "debugging.md").read_text()
    part = page[page.index("$ modtrace run --pdb examples/broken_lenet.py") :]
    for line in part[: part.index("```")].splitlines()[1:]:
        assert line in session.text


@pytest.mark.parametrize(
    "code", ["raise SystemExit(4)", "raise KeyboardInterrupt", "import bdb; raise bdb.BdbQuit", "pass"]
)
def test_it_does_not_open_at_other_ends(tmp_path, code):
    (tmp_path / "script.py").write_text(f"import torch\n{code}\n")
    session = run(["--pdb"], "script.py", cwd=tmp_path)
    assert "(Pdb) " not in session.text
    plain = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True)
    assert session.status == plain.returncode


def test_a_script_without_torch(tmp_path):
    session = run(["--pdb"], "-c", "x = 5; x.nothing", cwd=tmp_path, answers=["p x", "mtree", "mup", "q"])
    assert "(Pdb) p x\n5\n" in session.text
    assert "no module call is open here" in session.text
    assert session.status == 1


def test_pm(tmp_path):
    (tmp_path / "script.py").write_text(PM)
    session = drive(["script.py"], ["mtree", "q"], cwd=tmp_path)
    assert "WHERE IT FAILED   step 0   RuntimeError" in session.text
    assert "script.py(6)<module>()\n-> net(torch.ones(1, 2))" in session.text
    assert "     1 (Linear)  (f32[1,3])" in session.text
    assert session.text.rstrip().endswith("goes on")


def test_pm_where_nothing_has_failed(monkeypatch):
    monkeypatch.delattr(sys, "last_traceback", raising=False)
    with pytest.raises(modtrace.UsageError, match="nothing has failed"):
        modtrace.pm()
