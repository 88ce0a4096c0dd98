"""The prompt: what is at hand, where it is, and how the program goes on."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modtrace.capture.debugger.module_frames import code_of
from modtrace.capture.debugger.prompt_streams import is_notebook
from tests.debugging.prompts import ROOT, drive, run

EXAMPLES = ROOT / "examples" / "debugging"
MODELS = Path(__file__).with_name("models.py")
SCRIPT = """
import torch, modtrace
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)
    @torch.no_grad()
    def forward(self, x, *, scale=1):
        y = self.fc(x)
        return helper(y) * scale
def helper(y):
    modtrace.breakpoint("step=1", "block")
    return y + 1
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
    def forward(self, x):
        return self.block(x, scale=2)
model, args = Net(), "of the program"
for step in range(3):
    model(torch.ones(2, 4))
print("done", sorted(set(globals()) & {"module", "kwargs", "output", "call"}), args)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_before_a_call(tmp_path, script, engine):
    answers = [
        "p type(module).__name__, args[0].shape, kwargs, output", "p sorted(vars())[:2]", "p call.inputs", "call.nth",
        "p [module for _ in (1,)][0] is self", "mtree", "mup", "mup", "mdown", "p x.shape", "n", "n", "s", "s",
        "w", "c",
    ]  # fmt: skip
    session = run(["--engine", engine, "--break", "block and step=0"], script, cwd=tmp_path, answers=answers)
    assert (
        "modtrace: stopped before block (Block), step 0, call 1: --break 'block and step=0'" in session.text
    )
    for line in (
        "('Block', torch.Size([2, 4]), {'scale': 2}, None)",
        "['scale', 'self']",
        "'f32[2,4], scale=int'",
        "*** Outermost module",
        "->   block (Block)  (f32[2,4], scale=int)",
        "-> return self.block(x, scale=2)",
        "torch.Size([2, 4])",
        "done [] of the program",
    ):
        assert line in session.text, (line, session.text)
    between = session.text[session.text.index("(Pdb) n\n") : session.text.index("(Pdb) w\n")]
    assert "-> y = self.fc(x)" not in between
    assert "modtrace/" not in between
    assert "is_dynamo_compiling" not in between
    assert ("in", "block", 1, 0) in session.stops
    assert session.status == 0


def test_it_begins_at_the_first_line_behind_a_decorator(tmp_path, script):
    session = run(["--break", "block and step=2"], script, cwd=tmp_path)
    at = session.text.index("step 2")
    assert "script.py(9)forward()\n-> y = self.fc(x)" in session.text[at:]


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("expression", ["block and step=0", "block and step=0 and duration>0ns", "raised"])
def test_quitting_ends_the_program_as_pdb_does(tmp_path, engine, expression):
    (tmp_path / "script.py").write_text(
        SCRIPT.replace("return y + 1", "return y + 1 if y is None else y.nothing")
    )
    if expression != "raised":
        (tmp_path / "script.py").write_text(SCRIPT)
    session = run(["--engine", engine, "--break", expression], "script.py", cwd=tmp_path, answers=["q"])
    assert session.text.count("(Pdb) ") == 1
    assert "bdb.BdbQuit" in session.text
    assert "done" not in session.text
    assert session.status == 1


def test_a_debugger_in_the_code(tmp_path, script):
    answers = [
        "p y.shape, call.path, module is self if 'self' in dir() else None",
        "up",
        "p self is module",
        "c",
    ]
    session = run([], script, cwd=tmp_path, answers=answers)
    assert "modtrace: stopped in block (Block), step 1" in session.text
    assert session.stops == [("in", "block", 1, 0)]
    assert "torch.Size([2, 4]), 'block'" in session.text
    assert "(Pdb) p self is module\nTrue" in session.text


def test_a_debugger_in_the_code_without_a_recording(tmp_path):
    (tmp_path / "plain.py").write_text(
        "import modtrace\ndef f(x):\n    modtrace.breakpoint()\n    print('end')\nf(3)\n"
    )
    session = drive(["plain.py"], ["p x", "c"], cwd=tmp_path)
    assert "-> modtrace.breakpoint()" in session.text
    assert "(Pdb) p x\n3\n" in session.text
    assert (session.text.count("end\n"), session.status) == (1, 0)


