"""A metric that is added to the schema and to the registry alone, before anything else is imported; and what all views
then say. `python -m tests.views.a_further_metric TRACE FOLDER` writes a trace with the column, a report and facts.json.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from modtrace.trace import schema

schema.TABLES["calls"] += (schema.Column("toy_bytes", "int64", "toys of a call", True, since=1),)
schema.CALL_COLUMNS += ("toy_bytes",)  # type: ignore[misc]

from modtrace.analysis.metrics import METRICS, Metric  # noqa: E402

METRICS["toy"] = Metric(
    "toy", "toys", "bytes", "most", "toy_bytes", "toy_bytes", "the most toys that a call had"
)

import pyarrow as pa  # noqa: E402

import modtrace  # noqa: E402
from modtrace.trace.reader import open_trace  # noqa: E402
from modtrace.views import console  # noqa: E402
from modtrace.views.models.csv_sheet import tree_sheet  # noqa: E402
from modtrace.views.models.tree_model import TreeModel  # noqa: E402
from modtrace.views.models.viewer_model import ViewerModel  # noqa: E402
from modtrace.views.tui.detail import Detail  # noqa: E402
from modtrace.views.tui.tree_lines import TreeLines, sort_keys  # noqa: E402
from tests.fuzz.mutate import Image  # noqa: E402


def with_toys(path: Path, other: Path) -> None:
    """A trace like another one whose calls have toys: 1 KiB for each in order, the fifth call's are not known."""
    image = Image(path)
    for content in image.folders.values():
        rows = content["calls.arrows"]
        toys = [1024 * (row + 1) if row != 4 else None for row in range(len(rows))]
        place = rows.schema.get_field_index("toy_bytes")
        content["calls.arrows"] = rows.set_column(place, "toy_bytes", pa.array(toys, pa.int64()))
    image.write(other)


def facts(path: Path, folder: Path) -> dict[str, object]:
    """What views and exports say, by view."""
    stored, trace = open_trace(path), modtrace.load(path)
    rank = ViewerModel(path).rank(0)
    nodes = rank.tree("merged").nodes
    model = TreeModel(nodes)
    lines = TreeLines(model, rank.tree("merged").base_ns, 300)
    known = [node for node in range(len(nodes)) if nodes.number("toy", node) is not None]
    trace.to_html(folder / "r.html")
    trace.to_csv(folder / "calls.csv")
    trace.to_parquet(folder / "calls.parquet")
    sheet = tree_sheet(model, "tree")
    detail = Detail(rank, rank.tree("merged"), known[0])
    return {
        "keys": sort_keys(),
        "tree": console.tree(stored, sort="toy"),
        "modules": console.modules_table(stored, sort="toy"),
        "where": console.tree(stored, where="toy >= 3KiB"),
        "columns": lines.columns(300),
        "head": lines.head(300)[0][0],
        "lines": ["".join(piece[0] for piece in lines.line(row, 300)) for row in range(len(lines))],
        "sheet": [list(sheet.columns), *map(list, sheet.rows)],
        "detail": ["".join(piece[0] for piece in line) for line in detail.lines(60)],
        "calls": trace.calls["toy_bytes"].dropna().astype(int).tolist(),
        "page": runpy.run_path(str(Path(__file__).parents[2] / "docs" / "data_page.py"))["page"](),
        "numbers": [nodes.number("toy", node) for node in range(len(nodes))],
    }  # fmt: skip


if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with_toys(source, folder / "toys.mtrace")
    views = facts(folder / "toys.mtrace", folder)
    (folder / "facts.json").write_text(json.dumps(views), encoding="utf-8")
