"""Opens a trace: what is whole of it, checked, with one numbering over all its processes and threads.

A trace is data from a stranger. Every size is checked before it is used (`framing`), every key and range before it is
followed (`merge`); what was cut or damaged is left out and said in `notes`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from modtrace._version import __version__
from modtrace.errors import TraceError, UsageError
from modtrace.systems.other_processes import is_alive
from modtrace.text import and_more, plain
from modtrace.trace import merge, side_tables
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.arrow_arrays import table_of
from modtrace.trace.batch_columns import values_of
from modtrace.trace.call_table import CallTable
from modtrace.trace.folder import denied, read_json, read_run
from modtrace.trace.redaction import blanked
from modtrace.trace.schema import (
    END_FILE,
    LATEST_SUFFIX,
    PROCESS_FILE,
    RUN_FILE,
    STOP_FILE,
    STREAM_SUFFIX,
    TABLES,
    VERSION,
)
from modtrace.trace.stream_reader import Budget, Damage, ForeignSchema, read_batches
from modtrace.trace.table_keys import last_of_each
from modtrace.trace.validate import check

MAX_PROCESSES: Final = 65_536
MAX_MEMORY_BYTES: Final = 2_000_000_000
MANY_NEW: Final = 6
"""So many unknown tables and columns are named."""
_MANY_PARTS: Final = 64
_NS_LIMIT: Final = 1 << 56
_UNIX_LIMIT: Final = 1 << 62


@dataclass(frozen=True)
class Run:
    """The contents of `run.json`."""

    modtrace: str
    started_unix_ns: int | None
    script: str | None
    argv: tuple[str, ...]
    python: str | None
    platform: str | None


@dataclass(frozen=True)
class End:
    """The contents of `end.json` of a process that came to its end."""

    ended_ns: int
    exit_status: int | None
    exception: str | None
    script_start_ns: int | None
    torch_imported: bool | None
    cost_ns: Mapping[str, int]
    """Cost of tracing in nanoseconds by its parts: `calls`, `flush`, and each recorder by its name."""
    children: int | None
    children_cpu_ns: int | None
    rows: dict[str, int]
    devices: dict[str, str]
    gaps: tuple[str, ...]


@dataclass(frozen=True)
class Stop:
    """Reason for which recording ended before the program did: `cause` in a few words, `reason` in a sentence.

    stopped_ns: when it ended.
    recorded_ns: all that had happened up to this moment is in the trace, and nothing of what came later.
    """

    stopped_ns: int
    recorded_ns: int
    cause: str
    reason: str


@dataclass(frozen=True)
class Process:
    """One process folder. Times are nanoseconds since the start of recording in that process."""

    folder: str
    rank: int
    world_size: int | None
    pid: int | None
    started_unix_ns: int | None
    clock: str | None
    """The same for processes that share one wall clock; None where that is not known."""
    torch: str | None
    devices: tuple[str, ...]
    recursion_limit: int | None
    engine: str | None
    options: Mapping[str, str] | None
    """Those of recorders that differ from their defaults, by argument; None where they are not known."""
    call_cost_ns: int | None
    outside_cost_ns: int | None
    start_cost_ns: int | None
    end: End | None
    stop: Stop | None
    last_written_ns: int
    last_call_ns: int

    @property
    def wall_ns(self) -> int:
        """From the start of recording to its end: of the program, or of what is known where that is earlier."""
        if self.stop is not None:
            return max(self.stop.recorded_ns, self.last_call_ns)
        ended_ns = self.end.ended_ns if self.end is not None else self.last_written_ns
        return max(ended_ns, self.last_call_ns)

    @property
    def is_alive(self) -> bool:
        """True if it can be seen to run on this machine, its recording not at its end."""
        return self.end is None and self.pid is not None and is_alive(self.pid, self.started_unix_ns)


class Stored:
    """A trace on disk. Tables are loaded and checked when they are asked for, and kept.

    `owner` is what must live as long as this: the directory of a trace that is not saved goes with it. With `folder` it
    is the process of that folder alone, of the trace `job`. `derived` holds what was worked out of it, see `once`; a
    trace that has grown is opened anew, and begins with none of it.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_memory_bytes: int | None = None,
        owner: object | None = None,
        folder: Path | None = None,
        job: Stored | None = None,
    ) -> None:
        self.path = path
        self._owner = owner
        self._job = job
        self.notes: list[str] = []
        self.derived: dict[tuple[Any, ...], Any] = {}
        self.run = run_of(path)
        self._folders = folders_of(path) if folder is None else [folder]
        if not self._folders:
            raise TraceError(f"{plain(os.fspath(path))} holds no process: its folder rank-0 is not there")
        self._budget = Budget(MAX_MEMORY_BYTES if max_memory_bytes is None else max_memory_bytes)
        self._raw: dict[str, list[pa.Table]] = {}
        self._last_ns = [0] * len(self._folders)
        self._tables: dict[str, pa.Table] = {}
        self._calls: CallTable | None = None
        self._call_count = -1
        self._damaged: set[int] = set()
        self._unknown: dict[str, set[str]] = {}

    @property
    def max_memory_bytes(self) -> int:
        """Bytes that its tables may take in memory."""
        return self._budget.most_bytes

    def folders(self) -> list[Path]:
        """The process folders, by rank; their tables need not be read for it."""
        return list(self._folders)

    def alone(self, folder: Path) -> Stored:
        """The process of one folder as a trace of its own: it can be let go before the next is opened. Process 0 of it
        is that of the folder; keys count from 0.
        """
        if self._folders == [folder]:
            return self
        return Stored(
            self.path,
            max_memory_bytes=self.max_memory_bytes,
            owner=self._owner,
            folder=folder,
            job=self._job or self,
        )

    @cached_property
    def processes(self) -> tuple[Process, ...]:
        """The processes of the trace, by rank."""
        self._read("calls")
        self._read("open")
        processes = tuple(
            process_of(folder, self._last_ns[i], self._latest_ns(i)) for i, folder in enumerate(self._folders)
        )
        for index, process in enumerate(processes):
            if process.end is None:
                self._note(_no_end(process, len(self._read("calls")[index])))
            elif process.stop is None and "calls" in process.end.rows and index not in self._damaged:
                short = process.end.rows["calls"] - len(self._read("calls")[index])
                if short > 0:
                    self._damaged.add(index)
                    self._note(f"{process.folder}: {short:,} calls that were written are missing")
        return processes

    def whole(self) -> Stored:
        """The trace with all its processes, also where this is one of them alone."""
        return self._job or self

    @cached_property
    def process_count(self) -> int:
        """The processes of the trace on disk, also where this is one of them alone."""
        return len(self.whole().folders())

    def unmerged(self, table: str) -> pa.Table:
        """A table of a trace of one process as it was written, its cells checked; no other table is read for it.

        Raises:
            TraceError: it cannot be read, or a cell cannot be true.
        """
        (rows,) = self._read(table)
        return rows

    def process_without_calls(self) -> Process:
        """The process of a trace of one, for which no calls are read: when it was last written to, and its last call,
        are as far as other tables that were read tell.
        """
        return process_of(self._folders[0], self._last_ns[0])

    def _latest_ns(self, index: int) -> int:
        """When the last call of a process ended, or began where its end is not known."""
        latest = 0
        for rows in (self._read("calls")[index], self._read("open")[index]):
            if len(rows):
                end = values_of(rows.column("start_ns"))
                if "duration_ns" in rows.schema.names:
                    end = end + values_of(rows.column("duration_ns"))
                latest = max(latest, int(end.max()))
        return latest

    @property
    def is_damaged(self) -> bool:
        """True if parts of a file are known to be lost."""
        return bool(self.processes) and bool(self._damaged)

    def table(self, name: str) -> pa.Table:
        """A table of schema.TABLES over all processes, keys renumbered to be one numbering.

        `calls` is sorted by call, has the columns thread, rank and process too, and holds the calls that never ended.
        It is made of the property of that name each time.

        Raises:
            TraceError: the rows contradict themselves.
        """
        if name not in TABLES or name == "open":
            raise KeyError(name)
        if name == "calls":
            return self.calls.to_arrow()
        if name not in self._tables:
            self._load()
        return self._tables[name]

    @property
    def calls(self) -> CallTable:
        """The calls, as `table("calls")` would have them.

        Raises:
            TraceError: the rows contradict themselves.
        """
        if self._calls is None:
            self._load()
        assert self._calls is not None
        return self._calls

    @property
    def call_count(self) -> int:
        """The number of calls; known also where these have been let go of."""
        if self._call_count < 0:
            self._load()
        return self._call_count

    def release(self) -> None:
        """Let go of the calls, the largest table, of which an analysis has a copy. Later they are read anew."""
        self._calls = None
        self._budget.taken_bytes = 0

    def _load(self) -> None:
        processes = self.processes
        raw = {table: self._read(table) for table in TABLES}
        self._raw.clear()  # half of what a large trace takes: `merge` lets go of each part that it has taken over
        raw["gaps"] = [_with_gaps(rows, about) for rows, about in zip(raw["gaps"], processes, strict=True)]
        ranks = [process.rank for process in processes]
        try:
            merged, self._calls, notes = merge.merge(raw, ranks, damaged=bool(self._damaged))
        except MemoryError:
            raise TraceError("the trace does not fit into memory") from None
        self._call_count = len(self._calls)
        for note in notes:
            self._note(note)
        newer = _newer(self._folders, self._unknown)
        if newer:
            self._note(
                f"written by modtrace {self.run.modtrace}, which records more than this version shows: {newer}"
            )
        self._tables.update(merged)
        pa.default_memory_pool().release_unused()

    def _read(self, table: str) -> list[pa.Table]:
        if table not in self._raw:
            self._raw[table] = [self._read_one(i, folder, table) for i, folder in enumerate(self._folders)]
        return self._raw[table]

    def _read_one(self, index: int, folder: Path, table: str) -> pa.Table:
        rows = self._read_file(index, folder, table, STREAM_SUFFIX)
        if table not in ("rollups", "thinned", "collectives"):
            return rows
        latest = self._read_file(index, folder, table, LATEST_SUFFIX)
        if table == "collectives":
            return last_of_each(pa.concat_tables([latest, rows]), "collective")
        return side_tables.with_latest(rows, latest)

    def _read_file(self, index: int, folder: Path, table: str, suffix: str) -> pa.Table:
        batches = []
        name = f"{folder.name}/{table}{suffix}"
        try:
            for batch in read_batches(folder / f"{table}{suffix}", table, self._budget):
                batches.append(batch.rows)
                if batch.unknown:
                    self._unknown.setdefault(table, set()).update(batch.unknown)
                if 0 <= batch.at_ns < _NS_LIMIT:
                    self._last_ns[index] = max(self._last_ns[index], batch.at_ns)
        except Damage as damage:
            self._damaged.add(index)
            row_count = sum(rows.num_rows for rows in batches)
            self._note(f"{plain(name)} {damage}; its first {row_count:,} rows are used")
        except ForeignSchema:
            raise TraceError(foreign_columns(plain(name), self.run.modtrace)) from None
        except MemoryError:
            raise TraceError(f"{plain(name)} does not fit into memory") from None
        rows = pa.Table.from_batches(batches, schema=arrow_schema(table))
        check(table, rows, plain(name))
        return rows

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _newer(folders: list[Path], columns: dict[str, set[str]]) -> str:
    """Tables and columns of a trace that this version does not have, for people; "" for none."""
    streams = {path.stem for folder in folders for path in folder.glob(f"*{STREAM_SUFFIX}")} - set(TABLES)
    names = [f"table {plain(name, 60)}" for name in sorted(streams)]
    names += [f"{table}.{plain(name, 60)}" for table in columns for name in sorted(columns[table])]
    return and_more(names, MANY_NEW)


