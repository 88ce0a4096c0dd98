"""Writes data.md from modtrace/trace/dataframes.py, modtrace/analysis/metrics.py and the questions below: `python docs/data_page.py`."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

from modtrace.analysis.failure import Failure
from modtrace.analysis.metrics import ADDS, shown
from modtrace.analysis.run_facts import RunFacts
from modtrace.trace.dataframes import FRAMES, INDEX, PublicColumn

PAGE = Path(__file__).with_name("data.md")

INTRODUCTION = """\
<!-- Written by docs/data_page.py from modtrace/trace/dataframes.py and modtrace/analysis/metrics.py. -->
# The DataFrames

`t = modtrace.load(path)`, or the `t` of `with modtrace.trace() as t`, gives pandas DataFrames. They are made at the first use and
kept: change a copy. What is not known is null, never 0. `frame.attrs["units"]` has the unit of each column, `t.columns("calls")`
its type, unit and meaning. `t.to_csv(path, table="steps")`, `t.to_parquet` and `modtrace export --table steps` write any of them;
Parquet files carry unit, description and null of each column in the metadata of their fields. How the files of a trace look is in
[trace-format.md](trace-format.md).
"""

ROWS = {
    "calls": "One row a call, in order of start. What is inside call `c` are the rows up to its `last_call`.",
    "modules": "One row a module instance; those that never ran have 0 calls.",
    "steps": "One row a training step, or a root call where nothing ends a step. Of several ranks the index is (`rank`, `step`) and the column `rank` is in it. Of a rank that was restarted it is (`rank`, `process`, `step`). `t.steps.xs(0, level=\"rank\")` is one rank, `t.steps.reset_index()` has all as columns, as files have.",
    "folded": "Where the time went, as the summary shows it: one row a module, its repeats as one, forward and backward in one row. Phases, spans and functions are there by name, and what is no call. Most time first. Sums over the steps that count in statistics, the first step left out, or without steps over the recorded calls; `attrs[\"windows\"]` says which, for each rank, with `base_ns`, their length. The `self_ns` of a rank add up to that. `t.profile(whole_run=True)` is of all the time.",
    "findings": "One row a remark about what is worth a look ([findings.md](findings.md)), the gravest first.",
    "gaps": "One row a thing that was not recorded, or is lost. Empty where nothing is missing.",
    "operations": "One row a module, its repeats as one, in order of first calls. Nothing is counted with `trace(flops=False)`.",
    "holders": "One row a purpose and module that holds memory at the peak of a device. Empty unless memory was watched: `trace(memory=(0, 3))`.",
    "kernels": "One row a name of an operator or kernel in each call. Empty unless watched: `trace(kernels=\"0:3\")`.",
    "rollups": "One row a module and window of steps, and one a window of the steps themselves. Empty unless asked for: `trace(rollups=True)`.",
    "syncs": "One row a kind of wait for a device and line of the code in each call. Empty unless asked for: `trace(syncs=True)`.",
    "compilations": "One row a graph that `torch.compile` made. Empty where nothing was compiled.",
    "values": "One row a tensor whose range was read, in the order in which they came to be. Empty unless asked for: `trace(values=\"0:3\")`; with `trace(nan=True)` there are the steps around what is not finite.",
    "ranks": "One row a start of a rank: where it stands beside the others ([ranks.md](ranks.md)). `modtrace ranks` shows it.",
    "collectives": "One row a collective of `torch.distributed` and rank, in order of launch within each rank ([ranks.md](ranks.md#collectives)). Empty where there is no process group.",
    "nonfinite": "One row a step in which values were not finite, those that should be first. Empty unless asked for: `trace(nan=True)`.",
    "series(name)": "One row a step in which the module of that name ran, and rank. A folded name (`h.*.mlp`) is all its repeats added up; phases, spans and functions have names too (`optimizer`, `phase:optimizer`).",
    "series()": "One row a change of what is held on a device. Empty unless memory was watched: `trace(memory=\"0:3\")`.",
}  # fmt: skip

FACTS = """\
Objects that cannot be changed. `t.failure` is None where nothing failed: no exception left a module call, a backward or an
optimizer's step, or ended the recording ([failures.md](failures.md))."""

NUMBERS = """\
What the tree of `modtrace info --tree`, `modtrace view` and a report shows of a row. Rows are sorted by it (`--sort KEY`) and
compared in filters ([viewer.md](viewer.md#filters)). Each is made of a column of `t.calls`."""

