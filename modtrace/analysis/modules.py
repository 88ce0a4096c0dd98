"""The `modules` DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from modtrace.analysis import recompute
from modtrace.analysis.calls import commonest, same_text
from modtrace.analysis.columns import column, distinct_texts, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.held import copies_kept, of_keys, output_bytes
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.roots import roots
from modtrace.analysis.saved import of_modules as kept_by
from modtrace.analysis.statistics import rows_that_count
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import Work, work
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def modules(stored: Stored) -> pd.DataFrame:
    """One row a module instance, indexed by `module_id`; short-lived ones that cannot be told apart share one.

    `total_ns` and `self_ns` are of all of it, with what checkpointing made again. Of its forward and of its backward
    the `total_ns` and `self_ns` are sums over the calls whose times are known; `mean_ns`, `p50_ns`, `p95_ns` and
    `max_ns` are of the time that it took in each of the steps that count in statistics (see `choose`), in each step
    where it ran in none of those. `forward_flops` and `backward_flops` are sums over all calls with
    everything inside them, null where they are not known for each; the same with `_at_least` leave
    out what is not known; `device_total_ns`, `forward_device_ns` and
    `backward_device_ns` are times on the device, summed over the calls for which they are known; `operations` are its
    own in one call, in order, and `uncounted` those that have no formula. `output_bytes` is the sum over what its calls
    returned and `output_max_bytes` the largest of one call, from shapes, null where one does not tell; `gradient_bytes`
    is what gradients of its trainable parameters take, and `optimizer_state_bytes` an estimate, null where the
    optimizer's class does not tell; `saved_bytes` is what its calls kept for one backward, the most of those that were
    counted. What checkpointing computes again, in its calls and below its backward, is apart: `recompute_calls`,
    `recompute_ns`; it is in no number of its backward. `inputs` and `outputs` are the signatures seen most often. A
    module that never ran has 0 calls and null times.
    """
    table, line = stored.table("modules"), timeline(stored).calls
    count = len(table)
    kind, phase = column(line, "kind"), nullable_codes(line, "phase")
    recomputed = (kind == MODULE) & (phase == RECOMPUTE)
    calls = line.filter(pa.array((kind == MODULE) & ~recomputed))
    again = line.filter(pa.array(recomputed))
    module = column(calls, "module")
    name, aliases, root = _names(stored, count)
    signatures = stored.table("signatures").column("text").to_pylist()
    types = table.column("type").to_pylist()
    ran_again = np.bincount(column(again, "module"), minlength=count)
    again_ns = _recomputed(line, recomputed, count)
    computed = work(stored)
    backward = kind == BACKWARD
    counts = rows_that_count(stored)
    of_module, on_device = nullable_codes(line, "module"), device_times(stored).device_ns
    lists = _operations(stored, computed, of_module, (kind == MODULE), count)
    data: dict[str, Any] = {
        "name": name,
        "type": types,
        "root": root,
        "instances": instances(table),
        "calls": np.bincount(module, minlength=count),
        "total_ns": _total(line, "duration_ns", count),
        "self_ns": _total(line, "self_ns", count),
        **_times(calls, counts[(kind == MODULE) & ~recomputed], "forward", count),
        **_times(_backwards(line), counts[backward], "backward", count),
        "recompute_calls": ran_again,
        "recompute_ns": again_ns,
        "forward_flops": _flops(module, computed.flops[(kind == MODULE) & ~recomputed], count),
        "backward_flops": _flops(
            of_module[backward], _without_recompute(line, computed.flops)[backward], count
        ),
        "forward_flops_at_least": _flops(module, computed.least[(kind == MODULE) & ~recomputed], count),
        "backward_flops_at_least": _flops(
            of_module[backward], _without_recompute(line, computed.least)[backward], count
        ),
        "device_total_ns": _on_device(of_module, on_device, count),
        "forward_device_ns": _on_device(module, on_device[(kind == MODULE) & ~recomputed], count),
        "backward_device_ns": _on_device(
            of_module[backward], _without_recompute(line, on_device)[backward], count
        ),
        "operations": lists[0],
        "uncounted": lists[1],
        "inputs": distinct_texts(
            commonest(module, same_text(stored)[nullable_codes(calls, "inputs")], count), signatures
        ),
        "outputs": distinct_texts(commonest(module, nullable_codes(calls, "outputs"), count), signatures),
    }
    for field in ("parameter_count", "parameter_bytes", "trainable_count", "buffer_count", "buffer_bytes"):
        values, there = values_and_known(table, field)
        data[field] = _masked(values, there)
    data |= _sizes(stored, table, (kind == MODULE) & ~recomputed, count)
    data["training"] = pd.array(table.column("training").to_pylist(), dtype="boolean")
    data["extra_repr"] = table.column("extra_repr").to_pylist()
    data["type_module"] = table.column("type_module").to_pylist()
    data["source_file"] = table.column("source_file").to_pylist()
    lines, there = values_and_known(table, "source_line")
    data["source_line"] = _masked(lines.astype(np.int64), there)
    data["overrides_call"] = table.column("overrides_call").to_pylist()
    data["aliases"] = aliases
    frame = pd.DataFrame(data)
    frame.index = pd.Index(np.arange(count), name="module_id")
    return frame


def instances(table: pa.Table) -> Ints:
    """How many modules each row of the table `modules` is of."""
    values, known = values_and_known(table, "instances")
    return np.where(known, values.astype(np.int64), 1)


def _backwards(line: pa.Table) -> pa.Table:
    """The rows of backwards, their durations without what checkpoints computed again in them."""
    duration, known = values_and_known(line, "duration_ns")
    again, each = recompute.inside_of(line, duration, known)
    place = line.schema.get_field_index("duration_ns")
    line = line.set_column(place, "duration_ns", pa.array(duration - again, pa.int64(), mask=~(known & each)))
    return line.filter(pa.array(column(line, "kind") == BACKWARD))


def _without_recompute(line: pa.Table, values: Ints) -> Ints:
    """Values of rows without those of checkpoints that computed again inside, -1 where they are not known."""
    again, known = recompute.inside_of(line, values, values >= 0)
    return np.where(known & (values >= 0), np.maximum(values - again, 0), -1)


def _recomputed(line: pa.Table, again: Bools, count: int) -> pd.arrays.IntegerArray:
    """Time of calls of each module made `again`, and of checkpoints that computed again below its backward."""
    duration, known = values_and_known(line, "duration_ns")
    below, _ = recompute.inside_of(line, duration, known)
    kind, module = column(line, "kind"), nullable_codes(line, "module")
    in_backward = (kind == BACKWARD) & (below > 0)
    some = (again & known) | in_backward
    total = sums(module[some], np.where(in_backward, below, duration)[some], count)
    return _masked(total, np.bincount(module[again | in_backward], minlength=count) > 0)


def _sizes(stored: Stored, table: pa.Table, some: Bools, count: int) -> dict[str, Any]:
    """Bytes of each module: what shapes tell of it, and what it keeps for backward."""
    trainable, known = values_and_known(table, "trainable_bytes")
    copies = copies_kept(stored)
    of_module = nullable_codes(timeline(stored).calls, "module")
    figures = (*of_keys(of_module[some], output_bytes(stored)[some], count), kept_by(stored, count))
    return {
        "gradient_bytes": _masked(trainable, known),
        "optimizer_state_bytes": _masked(trainable * (copies or 0), known & (copies is not None)),
        **{
            name: _masked(np.maximum(values, 0), values >= 0)
            for name, values in zip(("output_bytes", "output_max_bytes", "saved_bytes"), figures, strict=True)
        },
    }


def _total(line: pa.Table, name: str, count: int) -> pd.arrays.IntegerArray:
    values, known = values_and_known(line, name)
    module = nullable_codes(line, "module")
    some = known & (module >= 0)
    ran = np.bincount(module[some], minlength=count) > 0
    return _masked(sums(module[some], values[some], count), ran)


def _flops(module: Ints, flops: Ints, count: int) -> pd.arrays.IntegerArray:
    """Sums for each module, null where those of a call are not known."""
    known = np.bincount(module, minlength=count) > 0
    known[module[flops < 0]] = False
    return _masked(sums(module, np.maximum(flops, 0), count), known)


def _on_device(module: Ints, device_ns: Ints, count: int) -> pd.arrays.IntegerArray:
    """Sums for each module over the rows whose time on the device is known, null where there is none."""
    some = (device_ns >= 0) & (module >= 0)
    return _masked(sums(module[some], device_ns[some], count), np.bincount(module[some], minlength=count) > 0)


def _operations(
    stored: Stored, computed: Work, module: Ints, some: Bools, count: int
) -> tuple[list[list[str]], list[list[str]]]:
    """The operations of each module in one of its calls, and those that have no formula."""
    table = stored.table("work")
    lists = [table.column(name).to_pylist() for name in ("operations", "uncounted")]
    row = np.append(computed.row, -1)
    here = np.flatnonzero(some & (computed.row >= 0))
    first = np.full(count, len(module), np.int64)
    np.minimum.at(first, module[here], here)
    found = row[first].tolist()
    return tuple([one[at] or [] if at >= 0 else [] for at in found] for one in lists)  # type: ignore[return-value]


def _times(calls: pa.Table, counts: Bools, prefix: str, count: int) -> dict[str, Any]:
    """Total, self and per-step times of each module over some calls; `counts` is of those in steps that count."""
    module = column(calls, "module")
    duration, known = values_and_known(calls, "duration_ns")
    own, own_known = values_and_known(calls, "self_ns")
    total = sums(module[known], duration[known], count)
    total_own = sums(module[own_known], own[own_known], count)
    ran = np.bincount(module[known], minlength=count) > 0
    ran_own = np.bincount(module[own_known], minlength=count) > 0
    step = nullable_codes(calls, "step")
    some = known & (step >= 0)
    each, owner = per_step(module[some], step[some], duration[some], counts[some])
    figures = over_steps(owner, each, count)
    data: dict[str, Any] = {
        f"{prefix}_total_ns": _masked(total, ran),
        f"{prefix}_self_ns": _masked(total_own, ran_own),
    }
    for at, figure in enumerate(("mean", "p50", "p95", "max")):
        data[f"{prefix}_{figure}_ns"] = _masked(figures[at], figures[at] >= 0)
    return data


def per_step(keys: Ints, steps: Ints, values: Ints, counts: Bools) -> tuple[Ints, Ints]:
    """Sums of values for each key in each step that `counts`, with the key of each; of a key that has none of these in
    all its steps.
    """
    if not len(keys):
        return values, keys
    pairs, at, which = np.unique(keys << 40 | steps, return_index=True, return_inverse=True)
    total = np.bincount(which, weights=values).astype(np.int64)
    owner, usual = pairs >> 40, counts[at]
    keep = usual | (np.bincount(owner, weights=usual) == 0)[owner]
    return total[keep], owner[keep]


def over_steps(owner: Ints, values: Ints, count: int) -> Ints:
    """Mean, median, 95th percentile (nearest rank) and maximum for each key below `count`: shape (4, count), -1 for
    none.
    """
    figures = np.full((4, count), -1, np.int64)
    if not len(owner):
        return figures
    order = np.lexsort((values, owner))
    owner, values = owner[order], values[order]
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    size = np.diff(np.append(first, len(owner)))
    keys = owner[first]
    figures[0, keys] = np.add.reduceat(values, first) // size
    for row, share in ((1, 50), (2, 95), (3, 100)):
        figures[row, keys] = values[first + (size * share + 99) // 100 - 1]
    return figures


def sums(keys: Ints, values: Ints, count: int) -> Ints:
    """For each key below `count` the sum of its values."""
    total = np.zeros(count, np.int64)
    np.add.at(total, keys, values)
    return total


def _masked(values: Ints, known: npt.NDArray[np.bool_]) -> pd.arrays.IntegerArray:
    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


def _names(stored: Stored, count: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Name, aliases and root of each module; of several trees the one that it is a part of."""
    table, named = stored.table("names"), roots(stored)
    name, root = list(named.prefix), list(range(count))
    aliases: list[list[str]] = [[] for _ in range(count)]
    rows = zip(
        table.column("root").to_pylist(),
        table.column("module").to_pylist(),
        table.column("name").to_pylist(),
        table.column("aliases").to_pylist(),
        strict=False,
    )
    for top, module, text, others in rows:
        if text and (not name[module] or module == root[module]):
            name[module], root[module] = named.full(top, text), top
            aliases[module] = [named.full(top, other) for other in others or []]
    return name, aliases, [named.name[top] for top in root]
