"""The flat profile as a tree of one level: a row for each group of modules, phase or function, the hottest first.

Times are of one step where the window has steps, else sums over it. They add up to a step, or to the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from modtrace.analysis.columns import column
from modtrace.analysis.filters import FilterRows
from modtrace.analysis.flat_profile import FlatProfile, ProfileRow
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.phases import NAMES
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.schema import BACKWARD
from modtrace.units import count, duration, percent, rounded
from modtrace.views.models.nodes import Bools, Ints, TreeNodes
from modtrace.views.models.trees import BEFORE, LEFT_OUT, OUTSIDE, ProcessRows

UNKNOWN: Final = "around calls whose times are not known"
TRACER: Final = "modtrace itself"
PARALLEL: Final = "counted twice, in parallel"
_ASIDE: Final = frozenset((UNKNOWN, TRACER, PARALLEL))


@dataclass(frozen=True)
class HotRows:
    """The rows of a flat profile as nodes of a tree without levels.

    profile: of one process.
    part: the rows of that process.
    rows: those of the profile, and time that belongs to none of them as rows of group -1.
    """

    part: ProcessRows
    profile: FlatProfile
    rows: list[ProfileRow]

    @property
    def on_device(self) -> bool:
        """True where shares are of the time on devices."""
        return self.profile.on_device

    @cached_property
    def base_ns(self) -> int:
        """The time that shares are of: the window, or all time on devices where that is known."""
        if self.on_device:
            return sum(row.device_ns or 0 for row in self.profile.rows)
        return self.profile.window.base_ns

    @property
    def key(self) -> str:
        """The number that says what is hot."""
        return "device" if self.on_device else "self"

    def share(self, node: int) -> float:
        """Share of a row, 0 where it is not known."""
        return (self._spent_ns(node) or 0) / self.base_ns if self.base_ns else 0.0

    def _spent_ns(self, node: int) -> int | None:
        row = self.rows[node]
        return row.device_ns if self.on_device else row.self_ns

    @property
    def texts(self) -> Mapping[str, Callable[[int], str]]:
        """Texts of a row by column, for those that are no plain numbers."""
        rows, per = self.rows, self.profile.per

        def share(node: int) -> str:
            spent = self._spent_ns(node)
            return "-" if spent is None else percent(spent, self.base_ns)

        def calls(node: int) -> str:
            row = rows[node]
            if row.group < 0:
                return ""
            return count(row.calls // per) if row.calls % per == 0 else rounded(row.calls, per, 1)

        def part_of(name: str) -> Callable[[int], str]:
            def text(node: int) -> str:
                value = getattr(rows[node], name)
                return duration(value // per) if value else ""

            return text

        return {
            "self": lambda node: _signed(rows[node].self_ns, per),
            "share": share,
            "calls": calls,
            "forward": part_of("forward_ns"),
            "backward": part_of("backward_ns"),
            "output": lambda node: plain(rows[node].output[:200]),
        }

    def parts(self, node: int) -> list[tuple[str, float]]:
        """(phase, share) of what a row is made of, for a bar in which the largest row is 1."""
        row = self.rows[node]
        if self.on_device or not row.of_module:
            return [(self.phase_name(node), self.share(node))]
        times = [("forward", row.forward_ns or 0), ("backward", row.backward_ns or 0)]
        return [(phase, ns / max(self.base_ns, 1)) for phase, ns in times if ns]

    def phase_name(self, node: int) -> str:
        """The phase that a row is, "" for one that is of several."""
        name = self.rows[node].name
        return "forward" if self.rows[node].of_module else name if name in NAMES else ""

    @cached_property
    def largest(self) -> float:
        """Share of the largest row."""
        return max((self.share(node) for node in range(len(self.rows))), default=0.0)

    @cached_property
    def nodes(self) -> TreeNodes:
        """The rows for a tree widget."""
        rows, per = self.rows, self.profile.per
        total = len(rows)
        paths = list(dict.fromkeys(row.name for row in rows))
        types = list(dict.fromkeys(row.type for row in rows))
        path_code = {text: code for code, text in enumerate(paths)}
        type_code = {text: code for code, text in enumerate(types)}
        columns = {
            "self": "self_ns",
            "device": "device_ns",
            "forward": "forward_ns",
            "backward": "backward_ns",
        }

        def numbers(name: str) -> tuple[Ints, Bools] | None:
            if name == "calls":
                counts = np.array([-(-row.calls // per) for row in rows], np.int64)
                return counts, np.array([row.group >= 0 for row in rows], np.bool_)
            if name not in columns:
                return None
            # What is no part of the program is at the end, in whatever order.
            values = [None if row.name in _ASIDE else getattr(row, columns[name]) for row in rows]
            known = np.array([value is not None for value in values], np.bool_)
            return np.array([(value or 0) // per for value in values], np.int64), known

        codes = FilterRows(
            np.array([path_code[row.name] for row in rows], np.int64),
            paths,
            np.array([type_code[row.type] for row in rows], np.int64),
            types,
            numbers,
            self._members,
        )
        flat = np.zeros(total, np.int64)
        return TreeNodes(
            flat,
            np.arange(1, total + 1),
            flat - 1,
            lambda node: rows[node].label,
            lambda node: "" if rows[node].type == rows[node].name else rows[node].type,
            codes,
        )

    @cached_property
    def _groups(self) -> Ints:
        """The group of each row of the part."""
        calls = column(timeline(self.part.stored).calls, "call")[self.part.low : self.part.high]
        groups: Ints = folded(self.part.stored).group[calls]
        return groups

    def _members(self, column_name: str, key: int) -> Bools:
        """Rows with a call in a phase or a step, or of a rank."""
        if column_name == "rank":
            return np.full(len(self.rows), self.part.rank == key, np.bool_)
        present = set(np.unique(self._groups[self.part.codes(column_name) == key]).tolist())
        return np.array([row.group in present for row in self.rows], np.bool_)

    def row_of(self, node: int) -> int:
        """The first row of the part that is in a row of the table and in the window, forward if there is one; -1 for
        none.
        """
        group = self.rows[node].group
        if group < 0:
            return -1
        rows = np.flatnonzero((self._groups == group) & self.profile.window.rows)
        forward = rows[self.part.column("kind")[rows] != BACKWARD]
        chosen = forward if len(forward) else rows
        return int(chosen[0]) if len(chosen) else -1


def _signed(ns: int | None, per: int) -> str:
    """A time of one step; what was counted twice is below 0."""
    if ns is None:
        return "?"
    return duration(ns // per) if ns >= 0 else f"-{duration(-ns // per)}"


def hot_rows(part: ProcessRows, profile: FlatProfile) -> HotRows:
    """The rows of a flat profile, with a row for each part of the window that is no module's."""
    others = [
        (TRACER, profile.tracer_ns),
        (UNKNOWN, profile.unknown_ns),
        (BEFORE, profile.before_ns),
        (LEFT_OUT, profile.left_out_ns),
        (OUTSIDE, profile.outside_ns),
        (PARALLEL, -profile.parallel_ns),
    ]
    further = [
        ProfileRow(text, "", 1, 0, ns, None, None, None, "", of_module=False, group=-1)
        for text, ns in others
        if ns
    ]
    order = sorted([*profile.hot, *further], key=lambda row: (-(row.device_ns or 0), -row.spent_ns))
    if not profile.on_device:
        order = sorted(order, key=lambda row: -row.spent_ns)
    return HotRows(part, profile, order)
