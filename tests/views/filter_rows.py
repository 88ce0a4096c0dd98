"""Rows of filter_cases.json as filters look at them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from modtrace.analysis.filters import FilterRows, mask, parse
from modtrace.analysis.metrics import METRICS
from modtrace.errors import UsageError

FILE = Path(__file__).with_name("filter_cases.json")


def cases() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows, and the cases: a `text` with the `rows` that it lets through, or with the `error` that it is."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    for row in data["rows"]:  # JSON has no NaN and no infinities
        row["numbers"] = {
            key: float(number) if isinstance(number, str) else number
            for key, number in row["numbers"].items()
        }
    return data["rows"], data["cases"]


def rows_of(rows: list[dict[str, Any]]) -> FilterRows:
    """The rows as arrays."""
    count = len(rows)

    def numbers(key: str) -> tuple[np.ndarray, np.ndarray]:
        values = [row["numbers"].get(key) for row in rows]
        known = np.array([value is not None for value in values])
        return np.array(
            [value or 0 for value in values], np.float64 if METRICS[key].of_values else np.int64
        ), known

    def member(group: str, key: int) -> np.ndarray:
        return np.array([key in row[group] for row in rows], np.bool_)

    every = np.arange(count)
    return FilterRows(
        every, [row["path"] for row in rows], every, [row["type"] for row in rows], numbers, member
    )


def outcome(text: str, rows: FilterRows) -> dict[str, Any]:
    """What a filter does: the numbers of the rows that pass, or the error."""
    try:
        return {"rows": np.flatnonzero(mask(parse(text), rows)).tolist()}
    except UsageError as error:
        return {"error": str(error)}
