"""Odd surroundings of a run: limits of the system, other tools, terminals, a trace that is taken away."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

import modtrace
from tests.e2e.test_run import MODEL, split, start

RUN = (sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py")

MANY_CALLS = """
import time
for number in range(40):
    for _ in range(500):
        y = model(torch.ones(2, 3))
    {middle}
    time.sleep({pause})
    print(number, flush=True)
print(tuple(y.shape))
"""


def write(folder, body):
    (folder / "train.py").write_text(MODEL.format(body=textwrap.dedent(body)))


def under_limits(folder, limits):
    """Run with `ulimit`s, as a shell or a batch system sets them."""
    return subprocess.run(
        ["bash", "-c", f'{limits}; exec "$@"', "bash", *RUN],
        cwd=folder,
        capture_output=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("blocks", [1, 8, 64, 400])
def test_a_limit_on_file_size_ends_the_recording_not_the_program(tmp_path, blocks):
    """`ulimit -f`: a write past it fails, and unless the signal is ignored SIGXFSZ kills; python ignores it."""
    write(tmp_path, MANY_CALLS.format(middle="", pause=0))
    done = under_limits(tmp_path, f"ulimit -f {blocks}")
    if done.returncode == 2:  # not even the trace could be made: said before the script has started
        assert blocks == 1
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"39\n(2, 4)\n")
    assert done.stderr.count(b"Traceback") == 0
    calls = modtrace.load(tmp_path / "t.mtrace").calls
    assert len(calls) < 60_000
    assert set(calls["type"]) <= {"Sequential", "Linear", "ReLU"}
    assert b"cannot be written any further: File too large" in done.stderr


def test_few_open_files(tmp_path):
    """All files of a trace are open from the start; a script that takes every other descriptor takes none of ours."""
    write(
        tmp_path,
        """
        model(torch.ones(2, 3))
        held = []
        try:
            while True:
                held.append(open("/dev/null"))
        except OSError:
            print("no more")
        for _ in range(1000):
            model(torch.ones(2, 3))
        del held
        """,
    )
    done = under_limits(tmp_path, "ulimit -n 64")
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"no more\n"
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 3003


@pytest.mark.parametrize(
    "taken",
    [
        "import shutil; shutil.rmtree('t.mtrace', ignore_errors=True)",
        "[os.truncate(os.path.join(f, n), 0) for f, _, names in os.walk('t.mtrace') for n in names]",
        "os.path.exists('t.mtrace') and os.rename('t.mtrace', 'elsewhere')",
    ],
)
def test_a_trace_taken_away_during_the_run(tmp_path, taken):
    write(tmp_path, MANY_CALLS.format(middle=f"if number == 5: {taken}", pause=0.06))
    done = start(tmp_path, *RUN[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"39\n(2, 4)\n")
    assert b"Traceback" not in done.stderr
    assert done.stderr.strip(), "a person must be told"
    for path in ("t.mtrace", "elsewhere"):
        if (tmp_path / path).exists():
            try:
                calls = modtrace.load(tmp_path / path).calls
            except modtrace.TraceError:
                continue
            assert len(calls) <= 60_000
            if path == "elsewhere":  # the files went on under their new name
                assert len(calls) == 60_000


def test_beside_a_settrace_of_the_script(tmp_path):
    body = """
    import threading
    seen = {"lines": 0, "files": set()}
    def tracer(frame, event, arg):
        seen["files"].add(os.path.basename(frame.f_code.co_filename))
        seen["lines"] += event == "line"
        return tracer if frame.f_code.co_filename == __file__ else None
    sys.settrace(tracer)
    def step():
        x = torch.ones(2, 3)
        return model(x)
    for _ in range(3):
        step()
    sys.settrace(None)
    print(seen["lines"], "module.py" in seen["files"])
    """
    write(tmp_path, body)
    plain = start(tmp_path, "train.py")
    done = start(tmp_path, *RUN[1:])
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 9


@pytest.mark.parametrize("order", ["coverage outside", "coverage inside"])
def test_beside_coverage(tmp_path, order):
    write(tmp_path, "def called():\n    return model(torch.ones(2, 3))\ncalled()\nif not model:\n    print()")
    coverage = ["-m", "coverage", "run", "--include", "train.py"]
    if order == "coverage outside":
        words = [*coverage, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "train.py"]
    else:
        words = ["-m", "modtrace", "run", "-q", "-o", "t.mtrace", *coverage, "train.py"]
    done = start(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 3
    told = start(tmp_path, "-m", "coverage", "report", "--format", "total").stdout
    expected = start(tmp_path, *coverage, "train.py")
    assert expected.returncode == 0
    assert told == start(tmp_path, "-m", "coverage", "report", "--format", "total").stdout != b""


WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch())
from modtrace.cli import main
sys.argv = ["modtrace", *sys.argv[1:]]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("info",), b"Linear"),
        (("info", "--tree"), b"Linear"),
        (("info", "--json"), b"Linear"),
        (("ls",), b"t.mtrace"),
        (("export", "-t", "csv", "-o", "-"), b"Linear"),
        (("--version",), b"modtrace"),
    ],
)
def test_viewing_where_torch_is_missing(tmp_path, words, told):
    with modtrace.trace() as trace:
        import torch

        torch.nn.Sequential(torch.nn.Linear(3, 4))(torch.ones(2, 3))
    trace.save(tmp_path / "t.mtrace")
    done = start(tmp_path, "-c", WITHOUT_TORCH, *words)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_running_where_torch_is_missing(tmp_path):
    """A script that needs no torch runs; that no module was called is said."""
    (tmp_path / "plain.py").write_text("print(6 * 7)")
    done = start(tmp_path, "-c", WITHOUT_TORCH, "run", "plain.py")
    assert (done.returncode, done.stdout) == (0, b"42\n")
    assert b"Traceback" not in done.stderr
    assert b"no module" in done.stderr.lower()


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-16"])
def test_encodings_of_stderr(tmp_path, encoding):
    write(tmp_path, "model.add_module('\\u4e2d\\u00fc', torch.nn.ReLU())\nmodel(torch.ones(2, 3))")
    done = start(tmp_path, *RUN[1:], env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert "UnicodeEncodeError" not in done.stderr.decode(encoding)
    assert "saved" in done.stderr.decode(encoding)


def on_terminal(folder, *, columns, env):
    """What a run writes to a terminal of that width."""
    held, given = pty.openpty()
    if columns:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(given, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    surroundings = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    with subprocess.Popen(
        RUN, cwd=folder, stdin=given, stdout=given, stderr=given, env={**surroundings, **env}
    ) as running:
        os.close(given)
        written = b""
        while True:
            try:
                part = os.read(held, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            written += part
    os.close(held)
    assert running.returncode == 0
    return written.decode()


CSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize(
    ("columns", "env", "coloured"),
    [
        (0, {"TERM": "xterm-256color"}, True),
        (20, {"TERM": "xterm-256color"}, True),
        (80, {"TERM": "xterm-256color"}, True),
        (500, {"TERM": "xterm-256color"}, True),
        (80, {"TERM": "xterm-256color", "NO_COLOR": "1"}, False),
        (80, {"TERM": "dumb"}, False),
    ],
)
def test_terminals(tmp_path, columns, env, coloured):
    write(tmp_path, "model(torch.ones(2, 3))")
    written = on_terminal(tmp_path, columns=columns, env=env)
    assert ("\x1b[" in written) is coloured
    bare = CSI.sub("", written)
    assert "\x1b" not in bare
    assert "saved" in bare
    if columns >= 80:
        assert max(map(len, bare.splitlines())) <= columns


@pytest.mark.parametrize(
    ("name", "value", "words", "check"),
    [
        ("OUTPUT", "other.mtrace", (), lambda folder, done: (folder / "other.mtrace").is_dir()),
        ("QUIET", "1", (), lambda _, done: done.stderr.count(b"\n") == 1),
        ("PRINT", "none", (), lambda _, done: done.stderr == b""),
        ("PRINT", "tree", (), lambda _, done: b"CALL TREE" in done.stderr or b"Linear" in done.stderr),
        ("MAX_SIZE", "1KB", (), lambda _, done: b"limit of 1,000 bytes" in done.stderr),
        ("PRINT", "none", ("--print", "summary"), lambda _, done: b"saved" in done.stderr),
        ("QUIET", "0", (), lambda _, done: b"WHERE THE TIME WENT" in done.stderr),
    ],
)
def test_options_from_the_environment(tmp_path, name, value, words, check):
    write(tmp_path, "model(torch.ones(2, 3))")
    done = start(tmp_path, "-m", "modtrace", "run", *words, "train.py", env={f"MODTRACE_{name}": value})
    assert done.returncode == 0, done.stderr
    assert check(tmp_path, done), done.stderr


def test_messages_and_force_from_the_environment(tmp_path):
    write(tmp_path, "model(torch.ones(2, 99))")
    env = {"MODTRACE_NO_MESSAGES": "1", "MODTRACE_OUTPUT": "t.mtrace"}
    done = start(tmp_path, "-m", "modtrace", "run", "train.py", env=env)
    assert done.returncode == 1
    errors = modtrace.load(tmp_path / "t.mtrace").calls["error"].dropna()
    assert set(errors) == {"RuntimeError"}
    again = start(tmp_path, "-m", "modtrace", "run", "train.py", env=env)
    assert again.returncode == 2, "it stands there already"
    assert (
        start(tmp_path, "-m", "modtrace", "run", "train.py", env={**env, "MODTRACE_FORCE": "1"}).returncode
        == 1
    )


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        (("info",), {"MEMORY": "0:3", "KERNELS": "0:3", "TREE": "1", "JSON": "1", "SORT": "name"}),
        (("report", "-o", "r.html"), {"MAX_SIZE": "1KB", "OUTPUT": "t.mtrace", "FULL": "1"}),
        (("export", "-t", "csv", "-o", "calls.csv"), {"FORCE": "1", "OUTPUT": "other.csv"}),
    ],
)
def test_settings_of_a_recording_change_no_other_verb(tmp_path, verb, settings):
    write(tmp_path, "model(torch.ones(2, 3))")
    assert start(tmp_path, "-m", "modtrace", "run", "-q", "-o", "t.mtrace", "train.py").returncode == 0
    words = ("-m", "modtrace", *verb, "t.mtrace")
    plain = start(tmp_path, *words)
    assert plain.returncode == 0, plain.stderr
    if verb[0] == "report":
        (tmp_path / "r.html").unlink()
    beside = start(tmp_path, *words, env={f"MODTRACE_{name}": value for name, value in settings.items()})
    if verb[0] == "export":
        assert beside.returncode == 2, "the file stands there, and is not to be overwritten"
        assert not (tmp_path / "other.csv").exists()
    else:
        assert (beside.returncode, beside.stdout) == (0, plain.stdout)
        assert verb[0] == "info" or (tmp_path / "r.html").exists()


def test_interrupt_of_a_stopped_run(tmp_path):
    """SIGSTOP and SIGCONT: the time stopped is part of the call, and the run goes on."""
    write(
        tmp_path,
        "print('ready', flush=True)\nfor _ in range(50):\n    model(torch.ones(2, 3)); time.sleep(.01)",
    )
    with subprocess.Popen(RUN, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGSTOP)
        running.send_signal(signal.SIGCONT)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == 0
    assert b"saved" in split(stderr)[1]
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 150


def test_full_disk(tmp_path):
    """A file system of 1 MB, where one can be mounted."""
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "none", small], check=False).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        write(tmp_path, MANY_CALLS.format(middle="", pause=0))
        done = start(tmp_path, "-m", "modtrace", "run", "-o", "small/t.mtrace", "train.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(b"39\n(2, 4)\n")
        assert b"No space left" in done.stderr
        kept = modtrace.load(small / "t.mtrace").calls
        assert 0 < len(kept) < 60_000
        # A block that does not fit is lost as a whole, and on a busy machine the second may be that large.
        assert list(kept["type"].iloc[:3]) == ["Sequential", "Linear", "ReLU"][: len(kept)]
    finally:
        subprocess.run(["umount", small], check=True)
