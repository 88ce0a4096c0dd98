"""The steps of a growing trace: those that have ended are kept as sums over nodes, the last few calls as they are.

Steps are found by `phases.divide` over the calls since the last step that is sure to have ended, and only over those
that are inside no other unit; so memory is bounded by the window, not by the run. A call of another thread that comes
after its step has been added up counts for no step, only for the whole.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis import phases
from modtrace.analysis.leading import Trained, Usual, trained_in
from modtrace.analysis.live_nodes import BACK, Nodes, Placed
from modtrace.analysis.phases import DATA, Calls, Earlier, Steps, divide
from modtrace.analysis.statistics import choose
from modtrace.trace.follow import Columns
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
from modtrace.trace.turns import Pair

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


class Restart(Exception):
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

    def __init__(self, nodes: Nodes, by: str = "root") -> None:
        self.steps: deque[Step] = deque(maxlen=KEPT)
        self.count = 0
        self.by = by
        self.watched: list[tuple[int, int]] = []
        self.compiled: list[tuple[int, int]] = []
        self.calls = 0
        """Of modules, in all."""
        self._nodes = nodes
        self._thread = 0
        self._ended: int | None = None
        self._sure_ns = self._sure_calls = 0
        self._is_call = np.zeros(0, np.bool_)
        self._usual = Usual()
        self._trained = Trained()
        self._pairs: frozenset[Pair] = frozenset()
        self._all = np.zeros((3, 0), np.int64)
        self._skeleton: Columns = {name: np.zeros(0, np.int64) for name in _SKELETON}
        self._recent = np.zeros((6, 0), np.int64)  # start, thread, node, calls, total, self
        self._provisional: list[Step] = []
        self._again: set[int] = set()
        self._took_part: set[int] = set()

    def add(self, placed: Placed) -> None:
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

    def last(self, count: int) -> list[Step]:
        """The last steps that have ended, at most so many, in order."""
        known = [*self.steps, *self._provisional]
        return known[-count:] if count else []

    @property
    def ended(self) -> int:
        """How many steps have ended, those among them that later calls may still change."""
        return self.count + len(self._provisional)

    @property
    def ended_ns(self) -> int:
        """How long these took."""
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
        whole = np.ones(len(known), np.bool_)
        watched, compiled = _meet(known, self.watched), _meet(known, self.compiled)
        chosen = choose(whole, counted, watched, first, compiled=compiled)
        return [
            step for step, counts in zip(known, chosen.steps.tolist(), strict=True) if counts
        ], chosen.text

    def _of_modules(self) -> npt.NDArray[np.bool_]:
        """Which nodes are of module calls."""
        nodes, known = self._nodes, len(self._is_call)
        more = [
            root >= 0 and variant != BACK
            for (root, _), variant in zip(nodes.what[known:], nodes.variant[known:], strict=True)
        ]
        self._is_call = np.append(self._is_call, np.array(more, np.bool_))
        return self._is_call

    def all(self) -> Sums:
        """Everything since the beginning, what is in no step too."""
        return Sums(*_grown(self._all, len(self._nodes)))

    def _keep(self, columns: Columns, node: Ints, clear: npt.NDArray[np.bool_]) -> None:
        total, own = np.maximum(columns["duration_ns"], 0), np.maximum(columns["self_ns"], 0)
        self._all = _grown(self._all, len(self._nodes))
        np.add.at(self._all[0], node, 1)
        np.add.at(self._all[1], node, total)
        np.add.at(self._all[2], node, own)
        self.calls += int(np.count_nonzero(columns["kind"] == MODULE))
        thread = columns["call"] >> THREAD_SHIFT
        began = self._begin_of_units(columns, clear)
        fresh = np.stack([began, thread, node, np.ones(len(node), np.int64), total, own])
        self._recent = np.concatenate([self._recent, fresh], axis=1)
        kind, mode = columns["kind"], columns["mode"]
        again = (kind == MODULE) & ((mode & IN_BACKWARD) > 0)
        self._again.update(np.unique(columns["module"][again]).tolist())
        more = {name: columns[name][clear] for name in _SKELETON}
        joined = {name: np.concatenate([values, more[name]]) for name, values in self._skeleton.items()}
        order = np.argsort(joined["call"], kind="stable")
        self._skeleton = {name: values[order] for name, values in joined.items()}
        targets = np.unique(columns["forward"][(kind == BACKWARD) & (columns["forward"] >= 0)])
        ids: Ints = self._skeleton["call"]
        at: Ints = np.searchsorted(ids, targets, side="right") - 1
        evaluating = (self._skeleton["mode"][at] & EVALUATING) > 0 if len(ids) else at >= 0
        self._took_part.update(ids[at[(at >= 0) & evaluating]].tolist())

    def _begin_of_units(self, columns: Columns, clear: npt.NDArray[np.bool_]) -> Ints:
        """When the unit that each call is in began, or the call itself: that of the last call before it in no unit."""
        opened = [entry.row for entry in self._nodes.opened.values() if entry.clear]
        ids = np.append(columns["call"][clear], np.array([row["call"] for row in opened], np.int64))
        start = np.append(columns["start_ns"][clear], np.array([row["start_ns"] for row in opened], np.int64))
        began: Ints = columns["start_ns"].copy()
        if len(ids):
            order = np.argsort(ids)
            at = np.searchsorted(ids[order], columns["call"], side="right") - 1
            over = order[np.maximum(at, 0)]
            within = ~clear & (at >= 0) & (ids[over] >> THREAD_SHIFT == columns["call"] >> THREAD_SHIFT)
            began[within] = start[over[within]]
        return began

    def _check_rule(self) -> None:
        held = self._skeleton
        phase = self._phase(held)
        optimizer = (phase == phases.OPTIMIZER) & (held["duration_ns"] >= 0) & (held["status"] == OK)
        found = 0
        if bool((held["kind"] == STEP).any()):
            found = 3
        elif bool(optimizer.any()):
            found = 2
        elif bool((phase == phases.BACK).any()):
            found = 1
        if found > _RULES.index(self.by):
            raise Restart(_RULES[found])

    def _phase(self, held: Columns) -> Ints:
        """Which of phases.NAMES each row is."""
        labels, which = np.unique(held["label"], return_inverse=True)
        names = [self._nodes.labels.get(label, ("",))[0] for label in labels.tolist()]
        code = np.array(
            [phases.NAMES.index(n) if n in phases.NAMES else phases.NONE for n in names], np.int64
        )
        found: Ints = np.where(held["kind"] == PHASE, code[which] if len(code) else -1, phases.NONE)
        return found

    def _divide(self) -> None:
        calls, ids = self._calls()
        if not len(calls):
            self._provisional = []
            return
        earlier = Earlier(self.by, self._thread, self._ended, self._usual, self._trained, self._pairs)
        steps = divide(calls, earlier).steps
        if self.by != "root":
            self._thread = steps.thread
        whole = np.flatnonzero(steps.whole & (steps.end > steps.start))
        owner = self._owner(steps, ids[steps.first] >> THREAD_SHIFT if self.by == "root" else ids[:0])
        order = np.argsort(owner, kind="stable")
        low, high = np.searchsorted(owner[order], [whole, whole + 1])
        sure = min(max(len(whole) - UNSURE, 0), int(np.searchsorted(whole, steps.final)))
        first = min(max(len(whole) - KEPT - UNSURE, 0), sure)  # those before would be forgotten at once
        made = [
            self._step(steps, int(whole[n]), order[low[n] : high[n]], self.count + n)
            for n in range(first, len(whole))
        ]
        self._provisional = made[sure - first :]
        if sure:
            done = whole[:sure]
            self._sure_ns += int((steps.end - steps.start)[done].sum())
            rows = order[np.isin(owner[order], done)]
            self._sure_calls += int(self._recent[3, rows][self._of_modules()[self._recent[2, rows]]].sum())
            self.steps.extend(made[: sure - first])
            self.count += sure
            if self.by == "root":
                self._forget_roots(ids[steps.first[whole[:sure]]])
            else:
                self._forget(steps, whole[:sure])

    def _calls(self) -> tuple[Calls, Ints]:
        """What stands in no unit, with calls that are open, as `divide` takes it, and their ids."""
        held = self._skeleton
        opened = [entry.row for entry in self._nodes.opened.values() if entry.clear]
        if opened:
            held = {name: np.append(values, [row[name] for row in opened]) for name, values in held.items()}
            order = np.argsort(held["call"], kind="stable")
            held = {name: values[order] for name, values in held.items()}
        ids, kind, module = held["call"], held["kind"], held["module"]
        at, mode = np.arange(len(ids)), held["mode"].copy()
        if self._took_part:
            mode[np.isin(ids, list(self._took_part))] &= ~EVALUATING
        if self._again:
            mode[np.isin(module, list(self._again)) & ((mode & EVALUATING) == 0)] &= ~NO_GRAD
        sizes, which = np.unique(module, return_inverse=True)
        has_some = np.array([self._has_parameters(key) for key in sizes.tolist()], np.bool_)
        parent = np.searchsorted(ids, held["parent"])
        found = (held["parent"] >= 0) & (parent < len(ids))
        found &= ids[np.minimum(parent, len(ids) - 1)] == held["parent"] if len(ids) else found
        last = np.maximum(np.searchsorted(ids, held["last_call"], side="right") - 1, at)
        depth, thread = held["depth"], ids >> THREAD_SHIFT
        for row in np.flatnonzero(held["status"] == UNFINISHED)[::-1].tolist():
            behind = np.flatnonzero((thread[row + 1 :] != thread[row]) | (depth[row + 1 :] <= depth[row]))
            last[row] = row + int(behind[0]) if len(behind) else len(ids) - 1
        duration = held["duration_ns"]
        made = Calls(
            kind=kind,
            module=np.where(kind == MODULE, module, -1),
            parent=np.where(found, parent, -1),
            last=last,
            depth=depth,
            thread=thread,
            label=self._phase(held),
            maker=held["label"],
            forward=np.full(len(ids), -1, np.int64),
            mode=mode,
            start=held["start_ns"],
            end=held["start_ns"] + np.maximum(duration, 0),
            known=duration >= 0,
            status=held["status"],
            parameters=has_some[which] & (kind == MODULE) if len(ids) else kind == MODULE,
        )
        return made, ids

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
        for one in np.unique(root_thread).tolist():
            mine, here = np.flatnonzero(root_thread == one), np.flatnonzero(thread == one)
            at = _in(start[here], steps.start[mine], steps.end[mine])
            owner[here] = np.where(at >= 0, mine[np.maximum(at, 0)], -1)
        return owner

    def _step(self, steps: Steps, at: int, calls: Ints, number: int) -> Step:
        """The sums of one step over some of the recent calls."""
        mine = self._recent[2:, calls]
        node, which = np.unique(mine[0], return_inverse=True)
        counted = self._counted(steps, at)
        sums = np.zeros((3, len(node)), np.int64)
        _add(sums, which, mine[1:])
        start, end = int(steps.start[at]), int(steps.end[at])
        return Step(number, start, end - start, int(steps.spent[DATA, at]), counted, node, *sums)

    def _counted(self, steps: Steps, at: int) -> bool:
        """Whether operations were counted in a step."""
        held = self._skeleton
        counted = held["start_ns"][(held["mode"] & COUNTED) > 0]
        inside = (counted >= steps.start[at]) & (counted < steps.end[at])
        return bool(inside.any())

    def _forget(self, steps: Steps, done: Ints) -> None:
        """Drop the calls of steps that are kept as sums, and what came before them."""
        self._ended = int(steps.end[done].max())
        seen = Counter(self._usual.times)
        seen.update(zip(*steps.evals[:, done].tolist(), strict=True))
        first = self._usual.first
        self._usual = Usual(dict(seen), int(steps.evals[1, done[0]]) if first is None else first)
        if steps.training is not None:
            self._trained = self._trained.with_more(trained_in(steps.training, int(done[-1]) + 1))
        self._pairs |= {pair for end, pair in steps.pairs if end <= self._ended}
        keep = self._skeleton["start_ns"] >= self._ended
        self._skeleton = {name: values[keep] for name, values in self._skeleton.items()}
        self._recent = self._recent[:, self._recent[0] >= self._ended]
        self._took_part.intersection_update(self._skeleton["call"].tolist())

    def _forget_roots(self, ids: Ints) -> None:
        """The same where each root call is a step; `ids` are those of root calls that are kept as sums."""
        held = self._skeleton
        keep = (held["kind"] == MODULE) & ~np.isin(held["call"], ids)
        self._skeleton = held = {name: values[keep] for name, values in held.items()}
        rows = [
            entry.row for entry in self._nodes.opened.values() if entry.clear and entry.row["kind"] == MODULE
        ]
        thread = np.append(held["call"], np.array([row["call"] for row in rows], np.int64)) >> THREAD_SHIFT
        start = np.append(held["start_ns"], np.array([row["start_ns"] for row in rows], np.int64))
        kept = np.zeros(self._recent.shape[1], np.bool_)
        for one in np.unique(thread).tolist():
            kept |= (self._recent[1] == one) & (self._recent[0] >= start[thread == one].min())
        self._recent = self._recent[:, kept]

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
    """Which steps have a part in one of some stretches of time."""
    start = np.array([step.start_ns for step in steps], np.int64)
    end = start + np.array([step.duration_ns for step in steps], np.int64)
    met = np.zeros(len(steps), np.bool_)
    for low, high in stretches[-_STRETCHES:]:
        met |= (start < high) & (end > low)
    return met


def _in(moments: Ints, start: Ints, end: Ints) -> Ints:
    """Which of some ranges, in order, each moment is in; -1 for none."""
    at = np.searchsorted(start, moments, side="right") - 1
    inside = (at >= 0) & (moments < end[np.maximum(at, 0)]) if len(start) else at >= 0
    found: Ints = np.where(inside, at, -1)
    return found


def _add(sums: Ints, which: Ints, values: Ints) -> None:
    """Add each column of values to one of the sums."""
    for row, more in zip(sums, values, strict=True):
        np.add.at(row, which, more)


def _grown(sums: Ints, count: int) -> Ints:
    if sums.shape[1] >= count:
        return sums
    return np.concatenate([sums, np.zeros((3, count - sums.shape[1]), np.int64)], axis=1)
