"""The facts of one node: the pane beside the tree. No Textual."""

from __future__ import annotations

from typing import Final

import numpy as np

from modtrace.analysis.calls import error_texts, same_text
from modtrace.analysis.device_times import accelerators
from modtrace.analysis.flops import work
from modtrace.analysis.memory_peaks import signature_bytes
from modtrace.analysis.metrics import METRICS, Metric, comparable
from modtrace.analysis.statistics import chosen_steps, rows_that_count
from modtrace.analysis.timeline import timeline
from modtrace.text import fit, plain
from modtrace.trace.schema import BACKWARD, STATUSES
from modtrace.units import count, duration, percent, plural, scaled, size
from modtrace.views.models.nodes import Ints
from modtrace.views.models.trees import BEFORE, LEFT_OUT, OUTSIDE, PlacedTree
from modtrace.views.models.viewer_model import Rank
from modtrace.views.tui.line_list import wrapped
from modtrace.views.tui.source import SourcePlace, around
from modtrace.views.tui.styles import Piece

_SPARK: Final = " .:|"
_ELSEWHERE: Final = ("self", "total", "calls", "p50", "p95", "max", "flops", "mem")
"""Metrics that are told with a share, with others or in words of their own."""
MANY: Final = 200
"""Shape forms that are listed."""


