"""From a trace to the numbers that runs are compared by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import commonest
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.comparing.module_forest import ModuleForest, NamedModule
from modtrace.analysis.comparing.run_numbers import (
    BACKWARD,
    DEVICE,
    FORWARD,
    MODULE_NUMBERS,
    STEP,
    SUBTREE,
    UNKNOWN,
    RunNumbers,
    StepTimes,
)
from modtrace.analysis.compilations import compiled
from modtrace.analysis.device_times import device_times, launch_timed
from modtrace.analysis.flat_profile import UNNAMED
from modtrace.analysis.flops import work
from modtrace.analysis.metric_values import of_each_call
from modtrace.analysis.module_parameters import own_parameters
from modtrace.analysis.modules import (
    forward_rows,
    module_names,
    over_steps,
    per_step,
    without_recompute,
)
from modtrace.analysis.nonfinite import first_fault
from modtrace.analysis.recording_end import headline_of
from modtrace.analysis.saved_bytes import of_modules as saved_of_modules
from modtrace.analysis.saved_totals import most_kept
from modtrace.analysis.statistics import chosen_steps, rows_that_count
from modtrace.analysis.step_columns import StepColumns, recorded_columns
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD as BACKWARD_KIND
from modtrace.trace.schema import DTYPE_BYTES, MODULE, PHASES
from modtrace.trace.schema import FUNCTION as FUNCTION_KIND

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TRACER: Final = "modtrace itself"
FUNCTIONS: Final = "functions outside modules"
_THREADS: Final = re.compile(r", (\d+) threads\Z")
_TORCH: Final = re.compile(r", torch [^,]+")


def run_numbers(stored: Stored) -> RunNumbers:
    """The numbers of a run, of its first rank."""
    return _Extraction(stored).numbers()


class _Extraction:
    """`node` is the module of each row of the table `modules`, -1 for one of another rank or without a name."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        line = timeline(stored)
        self.labels = line.labels
        self.rows = slice(0, int(np.searchsorted(column(line.calls, "process"), 1)))
        self.table = line.calls.slice(0, self.rows.stop)
        self.counts = rows_that_count(stored)[self.rows]
        self.step = nullable_codes(self.table, "step")
        self.module = nullable_codes(self.table, "module")
        self.modules, self.dtypes, self.node = named_modules(stored)
        self.forest = ModuleForest(self.modules)

    def numbers(self) -> RunNumbers:
        stored, size = self.stored, len(self.modules)
        steps = recorded_columns(stored, 0) if stored.processes else None
        line_steps = timeline(stored).steps
        outside_names, outside_times, subtree = self._self_times()
        names, times = _step_times(steps, outside=bool(line_steps) and line_steps[0].by != "root")
        operations = self._operations()
        module_numbers = self._module_numbers(operations)
        return RunNumbers(
            environment=_environment(stored, self.dtypes, steps),
            modules=self.modules,
            dtypes=self.dtypes,
            outputs=self._outputs(),
            operations=operations,
            module_numbers=module_numbers,
            module_times={**self._module_times(size), SUBTREE: subtree},
            step_names=names,
            step_times=times,
            outside_names=outside_names,
            outside_times=outside_times,
            totals=self._totals(steps, module_numbers),
            steps=int(steps["in_statistics"].sum()) if steps is not None else 0,
            training=bool(line_steps) and line_steps[0].by != "root",
            nonfinite=_nonfinite(stored),
            notes=_notes(stored),
        )

    def _of_modules(self, rows: Bools, values: Ints) -> StepTimes:
        """Sums a step by module, over some rows."""
        node = np.append(self.node, -1)[self.module]
        chosen = rows & (node >= 0) & (self.step >= 0)
        sums = per_step(node[chosen], self.step[chosen], values[chosen], self.counts[chosen])
        return _spreads(*sums, len(self.modules))

    def _module_times(self, size: int) -> dict[str, StepTimes]:
        duration, known = values_and_known(self.table, "duration_ns")
        forward = forward_rows(self.table)
        back = column(self.table, "kind") == BACKWARD_KIND
        backward_ns = without_recompute(self.table, np.where(known, duration, UNKNOWN))
        device_ns = device_times(self.stored).device_ns[self.rows]
        if (device_ns >= 0).any():
            device_ns = np.where(back, without_recompute(self.table, device_ns), device_ns)
        on_device = (device_ns >= 0) & (forward | back)
        return {
            FORWARD: self._of_modules(forward & known, duration),
            BACKWARD: self._of_modules(back & (backward_ns >= 0), backward_ns),
            DEVICE: self._of_modules(on_device, device_ns) if on_device.any() else StepTimes.unknown(size),
        }

    # time of a step, each row without what is inside it --------------------------------------------------------------

    def _self_times(self) -> tuple[list[str], StepTimes, StepTimes]:
        """Names and times of what is in no module, and the times of subtrees of modules."""
        self_ns, known = values_and_known(self.table, "self_ns")
        owner = _owners(self.table, self.module)
        node = np.append(self.node, -1)[owner]
        core = np.array([self.forest.core(number) for number in range(len(self.modules))] + [-1], np.int64)
        above = np.array([*self.forest.above, -1], np.int64)
        in_step = known & (self.step >= 0)
        steps, usual = self._steps_that_count()
        chosen = in_step & (node >= 0)
        keys, numbers, values = _summed(core[node[chosen]], self.step[chosen], self_ns[chosen], steps)
        every: list[tuple[Ints, Ints, Ints]] = []
        while len(keys):
            every.append((keys, numbers, values))
            up = above[keys]
            keys, numbers, values = _summed(up[up >= 0], numbers[up >= 0], values[up >= 0], steps)
        subtree = StepTimes.unknown(len(self.modules))
        if every:
            keys, numbers, values = (np.concatenate(parts) for parts in zip(*every, strict=True))
            subtree = self._spread(keys, numbers, values, usual, len(self.modules))
        names, outside = self._outside(in_step & (node < 0), self_ns, usual)
        return names, outside, subtree

    def _steps_that_count(self) -> tuple[int, Bools]:
        """The number of steps, and which of them count."""
        if not self.stored.processes:
            return 0, np.zeros(0, np.bool_)
        usual = chosen_steps(self.stored, 0).steps
        return len(usual), usual

    def _spread(self, keys: Ints, steps: Ints, values: Ints, usual: Bools, count: int) -> StepTimes:
        usual = np.append(usual, False)[np.minimum(steps, len(usual))]
        return _spreads(*per_step(keys, steps, values, usual), count)

    def _outside(self, rows: Bools, self_ns: Ints, usual: Bools) -> tuple[list[str], StepTimes]:
        label, call_kind = nullable_codes(self.table, "label"), column(self.table, "kind")
        names: dict[str, int] = {}
        name_of_label = [names.setdefault(UNNAMED.get(name, name), len(names)) for name, _ in self.labels]
        functions, tracer = (names.setdefault(name, len(names)) for name in (FUNCTIONS, TRACER))
        key = np.array([*name_of_label, functions], np.int64)[label]
        key = np.where(call_kind == FUNCTION_KIND, functions, key)
        tracer_ns, traced = values_and_known(self.table, "tracer_ns")
        traced = traced & (self.step >= 0) & (tracer_ns > 0)
        keys = np.concatenate([key[rows], np.full(int(traced.sum()), tracer)])
        steps = np.concatenate([self.step[rows], self.step[traced]])
        times = self._spread(
            keys, steps, np.concatenate([self_ns[rows], tracer_ns[traced]]), usual, len(names)
        )
        ran = np.flatnonzero(times.steps > 0)
        listed = list(names)
        return [listed[number] for number in ran.tolist()], times.rows(ran)

    # numbers without noise --------------------------------------------------------------------------------------------

    def _module_numbers(self, operations: Sequence[tuple[str, ...]]) -> dict[str, Ints]:
        stored, size = self.stored, len(self.modules)
        forward = forward_rows(self.table)
        calls = self._of_modules(forward, np.ones(len(self.table), np.int64)).p50_ns
        table = stored.table("modules")
        facts = {}
        for key, name in (("parameters", "parameter_count"), ("parameter_bytes", "parameter_bytes")):
            values, known = values_and_known(table, name)
            facts[key] = self._at_nodes(np.where(known, values.astype(np.int64), UNKNOWN), size)
        counted = np.array([len(names) for names in operations], np.int64)
        numbers = {
            "calls": np.maximum(calls, 0),
            "flops": self._flops(forward),
            "saved": self._at_nodes(saved_of_modules(stored, len(table)), size),
            "peak": self._peaks(size),
            "operations": np.where(self._counted(size), counted, UNKNOWN),
            **facts,
        }
        return {key: numbers[key] for key in MODULE_NUMBERS}

    def _at_nodes(self, values: Ints, size: int) -> Ints:
        """Values of rows of `modules` as those of nodes; of several rows the most."""
        result = np.full(size, UNKNOWN, np.int64)
        rows = np.flatnonzero(self.node >= 0)
        np.maximum.at(result, self.node[rows], values[rows])
        return result

    def _flops(self, forward: Bools) -> Ints:
        flops = work(self.stored).flops[self.rows]
        back = column(self.table, "kind") == BACKWARD_KIND
        values = np.where(back, without_recompute(self.table, flops), flops)
        rows, node = forward | back, np.append(self.node, -1)[self.module]
        unknown = np.bincount(node[rows & (values < 0) & (node >= 0)], minlength=len(self.modules)) > 0
        return np.where(unknown, UNKNOWN, self._of_modules(rows, np.maximum(values, 0)).p50_ns)

    def _peaks(self, size: int) -> Ints:
        peak = of_each_call(self.stored, "memory_peak_bytes")[self.rows]
        node = np.append(self.node, -1)[self.module]
        most = np.full(size, UNKNOWN, np.int64)
        chosen = (node >= 0) & (peak >= 0)
        np.maximum.at(most, node[chosen], peak[chosen])
        return most

    def _work_rows(self) -> Ints:
        """For each node a row of `work` that tells of its own operations; -2 where nothing was counted, -1 for none."""
        computed = work(self.stored)
        row, own = computed.row[self.rows], computed.own[self.rows]
        node = np.append(self.node, -1)[self.module]
        chosen = np.flatnonzero((column(self.table, "kind") == MODULE) & (node >= 0) & (own >= 0))
        result = np.full(len(self.modules), -2, np.int64)
        result[node[chosen][::-1]] = row[chosen][::-1]
        return result

    def _counted(self, size: int) -> Bools:
        counted: Bools = self._work_rows() > -2 if size else np.zeros(0, np.bool_)
        return counted

    def _operations(self) -> list[tuple[str, ...]]:
        names = self.stored.table("work").column("operations").to_pylist()
        return [tuple(names[row] or ()) if row >= 0 else () for row in self._work_rows().tolist()]

    def _outputs(self) -> list[str]:
        node = np.append(self.node, -1)[self.module]
        rows = forward_rows(self.table) & (node >= 0)
        codes = commonest(node[rows], nullable_codes(self.table, "outputs")[rows], len(self.modules)).tolist()
        texts = self.stored.table("signatures").column("text").to_pylist()
        return [str(texts[code]) if code >= 0 else "" for code in codes]

    def _totals(self, steps: StepColumns | None, of_modules: Mapping[str, Ints]) -> dict[str, int | None]:
        stored = self.stored
        graphs = compiled(stored) if stored.processes else None
        kept = most_kept(stored)
        tops = [self.forest.outer[number] for number in self.forest.tops]
        operations = of_modules["operations"]
        return {
            "calls": _median(steps, "calls"),
            "flops": _median(steps, "flops"),
            "parameters": _sum(of_modules["parameters"][tops]),
            "parameter_bytes": _sum(of_modules["parameter_bytes"][tops]),
            "saved": kept.saved_bytes if kept is not None and kept.complete else None,
            "peak": _most(steps, "memory_peak_bytes"),
            "operations": int(operations[operations >= 0].sum()) if (operations >= 0).any() else None,
            "graphs": graphs.graphs if graphs is not None else 0,
            "recompiles": graphs.recompiles if graphs is not None else 0,
            "modules": len(self.modules),
        }


