"""The sessions of docs/debugging.md are what the examples show."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.debugging.prompts import ROOT, run

PAGE = (ROOT / "docs" / "debugging.md").read_text()
SESSION = re.compile(r"\$ modtrace run (--break '[^']*') (examples/debugging/\w+\.py)\n(.*?)```", re.DOTALL)


def without_times(text):
    return re.sub(r"[\d.]+ (ns|us|ms|s)\b", "TIME", text)


@pytest.mark.parametrize("session", SESSION.findall(PAGE), ids=lambda session: session[1])
def test_a_session(tmp_path, session):
    option, script, shown = session
    typed = re.findall(r"^\(Pdb\) (.*)$", shown, re.MULTILINE)
    expression = option.removeprefix("--break '").removesuffix("'")
    done = run(["--break", expression], ROOT / script, cwd=tmp_path, answers=typed)
    text = without_times(done.text)
    for line in shown.splitlines():
        assert without_times(line) in text, (line, done.text)
    plain = subprocess.run([sys.executable, str(ROOT / script)], capture_output=True, text=True, check=True)
    assert done.status == 0
    assert all(line in done.text for line in plain.stdout.splitlines())
    assert len(done.stops) == shown.count("modtrace: stopped")


def test_there_are_two():
    assert len(SESSION.findall(PAGE)) == 2


REPORT = re.compile(
    r"\$ modtrace run (--(?:nan|values 0:6)) (examples/debugging/\w+\.py)\n(.*?)```", re.DOTALL
)


@pytest.mark.parametrize("session", REPORT.findall(PAGE), ids=lambda session: session[1])
def test_a_report(tmp_path, session):
    options, script, shown = session
    command = [
        sys.executable,
        "-m",
        "modtrace",
        "run",
        "-o",
        "t.mtrace",
        *options.split(),
        str(ROOT / script),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for line in shown.splitlines():
        assert line in f"{done.stdout}{done.stderr}", done.stderr


def test_there_are_three_reports():
    assert len(REPORT.findall(PAGE)) == 3
