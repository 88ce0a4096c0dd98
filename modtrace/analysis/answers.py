"""Answers of analyses as DataFrames: where the time went, findings, gaps, operations, holders of the peak."""

from __future__ import annotations

from typing import Any

import pandas as pd

from modtrace.analysis.findings.ranked import findings as ranked_findings
from modtrace.analysis.flat_profile import FlatProfile, flat_profile
from modtrace.analysis.memory import memory
from modtrace.analysis.memory_peaks import peaks
from modtrace.analysis.nonfinite import nonfinite as origins
from modtrace.analysis.nonfinite import where
from modtrace.analysis.operations import operations as operations_of_groups
from modtrace.trace.dataframes import FINDINGS, FOLDED, GAPS, HOLDERS, NONFINITE, OPERATIONS, PublicColumn
from modtrace.trace.reader import Stored
from modtrace.trace.schema import VERDICTS

_Row = tuple[Any, ...]


def folded(stored: Stored, *, whole_run: bool = False) -> pd.DataFrame:
    """The flat profile, one row a group of repeated modules, ranks one after another; columns as in frames.FOLDED.

    `attrs["windows"]` has for each rank what the numbers are of: its `text`, `base_ns` (100 %) and `steps`.

    Args:
        stored: the trace.
        whole_run: of all the time from the start of recording on, not of the steps that count in statistics.
    """
    rows: list[_Row] = []
    windows = []
    for number, process in enumerate(stored.processes):
        profile = flat_profile(stored, number, whole_run=whole_run)
        rows += _profile_rows(profile, process.rank)
        window = profile.window
        windows.append(
            {"rank": process.rank, "text": window.text, "base_ns": window.base_ns, "steps": window.steps}
        )
    frame = _frame(FOLDED, rows)
    frame.attrs["windows"] = windows
    return frame


def _profile_rows(profile: FlatProfile, rank: int) -> list[_Row]:
    """Rows of one process: groups, then what is no call."""
    on_device = profile.on_device
    base_ns = sum(row.device_ns or 0 for row in profile.rows) if on_device else profile.window.base_ns

    def share(self_ns: int | None, device_ns: int | None) -> float | None:
        spent = device_ns if on_device else self_ns
        return spent / base_ns if spent is not None and base_ns else None

    rows: list[_Row] = [
        (
            row.name,
            row.type,
            row.instances if row.of_module else None,
            row.calls,
            row.self_ns,
            row.forward_ns,
            row.backward_ns,
            row.device_ns,
            share(row.self_ns, row.device_ns),
            row.output or None,
            row.of_module,
            rank,
        )
        for row in profile.rows
    ]
    for name, self_ns in (
        ("modtrace itself", profile.tracer_ns),
        ("around calls whose times are not known", profile.unknown_ns),
        ("before the first call", profile.before_ns),
        ("steps that were left out", profile.left_out_ns),
        ("outside of calls", profile.outside_ns),
        ("counted twice, in parallel", -profile.parallel_ns),
    ):
        if self_ns:
            rows.append(
                (name, "", None, None, self_ns, None, None, None, share(self_ns, None), None, False, rank)
            )
    return rows


def findings(stored: Stored) -> pd.DataFrame:
    """Remarks worth a look, the gravest first; columns as in frames.FINDINGS."""
    return _frame(
        FINDINGS,
        [
            (finding.rule, finding.text, finding.remedy, finding.won_ns or None, finding.wrong)
            for finding in ranked_findings(stored)
        ],
    )


def gaps(stored: Stored) -> pd.DataFrame:
    """Gaps: parts that were not recorded or are lost; columns as in frames.GAPS."""
    table = stored.table("gaps").to_pylist()
    rows: list[_Row] = [
        (stored.processes[row["process"]].rank, row["at_ns"], row["reason"], row["lost_calls"])
        for row in table
    ]
    return _frame(GAPS, [*rows, *((None, None, note, None) for note in stored.notes)])


def operations(stored: Stored) -> pd.DataFrame:
    """The computation of each group of modules in one call, in order of first calls; columns: frames.OPERATIONS."""
    return _frame(
        OPERATIONS,
        [
            (
                does.name,
                does.type,
                does.instances,
                does.calls,
                does.flops,
                does.least,
                does.operations is not None,
                does.operations or [],
                does.uncounted,
            )
            for does in operations_of_groups(stored)
        ],
    )


def holders(stored: Stored) -> pd.DataFrame:
    """Holders of memory at the peak of each device, the largest first; columns as in frames.HOLDERS. Empty where memory
    was not watched.
    """
    watched = [allocations for allocations in memory(stored) if len(allocations.at_ns)]
    rows: list[_Row] = []
    for allocations, peak in zip(watched, peaks(stored), strict=True):
        rank = stored.processes[allocations.process].rank
        rows += [
            (
                rank,
                peak.device,
                peak.at_ns,
                peak.step if peak.step >= 0 else None,
                holder.category,
                holder.name or None,
                holder.type if holder.name else None,
                holder.backward,
                holder.held_bytes,
                holder.allocations,
                holder.held_bytes / peak.held_bytes if peak.held_bytes else None,
            )
            for holder in peak.holders
        ]
    return _frame(HOLDERS, rows)


def nonfinite(stored: Stored) -> pd.DataFrame:
    """Values that are not finite, and where they began; columns as in dataframes.NONFINITE."""
    return _frame(
        NONFINITE,
        [
            (
                VERDICTS[entry.verdict],
                entry.step,
                where(entry),
                entry.module,
                entry.type,
                entry.tensor.name,
                entry.is_nan,
                entry.from_loader,
                entry.operation,
                entry.line,
                entry.call,
            )
            for entry in origins(stored)
        ],
    )


def _frame(columns: tuple[PublicColumn, ...], rows: list[_Row]) -> pd.DataFrame:
    """Rows of values in the order of the columns as a DataFrame of their types."""
    data: dict[str, Any] = {}
    for position, shown in enumerate(columns):
        values = [row[position] for row in rows]
        dtype: Any = "object" if shown.type == "list" else shown.type
        data[shown.name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(data)