class Detail:
    """The facts of a node, worked out when they are asked for."""

    def __init__(self, rank: Rank, placed: PlacedTree, node: int) -> None:
        self.rank, self.placed, self.node = rank, placed, node
        self.nodes = placed.nodes
        part = rank.part
        self.outside = node < 0 or self.nodes.label(node) in (BEFORE, LEFT_OUT, OUTSIDE)
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
            return plain(self.nodes.class_name(self.node), 200)
        class_name, description = plain(str(self._module("type")), 200), self._module("extra_repr")
        return f"{class_name}({plain(str(description), 200)})" if description else class_name

    @property
    def place(self) -> SourcePlace | None:
        """Where its code is: the module's forward, or what calls a function."""
        if self.outside or not len(self.rows):
            return None
        if len(self.modules):
            file, line = self._module("source_file"), self._module("source_line")
            return SourcePlace(str(file), int(str(line))) if file is not None and line is not None else None
        tag = int(self.rank.part.codes_at("label", self.rows[:1])[0])
        source = timeline(self.rank.stored).places[tag] if tag >= 0 else None
        return SourcePlace(source[0], source[1]) if source is not None else None

    def forms(self, name: str) -> list[tuple[str, int]]:
        """Texts of the distinct signatures and how many calls have each, the most frequent first."""
        codes = same_text(self.rank.stored)[self.rank.part.codes_at(name, self.rows)]
        numbers, times = np.unique(codes[codes >= 0], return_counts=True)
        texts = self.rank.stored.table("signatures").column("text")
        order = np.argsort(-times, kind="stable")[:MANY]
        return [(plain(texts[int(numbers[form])].as_py(), 500), int(times[form])) for form in order.tolist()]

    def brief(self, width: int) -> list[Piece]:
        """One line."""
        if self.outside:
            text = "nothing is selected" if self.node < 0 else self._waiting()
            return [(fit(f" {text}", width), "")]
        parts = [plain(self.nodes.label(self.node)[:200]), self.title]
        if len(self.took):
            parts.append(f"{duration(int(np.median(self.took)))}/call")
        for word, name in (("in", "inputs"), ("out", "outputs")):
            forms = self.forms(name)
            if forms:
                parts.append(f"{word} {fit(forms[0][0], 40)}")
        return [(fit(" " + "  ".join(parts), width), "")]

    def lines(self, width: int, *, full: bool = False) -> list[list[Piece]]:
        """All that is known, as lines; `full` lists every form and more of the source."""
        if self.node < 0:
            return [[("nothing is selected", "dim")]]
        if self.outside:
            texts = [*wrapped(self._waiting(), width), *self._shares()]
            return [[(fit(text, width), "")] for text in texts]
        lines: list[list[Piece]] = [[(fit(self.title, width), "bold")]] if self.title else []
        lines += [[(fit(text, width), "")] for text in self._counts()]
        lines.append([])
        lines += [[(fit(text, width), "")] for text in self._times()]
        lines.append([])
        lines += [[(fit(text, width), "")] for text in self._shapes(full=full)]
        facts = self._facts()
        lines += [[], *([(fit(text, width), "")] for text in facts)] if facts else []
        lines += [[(fit(text, width), "warn")] for text in self._troubles(full=full)]
        place = self.place
        if place is not None:
            lines += [[], *around(place, width, 12 if full else 2)]
        return [line for index, line in enumerate(lines) if line or (index and lines[index - 1])]

    def _waiting(self) -> str:
        before = self.nodes.label(self.node) == BEFORE
        return "before the first call: imports, data, models" if before else "nothing recorded was running"

    def _counts(self) -> list[str]:
        if self.placed.node is None:
            row = self.node
            start_ns = int(self.rank.part.column("start_ns")[row])
            step = int(self.rank.part.codes_at("step", self.rows)[0])
            return [f"call {row:,}  at {duration(start_ns)}" + (f"  step {step}" if step >= 0 else "")]
        calls = self.nodes.number("calls", self.node) or 0
        text = plural(calls, "call")
        if calls < len(self.rows):
            text += f" of {count(len(self.rows))}"
        instances = len(self.modules)
        return [f"{plural(instances, 'instance')}, {text}" if instances > 1 else text]

    def _times(self) -> list[str]:
        nodes = self.nodes
        lines = self._shares()
        took = np.sort(self.took)
        if len(took) > 1:
            spread = [metric for metric in comparable() if metric.adds in ("p50", "p95", "max")]
            known = [metric for metric in spread if nodes.number(metric.key, self.node) is not None]
            lines.append("  ".join(f"{metric.key} {self._text(metric)}" for metric in known))
            if self.in_statistics:
                lines.append(f"of {chosen_steps(self.rank.stored, self.rank.process).text}")
            index = int(self.took.argmax())
            slowest = int(self.timed_rows[index])
            step = int(self.rank.part.codes_at("step", self.timed_rows[index : index + 1])[0])
            lines.append(
                f"{_histogram(took)}  slowest: {f'step {step}' if step >= 0 else f'call {slowest:,}'}"
            )
        return lines + self._others()

    def _shares(self) -> list[str]:
        """Self and total time, with their shares of the steps, or of what else shares are of."""
        lines = []
        counted = self.nodes.is_counted(self.node)
        for name in ("self", "total"):
            metric, value = METRICS[name], self.nodes.number(name, self.node)
            share = "" if value is None or not counted else f"{percent(value, self.placed.base_ns):>6} %"
            text = "-" if not counted and self.placed.node is not None else metric.text(value)
            lines.append(f"{metric.title:5} {text:>8} {share}".rstrip())
        lines.append(f"% of {self.placed.window_text}" if counted else f"not in {self.placed.window_text}")
        return lines

    def _others(self) -> list[str]:
        """Numbers that have no line of their own here, where they are known."""
        metrics = [metric for metric in comparable() if metric.key not in _ELSEWHERE]
        known = [metric for metric in metrics if self.nodes.value(metric.key, self.node) is not None]
        return [f"{metric.title} {self._text(metric)}" for metric in known]

    def _text(self, metric: Metric) -> str:
        return metric.text(self.nodes.value(metric.key, self.node))

    def _shapes(self, *, full: bool) -> list[str]:
        lines = []
        for word, name in (("in ", "inputs"), ("out", "outputs")):
            forms = self.forms(name)
            for text, times in forms if full else forms[:1]:
                lines.append(f"{word} {text}" + (f"   {plural(times, 'call')}" if full else ""))
            if len(forms) > 1 and not full:
                lines.append(f"    ({len(forms)} forms: enter lists them)")
        return lines

    def _facts(self) -> list[str]:
        stored, part = self.rank.stored, self.rank.part
        lines = []
        if len(self.modules):
            number, parameter_bytes = self._module("parameter_count"), self._module("parameter_bytes")
            if isinstance(number, int) and isinstance(parameter_bytes, int) and number:
                each = " each" if len(self.modules) > 1 else ""
                lines.append(f"params {count(number)}  {size(parameter_bytes)}{each}")
        out = part.codes_at("outputs", self.rows)
        held_bytes = signature_bytes(stored)[out[out >= 0][:1]]
        if len(held_bytes) and held_bytes[0] >= 0:
            lines.append(f"output {size(int(held_bytes[0]))}/call")
        if self.nodes.number("mem", self.node) is not None:
            lines.append(f"{METRICS['mem'].title} {self._text(METRICS['mem'])} held in a call")
        if len(stored.table("work")) and len(self.rows):
            rows = self.timed_rows + part.low
            flops, least = work(stored).flops[rows], work(stored).least[rows]
            computed = flops > 0
            if computed.any():
                rate = int(flops[computed].sum()) * 10**9 // max(int(self.took[computed].sum()), 1)
                each = scaled(int(np.median(flops[computed])), "FLOP")
                # The time of the host on an accelerator is that of telling it what to do.
                speed = "" if accelerators(stored) else f", {scaled(rate, 'FLOP/s')}"
                lines.append(f"{each}/call{speed}")
            elif (least > 0).any():
                lines.append(f"at least {scaled(int(np.median(least)), 'FLOP')}/call")
        return lines

    def _troubles(self, *, full: bool) -> list[str]:
        part = self.rank.part
        status = part.column("status")[self.rows]
        lines = []
        for code in range(1, len(STATUSES)):
            times = int((status == code).sum())
            if times:
                lines.append(f"! {STATUSES[code]} {'once' if times == 1 else f'{times:,} times'}")
        error = part.codes_at("error", self.rows)
        texts = error_texts(self.rank.stored) if (error >= 0).any() else []
        shown = np.unique(error[error >= 0]).tolist()[: 20 if full else 1]
        lines += [f"  {plain(texts[number], 300)}" for number in shown]
        if len(self.rows) and bool((part.column("kind")[self.rows] == BACKWARD).all()) and full:
            lines.append("  this is the backward of the module")
        return lines


def _histogram(took: Ints) -> str:
    """A histogram of durations from the shortest to the longest, in 12 characters."""
    low, high = int(took[0]), int(took[-1])
    numbers = np.histogram(took, bins=12, range=(low, max(high, low + 1)))[0]
    top = max(int(numbers.max()), 1)
    return "".join(_SPARK[min(-(-int(number) * 3 // top), 3)] for number in numbers)
