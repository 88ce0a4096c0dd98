"""Ranks of a job for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from modtrace.analysis.ranks.rank_report import RankReport
from modtrace.analysis.ranks.rank_rows import rank_rows


def ranks_json(report: RankReport, remarks: Sequence[str]) -> str:
    """One object: `ranks`, `late`, `modules`, `missing`, `remarks`; times are nanoseconds, unknown is null.

    Args:
        report: the ranks.
        remarks: sentences about what is wrong.
    """
    late = [
        {
            "rank": late.rank,
            "cause": late.verdict.cause,
            "module": late.place.name if late.place is not None else None,
            "direction": late.place.direction if late.place is not None else None,
            "since_step": late.since_step,
            "excess_ns": int(late.verdict.excess_ns),
            "peers_ns": int(late.verdict.peers_ns),
            "gain": late.verdict.gain,
        }
        for late in report.late
    ]
    modules = [
        {
            "name": module.place.name,
            "type": module.place.type,
            "direction": module.place.direction,
            "role": module.role,
            "ranks": module.ranks,
            "least_ns": module.low_ns,
            "median_ns": module.median_ns,
            "most_ns": module.high_ns,
            "most_rank": module.high_rank,
        }
        for module in report.modules
    ]
    content = {
        "ranks": rank_rows(report),
        "late": late,
        "compared_steps": report.compared_steps,
        "not_compared": report.why_not or None,
        "modules": modules,
        "missing": report.missing,
        "remarks": list(remarks),
    }
    return json.dumps(content, indent=2)
