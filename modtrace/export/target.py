"""Where an export goes: a file that is there whole or not at all, or a stream."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from modtrace.errors import PathTakenError, UsageError
from modtrace.text import plain
from modtrace.trace.atomic_file import write_whole

Target = str | os.PathLike[str] | IO[Any]
"""A path, or a stream of text or bytes."""
Tick = Callable[[int, int], None]
"""Told how many rows are done, and of how many."""


def silent(done: int, rows: int) -> None:
    """A Tick that shows nothing."""


def write(chunks: Iterable[bytes], target: Target, *, force: bool = False) -> None:
    """Write pieces of UTF-8 or binary data as they are made.

    Args:
        chunks: the pieces.
        target: a path, whose file is readable by the user alone; or a stream. One of text should not change line ends.
        force: replace a file that is there.

    Raises:
        UsageError: the path is taken, or cannot be written.
    """
    if not isinstance(target, (str, os.PathLike)):
        as_text = hasattr(target, "encoding")
        for chunk in chunks:
            target.write(bytes(chunk).decode() if as_text else chunk)
        return
    path = Path(target)
    refuse_existing(path, force=force)

    def checked() -> Iterator[bytes]:
        yield from chunks
        refuse_existing(path, force=force)  # it may have come in the meantime

    write_whole(path, checked())


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise where a path is taken, but for a regular file that `force` replaces.

    Raises:
        UsageError: it is.
    """
    try:
        status = path.lstat()
    except OSError:
        return  # not there; whether it can be written shows when it is
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{plain(str(path))} is not a regular file; it is not replaced")
    if not force:
        raise PathTakenError(plain(str(path)))
