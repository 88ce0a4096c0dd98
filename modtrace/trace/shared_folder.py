"""The trace that all processes of one launch write to: the first of them makes it, the others find it.

They may be on several machines with one file system. Nothing is sent between them: a directory is made by one process
alone, and its `run.json` says of which launch it is. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modtrace.errors import PathTakenError, UsageError
from modtrace.trace.folder import create, find, make_process_folder, read_run
from modtrace.trace.schema import RUN_FILE, SUFFIX

WAIT_SECONDS: Final = 15.0
"""Seconds that a process waits for the one that gives the trace its name."""
_MADE_SECONDS: Final = 10.0
"""Seconds that a directory may be without its `run.json` while another process makes it."""
_CLOCKS_SECONDS: Final = 2.0
"""By how much clocks of machines, and of their boots, are expected to differ."""
_MANY: Final = 1000


@dataclass(frozen=True)
class Membership:
    """Facts that a process knows of its launch.

    key: the same in all processes of the launch, and in `run.json`.
    process: name of the process folder.
    names_it: this process gives a trace its name where the processes would come to different ones (rank 0).
    exact: no other launch ever has this key.
    since_unix: no trace that was made before is of this launch; seconds since 1970 of this machine's clock.
    restarted: this process has been started before in this launch.
    """

    key: str
    process: str
    names_it: bool
    exact: bool
    since_unix: float
    restarted: bool


def enter(
    path: Path, run: Mapping[str, Any], member: Membership, *, force: bool = False, stem: str | None = None
) -> tuple[Path, str | None]:
    """Make or find the trace of a launch, and make this process's folder in it.

    A process that is one of several is never refused: where something else stands at the path the next free name is
    taken, and where nothing can be written there, a temporary directory.

    Args:
        path: the directory to make; its parent must exist.
        run: what `run.json` says; its `launch` is that of the member.
        member: what this process knows of its launch.
        force: replace another trace at the path; done by the process that names the trace.
        stem: start of the names of traces of this script, where each process would give its own name; None where all
            were given the same path.

    Returns:
        The process folder, and what is to be said of it, if anything.
    """
    try:
        return _enter(path, run, member, force=force, stem=stem)
    except (OSError, UsageError) as error:
        aside = Path(tempfile.mkdtemp(prefix="modtrace-")) / path.name
        return create(aside, run, process=member.process), f"{error}; this process writes to {aside}"


def _enter(
    path: Path, run: Mapping[str, Any], member: Membership, *, force: bool, stem: str | None
) -> tuple[Path, str | None]:
    waits = not member.names_it and (force or (stem is not None and not member.exact))
    until = time.monotonic() + WAIT_SECONDS
    while True:
        # The name is chosen before looking: what is made there meanwhile is then seen below, or makes `create` fail.
        free = path if force and member.names_it else _free(path)
        for candidate in _candidates(path, stem):
            if _is_of(candidate, member):
                return make_process_folder(candidate, member.process), _renamed(path, candidate, stem)
        if not waits or time.monotonic() > until:
            with contextlib.suppress(PathTakenError):  # made by another meanwhile: it may be this launch's
                folder = create(free, run, process=member.process, force=force and member.names_it)
                return folder, _waited(free) if waits else _renamed(path, free, stem)
        time.sleep(0.05)


def _renamed(path: Path, used: Path, stem: str | None) -> str | None:
    if used == path or stem is not None:
        return None
    return f"{path.name} exists already and is not of this launch; the trace is {used.name}"


def _waited(used: Path) -> str:
    return f"no trace of rank 0 was seen for {WAIT_SECONDS:.0f} s; this process writes to {used.name}"


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for again in range(2, _MANY):
        yield path.with_name(f"{path.name.removesuffix(SUFFIX)}-{again}{SUFFIX}")


def _free(path: Path) -> Path:
    for candidate in _numbered(path):
        if not os.path.lexists(candidate):
            return candidate
    raise UsageError(f"too many traces are named like {path.name}")


def _candidates(path: Path, stem: str | None) -> Iterator[Path]:
    """Directories that may be the trace of this launch."""
    for candidate in _numbered(path):
        if not os.path.lexists(candidate):
            break
        yield candidate
    if stem is not None:
        yield from (trace for trace in find(path.parent) if trace.name.startswith(f"{stem}-"))


def _is_of(path: Path, member: Membership) -> bool:
    """True if a trace is that of the member's launch; waits a little for one that is just being made."""
    run = _run_of(path)
    if run is None or run.get("launch") != member.key:
        return False
    if not member.restarted and os.path.lexists(path / member.process):
        return False  # of an earlier launch by the same name: this process has just been started
    try:
        written = (path / RUN_FILE).stat().st_mtime
    except OSError:
        return False
    return member.exact or written > member.since_unix + _clock_difference(path.parent) - _CLOCKS_SECONDS


def _run_of(path: Path) -> dict[str, Any] | None:
    """The contents of a trace's `run.json`; waits for one that another process is just writing."""
    until = time.monotonic() + _MADE_SECONDS
    while time.monotonic() < until:
        waits = _may_become_one(path)  # asked before reading: what is written after the reading is awaited
        run = read_run(path)
        if run is not None or not waits:
            return run
        time.sleep(0.02)
    return read_run(path)


def _may_become_one(path: Path) -> bool:
    """True if a directory was made a moment ago and holds nothing yet but parts of `run.json`."""
    try:
        recent = path.stat().st_mtime > time.time() + _clock_difference(path.parent) - _MADE_SECONDS
        return recent and path.is_dir() and all(name.startswith(".") for name in os.listdir(path))
    except OSError:
        return False


def _clock_difference(directory: Path) -> float:
    """Seconds by which the clock of a file system is ahead of this machine's: a file server has its own."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".modtrace-") as file:
            difference = os.fstat(file.fileno()).st_mtime - time.time()
    except OSError:
        return 0.0
    return difference if abs(difference) > 1 else 0.0
