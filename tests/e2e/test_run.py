"""`modtrace run` beside plain python: the same output, exit status and signals; and a trace that opens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import modtrace

PROBE = """
import sys, inspect, pickle, __main__
class Local: pass
print(sys.argv, sys.path[0], __name__, __file__, __spec__, __package__, __builtins__)
print(type(__loader__).__name__, sorted(k for k in globals() if k != "__cached__"))
print(sys.modules["__main__"].__dict__ is globals(), pickle.loads(pickle.dumps(Local())).__class__ is Local)
print(len(inspect.getsource(__main__)), "pandas" in sys.modules, "rich" in sys.modules, "numpy" in sys.modules)
"""

# Each is one file that plain python and modtrace must run alike; none needs torch.
SCRIPTS = {
    "facts": PROBE,
    "exit_3": "import sys; sys.exit(3)",
    "exit_message": "import sys; sys.exit('told')",
    "exit_nothing": "import sys; sys.exit()",
    "exit_none": "import sys; sys.exit(None)",
    "exit_true": "import sys; sys.exit(True)",
    "exit_subclass": "class Mine(SystemExit): pass\nraise Mine(7)",
    "os_exit": "import os; print('x', flush=True); os._exit(7)",
    "abort": "import os; os.abort()",
    "exception": "def f():\n    raise ValueError('x')\nf()",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise KeyError('b') from error",
    "syntax_error": "x = = 1\n",
    "name_error_hint": "import sys\nprint(sis)",
    "own_excepthook": "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
    "interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(5)",
    "terminated": "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(5)",
    "hung_up": "import os, signal, time\nos.kill(os.getpid(), signal.SIGHUP)\ntime.sleep(5)",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "own_sigterm": "import os, signal\nsignal.signal(15, lambda *a: print('mine'))\nos.kill(os.getpid(), 15)",
    "atexit_order": "import atexit\natexit.register(print, 'first registered')\natexit.register(print, 'second')",
    "thread_left": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.3), print('late'))).start()",
    "fork": "import os, sys\nif os.fork() == 0:\n    print('child'); sys.exit(4)\nprint(os.wait()[1])",
    "execv": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(42)'])",
    "stdout_replaced": "import sys, io\nsys.stdout = sys.stderr = io.StringIO()\nprint('lost')",
    "stderr_closed": "import os, sys\nprint('a', flush=True)\nos.close(2)",
    "chdir": "import os\nos.chdir('/')\nprint(os.getcwd())",
    "pool": "import multiprocessing as m\nclass A: pass\ndef f(a): return type(a).__module__\n"
    "if __name__ == '__main__':\n    for k in ('fork', 'spawn', 'forkserver'):\n"
    "        with m.get_context(k).Pool(1) as p: print(k, p.map(f, [A()]))",
    "annotations": "x: int = 1\nprint(__annotations__)\nprint(__import__('__main__').__annotations__)",
    "warning": "import warnings\nwarnings.warn('careful')",
    "torch_of_their_own": "import torch\nprint(torch.answer, torch.__file__ is not None, type(torch.__spec__.loader))",
}


def start(folder, *words, env=None):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        timeout=100,
        check=False,
        env={**os.environ, **(env or {})},
    )


def split(stderr):
    """What the script wrote, and what modtrace wrote behind it."""
    at = stderr.rfind(b"modtrace")
    while at > 0 and stderr[at - 1 : at] != b"\n":
        at = stderr.rfind(b"modtrace", 0, at)
    return (stderr, b"") if at < 0 else (stderr[:at], stderr[at:])


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_python_does(tmp_path, name):
    script = tmp_path / "probe.py"
    script.write_text(textwrap.dedent(SCRIPTS[name]))
    if name == "torch_of_their_own":
        (tmp_path / "torch.py").write_text("answer = 42\n")
    plain = start(tmp_path, "probe.py", "-o", "--", "-h", "x")
    traced = start(
        tmp_path, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "probe.py", "-o", "--", "-h", "x"
    )
    assert traced.returncode == plain.returncode
    assert traced.stdout == plain.stdout
    if name != "torch_of_their_own":
        assert split(traced.stderr)[0] == plain.stderr
    assert (tmp_path / "t.mtrace" / "run.json").exists()
    trace = modtrace.load(tmp_path / "t.mtrace")
    assert len(trace.calls) == 0
    assert trace.summary()


def test_an_interrupt_is_one_with_the_summary_too(tmp_path):
    """Classes that are made while the summary is must not turn the death by SIGINT into an exit status."""
    (tmp_path / "probe.py").write_text("import os, signal, torch\nos.kill(os.getpid(), signal.SIGINT)\n")
    for show in ("summary", "tree", "none"):
        traced = start(tmp_path, "-m", "modtrace", "run", "--print", show, "-f", "-o", "t.mtrace", "probe.py")
        assert traced.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "words", [("-c", "import sys; print(sys.argv, sys.path[0]); 1/0", "a"), ("-m", "pack", "a")]
)
def test_code_and_modules(tmp_path, words):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "__main__.py").write_text(
        "import sys\nfrom . import x\nprint(sys.argv, __package__, x.y)\n1/0"
    )
    (tmp_path / "pack" / "x.py").write_text("y = 5")
    plain = start(tmp_path, *words)
    traced = start(tmp_path, "-m", "modtrace", "run", "-q", *words)
    assert (traced.returncode, traced.stdout) == (plain.returncode, plain.stdout)
    assert split(traced.stderr)[0] == plain.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "missing.py"), "can't open file"),
        (("run",), "what should be run"),
        (("run", "--nonsense", "x.py"), "no option --nonsense"),
        (("run", "-o", "no/where.mtrace", "x.py"), "cannot write a trace"),
        (("run", "-o", "x.py", "-f", "x.py"), "not replaced"),
        (("run", "--max-size", "lots", "x.py"), "no size"),
        (("info", "nothing.mtrace"), "no trace at"),
        (("info",), "no trace here"),
        (("export", "x"), "-t csv"),
        (("dance",), "no command dance; modtrace --help"),
    ],
)
def test_one_line_and_a_status_for_a_mistake(tmp_path, words, told):
    (tmp_path / "x.py").write_text("print('ran')")
    done = start(tmp_path, "-m", "modtrace", *words)
    assert done.returncode in (2, 4)
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert told in done.stderr.decode()


MODEL = """
import os, sys, time, torch
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
{body}
"""


def run_model(tmp_path, body, *options):
    (tmp_path / "train.py").write_text(MODEL.format(body=textwrap.dedent(body)))
    return start(
        tmp_path, "-m", "modtrace", "run", "-o", "t.mtrace", *options, "train.py", "--api-key", "CANARY"
    )


def test_summary_tells_and_keeps_secrets(tmp_path):
    body = """
    os.environ["SECRET"] = "CANARY"
    for _ in range(3):
        model(torch.randn(2, 3))
    print(sorted(k for k in ("pandas", "rich", "textual") if k in sys.modules))
    pid = os.fork()
    if pid == 0:
        model(torch.randn(2, 3))
        sys.exit(0)
    os.waitpid(pid, 0)
    """
    done = run_model(tmp_path, body)
    assert done.returncode == 0
    assert done.stdout == b"[]\n"
    text = done.stderr.decode()
    assert text.count("\n") <= 30
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "WHERE THE TIME WENT",
        "before the first call",
        "3 calls in ",
        "t.mtrace",
        "exit 0",
    ):
        assert word in text
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 9
    held = b"".join(file.read_bytes() for file in (tmp_path / "t.mtrace").rglob("*") if file.is_file())
    assert b"CANARY" not in held + done.stderr
    assert {file.stat().st_mode & 0o77 for file in (tmp_path / "t.mtrace").rglob("*")} == {0}
    listed = start(tmp_path, "-m", "modtrace", "ls").stdout
    assert b"t.mtrace" in listed
    table = start(tmp_path, "-m", "modtrace", "export", "-t", "csv", "-o", "-").stdout.decode()
    assert table.count("\n") == 10


def test_kill_leaves_all_but_the_last_second(tmp_path):
    body = """
    class Slow(torch.nn.Module):
        def forward(self, x):
            print("inside", flush=True)
            time.sleep(60)
    for _ in range(20):
        model(torch.randn(2, 3))
    Slow()(torch.randn(1))
    """
    (tmp_path / "train.py").write_text(MODEL.format(body=textwrap.dedent(body)))
    words = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"inside\n"
        time.sleep(1.5)
        running.send_signal(signal.SIGKILL)
    trace = modtrace.load(tmp_path / "t.mtrace")
    calls = trace.calls
    assert list(calls["status"]) == ["ok"] * 60 + ["unfinished"]
    assert calls["type"].iloc[-1] == "Slow"
    assert "did not" in trace.summary()


def test_two_ranks_one_trace(tmp_path):
    (tmp_path / "train.py").write_text(MODEL.format(body="model(torch.randn(2, 3))"))
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "modtrace", "run", "train.py"]
    done = start(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("*.mtrace")
    calls = modtrace.load(found).calls
    assert calls["rank"].value_counts().to_dict() == {0: 3, 1: 3}


@pytest.mark.parametrize(
    "env", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "20"}]
)
def test_summary_in_odd_places(tmp_path, env):
    (tmp_path / "train.py").write_text(
        MODEL.format(body="model.add_module('ü=\\x1b[0m', torch.nn.ReLU())\nmodel(torch.randn(2, 3))")
    )
    done = start(tmp_path, "-m", "modtrace", "run", "train.py", env=env)
    assert done.returncode == 0
    assert b"saved" in done.stderr
    assert b"\x1b" not in done.stderr
