"""A file is written whole or not at all."""

from __future__ import annotations

import stat

import pytest

from modtrace.errors import UsageError
from modtrace.trace.atomic_file import write_whole


def test_whole_and_for_the_user_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    write_whole(path, [b"one ", b"two"])
    assert path.read_bytes() == b"one two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_what_was_there(tmp_path):
    def broken():
        yield b"half"
        raise RuntimeError("later")

    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="later"):
        write_whole(path, broken())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write .*gone/a\.txt: No such file or directory"):
        write_whole(tmp_path / "gone" / "a.txt", [b""])
