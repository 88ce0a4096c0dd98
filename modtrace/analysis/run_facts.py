"""Facts of a run as a whole: those that heads of views show."""

from __future__ import annotations

from dataclasses import dataclass

from modtrace.analysis.columns import column
from modtrace.analysis.outcome import outcome
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE


@dataclass(frozen=True)
class RunFacts:
    """A run. Where there are several ranks, times, steps and state are those of the first.

    script, argv: what was run, secrets blanked; None and empty for a trace that was recorded from within a program.
    state: `exit 0`, `exit 1`, `interrupted (SIGINT)`, `killed`, `killed, or left by os._exit`, `still running`,
        `ended by ValueError`; "" where it was recorded from within and ended well.
    where: what was running when it was interrupted or killed: `while in m > 1 Slow, f32[2,8], for at least 1.5 s`; ""
        for nothing that is known.
    recorded: of a recording that ended before the program: `recorded until 12.3 s (limit of 4 GB)`; else "".
    wall_ns: from the start of recording to its end.
    started_unix_ns: when it started, nanoseconds since 1970; None where that is not known.
    steps: training steps, or calls of root modules where nothing ends a step.
    module_calls: module calls of all ranks.
    ranks: those that are recorded; a rank that was restarted is in it once for each start.
    world_size: how many ranks the job had; None where it was no distributed job.
    devices: names of the devices of the first rank.
    modtrace, python, torch, platform: versions and system; None where not known.
    """

    script: str | None
    argv: tuple[str, ...]
    state: str
    where: str
    recorded: str
    wall_ns: int
    started_unix_ns: int | None
    steps: int
    module_calls: int
    ranks: tuple[int, ...]
    world_size: int | None
    devices: tuple[str, ...]
    modtrace: str
    python: str | None
    torch: str | None
    platform: str | None


def run_facts(stored: Stored) -> RunFacts:
    """The facts of the run that a trace is of."""
    first, ended, line = stored.processes[0], outcome(stored), timeline(stored)
    return RunFacts(
        script=stored.run.script,
        argv=stored.run.argv,
        state=ended.state,
        where=ended.where,
        recorded=headline_of(stored),
        wall_ns=first.wall_ns,
        started_unix_ns=stored.run.started_unix_ns,
        steps=len(line.steps[0]),
        module_calls=int((column(line.calls, "kind") == MODULE).sum()),
        ranks=tuple(process.rank for process in stored.processes),
        world_size=first.world_size,
        devices=first.devices,
        modtrace=stored.run.modtrace,
        python=stored.run.python,
        torch=first.torch,
        platform=stored.run.platform,
    )
