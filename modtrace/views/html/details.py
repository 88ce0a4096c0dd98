"""Single calls for the timeline of a report: whole steps, as many as there is room for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import names
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.module_names import dotted
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.views.html.aggregate import NAME_LIMIT, Aggregate, by_interest
from modtrace.views.html.encode import Blob, TextTable, columns_blob, texts_blob

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
        before it, else from the start of its parent, else of the step), `duration_ns`, `status`.
    steps: process, step, start_ns, chunk, offset (first row in it) and calls of each step that is there.
    paths: node and name of each distinct place that calls were made in.
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
class _Rows:
    """The rows of a timeline, grouped by step: `order` are the rows of all steps, those of step i from `first[i]`."""

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


def details(stored: Stored, numbers: Aggregate, room: int | None) -> Details:
    """The calls of as many steps as fit.

    Args:
        stored: the trace.
        numbers: its numbers.
        room: bytes of a page; None keeps all steps.
    """
    rows, pairs = _rows(stored, numbers)
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
    described = _described(stored, numbers, pairs[place])
    kept_steps: list[tuple[int, int, int]] = []
    used = 0
    spent = 0
    misses = 0
    for batch in _batches(rows.size[wanted], wanted):
        for group in [batch] if len(batch) == 1 else [batch, *[[step] for step in batch]]:
            chunk, most = _chunk(rows, path, group)
            places = max(used, most)
            cost = spent + len(chunk.text) + _cost(described, places)
            if room is not None and cost > room:
                misses += len(group) == 1
                continue
            _keep(page_calls, kept_steps, rows, group, chunk)
            spent, used = spent + len(chunk.text) + _ROW_BYTES * len(group), places
            if len(group) > 1 or len(batch) == 1:
                break
        if misses > _MISSES:
            break
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
        "node": pairs[place[:used], 0],
        "name": page_calls.names.numbers(described[:used]),
    }
    return page_calls


_ROW_BYTES: Final = 24
"""Bytes of a step in the table of steps, about."""


def _cost(described: list[str], used: int) -> int:
    """Bytes that the names of the first places take in a page; more than they will, deflated."""
    return sum(8 + len(name) // 2 for name in described[:used])


def _keep(
    page_calls: Details, steps: list[tuple[int, int, int]], rows: _Rows, group: list[int], chunk: Blob
) -> None:
    offset = 0
    for step in group:
        steps.append((step, len(page_calls.chunks), offset))
        offset += int(rows.size[step])
    page_calls.rows += offset
    page_calls.chunks.append(chunk)


def _rows(stored: Stored, numbers: Aggregate) -> tuple[_Rows, Ints]:
    """The rows by step, and (node, module, root) of each distinct place; module is -1 for what is no module's."""
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
    rows = _Rows(
        order=order,
        first=first,
        size=size,
        process=key[first] >> 40,
        step=(key[first] & ((1 << 40) - 1)) - 1,
        start_ns=np.minimum.reduceat(start[order], first) if len(first) else first,
        path=path.reshape(-1),
        depth=numbers.placed.tree.depth[node],
        thread=column(table, "thread").astype(np.int64),
        start=start,
        duration=np.where(known, duration, -1),
        status=column(table, "status").astype(np.int64),
    )
    return rows, places[first_rows]


def _of(rows: _Rows, step: int) -> Ints:
    first = int(rows.first[step])
    return rows.order[first : first + int(rows.size[step])]


def _by_interest(rows: _Rows, numbers: Aggregate) -> Ints:
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


def _chunk(rows: _Rows, path: Ints, group: list[int]) -> tuple[Blob, int]:
    """The rows of some steps, and how many places they use."""
    chosen = np.concatenate([_of(rows, step) for step in group])
    unit = np.repeat(np.arange(len(group)), rows.size[group])
    begin = rows.start_ns[group][unit]
    gap = rows.start[chosen] - _expected(rows, chosen, unit, begin)
    used = path[chosen]
    columns = {
        "path": used,
        "thread": rows.thread[chosen],
        "gap_ns": gap,
        "duration_ns": rows.duration[chosen],
        "status": rows.status[chosen],
    }
    return columns_blob(columns, signed=("gap_ns",)), int(used.max(initial=-1)) + 1


def _expected(rows: _Rows, chosen: Ints, unit: Ints, begin: Ints) -> Ints:
    """When each row would begin if nothing was between it and what was before it: when the nearest row before it on its
    thread, in its step, that is as deep ended, or the nearest that is one less deep began, whichever is the nearer.
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

    sibling, parent = before(key), before(key - count)
    start = rows.start[chosen]
    end = start + np.maximum(rows.duration[chosen], 0)
    expected = np.where(sibling > parent, end[sibling], start[parent])
    return np.where(np.maximum(sibling, parent) >= 0, expected, begin)
