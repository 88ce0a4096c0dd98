"""The directory of a trace: made before the program starts, found again later. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modtrace.errors import PathTakenError, UsageError
from modtrace.systems.open_files import open_file, replace
from modtrace.systems.other_processes import is_alive
from modtrace.text import plain
from modtrace.trace.schema import END_FILE, FORMAT, PROCESS_FILE, RUN_FILE, STOP_FILE, SUFFIX

_MAX_JSON_BYTES: Final = 1 << 20
_ROOM_BYTES: Final = {STOP_FILE: 1_024, END_FILE: 4_096}
"""At most so large are these files."""


def create(path: Path, run: Mapping[str, Any], *, process: str, force: bool = False) -> Path:
    """Make a trace directory with its `run.json`, and one process folder in it.

    Args:
        path: the directory to make; its parent must exist.
        run: what `run.json` says.
        process: name of the process folder.
        force: replace an existing trace; never anything that is not a trace.

    Returns:
        The process folder.

    Raises:
        PathTakenError: something is there, and `force` is not given.
        UsageError: the path cannot be used; nothing of the user's has been touched.
    """
    try:
        if not _make(path):
            _replace(path, force=force)
        _write_new(path / RUN_FILE, run)
        return make_process_folder(path, process)
    except OSError as error:
        raise UsageError(f"cannot write a trace at {plain(str(path))}: {error.strerror or error}") from None


def _make(path: Path) -> bool:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    return True


def _replace(path: Path, *, force: bool) -> None:
    shown = plain(str(path))
    if not force:
        raise PathTakenError(shown)
    if path.is_symlink() or not path.is_dir():
        raise UsageError(f"{shown} is not a directory; it is not replaced")
    if read_run(path) is None and any(path.iterdir()):
        raise UsageError(f"{shown} is not a modtrace trace; it is not replaced")
    writer = _living_writer(path)
    if writer is not None:
        raise UsageError(
            f"{shown} is being recorded by process {writer}, which is running; it is not replaced"
        )
    shutil.rmtree(path)
    _make(path)


def _living_writer(path: Path) -> int | None:
    """Process id of a process on this machine that has not ended its part of a trace; None where none is seen."""
    for folder in path.iterdir():
        if folder.is_dir() and not folder.is_symlink() and not (folder / END_FILE).exists():
            process = read_json(folder / PROCESS_FILE) or {}
            pid, started = process.get("pid"), process.get("started_unix_ns")
            if type(pid) is int and is_alive(pid, started if type(started) is int else None):
                return pid
    return None


def is_being_written(path: Path) -> bool:
    """True where a process on this machine has not ended its part of a trace."""
    return _living_writer(path) is not None


def copy(source: Path, target: Path, *, force: bool = False) -> None:
    """Copy a trace directory: regular files only, readable by the user alone.

    Raises:
        UsageError: the target exists (and `force` is not given) or cannot be written.
    """
    shown = plain(str(target))
    run = read_run(source)
    if run is None:
        raise UsageError(f"there is no trace at {plain(str(source))}")
    try:
        if target.resolve() == source.resolve():
            raise UsageError(f"{shown} is this very trace")
        if not _make(target):
            _replace(target, force=force)
        for folder, folders, files in os.walk(source):
            copied = target / Path(folder).relative_to(source)
            copied.mkdir(mode=0o700, exist_ok=True)
            folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
            for name in files:
                if stat.S_ISREG((Path(folder) / name).lstat().st_mode):
                    shutil.copyfile(Path(folder) / name, copied / name, follow_symlinks=False)
                    (copied / name).chmod(0o600)
    except OSError as error:
        raise UsageError(f"cannot write a trace at {shown}: {error.strerror or error}") from None


def _write_new(path: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json` whole under another name, then link it in: a reader never sees half of it."""
    data = json.dumps(run, ensure_ascii=True).encode()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = open_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        try:
            os.link(part, path, follow_symlinks=False)
        except NotImplementedError:  # a file system without hard links
            os.replace(part, path)
        except OSError as error:
            if isinstance(error, FileExistsError):
                raise
            os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def make_process_folder(path: Path, process: str) -> Path:
    """A folder of its own for this process; a restarted rank gets the next free `.1`, `.2`."""
    for again in range(1000):
        folder = path / (process if not again else f"{process}.{again}")
        if _make(folder):
            keep_room(folder)
            # Who writes here; the tracer puts more in its place.
            write_json(folder, PROCESS_FILE, {"pid": os.getpid(), "started_unix_ns": time.time_ns()})
            return folder
    raise UsageError(f"too many folders for {process} in {plain(str(path))}")


def write_json(folder: Path, name: str, data: Any) -> None:
    """Put a JSON file in place at once; a link planted under its name is replaced, not followed.

    Where the disk is full, it is written into the room that `create` has kept for it.
    """
    content = json.dumps(data, ensure_ascii=True).encode()
    part, room = folder / f".{name}.{os.getpid()}", _room(folder, name)
    try:
        _put(part, os.O_CREAT | os.O_TRUNC, content)
        replace(part, folder / name)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if not room.exists():
            raise
        _put(room, 0, content)
        replace(room, folder / name)
    with contextlib.suppress(OSError):
        os.unlink(room)


def _room(folder: Path, name: str) -> Path:
    return folder / f".{name}.room"


def _put(path: Path, flags: int, content: bytes) -> None:
    descriptor = open_file(path, os.O_WRONLY | flags)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.truncate()


def keep_room(folder: Path) -> None:
    """Take what `stopped.json` and `end.json` will need on the disk, before it is full."""
    for name, size_bytes in _ROOM_BYTES.items():
        with contextlib.suppress(OSError):
            _put(_room(folder, name), os.O_CREAT | os.O_EXCL, b" " * size_bytes)


def free_room(folder: Path) -> None:
    """Give back what was kept and is not needed."""
    for name in _ROOM_BYTES:
        with contextlib.suppress(OSError):
            os.unlink(_room(folder, name))


def read_json(path: Path) -> dict[str, Any] | None:
    """A small JSON object from a regular file; None for anything else."""
    try:
        descriptor = open_file(path, os.O_RDONLY)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JSON_BYTES:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = json.loads(file.read(_MAX_JSON_BYTES))
        except (ValueError, RecursionError):
            return None
    return data if isinstance(data, dict) else None


def read_run(path: Path) -> dict[str, Any] | None:
    """The contents of `run.json` of a trace directory; None if it is not one of ours."""
    run = read_json(path / RUN_FILE)
    return run if run is not None and run.get("format") == FORMAT else None


def denied(path: Path) -> bool:
    """True for a trace directory that this user may not read."""
    try:
        with os.scandir(path):
            pass
        os.close(open_file(path / RUN_FILE, os.O_RDONLY))
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def find_denied(directory: Path) -> list[Path]:
    """The traces of a directory, by their names, that this user may not read."""
    return [path for path in sorted(directory.iterdir()) if path.suffix == SUFFIX and denied(path)]


def find(directory: Path) -> list[Path]:
    """The traces directly in a directory, newest first; without those that this user may not read."""
    traces = []
    for path in sorted(directory.iterdir()):
        if path.suffix == SUFFIX and path.is_dir() and not path.is_symlink():
            run = read_run(path)
            if run is not None:
                started = run.get("started_unix_ns")
                traces.append((started if isinstance(started, int) else 0, path))
    return [path for _, path in sorted(traces, reverse=True)]
