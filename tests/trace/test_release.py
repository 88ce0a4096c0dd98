"""Letting go of what is large: it is there again when it is asked for."""

from __future__ import annotations

from benchmarks.synthetic import write_gpt
from modtrace.trace.reader import open_trace


def test_calls_are_read_again(tmp_path):
    write_gpt(tmp_path / "a.mtrace", steps=3, layers=2)
    stored = open_trace(tmp_path / "a.mtrace")
    before, modules = stored.table("calls"), stored.table("modules")
    stored.release()
    assert stored.table("modules") is modules
    again = stored.table("calls")
    assert again is not before
    assert again.equals(before)
