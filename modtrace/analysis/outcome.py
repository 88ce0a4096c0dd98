"""The end of a run: its state, and the module calls that were open then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.calls import names
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.module_names import below, dotted
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import ABORTED, MODULE, UNFINISHED
from modtrace.units import duration

INTERRUPTED: Final = "interrupted (SIGINT)"
KILLED: Final = "killed"
LEFT: Final = "killed, or left by os._exit"
"""Of a process without an end that was in no module call: it may have left of its own accord."""


@dataclass(frozen=True)
class OpenCall:
    """A module call that had not come to its end: its name below the one around it, its class, what it was given."""

    name: str
    type: str
    inputs: str


@dataclass(frozen=True)
class Outcome:
    """The end of one process.

    state: `exit 0`, `exit 1`, `interrupted (SIGINT)`, `killed`, `killed, or left by os._exit`, `still running`; ""
        where it was recorded from within and ended well.
    failed: true for an exit status other than 0, an exception, an interrupt and a kill.
    open_calls: module calls that were running when it was interrupted or killed, the outermost first.
    name: the whole name of the innermost of these.
    at_least_ns: how long that had been running, as far as was written; None where it is not known.
    row: row of the timeline of the innermost of these, -1 for none.
    """

    state: str
    failed: bool
    open_calls: tuple[OpenCall, ...] = ()
    name: str = ""
    at_least_ns: int | None = None
    row: int = -1

    @property
    def where(self) -> str:
        """`while in m > 1 Slow, f32[2,8], for at least 1.5 s`; "" where no module was running."""
        if not self.open_calls:
            return ""
        path = " > ".join(
            " ".join(filter(None, (call.name, call.type if call.type != call.name else "")))
            for call in self.open_calls
        )
        inputs = f", {self.open_calls[-1].inputs}" if self.open_calls[-1].inputs else ""
        least = "" if self.at_least_ns is None else f", for at least {duration(self.at_least_ns)}"
        return f"while in {path}{inputs}{least}"

    @property
    def headline(self) -> str:
        """State and place: `killed while in m > 1 Slow, f32[2,8], for at least 1.5 s`."""
        return " ".join(filter(None, (self.state, self.where)))


@once
def outcome(stored: Stored, process: int = 0) -> Outcome:
    """The end of one process of a trace."""
    about = stored.processes[process]
    state, failed = _state(about)
    if state not in (KILLED, INTERRUPTED):
        return Outcome(state, failed)
    path, least = _open_path(stored, process, ABORTED if state == INTERRUPTED else UNFINISHED)
    texts = stored.table("signatures").column("text").to_pylist()
    table = timeline(stored).calls
    module, root, inputs = (nullable_codes(table, name)[path] for name in ("module", "root", "inputs"))
    codes, labels = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    types, tops = stored.table("modules").column("type").to_pylist(), roots(stored).name
    calls: list[OpenCall] = []
    above = ""
    for code, number, top, signature in zip(
        codes.tolist(), module.tolist(), root.tolist(), inputs.tolist(), strict=True
    ):
        whole = labels[code]
        name = below(whole, above) if whole and calls else dotted(tops[top], whole)
        calls.append(OpenCall(name, types[number], texts[signature] if signature >= 0 else ""))
        above = whole
    name = dotted(tops[int(root[-1])], above) if calls else ""
    at_least_ns = least if calls and state == KILLED else None
    state = LEFT if state == KILLED and not calls else state
    return Outcome(state, failed, tuple(calls), name, at_least_ns, path[-1] if path else -1)


def _state(about: Process) -> tuple[str, bool]:
    end = about.end
    if end is None:
        return ("still running", False) if about.is_alive else (KILLED, True)
    if end.exception == "KeyboardInterrupt":
        return INTERRUPTED, True
    if end.exit_status is None:
        return (f"ended by {end.exception}", True) if end.exception else ("", False)
    return f"exit {end.exit_status}", bool(end.exit_status)


def _open_path(stored: Stored, process: int, status: int) -> tuple[list[int], int | None]:
    """Rows of the module calls that were open, the outermost first, and how long the innermost had been."""
    table = timeline(stored).calls
    is_open = (column(table, "status") == status) & (column(table, "kind") == MODULE)
    rows = np.flatnonzero(is_open & (column(table, "process") == process))
    if not len(rows):
        return [], None
    steps = timeline(stored).steps[process]
    on_thread = rows[column(table, "thread")[rows] == steps.thread] if len(steps) else rows
    innermost = int(on_thread[-1] if len(on_thread) else rows[-1])
    parent, path, row = column(table, "parent"), [], innermost
    while row >= 0:
        if column(table, "kind")[row] == MODULE:
            path.append(row)
        row = int(parent[row])
    about = stored.processes[process]
    least = max(about.wall_ns, about.last_written_ns) - int(column(table, "start_ns")[innermost])
    return path[::-1], max(least, 0)
