"""Files as each system opens, replaces and names them. Standard library only."""

from __future__ import annotations

import errno
import os
import re
import shlex
import time
from pathlib import Path
from typing import Final

from modtrace.systems import WINDOWS


def _flags(*names: str) -> int:
    """Flags of `os.open` by their names; one that this system lacks is left out."""
    flags = 0
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


_ALWAYS: Final = _flags("O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
"""Without O_BINARY Windows writes each `\\n` as two bytes."""
_NO_FOLLOW: Final = _flags("O_NOFOLLOW")
_NO_WAIT: Final = _flags("O_NONBLOCK")
_WRITES: Final = os.O_WRONLY | os.O_RDWR
_TRIES: Final = 100
_TRY_SECONDS: Final = 0.01


def open_file(path: str | os.PathLike[str], flags: int, *, follow: bool = False) -> int:
    """Open a file as bytes, for this process alone; one that is made is the user's alone where the system has that.

    Args:
        path: the file.
        flags: of `os.open`: O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, which every system has.
        follow: open what a symbolic link at the path leads to.

    Returns:
        The descriptor. Reading from a pipe does not wait for its writer.

    Raises:
        OSError: it cannot be opened, or is a link that is not to be followed.
    """
    if not flags & _WRITES:
        flags |= _NO_WAIT
    if not follow:
        if not _NO_FOLLOW and os.path.islink(path):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
        flags |= _NO_FOLLOW
    return os.open(path, flags | _ALWAYS, 0o600)


def read_at(descriptor: int, count: int, position: int) -> bytes:
    """At most `count` bytes from a position of a file; less only at its end. One thread at a time where pread lacks."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, count)


def replace(source: Path, target: Path) -> None:
    """Put a file in the place of another at once.

    Windows refuses while somebody reads the other: it is tried for a second.

    Raises:
        OSError: it cannot be done.
    """
    for _ in range(_TRIES if WINDOWS else 0):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(_TRY_SECONDS)
    os.replace(source, target)


def path_from_here(path: Path) -> str:
    """A path as it is shown: from the working directory where it lies in it or beside it, else whole."""
    try:
        return os.path.relpath(path)
    except (OSError, ValueError):  # another drive; or the directory was removed
        return str(path)


_FORBIDDEN: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES: Final = re.compile(r"(?i)\A(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?=\.|\Z)")


def portable_name(name: str) -> str:
    """A file name that every system takes, so that the file can be copied there: `a:b` is `a_b`, `nul` is `nul_`."""
    name = _FORBIDDEN.sub("_", name).rstrip(" .")
    return _DEVICES.sub(r"\1_", name) or "_"


def is_path(word: str) -> bool:
    """True if a word names a file in a directory: it has a separator of this system in it."""
    return os.sep in word or (os.altsep is not None and os.altsep in word)


def command_words(text: str) -> list[str]:
    """The words of a command line. In Windows a backslash stands between folders and is kept.

    Raises:
        ValueError: a quotation is not closed.
    """
    if not WINDOWS:
        return shlex.split(text)
    return [
        word[1:-1] if word[:1] in "\"'" and word[:1] == word[-1:] else word
        for word in shlex.split(text, posix=False)
    ]


def as_main_file(path: str) -> str:
    """The `__file__` that python gives a script that is started by a path."""
    if WINDOWS:
        return os.path.abspath(path)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path.removeprefix("./"))


NOT_PRIVATE: Final = (
    "On Windows a trace has the rights of the folder it is in: others may be able to read it."
)


def keeps_others_out() -> bool:
    """True if files and folders made with 0600 and 0700 cannot be read by others; else NOT_PRIVATE is to be said."""
    return not WINDOWS
