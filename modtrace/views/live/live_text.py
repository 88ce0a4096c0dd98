"""The texts of the live view: title, state, lines about the steps. No Textual."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modtrace import units
from modtrace.analysis import live
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import LiveTree
from modtrace.analysis.recording_end import headline, why_nothing
from modtrace.analysis.statistics import quantile
from modtrace.analysis.tracing_cost import step_cost
from modtrace.text import fit, plain
from modtrace.views.cost import cost_text

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-:=+*#"
MANY = 100
"""The last steps that lines about the steps are of."""


def title(trace: LiveTrace, name: str | None, tree: LiveTree, state: str) -> str:
    """`LIVE train.py pid 4121  step 37  316 ms/step  00:11  [running]  tracing cost 1.8%`."""
    shown = plain(name or (trace.run.script if trace.run is not None else None) or trace.path.name, 40)
    processes = tree.processes
    parts = [f"{'LIVE' if state in (live.RUNNING, live.WAITING) else state.upper()} {shown}"]
    if len(trace.processes) > 1:
        count = len(trace.processes)
        parts[0] += (
            f"  {count} ranks" if tree.rank is None else f"  rank {processes[0].process.rank} of {count}"
        )
    elif processes and processes[0].process.pid is not None:
        parts[0] += f" pid {processes[0].process.pid}"
    cut = headline(
        (process.process for process in trace.processes), processes[0].process.rank if processes else None
    )
    if cut:
        parts.append(plain(cut))
    if processes:
        number = min(process.steps.number for process in processes)
        parts.append(f"step {number:,}")
        if number:
            parts.append(f"{units.duration(_per_step(tree))}/step")
        seconds = max(process.wall_ns for process in processes) // 10**9
        parts.append(f"{seconds // 60:02}:{seconds % 60:02}")
    return "  ".join(parts)


def _per_step(tree: LiveTree) -> int | None:
    took = [step.duration_ns for process in tree.processes for step in process.steps.in_statistics(MANY)[0]]
    return quantile(np.array(took, np.int64), 50) if took else None


def state_text(trace: LiveTrace, state: str, returncode: int | None = None) -> str:
    """`[running]`, `[exit 0]`, `[killed by signal 9]`."""
    if returncode is not None:
        return f"[exit {returncode}]" if returncode >= 0 else f"[ended by signal {-returncode}]"
    if state == live.FINISHED:
        status = trace.exit_status
        return f"[exit {'?' if status is None else status}]"
    return {
        live.DIED: "[died without an end]", live.SILENT: "[not seen here, nothing written]",
        live.GONE: "[the trace was deleted]", live.WAITING: "[waiting for torch]",
    }.get(state, "[running]")  # fmt: skip


def cost(tree: LiveTree) -> str:
    """The cost of tracing, as the summary has it; empty while the run goes on, it is known at its end, and where steps
    were left out, whose calls cost too.
    """
    if any(process.steps.lacks_steps for process in tree.processes):
        return ""
    costs = [
        step_cost(
            process.process,
            process.steps.ended,
            process.steps.ended_ns,
            process.steps.calls_in_steps,
            process.steps.calls,
        )
        for process in tree.processes
    ]
    known = bool(costs) and None not in costs
    return f"tracing cost {cost_text(costs)}" if known else ""


def bars(values: Sequence[int], width: int, *, ascii: bool) -> str:
    """The last values as bars, the largest the highest."""
    shown, marks = list(values[-width:]), PLAIN_BLOCKS if ascii else BLOCKS
    top = max(shown, default=0)
    return "".join(
        marks[0 if top <= 0 else min(value * len(marks) // (top + 1), len(marks) - 1)] for value in shown
    )


def step_lines(tree: LiveTree, width: int, *, ascii: bool) -> list[str]:
    """About the steps: bars of their durations and of the wait for data, and figures; then ranks and notes."""
    processes = tree.processes
    if not processes:
        return ["nothing recorded yet"]
    shown = max(processes, key=lambda process: sum(step.duration_ns for step in process.steps.last(20)))
    steps = shown.steps.last(MANY)
    if not steps:
        ended = processes[0].state in (live.FINISHED, live.DIED, live.SILENT) and not len(processes[0].nodes)
        return [plain(why_nothing(processes[0].process)) if ended else "no step has ended yet"]
    durations, data = [step.duration_ns for step in steps], [step.data_ns for step in steps]
    lines = [
        f"{'ms/step':8}{bars(durations, width - 19, ascii=ascii)} {units.duration(durations[-1])}",
        f"{'data':8}{bars(data, width - 19, ascii=ascii)} {units.duration(data[-1])}",
    ]
    chosen, of = shown.steps.in_statistics(MANY)
    took = np.array([step.duration_ns for step in chosen], np.int64)
    waited = units.percent(sum(step.data_ns for step in chosen), int(took.sum()))
    lines.append(
        f"{'step':8}p50 {units.duration(quantile(took, 50))}  max {units.duration(int(took.max()))}  waiting {waited}%"
    )
    lines.append(f"{'of':8}{of}")
    lines.append(f"a step ends with: {shown.steps.by}")
    trace = tree.trace
    if len(trace.processes) > 1:
        lines += [
            f"rank {process.process.rank}  step {process.steps.number:,}  {process.state}"
            for process in trace.processes
        ]
    lines += [f"! {note}" for process in trace.processes for note in process.notes]
    return [fit(plain(line), width) for line in lines]
