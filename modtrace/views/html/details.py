"""Single calls for the timeline of a report: whole steps, as many as there is room for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import error_texts, names, same_text
from modtrace.analysis.columns import column, nullable_codes, values_and_known, values_at
from modtrace.analysis.metric_values import of_each_call
from modtrace.analysis.module_names import dotted
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored
from modtrace.views.html.aggregate import NAME_LIMIT, Aggregate, by_interest
from modtrace.views.html.encode import Blob, TextTable, columns_blob, texts_blob, zigzag

Ints = npt.NDArray[np.int64]

CHUNK_ROWS: Final = 8_192
"""Steps are put together until they have so many rows: what a page takes apart to show one of them."""
OUTSIDE: Final = -1
"""The number of what is in no step."""
_MISSES: Final = 3


@dataclass
class Details:
    """The calls of some steps.

    chunks: rows of whole steps, in the order of call; columns `path`, `thread`, `gap_ns` (from the end of the sibling
        before it, else from the start of its parent, else of the step), `duration_ns`, `status`; `overhead_ns`, the
        part of the duration that is neither in calls inside nor its own, as zigzag; `forward`, of a backward how many
        rows before it its forward is; `inputs`, `outputs`, `error`, numbers of `names`, those of signatures only where
        they are not the usual ones of the node; `device_ns`, `peak_bytes`. What is nowhere known takes no room.
    steps: process, step, start_ns, chunk, offset (first row in it) and calls of each step that is there.
    paths: node and name of each distinct place that calls were made in.
    names: of places, signatures and errors.
    rows, all_rows, all_steps: how many calls are there, and of how many.
    """

    chunks: list[Blob] = field(default_factory=list)
    steps: dict[str, Ints] = field(default_factory=dict)
    paths: dict[str, Ints] = field(default_factory=dict)
    names: TextTable = field(default_factory=TextTable)
    rows: int = 0
    all_rows: int = 0
    all_steps: int = 0

    def blobs(self) -> dict[str, Blob]:
        """All of it, for a page."""
        blobs = {
            "details": columns_blob(self.steps),
            "paths": columns_blob(self.paths),
            "names": texts_blob(self.names.all),
        }
        return blobs | {f"calls-{index}": chunk for index, chunk in enumerate(self.chunks)}


@dataclass(frozen=True)
class DetailRows:
    """The rows of a timeline, grouped by step: `order` are the rows of all steps, those of step i from `first[i]`.

    places: (node, module, root) of each `path`; module is -1 for what is no module's.
    described: the full name of each.
    device_ns, peak_bytes: of each row, -1 where not known.
    texts: of each signature, then of each error.
    same: for each signature the first that is written the same, -1 behind them.
    usual: signatures of inputs and of outputs that calls of each node have most often.
    """

    table: CallTable
    places: Ints
    described: list[str]
    device_ns: Ints
    peak_bytes: Ints
    texts: list[str]
    same: Ints
    usual: tuple[Ints, Ints]
    order: Ints
    first: Ints
    size: Ints
    process: Ints
    step: Ints
    start_ns: Ints
    path: Ints
    depth: Ints
    thread: Ints
    start: Ints
    duration: Ints
    status: Ints


def details(rows: DetailRows, numbers: Aggregate, room: int | None) -> Details:
    """The calls of as many steps as fit.

    Args:
        rows: of the trace.
        numbers: of the trace.
        room: bytes of a page; None keeps all steps.
    """
    page_calls = Details(all_rows=len(rows.order), all_steps=len(rows.step))
    wanted = np.arange(len(rows.step)) if room is None else _by_interest(rows, numbers)
    # Places are numbered in the order in which steps are wanted: those of the first steps are the first places.
    listed = (
        rows.order
        if room is None
        else np.concatenate([_of(rows, step) for step in wanted.tolist()] or [rows.order])
    )
    place, position = _by_first_use(rows.path[listed])
    path = position[rows.path]
    described = [rows.described[number] for number in place.tolist()]
    kept_steps: list[tuple[int, int, int]] = []
    used = 0
    spent = 0
    misses = 0
    pending = _batches(rows.size[wanted], wanted)[::-1]
    while pending and misses <= _MISSES:
        group = pending.pop()
        texts = len(page_calls.names.all)
        chunk, most = _chunk(rows, path, group, page_calls.names)
        places = max(used, most)
        size = _page_bytes(chunk) + _cost(page_calls.names.all[texts:]) + _ROW_BYTES * len(group)
        if room is not None and spent + size + _cost(described[:places]) > room:
            page_calls.names.shorten(texts)
            half = len(group) // 2
            pending += [group[half:], group[:half]] if half else []
            misses += not half
            continue
        _keep(page_calls, kept_steps, rows, group, chunk)
        spent, used = spent + size, places
    chosen = np.array([step for step, _, _ in kept_steps], np.int64)
    page_calls.steps = {
        "process": rows.process[chosen],
        "step": rows.step[chosen],
        "start_ns": rows.start_ns[chosen],
        "chunk": np.array([chunk_number for _, chunk_number, _ in kept_steps], np.int64),
        "offset": np.array([offset for _, _, offset in kept_steps], np.int64),
        "calls": rows.size[chosen],
    }
    page_calls.paths = {
        "node": rows.places[place[:used], 0],
        "name": page_calls.names.numbers(described[:used]),
    }
    return page_calls


_ROW_BYTES: Final = 24
"""Bytes of a step in the table of steps, about."""
_TAG_BYTES: Final = 80
"""Bytes of a chunk's tag and name, about."""


