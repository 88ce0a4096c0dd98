"""The `calls` DataFrame."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.columns import (
    DistinctTexts,
    categorical,
    column,
    distinct_pairs,
    nullable,
    nullable_codes,
    nullable_flags,
)
from modtrace.analysis.device_memory import of_rows
from modtrace.analysis.device_times import device_times
from modtrace.analysis.memory import of_calls
from modtrace.analysis.phases import NAMES as PHASE_NAMES
from modtrace.analysis.roots import roots
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
    return CallRows(stored).frame(0, len(timeline(stored).calls))


class CallRows:
    """The rows of `calls`, any range of them at a time: what is long is made for the range alone."""

    def __init__(self, stored: Stored) -> None:
        line = timeline(stored)
        self._table, self._places = line.calls, line.places
        self._types: list[str] = stored.table("modules").column("type").to_pylist()
        self._signatures = DistinctTexts(stored.table("signatures").column("text").to_pylist())
        self._errors = DistinctTexts(error_texts(stored))
        self._names = Names(stored)
        self._name = DistinctTexts(self._names.texts + [name for name, _ in line.labels])
        self._type = DistinctTexts(self._types + [kind for _, kind in line.labels])
        self._root = DistinctTexts(roots(stored).name)
        self._file = DistinctTexts([place[0] if place is not None else "" for place in line.places])
        self._device_ns = device_times(stored).device_ns
        held, read = of_calls(stored), of_rows(stored)
        self._memory_known = held.known | read.known
        self._delta_bytes = np.where(held.known, held.delta_bytes, read.delta_bytes)
        self._peak_bytes = np.where(held.known, held.peak_bytes, read.peak_bytes)
        self._saved_bytes = of_saved(stored)
        self._work = work(stored)

    def __len__(self) -> int:
        return len(self._table)

    def frame(self, low: int, high: int) -> pd.DataFrame:
        """The rows from `low` up to `high`. Categories are the same in every range."""
        table, rows = self._table.slice(low, high - low), slice(low, high)
        module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
        label = nullable_codes(table, "label")
        of_label = module < 0
        named = np.where(of_label, label + len(self._names.texts), self._names.codes(root, module))
        file, line = self._sources(label)
        data: dict[str, Any] = {
            "parent": column(table, "parent"),
            "kind": categorical(column(table, "kind"), list(KINDS)),
            "name": self._name.column(named),
            "type": self._type.column(np.where(of_label, label + len(self._types), module)),
            "root": self._root.column(root),
            "module_id": nullable(table, "module"),
            "step": nullable(table, "step"),
            "phase": categorical(nullable_codes(table, "phase"), list(PHASE_NAMES)),
            **{name: column(table, name) for name in ("rank", "thread", "depth", "start_ns", "last_call")},
            "forward": nullable(table, "forward"),
            **{name: nullable(table, name) for name in _NULLABLE},
            "inputs": self._signatures.column(nullable_codes(table, "inputs")),
            "outputs": self._signatures.column(nullable_codes(table, "outputs")),
            "status": categorical(column(table, "status"), list(STATUSES)),
            "error": self._errors.column(nullable_codes(table, "error")),
            "output_replaced": nullable_flags(table, "output_replaced"),
            "device_ns": _known(self._device_ns[rows]),
            "memory_delta_bytes": pd.arrays.IntegerArray(self._delta_bytes[rows], ~self._memory_known[rows]),
            "memory_peak_bytes": _known(self._peak_bytes[rows]),
            "saved_bytes": _known(self._saved_bytes[rows]),
            "flops": _known(self._work.flops[rows]),
            "flops_at_least": _known(self._work.least[rows]),
            "source_file": file,
            "source_line": line,
        }
        index = pd.RangeIndex(low, high, name="call")
        return pd.DataFrame({name: data[name] for name in CALL_COLUMNS}, index=index)

    def _sources(self, label: Ints) -> tuple[Any, pd.arrays.IntegerArray]:
        """File and line of the code that calls each function."""
        known = np.array([place is not None for place in self._places] + [False], np.bool_)[label]
        lines = np.array([place[1] if place is not None else 0 for place in self._places] + [0], np.int64)
        return self._file.column(np.where(known, label, -1)), pd.arrays.IntegerArray(lines[label], ~known)


def _known(values: Ints) -> pd.arrays.IntegerArray:
    """A nullable column from values that are -1 where they are not known."""
    return pd.arrays.IntegerArray(np.maximum(values, 0), values < 0)


class Names:
    """Names of modules below their roots; a pair without a name has an empty one, as a root has."""

    def __init__(self, stored: Stored) -> None:
        table = stored.table("names")
        pair = column(table, "root") << 32 | column(table, "module")
        named = roots(stored)
        self.tops: list[int] = table.column("root").to_pylist()
        self.texts: list[str] = [*map(named.full, self.tops, table.column("name").to_pylist()), ""]
        self._order = np.argsort(pair)
        self._pair = pair[self._order]

    def codes(self, root: Ints, module: Ints) -> Ints:
        """Positions in `texts`."""
        none = len(self.texts) - 1
        if not none:
            return np.zeros(len(root), np.int64)
        wanted = root << 32 | module
        at = np.minimum(np.searchsorted(self._pair, wanted), none - 1)
        return np.where(self._pair[at] == wanted, self._order[at], none)


def names(stored: Stored, root: Ints, module: Ints) -> tuple[Ints, list[str]]:
    """Names of modules below their roots, as keys into a list of names; a pair without a name has an empty one."""
    found = Names(stored)
    return found.codes(root, module), found.texts


def same_text(stored: Stored) -> Ints:
    """For each signature the first that is written the same; -1 behind them for none. Those of inputs are told apart by
    values that no text shows.
    """
    first: dict[str, int] = {}
    texts = stored.table("signatures").column("text").to_pylist()
    return np.array([*(first.setdefault(text, at) for at, text in enumerate(texts)), -1], np.int64)


def commonest(keys: Ints, codes: Ints, count: int) -> Ints:
    """For each key the code that it has most often, -1 for none."""
    result = np.full(count, -1, np.int64)
    some = codes >= 0
    if not some.all():
        keys, codes = keys[some], codes[some]
    key, code, which = distinct_pairs(keys, codes)
    order = np.argsort(np.bincount(which, minlength=len(key)), kind="stable")
    result[key[order]] = code[order]
    return result


def error_texts(stored: Stored) -> list[str]:
    """`Type: first line` of each error, the type alone where no message was kept."""
    table = stored.table("errors")
    pairs = zip(table.column("type").to_pylist(), table.column("message").to_pylist(), strict=False)
    return [f"{kind}: {message}" if message else kind for kind, message in pairs]
