"""The rows of a screen as a CSV file. No Textual."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modtrace.analysis.metrics import METRICS
from modtrace.systems.open_files import open_file, portable_name
from modtrace.text import cell, plain
from modtrace.views.models.nodes import TreeNodes
from modtrace.views.models.tree_model import TreeModel

Value = str | float | None


@dataclass(frozen=True)
class Sheet:
    """Rows and columns. Unknown is None, an empty cell."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]


def tree_sheet(model: TreeModel, name: str) -> Sheet:
    """The rows of a tree that are to be seen, in their order."""
    nodes: TreeNodes = model.nodes
    metrics = [metric for metric in METRICS.values() if nodes.has(metric.key)]
    rows: list[list[Value]] = []
    for row in range(len(model)):
        node = model.node_at(row)
        texts: list[Value] = [nodes.path(node), nodes.label(node), nodes.class_name(node)]
        rows.append([int(nodes.depth[node]), *texts, *(nodes.value(metric.key, node) for metric in metrics)])
    return Sheet(name, ["depth", "path", "label", "type", *(metric.name for metric in metrics)], rows)


def free_path(stem: str, suffix: str) -> Path:
    """A name in this directory that nothing has yet."""
    stem = portable_name(plain(stem, 100))
    for number in range(1, 1000):
        path = Path(f"{stem}{f'-{number}' if number > 1 else ''}{suffix}")
        if not path.exists():
            return path
    return Path(f"{stem}-{os.getpid()}{suffix}")


def write(sheet: Sheet, path: str) -> None:
    """Write a new file, readable by the user alone; cells that a spreadsheet takes for formulas get a `'` in front.

    Raises:
        OSError: it cannot be written, or stands there already.
    """
    descriptor = open_file(os.path.expanduser(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(sheet.columns)
        for row in sheet.rows:
            writer.writerow([cell(plain(value)) if isinstance(value, str) else value for value in row])
