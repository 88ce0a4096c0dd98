"""The only place where foreign text is made safe to show: in a terminal, a cell, a page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})
_SAFE_ASCII: Final = re.compile(r"[ -~]*\Z")
_ENTITIES: Final = {
    ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#39;"
}  # fmt: skip
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


def plain(text: str, limit: int | None = None) -> str:
    r"""Text with every control, format, surrogate, separator, private and unassigned character as a visible escape.

    What comes out moves no cursor, reverses no line and can always be encoded as UTF-8.

    Args:
        text: any string.
        limit: characters kept; a longer text ends in `...`.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 3, 0)] + "..."
    if not _SAFE_ASCII.match(text):
        text = "".join(map(_visible, text))
        if limit is not None and len(text) > limit:
            text = text[: max(limit - 3, 0)] + "..."
    return text


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE_CATEGORIES:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula: one that starts like a formula gets a `'` in front."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def markup(text: str, limit: int | None = None) -> str:
    """Text for HTML, between tags or inside a quoted attribute: made `plain`, then with `&<>"'` as entities."""
    return plain(text, limit).translate(_ENTITIES)


def script_json(data: Any) -> str:
    """JSON that can stand inside a `<script>`: ASCII alone, and nothing in it that could end the element or begin a
    comment. Any parser of JSON reads the same data from it.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def width(text: str) -> int:
    """Columns that a text takes in a terminal; sequences that are one sign (a family, a key) count as it is drawn."""
    if text.isascii():
        return len(text)
    from rich.cells import (
        cell_len,  # most texts need no table of widths: whoever prints ASCII alone never loads it
    )

    return cell_len(text)


def fit(text: str, columns: int, *, keep_end: bool = False) -> str:
    """Text cut to a number of columns, with `..` where it was cut."""
    if width(text) <= columns:
        return text
    if columns <= 2:
        return "." * max(columns, 0)
    room = columns - 2
    count = min(4 * room, len(text))  # marks that take no column may stand between, but a few of them only
    if keep_end:
        while count and width(text[len(text) - count :]) > room:
            count -= 1
        return f"..{text[len(text) - count :]}"
    while count and width(text[:count]) > room:
        count -= 1
    return f"{text[:count]}.."


def and_more(texts: Sequence[str], most: int) -> str:
    """The first `most` texts, and how many more there are: `a, b and 3 more`."""
    tail = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + tail


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Text cut or filled with spaces to exactly a number of columns."""
    text = fit(text, columns)
    space = " " * (columns - width(text))
    return space + text if right else text + space
