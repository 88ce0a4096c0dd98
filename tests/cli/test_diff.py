"""`modtrace diff`, `check`, `baseline` and `compare` as commands: what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

import modtrace
from modtrace.cli import compare, main
from modtrace.cli.diff import prepare
from modtrace.cli.options import parse
from modtrace.errors import CannotTellError, RegressionError, UsageError
from tests.comparing.made_runs import noisy_runs


class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.first, self.second = nn.Linear(4, size), nn.Linear(size, 2)

    def forward(self, x):
        return self.second(self.first(x))


def recorded(path, size=8, steps=8, **options):
    torch.manual_seed(0)
    model = Net(size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
    return str(path)


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    (
        recorded(folder / "a.mtrace"),
        recorded(folder / "b.mtrace"),
        recorded(folder / "big.mtrace", 16, nan=True),
    )
    return folder


@pytest.fixture
def here(traces, monkeypatch):
    monkeypatch.chdir(traces)
    monkeypatch.delenv("COLUMNS", raising=False)
    return traces


def said(words, capsys):
    """(exit status, stdout, stderr)."""
    status = 0
    try:
        main(words)
    except SystemExit as left:
        status = left.code
    out, err = capsys.readouterr()
    return status, out, err


def test_two_traces(here, capsys):
    status, out, err = said(["diff", "a.mtrace", "big.mtrace"], capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "modtrace diff  a.mtrace -> big.mtrace   one run a side"
    heads = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].isupper()]
    assert heads == ["ENVIRONMENT", "STRUCTURE", "NUMBERS", "FLOPs", "TIME", "WHAT"]
    assert any(
        line.split()
        == ["parameters", "first", "Linear", "weight[8,4],", "bias[8]", "->", "weight[16,4],", "bias[16]"]
        for line in lines
    )
    assert any(line.startswith("  options") and "nan=on" in line for line in lines)
    assert any(line.split()[:4] == ["parameters", "58", "114", "+96.6%"] for line in lines)
    assert "unknown: too few steps to tell" in lines[1]


def test_json_has_what_the_page_says(here, capsys):
    status, out, _ = said(["diff", "a.mtrace", "big.mtrace", "--json", "--fail-on", "parameters:+0"], capsys)
    data = json.loads(out)
    assert status == 1
    assert (data["format"], data["version"], data["runs"]) == (
        "modtrace-diff",
        1,
        {"baseline": 1, "candidate": 1},
    )
    assert data["verdict"] == "exceeded"
    (limit,) = data["limits"]
    assert (limit["limit"], limit["status"]) == ("parameters:+0", "exceeded")
    assert (limit["measured"][0]["baseline"], limit["measured"][0]["candidate"]) == (58, 114)
    change = data["step_change"]
    assert (
        change["change_ns"]
        == sum(line["change_ns"] for line in change["lines"]) + change["unmatched_ns"] + change["other_ns"]
    )
    modules = {module["name"]: module for module in data["times"]["modules"]}
    assert set(modules) == {"model", "first", "second"}
    assert set(modules["first"]) == {"name", "type", "forward", "backward", "device", "time"}
    page = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "comparing.md")
    with open(page, encoding="utf-8") as file:
        text = file.read().partition("## The JSON")[2]
    for key in (*data, *change, *limit, *limit["measured"][0], *modules["first"], *modules["first"]["time"]):
        assert f"`{key}`" in text, key


def test_markdown_is_a_table_that_nothing_escapes_from(here, capsys):
    status, out, _ = said(["diff", "a.mtrace", "big.mtrace", "--markdown", "--fail-on", "calls:+0"], capsys)
    assert status == 0
    assert out.startswith("### modtrace: step ")
    assert "| calls:+0 | ok | 3 -&gt; 3  0.0% |" in out
    assert "weight\\[8,4\\]" in out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert all(row.endswith("|") for row in rows)


@pytest.mark.parametrize(
    ("limits", "options", "status", "tag"),
    [
        ("calls:+0", [], 0, "system-out"), ("parameters:+0", [], 1, "failure"), ("peak:+1%", [], 5, "error"),
        ("peak:+1%", ["--unknown-ok"], 0, "skipped"), ("peak:+1%,parameters:+0", ["--unknown-ok"], 1, "failure"),
        ("nan", [], 0, "system-out"),
    ],
)  # fmt: skip
def test_exit_status_and_junit(here, capsys, tmp_path, limits, options, status, tag):
    junit = tmp_path / "limits.xml"
    words = ["diff", "a.mtrace", "big.mtrace", "--fail-on", limits, "--junit", str(junit), *options]
    assert said(words, capsys)[0] == status
    suite = ET.parse(junit).getroot()
    assert int(suite.get("tests")) == len(limits.split(","))
    assert [case.get("name") for case in suite] == limits.split(",")
    assert tag in {child.tag for case in suite for child in case}
    for kind in ("failure", "error", "skipped"):
        count = sum(child.tag == kind for case in suite for child in case)
        assert int(suite.get({"failure": "failures", "error": "errors", "skipped": "skipped"}[kind])) == count


def test_several_a_side(here, capsys):
    status, out, _ = said(
        ["diff", "a.mtrace", "b.mtrace", "--json", "--against", "big.mtrace", "--noise", "3%"], capsys
    )
    data = json.loads(out)
    assert (status, data["runs"], data["noise"]) == (0, {"baseline": 2, "candidate": 1}, 0.03)
    prepared = prepare(["a", "b", "--against", "c", "d", "--map", "x=y", "--map", "p.*=q.*", "--all"])
    assert (prepared.baseline, prepared.candidate) == (["a", "b"], ["c", "d"])
    assert prepared.parsed.values == {"map": "x=y\np.*=q.*", "all": "1"}
    assert prepare(["a", "--against=b"]).candidate == ["b"]


def test_a_map_is_followed(here, capsys):
    data = json.loads(
        said(
            ["diff", "a.mtrace", "b.mtrace", "--json", "--map", "first=second", "--map", "second=first"],
            capsys,
        )[1]
    )
    assert {(change["baseline"], change["name"]) for change in data["structure"] if change["what"] == "mapped"} == {
        ("first", "second"), ("second", "first"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["diff"], 2, "diff takes two traces, not 0"), (["diff", "a.mtrace"], 2, "diff takes two traces, not 1"),
        (["diff", "a", "b", "c"], 2, "several a side: modtrace diff A1 A2 --against B1 B2"),
        (["diff", "--against", "a"], 2, "--against stands between"),
        (["diff", "a", "--against"], 2, "--against stands between"),
        (["diff", "a.mtrace", "nosuch"], 4, "there is no trace at nosuch"),
        (["diff", "a.mtrace", "b.mtrace", "--fail-on", "stp:+5%"], 2, "no module is called stp"),
        (["diff", "a.mtrace", "b.mtrace", "--fail-on", "step"], 2, "says no limit"),
        (["diff", "a.mtrace", "b.mtrace", "--noise", "much"], 2, "--noise takes percent such as 5%"),
        (["diff", "a.mtrace", "b.mtrace", "--map", "x"], 2, "--map takes OLD=NEW"),
        (["diff", "a.mtrace", "b.mtrace", "--junit", "x.xml"], 2, "--junit goes with --fail-on"),
        (["diff", "a.mtrace", "b.mtrace", "--json", "--markdown"], 2, "one at a time"),
        (["diff", "a.mtrace", "--json", "--against", "b.mtrace", "--markdown"], 2, "one at a time"),
        (["check", "a.mtrace"], 2, "check takes limits"),
        (["check", "a.mtrace", "--fail-on", "step:+5%"], 2, "modtrace diff has a baseline for that"),
        (["baseline", "a.mtrace"], 2, "baseline needs a name for the file"),
        (["compare"], 2, "compare takes one command in quotes"),
        (["compare", "x.py"], 2, "compare with what: one of --against"),
        (["compare", "x.py", "--against", "y.py", "--git", "main"], 2, "--against and --git are two ways"),
        (["compare", "x.py", "--against", "torchrun y.py"], 2, "torchrun starts several processes"),
        (["compare", "x.py", "--against", "modtrace run y.py"], 2, "leave modtrace run out"),
        (["compare", "python", "--against", "y.py"], 2, "names no script"),
        (["compare", "'x.py", "--against", "y.py"], 2, "cannot be read"),
        (["compare", "x.py", "--against", "y.py", "--runs", "0"], 2, "--runs takes 1 or more"),
        (["compare", "x.py", "--against", "y.py", "-o", "a.mtrace"], 2, "exists already"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(here, capsys, words, status, message):
    found, out, err = said(words, capsys)
    assert (found, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1


def test_check_holds_limits_against_one_run(here, capsys):
    status, out, _ = said(
        ["check", "a.mtrace", "--fail-on", "step<10s, step.p95<10s, first.forward<1s, calls<=3, findings"],
        capsys,
    )
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["ok"] * 5
    status, out, _ = said(["check", "a.mtrace", "--fail-on", "calls<3", "--fail-on", "nan", "--json"], capsys)
    data = json.loads(out)
    assert (status, data["format"], data["verdict"]) == (1, "modtrace-check", "exceeded")
    assert [limit["status"] for limit in data["limits"]] == ["exceeded", "unknown"]
    assert said(["check", "a.mtrace", "--fail-on", "nan"], capsys)[0] == 5
    assert said(["check", "big.mtrace", "--fail-on", "nan"], capsys)[0] == 0


def test_a_baseline_is_a_side(here, capsys, tmp_path):
    target = str(tmp_path / "base.json")
    status, out, err = said(["baseline", "-o", target, "a.mtrace", "b.mtrace"], capsys)
    assert (status, out) == (0, "")
    assert "base.json, 2 runs, " in err
    status, _, err = said(["baseline", "-o", target, "a.mtrace"], capsys)
    assert (status, "exists already; -f replaces it" in err) == (2, True)
    assert said(["diff", target, "b.mtrace", "--fail-on", "calls:+0,flops:+0,parameters:+0"], capsys)[0] == 0
    assert said(["diff", target, "big.mtrace", "--fail-on", "flops:+0"], capsys)[0] == 1


def test_in_code(here):
    found = modtrace.compare("a.mtrace", modtrace.load("big.mtrace"))
    assert found.verdict in ("unknown", "slower", "faster")
    assert {change.what for change in found.structure} == {"parameters", "output"}
    assert str(found) == found.text()
    assert json.loads(found.to_json())["format"] == "modtrace-diff"
    assert found.to_markdown().startswith("### modtrace")
    assert repr(found).startswith("<modtrace.Difference step ")
    rows = found.modules
    assert set(rows["which"]) == {"forward", "backward", "time"}
    assert rows["baseline_ns"].dtype == "Int64"
    with pytest.raises(RegressionError, match=r"EXCEEDED parameters:\+0"):
        modtrace.compare(["a.mtrace", "b.mtrace"], ["big.mtrace"], "parameters:+0")
    with pytest.raises(CannotTellError, match=r"unknown  peak:\+1%"):
        modtrace.compare("a.mtrace", "b.mtrace", "peak:+1%")
    modtrace.compare("a.mtrace", "b.mtrace", "peak:+1%", unknown_ok=True)
    with pytest.raises(UsageError, match="takes a trace"):
        modtrace.compare([], "b.mtrace")


def test_check_in_code(here):
    trace = modtrace.load("a.mtrace")
    assert [result.status for result in modtrace.check(trace, "calls<=3, step<10s, findings")] == ["fine"] * 3
    with pytest.raises(RegressionError, match="EXCEEDED calls<3"):
        modtrace.check("a.mtrace", "calls<3")
    with pytest.raises(CannotTellError):
        modtrace.check(trace, "nan")


def test_nothing_heavy_is_imported(here):
    code = "import sys; from modtrace.cli import main; main(['diff', 'a.mtrace', 'big.mtrace'])"
    code += "; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "textual", "scipy"} & set(done.stdout.splitlines()[-1].split())


# compare: commands --------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
import torch
from torch import nn
size = int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ.get("SIZE", "4"))
print("size", size)
model = nn.Sequential(nn.Linear(4, size), nn.Linear(size, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(6):
    optimizer.zero_grad()
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
"""