@once
def named_modules(stored: Stored) -> tuple[list[NamedModule], list[str], Ints]:
    """The modules of the first rank, the types of their parameters, and which of them each row of `modules` is; -1 for
    one of another rank, or without a name.
    """
    table = stored.table("modules")
    name, _, root = module_names(stored)
    of_rank = column(table, "process") == 0
    called = nullable_codes(timeline(stored).calls, "module")
    ran = np.bincount(called[called >= 0], minlength=len(table)) > 0
    types, packages = (table.column(key).to_pylist() for key in ("type", "type_module"))
    modules: list[NamedModule] = []
    dtypes: list[str] = []
    number_of: dict[tuple[str, str, str], int] = {}
    node = np.full(len(table), -1, np.int64)
    for row, parameters in enumerate(own_parameters(stored)):
        if not of_rank[row] or not (name[row] or ran[row]):
            continue
        key = (root[row], name[row], types[row])
        if key not in number_of:
            number_of[key] = len(modules)
            shapes = tuple((str(one["path"]), tuple(one["shape"] or ())) for one in parameters)
            modules.append(NamedModule(root[row], name[row], types[row], packages[row], shapes))
            dtypes.append(", ".join(sorted({str(one["dtype"]) for one in parameters})))
        node[row] = number_of[key]
    return modules, dtypes, node