def foreign_columns(name: str, writer: str) -> str:
    """Reason for which a file cannot be read whose columns are not those of its format."""
    return (
        f"{name} has columns that do not belong to format {VERSION}; modtrace {writer} wrote it, this is "
        f"{__version__}. Open it with modtrace {writer}, or record it again"
    )


def _no_end(process: Process, calls: int) -> str:
    """A note on a process that left no `end.json`."""
    if process.is_alive:
        return f"{process.folder} is still running; what has been written by now is shown"
    if not calls and process.stop is None:
        return f"{process.folder} ended before anything was written"
    return f"{process.folder} did not come to its end; what was written by then is shown"


def _with_gaps(rows: pa.Table, process: Process) -> pa.Table:
    """The gaps of a process, those too that could not be written among them: the disk was full."""
    known = set(rows.column("reason").to_pylist())
    end, stop = process.end, process.stop
    reasons = [*(end.gaps if end is not None else ()), *([stop.reason] if stop is not None else [])]
    new = [reason for reason in dict.fromkeys(reasons) if reason not in known]
    if not new:
        return rows
    at_ns = stop.stopped_ns if stop is not None else process.wall_ns
    columns = {"at_ns": [at_ns] * len(new), "reason": new, "lost_calls": [None] * len(new)}
    return pa.concat_tables([rows, table_of(columns, rows.schema)])


