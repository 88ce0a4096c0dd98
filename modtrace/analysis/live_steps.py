"""The steps of a growing trace: those that have ended are kept as sums over nodes, the last few calls as they are.

Steps are found by `phases.divide` over the calls since the last step that is sure to have ended, and only over those
that are inside no other unit; so memory is bounded by the window, not by the run. A call of another thread that comes
after its step has been added up counts for no step, only for the whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis import phases
from modtrace.analysis.call_arrays import Calls
from modtrace.analysis.live_nodes import BACK, LiveNodes, PlacedCalls
from modtrace.analysis.phases import DATA, PrecedingCalls, Steps, Stretch, divide
from modtrace.analysis.statistics import choose
from modtrace.analysis.step_evaluations import TrainedModules, UsualEvaluations, trained_in
from modtrace.trace.follow import Columns
from modtrace.trace.optimizer_turns import Pair
from modtrace.trace.schema import (
    BACKWARD,
    COUNTED,
    EVALUATING,
    IN_BACKWARD,
    MODULE,
    NO_GRAD,
    OK,
    PHASE,
    STEP,
    THREAD_SHIFT,
    UNFINISHED,
)

Ints = npt.NDArray[np.int64]

KEPT: Final = 200
"""Steps whose sums are kept: two windows of 100, one to compare with the other."""
UNSURE: Final = 2
"""The last steps that later calls may still change."""
MANY_CALLS: Final = 500_000
"""Calls that are kept as they are, before those of one node are added up."""
_STRETCHES: Final = 10_000
"""Of watching and of compiling: the last ones are looked at, as only the last steps are."""
_RULES: Final = ("root", "forward", "optimizer", "mark")
_SKELETON: Final = (
    "call", "parent", "last_call", "kind", "module", "label", "forward", "mode", "depth", "start_ns", "duration_ns",
    "status",
)  # fmt: skip


class RestartReading(Exception):
    """Other things end the steps than it seemed before: the trace must be read again from its beginning."""


@dataclass(frozen=True)
class Step:
    """A step that has ended. The sums have an element a node that ran in it; unknown times count as 0.

    counted: operations were counted in it.
    """

    number: int
    start_ns: int
    duration_ns: int
    data_ns: int
    counted: bool
    node: Ints
    calls: Ints
    total_ns: Ints
    self_ns: Ints


@dataclass(frozen=True)
class Sums:
    """Calls and times by node."""

    calls: Ints
    total_ns: Ints
    self_ns: Ints


class LiveSteps:
    """The steps of one process.

    steps: the last KEPT that have ended, in order. count: how many have ended in all. by: what ends them, as
    `Steps.by` has it. watched, compiled: when memory or kernels were watched, when torch compiled; (from, to) in
    nanoseconds since the start of recording, as far as that is written yet.
    """

    def __init__(self, nodes: LiveNodes, by: str = "root") -> None:
        self.steps: deque[Step] = deque(maxlen=KEPT)
        self.count = 0
        self.by = by
        self.watched: list[tuple[int, int]] = []
        self.compiled: list[tuple[int, int]] = []
        self.stretches: list[Stretch] = []
        """Steps that were left out, in front of steps that are not sure yet or are still to come."""
        self._every: list[tuple[int, int]] = []
        """Of how many steps one is recorded from a moment on."""
        self.calls = 0
        """Of modules, in all."""
        self._nodes = nodes
        self._thread = 0
        self._ended: int | None = None
        self._sure_ns = self._sure_calls = self._left_out = 0
        self._is_call = np.zeros(0, np.bool_)
        self._usual = UsualEvaluations()
        self._trained = TrainedModules()
        self._pairs: frozenset[Pair] = frozenset()
        self._all = np.zeros((3, 0), np.int64)
        self._skeleton: Columns = {name: np.zeros(0, np.int64) for name in _SKELETON}
        self._recent = np.zeros((6, 0), np.int64)  # start, thread, node, calls, total, self
        self._provisional: list[Step] = []
        self._again: set[int] = set()
        self._took_part: set[int] = set()

    def add(self, placed: PlacedCalls) -> None:
        """Take in calls that have ended.

        Raises:
            Restart: what ends a step is another thing than `by`, which is what to begin again with.
        """
        columns, node = placed.columns, placed.node
        if len(node):
            self._keep(columns, node, placed.clear)
        self._check_rule()
        self._divide()
        if self._recent.shape[1] > MANY_CALLS:
            self._thin()

    def left_out(self, stretch: Stretch, every: int) -> None:
        """Take in steps of which no calls are recorded; of `every` steps one was."""
        self.stretches.append(stretch)
        if not self._every or self._every[-1][1] != every:
            self._every.append((stretch.from_ns, every))

    def _is_besides(self, step: Step) -> bool:
        """True for a step that is recorded because it was remarkable, among others that are not."""
        place = bisect_right(self._every, (step.start_ns, 1 << 62)) - 1
        return place >= 0 and step.number % self._every[place][1] != 0

    def last(self, count: int) -> list[Step]:
        """The last steps that have ended, at most so many, in order."""
        known = [*self.steps, *self._provisional]
        return known[-count:] if count else []

    @property
    def ended(self) -> int:
        """Number of steps that have ended and are recorded, those among them that later calls may still change."""
        return self.count + len(self._provisional)

    @property
    def lacks_steps(self) -> bool:
        """True where steps were left out."""
        return bool(self._every)

    @property
    def number(self) -> int:
        """Number of the step in progress: so many have ended, those among them that were left out."""
        known = self.last(1)
        behind = sum(
            stretch.steps for stretch in self.stretches if known and stretch.to_ns > known[0].start_ns
        )
        return (known[0].number + 1 if known else 0) + behind

    @property
    def ended_ns(self) -> int:
        """Nanoseconds that these took."""
        return self._sure_ns + sum(step.duration_ns for step in self._provisional)

    @property
    def calls_in_steps(self) -> int:
        """Module calls in these."""
        calls = self._of_modules()
        return self._sure_calls + sum(int(step.calls[calls[step.node]].sum()) for step in self._provisional)

    def in_statistics(self, count: int) -> tuple[list[Step], str]:
        """Those of the last steps that count in statistics, and which they are in words."""
        known = self.last(count)
        counted = np.array([step.counted for step in known], np.bool_)
        first = known[0].number if known else 0
        complete = np.ones(len(known), np.bool_)
        watched, compiled = _meet(known, self.watched), _meet(known, self.compiled)
        besides = np.array([self._is_besides(step) for step in known], np.bool_)
        chosen = choose(complete, counted, watched, first, compiled=compiled, besides=besides)
        counted_steps = [step for step, counts in zip(known, chosen.steps.tolist(), strict=True) if counts]
        if known and known[-1].number - first >= len(known):
            return counted_steps, f"{len(counted_steps)} of the last {len(known)} steps in full"
        return counted_steps, chosen.text

    def _of_modules(self) -> npt.NDArray[np.bool_]:
        """Mask of the nodes of module calls."""
        nodes, known = self._nodes, len(self._is_call)
        are_calls = [
            root >= 0 and variant != BACK
            for (root, _), variant in zip(nodes.what[known:], nodes.variant[known:], strict=True)
        ]
        self._is_call = np.append(self._is_call, np.array(are_calls, np.bool_))
        return self._is_call

    def all(self) -> Sums:
        """Everything since the beginning, what is in no step too."""
        return Sums(*_grown(self._all, len(self._nodes)))

    def _keep(self, columns: Columns, node: Ints, clear: npt.NDArray[np.bool_]) -> None:
        total, self_ns = np.maximum(columns["duration_ns"], 0), np.maximum(columns["self_ns"], 0)
        self._all = _grown(self._all, len(self._nodes))
        np.add.at(self._all[0], node, 1)
        np.add.at(self._all[1], node, total)
        np.add.at(self._all[2], node, self_ns)
        self.calls += int(np.count_nonzero(columns["kind"] == MODULE))
        thread = columns["call"] >> THREAD_SHIFT
        began = self._begin_of_units(columns, clear)
        fresh = np.stack([began, thread, node, np.ones(len(node), np.int64), total, self_ns])
        self._recent = np.concatenate([self._recent, fresh], axis=1)
        call_kind, mode = columns["kind"], columns["mode"]
        again = (call_kind == MODULE) & ((mode & IN_BACKWARD) > 0)
        self._again.update(np.unique(columns["module"][again]).tolist())
        added = {name: columns[name][clear] for name in _SKELETON}
        joined = {name: np.concatenate([values, added[name]]) for name, values in self._skeleton.items()}
        order = np.argsort(joined["call"], kind="stable")
        self._skeleton = {name: values[order] for name, values in joined.items()}
        targets = np.unique(columns["forward"][(call_kind == BACKWARD) & (columns["forward"] >= 0)])
        ids: Ints = self._skeleton["call"]
        positions: Ints = np.searchsorted(ids, targets, side="right") - 1
        evaluating = (self._skeleton["mode"][positions] & EVALUATING) > 0 if len(ids) else positions >= 0
        self._took_part.update(ids[positions[(positions >= 0) & evaluating]].tolist())

    def _begin_of_units(self, columns: Columns, clear: npt.NDArray[np.bool_]) -> Ints:
        """When the unit that each call is in began, or the call itself: that of the last call before it in no unit."""
        opened = [entry.row for entry in self._nodes.opened.values() if entry.clear]
        ids = np.append(columns["call"][clear], np.array([row["call"] for row in opened], np.int64))
        start = np.append(columns["start_ns"][clear], np.array([row["start_ns"] for row in opened], np.int64))
        began: Ints = columns["start_ns"].copy()
        if len(ids):
            order = np.argsort(ids)
            positions = np.searchsorted(ids[order], columns["call"], side="right") - 1
            over = order[np.maximum(positions, 0)]
            within = (
                ~clear & (positions >= 0) & (ids[over] >> THREAD_SHIFT == columns["call"] >> THREAD_SHIFT)
            )
            began[within] = start[over[within]]
        return began

    def _check_rule(self) -> None:
        skeleton = self._skeleton
        phase = self._phase(skeleton)
        optimizer = (phase == phases.OPTIMIZER) & (skeleton["duration_ns"] >= 0) & (skeleton["status"] == OK)
        rule = 0
        if bool((skeleton["kind"] == STEP).any()):
            rule = 3
        elif bool(optimizer.any()):
            rule = 2
        elif bool((phase == phases.BACK).any()):
            rule = 1
        if rule > _RULES.index(self.by):
            raise RestartReading(_RULES[rule])

    def _phase(self, columns: Columns) -> Ints:
        """Index into phases.NAMES of each row."""
        labels, which = np.unique(columns["label"], return_inverse=True)
        names = [self._nodes.labels.get(label, ("",))[0] for label in labels.tolist()]
        code = np.array(
            [phases.NAMES.index(n) if n in phases.NAMES else phases.NONE for n in names], np.int64
        )
        phase_codes: Ints = np.where(columns["kind"] == PHASE, code[which] if len(code) else -1, phases.NONE)
        return phase_codes

    def _divide(self) -> None:
        calls, ids = self._calls()
        if not len(calls):
            self._provisional = []
            return
        earlier = PrecedingCalls(self.by, self._thread, self._ended, self._usual, self._trained, self._pairs)
        steps = divide(calls, earlier, stretches=self.stretches).steps
        if self.by != "root":
            self._thread = steps.thread
        complete = np.flatnonzero(steps.whole & (steps.end > steps.start))
        first_call = np.minimum(steps.first, len(ids) - 1)
        owner = self._owner(steps, ids[first_call] >> THREAD_SHIFT if self.by == "root" else ids[:0])
        order = np.argsort(owner, kind="stable")
        low, high = np.searchsorted(owner[order], [complete, complete + 1])
        sure = min(max(len(complete) - UNSURE, 0), int(np.searchsorted(complete, steps.final)))
        left_out = self._left_out + np.cumsum(~steps.recorded)
        first = min(max(len(complete) - KEPT - UNSURE, 0), sure)  # those before would be forgotten at once
        ended = [
            self._step(
                steps, int(complete[n]), order[low[n] : high[n]], self.count + n + int(left_out[complete[n]])
            )
            for n in range(first, len(complete))
        ]
        self._provisional = ended[sure - first :]
        if sure:
            done = complete[:sure]
            self._sure_ns += int((steps.end - steps.start)[done].sum())
            rows = order[np.isin(owner[order], done)]
            self._sure_calls += int(self._recent[3, rows][self._of_modules()[self._recent[2, rows]]].sum())
            self.steps.extend(ended[: sure - first])
            self.count += sure
            self._left_out = int(left_out[done[-1]])
            self.stretches = [
                stretch for stretch in self.stretches if stretch.to_ns > int(steps.start[done[-1]])
            ]
            if self.by == "root":
                self._forget_roots(ids[steps.first[complete[:sure]]])
            else:
                self._forget(steps, complete[:sure])

    def _calls(self) -> tuple[Calls, Ints]:
        """Calls that stand in no unit, with those that are open, as `divide` takes it, and their ids."""
        columns = self._skeleton
        opened = [entry.row for entry in self._nodes.opened.values() if entry.clear]
        if opened:
            columns = {
                name: np.append(values, [row[name] for row in opened]) for name, values in columns.items()
            }
            order = np.argsort(columns["call"], kind="stable")
            columns = {name: values[order] for name, values in columns.items()}
        ids, call_kind, module = columns["call"], columns["kind"], columns["module"]
        indices, mode = np.arange(len(ids)), columns["mode"].copy()
        if self._took_part:
            mode[np.isin(ids, list(self._took_part))] &= ~EVALUATING
        if self._again:
            mode[np.isin(module, list(self._again)) & ((mode & EVALUATING) == 0)] &= ~NO_GRAD
        sizes, which = np.unique(module, return_inverse=True)
        has_some = np.array([self._has_parameters(key) for key in sizes.tolist()], np.bool_)
        parent = np.searchsorted(ids, columns["parent"])
        has_parent = (columns["parent"] >= 0) & (parent < len(ids))
        has_parent &= ids[np.minimum(parent, len(ids) - 1)] == columns["parent"] if len(ids) else has_parent
        last = np.maximum(np.searchsorted(ids, columns["last_call"], side="right") - 1, indices)
        depth, thread = columns["depth"], ids >> THREAD_SHIFT
        for row in np.flatnonzero(columns["status"] == UNFINISHED)[::-1].tolist():
            behind = np.flatnonzero((thread[row + 1 :] != thread[row]) | (depth[row + 1 :] <= depth[row]))
            last[row] = row + int(behind[0]) if len(behind) else len(ids) - 1
        duration = columns["duration_ns"]
        unit_calls = Calls(
            kind=call_kind,
            module=np.where(call_kind == MODULE, module, -1),
            parent=np.where(has_parent, parent, -1),
            last=last,
            depth=depth,
            thread=thread,
            label=self._phase(columns),
            maker=columns["label"],
            forward=np.full(len(ids), -1, np.int64),
            mode=mode,
            start=columns["start_ns"],
            end=columns["start_ns"] + np.maximum(duration, 0),
            known=duration >= 0,
            status=columns["status"],
            parameters=has_some[which] & (call_kind == MODULE) if len(ids) else call_kind == MODULE,
        )
        return unit_calls, ids

    def _has_parameters(self, module: int) -> bool:
        count = self._nodes.modules.get(module, ("", 0))[1]
        return count is None or count > 0

    def _owner(self, steps: Steps, root_thread: Ints) -> Ints:
        """The step in which each of the recent calls began, -1 for none. Where each root call is a step it is the one
        on the call's own thread.
        """
        start, thread = self._recent[0], self._recent[1]
        if steps.by != "root":
            return _in(start, steps.start, steps.end)
        owner = np.full(len(start), -1, np.int64)
        for root_of in np.unique(root_thread).tolist():
            step_rows, call_rows = np.flatnonzero(root_thread == root_of), np.flatnonzero(thread == root_of)
            position = _in(start[call_rows], steps.start[step_rows], steps.end[step_rows])
            owner[call_rows] = np.where(position >= 0, step_rows[np.maximum(position, 0)], -1)
        return owner

    def _step(self, steps: Steps, row: int, calls: Ints, number: int) -> Step:
        """The sums of one step over some of the recent calls."""
        values = self._recent[2:, calls]
        node, which = np.unique(values[0], return_inverse=True)
        counted = self._counted(steps, row)
        sums = np.zeros((3, len(node)), np.int64)
        _add(sums, which, values[1:])
        start, end = int(steps.start[row]), int(steps.end[row])
        return Step(number, start, end - start, int(steps.spent[DATA, row]), counted, node, *sums)

    def _counted(self, steps: Steps, row: int) -> bool:
        """True if operations were counted in a step."""
        skeleton = self._skeleton
        counted = skeleton["start_ns"][(skeleton["mode"] & COUNTED) > 0]
        inside = (counted >= steps.start[row]) & (counted < steps.end[row])
        return bool(inside.any())

    def _forget(self, steps: Steps, done: Ints) -> None:
        """Drop the calls of steps that are kept as sums, and what came before them."""
        self._ended = int(steps.end[done].max())
        seen = Counter(self._usual.times)
        seen.update(zip(*steps.evals[:, done].tolist(), strict=True))
        first = self._usual.first
        self._usual = UsualEvaluations(dict(seen), int(steps.evals[1, done[0]]) if first is None else first)
        if steps.training is not None:
            self._trained = self._trained.with_more(trained_in(steps.training, int(done[-1]) + 1))
        self._pairs |= {pair for end, pair in steps.pairs if end <= self._ended}
        keep = self._skeleton["start_ns"] >= self._ended
        self._skeleton = {name: values[keep] for name, values in self._skeleton.items()}
        self._recent = self._recent[:, self._recent[0] >= self._ended]
        self._took_part.intersection_update(self._skeleton["call"].tolist())

    def _forget_roots(self, ids: Ints) -> None:
        """The same where each root call is a step; `ids` are those of root calls that are kept as sums."""
        skeleton = self._skeleton
        keep = (skeleton["kind"] == MODULE) & ~np.isin(skeleton["call"], ids)
        self._skeleton = skeleton = {name: values[keep] for name, values in skeleton.items()}
        rows = [
            entry.row for entry in self._nodes.opened.values() if entry.clear and entry.row["kind"] == MODULE
        ]
        thread = (
            np.append(skeleton["call"], np.array([row["call"] for row in rows], np.int64)) >> THREAD_SHIFT
        )
        start = np.append(skeleton["start_ns"], np.array([row["start_ns"] for row in rows], np.int64))
        remaining = np.zeros(self._recent.shape[1], np.bool_)
        for number in np.unique(thread).tolist():
            remaining |= (self._recent[1] == number) & (self._recent[0] >= start[thread == number].min())
        self._recent = self._recent[:, remaining]

    def _thin(self) -> None:
        """Add up the recent calls of one node, as if they had begun when the last of them did."""
        start, thread, node = self._recent[:3]
        keys, which = np.unique(thread << 32 | node, return_inverse=True)
        sums = np.zeros((6, len(keys)), np.int64)
        np.maximum.at(sums[0], which, start)
        sums[1], sums[2] = keys >> 32, keys & 0xFFFFFFFF
        _add(sums[3:], which, self._recent[3:])
        self._recent = sums


def window(steps: Sequence[Step], count: int) -> Sums:
    """The sums of some steps, an element a node below `count`."""
    sums = np.zeros((3, count), np.int64)
    if steps:
        node = np.concatenate([step.node for step in steps])
        for row, name in enumerate(("calls", "total_ns", "self_ns")):
            np.add.at(sums[row], node, np.concatenate([getattr(step, name) for step in steps]))
    return Sums(*sums)


def _meet(steps: Sequence[Step], stretches: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Mask of the steps that overlap one of the intervals, shape (steps,)."""
    start = np.array([step.start_ns for step in steps], np.int64)
    end = start + np.array([step.duration_ns for step in steps], np.int64)
    met = np.zeros(len(steps), np.bool_)
    for low, high in stretches[-_STRETCHES:]:
        met |= (start < high) & (end > low)
    return met


def _in(moments: Ints, start: Ints, end: Ints) -> Ints:
    """Index of the range, of ranges in order, that each moment is in; -1 for none."""
    position = np.searchsorted(start, moments, side="right") - 1
    inside = (position >= 0) & (moments < end[np.maximum(position, 0)]) if len(start) else position >= 0
    range_index: Ints = np.where(inside, position, -1)
    return range_index


def _add(sums: Ints, which: Ints, values: Ints) -> None:
    """Add each column of values to one of the sums."""
    for row, column in zip(sums, values, strict=True):
        np.add.at(row, which, column)


def _grown(sums: Ints, count: int) -> Ints:
    if sums.shape[1] >= count:
        return sums
    return np.concatenate([sums, np.zeros((3, count - sums.shape[1]), np.int64)], axis=1)
