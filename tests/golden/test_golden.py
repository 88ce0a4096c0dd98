"""Traces of earlier formats, opened by this version: every view and export shows what it showed."""

from __future__ import annotations

import pytest

from tests.golden.every_text import HERE, every_text

VERSIONS = sorted(path.name for path in HERE.glob("format-*"))


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    return HERE / request.param


def test_every_view_and_export(version, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # what was measured of this machine is not in it
    expected = {path.stem: path.read_text(encoding="utf-8") for path in (version / "expected").iterdir()}
    found = every_text(version / "trace")
    assert sorted(found) == sorted(expected)
    different = [name for name, text in found.items() if text != expected[name]]
    assert different == [], f"look at them, then: python -m tests.golden.every_text\n{different}"


def test_formats_of_before_are_here():
    assert {"format-1.0", "format-1.1"} <= set(VERSIONS)
