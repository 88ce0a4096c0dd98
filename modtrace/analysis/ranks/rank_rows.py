"""A row a rank, as the `ranks` DataFrame and the JSON have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modtrace.analysis.ranks.rank_report import RankReport, rank_report
from modtrace.trace.dataframes import RANKS
from modtrace.trace.reader import Stored

if TYPE_CHECKING:
    import pandas as pd


def ranks(stored: Stored) -> pd.DataFrame:
    """One row a start of a rank, by rank and attempt; columns as in dataframes.RANKS. Opens one rank at a time."""
    import pandas as pd

    rows = rank_rows(rank_report(stored))
    columns = {shown.name: pd.Series([row[shown.name] for row in rows], dtype=shown.type) for shown in RANKS}
    return pd.DataFrame(columns)


def rank_rows(report: RankReport) -> list[dict[str, Any]]:
    """The rows by names of columns; None is unknown."""
    late = {rank.rank for rank in report.late}
    return [
        {
            "rank": rank.rank,
            "attempt": rank.attempt,
            "role": role,
            "state": rank.end.state,
            "failed": rank.end.failed,
            "error": rank.end.error,
            "place": rank.end.place or None,
            "step": rank.end.step,
            "open_ns": rank.end.open_ns,
            "ended_unix_ns": rank.end.at_unix_ns,
            "steps": rank.steps,
            "whole_steps": rank.whole_steps,
            **rank.phases_ns,
            "wait_ns": rank.wait_ns,
            "late": rank.rank in late if rank.rank in report.compared else None,
        }
        for rank, role in zip(report.ranks, report.roles, strict=True)
    ]
