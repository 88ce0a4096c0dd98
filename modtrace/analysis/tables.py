"""The tables of a trace by name, as `Trace` shows them and as files hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pandas as pd

from modtrace.analysis import answers
from modtrace.analysis.calls import calls
from modtrace.analysis.compilations import compilations
from modtrace.analysis.kernels import kernels
from modtrace.analysis.modules import modules
from modtrace.analysis.ranks.joined_collectives import collectives
from modtrace.analysis.ranks.rank_rows import ranks
from modtrace.analysis.rollup_windows import rollup_frame
from modtrace.analysis.roofline import device_keys
from modtrace.analysis.series import memory_series
from modtrace.analysis.steps import steps
from modtrace.analysis.syncs import syncs
from modtrace.analysis.values import values
from modtrace.device_peaks.cache import cached_of
from modtrace.trace.dataframes import EXPORTED, FRAMES, INDEX, units
from modtrace.trace.reader import Stored


def _steps(stored: Stored) -> pd.DataFrame:
    return steps(stored, cached_of(device_keys(stored)))


_MAKERS: Final[dict[str, Callable[[Stored], pd.DataFrame]]] = {
    "calls": calls,
    "modules": modules,
    "steps": _steps,
    "folded": answers.folded,
    "findings": answers.findings,
    "gaps": answers.gaps,
    "operations": answers.operations,
    "holders": answers.holders,
    "kernels": kernels,
    "syncs": syncs,
    "compilations": compilations,
    "values": values,
    "nonfinite": answers.nonfinite,
    "ranks": ranks,
    "collectives": collectives,
    "rollups": rollup_frame,
    "memory": memory_series,
}


def exported(stored: Stored, table: str) -> pd.DataFrame:
    """A table as files hold it: what tells rows apart is a column, see `frames.exported_columns`.

    Args:
        stored: the trace.
        table: a name of `dataframes.EXPORTED`.
    """
    frame = _MAKERS[table](stored)
    return frame.reset_index() if EXPORTED[table] in INDEX else frame


def shown(stored: Stored, table: str) -> pd.DataFrame:
    """A table as `Trace` shows it: units in `attrs["units"]`, and an index in which no row is like another."""
    frame = _MAKERS[table](stored)
    if table == "steps":
        frame = _each_rank(stored, frame)
    return with_units(frame, EXPORTED[table])


def with_units(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same DataFrame with the units of its columns in `attrs["units"]`: `{"self_ns": "ns", ...}`.

    Args:
        frame: the DataFrame.
        name: of its columns, in `frames.FRAMES`.
    """
    frame.attrs["units"] = units(FRAMES[name])
    return frame


def _each_rank(stored: Stored, frame: pd.DataFrame) -> pd.DataFrame:
    """Steps by (rank, step) where there are several processes; by (rank, process, step) where a rank was restarted."""
    ranks = [process.rank for process in stored.processes]
    if len(ranks) < 2:
        return frame
    frame = frame.reset_index()
    names = ["rank", "step"]
    if len(set(ranks)) < len(ranks):
        frame["process"] = (frame["step"] == 0).groupby(frame["rank"]).cumsum() - 1
        names = ["rank", "process", "step"]
    return frame.set_index(names).sort_index()
