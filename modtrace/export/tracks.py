"""One track a rank and thread, and one clock for all ranks: what viewers of time lines need."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.reader import Process, Stored

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Track:
    """The rows of one thread: those of the timeline from `low` up to `high`."""

    process: int
    thread: int
    low: int
    high: int


def tracks(stored: Stored) -> list[Track]:
    """The threads of all processes, in the order of their rows."""
    table = timeline(stored).calls
    key = column(table, "process").astype(np.int64) << 32 | column(table, "thread")
    if not len(key):
        return []
    edges = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    return [
        Track(int(key[low] >> 32), int(key[low] & 0xFFFFFFFF), low, high) for low, high in pairwise(edges)
    ]


def offsets(stored: Stored) -> Ints:
    """Nanoseconds to add to the times of each process so that they are since the start of the first: by the clocks of
    their machines, which may differ. 0 where a process did not say when it started.
    """
    started = [process.started_unix_ns for process in stored.processes]
    known = [started_ns for started_ns in started if started_ns is not None]
    first = min(known, default=0)
    return np.array([0 if started_ns is None else started_ns - first for started_ns in started], np.int64)


def process_name(process: Process) -> str:
    """`rank 0`, `rank 0, pid 1234`."""
    pid = f", pid {process.pid}" if process.pid is not None else ""
    return plain(f"rank {process.rank}{pid}")
