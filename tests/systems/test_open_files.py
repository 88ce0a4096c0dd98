"""Names, paths and words of commands as each system has them."""

from __future__ import annotations

import os

import pytest

from modtrace.launch.run_script import Target
from modtrace.systems import open_files
from modtrace.systems.open_files import (
    as_main_file,
    command_words,
    open_file,
    path_from_here,
    portable_name,
    read_at,
    replace,
)

NOT_IN_WINDOWS = set('<>:"/\\|?*') | {chr(number) for number in range(32)}


@pytest.mark.parametrize(
    ("name", "portable"),
    [
        ("train", "train"),
        ("tr:ain", "tr_ain"),
        ('a<b>c"d|e?f*g', "a_b_c_d_e_f_g"),
        ("é ж", "é ж"),
        ("nul", "nul_"),
        ("COM1.v2", "COM1_.v2"),
        ("console", "console"),
        ("dots..", "dots"),
        ("...", "_"),
        ("line\n", "line_"),
    ],
)
def test_names_that_every_system_takes(name, portable):
    assert portable_name(name) == portable
    assert not set(portable) & NOT_IN_WINDOWS
    assert portable_name(portable) == portable


def test_a_trace_is_named_so():
    assert Target("script", "folder/tr:ain.py", ()).stem == "tr_ain"
    assert Target("script", "folder/tr:ain.py", ()).name == "tr:ain.py"


def test_words_of_a_command(monkeypatch):
    assert command_words("a\\b 'c d'") == ["ab", "c d"]
    monkeypatch.setattr(open_files, "WINDOWS", True)
    assert command_words(r"""C:\d\train.py "c d" 'e' --lr 1""") == [r"C:\d\train.py", "c d", "e", "--lr", "1"]
    with pytest.raises(ValueError, match="quotation"):
        command_words("'open")


def test_another_drive(monkeypatch, tmp_path):
    def other(path, start=None):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", other)
    assert path_from_here(tmp_path) == str(tmp_path)


def test_the_main_file(monkeypatch, tmp_path):
    """python says `./x.py` as FOLDER/x.py on every system; in Windows it takes out `.` and `..` everywhere."""
    monkeypatch.chdir(tmp_path)
    assert as_main_file("./x.py") == f"{tmp_path}/x.py"
    assert as_main_file("a/../x.py") == f"{tmp_path}/a/../x.py"
    monkeypatch.setattr(open_files, "WINDOWS", True)
    assert as_main_file("a/../x.py") == f"{tmp_path}/x.py"


def test_a_link_is_not_followed_where_no_flag_says_so(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for flag in (open_files._NO_FOLLOW, 0):
        monkeypatch.setattr(open_files, "_NO_FOLLOW", flag)
        with pytest.raises(OSError, match="symbolic links"):
            open_file(tmp_path / "link", os.O_RDONLY)
        os.close(open_file(tmp_path / "link", os.O_RDONLY, follow=True))
        os.close(open_file(tmp_path / "file", os.O_RDONLY))


def test_reading_at_a_position(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    descriptor = open_file(tmp_path / "file", os.O_RDONLY)
    for _ in range(2):
        assert [read_at(descriptor, 3, position) for position in (7, 2, 9, 20)] == [b"789", b"234", b"9", b""]
        monkeypatch.delattr(os, "pread", raising=False)
    os.close(descriptor)


def test_a_file_that_is_read_is_replaced_a_moment_later(monkeypatch, tmp_path):
    """Windows refuses while a reader has it open."""
    tries, real = [], os.replace

    def refused_twice(source, target):
        tries.append(source)
        if len(tries) < 3:
            raise PermissionError(13, "used by another process")
        real(source, target)

    (tmp_path / "new").write_bytes(b"new")
    monkeypatch.setattr(os, "replace", refused_twice)
    with pytest.raises(PermissionError):
        replace(tmp_path / "new", tmp_path / "old")
    monkeypatch.setattr(open_files, "WINDOWS", True)
    replace(tmp_path / "new", tmp_path / "old")
    assert len(tries) == 3
    assert (tmp_path / "old").read_bytes() == b"new"
