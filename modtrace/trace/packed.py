"""A trace directory as bytes by file, as pickled traces carry it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from modtrace.errors import TraceError
from modtrace.systems.open_files import open_file
from modtrace.text import plain


def packed(path: Path) -> dict[str, bytes]:
    """The content of each regular file of a trace, by its path below the directory with `/` between names.

    Raises:
        TraceError: a file cannot be read.
    """
    files: dict[str, bytes] = {}
    try:
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
            for name in names:
                file = Path(folder) / name
                if stat.S_ISREG(file.lstat().st_mode):
                    files[file.relative_to(path).as_posix()] = file.read_bytes()
    except OSError as error:
        raise TraceError(f"cannot read {plain(os.fspath(path))}: {error.strerror or error}") from None
    return files


def unpack(files: Mapping[str, bytes], path: Path) -> None:
    """Write the files below a directory that is there, each readable by the user alone.

    Raises:
        TraceError: a name leads out of the directory.
    """
    for name, content in files.items():
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or os.sep in name.replace("/", ""):
            raise TraceError(f"{plain(name)} is no name of a file of a trace")
        file = path.joinpath(*parts)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = open_file(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
