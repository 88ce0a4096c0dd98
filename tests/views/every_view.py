"""What every view says of a trace, as text: for what must stand in each of them."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from pathlib import Path

import pyarrow.parquet as pq

import modtrace
from modtrace.export.methods import TYPES
from modtrace.export.target import silent
from modtrace.trace.reader import open_trace
from modtrace.views import console
from modtrace.views.html.inline import table
from modtrace.views.html.report import report
from modtrace.views.live.plain_text import status_text
from modtrace.views.models.viewer_model import ViewerModel

CONSOLE = {
    "info": console.summary, "info --tree": console.tree, "info --steps": console.steps_table,
    "info --findings": console.findings_text, "info --memory": console.memory_text,
    "info --kernels": console.kernels_text,
    "info --syncs": console.syncs_text, "ranks": console.ranks_text, "info --operations": console.operations_text,
    "info --roofline": console.roofline_text, "info --rollups": console.rollups_text,
    "info --sort": console.modules_table, "info --json": console.info_json,
}  # fmt: skip


def heads(path: Path) -> dict[str, str]:
    """View -> where a person or a program would look for what the recording is: not the rows."""
    stored = open_trace(path)
    found = {name: view(stored) for name, view in CONSOLE.items()}
    found["ls"] = console.ls_table([path])
    found["live"] = status_text(path).split("\n")[0]
    found["viewer"] = ViewerModel(path).title(0)
    found["repr"] = repr(modtrace.load(path))
    heads = re.findall(r'<h1>.*?</h1>|<div class="failure">.*?</div>', report(stored).html, re.DOTALL)
    found["report"] = unescape(" ".join(heads))
    found["notebook"] = unescape(table(stored))
    for name in ("chrome", "json", "speedscope"):
        data = json.loads(b"".join(TYPES[name].chunks(stored, silent)))
        rows = {key: data.pop(key, None) for key in ("traceEvents", "tables", "profiles", "shared")}
        assert any(value is not None for value in rows.values())
        found[name] = json.dumps(data)
    written = b"".join(TYPES["parquet"].chunks(stored, silent))
    found["parquet"] = pq.read_schema(io.BytesIO(written)).metadata[b"modtrace"].decode()
    return found
