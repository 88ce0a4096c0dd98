"""The seventh view: functions, operators and kernels where they were recorded, and what each module does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.worker import Worker, WorkerState

from modtrace.analysis.kernels import ran
from modtrace.analysis.operations import operations
from modtrace.text import fit, pad, plain
from modtrace.units import bounded, count, duration
from modtrace.views.models.csv_sheet import Sheet
from modtrace.views.models.viewer_model import Rank
from modtrace.views.tui.base_screen import View
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.styles import Piece


@dataclass(frozen=True)
class Op:
    """A function, a name of operators, or a module with its own operations. Times in ns; None where not known."""

    section: str
    name: str
    type: str
    calls: int
    spent_ns: int | None
    flops: int | None
    least: int | None
    description: str


def ops_of(rank: Rank) -> list[Op]:
    """Everything that the view lists, section after section."""
    ops = _functions(rank)
    if len(rank.stored.table("operators")):
        ops += [
            Op(
                "operators by module", module.name or "outside of calls", module.type, module.executions,
                module.forward_ns + module.backward_ns, None, None,
                ", ".join(f"{operator} {duration(spent)}" for operator, spent in module.top if spent),
            )
            for module in ran(rank.stored)[1]
        ]  # fmt: skip
    for does in operations(rank.stored):
        words = "not counted" if does.operations is None else ", ".join(does.operations)
        missing = f"  ! no formula for {', '.join(does.uncounted)}" if does.uncounted else ""
        ops.append(
            Op(
                "what modules do",
                does.name,
                does.type,
                does.calls,
                None,
                does.flops,
                does.least,
                words + missing,
            )
        )
    return ops


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
        ops.append(Op("functions", name, place, calls, total, None, None, ""))
    return sorted(ops, key=lambda op: -(op.spent_ns or 0))


class OpLines:
    """Lines of ops, a heading before each section. A row is an Op, or the text of a heading."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = list(ops)
        self.rows: list[Op | str] = []
        self.timed = any(op.spent_ns is not None for op in self.ops)
        for index, op in enumerate(self.ops):
            if not index or self.ops[index - 1].section != op.section:
                self.rows.append(op.section)
            self.rows.append(op)

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, width: int) -> Sequence[Piece]:
        room = self._room(width)
        times = f" {'self':>9}" if self.timed else ""
        line = pad("   name", room) + f"{'calls':>8}{times} {'a call':>11}  what"
        return [(line[:width].ljust(width), "head")]

    def line(self, row: int, width: int) -> Sequence[Piece]:
        op, room = self.rows[row], self._room(width)
        if isinstance(op, str):
            return [(pad(f" {op}", width), "bold")]
        class_text = f"  {plain(op.type[:200])}" if op.type not in ("", op.name) else ""
        name = f"{fit(plain(op.name[:400]), room - 4, keep_end=True)}{class_text}"
        spent = "" if op.spent_ns is None else duration(op.spent_ns)
        flops = "" if op.section != "what modules do" else bounded(op.flops, op.least, "FLOP")
        description = plain(op.description[:600])
        room_behind = max(width - room - (32 if self.timed else 22), 0)
        return [
            (pad(f"   {name}", room), ""),
            (f"{count(op.calls):>8}{f' {spent:>9}' if self.timed else ''} {flops:>11}  ", ""),
            (fit(description, room_behind), ""),
        ]

    def _room(self, width: int) -> int:
        return max(min(44, width - 50), 20)


class OpsScreen(View):
    """Made in the background when it is first looked at; enter goes to the module in the tree."""

    NUMBER = 7
    DEFAULT_CSS = "OpsScreen #ops { border: round $primary; } OpsScreen #ops:focus { border: round $accent; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort by calls, self", id="ops.sort", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.lines = OpLines([])
        self.by = ""

    def body(self) -> ComposeResult:
        yield LineList(FixedLines([]), id="ops")

    @property
    def listed(self) -> LineList:
        return self.query_one("#ops", LineList)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.listed.focus()

    def rank_changed(self) -> None:
        self.head()
        self.listed.show(FixedLines([[("  reading ...", "dim")]]))
        self.listed.border_title = "Ops"
        rank = self.rank
        self.run_worker(lambda: ops_of(rank), thread=True, exclusive=True, name="ops", exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.name != "ops":
            return
        if event.state is WorkerState.SUCCESS:
            self.lines = OpLines(event.worker.result or [])
            if len(self.lines):
                self.listed.show(self.lines)
            else:
                self.listed.show(FixedLines([[(f"  {self.rank.why_nothing}", "")]]))
            functions = "" if self.rank.has_functions else "   modtrace run --functions records functions too"
            self.listed.border_title = f"Ops  {len(self.lines.ops):,} rows{functions}"
        elif event.state is WorkerState.ERROR:
            text = plain(str(event.worker.error), 200)
            self.listed.show(FixedLines([[(f"  cannot be shown: {text}", "warn")]]))

    def action_sort(self) -> None:
        """By self time, by calls, as they were."""
        self.by = {"": "self", "self": "calls", "calls": ""}[self.by]
        ops = list(self.lines.ops)
        sections = {section: index for index, section in enumerate(dict.fromkeys(op.section for op in ops))}
        if self.by:
            ops.sort(
                key=lambda op: (sections[op.section], -(op.calls if self.by == "calls" else op.spent_ns or 0))
            )
            self.listed.show(OpLines(ops))
        else:
            self.listed.show(self.lines)

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        lines = event.source.lines
        op = lines.rows[event.source.cursor] if isinstance(lines, OpLines) and len(lines) else ""
        if not isinstance(op, str):
            self.viewer.go_to(op.name, op.type)

    def sheet(self) -> Sheet | None:
        rows = [
            [op.section, op.name, op.type, op.calls, op.spent_ns, op.flops, op.description]
            for op in self.lines.ops
        ]
        return Sheet("ops", ["section", "name", "type", "calls", "self_ns", "flops", "what"], rows)
