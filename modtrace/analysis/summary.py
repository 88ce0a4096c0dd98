"""Facts of one process for the heads of views: model, steps, what each computes, what tracing cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import tensor_devices
from modtrace.analysis.columns import column, distinct_keys, nullable_codes
from modtrace.analysis.device_starts import DrySteps, dry_in
from modtrace.analysis.device_times import device_of_steps
from modtrace.analysis.failure import Failure
from modtrace.analysis.flat_profile import busy_ns
from modtrace.analysis.flops import StepWork, work_of_steps
from modtrace.analysis.left_out import left_out
from modtrace.analysis.nesting import root_calls
from modtrace.analysis.phases import Steps
from modtrace.analysis.recording_end import lacks_calls
from modtrace.analysis.roots import qualified, roots
from modtrace.analysis.statistics import Chosen, chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tracing_cost import StepCost, step_cost, tracing_cost
from modtrace.analysis.window_sums import window_sums
from modtrace.trace.derived import once
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import ABORTED, BACKWARD, MODULE, RAISED, STEP, UNFINISHED

Ints = npt.NDArray[np.int64]

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
"""Classes without a forward of their own: that they are never called says nothing."""


@dataclass(frozen=True)
class Summary:
    """Facts of one process; where its time went is in its `flat_profile`.

    cost_ns, step_cost: what tracing cost in all, and in the steps that came to their end.
    outside_ns: nothing recorded was running; holds calls that were interrupted or never ended, whose times are unknown.
    work: of each step.
    chosen: the steps that count in statistics.
    device_busy_ns, device_idle_ns: of each step, see `device_of_steps`.
    device_dry: at how many starts in the steps that count the device had run dry.
    """

    process: Process
    wall_ns: int
    outside_ns: int
    cost_ns: int | None
    step_cost: StepCost | None
    models: list[tuple[str, int | None]]
    steps: Steps
    work: StepWork
    chosen: Chosen
    device_busy_ns: Ints
    device_idle_ns: Ints
    device_dry: DrySteps
    roots: int
    calls: int
    backwards: int
    raised_roots: int
    aborted: int
    unfinished: int
    own_call: list[str]
    called_directly: list[str]
    devices: list[str]

    @property
    def flops(self) -> Ints:
        """Of each step, -1 where a part is not known."""
        return self.work.flops

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """The steps in which operations were counted."""
        return self.work.counted


@once
def summarise(stored: Stored, process: int = 0) -> Summary | None:
    """The summary of one process; None for a trace without any."""
    if process >= len(stored.processes):
        return None
    about = stored.processes[process]
    line = timeline(stored)
    table = line.calls.filter(column(line.calls, "process") == process)
    call_kind, status = column(table, "kind"), column(table, "status")
    is_call = call_kind == MODULE
    first = int(column(table, "call")[0]) if len(table) else 0
    tops_called = root_calls(call_kind, column(table, "last_call"), first)
    wall = max(about.wall_ns, 0)
    steps = line.steps[process]
    device_busy_ns, device_idle_ns = device_of_steps(stored, first, first + len(table), len(steps))
    chosen, every_call = chosen_steps(stored, process), _all_calls(stored, process, int(is_call.sum()))
    modules, of_roots = nullable_codes(table, "module"), nullable_codes(table, "root")
    return Summary(
        process=about,
        wall_ns=wall,
        outside_ns=wall - busy_ns(table),
        cost_ns=tracing_cost(about),
        step_cost=_step_cost(about, steps, is_call, nullable_codes(table, "step"), every_call),
        models=_models(stored, modules[tops_called], of_roots[call_kind == BACKWARD]),
        steps=steps,
        work=_known_work(work_of_steps(stored, first, first + len(table), len(steps)), steps),
        chosen=chosen,
        device_busy_ns=device_busy_ns,
        device_idle_ns=device_idle_ns,
        device_dry=dry_in(stored, process, chosen.steps),
        roots=int(tops_called.sum()),
        calls=int(is_call.sum()),
        backwards=int((call_kind == BACKWARD).sum()),
        raised_roots=int((tops_called & (status == RAISED)).sum()),
        aborted=int((status == ABORTED).sum()),
        unfinished=int(((status == UNFINISHED) & (call_kind != STEP)).sum()),
        own_call=_with_own_call(stored),
        called_directly=[] if lacks_calls(stored) else _called_directly(stored),
        devices=tensor_devices(stored),
    )


def _known_work(work: StepWork, steps: Steps) -> StepWork:
    """The work of steps; that of steps that were left out is not known."""
    if steps.recorded.all():
        return work
    return replace(
        work,
        flops=np.where(steps.recorded, work.flops, -1),
        least=np.where(steps.recorded, work.least, -1),
    )


def failure_ended_run(summary: Summary, failure: Failure) -> bool:
    """True where the run ended with the failure; False where the program dealt with it."""
    end = summary.process.end
    last = len(summary.steps) - 1
    return (
        failure.step is None
        or failure.step >= last
        or (end is not None and bool(end.exit_status or end.exception))
    )


def _all_calls(stored: Stored, process: int, recorded: int) -> int:
    """Module calls of a process, those of steps that were left out too."""
    if not len(left_out(stored, process)):
        return recorded
    sums = window_sums(stored)
    of_modules = (column(sums, "process") == process) & (nullable_codes(sums, "module") >= 0)
    return max(int(column(sums, "calls")[of_modules].sum()), recorded)


def _step_cost(
    about: Process, steps: Steps, is_call: npt.NDArray[np.bool_], step: Ints, calls: int
) -> StepCost | None:
    """The cost of tracing in the whole steps, of all that it cost for so many calls."""
    ended = np.append(steps.whole, False)
    inside = is_call & ended[np.minimum(step, len(steps))] & (step >= 0)
    took = int((steps.end - steps.start)[steps.whole].sum())
    return step_cost(about, int(steps.whole.sum()), took, int(inside.sum()), calls)


def _models(stored: Stored, called: Ints, trained: Ints) -> list[tuple[str, int | None]]:
    """(name and class, parameters) of the root modules: first the one that is trained, which has a backward and the
    most parameters.
    """
    table, names = stored.table("modules"), roots(stored).name
    types = table.column("type").to_pylist()
    parameters = table.column("parameter_count").to_pylist()
    times = np.bincount(called)
    numbers = np.flatnonzero(times)
    through = set(distinct_keys(trained).tolist())
    order = sorted(
        zip(numbers.tolist(), times[numbers].tolist(), strict=True),
        key=lambda pair: (pair[0] in through, parameters[pair[0]] or 0, pair[1]),
        reverse=True,
    )
    return [
        (" ".join(filter(None, qualified(names[number], "", types[number]))), parameters[number])
        for number, _ in order
    ]


def _ran(stored: Stored) -> npt.NDArray[np.bool_]:
    module = nullable_codes(timeline(stored).calls, "module")
    return np.bincount(module[module >= 0], minlength=stored.table("modules").num_rows) > 0


def _with_own_call(stored: Stored) -> list[str]:
    """Classes with a `__call__` of their own: calls of them may have gone unseen."""
    table = stored.table("modules")
    pairs = zip(table.column("type").to_pylist(), table.column("overrides_call").to_pylist(), strict=False)
    return sorted({class_name for class_name, overrides in pairs if overrides})


def _called_directly(stored: Stored) -> list[str]:
    """Names of modules with a forward of their own that were never called although modules below them were: their
    `forward` was called directly, which no hook sees, or their parents call the parts.
    """
    ran = _ran(stored)
    modules, table = stored.table("modules"), stored.table("names")
    types = modules.column("type").to_pylist()
    has_forward = modules.column("source_file").is_valid().to_pylist()
    root, module = column(table, "root").tolist(), column(table, "module").tolist()
    text = table.column("name").to_pylist()
    called_prefixes: set[tuple[int, str]] = set()
    for top, number, name in zip(root, module, text, strict=False):
        if ran[number] and name:
            parts = name.split(".")[:-1]
            called_prefixes.update(
                (top, ".".join(parts[:n])) for n in range(max(len(parts) - 8, 0), len(parts) + 1)
            )
    calls = timeline(stored).calls
    uncalled = []
    root_codes = nullable_codes(calls, "root")
    seen_roots = set(np.flatnonzero(np.bincount(root_codes[root_codes >= 0])).tolist())
    for top, number, name in zip(root, module, text, strict=False):
        class_name = types[number]
        quiet = (
            not ran[number]
            and has_forward[number]
            and class_name not in CONTAINERS
            and class_name != "Sequential"
        )
        if quiet and top in seen_roots and (top, name) in called_prefixes:
            uncalled.append(name or class_name)
    return uncalled
