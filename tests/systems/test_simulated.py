"""Every command where Linux is made to look like Windows, or like a Mac: whole runs, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import modtrace
from modtrace.cli import VERBS

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it is played on Linux")

SIMULATED = Path(__file__).with_name("simulated.py")
SCRIPT = """
import torch
from torch import nn
class \u0416Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return self.inner(x).relu()
model = nn.Sequential(\u0416Layer(), nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
print("d\u00f6ne", __file__)
"""


class Said(NamedTuple):
    status: int
    out: str
    err: str


def environment():
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MODTRACE") and name != "TERM"
    }
    return kept | {
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "cp1252",
        "PYTHONWARNDEFAULTENCODING": "1",
        "COLUMNS": "80",
    }


def simulated(system, folder, *words, text=""):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::EncodingWarning", SIMULATED, system, *words], cwd=folder, env=environment(),
        input=text.encode(), capture_output=True, check=False, timeout=200,
    )  # fmt: skip
    return Said(done.returncode, *(part.decode("cp1252") for part in (done.stdout, done.stderr)))


def verbs(system, folder, *lines):
    said = simulated(system, folder, "verbs", text=json.dumps([list(map(str, line)) for line in lines]))
    assert said.status == 0, said.err
    return [Said(*answer) for answer in json.loads(said.out.splitlines()[-1])], said.err


def recorded(system, folder):
    """A run whose trace is on another drive."""
    (folder / "here").mkdir()
    (folder / "drive-d").mkdir()
    (folder / "here" / "tr:ain.py").write_text(SCRIPT, encoding="utf-8")
    trace = folder / "drive-d" / "a.mtrace"
    words = ["-o", trace, "--html", "--memory", "0:2", "--values", "0:2", "./tr:ain.py"]
    return simulated(system, folder / "here", "run", *words), trace


@pytest.fixture(scope="module", params=["windows", "macos"])
def system(request):
    return request.param


@pytest.fixture(scope="module")
def run(system, tmp_path_factory):
    return recorded(system, tmp_path_factory.mktemp(system))


@pytest.fixture(scope="module")
def linux(tmp_path_factory):
    """The trace of the same script as it is recorded here."""
    folder = tmp_path_factory.mktemp("linux")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    words = [
        sys.executable,
        "-m",
        "modtrace",
        "run",
        "-q",
        "-o",
        "b.mtrace",
        "--memory",
        "0:2",
        "--values",
        "0:2",
    ]
    subprocess.run([*words, "train.py"], cwd=folder, check=True, capture_output=True)
    return folder / "b.mtrace"


@pytest.fixture(scope="module")
def answers(run, system, tmp_path_factory):
    """What every command and probe says, all in one process; the folder that it ran in, and its own stderr."""
    _, trace = run
    folder = tmp_path_factory.mktemp("answers")
    (folder / "here").mkdir()
    (folder / "here" / "tiny.py").write_text(TINY, encoding="utf-8")
    # A backslash is a letter here: what Windows finds in a folder has it in its name.
    (folder / "here\\tiny.py").write_text(TINY, encoding="utf-8")
    known = f"TRACE = {str(trace)!r}\nWINDOWS = {system == 'windows'}\n"
    asked = {name: ["!", known + probe] for name, probe in PROBES.items()}
    if system != "windows":
        del asked["bites"], asked["compare"], asked["console"]
    lines = {name: [word.replace("TRACE", str(trace)) for word in line] for name, line in COMMANDS.items()}
    lines |= asked
    said, err = verbs(system, folder, *lines.values())
    return dict(zip(lines, said, strict=True)), folder, err


@pytest.fixture
def probes(answers):
    return answers[0]


def test_a_run(run, system):
    said, trace = run
    assert said.status == 0, said.err
    file = trace.parents[1] / "here" / "tr:ain.py"
    assert said.out.splitlines() == [f"d\u00f6ne {file}"]
    assert "could not be" not in said.err
    assert "Traceback" not in said.err
    assert f"saved  {trace}" in said.err if system == "windows" else "saved" in said.err
    assert "\\u0416Layer" in said.err
    assert "\x1b" not in said.err


def test_the_trace_is_that_of_linux(run, linux):
    """The same rows, table by table; nothing was made of a byte that is an end of line."""
    ours, theirs = modtrace.load(run[1]), modtrace.load(linux)
    assert not len(ours.gaps)
    assert len(ours.calls) == len(theirs.calls) > 20
    same = ["depth", "kind", "name", "type", "step"]
    assert ours.calls[same].equals(theirs.calls[same])
    ends = [
        json.loads((path / "rank-0" / "end.json").read_text(encoding="utf-8")) for path in (run[1], linux)
    ]
    for table in (
        "calls",
        "modules",
        "watched",
    ):  # of others, such as open calls, it depends on when it was looked
        assert ends[0]["rows"][table] == ends[1]["rows"][table] > 0


EXPORTS = ("csv", "parquet", "chrome", "speedscope", "collapsed", "json")
COMMANDS = {
    "view": ["view", "TRACE"],
    "view --plain": ["view", "TRACE", "--plain"],
    "live --plain": ["live", "TRACE", "--plain"],
    "info": ["info", "TRACE"],
    "steps": ["info", "TRACE", "--steps"],
    "tree": ["info", "TRACE", "--tree"],
    "memory": ["info", "TRACE", "--memory"],
    "findings": ["info", "TRACE", "--findings"],
    "info --json": ["info", "TRACE", "--json"],
    "check": ["check", "TRACE", "--fail-on", "calls<1000"],
    **{name: ["export", "-t", name, "TRACE", "-o", f"x-{name}"] for name in EXPORTS},
    "report": ["report", "TRACE", "-o", "r.html"],
    "baseline": ["baseline", "TRACE", "-o", "base.json"],
    "diff": ["diff", "base.json", "TRACE"],
    "diff --numerics": ["diff", "TRACE", "TRACE", "--numerics"],
    "ls": ["ls", "TRACE/.."],
    "ranks": ["ranks", "TRACE"],
    "--version": ["--version"],
    "run --help": ["run", "--help"],
    "no verb": ["TRACE"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command(answers, name):
    said = answers[0][name]
    assert said.status in (0, None), said
    assert "Traceback" not in said.err
    assert said.out or said.err


def test_no_command_is_forgotten():
    """`run`, `compare` and `device` are run by a fixture and by probes."""
    used = {line[0] for line in COMMANDS.values()} | {"run"} | {name for name in PROBES if name in VERBS}
    assert used >= set(VERBS)


def test_texts_and_files(answers, system):
    said, folder, _ = answers
    assert "\\u0416Layer" in said["view"].out
    assert said["no verb"].out == said["view"].out
    assert "SGD" in said["steps"].out or "optimizer" in said["steps"].out
    assert "a.mtrace" in said["ls"].out
    in_help = "rights of the folder" in " ".join(said["run --help"].out.split())
    assert in_help == (system == "windows")
    for name in EXPORTS:
        assert (folder / f"x-{name}").stat().st_size > 100
    assert b"\r\r" not in (folder / "x-csv").read_bytes()
    assert "\u0416Layer" in (folder / "x-csv").read_text(encoding="utf-8")
    assert (folder / "r.html").read_text(encoding="utf-8").startswith("<!")


PROBES = {
    "alive": """
import os, time, json
from modtrace.systems.other_processes import is_alive, started_unix
began = started_unix(os.getpid())
print(json.dumps([is_alive(os.getpid(), None), is_alive(os.getpid(), time.time_ns()),
    is_alive(os.getpid(), int(began * 1e9) - 60 * 10**9), is_alive((1 << 22) + 7, None), time.time() - began < 300]))
""",
    "rank": """
import os
os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", TORCHELASTIC_RUN_ID="job")
from modtrace.launch.rank import default_path, launch
first, second = launch(), launch()
assert first == second and first.named_alike and default_path("a", first) == default_path("a", second)
print(first.key == f"{os.getppid()}-{first.began_unix:.2f}")
for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
    del os.environ[name]
""",
    "viewer": """
import sys, asyncio
sys.stdin.isatty = sys.stdout.isatty = lambda: True
import modtrace.views.tui.app as app
from modtrace.views.models.viewer_model import ViewerModel
app.run = lambda path, **_: print("drawn", path.name)
app.watch = lambda path: print("watched", path.name)
from modtrace.cli import main
main(["view", TRACE]); main(["live", TRACE])
from pathlib import Path
async def draw():
    viewer = app.Viewer(ViewerModel(Path(TRACE)))
    async with viewer.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        for key in ("down", "e", "q"):
            await pilot.press(key)
asyncio.run(draw())
print("left")
""",
    "trace": """
import torch, modtrace
with modtrace.trace(path="code.mtrace") as t:
    torch.nn.Linear(2, 2)(torch.ones(1, 2))
print(len(modtrace.load("code.mtrace").calls))
with modtrace.trace(path="code.mtrace", force=True) as t:
    torch.nn.Linear(2, 2)(torch.ones(1, 2))
t.save("copy.mtrace")
""",
    "device": """
import modtrace.device_peaks.measure as measure
measure.SECONDS, measure.SIZES, measure.COPY_BYTES = 0.001, (64,), 1 << 20
from modtrace.cli import main
main(["device", "cpu"])
""",
    "live": """
from modtrace.cli import main
main(["run", "-q", "--live", "-c", "print('went on')"])
""",
    "console": """
import io, sys
from modtrace.cli import run
from modtrace.views.console import style_of
class Console(io.TextIOWrapper):
    def isatty(self): return True
    def fileno(self): return 2
before, sys.__stderr__ = sys.__stderr__, Console(io.BytesIO(), encoding="utf-8")
run._write("\\u0416")
sys.__stderr__.flush()
written, sys.__stderr__ = sys.__stderr__.buffer.getvalue(), before
import os
os.get_terminal_size = lambda descriptor: os.terminal_size((100, 30))
print(written == "\\u0416".encode(), style_of(Console(io.BytesIO(), encoding="cp1252"))["color"], kernel.modes)
""",
    "compare": """
from modtrace.cli import main
main(["compare", "-q", "--runs", "1", "--warm-up", "0", r"here\\tiny.py", "--env", "A=1", "-o", "compared"])
""",
    "bites": r"""
import os
descriptor = os.open("text", os.O_WRONLY | os.O_CREAT)
os.write(descriptor, b"a\n")
try:
    os.replace("text", "other")
except BaseException as error:
    print(type(error).__name__)
os.close(descriptor)
print(open("text", "rb", ).read(), os.path.exists("/proc/self/stat"), hasattr(os, "O_NOFOLLOW"))
try:
    open("/proc/self/stat", "rb")
except FileNotFoundError:
    print("hidden")
import ctypes
try:
    ctypes.CDLL(None)
except TypeError:
    print("no handle")
""",
}
TINY = "import torch\nfor _ in range(3):\n    torch.nn.Linear(2, 2)(torch.ones(1, 2))\n"


def test_a_process_is_looked_for_without_a_signal(probes):
    """Alive: by its number; begun before the recording; begun a minute after it; no such process."""
    assert json.loads(probes["alive"].out) == [True, True, False, False, True]


def test_ranks_agree_on_a_name(probes):
    assert probes["rank"].out.split() == ["True"], probes["rank"]


def test_the_viewer_opens(probes):
    """Windows sets no TERM."""
    said = probes["viewer"]
    assert said.out.split()[-1] == "left", said


def test_the_viewer_needs_no_term_in_windows(probes, system):
    drawn = "drawn a.mtrace\r\nwatched a.mtrace\r\n" in probes["viewer"].out
    assert drawn == (system == "windows")


def test_trace_in_code(probes):
    assert probes["trace"] == (0, "1\r\n", "")


def test_a_device_is_measured(probes):
    assert "FLOP/s" in probes["device"].out, probes["device"]


def test_live_is_refused_in_one_line(answers, system):
    said, _, err = answers
    reason = {"windows": "needs pseudo-terminals, which this system has not", "macos": "needs a terminal"}[
        system
    ]
    assert f"modtrace: --live {reason}" in err
    assert said["live"] == (0, "went on\r\n", "")


def test_consoles(probes, system):
    """Text goes to the console itself, whatever its code page is, and the console is told to take colors."""
    if system == "windows":
        assert probes["console"].out.split(" ", 2)[:2] == ["True", "True"], probes["console"]
        assert re.search(r"4294967284: 7", probes["console"].out)


def test_two_commands_are_compared(probes, system):
    if system == "windows":
        assert probes["compare"].status in (0, None), probes["compare"]
        assert "tiny.py" in probes["compare"].out


def test_the_simulation_bites(probes, system):
    """A file that is opened without O_BINARY is spoilt, an open one cannot be replaced, /proc is not there."""
    if system == "windows":
        said = probes["bites"].out.splitlines()
        assert said == ["InUse", "b'a\\r\\n' False False", "hidden", "no handle"]


def test_nothing_was_done_that_windows_forbids(answers, run):
    """No open file was replaced but by the probe, and no process was sent the signal 0, which is ctrl-C there."""
    err = run[0].err + answers[2]
    assert [line for line in err.splitlines() if "in use" in line] == ["in use: text"] * (
        "bites" in answers[0]
    )
    assert "ctrl-C" not in err
