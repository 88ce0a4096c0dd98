"""What a report shows of all calls together: the merged tree, modules and steps, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.calls import commonest, same_text
from modtrace.analysis.columns import nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.memory import of_calls
from modtrace.analysis.modules import modules, over_steps, sums
from modtrace.analysis.statistics import rows_that_count
from modtrace.analysis.steps import steps
from modtrace.analysis.timeline import timeline
from modtrace.analysis.tree import Placed, placed
from modtrace.analysis.work import work
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import PHASES
from modtrace.views.html.encode import Texts

Ints = npt.NDArray[np.int64]

FUNCTION, BACKWARD, RECOMPUTE, OF_MODULE = 1, 2, 4, 8
"""Bits of `flags` of a node."""
FORMS: Final = 3
"""Signatures of inputs kept of a node, the commonest first."""
NAME_LIMIT: Final = 512
STEP_PARTS: Final = (*PHASES, "other_threads", "other")
STEP_COLUMNS: Final = (
    "start_ns", "duration_ns", *(f"{name}_ns" for name in STEP_PARTS), "calls", "samples", "flops", "flops_at_least",
    "device_ns", "device_idle_ns", "memory_peak_bytes",
)  # fmt: skip
MODULE_NUMBERS: Final = (
    "calls", "self_ns", "total_ns", "forward_total_ns", "backward_total_ns", "forward_p50_ns", "forward_p95_ns",
    "device_total_ns", "forward_flops", "backward_flops", "forward_flops_at_least",
    "backward_flops_at_least", "parameter_count", "parameter_bytes", "source_line",
)  # fmt: skip
MODULE_TEXTS: Final = ("name", "type", "root", "outputs", "extra_repr", "source_file")


@dataclass
class Aggregate:
    """Columns of whole numbers, -1 where not known; those named in `texts` of are numbers of `texts`.

    at: the merged tree, and the node of each row of the timeline.
    forms: node, inputs, outputs, calls: the signatures that calls of a node had most often.
    module_count, step_count: how many there are, more than the rows where some were left out.
    """

    at: Placed
    texts: Texts
    tree: dict[str, Ints] = field(default_factory=dict)
    forms: dict[str, Ints] = field(default_factory=dict)
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
    found = Aggregate(placed(stored), Texts())
    _tree(stored, found)
    _modules(stored, found, most_modules)
    _steps(stored, found, most_steps)
    return found


def shown_path(path: str | None) -> str | None:
    """A path without the name of the person whose home it is in."""
    if path is None:
        return None
    parts = path.replace("\\", "/").split("/")
    if len(parts) > 3 and parts[1].lower() in ("home", "users"):
        return "/".join(["~", *parts[3:]])
    home = str(Path.home()).replace("\\", "/")
    whole = "/".join(parts)
    return f"~{whole[len(home) :]}" if len(home) > 1 and whole.startswith(f"{home}/") else whole


def _tree(stored: Stored, found: Aggregate) -> None:
    tree, node = found.at.tree, found.at.node.astype(np.int64)
    table = timeline(stored).calls
    count = len(tree.label)
    text = found.texts
    duration, known = values_and_known(table, "duration_ns")
    module = nullable_codes(table, "module")
    counts = known & rows_that_count(stored)
    counts |= known & (np.bincount(node[counts], minlength=count) == 0)[node]
    figures = over_steps(node[counts], duration[counts], count)
    computed, least, held = work(stored).flops, work(stored).least, of_calls(stored)
    on_device = device_times(stored).device_ns
    timed = on_device >= 0
    unknown_flops = np.bincount(node[computed < 0], minlength=count) > 0
    peak = np.full(count, -1, np.int64)
    np.maximum.at(peak, node[held.known], held.peak_bytes[held.known])
    one = commonest(node, module, count)
    modules_table = stored.table("modules")
    facts = {name: modules_table.column(name).to_pylist() for name in _FACTS}
    of = [at if at >= 0 else None for at in one.tolist()]
    source = [None if at is None else shown_path(facts["source_file"][at]) for at in of]
    lines = [-1 if at is None or facts["source_line"][at] is None else facts["source_line"][at] for at in of]
    no_self = np.bincount(node[~values_and_known(table, "self_ns")[1]], minlength=count)
    found.tree = {
        "depth": tree.depth,
        "label": text.numbers([_text(label) for label in tree.label]),
        "name": text.numbers(
            [_text(name or label) for name, label in zip(tree.name, tree.label, strict=True)]
        ),
        "type": text.numbers([_text(kind) for kind in tree.type]),
        "flags": FUNCTION * tree.function
        + BACKWARD * tree.backward
        + RECOMPUTE * tree.recompute
        + OF_MODULE * (one >= 0),
        "phase": commonest(node, nullable_codes(table, "phase"), count),
        "instances": tree.instances,
        "calls": tree.calls,
        "unknown": tree.unknown,
        "raised": tree.raised,
        "total_ns": np.where(tree.unknown == tree.calls, -1, tree.total_ns),
        "self_ns": np.where(no_self == tree.calls, -1, tree.self_ns),
        "p50_ns": figures[1],
        "p95_ns": figures[2],
        "max_ns": figures[3],
        "device_ns": np.where(
            np.bincount(node[timed], minlength=count) > 0, sums(node[timed], on_device[timed], count), -1
        ),
        "flops": np.where(unknown_flops, -1, sums(node, np.maximum(computed, 0), count)),
        "flops_at_least": sums(node, least, count) if (least >= 0).all() else np.full(count, -1, np.int64),
        "peak_bytes": peak,
        "parameters": _of(facts["parameter_count"], of),
        "parameter_bytes": _of(facts["parameter_bytes"], of),
        "described": text.numbers([None if at is None else _text(facts["extra_repr"][at]) for at in of]),
        "source": text.numbers([_text(path) for path in source]),
        "line": np.array(lines, np.int64),
        "inputs": text.numbers([_text(one or None) for one in tree.inputs]),
        "outputs": text.numbers([_text(one or None) for one in tree.outputs]),
    }
    _forms(stored, found)


_FACTS: Final = ("parameter_count", "parameter_bytes", "extra_repr", "source_file", "source_line")


def _text(text: str | None) -> str | None:
    return None if text is None else plain(text, NAME_LIMIT)


def _of(values: list[int | None], rows: list[int | None]) -> Ints:
    found = [None if at is None else values[at] for at in rows]
    return np.array([-1 if value is None else value for value in found], np.int64)


def _forms(stored: Stored, found: Aggregate) -> None:
    """The commonest pairs of signatures of each node that has several."""
    table, node = timeline(stored).calls, found.at.node.astype(np.int64)
    many = stored.table("signatures").num_rows + 1
    same = same_text(stored)
    given, returned = (same[nullable_codes(table, name)] + 1 for name in ("inputs", "outputs"))
    pairs, calls = np.unique((node * many + given) * many + returned, return_counts=True)
    of = pairs // (many * many)
    order = np.lexsort((-calls, of))
    pairs, calls, of = pairs[order], calls[order], of[order]
    begins = np.searchsorted(of, of)
    several = np.bincount(of, minlength=1)[of] > 1
    chosen = several & (np.arange(len(of)) - begins < FORMS)
    texts = [*map(_text, stored.table("signatures").column("text").to_pylist())]
    codes = (pairs[chosen] // many % many - 1, pairs[chosen] % many - 1)
    named = [found.texts.numbers([texts[at] if at >= 0 else None for at in code.tolist()]) for code in codes]
    found.forms = {"node": of[chosen], "inputs": named[0], "outputs": named[1], "calls": calls[chosen]}


def _modules(stored: Stored, found: Aggregate, most: int | None) -> None:
    frame = modules(stored)
    found.module_count = len(frame)
    if most is not None and len(frame) > most:
        frame = frame.sort_values("self_ns", ascending=False, kind="stable", na_position="last").head(most)
    found.modules = {name: integers(frame[name]) for name in MODULE_NUMBERS}
    for name in MODULE_TEXTS:
        shown = shown_path if name == "source_file" else _text
        found.modules[name] = found.texts.numbers([_text(shown(_string(value))) for value in frame[name]])


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _steps(stored: Stored, found: Aggregate, most: int | None) -> None:
    frame = steps(stored)
    counts = [len(one) for one in timeline(stored).steps]
    found.step_count = sum(counts)
    if not len(frame):
        found.steps = {name: np.zeros(0, np.int64) for name in ("process", "step", *STEP_COLUMNS, "flags")}
        return
    process = np.repeat(np.arange(len(counts)), counts)
    number = frame.index.to_numpy(np.int64)
    data = {"process": process, "step": number, **{name: integers(frame[name]) for name in STEP_COLUMNS}}
    data["flags"] = frame["whole"].to_numpy(np.int64) + 2 * frame["counted"].to_numpy(np.int64)
    keep = thinned(data, most)
    found.steps = {name: values[keep] for name, values in data.items()}


def thinned(step: dict[str, Ints], most: int | None) -> Ints:
    """Which of the steps to keep, in order: all, or the most interesting `most` of them."""
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
    _, at = np.unique(ranked, return_index=True)
    return ranked[np.sort(at)] if count else ranked.astype(np.int64)


def integers(series: pd.Series[Any]) -> Ints:
    """A nullable column as whole numbers, -1 where there is none."""
    return series.fillna(-1).to_numpy(np.int64)
