"""Curves: one module over the steps, and memory over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from modtrace.analysis import recompute
from modtrace.analysis.calls import names
from modtrace.analysis.columns import categorical, column, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.memory import NEVER, Memory, memory, of_calls
from modtrace.analysis.phases import RECOMPUTE, Steps
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.frames import MODULE_SERIES
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, CATEGORIES, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def module_series(stored: Stored, name: str | int) -> pd.DataFrame:
    """A module in each step in which it ran, indexed by `step`; columns as in frames.MODULE_SERIES.

    Args:
        stored: the trace.
        name: its FQN, alone or behind the name of its root (`G.layers.0`); "", the name or the class of a root module;
            or its number.

    Raises:
        UsageError: no module has that name, or modules of several roots have.
    """
    table = timeline(stored).calls
    step = nullable_codes(table, "step")
    rows = np.flatnonzero(_named(stored, name) & (step >= 0))
    part = table.take(pa.array(rows))
    duration, timed = values_and_known(part, "duration_ns")
    again_ns, again_known = recompute.inside_of(table, *values_and_known(table, "duration_ns"))
    below, timed = again_ns[rows], timed & again_known[rows]
    own, own_timed = values_and_known(part, "self_ns")
    kind, again = column(part, "kind"), nullable_codes(part, "phase") == RECOMPUTE
    forward, backward = (kind == MODULE) & ~again, kind == BACKWARD
    again = ((kind == MODULE) & again) | (backward & (below > 0))
    pairs, group = np.unique(column(part, "rank") << 40 | step[rows], return_inverse=True)
    sums = _Sums(group, len(pairs))
    on_device, computed = device_times(stored).device_ns[rows], work(stored).flops[rows]
    least = work(stored).least[rows]
    held = of_calls(stored)
    peak = np.zeros(len(pairs), np.int64)
    np.maximum.at(peak, group, held.peak_bytes[rows])
    every = np.ones(len(rows), np.bool_)
    data: dict[str, Any] = {
        "rank": pairs >> 40,
        "calls": np.bincount(group[forward], minlength=len(pairs)),
        "forward_ns": sums.of(duration, timed, forward),
        "backward_ns": sums.of(duration - below, timed, backward),
        "recompute_ns": sums.of(np.where(backward, below, duration), timed, again),
        "self_ns": sums.of(own, own_timed, every),
        "device_ns": sums.of(on_device, on_device >= 0, every),
        "flops": sums.of(computed, computed >= 0, every),
        "flops_at_least": sums.of(least, least >= 0, every),
        "memory_peak_bytes": pd.arrays.IntegerArray(peak, ~sums.known(held.known[rows], every)),
    }
    index = pd.Index(pairs & ((1 << 40) - 1), name="step")
    return pd.DataFrame({shown.name: data[shown.name] for shown in MODULE_SERIES}, index=index)


def _named(stored: Stored, name: str | int) -> Bools:
    """Which rows of the timeline are of modules of that name."""
    table = timeline(stored).calls
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    of_module = module >= 0
    if isinstance(name, int):
        chosen: Bools = module == name
        if not chosen.any():
            raise UsageError(f"no module with the number {name} ran")
        return chosen
    codes, texts = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    tops = roots(stored).name
    pairs, which = np.unique(np.maximum(root, 0) << 32 | codes, return_inverse=True)
    of_pair = [(tops[pair >> 32], texts[pair & 0xFFFFFFFF]) for pair in pairs.tolist()]

    def chosen_by(test: Callable[[str, str], bool]) -> Bools:
        passed = np.array([test(*pair) for pair in of_pair] or [False], np.bool_)
        some: Bools = passed[which] & of_module if len(which) else of_module
        return some

    chosen = chosen_by(lambda _, text: text == name)
    if not name or not chosen.any():
        chosen = chosen_by(lambda top, text: name == (f"{top}.{text}" if text else top))
    if not name or not chosen.any():
        kinds = stored.table("modules").column("type").to_pylist()
        same = np.array([not name or kind == name for kind in kinds] or [False], np.bool_)
        chosen = (module == root) & of_module & same[np.maximum(module, 0)]
    if not chosen.any():
        raise UsageError(f"no module named {plain(name)!r} ran")
    models = list(dict.fromkeys(tops[number] for number in root[chosen].tolist()))
    if len(models) > 1:
        listed = ", ".join(
            plain(f"{top}.{name}" if name not in (top, "") and top != name else top) for top in models
        )
        raise UsageError(f"{plain(name)!r} is a module of several roots; which one: {listed}")
    return chosen


class _Sums:
    """Sums over groups of rows, null for a group without rows or with one that is not known."""

    def __init__(self, group: Ints, count: int) -> None:
        self._group, self._count = group, count

    def known(self, known: Bools, some: Bools) -> Bools:
        """Groups that have rows of `some`, all of them known."""
        rows = np.bincount(self._group[some], minlength=self._count)
        lacking = np.bincount(self._group[some & ~known], minlength=self._count)
        every: Bools = (rows > 0) & (lacking == 0)
        return every

    def of(self, values: Ints, known: Bools, some: Bools) -> pd.arrays.IntegerArray:
        total = np.zeros(self._count, np.int64)
        np.add.at(total, self._group[some & known], values[some & known])
        return pd.arrays.IntegerArray(total, ~self.known(known, some))


def memory_series(stored: Stored) -> pd.DataFrame:
    """What was held over time on each device of each process, one row a change; columns as in frames.MEMORY_SERIES.

    Empty where memory was not watched.
    """
    line = timeline(stored)
    devices = sorted({held.device for held in memory(stored)})
    parts = [
        _of_device(held, stored.processes[held.process].rank, devices, line.steps[held.process])
        for held in memory(stored)
    ]
    if parts:
        return pd.concat(parts, ignore_index=True)
    nobody = Memory(0, "", *(np.zeros(0, np.int64) for _ in range(5)))
    return _of_device(nobody, 0, [""], None)


def _of_device(held: Memory, rank: int, devices: list[str], steps: Steps | None) -> pd.DataFrame:
    freed = held.freed_ns < NEVER
    times = np.concatenate([held.at_ns, held.freed_ns[freed]])
    change = np.concatenate([held.size_bytes, -held.size_bytes[freed]])
    category = np.concatenate([held.category, held.category[freed]])
    order = np.argsort(times, kind="stable")
    times, change, category = times[order], change[order], category[order]
    last = np.append(times[1:] != times[:-1], True)[
        : len(times)
    ]  # of several changes at once what comes of them
    moments = times[last]
    step = np.full(len(moments), -1, np.int64)
    if steps is not None and len(steps):
        at = np.searchsorted(steps.start, moments, side="right") - 1
        step = np.where((at >= 0) & (moments < steps.end[np.maximum(at, 0)]), at, -1)
    data: dict[str, Any] = {
        "rank": np.full(len(moments), rank, np.int64),
        "device": categorical(np.full(len(moments), devices.index(held.device), np.int64), devices),
        "at_ns": moments,
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "held_bytes": np.cumsum(change)[last],
        **{
            f"{name}_bytes": np.cumsum(np.where(category == number, change, 0))[last]
            for number, name in enumerate(CATEGORIES)
        },
    }
    return pd.DataFrame(data)
