"""Every view and export of a trace, as text to compare. `python -m tests.golden.every_text` writes them anew."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

import modtrace
from modtrace.export.methods import TYPES
from modtrace.export.target import silent
from modtrace.trace.reader import Stored, open_trace
from modtrace.views.html.aggregate import aggregate
from modtrace.views.html.inline import table
from modtrace.views.live.plain_text import status_text
from modtrace.views.models.op_rows import ops_of
from modtrace.views.models.tree_model import TreeModel
from modtrace.views.models.trees import MODES
from modtrace.views.models.viewer_model import Rank, ViewerModel
from modtrace.views.tui.op_lines import OpLines
from modtrace.views.tui.step_lines import StepLines
from modtrace.views.tui.tree_lines import TreeLines
from tests.views.every_view import CONSOLE

HERE = Path(__file__).parent
FRAMES = (
    "modules", "steps", "folded", "findings", "gaps", "operations", "holders", "kernels", "syncs", "compilations",
    "values", "nonfinite", "ranks", "collectives", "rollups",
)  # fmt: skip


RECORDED_BY = "0.1.0"
"""The modtrace that made the traces here."""


def every_text(path: Path) -> dict[str, str]:
    """Name of a view or export -> its text."""
    stored, trace = open_trace(path), modtrace.load(path)
    found = {name.replace(" --", "-"): view(stored) for name, view in CONSOLE.items()}
    found |= {f"frame-{name}": getattr(trace, name).to_csv() for name in FRAMES}
    found["frame-series"] = trace.series().to_csv()
    found["live"], found["notebook"] = status_text(path), table(stored)
    found["report"] = _report(stored)
    found["viewer"] = "\n".join(_viewer(ViewerModel(path).rank(0)))
    for name, kind in TYPES.items():
        data = b"".join(kind.chunks(stored, silent))
        if name == "parquet":
            found[f"export-{name}"] = pq.read_table(io.BytesIO(data)).to_pandas().to_csv()
        else:
            found[f"export-{name}"] = data.decode()
    return {name: _lasting(text) for name, text in found.items()}


def _lasting(text: str) -> str:
    """A text without the versions that write it, and that recorded the trace, and the folder that it lies in."""
    text = text.replace(str(HERE), "").replace("\r\n", "\n")
    text = text.replace(modtrace.__version__, "VERSION").replace(RECORDED_BY, "VERSION")
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).rstrip("\n") + "\n"


def _report(stored: Stored) -> str:
    found = aggregate(stored, most_modules=None, most_steps=None)
    parts = {
        name: {key: [int(value) for value in values] for key, values in getattr(found, name).items()}
        for name in ("tree", "forms", "sets", "modules", "steps")
    }
    return json.dumps(parts, indent=0)


def _viewer(rank: Rank) -> list[str]:
    lines = []
    for mode in MODES:
        nodes = rank.tree(mode).nodes
        model = TreeModel(nodes)
        model.set_open_below(0, opened=True)
        tree = TreeLines(model, rank.tree(mode).base_ns, 120, timed=mode == "calls")
        lines += [mode, *(_plain(tree.line(row, 120)) for row in range(len(tree)))]
    steps, ops = StepLines(rank), OpLines(ops_of(rank))
    lines += ["steps", *(_plain(steps.line(row, 120)) for row in range(len(steps)))]
    return [*lines, "operations", *(_plain(ops.line(row, 120)) for row in range(len(ops)))]


def _plain(line: object) -> str:
    assert isinstance(line, Sequence)
    return "".join(piece[0] for piece in line)


if __name__ == "__main__":
    for version in sorted(HERE.glob("format-*")):
        for name, text in every_text(version / "trace").items():
            (version / "expected").mkdir(exist_ok=True)
            (version / "expected" / f"{name}.txt").write_text(text, encoding="utf-8")
