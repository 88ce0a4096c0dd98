"""How wide a text is, where it is cut, and lists that end."""

from __future__ import annotations

import pytest

from modtrace.text import and_more, fit, pad, width

FAMILY, KEYCAP, FLAG = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "1\ufe0f\u20e3", "\U0001f1e9\U0001f1ea"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        (FAMILY, 2),
        (KEYCAP, 2),
        (FLAG, 2),
        (f"a{FAMILY}b", 4),
        ("", 0),
    ],
)
def test_width_is_what_a_terminal_draws(text, columns):
    assert width(text) == columns
    assert width(pad(text, 8)) == width(pad(text, 8, right=True)) == 8


@pytest.mark.parametrize(
    "text", ["a long name", "日本語のテキスト", "e\u0301" * 9, FAMILY * 5, f"x{KEYCAP}" * 4]
)
@pytest.mark.parametrize("columns", range(8))
def test_a_text_is_cut_to_its_columns(text, columns):
    for keep_end in (False, True):
        cut = fit(text, columns, keep_end=keep_end)
        assert columns - 2 < width(cut) + 1 <= columns + 1 or width(cut) == columns
        inner = cut.removeprefix("..") if keep_end else cut.removesuffix("..")
        assert columns <= 2 or (text.endswith(inner) if keep_end else text.startswith(inner))


def test_the_end_is_kept_as_it_was_written():
    assert fit("encoder.layers.e\u0301", 6, keep_end=True) == "..rs.e\u0301"
    assert fit("encoder", 20, keep_end=True) == "encoder"


def test_and_more():
    assert and_more([], 2) == ""
    assert and_more(["a", "b"], 2) == "a, b"
    assert and_more(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert and_more(["a", "b"], 1) == "a and 1 more"
