"""Numbers of all calls of a report together: the merged tree, modules and steps, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.calls import commonest, error_texts, same_text
from modtrace.analysis.columns import column, distinct_pairs, nullable_codes
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.metric_values import GroupNumbers
from modtrace.analysis.metrics import SUMS, Metric, of_groups, table_columns
from modtrace.analysis.modules import modules, sums
from modtrace.analysis.steps import steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import MergedTree, placed
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD as BACKWARD_CALL
from modtrace.trace.schema import PHASES
from modtrace.views.html.encode import TextTable, bits_of

Ints = npt.NDArray[np.int64]

FUNCTION, BACKWARD, RECOMPUTE, OF_MODULE = 1, 2, 4, 8
"""Bits of `flags` of a node."""
DOUBLES: Final = frozenset(metric.name for metric in of_groups() if metric.of_values)
"""Numbers of a node that are bits of doubles."""
FORMS: Final = 3
"""Signatures of inputs kept of a node, the commonest first."""
NAME_LIMIT: Final = 512
STEP_PARTS: Final = (*PHASES, "other_threads", "other")
STEP_COLUMNS: Final = (
    "start_ns", "duration_ns", *(f"{name}_ns" for name in STEP_PARTS), "calls", "samples", "flops", "flops_at_least",
    "device_ns", "device_idle_ns", "memory_peak_bytes",
)  # fmt: skip
COUNTED: Final = "counted_"
"""Before the name of a number of a node: the same over the rows that shares are of."""
MOST_RANGES: Final = 20_000
"""Of steps that nodes have calls in."""
MODULE_NUMBERS: Final = (
    *(name for column in table_columns("modules") for name in (column.key, column.bound) if name), "source_line",
)  # fmt: skip
MODULE_TEXTS: Final = ("name", "type", "root", "outputs", "extra_repr", "source_file")


@dataclass
class Aggregate:
    """Columns of whole numbers, -1 where not known; those named in `texts` of are numbers of `texts`.

    placed: the merged tree, and the node of each row of the timeline.
    forms: node, inputs, outputs, calls: the signatures that calls of a node had most often.
    sets: ranges of numbers of steps or ranks, from `first` to `last`, in each `set`.
    module_count, step_count: how many there are, more than the rows where some were left out.
    """

    placed: MergedTree
    texts: TextTable
    tree: dict[str, Ints] = field(default_factory=dict)
    forms: dict[str, Ints] = field(default_factory=dict)
    sets: dict[str, Ints] = field(default_factory=dict)
    modules: dict[str, Ints] = field(default_factory=dict)
    steps: dict[str, Ints] = field(default_factory=dict)
    module_count: int = 0
    step_count: int = 0


def aggregate(stored: Stored, *, most_modules: int | None, most_steps: int | None) -> Aggregate:
    """The numbers of a report but for single calls.

    Args:
        stored: the trace.
        most_modules: keep so many rows of modules, those with most time of their own; None keeps all.
        most_steps: the same of steps, see `thinned`.
    """
    numbers = Aggregate(placed(stored), TextTable())
    _tree(stored, numbers)
    _modules(stored, numbers, most_modules)
    _steps(stored, numbers, most_steps)
    return numbers


def shown_path(path: str | None) -> str | None:
    """A path without the name of the person whose home it is in."""
    if path is None:
        return None
    parts = path.replace("\\", "/").split("/")
    if len(parts) > 3 and parts[1].lower() in ("home", "users"):
        return "/".join(["~", *parts[3:]])
    home = str(Path.home()).replace("\\", "/")
    joined = "/".join(parts)
    return f"~{joined[len(home) :]}" if len(home) > 1 and joined.startswith(f"{home}/") else joined


def rows_of_shares(stored: Stored) -> npt.NDArray[np.bool_]:
    """Rows of the timeline in the steps that count, see `flat_profile`."""
    parts = [flat_profile(stored, number).window.rows for number in range(len(stored.processes))]
    return np.concatenate(parts) if parts else np.zeros(0, np.bool_)


def _tree(stored: Stored, numbers: Aggregate) -> None:
    tree, node = numbers.placed.tree, numbers.placed.node.astype(np.int64)
    table = timeline(stored).calls
    count = len(tree.label)
    text = numbers.texts
    module = nullable_codes(table, "module")
    groups = GroupNumbers(stored, node, count)
    counted = GroupNumbers(stored, np.where(rows_of_shares(stored), node, -1), count)
    module_of = commonest(node, module, count)
    modules_table = stored.table("modules")
    facts = {name: modules_table.column(name).to_pylist() for name in _FACTS}
    of = [row if row >= 0 else None for row in module_of.tolist()]
    source = [None if row is None else shown_path(facts["source_file"][row]) for row in of]
    lines = [
        -1 if row is None or facts["source_line"][row] is None else facts["source_line"][row] for row in of
    ]
    numbers.tree = {
        "depth": tree.depth,
        "label": text.numbers([_text(label) for label in tree.label]),
        "name": text.numbers(
            [_text(name or label) for name, label in zip(tree.name, tree.label, strict=True)]
        ),
        "type": text.numbers([_text(class_name) for class_name in tree.type]),
        "flags": FUNCTION * tree.function
        + BACKWARD * tree.backward
        + RECOMPUTE * tree.recompute
        + OF_MODULE * (module_of >= 0),
        "phase": commonest(node, nullable_codes(table, "phase"), count),
        "phases": _bits(node, nullable_codes(table, "phase"), count),
        **_memberships(stored, numbers, node, count),
        "instances": tree.instances,
        "unknown": tree.unknown,
        "raised": tree.raised,
        **{metric.name: _filled(groups, metric) for metric in of_groups()},
        **{
            f"{COUNTED}{metric.name}": counted.filled(metric.key)
            for metric in of_groups()
            if metric.adds in SUMS
        },
        "parameters": _of(facts["parameter_count"], of),
        "parameter_bytes": _of(facts["parameter_bytes"], of),
        "described": text.numbers([None if row is None else _text(facts["extra_repr"][row]) for row in of]),
        "source": text.numbers([_text(path) for path in source]),
        "line": np.array(lines, np.int64),
        **_single_calls(stored, numbers, node, count),
        **_backwards(stored, node, count),
        "inputs": text.numbers([_text(form or None) for form in tree.inputs]),
        "outputs": text.numbers([_text(form or None) for form in tree.outputs]),
    }
    _forms(stored, numbers)


def _filled(groups: GroupNumbers, metric: Metric) -> Ints:
    """A number of each node, -1 where it is not known; of what is in tensors its bits."""
    if not metric.of_values:
        return groups.filled(metric.key)
    values, known = groups.values(metric.key)
    return bits_of(values.astype(np.float64), known)


def _bits(node: Ints, codes: Ints, count: int) -> Ints:
    """Codes in the rows of each node, as the bits of a number; -1 is no code."""
    of, code, _ = distinct_pairs(node[codes >= 0], codes[codes >= 0])
    bits = np.zeros(count, np.int64)
    np.add.at(bits, of, 1 << code)
    return bits


def _memberships(stored: Stored, result: Aggregate, node: Ints, count: int) -> dict[str, Ints]:
    """The steps and the ranks that each node has calls in, as numbers of sets; what is in a set is in `result.sets`.

    Where the steps make more ranges than MOST_RANGES there are no sets of steps: then nothing is in the page of them.
    """
    table = timeline(stored).calls
    columns: dict[str, Ints] = {}
    ranges: list[tuple[int, int, int]] = []
    numbers: dict[bytes, int] = {}
    for name in ("rank", "step"):
        codes = nullable_codes(table, name)
        of, code, _ = distinct_pairs(node[codes >= 0], codes[codes >= 0])
        edges = np.searchsorted(of, np.arange(count + 1))
        which = np.empty(count, np.int64)
        fresh: list[tuple[int, int, int]] = []
        for number in range(count):
            members = code[edges[number] : edges[number + 1]]
            text = members.astype(np.int64).tobytes()
            if text not in numbers:
                numbers[text] = len(numbers)
                fresh += [(numbers[text], low, high) for low, high in _ranges(members)]
            which[number] = numbers[text]
        if len(ranges) + len(fresh) > MOST_RANGES:
            break
        columns[f"{name}s"] = which
        ranges += fresh
    rows = np.array(ranges, np.int64).reshape(-1, 3)
    result.sets = {"set": rows[:, 0], "first": rows[:, 1], "last": rows[:, 2]}
    return columns


def _ranges(numbers: Ints) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(numbers) - 1)
    return list(zip(numbers[first].tolist(), numbers[last].tolist(), strict=True))


def _single_calls(stored: Stored, numbers: Aggregate, node: Ints, count: int) -> dict[str, Ints]:
    """When the call of each node that has a single one, in the steps that count or in the whole run, began, and its
    step; and the error that last came out of each node.
    """
    table = timeline(stored).calls
    row = np.full(count, -1, np.int64)
    for rows in (np.arange(len(node)), np.flatnonzero(rows_of_shares(stored))):
        single = rows[np.bincount(node[rows], minlength=count)[node[rows]] == 1]
        row[node[single]] = single
    error = np.full(count, -1, np.int64)
    raised = nullable_codes(table, "error")
    error[node[raised >= 0]] = raised[raised >= 0]
    texts = error_texts(stored)
    return {
        "start_ns": np.append(column(table, "start_ns"), -1)[row],
        "step": np.append(nullable_codes(table, "step"), -1)[row],
        "error": numbers.texts.numbers(
            [_text(texts[code]) if code >= 0 else None for code in error.tolist()]
        ),
    }


def _backwards(stored: Stored, node: Ints, count: int) -> dict[str, Ints]:
    """The time of the backwards of the calls of each node, -1 for none; the same over the rows that shares are of."""
    table = timeline(stored).calls
    forward, duration = (nullable_codes(table, name) for name in ("forward", "duration_ns"))
    timed = (column(table, "kind") == BACKWARD_CALL) & (forward >= 0) & (duration >= 0)
    columns = {}
    for name, inside in (("", timed), (COUNTED, timed & rows_of_shares(stored))):
        rows = np.flatnonzero(inside)
        of = node[forward[rows]]
        known = np.bincount(of, minlength=count) > 0
        columns[f"{name}backward_ns"] = np.where(known, sums(of, duration[rows], count), -1)
    return columns


_FACTS: Final = ("parameter_count", "parameter_bytes", "extra_repr", "source_file", "source_line")


def _text(text: str | None) -> str | None:
    return None if text is None else plain(text, NAME_LIMIT)


def _of(values: list[int | None], rows: list[int | None]) -> Ints:
    picked = [None if row is None else values[row] for row in rows]
    return np.array([-1 if value is None else value for value in picked], np.int64)


def _forms(stored: Stored, numbers: Aggregate) -> None:
    """The commonest pairs of signatures of each node that has several."""
    table, node = timeline(stored).calls, numbers.placed.node.astype(np.int64)
    many = stored.table("signatures").num_rows + 1
    same = same_text(stored)
    inputs, returned = (same[nullable_codes(table, name)] + 1 for name in ("inputs", "outputs"))
    pairs, calls = np.unique((node * many + inputs) * many + returned, return_counts=True)
    of = pairs // (many * many)
    order = np.lexsort((-calls, of))
    pairs, calls, of = pairs[order], calls[order], of[order]
    begins = np.searchsorted(of, of)
    several = np.bincount(of, minlength=1)[of] > 1
    chosen = several & (np.arange(len(of)) - begins < FORMS)
    texts = [*map(_text, stored.table("signatures").column("text").to_pylist())]
    codes = (pairs[chosen] // many % many - 1, pairs[chosen] % many - 1)
    named = [
        numbers.texts.numbers([texts[form] if form >= 0 else None for form in code.tolist()])
        for code in codes
    ]
    numbers.forms = {"node": of[chosen], "inputs": named[0], "outputs": named[1], "calls": calls[chosen]}


def _modules(stored: Stored, numbers: Aggregate, most: int | None) -> None:
    frame = modules(stored)
    numbers.module_count = len(frame)
    if most is not None and len(frame) > most:
        frame = frame.sort_values("self_ns", ascending=False, kind="stable", na_position="last").head(most)
    numbers.modules = {name: integers(frame[name]) for name in MODULE_NUMBERS}
    numbers.modules["node"] = _nodes_of_modules(stored, numbers)[frame.index.to_numpy(np.int64)]
    for name in MODULE_TEXTS:
        shown = shown_path if name == "source_file" else _text
        numbers.modules[name] = numbers.texts.numbers([_text(shown(_string(value))) for value in frame[name]])


def _nodes_of_modules(stored: Stored, numbers: Aggregate) -> Ints:
    """The row of the tree with most time of its own of each module, -1 for one that was not called."""
    node = numbers.placed.node.astype(np.int64)
    module = nullable_codes(timeline(stored).calls, "module")
    nodes = np.full(len(stored.table("modules")) + 1, -1, np.int64)
    order = np.argsort(numbers.placed.tree.self_ns[node], kind="stable")
    nodes[module[order]] = node[order]
    nodes[-1] = -1
    return nodes


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _steps(stored: Stored, numbers: Aggregate, most: int | None) -> None:
    frame = steps(stored)
    counts = [int(process_steps.recorded.sum()) for process_steps in timeline(stored).steps]
    numbers.step_count = sum(counts)
    if not len(frame):
        numbers.steps = {name: np.zeros(0, np.int64) for name in ("process", "step", *STEP_COLUMNS, "flags")}
        return
    process = np.repeat(np.arange(len(counts)), counts)
    number = frame.index.to_numpy(np.int64)
    data = {"process": process, "step": number, **{name: integers(frame[name]) for name in STEP_COLUMNS}}
    data["flags"] = frame["whole"].to_numpy(np.int64) + 2 * frame["counted"].to_numpy(np.int64)
    keep = thinned(data, most)
    numbers.steps = {name: values[keep] for name, values in data.items()}


def thinned(step: dict[str, Ints], most: int | None) -> Ints:
    """Indices of the steps to keep, in order: all, or the most interesting `most` of them."""
    count = len(step["step"])
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(by_interest(step["process"], step["step"], step["duration_ns"])[:most])


def by_interest(process: Ints, number: Ints, duration_ns: Ints) -> Ints:
    """Steps in the order in which they are worth their space: the first 2 of each process, the slowest 5, the 3 around
    the median, the last 2, then evenly spaced ones, ever closer.
    """
    count = len(number)
    order = np.argsort(duration_ns, kind="stable")
    last_of = np.append(np.flatnonzero(np.diff(process)), count - 1) if count else np.zeros(0, np.int64)
    middle = order[max(count // 2 - 1, 0) : count // 2 + 2]
    first = np.flatnonzero(number < 2)
    last = np.concatenate([last_of, np.maximum(last_of - 1, 0)])
    spread, stride = [], 1 << max(count - 1, 1).bit_length()
    while stride >= 1:
        spread.append(np.arange(0, count, stride))
        stride //= 2
    ranked = np.concatenate([first, order[::-1][:5], middle, last, *spread])
    _, position = np.unique(ranked, return_index=True)
    return ranked[np.sort(position)] if count else ranked.astype(np.int64)


def integers(series: pd.Series[Any]) -> Ints:
    """A nullable column as whole numbers, -1 where there is none."""
    return series.fillna(-1).to_numpy(np.int64)