def folder_of_rank(folders: Sequence[Path], rank: int) -> Path:
    """The folder of the last start of a rank.

    Raises:
        UsageError: there is none.
    """
    ranks = {process_of(folder, 0).rank: folder for folder in folders}
    if rank not in ranks:
        raise UsageError(
            f"rank {rank} is not in the trace: it has {len(ranks)}, from {min(ranks)} to {max(ranks)}"
        )
    return ranks[rank]


def open_trace(
    path: Path | str, *, max_memory_bytes: int | None = None, owner: object | None = None
) -> Stored:
    """Open a trace directory.

    Args:
        path: the directory.
        max_memory_bytes: what its tables may take when they are unpacked, MAX_MEMORY_BYTES where nothing is said.
        owner: what must live as long as the trace is used.

    Raises:
        TraceError: there is no trace, or none that this version can read.
    """
    return Stored(Path(path), max_memory_bytes=max_memory_bytes, owner=owner)


def run_of(path: Path) -> Run:
    """The contents of `run.json`.

    Raises:
        TraceError: there is no trace, or none that this version can read.
    """
    shown = plain(os.fspath(path))
    if denied(path):
        raise TraceError(f"{shown} cannot be read: permission denied")
    if not path.exists():
        raise TraceError(f"there is no trace at {shown}")
    if not path.is_dir():
        raise TraceError(f"{shown} is not a trace: a trace is a directory")
    data = read_run(path)
    if data is None:
        raise TraceError(f"{shown} is not a trace: it has no readable {RUN_FILE} of modtrace")
    version = data.get("schema")
    writer = _text(data, "modtrace") or "?"
    if version != VERSION:
        shown_version = version if type(version) is int else "?"
        raise TraceError(
            f"{shown} has format {shown_version}, written by modtrace {writer}; this is modtrace {__version__}, which "
            f"reads format {VERSION}. Open it with modtrace {writer}, or record it again"
        )
    argv = data.get("argv")
    return Run(
        modtrace=writer,
        started_unix_ns=_count(data, "started_unix_ns", _UNIX_LIMIT),
        script=_text(data, "script"),
        argv=tuple(plain(a, 2000) for a in blanked([a for a in argv[:1000] if isinstance(a, str)]))
        if isinstance(argv, list)
        else (),
        python=_text(data, "python"),
        platform=_text(data, "platform"),
    )


