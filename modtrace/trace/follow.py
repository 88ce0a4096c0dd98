"""Reads a trace while it is written: each time only what has been added, in whole batches.

Every file is opened anew each time, which makes a network file system look again. A batch that is not whole yet is
waited for. A file that was replaced or became shorter is begun again. Of calls only what each says by itself is
checked, and those that cannot be true are left out; whether they contradict each other is not: not all are there yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from modtrace.errors import TraceError
from modtrace.text import plain
from modtrace.trace.batch_columns import codes, integers, joined
from modtrace.trace.reader import MAX_MEMORY_BYTES, Process, process_of
from modtrace.trace.schema import END_FILE, KINDS, PROCESS_FILE, STOP_FILE, STREAM_SUFFIX, UNFINISHED
from modtrace.trace.stream_reader import Batch, Budget, Cut, Damage, ForeignSchema, messages, open_stream
from modtrace.trace.table_keys import Bools
from modtrace.trace.validate import check
from modtrace.units import plural

Columns = dict[str, Any]

PATIENCE: Final = 8
"""Number of times that the bytes behind a batch may be unreadable before the file counts as damaged: a network file
system may show a file's new length before its new bytes.
"""
MANY_ROWS: Final = 100_000
"""Of calls: a reading stops behind the batch with which it has so many."""
LEFT_OUT: Final = (
    "{} left out, which cannot be true; what calls say of each other is checked when the trace is opened"
)
_LIMIT: Final = 1 << 62
_MANY_STEPS: Final = 1 << 24
_KEYS: Final = ("module", "root", "label", "outputs")
_FOLLOWED: Final = (
    "calls", "open", "labels", "signatures", "names", "modules", "gaps", "watched", "compilations", "thinned",
)  # fmt: skip
_PLAIN: Final = ("call", "parent", "last_call", "kind", "depth", "start_ns", "status")
_NULLABLE: Final = ("duration_ns", "self_ns")


class ReplacedFiles(Exception):
    """The files are not those that were read before."""


@dataclass
class AddedRows:
    """Rows that a reading has added. Keys are those of the process; `calls` and `opened` are columns of schema.TABLES
    as arrays: -1 for no key, and `duration_ns` and `self_ns` -1 where they are not known. `watched` and `compiled` say
    when memory or kernels were watched and when torch compiled: (from, to) in nanoseconds since the start of recording;
    `thinned` which steps were left out: (how many, from, to, of how many steps one was written).
    """

    modules: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    variables: dict[int, str] = field(default_factory=dict)
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    signatures: dict[int, str] = field(default_factory=dict)
    labels: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)
    watched: list[tuple[int, int]] = field(default_factory=list)
    compiled: list[tuple[int, int]] = field(default_factory=list)
    thinned: list[tuple[int, int, int, int]] = field(default_factory=list)
    opened: Columns | None = None
    calls: Columns | None = None


class FollowedStream:
    """One file of a process folder, and how far it has been read."""

    def __init__(self, folder: Path, table: str) -> None:
        self.path = folder / f"{table}{STREAM_SUFFIX}"
        self.table = table
        self.damage: str | None = None
        self.last_ns = 0
        self.behind_bytes = 0
        self._position = 0
        self._number = 0
        self._identity: tuple[int, int] | None = None
        self._tries = 0
        # Of calls nothing is kept but sums.
        self._budget = None if table in ("calls", "open") else Budget(MAX_MEMORY_BYTES)

    def size(self) -> int:
        """Bytes of the file now, 0 where there is none.

        Raises:
            Replaced: it is another one than before.
        """
        opened = open_stream(self.path)
        if opened is None:
            return 0
        os.close(opened[0])
        self._same(opened[1])
        return opened[1].st_size

    def read(self, *, size: int | None = None, rows: int | None = None) -> list[Batch]:
        """The batches that have been added.

        Args:
            size: read no further than this byte.
            rows: stop behind the batch with which there are so many.

        Raises:
            Replaced: it is another file than before.
            TraceError: it has columns of another version.
        """
        batches: list[Batch] = []
        if self.damage is not None and self._tries > PATIENCE:
            return batches
        opened = None
        try:
            opened = open_stream(self.path)
            if opened is None:
                return batches
            status = opened[1]
            self._same(status)
            end = status.st_size if size is None else min(size, status.st_size)
            stopped = self._read(opened[0], end, rows, batches)
            self.behind_bytes = status.st_size - self._position if stopped else 0
            self.damage, self._tries = None, 0
        except Cut:
            self.behind_bytes = 0
        except Damage as damage:
            self._tries = 1 if batches else self._tries + 1
            if self._tries > PATIENCE:
                self.damage = f"{plain(self.path.parent.name, 200)}/{self.path.name} {damage}"
        except ForeignSchema:
            name = f"{plain(self.path.parent.name, 200)}/{self.path.name}"
            raise TraceError(
                f"{name} has columns that do not belong to the format of this modtrace"
            ) from None
        finally:
            if opened is not None:
                os.close(opened[0])
        return batches

    def _read(self, descriptor: int, end: int, rows: int | None, batches: list[Batch]) -> bool:
        """Read on; true if it stopped because there are so many rows."""
        count = 0
        for batch, behind in messages(
            descriptor, end, self.table, self._position, self._number, budget=self._budget
        ):
            check(self.table, batch.rows, f"{plain(self.path.parent.name, 200)}/{self.path.name}")
            batches.append(batch)
            self._position = behind
            self._number += 1
            if 0 <= batch.at_ns < 1 << 62:
                self.last_ns = max(self.last_ns, batch.at_ns)
            count += batch.rows.num_rows
            if rows is not None and count >= rows:
                return True
        return False

    def _same(self, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino)
        if self._position and (identity != self._identity or status.st_size < self._position):
            raise ReplacedFiles
        self._identity = identity


class Follower:
    """One process folder of a trace.

    process: what it says of its process; `end` in it appears when the process has come to its end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last_ns = 0
        self._streams = {table: FollowedStream(folder, table) for table in _FOLLOWED}
        self.process: Process = process_of(folder, 0)
        self.left_out = 0
        """Calls that cannot be true."""
        self._marks = self._look()

    def _look(self) -> list[tuple[int, int] | None]:
        """(inode, nanoseconds of its last change) of each of its JSON files, which tell it from another that took its
        place.
        """
        marks: list[tuple[int, int] | None] = []
        for name in (PROCESS_FILE, STOP_FILE, END_FILE):
            try:
                status = os.lstat(self.folder / name)
                marks.append((status.st_ino, status.st_mtime_ns))
            except OSError:
                marks.append(None)
        return marks

    @property
    def notes(self) -> list[str]:
        """The damages and gaps that cannot be read around."""
        damages = [stream.damage for stream in self._streams.values() if stream.damage is not None]
        return [*damages, *([LEFT_OUT.format(plural(self.left_out, "call"))] if self.left_out else [])]

    @property
    def behind_bytes(self) -> int:
        """Bytes of calls that are written and not read yet."""
        return self._streams["calls"].behind_bytes

    def read(self, rows: int = MANY_ROWS) -> AddedRows | None:
        """Rows that have been added since the last time, None for nothing.

        The length of `calls` is taken before the other files are read: what these calls point at is in them by then.

        Raises:
            Replaced: the files are others than before.
            TraceError: they are of another version of modtrace.
        """
        self._look_at_process()
        try:
            size = self._streams["calls"].size()
        except Damage:
            size = 0
        added = AddedRows()
        opened = [self._possible(_opened(batch.rows)) for batch in self._streams["open"].read()]
        for batch in self._streams["modules"].read():
            added.modules.update(_modules(batch.rows))
            added.variables.update(_variables(batch.rows))
        for batch in self._streams["names"].read():
            added.names.update(_names(batch.rows))
        for batch in self._streams["signatures"].read():
            keys = codes(batch.rows.column("signature")).tolist()
            added.signatures.update(zip(keys, batch.rows.column("text").to_pylist(), strict=True))
        for batch in self._streams["labels"].read():
            added.labels.update(_labels(batch.rows))
        for batch in self._streams["gaps"].read():
            added.gaps += [plain(text, 400) for text in batch.rows.column("reason").to_pylist()]
        for batch in self._streams["watched"].read():
            low, high = (integers(batch.rows.column(name))[0].tolist() for name in ("from_ns", "to_ns"))
            added.watched += zip(low, high, strict=True)
        for batch in self._streams["thinned"].read():
            added.thinned += _thinned(batch.rows)
        for batch in self._streams["compilations"].read():
            low, took = (integers(batch.rows.column(name))[0] for name in ("start_ns", "duration_ns"))
            added.compiled += zip(low.tolist(), (low + took).tolist(), strict=True)
        calls = [
            self._possible(_calls(batch.rows)) for batch in self._streams["calls"].read(size=size, rows=rows)
        ]
        added.opened = joined(opened) if opened else None
        added.calls = joined(calls) if calls else None
        self.last_ns = max(stream.last_ns for stream in self._streams.values())
        other = (
            added.names,
            added.modules,
            added.labels,
            added.gaps,
            added.watched,
            added.compiled,
            added.thinned,
        )
        return added if opened or calls or any(other) else None

    def _possible(self, columns: Columns) -> Columns:
        wrong = _impossible(columns)
        if not bool(wrong.any()):
            return columns
        self.left_out += int(wrong.sum())
        return {name: values[~wrong] for name, values in columns.items()}

    def _look_at_process(self) -> None:
        marks = self._look()
        if marks != self._marks or (self.process.end is None and marks[-1] is not None):
            self.process = process_of(self.folder, self.last_ns)
            self._marks = marks


