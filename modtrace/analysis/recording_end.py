"""Ends of recordings: if, when and why a recording ended before the program did. No finding is made from what is
missing then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from modtrace.analysis.thinned_steps import thinned_text
from modtrace.trace.reader import Process, Stored
from modtrace.units import duration

_SHOWN: Final = 2


def is_cut(stored: Stored) -> bool:
    """True if calls may be missing: that something never ran, or had no backward, does not follow then."""
    return stored.is_damaged or any(
        process.stop is not None or process.end is None for process in stored.processes
    )


def lacks_calls(stored: Stored) -> bool:
    """True if calls may be missing, as above, or steps were left out."""
    return is_cut(stored) or bool(len(stored.table("thinned")))


def recorded_until(process: Process) -> str | None:
    """`recorded until 12.3 s (limit of 200 KB)`; None for a process that was recorded as long as it is known to run."""
    if process.stop is None:
        return None
    return f"recorded until {duration(process.stop.recorded_ns)} ({process.stop.cause})"


def headline(processes: Iterable[Process], shown: int | None = None) -> str:
    """The same of several processes, for the head of a view; empty where none was cut short.

    Args:
        processes: of a trace.
        shown: the rank that the view is about, which needs no name.
    """
    texts = []
    for process in processes:
        until = recorded_until(process)
        if until is not None:
            texts.append(until if process.rank == shown else f"rank {process.rank} {until}")
    unnamed = len(texts) - _SHOWN
    return "; ".join([*texts[:_SHOWN], *([f"{unnamed} more ranks likewise"] if unnamed > 0 else [])])


def headline_of(stored: Stored, process: int = 0) -> str:
    """The same of a trace of which one process is shown, and of which steps of it calls are recorded."""
    processes = stored.processes
    ended = headline(processes, processes[process].rank if process < len(processes) else None)
    return "; ".join(filter(None, (ended, thinned_text(stored, process))))


def when_it_ended(process: Process) -> str:
    """`at the end`, or what that was the end of."""
    return "at the end" if process.stop is None else "when recording ended"


def why_nothing(process: Process) -> str:
    """A sentence about a process of which there are no calls."""
    end, stop = process.end, process.stop
    if stop is not None:
        return f"no call was recorded: recording ended after {duration(stop.stopped_ns)} ({stop.cause})"
    if end is None:
        return "nothing has been written yet" if process.is_alive else "ended before anything was written"
    if end.torch_imported is False:
        return "no module was called: the program did not import torch"
    return "no module was called while recording (compiled or scripted parts are not seen inside)"