def folders_of(path: Path) -> list[Path]:
    """The process folders of a trace, by rank."""

    def order(folder: Path) -> tuple[int, str]:
        return _number(folder.name.partition("-")[2], 1 << 30), folder.name

    folders = [entry for entry in path.iterdir() if entry.name.startswith("rank-") and _is_folder(entry)]
    if len(folders) > MAX_PROCESSES:
        raise TraceError(f"{plain(str(path))} has more than {MAX_PROCESSES:,} processes")
    return sorted(folders, key=order)


def _number(text: str, otherwise: int) -> int:
    """A number below 2**31 in ASCII digits; `otherwise` for another text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def process_of(folder: Path, last_ns: int, last_call_ns: int = 0) -> Process:
    """The facts in a process folder about its process.

    Args:
        folder: the folder.
        last_ns: when it was last written to.
        last_call_ns: when the last call in it ended.
    """
    data = read_json(folder / PROCESS_FILE) or {}
    name = folder.name.removeprefix("rank-").split(".")[0]
    rank = _count(data, "rank")
    cost = data.get("cost")
    cost = cost if isinstance(cost, dict) else {}
    devices = data.get("devices")
    return Process(
        folder=plain(folder.name, 200),
        rank=rank if rank is not None and rank < 1 << 31 else _number(name, 0),
        world_size=_count(data, "world_size"),
        pid=_count(data, "pid"),
        started_unix_ns=_count(data, "started_unix_ns", _UNIX_LIMIT),
        clock=_text(data, "clock"),
        torch=_text(data, "torch"),
        devices=tuple(plain(d, 200) for d in devices[:64] if isinstance(d, str))
        if isinstance(devices, list)
        else (),
        recursion_limit=_count(data, "recursion_limit"),
        engine=_text(data, "engine"),
        options=_options(data.get("options")),
        call_cost_ns=_count(cost, "call_ns"),
        outside_cost_ns=_count(cost, "outside_ns"),
        start_cost_ns=_count(cost, "start_ns"),
        end=_end(folder),
        stop=_stop(folder),
        last_written_ns=last_ns,
        last_call_ns=last_call_ns,
    )


def _stop(folder: Path) -> Stop | None:
    """Reason for which the recording of a process ended early, from `stopped.json` or else `end.json`; None where it
    did not.
    """
    data = read_json(folder / STOP_FILE)
    if data is None:
        data = (read_json(folder / END_FILE) or {}).get("stopped")
    if not isinstance(data, dict):
        return None
    stopped, recorded = _count(data, "stopped_ns"), _count(data, "recorded_ns")
    reason = _text(data, "reason") or "recording ended early"
    cause = plain(_text(data, "cause") or reason, 80)
    if stopped is None or recorded is None or recorded > stopped:
        return None
    return Stop(stopped, recorded, cause, plain(reason, 400))


def _end(folder: Path) -> End | None:
    data = read_json(folder / END_FILE)
    ended = _count(data, "ended_ns") if data is not None else None
    if data is None or ended is None:
        return None
    children = data.get("children")
    children = children if isinstance(children, dict) else {}
    rows, devices, gaps = data.get("rows"), data.get("devices"), data.get("gaps")
    imported = data.get("torch_imported")
    status = data.get("exit_status")
    return End(
        ended_ns=ended,
        exit_status=status if type(status) is int and abs(status) < 1 << 31 else None,
        exception=_text(data, "exception"),
        script_start_ns=_count(data, "script_start_ns"),
        torch_imported=imported if type(imported) is bool else None,
        cost_ns=_costs(data.get("cost")),
        children=_count(children, "processes"),
        children_cpu_ns=_count(children, "cpu_ns"),
        rows={k: v for k, v in rows.items() if type(v) is int and 0 <= v < _NS_LIMIT and k in TABLES}
        if isinstance(rows, dict)
        else {},
        devices={plain(k, 40): plain(v, 200) for k, v in list(devices.items())[:64] if isinstance(v, str)}
        if isinstance(devices, dict)
        else {},
        gaps=tuple(plain(gap, 400) for gap in gaps[:64] if isinstance(gap, str))
        if isinstance(gaps, list)
        else (),
    )


def _options(data: Any) -> dict[str, str] | None:
    if not isinstance(data, dict):
        return None
    texts = [(key, value) for key, value in list(data.items())[:_MANY_PARTS] if isinstance(value, str)]
    return {plain(key, 80): plain(value, 200) for key, value in texts}


def _costs(data: Any) -> dict[str, int]:
    """Nanoseconds by part, from keys that end in `_ns`."""
    cost = data if isinstance(data, dict) else {}
    known = {key: _count(cost, key) for key in list(cost)[:_MANY_PARTS] if key.endswith("_ns")}
    return {
        plain(key.removesuffix("_ns"), 80): spent_ns
        for key, spent_ns in known.items()
        if spent_ns is not None
    }


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    return plain(value, 2000) if isinstance(value, str) else None


def _count(data: dict[str, Any], key: str, limit: int = _NS_LIMIT) -> int | None:
    value = data.get(key)
    return value if type(value) is int and 0 <= value < limit else None