def _thinned(rows: pa.RecordBatch) -> list[tuple[int, int, int, int]]:
    names = ("first_step", "end_step", "from_ns", "to_ns", "every")
    stretches = zip(*(integers(rows.column(name))[0].tolist() for name in names), strict=True)
    return [
        (end - first, from_ns, to_ns, max(every, 1))
        for first, end, from_ns, to_ns, every in stretches
        if 0 < end - first < _MANY_STEPS
    ]


def _modules(rows: pa.RecordBatch) -> dict[int, tuple[str, int | None]]:
    keys = codes(rows.column("module")).tolist()
    counts = rows.column("parameter_count").to_pylist()
    types = rows.column("type").to_pylist()
    return {key: (class_name, count) for key, class_name, count in zip(keys, types, counts, strict=True)}


def _variables(rows: pa.RecordBatch) -> dict[int, str]:
    """The variable that held each root module when it was first called, where that is known."""
    pairs = zip(codes(rows.column("module")).tolist(), rows.column("variable").to_pylist(), strict=True)
    return {key: plain(text) for key, text in pairs if text is not None}


def _names(rows: pa.RecordBatch) -> dict[tuple[int, int], str]:
    roots, modules = codes(rows.column("root")).tolist(), codes(rows.column("module")).tolist()
    texts = rows.column("name").to_pylist()
    return {(root, module): text for root, module, text in zip(roots, modules, texts, strict=True)}