QUESTIONS = (
    ("Which layers are the slowest by self time?",
     "Forward, backward and recompute, of the module alone.",
     """\
answer = t.modules.nlargest(5, "self_ns")[["name", "type", "self_ns"]]
"""),
    ("Where does the time of a step go?",
     "The nine parts add up to the duration.",
     """\
parts = ["data", "h2d", "forward", "eval", "loss", "backward", "optimizer", "zero_grad", "other"]
whole = t.steps[t.steps["whole"]]
answer = whole[[f"{part}_ns" for part in parts]].sum() / whole["duration_ns"].sum()
"""),
    ("How much does memory grow per step?",
     "What is held last in each step, less that of the step before. Needs `memory=`; `memory_allocated_bytes` of a GPU does not.",
     """\
held = t.series().dropna(subset=["step"])
last = held.groupby(["rank", "device", "step"], observed=True)["held_bytes"].last()
answer = last.groupby(["rank", "device"], observed=True).diff()
"""),
    ("Which blocks differ from their siblings?",
     "Siblings are `layers.0`, `layers.1` and so on. What most of them have is the rule; in a mixed `Sequential` all may differ.",
     """\
blocks = t.modules[t.modules["name"].str.contains(r"\\.\\d+$")]
looks = blocks[["type", "parameter_count", "outputs"]].astype(str)
siblings = [blocks["root"], blocks["name"].str.replace(r"\\.\\d+$", ".*", regex=True)]
usual = looks.groupby(siblings).transform(lambda values: values.mode()[0])
answer = blocks[(looks != usual).any(axis=1)][["name", *looks.columns]]
"""),
    ("Which call raised first?",
     "An exception goes through every call around it: those inside which none raised are where it came from.",
     """\
raised = t.calls[(t.calls["status"] == "raised") & (t.calls["kind"] == "module")]
answer = raised[~raised.index.isin(raised["parent"])][["name", "type", "inputs", "error"]]
"""),
    ("Which modules were not called?",
     "Their weights may be used all the same: tied, read by another module, or inside a compiled or fused call.",
     """\
answer = t.modules[t.modules["calls"] == 0][["name", "type", "parameter_count"]]
"""),
    ("Which shapes did a layer see?",
     "More than expected mean recompiling, or a last batch that is smaller.",
     """\
answer = t.calls[(t.calls["kind"] == "module") & (t.calls["name"] == "head")]["inputs"].value_counts()
answer = answer[answer > 0]
"""),
    ("How fast do layers compute?",
     "FLOPs over time is GFLOP/s, as both are in units of a billionth.",
     """\
linear = t.modules[t.modules["type"] == "Linear"]
answer = (linear["forward_flops"] / linear["forward_total_ns"]).set_axis(linear["name"])
"""),
    ("Which steps are outliers?",
     "Here those 1.5 times as long as the median.",
     """\
duration = t.steps["duration_ns"].dropna()
answer = duration[duration > 1.5 * duration.median()]
"""),
    ("What is inside the longest call?",
     "Calls are numbered by their start, so all that is inside one is a range.",
     """\
longest = t.calls[t.calls["kind"] == "module"]["duration_ns"].astype("Float64").idxmax()
answer = t.calls.loc[longest : t.calls.loc[longest, "last_call"], ["kind", "name", "self_ns"]]
"""),
)  # fmt: skip
"""Title, remark and code of each; the code takes a trace `t` and leaves an `answer`."""


def page() -> str:
    """The whole of data.md."""
    parts = [INTRODUCTION]
    for name, columns in FRAMES.items():
        index = f" Its index is `{INDEX[name]}`." if name in INDEX else ""
        parts.append(f"\n## `t.{name}`\n\n{ROWS[name]}{index}\n\n{_table(columns)}")
    parts.append(_facts())
    parts.append(_numbers())
    parts.append("\n## Ten questions\n\nEach leaves what it finds in `answer`. A test runs them.\n")
    for number, (title, remark, code) in enumerate(QUESTIONS, 1):
        parts.append(f"\n### {number}. {title}\n\n{remark}\n\n```python\n{code}```\n")
    return "".join(parts)


def _facts() -> str:
    """The section about what is no DataFrame."""
    parts = [f"\n## `t.run` and `t.failure`\n\n{FACTS}\n"]
    for name, facts in (("run", RunFacts), ("failure", Failure)):
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(facts))
        parts.append(f"\n`t.{name}` has {fields}:\n\n```text\n{inspect.getdoc(facts)}\n```\n")
    return "".join(parts)


def _numbers() -> str:
    """The section about numbers of rows of a tree."""
    lines = [
        "| key | column head | unit | what it is | of several calls | made of |",
        "|---|---|---|---|---|---|",
    ]
    for metric in shown():
        column = f"`{metric.column}`" if metric.column else "calls"
        cells = (f"`{metric.key}`", metric.title, metric.unit, metric.doc, ADDS[metric.adds], column)
        lines.append("| " + " | ".join(cells) + " |")
    return f"\n## Numbers of the tree\n\n{NUMBERS}\n\n" + "\n".join(lines) + "\n"


def _table(columns: tuple[PublicColumn, ...]) -> str:
    lines = ["| column | type | unit | what it is | null when |", "|---|---|---|---|---|"]
    for column in columns:
        cells = (f"`{column.name}`", column.type, column.unit, column.doc, column.null)
        lines.append("| " + " | ".join(cell.replace("|", "&#124;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
