"""The flat profile: the time of the recorded steps by module, each row without what it called, adding up.

Every view that says where the time went reads it, so one quantity has one value on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import commonest
from modtrace.analysis.columns import column, distinct_pairs, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.intervals import covered
from modtrace.analysis.left_out import left_out
from modtrace.analysis.module_repeats import Folded, folded
from modtrace.analysis.modules import instances, sums
from modtrace.analysis.phases import RECOMPUTE, Steps
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNNAMED: Final = {
    "step": "between phases",
    "backward": "backward outside modules",
    "loss": "loss outside modules",
}
"""Row that holds others -> what its own time is."""
WHOLE_RUN: Final = "the whole run"
"""`Window.text` of all the time from the start of recording on."""


@dataclass(frozen=True)
class Window:
    """The recorded time that shares are of.

    rows: the rows of the process in it, an element a row.
    base_ns: how long it is; 100 %.
    steps: how many training steps it is; 0 where it is divided into none, and numbers are of all of it.
    text: what it is: `steps 1-4; the first left out`, `39 of 40 calls; the first left out`, `the whole run`.
    """

    rows: Bools
    base_ns: int
    steps: int
    text: str


@dataclass(frozen=True)
class ProfileRow:
    """A group of repeated modules of one class, or all phases, spans or functions of one name. Sums over the window.

    name, type: `h.*.mlp.c_fc` and its class; the name of a root is that of the root.
    instances: how many modules.
    calls: of its forward, without what checkpointing computes again; of anything else its rows.
    self_ns: wall time without that of its children and of modtrace, of the rows for which it is known; None where it is
        known of none. `forward_ns` and `backward_ns` are its parts, None for what is no module and where not known.
        Recomputing is in `backward_ns`.
    device_ns: time on the device without that of its children; None where it is not known for each.
    output: the signature seen most often, "" for none.
    group: its number in `folded` with the same `repeats`, -1 for a row of several groups.
    """

    name: str
    type: str
    instances: int
    calls: int
    self_ns: int | None
    forward_ns: int | None
    backward_ns: int | None
    device_ns: int | None
    output: str
    of_module: bool
    group: int

    @property
    def spent_ns(self) -> int:
        """`self_ns`, 0 where it is not known: for adding up and for the order of rows."""
        return self.self_ns or 0

    @property
    def label(self) -> str:
        """The name as it is shown: with the number of modules behind it."""
        return f"{self.name} x{self.instances}" if self.instances > 1 else self.name


@dataclass(frozen=True)
class FlatProfile:
    """Where the time of a window went. The `self_ns` of all rows, `tracer_ns`, `unknown_ns`, `before_ns`, `left_out_ns`
    and `outside_ns` minus `parallel_ns` add up to `window.base_ns`.

    rows: most time first.
    tracer_ns: modtrace itself.
    unknown_ns: in or around calls whose times are not known.
    parallel_ns: counted twice, because several threads ran at once.
    before_ns, outside_ns: before the first recorded call, and later while nothing recorded ran; 0 but for a whole run.
    left_out_ns: steps of which no calls were recorded (`--keep`); 0 but for a whole run.
    before_first_ns: from the start of recording to the first recorded call, in any window.
    """

    window: Window
    rows: list[ProfileRow]
    tracer_ns: int
    unknown_ns: int
    parallel_ns: int
    before_ns: int
    left_out_ns: int
    outside_ns: int
    before_first_ns: int

    @property
    def per(self) -> int:
        """Divisor that makes a sum one of a step; 1 without steps."""
        return max(self.window.steps, 1)

    @property
    def hot(self) -> list[ProfileRow]:
        """The rows with time, and behind them those whose time is not known."""
        rows = [row for row in self.rows if row.spent_ns > 0 or row.device_ns]
        return [*rows, *(row for row in self.rows if row.self_ns is None and not row.device_ns)]

    @property
    def on_device(self) -> bool:
        """True where times on a device are known of what ran in modules."""
        return any(row.device_ns for row in self.rows)


@once
def flat_profile(
    stored: Stored, process: int = 0, *, whole_run: bool = False, repeats: bool = True
) -> FlatProfile:
    """The flat profile of one process.

    Args:
        stored: the trace.
        process: its position in `stored.processes`.
        whole_run: of all the time from the start of recording on, instead of the steps that count in statistics.
        repeats: modules that are repeats of one another are one row.
    """
    line = timeline(stored)
    low, high = np.searchsorted(column(line.calls, "process"), [process, process + 1]).tolist()
    table = line.calls.slice(low, high - low)
    start, busy = column(table, "start_ns"), busy_ns(table)
    wall_ns = max(stored.processes[process].wall_ns, 0)
    before_ns = min(max(int(start.min()), 0), wall_ns) if len(table) else wall_ns
    steps = line.steps[process]
    if whole_run:
        window = Window(np.ones(len(table), np.bool_), wall_ns, 0, WHOLE_RUN)
    else:
        window = _window(stored, process, table, steps, busy)
    counted = _timed(table) & window.rows
    self_ns = np.where(counted, values_and_known(table, "self_ns")[0], -1)
    tracer_ns = int(values_and_known(table, "tracer_ns")[0][counted].sum())
    rows = _rows(
        stored, table, window, self_ns, device_self_ns(stored, low, high), folded(stored, repeats=repeats)
    )
    around_ns = max(wall_ns - busy, 0) if whole_run else 0
    before_ns_in = min(before_ns, around_ns)
    stretches = left_out(stored, process)
    left_out_ns = min(int((stretches[:, 3] - stretches[:, 2]).sum()), around_ns - before_ns_in)
    lacking_ns = window.base_ns - around_ns - tracer_ns - int(self_ns[counted].sum())
    return FlatProfile(
        window=window,
        rows=rows,
        tracer_ns=tracer_ns,
        unknown_ns=max(lacking_ns, 0),
        parallel_ns=max(-lacking_ns, 0),
        before_ns=before_ns_in,
        left_out_ns=left_out_ns,
        outside_ns=around_ns - before_ns_in - left_out_ns,
        before_first_ns=before_ns,
    )


def busy_ns(table: CallTable) -> int:
    """Nanoseconds in which anything recorded of one process was running, several threads at once counted once."""
    duration, known = values_and_known(table, "duration_ns")
    tops = (column(table, "parent") < 0) & known
    return covered(column(table, "start_ns")[tops], duration[tops])


def _window(stored: Stored, process: int, table: CallTable, steps: Steps, busy: int) -> Window:
    """The steps that count; without a training loop the calls of roots that do, of a root without any all of its calls;
    without either all that was recorded.
    """
    if not len(steps) or not len(table):
        return Window(np.ones(len(table), np.bool_), busy, 0, "the recorded time")
    chosen = chosen_steps(stored, process)
    counts, step = chosen.steps, nullable_codes(table, "step")
    by_root = steps.by == "root"
    text = chosen.text
    if by_root:
        counts = _each_root(nullable_codes(table, "module")[np.minimum(steps.first, len(table) - 1)], counts)
        text = _of_calls(counts, chosen.text, bool((counts == chosen.steps).all()))
    inside = np.append(counts, False)[np.minimum(step, len(counts))] & (step >= 0)
    base_ns = int((steps.end - steps.start)[counts].sum())
    return Window(inside, base_ns, 0 if by_root else int(counts.sum()), text)


def _each_root(module: Ints, counts: Bools) -> Bools:
    """The calls of roots that count, and all of a root that has none of these."""
    size = int(module.max(initial=0)) + 1
    usual: Bools = counts | (np.bincount(module[counts], minlength=size) == 0)[module]
    return usual


def _of_calls(counts: Bools, text: str, plainly: bool) -> str:
    number = int(counts.sum())
    if number == len(counts):
        return "1 call" if number == 1 else f"{number:,} calls"
    left_out = text.partition("; ")[2] if plainly else "the first of each left out"
    return f"{number:,} of {len(counts):,} calls" + (f"; {left_out}" if left_out else "")


def _timed(table: CallTable) -> Bools:
    """Rows whose self time is known and is inside of a tree whose top came to its end."""
    _, known = values_and_known(table, "duration_ns")
    _, self_known = values_and_known(table, "self_ns")
    top = column(table, "parent") < 0
    top_of = np.maximum.accumulate(np.where(top, np.arange(len(top)), 0))
    timed: Bools = self_known & known[top_of] if len(top) else self_known
    return timed


def device_self_ns(stored: Stored, low: int, high: int) -> Ints:
    """Time on the device of rows of the timeline without that of their children, -1 where it is not known.

    Args:
        stored: the trace.
        low, high: the rows of one process.
    """
    each = np.array(device_times(stored).device_ns[low:high])
    if not (each >= 0).any():
        return each
    table = timeline(stored).calls.slice(low, high - low)
    parent, call_kind = column(table, "parent"), column(table, "kind")
    inner = parent >= 0
    above, below = parent[inner] - low, each[inner]
    own = each - sums(above, np.maximum(below, 0), len(each))
    ran = (call_kind[inner] == MODULE) | (call_kind[inner] == BACKWARD)
    lacking = np.bincount(above[(below < 0) & ran], minlength=len(each)) > 0
    return np.where((each >= 0) & ~lacking, np.maximum(own, 0), -1)


def _rows(
    stored: Stored, table: CallTable, window: Window, self_ns: Ints, device_ns: Ints, groups: Folded
) -> list[ProfileRow]:
    group, count = groups.group[column(table, "call")], len(groups.name)
    inside, call_kind = window.rows, column(table, "kind")
    again = nullable_codes(table, "phase") == RECOMPUTE
    backward = (call_kind == BACKWARD) | ((call_kind == MODULE) & again)
    of_group, number, _ = distinct_pairs(group[inside], nullable_codes(table, "module")[inside] + 1)
    modules = np.bincount(of_group, np.append(1, instances(stored.table("modules")))[number], minlength=count)
    calls = np.bincount(group[inside & ~backward], minlength=count)
    ways = (self_ns >= 0), (self_ns >= 0) & ~backward, (self_ns >= 0) & backward
    spent, in_forward, in_backward = (sums(group[way], self_ns[way], count) for way in ways)
    told, told_forward, told_backward = (np.bincount(group[way], minlength=count) > 0 for way in ways)
    with_forward, with_backward = (
        np.bincount(group[inside & way], minlength=count) > 0 for way in (~backward, backward)
    )
    ran = inside & ((call_kind == MODULE) | (call_kind == BACKWARD))
    timed = ran & (device_ns >= 0)
    device = sums(group[timed], device_ns[timed], count)
    lacking = (np.bincount(group[timed], minlength=count) == 0) | (
        np.bincount(group[ran & (device_ns < 0)], minlength=count) > 0
    )
    outputs = commonest(group[inside], nullable_codes(table, "outputs")[inside], count).tolist()
    texts = stored.table("signatures").column("text").to_pylist()
    on_device = not bool(lacking.all())
    order = np.argsort(-np.where(lacking, 0, device) if on_device else -spent, kind="stable")
    if on_device:
        order = np.lexsort((-spent, -np.where(lacking, 0, device)))

    def part(g: int, times: Ints, known: Bools, present: Bools) -> int | None:
        """Time of forward or backward: 0 where there was none, None where it is not known."""
        return int(times[g]) if groups.of_module[g] and (known[g] or not present[g]) else None

    return [
        ProfileRow(
            name=groups.title(g) if groups.of_module[g] else UNNAMED.get(groups.name[g], groups.title(g)),
            type=groups.type[g],
            instances=int(modules[g]) if groups.of_module[g] else 1,
            calls=int(calls[g]),
            self_ns=int(spent[g]) if told[g] else None,
            forward_ns=part(g, in_forward, told_forward, with_forward),
            backward_ns=part(g, in_backward, told_backward, with_backward),
            device_ns=None if lacking[g] else int(device[g]),
            output=texts[outputs[g]] if outputs[g] >= 0 else "",
            of_module=groups.of_module[g],
            group=g,
        )
        for g in order.tolist()
        if calls[g] or spent[g]
    ]


@dataclass(frozen=True)
class Shown:
    """The rows of a profile that there is room for, and what all others are together."""

    rows: list[ProfileRow]
    further: int
    further_ns: int
    further_device_ns: int


def hottest(profile: FlatProfile, limit: int) -> Shown:
    """At most `limit` rows: the hottest by name, and of what remains those classes that have the most time.

    A model of many unlike layers has no hot row, but a hot class: its other modules are one row (`other Conv2d x41`).
    """
    rows = profile.hot
    if len(rows) <= limit:
        return Shown(rows, 0, 0, 0)
    classes = min(3, max(limit - 3, 0) // 3)
    named, others = rows[: limit - classes], rows[limit - classes :]
    by_class: dict[str, list[ProfileRow]] = {}
    for row in others:
        if row.of_module:
            by_class.setdefault(row.type, []).append(row)
    least = named[-1].device_ns or named[-1].spent_ns
    joined = [_joined(members) for members in by_class.values() if len(members) > 1]
    joined = [row for row in joined if (row.device_ns or row.spent_ns) >= least]
    joined = sorted(joined, key=lambda row: (-(row.device_ns or 0), -row.spent_ns))[:classes]
    in_class = {row.name for row in joined}
    single = [row for row in others if not row.of_module or _class_name(row) not in in_class]
    room = limit - len(named) - len(joined)
    further = single[room:]
    return Shown(
        [*named, *single[:room], *joined],
        len(further),
        sum(row.spent_ns for row in further),
        sum(row.device_ns or 0 for row in further),
    )


def _joined(rows: list[ProfileRow]) -> ProfileRow:
    """All modules of one class among some rows as one row."""
    known = all(row.device_ns is not None for row in rows)
    outputs = {row.output for row in rows}
    return ProfileRow(
        name=_class_name(rows[0]),
        type="",
        instances=sum(row.instances for row in rows),
        calls=sum(row.calls for row in rows),
        self_ns=sum(row.spent_ns for row in rows) if any(row.self_ns is not None for row in rows) else None,
        forward_ns=sum(row.forward_ns or 0 for row in rows),
        backward_ns=sum(row.backward_ns or 0 for row in rows),
        device_ns=sum(row.device_ns or 0 for row in rows) if known else None,
        output=outputs.pop() if len(outputs) == 1 else "",
        of_module=True,
        group=-1,
    )


def _class_name(row: ProfileRow) -> str:
    return f"other {row.type}"