def test_a_pipe_for_input_and_a_file_for_output(tmp_path, script):
    script.write_text(SCRIPT + "import sys; print(sys.stdin.read())\n")
    (tmp_path / "in.txt").write_text("read by the program")
    session = run(
        ["--break", "block and step=0"], script, cwd=tmp_path, answers=["p args[0].shape", "c"],
        stdin=tmp_path / "in.txt", stdout=tmp_path / "out.txt",
    )  # fmt: skip
    assert "(Pdb) p args[0].shape\ntorch.Size([2, 4])" in session.text
    assert (tmp_path / "out.txt").read_text() == "done [] of the program\nread by the program\n"
    assert session.status == 0


def without_terminal(*options, cwd, script, **env):
    """In a session of its own, which has no terminal."""
    words = [sys.executable, "-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", *options, str(script)]
    return subprocess.run(
        words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
        timeout=150, env={**os.environ, **env},
    )  # fmt: skip


def test_without_a_terminal_nothing_stops_and_one_warning_says_so(tmp_path, script):
    done = without_terminal("--break", "block", "--pdb", cwd=tmp_path, script=script)
    assert done.returncode == 0
    assert done.stdout == "done [] of the program\n"
    assert done.stderr.count("there is no terminal to ask at: nothing stops") <= 2
    assert "there is no terminal to ask at: nothing stops" in done.stderr


@pytest.mark.parametrize(
    ("rank", "option", "stops"),
    [(0, (), 1), (1, (), 0), (1, ("--break-rank", "1"), 1), (0, ("--break-rank", "1"), 0)],
)
def test_one_rank_stops(tmp_path, rank, option, stops):
    env = {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }
    code = "import torch; torch.nn.Linear(1, 1)(torch.ones(1, 1))"
    words = ["-m", "modtrace", "run", "-q", "-f", "-o", "t.mtrace", "--break", "Linear", *option, "-c", code]
    session = drive(words, cwd=tmp_path, env=env)
    assert len(session.stops) == stops, session.text


def test_workers_of_a_loader_do_not_stop(tmp_path):
    (tmp_path / "loader.py").write_text(
        "import torch, modtrace\n"
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, index):\n"
        "        modtrace.breakpoint()\n"
        "        return net(torch.ones(2))\n"
        "net = torch.nn.Linear(2, 2).requires_grad_(False)\n"
        "if __name__ == '__main__':\n"
        "    for batch in torch.utils.data.DataLoader(Data(), num_workers=1, batch_size=2): print(tuple(batch.shape))\n"
        "    net(batch)\n"
    )
    session = run(["--break", "net"], "loader.py", cwd=tmp_path)
    assert session.stops == [("before", "net", 0, 1)], session.text
    assert session.text.count("(2, 2)") == 2
    assert session.status == 0


def test_what_is_mistyped_is_said_before_the_script_starts(tmp_path, script):
    done = without_terminal("--break", "stpe=3", cwd=tmp_path, script=script)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--break: stpe is not known: did you mean step=3?" in done.stderr


def test_a_name_that_no_module_has_is_said_at_the_end(tmp_path, script):
    session = run(["--break", "blok and step=1", "--break", "fc and step=9"], script, cwd=tmp_path)
    assert "--break 'blok and step=1': no module called blok ran: did you mean block?" in session.text
    assert "'fc and step=9'" not in session.text


def test_the_code_of_a_forward_is_found_behind_decorators():
    def decorated(function):
        @functools.wraps(function)
        def around(*args):
            return function(*args)

        return around

    class Plain(torch.nn.Module):
        def forward(self, x):
            return x

    class Decorated(torch.nn.Module):
        @decorated
        @decorated
        def forward(self, x):
            return x

    partial, python = Plain(), Plain()
    partial.forward = functools.partial(Plain.forward, partial)
    python.forward = len
    assert code_of(Plain()) is code_of(partial) is Plain.forward.__code__
    assert code_of(Decorated()) is Decorated.forward.__wrapped__.__wrapped__.__code__
    assert code_of(python) is None


@pytest.mark.parametrize(("shell", "is_one"), [(SimpleNamespace(kernel=1), True), (SimpleNamespace(), False)])
def test_a_notebook_is_told_from_a_shell(monkeypatch, shell, is_one):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert is_notebook() is is_one