def _owners(table: CallTable, module: Ints) -> Ints:
    """The module whose time the time of each row is: its own, or that of the innermost module around; -1 for none."""
    parent, owner = column(table, "parent"), module.copy()
    lacking = np.flatnonzero((owner < 0) & (parent >= 0))
    while len(lacking):  # as often as functions and spans are inside of each other
        owner[lacking] = owner[parent[lacking]]
        reached = owner[lacking] >= 0
        if not reached.any():
            break
        lacking = lacking[~reached]
    return owner


def _summed(keys: Ints, steps: Ints, values: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Keys, steps and the sums of values of each pair of both."""
    if not len(keys):
        return keys, steps, values
    pairs, which = np.unique(keys * count + steps, return_inverse=True)
    total = np.zeros(len(pairs), np.int64)
    np.add.at(total, which, values)
    return pairs // count, pairs % count, total


def _spreads(values: Ints, owner: Ints, count: int) -> StepTimes:
    figures = over_steps(owner, values, count)
    least = np.full(count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(least, owner, values)
    steps = np.bincount(owner, minlength=count)
    least = np.where(steps > 0, least, UNKNOWN)
    return StepTimes(figures[1], least, figures[3], steps, figures[0], figures[2])


def _step_times(steps: StepColumns | None, *, outside: bool) -> tuple[list[str], StepTimes]:
    """`step`, and of a training loop its phases, over the steps that count."""
    names = [STEP, *([*PHASES, "other_threads", "other"] if outside else []), DEVICE]
    if steps is None or not len(steps):
        return names, StepTimes.unknown(len(names))
    usual = steps.chosen(steps["in_statistics"])
    columns = [usual["duration_ns" if name == STEP else f"{name}_ns"] for name in names]
    parts = [values[values >= 0] if len(values) == (values >= 0).sum() else values[:0] for values in columns]
    owner = np.concatenate([np.full(len(values), number) for number, values in enumerate(parts)])
    return names, _spreads(np.concatenate(parts), owner.astype(np.int64), len(names))


def _median(steps: StepColumns | None, name: str) -> int | None:
    """The median of a column over the steps that count; None where one is not known."""
    if steps is None:
        return None
    values = np.sort(steps[name][steps["in_statistics"]])
    return int(values[(len(values) - 1) // 2]) if len(values) and values[0] >= 0 else None


def _most(steps: StepColumns | None, name: str) -> int | None:
    most = int(steps[name].max(initial=UNKNOWN)) if steps is not None else UNKNOWN
    return most if most >= 0 else None


def _sum(values: Ints) -> int | None:
    return int(values.sum()) if len(values) and (values >= 0).all() else None


def _nonfinite(stored: Stored) -> bool | None:
    """Values were not finite; None where no recording was asked to look."""
    if first_fault(stored) is not None:
        return True
    options = stored.processes[0].options if stored.processes else None
    return False if options is not None and options.get("nan") == "on" else None


def _environment(stored: Stored, dtypes: Sequence[str], steps: StepColumns | None) -> dict[str, str | None]:
    """Facts of a run that are no numbers of its modules."""
    run, about = stored.run, stored.processes[0] if stored.processes else None
    device = about.devices[0] if about is not None and about.devices else None
    threads = _THREADS.search(device) if device is not None else None
    ends = about.end.devices if about is not None and about.end is not None else {}
    used = [_TORCH.sub("", name) for key, name in ends.items() if key != "cpu"]
    widest = sorted({name for text in dtypes for name in text.split(", ") if name}, key=_width)
    options = about.options if about is not None else None
    samples = _median(steps, "samples")
    line_steps = timeline(stored).steps
    optimizers = sorted({kind for name, kind in timeline(stored).labels if name == "optimizer" and kind})
    return {
        "arguments": " ".join(run.argv) or None,
        "modtrace": run.modtrace,
        "python": run.python,
        "torch": about.torch if about is not None else None,
        "platform": run.platform,
        "processor": _TORCH.sub("", _THREADS.sub("", device)) if device is not None else None,
        "threads": threads[1] if threads is not None else None,
        "devices": ", ".join(used) or None,
        "ranks": str(max(len(stored.processes), (about.world_size if about is not None else None) or 1)),
        "engine": about.engine if about is not None else None,
        "options": None
        if options is None
        else " ".join(f"{key}={value}" for key, value in options.items()) or "none",
        "parameter types": ", ".join(widest) or None,
        "optimizer": ", ".join(optimizers) or None,
        "step ends by": line_steps[0].by if line_steps else None,
        "samples a step": str(samples) if samples is not None else None,
        "steps": chosen_steps(stored, 0).text if stored.processes else None,
    }


def _width(dtype: str) -> tuple[int, str]:
    return -DTYPE_BYTES.get(dtype, 0), dtype


def _notes(stored: Stored) -> list[str]:
    parts = [headline_of(stored), launch_timed(stored) or ""]
    if len(stored.processes) > 1:
        parts.append(f"rank 0 of {len(stored.processes)} is compared")
    return [part for part in parts if part]
