"""The numbers of calls and of rows of a tree: one row a number, the one place that names them.

Read by the summary, the text tree, the tree and details of the viewer, the filter language, the report (which is given
them as data), CSV files and docs/data.md. A new number is a row here and a column in `trace/schema.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from modtrace.trace.dataframes import FRAMES
from modtrace.trace.schema import PHASES
from modtrace.units import VALUE, in_unit

Adds = Literal["calls", "sum", "full sum", "most", "least", "p50", "p95", "max", "single", "ranks"]
"""Ways in which the number of a row of a tree follows from those of its calls."""

ADDS: Final[dict[Adds, str]] = {
    "calls": "counted",
    "sum": "added up over the calls for which it is known",
    "full sum": "added up; unknown where that of one call is",
    "most": "the most of any call for which it is known",
    "least": "the least of any call for which it is known",
    "p50": "median of the calls in the steps `in_statistics`; of all where none ran in these",
    "p95": "95th percentile (nearest rank) of the same calls",
    "max": "the longest of the same calls",
    "single": "known of single calls alone",
    "ranks": "added up over its modules on each rank, whatever calls of them are in the row",
}


SUMS: Final[tuple[Adds, ...]] = ("calls", "sum", "full sum")
"""Ways that depend on how many calls there are."""


@dataclass(frozen=True)
class Metric:
    """A number of a call or of a row of a tree.

    key: its name in filters and for `--sort`.
    title: head of its column.
    unit: `ns`, `bytes`, `FLOP`; VALUE for a number of any sign with a fraction, which may be NaN; "" for a count.
    adds: a key of ADDS.
    column: column of `t.calls` that it is made of; "" for the number of calls, and over ranks.
    name: name of its column in CSV files and in the data of a report.
    doc: what it is, in a sentence.
    module_column: column of `t.modules` with this number of a module; "" where it follows from the module's calls.
    bound: key of the metric that is a lower bound of it, shown where it is not known.
    width: columns of a terminal.
    label: what a list of facts calls it; the title where it is "".
    """

    key: str
    title: str
    unit: str
    adds: Adds
    column: str
    name: str
    doc: str
    module_column: str = ""
    bound: str = ""
    width: int = 9
    label: str = ""

    @property
    def of_values(self) -> bool:
        """True for values of tensors: doubles of either sign. All others are whole numbers from 0 up."""
        return self.unit == VALUE

    def text(self, number: float | None, least: float | None = None) -> str:
        """The number as text; where it is not known `?`, and nothing over ranks. `least` is the lower bound."""
        if number is None and self.adds == "ranks":
            return ""
        return in_unit(number, self.unit, least)


def _table(*rows: Metric) -> dict[str, Metric]:
    return {row.key: row for row in rows}


METRICS: Final = _table(
    Metric("self", "self", "ns", "sum", "self_ns", "self_ns",
           "wall time without the calls inside and without modtrace's own time", "self_ns"),
    Metric("total", "total", "ns", "sum", "duration_ns", "total_ns",
           "wall time with everything inside", "total_ns"),
    Metric("calls", "calls", "", "calls", "", "calls",
           "how many calls; for a module, those of its forward without what checkpointing computes again", "calls",
           width=8),
    Metric("start", "start", "ns", "single", "start_ns", "start_ns",
           "when the call started, since the start of recording in its process"),
    Metric("p50", "median", "ns", "p50", "duration_ns", "p50_ns", "wall time of a call: median"),
    Metric("p95", "p95", "ns", "p95", "duration_ns", "p95_ns", "wall time of a call: 95th percentile"),
    Metric("max", "max", "ns", "max", "duration_ns", "max_ns", "wall time of a call: the longest"),
    Metric("device", "device", "ns", "sum", "device_ns", "device_ns",
           "time on the device, gaps between kernels included", "device_total_ns", label="on the device"),
    Metric("flops", "FLOPs", "FLOP", "full sum", "flops", "flops",
           "FLOPs of everything inside; a multiply-accumulate is two", "flops", bound="flops_at_least", width=11,
           label="computes"),
    Metric("flops_at_least", "FLOPs at least", "FLOP", "full sum", "flops_at_least", "flops_at_least",
           "the same without the parts that are not known: a lower bound", "flops_at_least", width=15),
    Metric("mem", "peak", "bytes", "most", "memory_peak_bytes", "peak_bytes",
           "most memory that was held while a call ran", label="memory peak"),
    Metric("out_min", "out min", VALUE, "least", "output_minimum", "output_minimum",
           "least value in its outputs (`--values`); nan where any is", width=10, label="output minimum"),
    Metric("out_max", "out max", VALUE, "most", "output_maximum", "output_maximum",
           "greatest value in its outputs; nan where any is", width=10, label="output maximum"),
    Metric("out_abs", "out abs", VALUE, "most", "output_absolute_maximum", "output_absolute_maximum",
           "greatest absolute value in its outputs; nan where any is", width=10, label="output absolute maximum"),
    Metric("grad_abs", "grad abs", VALUE, "most", "gradient_absolute_maximum", "gradient_absolute_maximum",
           "greatest absolute value in the gradients that arrived at its backward; nan where any is", width=10,
           label="gradient absolute maximum"),
    Metric("ranks_min", "ranks min", "ns", "ranks", "", "ranks_min_ns",
           "own time of its module in a step, in the direction of the row, median of each rank: the least of the ranks "
           "with the same modules", width=10, label="least of the ranks"),
    Metric("ranks_median", "ranks med", "ns", "ranks", "", "ranks_median_ns",
           "the same: the median of these ranks, of two the lesser", width=10, label="median of the ranks"),
    Metric("ranks_max", "ranks max", "ns", "ranks", "", "ranks_max_ns",
           "the same: the most of these ranks", width=10, label="most of the ranks"),
)  # fmt: skip
"""By key, in the order in which views show them."""

BOUNDS: Final = frozenset(row.bound for row in METRICS.values() if row.bound)
"""Metrics that are shown in the place of another one and have no column of their own."""


def shown() -> list[Metric]:
    """The metrics that have a column of their own."""
    return [metric for metric in METRICS.values() if metric.key not in BOUNDS]


def of_groups() -> list[Metric]:
    """The metrics that a row of several calls has too, with lower bounds."""
    return [metric for metric in METRICS.values() if metric.adds != "single"]


def comparable() -> list[Metric]:
    """The metrics that rows are compared by, in filters and sorting."""
    return [metric for metric in shown() if metric.adds != "single"]


MODULE_TITLES: Final[dict[str, str]] = {
    "calls": "calls", "self_ns": "self", "total_ns": "total", "forward_total_ns": "forward",
    "backward_total_ns": "backward", "forward_p50_ns": "median", "forward_p95_ns": "p95", "device_total_ns": "device",
    "forward_flops": "FLOPs", "backward_flops": "FLOPs back", "parameter_count": "parameters",
    "parameter_bytes": "bytes",
}  # fmt: skip
"""Columns of numbers of `t.modules` that a table of modules shows, and their heads."""

STEP_TITLES: Final[dict[str, str]] = {
    "duration_ns": "time", **{f"{name}_ns": name for name in (*PHASES, "other_threads", "other")}, "calls": "calls",
    "flops": "FLOPs", "samples": "samples", "device_ns": "device", "device_idle_ns": "idle",
    "memory_peak_bytes": "peak", "start_ns": "start",
}  # fmt: skip
"""The same of `t.steps`."""


@dataclass(frozen=True)
class TableColumn:
    """A column of numbers of a table of modules or steps; `bound` names the column with its lower bound."""

    key: str
    title: str
    unit: str
    bound: str


OPERATOR_COLUMNS: Final = (
    TableColumn("forward_ns", "forward", "ns", ""),
    TableColumn("backward_ns", "backward", "ns", ""),
    TableColumn("executions", "executions", "", ""),
)
"""Columns of numbers of a table of operators by module."""


def table_columns(frame: str) -> list[TableColumn]:
    """The columns of numbers of a table; `frame` is `modules` or `steps`."""
    titles = {"modules": MODULE_TITLES, "steps": STEP_TITLES}[frame]
    described = {column.name: column for column in FRAMES[frame]}
    return [
        TableColumn(
            key, title, described[key].unit, f"{key}_at_least" if f"{key}_at_least" in described else ""
        )
        for key, title in titles.items()
    ]
