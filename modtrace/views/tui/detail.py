"""What is known of one node: the pane beside the tree. No Textual."""

from __future__ import annotations

from typing import Final

import numpy as np

from modtrace.analysis.calls import error_texts, same_text
from modtrace.analysis.device_times import accelerators, device_times
from modtrace.analysis.holders import signature_bytes
from modtrace.analysis.statistics import chosen_steps, rows_that_count
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.text import fit, plain
from modtrace.trace.schema import BACKWARD, STATUSES
from modtrace.units import count, duration, percent, plural, scaled, size
from modtrace.views.tui.look import Piece
from modtrace.views.tui.nodes import Ints
from modtrace.views.tui.opened import Rank
from modtrace.views.tui.source import Place, around
from modtrace.views.tui.trees import OUTSIDE, Placed

_SPARK: Final = " .:|"
MANY: Final = 200
"""Shape forms that are listed."""


class Detail:
    """The facts of a node, worked out when they are asked for."""

    def __init__(self, rank: Rank, placed: Placed, node: int) -> None:
        self.rank, self.placed, self.node = rank, placed, node
        self.nodes = placed.nodes
        part = rank.part
        self.outside = node < 0 or self.nodes.label(node) == OUTSIDE
        self.rows: Ints = np.zeros(0, np.int64) if self.outside else placed.rows_of(node)
        took, known = part.values_at("duration_ns", self.rows)
        self.took: Ints = took[known]
        self.timed_rows: Ints = self.rows[known]
        counts = rows_that_count(rank.stored)[self.timed_rows + part.low]
        self.in_statistics = bool(counts.any())
        if self.in_statistics:  # else it ran in none of the steps that count
            self.took, self.timed_rows = self.took[counts], self.timed_rows[counts]
        modules = part.codes_at("module", self.rows)
        modules = modules[modules >= 0]
        self.modules: Ints = np.unique(modules)

    def _module(self, name: str) -> object:
        return self.rank.stored.table("modules").column(name)[int(self.modules[0])].as_py()

    @property
    def title(self) -> str:
        """Class with torch's own description of it."""
        if not len(self.modules):
            return plain(self.nodes.kind(self.node), 200)
        kind, said = plain(str(self._module("type")), 200), self._module("extra_repr")
        return f"{kind}({plain(str(said), 200)})" if said else kind

    @property
    def place(self) -> Place | None:
        """Where its code is: the module's forward, or what calls a function."""
        if self.outside or not len(self.rows):
            return None
        if len(self.modules):
            file, line = self._module("source_file"), self._module("source_line")
            return Place(str(file), int(str(line))) if file is not None and line is not None else None
        tag = int(self.rank.part.codes_at("label", self.rows[:1])[0])
        found = timeline(self.rank.stored).places[tag] if tag >= 0 else None
        return Place(found[0], found[1]) if found is not None else None

    def forms(self, name: str) -> list[tuple[str, int]]:
        """Texts of the distinct signatures and how many calls have each, the most frequent first."""
        codes = same_text(self.rank.stored)[self.rank.part.codes_at(name, self.rows)]
        numbers, times = np.unique(codes[codes >= 0], return_counts=True)
        texts = self.rank.stored.table("signatures").column("text")
        order = np.argsort(-times, kind="stable")[:MANY]
        return [(plain(texts[int(numbers[at])].as_py(), 500), int(times[at])) for at in order.tolist()]

    def brief(self, width: int) -> list[Piece]:
        """One line."""
        if self.outside:
            return [(fit(f" {OUTSIDE}: nothing recorded was running", width), "")]
        parts = [plain(self.nodes.label(self.node)[:200]), self.title]
        if len(self.took):
            parts.append(f"{duration(int(np.median(self.took)))}/call")
        for word, name in (("in", "inputs"), ("out", "outputs")):
            forms = self.forms(name)
            if forms:
                parts.append(f"{word} {fit(forms[0][0], 40)}")
        return [(fit(" " + "  ".join(parts), width), "")]

    def lines(self, width: int, *, whole: bool = False) -> list[list[Piece]]:
        """All that is known, as lines; `whole` lists every form and more of the source."""
        if self.node < 0:
            return [[("nothing is selected", "dim")]]
        if self.outside:
            return [
                [("nothing recorded was running:", "")],
                [("imports, data, what no phase is", "")],
                [("known for", "")],
            ]
        lines: list[list[Piece]] = [[(fit(self.title, width), "bold")]] if self.title else []
        lines += [[(fit(text, width), "")] for text in self._counts()]
        lines.append([])
        lines += [[(fit(text, width), "")] for text in self._times()]
        lines.append([])
        lines += [[(fit(text, width), "")] for text in self._shapes(whole=whole)]
        facts = self._facts()
        lines += [[], *([(fit(text, width), "")] for text in facts)] if facts else []
        lines += [[(fit(text, width), "warn")] for text in self._troubles(whole=whole)]
        place = self.place
        if place is not None:
            lines += [[], *around(place, width, 12 if whole else 2)]
        return [line for at, line in enumerate(lines) if line or (at and lines[at - 1])]

    def _counts(self) -> list[str]:
        if self.placed.node is None:
            row = self.node
            at = int(self.rank.part.column("start_ns")[row])
            step = int(self.rank.part.codes_at("step", self.rows)[0])
            return [f"call {row:,}  at {duration(at)}" + (f"  step {step}" if step >= 0 else "")]
        text = plural(len(self.rows), "call")
        instances = len(self.modules)
        return [f"{plural(instances, 'instance')}, {text}" if instances > 1 else text]

    def _times(self) -> list[str]:
        nodes, wall = self.nodes, self.rank.part.wall_ns
        lines = []
        for name in ("self", "total"):
            value = nodes.number(name, self.node)
            share = "" if value is None else f"{percent(value, wall):>6} %"
            lines.append(f"{name:5} {duration(value):>8} {share}")
        took = np.sort(self.took)
        if len(took) > 1:
            p50, p95 = (int(took[(len(took) * part + 99) // 100 - 1]) for part in (50, 95))
            lines.append(f"p50 {duration(p50)}  p95 {duration(p95)}  max {duration(int(took[-1]))}")
            if self.in_statistics:
                lines.append(f"of {chosen_steps(self.rank.stored, self.rank.process).text}")
            at = int(self.took.argmax())
            slowest = int(self.timed_rows[at])
            step = int(self.rank.part.codes_at("step", self.timed_rows[at : at + 1])[0])
            lines.append(
                f"{_histogram(took)}  slowest: {f'step {step}' if step >= 0 else f'call {slowest:,}'}"
            )
        if len(self.rank.stored.table("device_times")):
            on_device = device_times(self.rank.stored).device_ns[self.rows + self.rank.part.low]
            if (on_device >= 0).any():
                lines.append(f"device {duration(int(on_device[on_device >= 0].sum()))}")
        return lines

    def _shapes(self, *, whole: bool) -> list[str]:
        lines = []
        for word, name in (("in ", "inputs"), ("out", "outputs")):
            forms = self.forms(name)
            for text, times in forms if whole else forms[:1]:
                lines.append(f"{word} {text}" + (f"   {plural(times, 'call')}" if whole else ""))
            if len(forms) > 1 and not whole:
                lines.append(f"    ({len(forms)} forms: enter lists them)")
        return lines

    def _facts(self) -> list[str]:
        stored, part = self.rank.stored, self.rank.part
        lines = []
        if len(self.modules):
            number, held = self._module("parameter_count"), self._module("parameter_bytes")
            if isinstance(number, int) and isinstance(held, int) and number:
                each = " each" if len(self.modules) > 1 else ""
                lines.append(f"params {count(number)}  {size(held)}{each}")
        out = part.codes_at("outputs", self.rows)
        held_bytes = signature_bytes(stored)[out[out >= 0][:1]]
        if len(held_bytes) and held_bytes[0] >= 0:
            lines.append(f"output {size(int(held_bytes[0]))}/call")
        peak = self.nodes.number("mem", self.node)
        if peak is not None:
            lines.append(f"peak {size(peak)} held in a call")
        if len(stored.table("work")) and len(self.rows):
            rows = self.timed_rows + part.low
            flops, least = work(stored).flops[rows], work(stored).least[rows]
            some = flops > 0
            if some.any():
                rate = int(flops[some].sum()) * 10**9 // max(int(self.took[some].sum()), 1)
                each = scaled(int(np.median(flops[some])), "FLOP")
                # The time of the host on an accelerator is that of telling it what to do.
                speed = "" if accelerators(stored) else f", {scaled(rate, 'FLOP/s')}"
                lines.append(f"{each}/call{speed}")
            elif (least > 0).any():
                lines.append(f"at least {scaled(int(np.median(least)), 'FLOP')}/call")
        return lines

    def _troubles(self, *, whole: bool) -> list[str]:
        part = self.rank.part
        status = part.column("status")[self.rows]
        lines = []
        for code in range(1, len(STATUSES)):
            times = int((status == code).sum())
            if times:
                lines.append(f"! {STATUSES[code]} {times:,} times")
        error = part.codes_at("error", self.rows)
        texts = error_texts(self.rank.stored) if (error >= 0).any() else []
        shown = np.unique(error[error >= 0]).tolist()[: 20 if whole else 1]
        lines += [f"  {plain(texts[number], 300)}" for number in shown]
        if len(self.rows) and bool((part.column("kind")[self.rows] == BACKWARD).all()) and whole:
            lines.append("  this is the backward of the module")
        return lines


def _histogram(took: Ints) -> str:
    """How durations are spread between the shortest and the longest, in 12 characters."""
    low, high = int(took[0]), int(took[-1])
    numbers = np.histogram(took, bins=12, range=(low, max(high, low + 1)))[0]
    top = max(int(numbers.max()), 1)
    return "".join(_SPARK[min(-(-int(number) * 3 // top), 3)] for number in numbers)
