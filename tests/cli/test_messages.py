"""Messages of the command line when it cannot do what was asked, and the exit status of each kind of error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import modtrace
from modtrace import errors
from modtrace.cli import main
from modtrace.errors import (
    CannotTellError,
    PathTakenError,
    RegressionError,
    RunFailedError,
    TraceError,
    UsageError,
    WriteError,
)
from modtrace.trace import folder
from modtrace.trace.newest import has_calls, newest
from modtrace.trace.reader import open_trace
from modtrace.views import console

ROOT = Path(__file__).parents[2]


def recorded(path, calls=1):
    model = torch.nn.Linear(2, 2)
    with modtrace.trace(path=path):
        for _ in range(calls):
            model(torch.ones(1, 2))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    for name in ("train.py", "other.py"):
        (tmp_path / name).write_text("raise SystemExit('it ran')")
    (tmp_path / "adir").mkdir()
    return tmp_path


def said(words, capsys):
    """(exit status, stdout, stderr) of a command line."""
    with pytest.raises(SystemExit) as left:
        main(words)
    out, err = capsys.readouterr()
    return left.value.code, out, err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train.py"], 2, "to run train.py and record it: modtrace run train.py"),
        (["train.py", "--lr", "a b"], 2, "to run train.py and record it: modtrace run train.py --lr 'a b'"),
        (["-m", "pkg"], 2, "to run it and record it: modtrace run -m pkg"),
        (["adir"], 2, "to run adir and record it: modtrace run adir"),
        (["vew"], 2, "there is no command vew; did you mean modtrace view? modtrace --help lists them"),
        (["exprot", "x"], 2, "there is no command exprot; did you mean modtrace export? modtrace --help lists them"),
        (["zzz"], 2, "there is no command zzz; modtrace --help lists them"),
        (["nosuch.py"], 2, "there is no command and no file nosuch.py; a script is run by: modtrace run script.py"),
        (["--foo"], 2, "there is no option --foo; modtrace --help lists the commands"),
        (["nosuch.mtrace"], 4, "there is no trace at nosuch.mtrace"),
        (["run", "adir"], 2, "can't find '__main__' module in '{here}/adir'"),
        (["run", "nosuch"], 2, "can't open file 'nosuch': No such file or directory"),
        (["run", "nosuch.py"], 2, "can't open file 'nosuch.py': No such file or directory"),
        (["run", "--memory", "train.py"], 2,
         "--memory takes STEPS, which is missing in front of train.py: modtrace run --memory 0:3 train.py"),
        (["run", "--kernels", "train.py", "--lr", "3"], 2,
         "--kernels takes STEPS, which is missing in front of train.py: modtrace run --kernels 0:3 train.py"),
        (["run", "--saved", "train.py", "other.py"], 2,
         "--saved takes STEPS, which is missing in front of train.py: modtrace run --saved 0:3 train.py"),
        (["run", "-o", "train.py"], 2,
         "-o takes PATH, which is missing in front of train.py: modtrace run -o PATH train.py"),
        (["run", "--memory", "x", "train.py"], 2, "--memory: 'x' names no steps; write them like 2:5, 3 or auto"),
        (["info", "--depth", "3"], 2, "--depth goes with --tree: modtrace info --tree --depth"),
        (["info", "--all"], 2, "--all goes with --syncs: modtrace info --syncs --all"),
        (["info", "--steps", "--where", "a"], 2, "--where has no effect on --steps"),
        (["info", "--tree", "--top", "3"], 2, "--top has no effect on --tree"),
        (["info", "--tree", "--steps"], 2, "--tree and --steps show different things: one at a time"),
        (["info", "--tree", "--depth", "x"], 2, "--depth takes a number, not 'x'"),
        (["info", "--device", "cpu"], 2, "measuring a device is a command of its own: modtrace device [NAME ...]"),
        (["info", "a", "b"], 2, "one trace at a time, not 2: a b"),
        (["report", "a", "b"], 2, "one trace at a time, not 2: a b"),
        (["report", "--full", "--max-size", "1MB"], 2,
         "--full writes every call, --max-size as many as fit: one of them"),
        (["ls", "a", "b"], 2, "ls takes one directory, not 2"),
        (["ls", "nosuch"], 2, "there is no nosuch"),
        (["ls", "train.py"], 2, "train.py is not a directory"),
        (["view"], 4, "there is no trace here; make one with: modtrace run script.py"),
        (["info"], 4, "there is no trace here; make one with: modtrace run script.py"),
        (["live", "adir"], 4, "there is no trace in adir; make one with: modtrace run script.py"),
        (["live", "nosuch"], 4, "there is no trace at nosuch"),
        *(([verb, *options, "nosuch"], 4, "there is no trace at nosuch")
          for verb, options in (("view", []), ("info", []), ("report", []), ("export", ["-t", "csv"]))),
    ],
)  # fmt: skip
def test_one_line_says_what_to_do(words, status, message, here, capsys):
    assert said(words, capsys) == (status, "", f"modtrace: {message.replace('{here}', str(here))}\n")
    assert not list(here.glob("*.mtrace"))


def test_a_trace_is_opened(here, capsys):
    recorded(here / "a.mtrace")
    recorded(here / "named otherwise")
    for words in (["view", "a.mtrace"], ["a.mtrace"], ["a.mtrace/"], ["named otherwise"]):
        main(words)
        assert "CALL TREE" in capsys.readouterr().out


def test_an_option_in_the_command_is_an_argument_in_code(here, capsys):
    trace = modtrace.load(recorded(here / "a.mtrace"))
    (here / "a.csv").write_text("")
    for write, words in (
        (lambda: trace.to_csv("a.csv"), ["export", "a.mtrace", "-t", "csv"]),
        (lambda: recorded("a.mtrace"), ["run", "-o", "a.mtrace", "train.py"]),
    ):
        with pytest.raises(PathTakenError, match=r"exists already; force=True replaces it$"):
            write()
        status, _, err = said(words, capsys)
        assert (status, err.partition(" exists")[2]) == (
            2,
            " already; -f replaces it, -o names another place\n",
        )


def denying(monkeypatch, name):
    """Opening and listing of a path is refused, as it is to users who may not read it."""
    for function in ("open", "scandir"):
        original = getattr(os, function)

        def refuses(path, *args, original=original, **kwargs):
            if name in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *args, **kwargs)

        monkeypatch.setattr(folder.os, function, refuses)


def test_permission_denied_says_so(here, capsys, monkeypatch):
    recorded(here / "secret.mtrace")
    denying(monkeypatch, "secret")
    for words in (["view", "secret.mtrace"], ["info"], ["live", "secret.mtrace"], ["export", "-t", "csv"]):
        assert said(words, capsys) == (4, "", "modtrace: secret.mtrace cannot be read: permission denied\n")
    main(["ls"])
    assert "secret.mtrace: permission denied" in capsys.readouterr().out


def test_a_run_without_calls_is_never_the_newest(here, capsys):
    recorded(here / "a.mtrace")
    for name in ("b", "c"):
        recorded(here / f"{name}.mtrace", calls=0)
    assert newest(here).name == "a.mtrace"
    for words in (["view"], ["info", "--tree"], ["live"], ["export", "-t", "csv", "-o", "-"], ["report"]):
        main(words)
        out, err = capsys.readouterr()
        assert "Linear" in out or "wrote a.html" in err
    text = console.summary(open_trace(here / "b.mtrace"), shown_path="b.mtrace")
    assert "saved  b.mtrace" in text
    assert "next" not in text
    assert "next  modtrace view" in console.summary(open_trace(here / "a.mtrace"), shown_path="a.mtrace")
    os.rename(here / "a.mtrace", here / "a.hidden")
    message = "modtrace: no trace here holds a call: c.mtrace and 1 more; name one to see why\n"
    assert said(["info"], capsys) == (4, "", message)


def test_calls_of_a_process_that_did_not_end_are_counted_in_its_file(here):
    for name, calls in (("a", 1), ("b", 0)):
        path = recorded(here / f"{name}.mtrace", calls=calls)
        (path / "rank-0" / "end.json").unlink()
        assert has_calls(path) is bool(calls)


def test_a_run_that_has_just_begun_is_the_newest(here):
    recorded(here / "a.mtrace")
    with modtrace.trace(path=here / "b.mtrace"):
        assert newest(here).name == "b.mtrace"
    assert newest(here).name == "a.mtrace"


def test_findings_without_one_say_so(here, capsys):
    recorded(here / "a.mtrace")
    main(["info", "a.mtrace", "--findings"])
    assert capsys.readouterr().out == "  nothing stands out\n"


@pytest.mark.parametrize("words", [["info", "--tree"], ["info", "--sort", "self"]])
def test_unknown_keys_of_filters_are_errors(words, here, capsys):
    recorded(here / "a.mtrace")
    status, out, err = said([*words, "--where", "foo:bar"], capsys)
    assert (status, out) == (2, "")
    assert err.startswith("modtrace: foo: is not known: there are type:")


@pytest.mark.parametrize("verb", ["info", "export", "report", "ls"])
def test_an_interrupt_leaves_no_traceback(verb, here, monkeypatch, capsys):
    recorded(here / "a.mtrace")
    ends = []

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(f"modtrace.cli.{verb}"), "execute", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *change: ends.append(change))
    monkeypatch.setattr(os, "kill", lambda *end: ends.append(end))
    words = [verb, "-t", "csv"] if verb == "export" else [verb]
    assert said(words, capsys) == (130, "", "")
    assert ends == [(signal.SIGINT, signal.SIG_DFL), (os.getpid(), signal.SIGINT)]


def table_of(text):
    """Exit status -> what it stands for, of a table in Markdown."""
    return dict(re.findall(r"^\| ([0-9]+) \| (.+?) \|$", text, re.MULTILINE))


def test_one_exit_status_a_kind_of_error():
    table = table_of(errors.__doc__)
    assert table_of((ROOT / "docs" / "recording.md").read_text(encoding="utf-8")) == table
    kinds = [UsageError, WriteError, TraceError, RegressionError, CannotTellError, RunFailedError]
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert f"`{kind.__name__}`" in table[str(kind.exit_code)]
    assert PathTakenError.exit_code == UsageError.exit_code
    assert {str(status) for status in (0, 1, 130)} < set(table)


def test_a_file_that_cannot_be_written_to_its_end(here, monkeypatch, capsys):
    recorded(here / "a.mtrace")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    message = "modtrace: cannot write a.csv: No space left on device\n"
    assert said(["export", "-t", "csv", "-o", "a.csv"], capsys)[::2] == (3, message)
    assert [path.name for path in here.iterdir() if path.suffix in (".csv", ".part")] == []
    status, _, err = said(["export", "-t", "csv", "-o", "nosuch/a.csv"], capsys)
    assert (status, err) == (2, "modtrace: cannot write nosuch/a.csv: No such file or directory\n")


LONG = "a_name_that_is_longer_than_any_column_of_any_table_of_any_view_and_longer_than_a_line"


def test_names_of_traces_are_never_cut(here, capsys, monkeypatch):
    recorded(here / f"{LONG}.mtrace")
    monkeypatch.setenv("COLUMNS", "40")
    main(["ls"])
    assert f"{LONG}.mtrace" in capsys.readouterr().out


def edited(path, change):
    """Another end of a recorded process."""
    file = path / "rank-0" / "end.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def test_ls_says_how_each_run_ended(here, capsys):
    for name in ("a", "b", "c", "d", "e"):
        recorded(here / f"{name}.mtrace")
    edited(here / "a.mtrace", {"exit_status": 0})
    edited(here / "b.mtrace", {"exit_status": 3})
    edited(here / "c.mtrace", {"exit_status": 130, "exception": "KeyboardInterrupt"})
    (here / "d.mtrace" / "rank-0" / "end.json").unlink()
    process = here / "d.mtrace" / "rank-0" / "process.json"
    process.write_text(json.dumps(json.loads(process.read_text()) | {"pid": 1 << 30}))
    main(["ls"])
    head, *lines = capsys.readouterr().out.splitlines()
    place = head.index("  end") + 2
    ends = {line.split()[-1]: line[place : head.index("  trace")].strip() for line in lines}
    assert ends == {
        "a.mtrace": "exit 0",
        "b.mtrace": "exit 3",
        "c.mtrace": "interrupted (SIGINT)",
        "d.mtrace": "killed, or left by os._exit",
        "e.mtrace": "ended",
    }
    for name, state in ends.items():
        assert state in console.summary(open_trace(here / name)) or state == "ended"


def test_ls_names_the_rank_that_failed(here, capsys):
    two_ranks = recorded(here / "a.mtrace")
    shutil.copytree(two_ranks / "rank-0", two_ranks / "rank-1")
    process = two_ranks / "rank-1" / "process.json"
    process.write_text(json.dumps(json.loads(process.read_text()) | {"rank": 1}))
    edited(two_ranks, {"exit_status": 0})
    file = two_ranks / "rank-1" / "end.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"exit_status": 9}))
    main(["ls"])
    assert "  exit 9 (rank 1)  a.mtrace" in capsys.readouterr().out


def test_the_last_column_is_cut_on_a_terminal_alone(here, capsys, monkeypatch):
    model = torch.nn.Sequential()
    model.add_module(LONG, torch.nn.Identity())
    with modtrace.trace(path=here / "a.mtrace"):
        model(tuple(torch.ones(1, number) for number in range(20)))
    style = console.style_of(sys.stdout)
    assert not style["cut"]
    stored = open_trace(here / "a.mtrace")
    last = "f32[1,18], f32[1,19])"
    for view in (console.summary, console.tree, console.modules_table):
        assert last in view(stored, **style)
        assert last not in view(stored, **{**style, "cut": True})
        assert max(map(len, view(stored, **{**style, "cut": True}).splitlines())) <= 80
    main(["info", "--sort", "self"])
    assert last in capsys.readouterr().out


def test_a_terminal_is_told_of_many_calls(here, capsys, monkeypatch):
    recorded(here / "a.mtrace", calls=3)
    monkeypatch.setattr("modtrace.cli.chosen_trace.MANY_CALLS", 3)
    for is_terminal, message in ((False, ""), (True, "modtrace: reading 3 calls\n")):
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        main(["info"])
        assert capsys.readouterr().err == message
    monkeypatch.setattr("modtrace.cli.chosen_trace.MANY_CALLS", 4)
    main(["info"])
    assert capsys.readouterr().err == ""


def test_a_warning_is_broken_between_words(here):
    recorded(here / "a.mtrace", calls=0)
    stored = open_trace(here / "a.mtrace")
    for view in (console.tree, console.steps_table, console.memory_text):
        lines = view(stored, width=40).splitlines()
        assert lines[0].startswith("  ! no module was called")
        assert max(map(len, lines)) <= 40
        assert ".." not in lines[0] + lines[1]
