"""A trace of fixed numbers for the viewer, and the viewer on it without a terminal."""

from __future__ import annotations

import pytest

from benchmarks.synthetic import write_gpt


@pytest.fixture(scope="session")
def gpt(tmp_path_factory):
    """40 steps of a GPT-2: 252 rows each."""
    path = tmp_path_factory.mktemp("viewer") / "gpt.mtrace"
    write_gpt(path, steps=40)
    return path


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """No keys and colours of whoever runs the tests; what is exported lands in a folder of the test."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    for name in ("NO_COLOR", "COLORFGBG", "EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
