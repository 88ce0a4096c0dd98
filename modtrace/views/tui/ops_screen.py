"""The fifth view: functions, operators and kernels where they were recorded, and what each module does."""

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
from modtrace.views.tui.lines import LineList, Texts
from modtrace.views.tui.look import Piece
from modtrace.views.tui.opened import Rank
from modtrace.views.tui.shown import Sheet
from modtrace.views.tui.view import View


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
    what: str


def ops_of(rank: Rank) -> list[Op]:
    """Everything that the view lists, section after section."""
    found = _functions(rank)
    if len(rank.stored.table("operators")):
        found += [
            Op(
                "operators by module", one.name or "outside of calls", one.type, one.executions,
                one.forward_ns + one.backward_ns, None, None,
                ", ".join(f"{operator} {duration(spent)}" for operator, spent in one.top if spent),
            )
            for one in ran(rank.stored)[1]
        ]  # fmt: skip
    for does in operations(rank.stored):
        words = "?" if does.operations is None else ", ".join(does.operations)
        missing = f"  ! no formula for {', '.join(does.uncounted)}" if does.uncounted else ""
        found.append(
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
    return found


def _functions(rank: Rank) -> list[Op]:
    """Functions of torch by name and place, the longest self time first."""
    placed = rank.tree("merged")
    tree, nodes = placed.tree, placed.nodes
    if tree is None or not rank.has_functions:
        return []
    groups: dict[tuple[str, str], list[int]] = {}
    for at in np.flatnonzero(tree.function).tolist():
        groups.setdefault((tree.name[at], tree.type[at]), []).append(at)
    found = []
    for (name, place), members in groups.items():
        total = sum(nodes.number("self", at) or 0 for at in members)
        calls = sum(nodes.number("calls", at) or 0 for at in members)
        found.append(Op("functions", name, place, calls, total, None, None, ""))
    return sorted(found, key=lambda op: -(op.spent_ns or 0))


class OpLines:
    """Lines of ops, a heading before each section. A row is an Op, or the text of a heading."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = list(ops)
        self.rows: list[Op | str] = []
        for at, op in enumerate(self.ops):
            if not at or self.ops[at - 1].section != op.section:
                self.rows.append(op.section)
            self.rows.append(op)

    def __len__(self) -> int:
        return len(self.rows)

    def head(self, width: int) -> Sequence[Piece]:
        room = self._room(width)
        line = pad("   name", room) + f"{'calls':>8} {'self':>9} {'a call':>11}  what"
        return [(line[:width].ljust(width), "head")]

    def line(self, row: int, width: int) -> Sequence[Piece]:
        op, room = self.rows[row], self._room(width)
        if isinstance(op, str):
            return [(pad(f" {op}", width), "bold")]
        kind = f"  {plain(op.type[:200])}" if op.type not in ("", op.name) else ""
        name = f"{fit(plain(op.name[:400]), room - 4, keep_end=True)}{kind}"
        spent = "" if op.spent_ns is None else duration(op.spent_ns)
        flops = "" if op.section != "what modules do" else bounded(op.flops, op.least, "FLOP")
        what = plain(op.what[:600])
        left = max(width - room - 32, 0)
        return [
            (pad(f"   {name}", room), ""),
            (f"{count(op.calls):>8} {spent:>9} {flops:>11}  ", ""),
            (fit(what, left), ""),
        ]

    def _room(self, width: int) -> int:
        return max(min(44, width - 50), 20)


class OpsScreen(View):
    """Made in the background when it is first looked at; enter goes to the module in the tree."""

    NUMBER = 5
    DEFAULT_CSS = "OpsScreen #ops { border: round $primary; } OpsScreen #ops:focus { border: round $accent; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort by calls, self", id="ops.sort", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.lines = OpLines([])
        self.by = ""

    def body(self) -> ComposeResult:
        yield LineList(Texts([]), id="ops")

    @property
    def listed(self) -> LineList:
        return self.query_one("#ops", LineList)

    def on_mount(self) -> None:
        super().on_mount()
        self.rank_changed()
        self.listed.focus()

    def rank_changed(self) -> None:
        self.head()
        self.listed.show(Texts([[("  reading ...", "dim")]]))
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
                self.listed.show(Texts([[(f"  {self.rank.why_nothing}", "")]]))
            functions = "" if self.rank.has_functions else "   modtrace run --functions records functions too"
            self.listed.border_title = f"Ops  {len(self.lines.ops):,} rows{functions}"
        elif event.state is WorkerState.ERROR:
            said = plain(str(event.worker.error), 200)
            self.listed.show(Texts([[(f"  cannot be shown: {said}", "warn")]]))

    def action_sort(self) -> None:
        """By self time, by calls, as they were."""
        self.by = {"": "self", "self": "calls", "calls": ""}[self.by]
        ops = list(self.lines.ops)
        sections = {section: at for at, section in enumerate(dict.fromkeys(op.section for op in ops))}
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
            [op.section, op.name, op.type, op.calls, op.spent_ns, op.flops, op.what] for op in self.lines.ops
        ]
        return Sheet("ops", ["section", "name", "type", "calls", "self_ns", "flops", "what"], rows)
