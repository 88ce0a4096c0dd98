"""The output of a script as lines of text: carriage returns, cursor movements and escape sequences taken out of it.

Nothing of it reaches the terminal as it is. Lines may still hold other odd characters: `text.plain` is for those.

A terminal emulator such as pyte keeps a cell a character, which is 50 to 400 times slower (1.1 to 1.4 s a 256 KiB) and
takes 85 MB for 5,000 lines, and it breaks lines at a width that this does not have; colors, which it knows, are not
shown here.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Final

from modtrace.systems.open_files import open_file, read_at
from modtrace.text import plain
from modtrace.trace.schema import OUTPUT_FILE

LINES: Final = 5000
COLUMNS: Final = 2000
"""Characters kept of a line."""
AT_ONCE_BYTES: Final = 256 << 10
"""Bytes read in one look; of more only the end is shown."""
_SEQUENCE: Final = re.compile(
    r"\x1b\[([0-?]*)[ -/]*([@-~])"  # CSI: parameters, final character
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # two characters or so
    r"|[\x00-\x1a\x1c-\x1f]"
    r"|[^\x00-\x1f]+"
)
_LONGEST: Final = 4096
"""A sequence that has not ended by then is none."""


class Scrollback:
    """The last lines that a terminal would show, as they are after overwriting."""

    def __init__(self) -> None:
        self._rows: deque[str] = deque([""], maxlen=LINES)
        self._up = 0
        self._column = 0
        self._pending = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.changed = 0

    def __len__(self) -> int:
        return len(self._rows) - (not self._rows[-1])

    def last(self, count: int, above: int = 0) -> list[str]:
        """At most `count` lines, safe to show, ending `above` lines before the last."""
        end = max(len(self) - above, 0)
        return [plain(row) for row in islice(self._rows, max(end - count, 0), end)]

    def feed(self, data: bytes) -> None:
        """Take in what was printed; a sequence may be cut anywhere."""
        self.changed += 1
        text = self._pending + self._decoder.decode(data)
        position = 0
        while position < len(text):
            match = _SEQUENCE.match(text, position)
            if match is None:
                if len(text) - position < _LONGEST:
                    break
                position += 1  # an escape character by itself
                continue
            position = match.end()
            if match[2]:
                self._move(match[2], match[1])
            elif match[0][0] != "\x1b":
                self._put(match[0])
        self._pending = text[position:]

    def _put(self, text: str) -> None:
        if text == "\n":
            self._down()
        elif text == "\r":
            self._column = 0
        elif text == "\b":
            self._column = max(self._column - 1, 0)
        elif text == "\t":
            self._write(" " * (8 - self._column % 8))
        elif text >= " ":
            self._write(text)

    def _write(self, text: str) -> None:
        row = self._rows[-1 - self._up]
        row = row.ljust(self._column) if len(row) < self._column else row
        end = self._column + len(text)
        self._rows[-1 - self._up] = (row[: self._column] + text + row[end:])[:COLUMNS]
        self._column = min(end, COLUMNS)

    def _down(self) -> None:
        self._column = 0
        if self._up:
            self._up -= 1
        else:
            self._rows.append("")

    def _move(self, final: str, parameters: str) -> None:
        first = parameters.partition(";")[0]
        number = int(first) if first.isdigit() and len(first) < 6 else 0
        if final == "A":
            self._up = min(self._up + max(number, 1), len(self._rows) - 1)
        elif final == "B":
            self._up = max(self._up - max(number, 1), 0)
        elif final == "C":
            self._column = min(self._column + max(number, 1), COLUMNS)
        elif final == "D":
            self._column = max(self._column - max(number, 1), 0)
        elif final == "G":
            self._column = min(max(number - 1, 0), COLUMNS)
        elif final == "K":
            row = self._rows[-1 - self._up]
            erased = {0: row[: self._column], 1: " " * self._column + row[self._column :]}.get(number, "")
            self._rows[-1 - self._up] = erased


class OutputFile:
    """A file of output that grows, read into a scrollback. It may be moved, replaced, or not be there."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.lines = Scrollback()
        self.fresh = b""
        """The bytes that the last look has read."""
        self._path = path
        self._file = descriptor
        self._position = 0

    def look(self) -> bool:
        """Read what has been added; whether there was anything."""
        self.fresh = b""
        if self._file is None:
            self._open()
        if self._file is None:
            return False
        try:
            size = os.fstat(self._file).st_size
            changed = size > self._position
            if size - self._position > AT_ONCE_BYTES:
                skipped = size - self._position - AT_ONCE_BYTES
                self._position += skipped
                self.lines.feed(
                    f"\r\n[{skipped:,} bytes are not shown here; they are in {OUTPUT_FILE}]\r\n".encode()
                )
            if changed:
                self.fresh = read_at(self._file, AT_ONCE_BYTES, self._position)
                self._position += len(self.fresh)
                self.lines.feed(self.fresh)
            elif self._turned():
                os.close(self._file)
                self._file, self._position = None, 0
        except OSError:
            return False
        return changed

    def _turned(self) -> bool:
        """True where another file has taken the place of the one that is read."""
        assert self._file is not None
        try:
            return os.stat(self._path).st_ino != os.fstat(self._file).st_ino
        except OSError:
            return False

    def _open(self) -> None:
        try:
            self._file = open_file(self._path, os.O_RDONLY)
        except OSError:
            self._file = None
