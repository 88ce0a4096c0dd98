"""The end of a rank: how it ended, or what it is in the middle of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.calls import names
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.failure import Failure, last_failure
from modtrace.analysis.module_names import dotted
from modtrace.analysis.outcome import KILLED, LEFT, outcome
from modtrace.analysis.recording_end import recorded_until
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import ABORTED, BACKWARD, MODULE, PHASE, UNFINISHED

STANDS_NS: Final = 5_000_000_000
"""A rank that runs is said to stand from here on; steps may take long."""
WRITTEN_NS: Final = 700_000_000
"""Calls that are open are written where nothing has ended for about so long."""
_ANOTHER_LEFT: Final = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "timed out waiting",
    "socket timeout",
    "remote process exited",
    "heartbeat monitor",
    "watchdog caught collective operation timeout",
    "nccl communicator was aborted",
    "tcpstore",
)
"""Parts of messages of errors by which a rank notices that another one is gone or late."""


@dataclass(frozen=True)
class RankEnd:
    """The end of a process, or where it stands.

    state: `exit 0`, `exit 1`, `killed`, `killed, or left by os._exit`, `still running`, `interrupted (SIGINT)`; ""
        where it was recorded from within and ended well.
    failed: true for an exit status other than 0, an exception, an interrupt and a kill.
    running: true as long as its process is seen here.
    at_unix_ns: when it ended, nanoseconds since 1970; of one that was killed when it last wrote. None where not known.
    error: class and message of the exception that ended it; None for none.
    noticed: the last error says that another rank was gone or late: this one failed, or was killed, because of that.
    place: module or phase in which it failed, or that was open when it was killed, or is open now; "" for none.
    open_ns: for how long that had been open when something was last written, of one that runs until now; None for
        nothing open.
    step: number of the step that it was in; None before the first.
    calls_in_step: rows of that step: how far into it.
    recorded: of a recording that ended before the program: `recorded until 12.3 s (limit of 4 GB)`; else "".
    """

    state: str
    failed: bool
    running: bool
    at_unix_ns: int | None = None
    error: str | None = None
    noticed: bool = False
    place: str = ""
    open_ns: int | None = None
    step: int | None = None
    calls_in_step: int = 0
    recorded: str = ""

    @property
    def is_open(self) -> bool:
        """True for a process that did not come to its end: it runs, or was killed."""
        return self.running or self.left_no_end

    @property
    def left_no_end(self) -> bool:
        """True for a process that is gone and has not written how it ended."""
        return self.state in (KILLED, LEFT)

    @property
    def stands(self) -> bool:
        """True where nothing has happened for so long that what is written is where it stands. A rank that runs writes
        within a second, and a rank that waits writes once.
        """
        return self.open_ns is not None and self.open_ns >= (STANDS_NS if self.running else WRITTEN_NS)

    @property
    def progress(self) -> tuple[int, int]:
        """Its place in the run, to compare: steps, and rows in the last of them."""
        return (-1 if self.step is None else self.step), self.calls_in_step


def rank_end(stored: Stored) -> RankEnd:
    """The end of the process of a trace of one."""
    about, ended = stored.processes[0], outcome(stored)
    failure = last_failure(stored) if ended.failed else None
    ended_by = failure if failure is not None and _ended_it(about, failure) else None
    place, open_ns = _failing(stored, ended_by), None
    if ended_by is None:
        place, open_ns = _open(stored, about)
    steps = timeline(stored).steps[0]
    step = nullable_codes(timeline(stored).calls, "step")
    last = len(steps) - 1
    if last >= 0 and steps.whole[last] and about.end is None:
        last += 1  # what it is in the middle of belongs to the next one
    running = about.is_alive
    return RankEnd(
        state="still running" if running else ended.state,
        failed=ended.failed,
        running=running,
        at_unix_ns=_ended_unix_ns(about),
        error=ended_by.error if ended_by is not None else None,
        noticed=failure is not None and _noticed(failure.error),
        place=place,
        open_ns=open_ns,
        step=last if len(steps) else None,
        calls_in_step=int(np.count_nonzero(step == last)) if last < len(steps) else 0,
        recorded=recorded_until(about) or "",
    )


def _ended_it(about: Process, failure: Failure) -> bool:
    """True if the program was ended by this failure, not one that it caught before."""
    return about.end is not None and about.end.exception == failure.error.partition(":")[0]


def _noticed(error: str) -> bool:
    return any(part in error.lower() for part in _ANOTHER_LEFT)


def _ended_unix_ns(about: Process) -> int | None:
    if about.started_unix_ns is None or about.is_alive:
        return None
    ended_ns = about.end.ended_ns if about.end is not None else about.last_written_ns
    return about.started_unix_ns + ended_ns


def _failing(stored: Stored, failure: Failure | None) -> str:
    """The module or phase that an exception left; the innermost."""
    if failure is None or failure.outside:
        return ""
    if not failure.phase:
        return _name(stored, failure.call)
    inner = failure.path[-1].name or failure.path[-1].type if failure.path else ""
    return f"{inner} {failure.phase}".strip()


def _open(stored: Stored, about: Process) -> tuple[str, int | None]:
    """Name of what is open, the innermost on the thread of the loop, and for how long it has been, in ns."""
    if about.end is not None and about.end.exception != "KeyboardInterrupt":
        return "", None
    table, steps = timeline(stored).calls, timeline(stored).steps[0]
    call_kind, status = column(table, "kind"), column(table, "status")
    is_open = (status == (UNFINISHED if about.end is None else ABORTED)) & np.isin(
        call_kind, (MODULE, BACKWARD, PHASE)
    )
    # Rows of steps, and of what follows from calls, are put in: they are no calls that are open.
    rows = np.flatnonzero(is_open)
    on_thread = rows[column(table, "thread")[rows] == steps.thread] if len(steps) else rows
    if not len(on_thread):
        return "", None
    row = int(on_thread[-1])
    now_ns = max(about.wall_ns, about.last_written_ns)
    if about.is_alive and about.started_unix_ns is not None:
        now_ns = max(time.time_ns() - about.started_unix_ns, now_ns)
    open_ns = now_ns - int(column(table, "start_ns")[row])
    return _name(stored, row), max(open_ns, 0)


def _name(stored: Stored, row: int) -> str:
    table = timeline(stored).calls
    call_kind = int(column(table, "kind")[row])
    if call_kind == PHASE:
        return timeline(stored).labels[int(nullable_codes(table, "label")[row])][0]
    module, root = (int(nullable_codes(table, name)[row]) for name in ("module", "root"))
    codes, labels = names(stored, np.array([max(root, 0)]), np.array([module]))
    name = labels[int(codes[0])] or dotted(roots(stored).name[max(root, 0)])
    return f"{name} backward" if call_kind == BACKWARD else name
