"""Shared by all rules: a finding, the facts that rules look at, and thresholds they have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import CallNames
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.recording_end import is_cut
from modtrace.analysis.step_columns import StepColumns
from modtrace.analysis.timeline import timeline
from modtrace.text import and_more
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MIN_STEPS: Final = 5
"""Fewer steps that count in statistics say nothing."""
MIN_NS: Final = 1_000_000
"""Nor does what takes less than this altogether."""
EARLIER_STEPS: Final = 5
EARLIER_SHARE: Final = 0.8


@dataclass(frozen=True)
class Finding:
    """A ranked remark about a trace.

    rule: its name.
    text: what was found, with its number.
    remedy: what to do.
    won_ns: time that is at stake, nanoseconds: findings are ranked by it. 0 where it is about results, not time.
    wrong: true where it is about results: such come first.
    """

    rule: str
    text: str
    remedy: str
    won_ns: int = 0
    wrong: bool = False


@dataclass(frozen=True)
class Facts:
    """The trace as rules look at it. `calls` are the rows of the timeline. `complete` are the steps of rank 0 that
    came to their end, `steady` those of them that count in statistics; `compiled` are the numbers of those in which
    torch compiled.
    """

    stored: Stored
    calls: CallTable
    steps: StepColumns
    complete: StepColumns
    steady: StepColumns
    compiled: frozenset[int] = frozenset()

    @property
    def enough(self) -> bool:
        """True where enough steps count in statistics to judge by."""
        return len(self.steady) >= MIN_STEPS

    @cached_property
    def earlier(self) -> BackwardThroughSteps | None:
        """Backwards that go through the calls of earlier steps: then steps grow slower for that reason."""
        return through_earlier(self)

    @cached_property
    def on_device(self) -> bool:
        """True where a device works beside the host: then the times of the host are those of launching."""
        return bool(len(self.steady.known("device_ns"))) or launch_timed(self.stored) is not None

    def usual_ns(self, name: str) -> int:
        """Time of a column in all steady steps, had each taken the median: one slow step changes nothing."""
        return int(np.median(self.steady[f"{name}_ns"].astype(float))) * len(self.steady)

    @property
    def steady_ns(self) -> int:
        """Time of the steady steps."""
        return int(self.steady["duration_ns"].sum())

    def in_steps(self, steps: StepColumns) -> Bools:
        """A mask of the rows of `calls`, of any rank, in steps with the numbers of `steps`."""
        step = nullable_codes(self.calls, "step")
        chosen = np.zeros(int(step.max(initial=0)) + 2, np.bool_)
        numbers = steps.number
        chosen[numbers[numbers < len(chosen) - 1]] = True
        inside: Bools = chosen[step]
        return inside

    @cached_property
    def steady_rows(self) -> Bools:
        """A mask of the rows of `calls` in the steady steps of the first rank."""
        rank = column(self.calls, "rank")
        chosen: Bools = self.in_steps(self.steady) & (rank == rank.min(initial=rank.max(initial=0)))
        return chosen

    def phase_rows(self, name: str) -> Bools:
        """A mask of the rows of `calls` that are a phase of a name; modules and spans may have the same name."""
        named = [label for label, _ in timeline(self.stored).labels]
        of_name = np.array([label == name for label in named] + [False], np.bool_)
        rows: Bools = (column(self.calls, "kind") == PHASE) & of_name[nullable_codes(self.calls, "label")]
        return rows

    def known_ns(self, name: str) -> Ints:
        """A time of each row of `calls`, 0 where it is not known."""
        values, known = values_and_known(self.calls, name)
        return values if known.all() else np.where(known, values, 0)

    def times_by_type(self, rows: Bools) -> dict[str, int]:
        """The durations of some phases, for each class of loader or optimizer."""
        labels = timeline(self.stored).labels
        code, spent = nullable_codes(self.calls, "label")[rows], self.known_ns("duration_ns")[rows]
        total: dict[str, int] = {}
        for label in np.unique(code).tolist():
            class_name = labels[label][1]
            total[class_name] = total.get(class_name, 0) + int(spent[code == label].sum())
        return total

    def self_by_module(self, rows: Bools) -> list[tuple[str, str, int]]:
        """(name, class, self time) of the modules of some rows, those of one name and class together."""
        names = CallNames(self.stored)
        types = self.stored.table("modules").column("type").to_pylist()
        module, root = (nullable_codes(self.calls, name)[rows] for name in ("module", "root"))
        pair, which = np.unique(names.codes(root, module) << 32 | module, return_inverse=True)
        sums = np.zeros(len(pair), np.int64)
        np.add.at(sums, which, self.known_ns("self_ns")[rows])
        total: dict[tuple[str, str], int] = {}
        for code, spent in zip(pair.tolist(), sums.tolist(), strict=True):
            key = names.texts[code >> 32], types[code & 0xFFFFFFFF]
            total[key] = total.get(key, 0) + spent
        return [(name, class_name, spent) for (name, class_name), spent in total.items()]


@dataclass(frozen=True)
class BackwardThroughSteps:
    """A backward that goes through calls of earlier steps: the number of these at the end, the module whose backward
    takes most of that time, and this time.
    """

    steps: int
    name: str
    spent_ns: int


def through_earlier(facts: Facts) -> BackwardThroughSteps | None:
    """Facts of backwards that each go through the calls of nearly all steps before them; None where they do not."""
    of, step = nullable_codes(facts.calls, "forward"), nullable_codes(facts.calls, "step")
    rows = np.flatnonzero((column(facts.calls, "kind") == BACKWARD) & (of >= 0) & (step >= 0))
    forward_step, backward_step = step[of[rows]], step[rows]
    old = (forward_step >= 0) & (forward_step < backward_step)
    if not old.any():
        return None
    pairs = np.unique(backward_step[old] << 32 | forward_step[old])
    numbers, counts = np.unique(pairs >> 32, return_counts=True)
    last = int(counts[-1])
    before = int(numbers[-1]) - int((pairs & 0xFFFFFFFF).min())
    growing = len(counts) >= EARLIER_STEPS and int(counts[0]) < last
    if last < EARLIER_STEPS or not growing or last < EARLIER_SHARE * before:
        return None
    through = np.zeros(len(step), np.bool_)
    through[rows[old]] = True
    modules = facts.self_by_module(through)
    name, class_name, _ = max(modules, key=lambda module: module[2])
    return BackwardThroughSteps(
        last, f"{name} ({class_name})" if name else class_name, sum(spent for *_, spent in modules)
    )


def ended_early(stored: Stored) -> bool:
    """True where the recording was cut short or the program failed: calls that are missing might have come."""
    ends = [process.end for process in stored.processes]
    return is_cut(stored) or any(
        end is not None and (end.exception is not None or end.exit_status not in (None, 0)) for end in ends
    )


def listed(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    return and_more(list(names), 3)