QUICK = """
import sys
if sys.argv[1:] == ["13"]:
    print("unlucky", file=sys.stderr)
    sys.exit(7)
"""
"""Without torch it takes a moment."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "quick.py").write_text(QUICK)
    return tmp_path


def test_two_commands_in_turns(folder, capsys):
    words = [
        "compare",
        "-o",
        "kept",
        "--runs",
        "2",
        "--warm-up",
        "1",
        "--json",
        "train.py 4",
        "--against",
        "python -u train.py 6",
    ]
    status, out, err = said([*words, "--run", "--engine calls", "--fail-on", "parameters:+0"], capsys)
    data = json.loads(out)
    assert (status, data["runs"]) == (1, {"baseline": 2, "candidate": 2})
    assert {(change["what"], change["name"]) for change in data["structure"]} >= {
        ("parameters", "0"),
        ("parameters", "1"),
    }
    turns = [line.split()[1:3] for line in err.splitlines()[:-1]]
    assert turns == [["A", "warm-up"], ["B", "warm-up"], ["A", "1"], ["B", "1"], ["A", "2"], ["B", "2"]]
    names = {path.name for path in (folder / "kept").iterdir()}
    assert {name for name in names if name.endswith(".mtrace")} == {
        "a-1.mtrace",
        "a-2.mtrace",
        "b-1.mtrace",
        "b-2.mtrace",
    }
    assert (folder / "kept" / "b-2.txt").read_text() == "size 6\n"
    starts = [
        modtrace.load(folder / "kept" / name).run.started_unix_ns
        for name in ("a-1.mtrace", "b-1.mtrace", "a-2.mtrace", "b-2.mtrace")
    ]
    assert starts == sorted(starts)
    process = json.loads((folder / "kept" / "a-1.mtrace" / "rank-0" / "process.json").read_text())
    assert process["engine"] == "calls"


def test_one_command_with_two_environments(folder, capsys):
    words = [
        "compare",
        "-q",
        "-o",
        "kept",
        "--runs",
        "1",
        "--warm-up",
        "0",
        "--json",
        "train.py",
        "--env",
        "SIZE=9",
    ]
    status, out, err = said(words, capsys)
    assert (status, err) == (0, "")
    changes = {(change["name"], change["candidate"]) for change in json.loads(out)["structure"]}
    assert ("0", "weight[9,4], bias[9]") in changes
    commands = compare.prepare(["SIZE=3 train.py x", "--env", "A=1", "--env", "B=2 3"]).commands
    assert [dict(command.settings) for command in commands] == [
        {"SIZE": "3"},
        {"SIZE": "3", "A": "1", "B": "2 3"},
    ]
    assert [command.words for command in commands] == [("train.py", "x")] * 2


def test_a_command_that_fails_ends_it(folder, capsys):
    status, out, err = said(
        ["compare", "-o", "kept", "--runs", "3", "--warm-up", "0", "quick.py 4", "--against", "quick.py 13"],
        capsys,
    )
    assert (status, out) == (6, "")
    assert "quick.py 13 ended with exit status 7" in err
    assert "  unlucky" in err
    assert not (folder / "kept" / "a-2.mtrace").exists()


def git(*words):
    return subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@e", *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_the_working_tree_against_a_revision(folder, capsys, monkeypatch):
    git("init", "-q")
    (folder / "inner").mkdir()
    (folder / "inner" / "net.py").write_text("SIZE = 5\n")
    (folder / "inner" / "train.py").write_text(
        SCRIPT.replace('int(os.environ.get("SIZE", "4"))', '__import__("net").SIZE')
    )
    git("add", ".")
    git("commit", "-qm", "one")
    (folder / "inner" / "net.py").write_text("SIZE = 7\n")
    monkeypatch.chdir(folder / "inner")
    words = [
        "compare",
        "-q",
        "-o",
        "kept",
        "--runs",
        "1",
        "--warm-up",
        "0",
        "--json",
        "--git",
        "HEAD",
        "train.py",
    ]
    status, out, err = said(words, capsys)
    assert (status, err) == (0, "")
    changes = {
        (change["name"], change["baseline"], change["candidate"]) for change in json.loads(out)["structure"]
    }
    assert ("0", "weight[5,4], bias[5]", "weight[7,4], bias[7]") in changes
    assert len(git("worktree", "list").splitlines()) == 1
    for revision, message in (("nosuch", "there is no revision nosuch"), ("--x", "--git takes a revision")):
        status, _, err = said(["compare", "-q", "-o", "other", f"--git={revision}", "train.py"], capsys)
        assert (status, message in err) == (2, True)
    assert not (folder / "inner" / "other").exists()
    status, _, err = said(
        ["compare", "-q", "-o", "third", "--runs", "1", "--git", "HEAD", "../quick.py 13"], capsys
    )
    assert status == 6
    assert len(git("worktree", "list").splitlines()) == 1


def test_it_stops_when_the_margin_is_small_enough(folder, capsys, monkeypatch):
    asked = []

    def enough(sides, _):
        asked.append([len(side) for side in sides])
        return len(asked) == 2

    monkeypatch.setattr("modtrace.cli.compare._is_enough", enough)
    words = ["compare", "-q", "-o", "kept", "--runs", "9", "--warm-up", "0", "--json", "quick.py"]
    assert json.loads(said([*words, "--against", "quick.py"], capsys)[1])["runs"] == {
        "baseline": 2,
        "candidate": 2,
    }
    assert asked == [[1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("runs", "noise", "enough"), [(4, 0.001, False), (5, 0.001, True), (5, 0.1, False), (12, 0.03, True)]
)
def test_the_margin_is_that_of_the_interval_of_the_step(runs, noise, enough):
    sides = noisy_runs(runs, 1, noise=noise, drift=noise), noisy_runs(runs, 2, noise=noise, drift=noise)
    assert compare._is_enough(sides, parse([], compare.VERB)) == enough
