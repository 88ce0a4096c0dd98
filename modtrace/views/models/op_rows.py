"""Functions, operators, speeds and operations of modules as rows of a table in sections. No Textual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from modtrace.analysis.filters import FilterRows
from modtrace.analysis.kernels import ran
from modtrace.analysis.metrics import METRICS
from modtrace.analysis.operations import operations
from modtrace.analysis.roofline import Point, device_keys, roofline
from modtrace.analysis.steps import median_mfu
from modtrace.device_peaks.cache import DevicePeaks, cached_of
from modtrace.errors import UsageError
from modtrace.filter_language import Filter
from modtrace.trace.reader import Stored
from modtrace.units import duration
from modtrace.views.models.nodes import Bools, Ints, TreeNodes, ends_of, parents_of
from modtrace.views.models.roofline_notes import MANY, NO_FLOPS, roofline_notes
from modtrace.views.models.viewer_model import Rank

FUNCTIONS: Final = "functions"
OPERATORS: Final = "operators by module"
SPEEDS: Final = "how fast modules compute, beside what their device reaches"
OPERATIONS: Final = "what modules do"
SHARE_UNIT: Final = 10_000
"""`Op.reached` of 100 %."""


@dataclass(frozen=True)
class Op:
    """A function, the operators of a module, its speed, or its own operations; without calls a remark on its section.

    calls: None for a remark.
    spent_ns: own time of all calls; None where it is not known.
    flops, least: of one call, and the least that they can be; None where not known.
    flops_per_s: None where there is none, or it is not known.
    reached: of what the device does at so many FLOPs a byte, in parts of SHARE_UNIT; None where not known.
    """

    section: str
    name: str
    type: str
    calls: int | None
    spent_ns: int | None
    flops: int | None
    least: int | None
    description: str
    flops_per_s: int | None = None
    reached: int | None = None

    @property
    def is_remark(self) -> bool:
        return self.calls is None


def ops_of(rank: Rank) -> list[Op]:
    """Everything that the view lists, section after section: speeds first, or last where there is only a remark."""
    stored = rank.stored
    ops = _functions(rank)
    if len(stored.table("operators")):
        ops += [
            Op(
                OPERATORS, module.name or "outside of calls", module.type, module.executions,
                module.forward_ns + module.backward_ns, None, None,
                ", ".join(f"{operator} {duration(spent)}" for operator, spent in module.top if spent),
            )
            for module in ran(stored)[1]
        ]  # fmt: skip
    ops += _operations(stored)
    speeds = _speeds(stored) if ops else []
    return [*ops, *speeds] if all(op.is_remark for op in speeds) else [*speeds, *ops]


def _functions(rank: Rank) -> list[Op]:
    """Functions of torch by name and place, the longest self time first."""
    placed = rank.tree("merged")
    tree, nodes = placed.tree, placed.nodes
    if tree is None or not rank.has_functions:
        return []
    groups: dict[tuple[str, str], list[int]] = {}
    for node in np.flatnonzero(tree.function).tolist():
        groups.setdefault((tree.name[node], tree.type[node]), []).append(node)
    ops = []
    for (name, place), members in groups.items():
        total = sum(nodes.number("self", node) or 0 for node in members)
        calls = sum(nodes.number("calls", node) or 0 for node in members)
        ops.append(Op(FUNCTIONS, name, place, calls, total, None, None, ""))
    return sorted(ops, key=lambda op: -(op.spent_ns or 0))


def _operations(stored: Stored) -> list[Op]:
    """Modules with their own operations, in order of their first calls."""
    ops = []
    for does in operations(stored):
        words = "not counted" if does.operations is None else ", ".join(does.operations)
        missing = f"  ! no formula for {', '.join(does.uncounted)}" if does.uncounted else ""
        ops.append(
            Op(OPERATIONS, does.name, does.type, does.calls, None, does.flops, does.least, words + missing)
        )
    return ops


def _speeds(stored: Stored) -> list[Op]:
    """Modules by the time they compute, beside device peaks; without peaks that these are not known."""
    reached = cached_of(device_keys(stored))
    points = roofline(stored, reached)
    if not points:
        return [_remark(NO_FLOPS)]
    devices = sorted({point.device for point in points} - {"?"})
    if not any(name in reached for name in devices):
        return [
            _remark(
                f"what {', '.join(devices) or 'the device'} reaches is not known: modtrace device measures it"
            )
        ]
    ops = [_speed(point, reached) for point in points[:MANY]]
    notes = roofline_notes(points, reached, median_mfu(stored, reached))
    return [*ops, *(_remark(text.strip()) for text in notes)]


def _speed(point: Point, reached: dict[str, DevicePeaks]) -> Op:
    direction = "backward" if point.backward else "forward"
    intensity = f", {point.flops / point.bytes:.1f} FLOP/B" if point.bytes and point.flops is not None else ""
    where = f"{point.dtype} on {point.device}"
    peaks = "" if point.device in reached else ": what it reaches is not known"
    counted = ", counting included" if point.counted and point.spent_ns is not None else ""
    rate, share = point.flops_per_s, point.share
    return Op(
        SPEEDS,
        point.name,
        point.type,
        point.calls,
        point.spent_ns,
        None if point.flops is None else point.flops // point.calls,
        None,
        f"{direction}{intensity}, {where}{peaks}{counted}",
        None if rate is None else round(rate),
        None if share is None else round(share * SHARE_UNIT),
    )


def _remark(text: str) -> Op:
    return Op(SPEEDS, "", "", None, None, None, None, text)


@dataclass(frozen=True)
class OpTable:
    """Ops as a tree of two levels: sections, and what is in them.

    ops: by node; None for a section.
    sections: the name of the section of each node.
    rank: the rank that is shown.
    """

    ops: Sequence[Op | None]
    sections: Sequence[str]
    rank: int

    @property
    def nodes(self) -> TreeNodes:
        """The nodes for a table widget."""
        ops = self.ops
        count = len(ops)
        depth = np.array([op is not None for op in ops], np.int64)
        every = np.arange(count)
        names = ["" if op is None else op.name for op in ops]
        # All headings have one name, so that they stay in their order when rows are sorted by it.
        distinct = {text: code for code, text in enumerate(dict.fromkeys(["", *names]))}
        rows = FilterRows(
            path=np.array([distinct[text] for text in names], np.int64),
            paths=list(distinct),
            type=every,
            types=["" if op is None else op.type for op in ops],
            numbers=self._numbers,
            member=self._members,
            note=every,
            notes=["" if op is None else op.description for op in ops],
            headings=np.array([op is None or op.is_remark for op in ops], np.bool_),
        )
        return TreeNodes(
            depth, ends_of(depth), parents_of(depth), self._label, lambda node: rows.types[node], rows
        )

    def _label(self, node: int) -> str:
        op = self.ops[node]
        return self.sections[node] if op is None else op.name

    def _numbers(self, key: str) -> tuple[Ints, Bools] | None:
        if key not in COLUMNS:
            return None
        values = [None if op is None else getattr(op, COLUMNS[key]) for op in self.ops]
        known = np.array([value is not None for value in values], np.bool_)
        return np.array([value or 0 for value in values], np.int64), known

    def _members(self, column_name: str, key: int) -> Bools:
        """Mask of the rows of a rank."""
        return np.full(len(self.ops), column_name == "rank" and key == self.rank, np.bool_)


COLUMNS: Final = {
    "calls": "calls", "self": "spent_ns", "flops": "flops", "flops_at_least": "least", "speed": "flops_per_s",
    "reached": "reached",
}  # fmt: skip
"""Sort key of a table of ops -> the number of an Op."""


def op_table(ops: Sequence[Op], rank: int) -> OpTable:
    """Ops with a heading before each section."""
    nodes: list[Op | None] = []
    sections: list[str] = []
    for op in ops:
        if not sections or sections[-1] != op.section:
            nodes.append(None)
            sections.append(op.section)
        nodes.append(op)
        sections.append(op.section)
    return OpTable(nodes, sections, rank)


def checked(wanted: Filter) -> Filter:
    """The same filter.

    Raises:
        UsageError: it asks for what is known only of calls.
    """
    for term in wanted.terms:
        if term.key in ("phase", "step") or (term.key in METRICS and term.key not in COLUMNS):
            raise UsageError(
                f"{term.key} is known of calls: here there are self, calls, flops, type:, path:, rank:"
            )
    return wanted
