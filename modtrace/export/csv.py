"""CSV: one line a call, as RFC 4180 has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from modtrace.export.lines import Texts, content, digits, joined, parts
from modtrace.export.target import Tick, silent
from modtrace.text import cell, plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import CALL_COLUMNS

_NEEDS_QUOTES: Final = re.compile(r'[",\r\n]|^ | $|^$')


def csv(stored: Stored, tick: Tick = silent, *, raw: bool = False) -> Iterator[bytes]:
    """The calls of a trace as CSV: UTF-8, a header, lines that end in CR LF, nothing for null and `""` for no text.

    Control characters are escapes; a text that a spreadsheet would take for a formula gets a `'` in front.

    Args:
        stored: the trace.
        tick: told of the progress.
        raw: leave texts that look like formulas as they are, for programs to read.
    """
    texts = Texts(_field(raw))
    yield (",".join(("call", *CALL_COLUMNS)) + "\r\n").encode()
    for part in parts(stored, tick):
        columns = [texts.of(part, name) for name in CALL_COLUMNS]
        yield content(joined(joined(digits(part.index.to_numpy()), *columns, between=","), "\r\n"))


def _field(raw: bool) -> Callable[[str], str]:
    def field(text: str) -> str:
        text = plain(text) if raw else cell(plain(text))
        return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text

    return field
