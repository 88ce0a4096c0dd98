"""A file that is there whole or not at all, readable by the user alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from modtrace.errors import UsageError, WriteError
from modtrace.systems.open_files import replace
from modtrace.text import plain


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file beside its place and put it there once all of it is written; what stood there is replaced.

    Args:
        path: the place.
        chunks: the pieces; an error that they raise leaves everything as it was.

    Raises:
        UsageError: no file can be made there.
        WriteError: it cannot be written to its end.
    """
    if path.is_dir():
        raise UsageError(f"cannot write {plain(str(path))}: it is a directory")
    try:
        descriptor, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {plain(str(path))}: {error.strerror or error}") from None
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            replace(Path(part), path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise WriteError(f"cannot write {plain(str(path))}: {error.strerror or error}") from None
