"""What a script prints, as lines of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modtrace.views.live.scrollback import LINES, OutputFile, Scrollback


def lines_of(*parts):
    scrollback = Scrollback()
    for part in parts:
        scrollback.feed(part)
    return scrollback.last(100)


@pytest.mark.parametrize(
    ("printed", "seen"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),
        (b" 1%|  \r50%|# \r99%|##\r\n", ["99%|##"]),
        (b"long line\rab\r\n", ["abng line"]),
        (b"long line\r\x1b[Kab", ["ab"]),
        (b"abc\b\bX", ["aXc"]),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b(B", ["red xlink"]),
        (b"outer 0\r\n\rinner 1\x1b[A\router 1\n\rinner 2", ["outer 1", "inner 2"]),
        (b"\x1bP1;2|payload\x1b\\after", ["after"]),
        (b"a\tb", ["a       b"]),
        (b"caf\xc3\xa9 \xff", ["caf\u00e9 \ufffd"]),
        ("\u202eevil".encode(), ["\\u202eevil"]),
    ],
)
def test_as_a_terminal_would_show_it(printed, seen):
    assert lines_of(printed) == seen
    assert lines_of(*[printed[at : at + 1] for at in range(len(printed))]) == seen, "cut anywhere"


@given(st.lists(st.binary(max_size=40)), st.binary())
def test_nothing_harmful_comes_out(parts, more):
    for line in lines_of(*parts, b"\x1b[", more):
        assert line.isprintable()


def test_it_is_bounded():
    scrollback = Scrollback()
    for _ in range(20):
        scrollback.feed(b"line\r\n" * 1000)
    scrollback.feed(b"x" * 100_000)
    assert len(scrollback) == LINES
    assert len(scrollback.last(1)[0]) == 2000


def test_a_file_that_grows_and_is_replaced(tmp_path):
    path = tmp_path / "output.txt"
    output = OutputFile(path)
    assert not output.look()
    path.write_bytes(b"one\r\n")
    assert output.look()
    with path.open("ab") as file:
        file.write(b"two\r\n")
    assert output.look()
    path.rename(tmp_path / "output-1.txt")
    path.write_bytes(b"three\r\n")
    output.look()
    output.look()
    assert output.lines.last(9) == ["one", "two", "three"]
    with path.open("ab") as file:
        file.write(b"y" * 79 + b"\n" * 1 + (b"z" * 79 + b"\n") * 9000)
    output.look()
    output.look()
    assert any("bytes are not shown here" in line for line in output.lines.last(LINES))