def _page_bytes(chunk: Blob) -> int:
    """Bytes that a chunk takes in a page, with its tag and the layout of its columns, about."""
    return len(chunk.text) + len(json.dumps(chunk.layout())) + _TAG_BYTES


def _cost(texts: list[str]) -> int:
    """Bytes that texts take in a page; more than they will, deflated."""
    return sum(8 + len(text) // 2 for text in texts)


def _keep(
    page_calls: Details, steps: list[tuple[int, int, int]], rows: DetailRows, group: list[int], chunk: Blob
) -> None:
    offset = 0
    for step in group:
        steps.append((step, len(page_calls.chunks), offset))
        offset += int(rows.size[step])
    page_calls.rows += offset
    page_calls.chunks.append(chunk)


def detail_rows(stored: Stored, numbers: Aggregate) -> DetailRows:
    """The rows of a trace by step."""
    table, node = timeline(stored).calls, numbers.placed.node.astype(np.int64)
    process, step = column(table, "process").astype(np.int64), nullable_codes(table, "step")
    order = np.argsort((process << 40) + step + 1, kind="stable")
    key = ((process << 40) + step + 1)[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, np.int64)
    size = np.diff(np.append(first, len(key)))
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    places = np.stack([node, module, root], axis=1)
    packed = (
        (node * (int(module.max(initial=0)) + 2) + module + 1) * (int(root.max(initial=0)) + 2) + root + 1
    )
    _, first_rows, path = np.unique(packed, return_index=True, return_inverse=True)
    start = column(table, "start_ns")
    duration, known = values_and_known(table, "duration_ns")
    places = places[first_rows]
    texts: list[str] = stored.table("signatures").column("text").to_pylist()
    number = {text: code for code, text in reversed([*enumerate(texts)])}
    tree = numbers.placed.tree
    inputs, outputs = (
        np.array([number[text] if text else -1 for text in usual], np.int64)
        for usual in (tree.inputs, tree.outputs)
    )
    return DetailRows(
        table=table,
        places=places,
        described=_described(stored, numbers, places),
        device_ns=of_each_call(stored, "device_ns"),
        peak_bytes=of_each_call(stored, "memory_peak_bytes"),
        texts=[*texts, *error_texts(stored)],
        same=same_text(stored),
        usual=(inputs, outputs),
        order=order,
        first=first,
        size=size,
        process=key[first] >> 40,
        step=(key[first] & ((1 << 40) - 1)) - 1,
        start_ns=np.minimum.reduceat(start[order], first) if len(first) else first,
        path=path.reshape(-1),
        depth=tree.depth[node],
        thread=column(table, "thread").astype(np.int64),
        start=start,
        duration=np.where(known, duration, -1),
        status=column(table, "status").astype(np.int64),
    )


def _of(rows: DetailRows, step: int) -> Ints:
    first = int(rows.first[step])
    return rows.order[first : first + int(rows.size[step])]


def _by_interest(rows: DetailRows, numbers: Aggregate) -> Ints:
    """Steps that are wanted, the most interesting first; what is in no step comes last."""
    numbered = numbers.steps
    key = (numbered["process"] << 40) + numbered["step"]
    order = np.argsort(key)
    step_key = (rows.process << 40) + rows.step
    position = np.minimum(np.searchsorted(key[order], step_key), max(len(key) - 1, 0))
    inside = (
        (rows.step >= 0) & (key[order][position] == step_key)
        if len(key)
        else np.zeros(len(step_key), np.bool_)
    )
    known = np.flatnonzero(inside)
    took = numbered["duration_ns"][order][position[known]] if len(known) else known
    ranked = known[by_interest(rows.process[known], rows.step[known], took)]
    return np.concatenate([ranked, np.flatnonzero(rows.step == OUTSIDE)])


def _by_first_use(path: Ints) -> tuple[Ints, Ints]:
    """Places in the order of their first use, and the position of each place in that order."""
    used, first = np.unique(path, return_index=True)
    place = used[np.argsort(first, kind="stable")]
    position = np.full(int(path.max(initial=-1)) + 1, -1, np.int64)
    position[place] = np.arange(len(place))
    return place, position


def _described(stored: Stored, numbers: Aggregate, places: Ints) -> list[str]:
    """The full name of each place: of a module its own, where the tree has one for all its repeats."""
    node, module, root = places.T
    code, texts = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    tops = roots(stored)
    several = len(tops.called) > 1
    named = [
        dotted(tops.name[top] if several or not texts[text_code] else "", texts[text_code])
        if top >= 0
        else numbers.placed.tree.name[place_node]
        for text_code, top, place_node in zip(code.tolist(), root.tolist(), node.tolist(), strict=True)
    ]
    return [plain(name, NAME_LIMIT) for name in named]


def _batches(sizes: Ints, wanted: Ints) -> list[list[int]]:
    """Steps put together to CHUNK_ROWS rows; a larger one is alone."""
    batches: list[list[int]] = []
    rows = CHUNK_ROWS
    for step, size in zip(wanted.tolist(), sizes.tolist(), strict=True):
        if rows + size > CHUNK_ROWS:
            batches.append([])
            rows = 0
        batches[-1].append(step)
        rows += size
    return batches


def _chunk(rows: DetailRows, path: Ints, group: list[int], names: TextTable) -> tuple[Blob, int]:
    """The rows of some steps, and how many places they use; their texts are put into `names`."""
    chosen = np.concatenate([_of(rows, step) for step in group])
    unit = np.repeat(np.arange(len(group)), rows.size[group])
    begin = rows.start_ns[group][unit]
    sibling, parent = _before(rows, chosen, unit)
    gap = rows.start[chosen] - _expected(rows, chosen, sibling, parent, begin)
    used = path[chosen]
    columns = {
        "path": used,
        "thread": rows.thread[chosen],
        "gap_ns": gap,
        "duration_ns": rows.duration[chosen],
        "status": rows.status[chosen],
        "overhead_ns": _overhead_ns(rows, chosen, parent),
        "forward": _rows_back(_keys(rows.table, "forward", chosen), chosen),
        **_texts(rows, chosen, names),
        "device_ns": rows.device_ns[chosen],
        "peak_bytes": rows.peak_bytes[chosen],
    }
    return columns_blob(columns, signed=("gap_ns",)), int(used.max(initial=-1)) + 1


def _overhead_ns(rows: DetailRows, chosen: Ints, parent: Ints) -> Ints:
    """The part of the duration of each row that is not in rows below it and not its own, as zigzag; -1 for unknown."""
    duration = np.maximum(rows.duration[chosen], 0)
    inside = np.zeros(len(chosen), np.int64)
    np.add.at(inside, parent[parent >= 0], duration[parent >= 0])
    self_ns, known = values_at(rows.table, "self_ns", chosen)
    return np.where(known, zigzag(duration - inside - self_ns), -1)


def _keys(table: CallTable, name: str, rows: Ints) -> Ints:
    """Keys of some rows, -1 where there is none."""
    values, known = values_at(table, name, rows)
    return np.where(known, values, -1)


def _rows_back(targets: Ints, chosen: Ints) -> Ints:
    """Distance from each of the chosen rows back to its target among them, -1 where it has none that is before it."""
    order = np.argsort(chosen)
    position = order[np.minimum(np.searchsorted(chosen[order], targets), len(chosen) - 1)]
    back = np.arange(len(chosen)) - position
    return np.where((targets >= 0) & (chosen[position] == targets) & (back > 0), back, -1)


def _texts(rows: DetailRows, chosen: Ints, names: TextTable) -> dict[str, Ints]:
    """Numbers of the signatures of each row where they are not the usual ones of its node, and of its error."""
    node = rows.places[rows.path[chosen], 0]
    columns = {}
    for name, usual in zip(("inputs", "outputs"), rows.usual, strict=True):
        code = rows.same[_keys(rows.table, name, chosen)]
        columns[name] = _numbered(np.where(code == usual[node], -2, code), rows.texts, names)
    error = _keys(rows.table, "error", chosen)
    signatures = len(rows.same) - 1
    return columns | {"error": _numbered(np.where(error >= 0, error + signatures, -2), rows.texts, names)}


def _numbered(codes: Ints, texts: list[str], names: TextTable) -> Ints:
    """The numbers in `names` of texts; of -1 that of an empty text, of -2 none."""
    distinct, which = np.unique(codes, return_inverse=True)
    numbers = [
        -1 if code == -2 else names.number(plain(texts[code], NAME_LIMIT) if code >= 0 else "")
        for code in distinct.tolist()
    ]
    return np.array(numbers, np.int64)[which.reshape(-1)]


def _before(rows: DetailRows, chosen: Ints, unit: Ints) -> tuple[Ints, Ints]:
    """For each row the nearest before it on its thread, in its step, that is as deep, and that is one less deep; -1 for
    none.
    """
    depth, thread = rows.depth[chosen], rows.thread[chosen]
    _, dense = np.unique(thread, return_inverse=True)
    run = unit * (int(dense.max(initial=0)) + 1) + dense.reshape(-1)
    count, levels = len(chosen), int(depth.max(initial=0)) + 2
    row = np.arange(count)
    key = ((run * levels) + depth + 1) * count + row
    by_key = np.sort(key)

    def before(of: Ints) -> Ints:
        position = np.searchsorted(by_key, of) - 1
        same = (position >= 0) & (by_key[np.maximum(position, 0)] // count == of // count)
        return np.where(same, by_key[np.maximum(position, 0)] % count, -1)

    return before(key), before(key - count)


def _expected(rows: DetailRows, chosen: Ints, sibling: Ints, parent: Ints, begin: Ints) -> Ints:
    """When each row would begin if nothing was between it and what was before it: when the sibling ended, or the parent
    began, whichever is the nearer.
    """
    start = rows.start[chosen]
    end = start + np.maximum(rows.duration[chosen], 0)
    expected = np.where(sibling > parent, end[sibling], start[parent])
    return np.where(np.maximum(sibling, parent) >= 0, expected, begin)
