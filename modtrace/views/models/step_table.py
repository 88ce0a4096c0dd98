"""The steps of a process as rows of a table, and the numbers that it is sorted and filtered by. No Textual."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from modtrace.analysis.filters import FilterRows
from modtrace.analysis.flops import work_of_steps
from modtrace.analysis.metrics import METRICS
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.step_columns import step_columns
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.trace.schema import PHASES
from modtrace.views.models.nodes import Bools, Ints, TreeNodes
from modtrace.views.models.viewer_model import Rank

_COLUMNS: Final = {
    "calls": "calls", "flops": "flops", "flops_at_least": "flops_at_least", "device": "device_ns",
    "mem": "memory_peak_bytes",
}  # fmt: skip
"""Metric of a step -> its column in `t.steps`; `total` is the duration."""
_MARKS: Final = ("left out of statistics", "FLOPs were counted", "incomplete", "not recorded in full")


class StepTable:
    """Steps and their columns.

    took: nanoseconds of each.
    values: column -> its values: step, total, each phase that takes any time, what is in none, the peak of memory.
    counts: the steps that statistics are of.
    counted: the steps in which FLOPs were counted.
    peak: bytes, -1 where not known; None where they are known of no step.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        steps = self.steps = rank.steps
        self.took: Ints = np.maximum(steps.end - steps.start, 0)
        self.values: dict[str, Ints] = {"step": np.arange(len(steps)), "total": self.took}
        for code, name in enumerate(PHASES):
            if steps.spent[code].any():
                self.values[name] = steps.spent[code]
        if steps.threads.any():
            self.values["threads"] = steps.threads
        self.values["other"] = self.took - steps.spent.sum(axis=0) - steps.threads
        self.counts: Bools = chosen_steps(rank.stored, rank.process).steps
        self.counted: Bools = work_of_steps(rank.stored, rank.part.low, rank.part.high, len(steps)).counted
        self.peak: Ints | None = None
        peaks = step_columns(rank.stored, rank.process)["memory_peak_bytes"]
        if (peaks >= 0).any():
            self.peak = self.values["peak"] = peaks

    def __len__(self) -> int:
        return len(self.took)

    @cached_property
    def nodes(self) -> TreeNodes:
        """A node a step."""
        every = np.arange(len(self))
        recorded = self.steps.recorded
        marks = np.stack([~self.counts, self.counted, ~self.steps.whole & recorded, ~recorded])
        note: Ints = (marks.astype(np.int64) * np.array([[1], [2], [4], [8]])).sum(axis=0)
        notes = [", ".join(text for bit, text in enumerate(_MARKS) if code >> bit & 1) for code in range(16)]
        rows = FilterRows(
            path=every,
            paths=[f"step {number}" for number in range(len(self))],
            type=np.zeros(len(self), np.int64),
            types=[""],
            numbers=self._numbers,
            member=self._members,
            note=note,
            notes=notes,
        )
        flat = np.zeros(len(self), np.int64)
        return TreeNodes(flat, every + 1, flat - 1, lambda step: f"step {step}", lambda _: "", rows)

    def _numbers(self, key: str) -> tuple[Ints, Bools] | None:
        if key in self.values:
            values = self.values[key]
        elif key in _COLUMNS:
            values = step_columns(self.rank.stored, self.rank.process)[_COLUMNS[key]]
        else:
            return None
        # What is in no phase can be below 0 by nanoseconds; a negative size or number is one that is not known.
        known = values >= 0 if key == "peak" or key in _COLUMNS else np.ones(len(self), np.bool_)
        return values, known & (self.steps.recorded if key != "step" else True)

    def _members(self, column_name: str, key: int) -> Bools:
        """Mask of the steps with time or a call in a phase, of a step itself, or of the steps of a rank."""
        if column_name == "rank":
            return np.full(len(self), self.rank.part.rank == key, np.bool_)
        if column_name == "step":
            same: Bools = self.values["step"] == key
            return same
        step = self.rank.part.codes("step")[self.rank.part.codes("phase") == key]
        inside = step[(step >= 0) & (step < len(self))]
        has_calls: Bools = np.bincount(inside, minlength=len(self)) > 0
        return has_calls | (self.steps.spent[key] > 0) if key < len(PHASES) else has_calls


def checked(wanted: Filter) -> Filter:
    """The same filter.

    Raises:
        UsageError: it asks for what a step does not have.
    """
    for term in wanted.terms:
        if term.key == "type" or (term.key in METRICS and term.key not in ("total", *_COLUMNS)):
            raise UsageError(
                f"a step has total, calls, device, flops, mem, phase:, rank: and step:, not {term.key}"
            )
    return wanted
