"""A few lines of source around a place, if the file is there. It is read as text, never run. No Textual."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from modtrace.systems.open_files import open_file
from modtrace.text import fit, plain
from modtrace.views.tui.styles import Piece

_MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class SourcePlace:
    """A file and a line in it, as a trace names them."""

    file: str
    line: int

    @property
    def is_here(self) -> bool:
        return _read(self.file) is not None

    @property
    def text(self) -> str:
        """Safe to show."""
        return f"{plain(self.file)}:{self.line}"


def _read(file: str) -> tuple[str, ...] | None:
    """The lines of a file as it is now."""
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return None
    return _read_once(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=32)
def _read_once(file: str, mtime_ns: int, size_bytes: int) -> tuple[str, ...] | None:
    """The lines of a Python file, None where it is not there, not readable, not a regular file or not Python.

    A trace is data from a stranger: a device or a pipe that it names is not waited for.
    """
    del mtime_ns, size_bytes  # only what is read once is told apart by them
    if not file.endswith(".py") or "\0" in file:
        return None
    try:
        descriptor = open_file(file, os.O_RDONLY, follow=True)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        about = os.fstat(opened.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MAX_BYTES:
            return None
        try:
            return tuple(opened.read(_MAX_BYTES).decode("utf-8", "replace").splitlines())
        except OSError:
            return None


def around(place: SourcePlace, width: int, lines_around: int) -> list[list[Piece]]:
    """The place, and its line with up to `lines_around` behind it."""
    name = place.file.replace("\\", "/").rpartition("/")[2]
    lines: list[list[Piece]] = [[(fit(f"{plain(name)}:{place.line}", width, keep_end=True), "bold")]]
    source = _read(place.file)
    if source is None or not 0 < place.line <= len(source):
        lines.append([("(its file is not here)", "dim")])
        return lines
    chosen = source[place.line - 1 : place.line + lines_around]
    indent = min((len(text) - len(text.lstrip()) for text in chosen if text.strip()), default=0)
    for index, text in enumerate(chosen):
        mark = "> " if not index else "  "
        shown = plain(text[indent : indent + 300].expandtabs(4))
        lines.append([(fit(f"{mark}{place.line + index:<5}{shown}", width), "" if not index else "dim")])
    return lines


def editor(place: SourcePlace, environment: Mapping[str, str]) -> list[str] | None:
    """The command that opens a place in $VISUAL or $EDITOR, None where neither is set or they cannot be read."""
    command = environment.get("VISUAL") or environment.get("EDITOR")
    if not command:
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if not words:
        return None
    # An absolute path cannot be taken for an option.
    path = os.path.abspath(place.file)
    if os.path.basename(words[0]) in ("code", "codium", "cursor", "subl", "zed"):
        return [
            *words,
            *(["--goto"] if words[0].endswith(("code", "codium", "cursor")) else []),
            f"{path}:{place.line}",
        ]
    return [*words, f"+{place.line}", path]
