"""The `modules` DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis import recompute
from modtrace.analysis.calls import commonest, same_text
from modtrace.analysis.columns import column, distinct_texts, nullable_codes, values_and_known
from modtrace.analysis.device_times import device_times
from modtrace.analysis.flops import Work, work
from modtrace.analysis.memory_from_shapes import copies_kept, of_keys, output_bytes
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.roots import roots
from modtrace.analysis.saved_bytes import of_modules as kept_by
from modtrace.analysis.statistics import rows_that_count
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PARAMETERS: Final = (
    "parameter_count", "parameter_bytes", "trainable_count", "buffer_count", "buffer_bytes"
)  # fmt: skip


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
    import pandas as pd

    table, line = stored.table("modules"), timeline(stored).calls
    count = len(table)
    forward = forward_rows(line)
    calls, again = line.filter(forward), line.filter(_recomputed(line))
    module = column(calls, "module")
    name, aliases, root = module_names(stored)
    signatures = stored.table("signatures").column("text").to_pylist()
    counts = rows_that_count(stored)
    data: dict[str, Any] = {
        "name": name,
        "type": table.column("type").to_pylist(),
        "root": root,
        "rank": ranks(stored),
        "instances": instances(table),
        "calls": np.bincount(module, minlength=count),
        "total_ns": _total(line, "duration_ns", count),
        "self_ns": _total(line, "self_ns", count),
        **_times(calls, counts[forward], "forward", count),
        **_times(backward_table(line), counts[column(line, "kind") == BACKWARD], "backward", count),
        "recompute_calls": np.bincount(column(again, "module"), minlength=count),
        "recompute_ns": _recompute_ns(line, count),
        **_computed(stored, line, count),
        "inputs": distinct_texts(
            commonest(module, same_text(stored)[nullable_codes(calls, "inputs")], count), signatures
        ),
        "outputs": distinct_texts(commonest(module, nullable_codes(calls, "outputs"), count), signatures),
        **{field: _nullable(table, field) for field in _PARAMETERS},
        **_sizes(stored, table, forward, count),
        "training": pd.array(table.column("training").to_pylist(), dtype="boolean"),
        **{field: table.column(field).to_pylist() for field in ("extra_repr", "type_module", "source_file")},
        "source_line": _nullable(table, "source_line"),
        "overrides_call": table.column("overrides_call").to_pylist(),
        "aliases": aliases,
    }
    frame = pd.DataFrame(data)
    frame.index = pd.Index(np.arange(count), name="module_id")
    return frame


def _recomputed(line: CallTable) -> Bools:
    """The rows of module calls that checkpointing made again."""
    return np.asarray(
        (column(line, "kind") == MODULE) & (nullable_codes(line, "phase") == RECOMPUTE), np.bool_
    )


def forward_rows(line: CallTable) -> Bools:
    """The rows of module calls that are no recompute."""
    return np.asarray((column(line, "kind") == MODULE) & ~_recomputed(line), np.bool_)


def _nullable(table: pa.Table, name: str) -> pd.arrays.IntegerArray:
    values, known = values_and_known(table, name)
    return _masked(values, known)


def _computed(stored: Stored, line: CallTable, count: int) -> dict[str, Any]:
    """FLOPs, times on the device and operations of each module, in forward and in backward."""
    forward, backward = forward_rows(line), column(line, "kind") == BACKWARD
    module, device_ns = nullable_codes(line, "module"), device_times(stored).device_ns
    computed = work(stored)
    data: dict[str, Any] = {}
    for suffix, flops in (("", computed.flops), ("_at_least", computed.least)):
        in_backward = without_recompute(line, flops)[backward]
        data[f"forward_flops{suffix}"] = _flops(module[forward], flops[forward], count)
        data[f"backward_flops{suffix}"] = _flops(module[backward], in_backward, count)
    data["device_total_ns"] = _on_device(module, device_ns, count)
    data["forward_device_ns"] = _on_device(module[forward], device_ns[forward], count)
    backward_device_ns = without_recompute(line, device_ns)[backward]
    data["backward_device_ns"] = _on_device(module[backward], backward_device_ns, count)
    is_call = column(line, "kind") == MODULE
    data["operations"], data["uncounted"] = _operations(stored, computed, module, is_call, count)
    return data


def ranks(stored: Stored) -> Ints:
    """The rank of the process of each row of the table `modules`."""
    rank_of = np.array([process.rank for process in stored.processes], np.int64)
    return rank_of[column(stored.table("modules"), "process")]


def instances(table: pa.Table) -> Ints:
    """Number of modules that each row of the table `modules` is of."""
    values, known = values_and_known(table, "instances")
    return np.where(known, values.astype(np.int64), 1)


def backward_table(line: CallTable) -> CallTable:
    """The rows of backwards, their durations without what checkpoints computed again in them."""
    duration, known = values_and_known(line, "duration_ns")
    again, each = recompute.inside_of(line, duration, known)
    line = line.with_column("duration_ns", duration - again, ~(known & each))
    return line.filter(column(line, "kind") == BACKWARD)


def without_recompute(line: CallTable, values: Ints) -> Ints:
    """Values of rows without those of checkpoints that computed again inside, -1 where they are not known."""
    again, known = recompute.inside_of(line, values, values >= 0)
    return np.where(known & (values >= 0), np.maximum(values - again, 0), -1)


def _recompute_ns(line: CallTable, count: int) -> pd.arrays.IntegerArray:
    """Time of calls of each module made again, and of checkpoints that computed again below its backward."""
    again = _recomputed(line)
    duration, known = values_and_known(line, "duration_ns")
    below, _ = recompute.inside_of(line, duration, known)
    module = nullable_codes(line, "module")
    in_backward = (column(line, "kind") == BACKWARD) & (below > 0)
    counted = (again & known) | in_backward
    total = sums(module[counted], np.where(in_backward, below, duration)[counted], count)
    return _masked(total, np.bincount(module[again | in_backward], minlength=count) > 0)


def _sizes(stored: Stored, table: pa.Table, forward: Bools, count: int) -> dict[str, Any]:
    """Bytes of each module: what shapes tell of it, and what it keeps for backward."""
    trainable, known = values_and_known(table, "trainable_bytes")
    copies = copies_kept(stored)
    of_module = nullable_codes(timeline(stored).calls, "module")
    figures = (*of_keys(of_module[forward], output_bytes(stored)[forward], count), kept_by(stored, count))
    return {
        "gradient_bytes": _masked(trainable, known),
        "optimizer_state_bytes": _masked(trainable * (copies or 0), known & (copies is not None)),
        **{
            name: _masked(np.maximum(values, 0), values >= 0)
            for name, values in zip(("output_bytes", "output_max_bytes", "saved_bytes"), figures, strict=True)
        },
    }


def _total(line: CallTable, name: str, count: int) -> pd.arrays.IntegerArray:
    values, known = values_and_known(line, name)
    module = nullable_codes(line, "module")
    counted = known & (module >= 0)
    ran = np.bincount(module[counted], minlength=count) > 0
    return _masked(sums(module[counted], values[counted], count), ran)


def _flops(module: Ints, flops: Ints, count: int) -> pd.arrays.IntegerArray:
    """Sums for each module, null where those of a call are not known."""
    known = np.bincount(module, minlength=count) > 0
    known[module[flops < 0]] = False
    return _masked(sums(module, np.maximum(flops, 0), count), known)


def _on_device(module: Ints, device_ns: Ints, count: int) -> pd.arrays.IntegerArray:
    """Sums for each module over the rows whose time on the device is known, null where there is none."""
    counted = (device_ns >= 0) & (module >= 0)
    return _masked(
        sums(module[counted], device_ns[counted], count), np.bincount(module[counted], minlength=count) > 0
    )


def _operations(
    stored: Stored, computed: Work, module: Ints, chosen: Bools, count: int
) -> tuple[list[list[str]], list[list[str]]]:
    """The operations of each module in one of its calls, and those that have no formula."""
    table = stored.table("work")
    lists = [table.column(name).to_pylist() for name in ("operations", "uncounted")]
    work_row = np.append(computed.row, -1)
    counted = np.flatnonzero(chosen & (computed.row >= 0))
    first = np.full(count, len(module), np.int64)
    np.minimum.at(first, module[counted], counted)
    row_of_module = work_row[first].tolist()
    operations, uncounted = (
        [names[row] or [] if row >= 0 else [] for row in row_of_module] for names in lists
    )
    return operations, uncounted


def _times(calls: CallTable, counts: Bools, prefix: str, count: int) -> dict[str, Any]:
    """Total, self and per-step times of each module over some calls; `counts` is of those in steps that count."""
    module = column(calls, "module")
    duration, known = values_and_known(calls, "duration_ns")
    self_ns, self_known = values_and_known(calls, "self_ns")
    total = sums(module[known], duration[known], count)
    total_self = sums(module[self_known], self_ns[self_known], count)
    ran = np.bincount(module[known], minlength=count) > 0
    ran_self = np.bincount(module[self_known], minlength=count) > 0
    step = nullable_codes(calls, "step")
    counted = known & (step >= 0)
    each, owner = per_step(module[counted], step[counted], duration[counted], counts[counted])
    figures = over_steps(owner, each, count)
    data: dict[str, Any] = {
        f"{prefix}_total_ns": _masked(total, ran),
        f"{prefix}_self_ns": _masked(total_self, ran_self),
    }
    for row, figure in enumerate(("mean", "p50", "p95", "max")):
        data[f"{prefix}_{figure}_ns"] = _masked(figures[row], figures[row] >= 0)
    return data


def per_step(keys: Ints, steps: Ints, values: Ints, counts: Bools) -> tuple[Ints, Ints]:
    """Sums of values for each key in each step that `counts`, with the key of each; of a key that has none of these in
    all its steps.
    """
    if not len(keys):
        return values, keys
    pairs, first, which = np.unique(keys << 40 | steps, return_index=True, return_inverse=True)
    total = np.bincount(which, weights=values).astype(np.int64)
    owner, usual = pairs >> 40, counts[first]
    keep = usual | (np.bincount(owner, weights=usual) == 0)[owner]
    return total[keep], owner[keep]


def over_steps(owner: Ints, values: Ints, count: int) -> Ints:
    """Mean, median, 95th percentile (nearest rank) and maximum for each key below `count`: shape (4, count), -1 for
    none.
    """
    figures = np.full((4, count), -1, np.int64)
    if not len(owner):
        return figures
    owner, values = _sorted(owner, values)
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    size = np.diff(np.append(first, len(owner)))
    keys = owner[first]
    figures[0, keys] = np.add.reduceat(values, first) // size
    for row, share in ((1, 50), (2, 95), (3, 100)):
        figures[row, keys] = values[first + (size * share + 99) // 100 - 1]
    return figures


def _sorted(owner: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Keys, not below zero, and their values, in order of key and then of value."""
    bits = int(values.max()).bit_length()
    if int(values.min()) < 0 or int(owner.max()).bit_length() + bits > 62:
        order = np.lexsort((values, owner))
        return owner[order], values[order]
    # Both in one number are sorted in a quarter of the time.
    code = np.sort(owner.astype(np.int64) << bits | values)
    return code >> bits, code & ((1 << bits) - 1)


def sums(keys: Ints, values: Ints, count: int) -> Ints:
    """For each key below `count` the sum of its values."""
    total = np.zeros(count, np.int64)
    np.add.at(total, keys, values)
    return total


def _masked(values: Ints, known: npt.NDArray[np.bool_]) -> pd.arrays.IntegerArray:
    import pandas as pd

    return pd.arrays.IntegerArray(values.astype(np.int64), ~known)


@once
def module_names(stored: Stored) -> tuple[list[str], list[list[str]], list[str]]:
    """Name, aliases and root of each module; of several trees the one that it is a part of."""
    count = len(stored.table("modules"))
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
