"""The numbers of the summary: where the wall time of one process went, adding up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.around import root_calls
from modtrace.analysis.calls import commonest
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.cut import is_cut
from modtrace.analysis.device_times import device_of_steps
from modtrace.analysis.modules import instances, sums
from modtrace.analysis.paths import folded
from modtrace.analysis.phases import Steps
from modtrace.analysis.roots import qualified, roots
from modtrace.analysis.statistics import Chosen, chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tracing_cost import StepCost, step_cost, tracing_cost
from modtrace.analysis.work import StepWork, work_of_steps
from modtrace.trace.reader import Process, Stored
from modtrace.trace.schema import ABORTED, BACKWARD, MODULE, RAISED, STEP, UNFINISHED

Ints = npt.NDArray[np.int64]

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")
"""Classes without a forward of their own: that they are never called says nothing."""


@dataclass(frozen=True)
class Row:
    """One group of modules: names that differ only in numbers, one class. `instances` counts the modules, `calls` their
    calls and `self_ns` is of forward and backward. Or, not `of_module`, all phases or spans of one name.
    """

    name: str
    type: str
    instances: int
    calls: int
    self_ns: int
    output: str
    of_module: bool


@dataclass(frozen=True)
class Summary:
    """Where the time of one process went. The `self_ns` of all rows, `tracer_ns`, `interrupted_ns` and `outside_ns`
    minus `parallel_ns` add up to `wall_ns`.

    cost_ns, step_cost: what tracing cost in all, and in the steps that came to their end.
    outside_ns: nothing recorded was running; holds calls that were interrupted or never ended, whose times are unknown.
    work: of each step.
    chosen: the steps that count in statistics.
    device_busy_ns, device_idle_ns: of each step, see `device_of_steps`.
    interrupted_ns: inside root calls, in or around calls whose time is not known.
    never_ran: modules; None where the recording was cut short, and calls of them may be missing.
    parallel_ns: counted twice because root calls of several threads ran at once.
    """

    process: Process
    wall_ns: int
    outside_ns: int
    tracer_ns: int
    interrupted_ns: int
    parallel_ns: int
    cost_ns: int | None
    step_cost: StepCost | None
    rows: list[Row]
    models: list[tuple[str, int | None]]
    steps: Steps
    work: StepWork
    chosen: Chosen
    device_busy_ns: Ints
    device_idle_ns: Ints
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


def summarise(stored: Stored, process: int = 0) -> Summary | None:
    """The summary of one process; None for a trace without any."""
    if process >= len(stored.processes):
        return None
    about = stored.processes[process]
    line = timeline(stored)
    table = line.calls.filter(pa.array(column(line.calls, "process") == process))
    groups = folded(stored)
    group = groups.group[column(table, "call")]
    count = len(groups.name)
    own, own_known = values_and_known(table, "self_ns")
    tracer, _ = values_and_known(table, "tracer_ns")
    duration, known = values_and_known(table, "duration_ns")
    kind, status = column(table, "kind"), column(table, "status")
    start, parent = column(table, "start_ns"), column(table, "parent")
    is_call = kind == MODULE
    top = _top_of(table)
    tops = (parent < 0) & known
    busy = covered(start[tops], duration[tops])
    inside = int(duration[tops].sum())
    counted = own_known & known[top]
    total_self = sums(group[counted], own[counted], count)
    tracer_ns = int(tracer[counted].sum())
    module = nullable_codes(table, "module")
    first = int(column(table, "call")[0]) if len(table) else 0
    tops_called = root_calls(kind, column(table, "last_call"), first)
    pairs = np.unique(group << 32 | (module + 1))
    alike = np.append(1, instances(stored.table("modules")))[pairs & 0xFFFFFFFF]
    modules = np.bincount(pairs >> 32, alike, minlength=count)
    # Of a module its calls count, of anything else its rows; a backward is no call.
    calls = np.bincount(group[kind != BACKWARD], minlength=count)
    outputs = commonest(group, nullable_codes(table, "outputs"), count).tolist()
    texts = stored.table("signatures").column("text").to_pylist()
    rows = [
        Row(
            groups.title(g),
            groups.type[g],
            int(modules[g]),
            int(calls[g]),
            int(total_self[g]),
            texts[outputs[g]] if outputs[g] >= 0 else "",
            groups.of_module[g],
        )
        for g in np.argsort(-total_self, kind="stable").tolist()
        if calls[g] or total_self[g]
    ]
    wall = max(about.wall_ns, 0)
    interrupted = inside - int(total_self.sum()) - tracer_ns
    computed = work_of_steps(stored, first, first + len(table), len(line.steps[process]))
    device = device_of_steps(stored, first, first + len(table), len(line.steps[process]))
    return Summary(
        process=about,
        wall_ns=wall,
        outside_ns=wall - busy,
        tracer_ns=tracer_ns,
        interrupted_ns=max(interrupted, 0),
        parallel_ns=inside - busy - min(interrupted, 0),
        cost_ns=tracing_cost(about),
        step_cost=_step_cost(about, line.steps[process], is_call, nullable_codes(table, "step")),
        rows=rows,
        models=_models(stored, module[tops_called], nullable_codes(table, "root")[kind == BACKWARD]),
        steps=line.steps[process],
        work=computed,
        chosen=chosen_steps(stored, process),
        device_busy_ns=device[0],
        device_idle_ns=device[1],
        roots=int(tops_called.sum()),
        calls=int(is_call.sum()),
        backwards=int((kind == BACKWARD).sum()),
        raised_roots=int((tops_called & (status == RAISED)).sum()),
        aborted=int((status == ABORTED).sum()),
        unfinished=int(((status == UNFINISHED) & (kind != STEP)).sum()),
        own_call=_own_call(stored),
        called_directly=[] if is_cut(stored) else _called_directly(stored),
        devices=_devices(stored),
    )


def _top_of(table: pa.Table) -> Ints:
    """The row at the top of the tree that each call is in."""
    top = column(table, "parent") < 0
    return np.maximum.accumulate(np.where(top, np.arange(len(top)), 0))


def covered(start: Ints, duration: Ints) -> int:
    """Nanoseconds covered by at least one of some intervals."""
    if not len(start):
        return 0
    order = np.argsort(start, kind="stable")
    begin, end = start[order], (start + duration)[order]
    reach = np.maximum.accumulate(end)
    before = np.concatenate([begin[:1], reach[:-1]])
    return int(np.maximum(end - np.maximum(begin, before), 0).sum())


def _step_cost(about: Process, steps: Steps, is_call: npt.NDArray[np.bool_], step: Ints) -> StepCost | None:
    """The cost of tracing in the whole steps."""
    whole = np.append(steps.whole, False)
    inside = is_call & whole[np.minimum(step, len(steps))] & (step >= 0)
    took = int((steps.end - steps.start)[steps.whole].sum())
    return step_cost(about, int(steps.whole.sum()), took, int(inside.sum()), int(is_call.sum()))


def _models(stored: Stored, called: Ints, trained: Ints) -> list[tuple[str, int | None]]:
    """(name and class, parameters) of the root modules: first the one that is trained, which has a backward and the
    most parameters.
    """
    table, names = stored.table("modules"), roots(stored).name
    types = table.column("type").to_pylist()
    parameters = table.column("parameter_count").to_pylist()
    numbers, times = np.unique(called, return_counts=True)
    through = set(trained.tolist())
    order = sorted(
        zip(numbers.tolist(), times.tolist(), strict=True),
        key=lambda pair: (pair[0] in through, parameters[pair[0]] or 0, pair[1]),
        reverse=True,
    )
    return [
        (" ".join(filter(None, qualified(names[number], "", types[number]))), parameters[number])
        for number, _ in order
    ]


def _ran(stored: Stored) -> npt.NDArray[np.bool_]:
    module = nullable_codes(stored.table("calls"), "module")
    return np.bincount(module[module >= 0], minlength=stored.table("modules").num_rows) > 0


def _own_call(stored: Stored) -> list[str]:
    """Classes with a `__call__` of their own: calls of them may have gone unseen."""
    table = stored.table("modules")
    pairs = zip(table.column("type").to_pylist(), table.column("overrides_call").to_pylist(), strict=False)
    return sorted({kind for kind, own in pairs if own})


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
    for top, one, name in zip(root, module, text, strict=False):
        if ran[one] and name:
            parts = name.split(".")[:-1]
            called_prefixes.update(
                (top, ".".join(parts[:n])) for n in range(max(len(parts) - 8, 0), len(parts) + 1)
            )
    calls = stored.table("calls")
    found = []
    seen_roots = set(nullable_codes(calls, "root").tolist())
    for top, one, name in zip(root, module, text, strict=False):
        quiet = (
            not ran[one] and has_forward[one] and types[one] not in CONTAINERS and types[one] != "Sequential"
        )
        if quiet and top in seen_roots and (top, name) in called_prefixes:
            found.append(name or types[one])
    return found


def _devices(stored: Stored) -> list[str]:
    """Devices of the tensors that were seen."""
    tensors = stored.table("signatures").column("tensors")
    flat = tensors.combine_chunks().flatten()
    return sorted(set(flat.field("device").to_pylist())) if len(flat) else []
