"""Options of every command: exact names, help, and what belongs to the script."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from modtrace.cli import main
from modtrace.cli.options import parse
from modtrace.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"
VERBS = (
    "run",
    "live",
    "view",
    "info",
    "report",
    "diff",
    "compare",
    "check",
    "baseline",
    "ls",
    "export",
    "device",
)


def verb(name):
    return import_module(f"modtrace.cli.{name}").VERB


@pytest.mark.parametrize("name", VERBS)
def test_help_has_every_option(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: modtrace {name} ")
    for option in verb(name).options:
        assert all(f"{one}" in told for one in option.names)
        assert "".join(option.help.split()) in "".join(told.split())
    assert len(verb(name).examples) >= 2
    assert all(line.startswith(("modtrace ", "torchrun ")) for line, _ in verb(name).examples)
    for page in verb(name).docs.replace(",", "").split():
        assert page.startswith("(") or page.endswith(")") or (DOCS.parent / page).is_file(), page
    assert verb(name).docs in told
    assert all(word in told for word in ("COLUMNS", "NO_COLOR", "examples:"))


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_help_is_as_wide_as_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in VERBS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        if columns >= 80:
            assert max(map(len, text.splitlines())) <= columns
        lines = text[: text.index("examples:")].splitlines()
        widths = [len(line) for line in lines[1:] if "modtrace" not in line]  # command lines are copied whole
        assert max(widths) <= columns
        if name in ("run", "info"):
            assert max(widths) > columns - 25


def test_help_of_a_command(capsys):
    texts = []
    for words in (["help", "run"], ["run", "--help"], ["help"], ["--help"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0
        texts.append(capsys.readouterr().out)
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert all(f"\n  {name} " in texts[2] for name in VERBS)
    assert "verb" not in "".join(texts)


@pytest.mark.parametrize("name", VERBS)
def test_an_unknown_option_is_one_line_and_exit_2(name, capsys):
    for words in (["--nothing"], ["--nothing=1"], ["-Z"]):
        with pytest.raises(SystemExit) as left:
            main([name, *words])
        assert left.value.code == 2
        told = capsys.readouterr().err
        assert told == f"modtrace: {name} has no option {words[0][:9]}; modtrace {name} --help lists them\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["info", "--tre"], "info has no option --tre"),
        (["info", "--depth"], "expected one argument"),
        (["info", "--tree=1"], "ignored explicit argument '1'"),
        (["run", "--mem", "0:3", "x.py"], "run has no option --mem"),
        (["run", "-o"], "expected one argument"),
    ],
)
def test_names_are_whole_and_values_are_where_they_belong(words, told, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert f"modtrace {words[0]} --help" in line


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        (["s.py", "-q", "--help"], {}, ["s.py", "-q", "--help"]),
        (["-q", "s.py", "--memory"], {"quiet": "1"}, ["s.py", "--memory"]),
        (["-o", "a b", "-m", "pkg", "-m"], {"output": "a b"}, ["-m", "pkg", "-m"]),
        (["-c", "print()", "-q"], {}, ["-c", "print()", "-q"]),
        (["-qf", "s.py"], {"quiet": "1", "force": "1"}, ["s.py"]),
        (["-qo", "out", "s.py", "x"], {"quiet": "1", "output": "out"}, ["s.py", "x"]),
        (["-oout", "s.py"], {"output": "out"}, ["s.py"]),
        (["--output=out", "--", "-odd.py", "--"], {"output": "out"}, ["-odd.py", "--"]),
        (["--html", "s.py", "y"], {"html": "1"}, ["s.py", "y"]),
        (["--html=r.html", "s.py"], {"html": "r.html"}, ["s.py"]),
        (["-", "x"], {}, ["-", "x"]),
        (["--memory", "0:3", "--memory", "1:2", "s.py"], {"memory": "1:2"}, ["s.py"]),
    ],
)
def test_all_from_the_script_on_is_the_script_s(words, values, rest):
    parsed = parse(words, verb("run"))
    assert (parsed.values, parsed.words) == (values, rest)


def test_options_of_other_verbs_stand_anywhere():
    parsed = parse(["a.mtrace", "--tree", "--depth", "2", "b.mtrace"], verb("info"))
    assert (parsed.values, parsed.words) == ({"tree": "1", "depth": "2"}, ["a.mtrace", "b.mtrace"])
    assert parse(["--", "--tree"], verb("info")).words == ["--tree"]
    assert parse(["--where", "-lm_head"], verb("info")).values["where"] == "-lm_head"


def test_the_environment_gives_options_of_run_alone(monkeypatch):
    for name in ("MEMORY", "FORCE", "QUIET", "MAX_MEMORY"):
        monkeypatch.setenv(f"MODTRACE_{name}", "1")
    assert parse(["s.py"], verb("run")).values == {"memory": "1", "force": "1", "quiet": "1"}
    assert parse(["-q", "--memory", "0:3", "s.py"], verb("run")).values["memory"] == "0:3"
    assert parse([], verb("info")).values == {"max-memory": "1"}
    assert parse(["-t", "csv"], verb("export")).values == {"type": "csv", "max-memory": "1"}


def test_a_number_is_a_number():
    with pytest.raises(UsageError, match="--depth takes a number, not 'x'"):
        import_module("modtrace.cli.info").prepare(["--tree", "--depth", "x"])
