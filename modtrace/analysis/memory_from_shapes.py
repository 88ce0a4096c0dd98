"""Memory of models and outputs, as far as sizes, types and the optimizer's class tell.

It is what these tensors need, not what an allocator held: outputs that are views of inputs, or were changed in place,
have no memory of their own, and most outputs are freed again where gradients are off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.memory_peaks import UNKNOWN, signature_bytes
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.roots import qualified, roots
from modtrace.analysis.timeline import timeline
from modtrace.trace.arrow_arrays import array
from modtrace.trace.call_table import CallTable
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import MODULE, OK, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STATES: Final = {"Adam": 2, "AdamW": 2, "NAdam": 2, "RAdam": 2, "Adamax": 2, "Adadelta": 2, "Adagrad": 1}
"""Copies of the parameters that torch's optimizers keep. Of others it depends on how they were made."""
NOTHING: Final = -2
"""Of a call that returned nothing, because it did not return."""


@dataclass(frozen=True)
class Model:
    """Bytes of a model that was called as a root; None where a size is not known.

    name: that of the root, and its class.
    gradient_bytes: of gradients of all its trainable parameters, if there are any.
    """

    name: str
    parameter_bytes: int | None
    gradient_bytes: int | None
    buffer_bytes: int | None


@dataclass(frozen=True)
class GroupOutputs:
    """Bytes of outputs of one group of modules without submodules; `largest_bytes` is of one call. None: unknown."""

    name: str
    type: str
    calls: int
    output_bytes: int | None
    largest_bytes: int | None


@dataclass(frozen=True)
class ShapeMemory:
    """Memory of models, optimizers and outputs, worked out from shapes.

    optimizers: class and estimated bytes of state of those that made a step; None where that is not known.
    step_bytes: the most that modules without submodules returned in one step; None where the size of one is not known.
    """

    models: list[Model]
    optimizers: list[tuple[str, int | None]]
    returned: list[GroupOutputs]
    step_bytes: int | None


@once
def output_bytes(stored: Stored) -> Ints:
    """Bytes of what each row of the timeline returned, UNKNOWN where its size is not known, NOTHING where it did not
    return or is no module call.
    """
    table = timeline(stored).calls
    sizes = np.append(signature_bytes(stored), UNKNOWN)[nullable_codes(table, "outputs")]
    returned = (column(table, "kind") == MODULE) & (column(table, "status") == OK)
    return np.where(returned, sizes, NOTHING)


def of_keys(keys: Ints, sizes: Ints, count: int) -> tuple[Ints, Ints]:
    """For each key below `count` the sum and the largest of its outputs: UNKNOWN where one of them is, or none."""
    with_output = sizes != NOTHING
    keys, sizes = keys[with_output], sizes[with_output]
    total, largest = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.add.at(total, keys, np.maximum(sizes, 0))
    np.maximum.at(largest, keys, sizes)
    unknown = np.ones(count, np.bool_)
    unknown[keys] = False
    unknown[keys[sizes < 0]] = True
    return np.where(unknown, UNKNOWN, total), np.where(unknown, UNKNOWN, largest)


def optimizers(stored: Stored, rows: Bools, trainable: int | None) -> list[tuple[str, int | None]]:
    """The optimizers that made a step in some rows of the timeline, with bytes of their state as torch's own make it.

    Args:
        stored: the trace.
        rows: which rows.
        trainable: bytes of the trainable parameters; None for unknown.
    """
    line = timeline(stored)
    stepped = rows & (column(line.calls, "kind") == PHASE) & (column(line.calls, "status") == OK)
    labels = np.unique(nullable_codes(line.calls, "label")[stepped])
    class_names = sorted(
        {
            line.labels[label][1]
            for label in labels.tolist()
            if label >= 0 and line.labels[label][0] == "optimizer"
        }
    )
    several = len(class_names) > 1  # of several nobody knows which parameters each has
    return [
        (
            class_name,
            None
            if trainable is None or several or class_name not in STATES
            else STATES[class_name] * trainable,
        )
        for class_name in class_names
    ]


def copies_kept(stored: Stored) -> int | None:
    """Number of copies of its parameters the optimizer keeps; None where there is none, or that is not known."""
    stepping = optimizers(stored, np.ones(len(timeline(stored).calls), np.bool_), 1)
    return stepping[0][1] if len(stepping) == 1 else None


@once
def sizes_by_shapes(stored: Stored) -> ShapeMemory:
    """The sizes of models, optimizers and outputs of a trace as shapes give them."""
    table = timeline(stored).calls
    models = _models(stored, table)
    trainable = [model.gradient_bytes for model in models]
    known = sum(size for size in trainable if size is not None) if None not in trainable else None
    sizes = output_bytes(stored).copy()
    last = column(table, "last_call")
    sizes[(last != np.arange(len(table))) | (nullable_codes(table, "phase") == RECOMPUTE)] = NOTHING
    step = nullable_codes(table, "step")
    # Steps of several processes have the same numbers.
    pair = column(table, "process") << 40 | np.maximum(step, 0)
    keys, which = np.unique(pair, return_inverse=True)
    of_step, _ = of_keys(which, np.where(step >= 0, sizes, NOTHING), len(keys))
    inside = np.bincount(which[(step >= 0) & (sizes != NOTHING)], minlength=len(keys)) > 0
    unknown = not inside.any() or bool((of_step[inside] < 0).any())
    return ShapeMemory(
        models,
        optimizers(stored, np.ones(len(table), np.bool_), known),
        _returned(stored, sizes),
        None if unknown else int(of_step[inside].max()),
    )


def _models(stored: Stored, table: CallTable) -> list[Model]:
    """Those of rank 0 that ran, are no part of another, and hold anything."""
    first = (column(table, "process") == 0) & (column(table, "kind") == MODULE)
    table_of_names = stored.table("names")
    parts = column(table_of_names, "module")[
        np.array(table_of_names.column("name").to_pylist(), object) != ""
    ]
    tops = np.setdiff1d(nullable_codes(table, "module")[first], parts)
    rows = stored.table("modules").take(array(tops, pa.int64())).to_pylist()
    names = roots(stored).name

    def named(top: int, class_name: str) -> str:
        return " ".join(filter(None, qualified(names[top], "", class_name)))

    models = [
        Model(named(top, row["type"]), row["parameter_bytes"], row["trainable_bytes"], row["buffer_bytes"])
        for top, row in zip(tops.tolist(), rows, strict=True)
    ]
    return [model for model in models if model.parameter_bytes != 0 or model.buffer_bytes != 0]


def _returned(stored: Stored, sizes: Ints) -> list[GroupOutputs]:
    groups = folded(stored)
    count = len(groups.name)
    total, largest = of_keys(groups.group, sizes, count)
    calls = np.bincount(groups.group[sizes != NOTHING], minlength=count)
    by_group = [
        GroupOutputs(
            groups.title(group),
            groups.type[group],
            int(calls[group]),
            int(total[group]) if total[group] >= 0 else None,
            int(largest[group]) if largest[group] >= 0 else None,
        )
        for group in np.flatnonzero(calls).tolist()
    ]
    return sorted(
        by_group,
        key=lambda group_outputs: (
            group_outputs.output_bytes is not None,
            -(group_outputs.output_bytes or 0),
            group_outputs.name,
        ),
    )
