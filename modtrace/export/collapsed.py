"""Collapsed stacks: one line a path of calls, with the time spent there itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from modtrace.analysis.call_titles import titles
from modtrace.analysis.columns import column, values_and_known
from modtrace.analysis.timeline import timeline
from modtrace.export.lines import PART_ROWS
from modtrace.export.target import Tick, silent
from modtrace.trace.reader import Stored

Ints = npt.NDArray[np.int64]


def collapsed(stored: Stored, tick: Tick = silent) -> Iterator[bytes]:
    """Lines `outer;inner;innermost 12345`: a path and the self time of all calls of that path, in nanoseconds.

    That is what flamegraph.pl, inferno and speedscope read. Calls whose time is not known are left out; where there are
    several ranks each path begins with its rank. A `;` in a name is a `,`, and control characters are escapes.
    """
    table = timeline(stored).calls
    title, texts = titles(stored)
    frames = [text.replace(";", ",") or "?" for text in texts]
    if len({process.rank for process in stored.processes}) > 1:
        rank = column(table, "rank").astype(np.int64)
        ranks, first = np.unique(rank, return_inverse=True)
        frames += [f"rank {number}" for number in ranks.tolist()]
        top = len(texts) + first
    else:
        top = np.full(len(table), -1, np.int64)
    path, over, frame = _paths(title.astype(np.int64), column(table, "parent"), column(table, "depth"), top)
    self_ns, known = values_and_known(table, "self_ns")
    spent = np.zeros(len(over), np.int64)
    np.add.at(spent, path[known], self_ns[known])
    lines: list[str] = []
    for index in range(len(over)):
        if spent[index] > 0:
            lines.append(f"{_stack(index, over, frame, frames)} {spent[index]}\n")
        if len(lines) == PART_ROWS:
            yield "".join(lines).encode()
            lines.clear()
            tick(index + 1, len(over))
    yield "".join(lines).encode()
    tick(len(over), len(over))


def _paths(title: Ints, parent: Ints, depth: Ints, top: Ints) -> tuple[Ints, Ints, Ints]:
    """For each call the number of its path, and for each path the one around it (-1 for none) and its last frame.

    Args:
        title: frame of each call.
        parent, depth: its place.
        top: frame above each root call, -1 for none.
    """
    path = np.full(len(title), -1, np.int64)
    ranks = np.unique(top[top >= 0])
    over, frame = [np.full(len(ranks), -1, np.int64)], [ranks]
    paths_made = len(ranks)
    order = np.argsort(depth, kind="stable")
    levels = np.split(order, np.flatnonzero(np.diff(depth[order])) + 1) if len(order) else []
    for rows in levels:
        around = path[parent[rows]] if parent[rows[0]] >= 0 else np.searchsorted(ranks, top[rows])
        around = np.where(parent[rows] >= 0, around, np.where(top[rows] >= 0, around, -1))
        pairs, which = np.unique((around + 1) << 32 | title[rows], return_inverse=True)
        path[rows] = paths_made + which
        over.append((pairs >> 32) - 1)
        frame.append(pairs & 0xFFFFFFFF)
        paths_made += len(pairs)
    return path, np.concatenate(over), np.concatenate(frame)


def _stack(path: int, over: Ints, frame: Ints, frames: list[str]) -> str:
    titles = []
    while path >= 0:
        titles.append(frames[frame[path]])
        path = int(over[path])
    return ";".join(reversed(titles))