def _labels(rows: pa.RecordBatch) -> dict[int, tuple[str, str, str]]:
    """Name, type and place (`norm.py:12`, empty for what is no function) of each label."""
    keys = codes(rows.column("label")).tolist()
    columns = [rows.column(name).to_pylist() for name in ("name", "type", "source_file", "source_line")]
    labels = {}
    for key, name, label_type, file, line in zip(keys, *columns, strict=True):
        place = "" if file is None else f"{file.replace(chr(92), '/').rpartition('/')[2]}:{line or 0}"
        labels[key] = (name, label_type, place)
    return labels


def _calls(rows: pa.RecordBatch) -> Columns:
    columns: Columns = {name: integers(rows.column(name))[0] for name in _PLAIN}
    columns |= {name: codes(rows.column(name)) for name in (*_KEYS, "forward", *_NULLABLE)}
    columns["mode"] = integers(rows.column("mode"))[0]
    return columns


def _opened(rows: pa.RecordBatch) -> Columns:
    columns: Columns = {name: integers(rows.column(name))[0] for name in _PLAIN if name in rows.schema.names}
    columns |= {name: codes(rows.column(name)) for name in ("module", "root", "label", "forward")}
    columns["mode"] = integers(rows.column("mode"))[0]
    none = np.full(rows.num_rows, -1, np.int64)
    columns |= {"outputs": none, "last_call": columns["call"], "duration_ns": none, "self_ns": none}
    columns["status"] = np.full(rows.num_rows, UNFINISHED, np.int64)
    return columns


def _impossible(columns: Columns) -> Bools:
    """Calls that cannot be true whatever the others say."""
    call, parent, depth, call_kind = (columns[name] for name in ("call", "parent", "depth", "kind"))
    wrong: Bools = (call < 0) | (parent >= call) | ((parent < 0) != (depth == 0)) | (depth < 0)
    wrong |= (call_kind < 0) | (call_kind >= len(KINDS)) | (columns["last_call"] < call)
    wrong |= (columns["module"] < 0) & (columns["label"] < 0)
    for name in ("start_ns", *_NULLABLE):
        wrong |= np.abs(columns[name]) > _LIMIT
    return wrong
