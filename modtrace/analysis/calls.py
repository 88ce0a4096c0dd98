"""The `calls` DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.columns import (
    categorical,
    column,
    distinct_texts,
    nullable,
    nullable_codes,
)
from modtrace.analysis.device_memory import of_rows
from modtrace.analysis.device_times import device_times
from modtrace.analysis.memory import of_calls
from modtrace.analysis.phases import NAMES as PHASE_NAMES
from modtrace.analysis.saved import of_calls as of_saved
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.trace.reader import Stored
from modtrace.trace.schema import CALL_COLUMNS, KINDS, STATUSES

Ints = npt.NDArray[np.int64]

_NULLABLE = ("duration_ns", "self_ns", "tracer_ns", "hooks_ns")


def calls(stored: Stored) -> pd.DataFrame:
    """One row a call in order of start, indexed by `call`; columns as in schema.CALL_COLUMNS.

    Texts are categoricals, times and sizes nullable integers.
    """
    line = timeline(stored)
    table = line.calls
    modules = stored.table("modules")
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    label = nullable_codes(table, "label")
    types = modules.column("type").to_pylist()
    signatures = stored.table("signatures").column("text").to_pylist()
    named, texts = names(stored, root, module)
    of_label = module < 0
    data: dict[str, Any] = {
        "parent": column(table, "parent"),
        "kind": categorical(column(table, "kind"), list(KINDS)),
        "name": distinct_texts(
            np.where(of_label, label + len(texts), named), texts + [name for name, _ in line.labels]
        ),
        "type": distinct_texts(
            np.where(of_label, label + len(types), module), types + [kind for _, kind in line.labels]
        ),
        "root": distinct_texts(root, types),
        "module_id": nullable(table, "module"),
        "step": nullable(table, "step"),
        "phase": categorical(nullable_codes(table, "phase"), list(PHASE_NAMES)),
        **{name: column(table, name) for name in ("rank", "thread", "depth", "start_ns", "last_call")},
        "forward": nullable(table, "forward"),
        **{name: nullable(table, name) for name in _NULLABLE},
        "inputs": distinct_texts(nullable_codes(table, "inputs"), signatures),
        "outputs": distinct_texts(nullable_codes(table, "outputs"), signatures),
        "status": categorical(column(table, "status"), list(STATUSES)),
        "error": distinct_texts(nullable_codes(table, "error"), error_texts(stored)),
        "output_replaced": table.column("output_replaced").to_pandas().astype("boolean").to_numpy(),
    }
    on_device = device_times(stored).device_ns
    data["device_ns"] = pd.arrays.IntegerArray(np.maximum(on_device, 0), on_device < 0)
    held = of_calls(stored)
    read = of_rows(stored)
    delta, peak = (
        np.where(held.known, watched, told)
        for watched, told in ((held.delta_bytes, read.delta_bytes), (held.peak_bytes, read.peak_bytes))
    )
    data["memory_delta_bytes"] = pd.arrays.IntegerArray(delta, ~(held.known | read.known))
    data["memory_peak_bytes"] = pd.arrays.IntegerArray(np.maximum(peak, 0), peak < 0)
    kept = of_saved(stored)
    data["saved_bytes"] = pd.arrays.IntegerArray(np.maximum(kept, 0), kept < 0)
    computed = work(stored).flops
    data["source_file"], data["source_line"] = _sources(line.places, label)
    data["flops"] = pd.arrays.IntegerArray(np.maximum(computed, 0), computed < 0)
    data["output_replaced"] = pd.array(data["output_replaced"], dtype="boolean")
    frame = pd.DataFrame({name: data[name] for name in CALL_COLUMNS})
    frame.index = pd.Index(np.arange(len(table)), name="call")
    return frame


def _sources(places: list[tuple[str, int, int] | None], label: Ints) -> tuple[Any, pd.arrays.IntegerArray]:
    """File and line of the code that calls each function."""
    known = np.array([place is not None for place in places] + [False], np.bool_)[label]
    lines = np.array([place[1] if place is not None else 0 for place in places] + [0], np.int64)[label]
    files = distinct_texts(
        np.where(known, label, -1), [place[0] if place is not None else "" for place in places]
    )
    return files, pd.arrays.IntegerArray(lines, ~known)


def names(stored: Stored, root: Ints, module: Ints) -> tuple[Ints, list[str]]:
    """Names of modules below their roots, as keys into a list of names; a pair without a name has an empty one."""
    table = stored.table("names")
    pair = column(table, "root") << 32 | column(table, "module")
    texts = [*table.column("name").to_pylist(), ""]
    order = np.argsort(pair)
    wanted = root << 32 | module
    if not len(pair):
        return np.zeros(len(wanted), np.int64), [""]
    at = np.minimum(np.searchsorted(pair[order], wanted), len(pair) - 1)
    found = order[at]
    return np.where(pair[found] == wanted, found, len(texts) - 1), texts


def commonest(keys: Ints, codes: Ints, count: int) -> Ints:
    """For each key the code that it has most often, -1 for none."""
    result = np.full(count, -1, np.int64)
    some = codes >= 0
    pairs, times = np.unique(keys[some] << 32 | codes[some], return_counts=True)
    order = np.argsort(times, kind="stable")
    result[pairs[order] >> 32] = pairs[order] & 0xFFFFFFFF
    return result


def error_texts(stored: Stored) -> list[str]:
    """`Type: first line` of each error, the type alone where no message was kept."""
    table = stored.table("errors")
    pairs = zip(table.column("type").to_pylist(), table.column("message").to_pylist(), strict=False)
    return [f"{kind}: {message}" if message else kind for kind, message in pairs]
