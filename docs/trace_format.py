"""Writes trace-format.md from modtrace/trace/schema.py: `python docs/trace_format.py`."""

from __future__ import annotations

from pathlib import Path

from modtrace.trace import schema

PAGE = Path(__file__).with_name("trace-format.md")

INTRODUCTION = f"""\
<!-- Written by docs/trace_format.py from modtrace/trace/schema.py. -->
# The trace on disk

Version {schema.VERSION}.{schema.MINOR_VERSION} of the format. A trace is a directory `NAME{schema.SUFFIX}`:

| file | what it holds |
|---|---|
| `{schema.RUN_FILE}` | format and version, when and with which script and arguments the run was started, python and platform |
| `rank-0/` and so on | one folder a process, by its rank in a distributed job; a restarted rank has `rank-0.1` and so on |
| `rank-0/{schema.PROCESS_FILE}` | process id, rank, torch's version, devices, what one traced call costs on this machine |
| `rank-0/TABLE{schema.STREAM_SUFFIX}` | one [Arrow IPC stream](https://arrow.apache.org/docs/format/Columnar.html) a table, only ever appended to |
| `rank-0/rollups{schema.LATEST_SUFFIX}` | only where sums are kept, until the end: rows of the window in progress, a stream that is replaced as a whole |
| `rank-0/thinned{schema.LATEST_SUFFIX}` | only where steps are left out, until the end: the stretch in progress, likewise |
| `rank-0/{schema.END_FILE}` | exit status, rows a table, what tracing cost; absent when the process was killed |
| `rank-0/{schema.STOP_FILE}` | only where recording ended before the program did (size limit, full disk, a fault): until when everything is there, when it ended and why, written at once. `{schema.END_FILE}` has it too |
| `{schema.OUTPUT_FILE}` | only of a run with `--live`: what the script printed, byte for byte ([live.md](live.md)) |

The directory has mode 0700 and its files 0600. Any Arrow tool reads the streams without modtrace:

```python
import pyarrow as pa

calls = pa.ipc.open_stream("run.mtrace/rank-0/calls.arrows").read_pandas()
```

What to know when reading them so:

- A batch is written in one piece. A stream that a crash cut short holds every batch before the cut; modtrace opens it
  and says what is missing. A file that is not there had no rows.
- Each batch carries in its metadata when it was written and a control total over its rows. modtrace checks it.
- Modules, names, signatures and errors are written before the first call that points at them. A later row with the same
  key replaces the earlier one: a lazy module, for one, has its sizes only after its first call.
- Calls are written when they have ended, so a call that was open over a flush stands in a later batch than its
  children. A stored call id is `thread << {schema.THREAD_SHIFT} | n`; modtrace renumbers the calls from 0, thread by
  thread and process by process.
- Calls in `open` without a row in `calls` never ended: there the program was when it was killed.
- A null is something that is not known, never a zero.
- Texts longer than {schema.TEXT_LIMIT} characters end in `...`; of an exception's message the first line is kept, at most
  {schema.MESSAGE_LIMIT} characters. Control characters are written as escapes. A text in a trace comes from a stranger: show
  it as text, never as markup.

`calls.kind` is an index into: {", ".join(f"{number} `{name}`" for number, name in enumerate(schema.KINDS))}.
`step` rows, and the phases `forward`, `eval` and `loss`, are not in the files: they follow from the rest when a trace is read.
`calls.status` is an index into: {", ".join(f"{number} `{name}`" for number, name in enumerate(schema.STATUSES))};
`aborted` calls were left by a `BaseException` such as KeyboardInterrupt, `unfinished` ones were open when recording ended.

## Versions

A minor version adds tables and columns that may be null, nothing else. A reader fills a column that it expects and does not find
with null, leaves out columns and tables that it does not know and says so once. It refuses only another major version. Columns
that came later are marked with the minor version that added them; the others were there from {schema.VERSION}.0.

## Tables
"""

TENSORS = """
An element of a column of type `tensors`:
"""

FRAME = """
## The DataFrame

`modtrace.load(path).calls` has one row a call, indexed by `call`, with these columns, in which keys have been replaced by
what they stand for. Those that this version does not record are there and null.

"""


def page() -> str:
    """The whole of trace-format.md."""
    parts = [INTRODUCTION]
    for name, columns in schema.TABLES.items():
        since = schema.TABLES_SINCE.get(name)
        added = f"Since {schema.VERSION}.{since}.\n\n" if since else ""
        parts += [f"\n### `{name}`\n\n", added, _table(columns)]
    parts += [TENSORS, "\n", _table(schema.TENSOR_FIELDS)]
    names = ", ".join(f"`{name}`" for name in schema.CALL_COLUMNS)
    return "".join(parts) + FRAME + names + "\n"


def _table(columns: tuple[schema.Column, ...]) -> str:
    lines = ["| column | type | may be null | since | what it is |", "|---|---|---|---|---|"]
    for column in columns:
        null, doc = "yes" if column.nullable else "", column.doc.replace("|", "&#124;")
        since = f"{schema.VERSION}.{column.since}"
        lines.append(f"| `{column.name}` | {column.type} | {null} | {since} | {doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
