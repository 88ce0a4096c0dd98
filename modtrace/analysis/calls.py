"""The `calls` DataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.call_values import VALUE_COLUMNS, call_values
from modtrace.analysis.columns import (
    DistinctTexts,
    categorical,
    column,
    counted_pairs,
    floats,
    integers,
    nullable,
    nullable_flags,
)
from modtrace.analysis.device_memory import of_rows
from modtrace.analysis.device_starts import device_starts
from modtrace.analysis.device_times import device_times
from modtrace.analysis.flops import work
from modtrace.analysis.memory import of_calls
from modtrace.analysis.phases import NAMES as PHASE_NAMES
from modtrace.analysis.roots import roots
from modtrace.analysis.saved_bytes import of_calls as of_saved
from modtrace.analysis.timeline import timeline
from modtrace.trace.call_table import constant, same
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import CALL_COLUMNS, KINDS, STATUSES

if TYPE_CHECKING:
    import pandas as pd

Ints = npt.NDArray[np.int64]

_NULLABLE: Final = ("duration_ns", "self_ns", "tracer_ns", "hooks_ns")
_NEVER_NULL: Final = ("parent", "rank", "thread", "depth", "start_ns", "last_call")
_MANY_CELLS: Final = 1 << 22
_CODES: Final = ("kind", "module", "root", "label", "phase", "inputs", "outputs", "status", "error")


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
        self._names = CallNames(stored)
        self._name = DistinctTexts(self._names.texts + [name for name, _ in line.labels])
        self._type = DistinctTexts(self._types + [label_type for _, label_type in line.labels])
        self._root = DistinctTexts(roots(stored).name)
        self._file = DistinctTexts([place[0] if place is not None else "" for place in line.places])
        self._device_ns, self._dry = device_times(stored).device_ns, device_starts(stored).dry
        allocated, read = of_calls(stored), of_rows(stored)
        self._memory_known, self._delta_bytes, self._peak_bytes = (
            read.known,
            read.delta_bytes,
            read.peak_bytes,
        )
        if allocated.known.any():
            self._memory_known = allocated.known | read.known
            self._delta_bytes = np.where(allocated.known, allocated.delta_bytes, read.delta_bytes)
            self._peak_bytes = np.where(allocated.known, allocated.peak_bytes, read.peak_bytes)
        self._retries, self._device_allocs = read.retries, read.device_allocs
        self._saved_bytes = of_saved(stored)
        self._work = work(stored)
        self._values = call_values(stored)

    def __len__(self) -> int:
        return len(self._table)

    def frame(self, low: int, high: int) -> pd.DataFrame:
        """The rows from `low` up to `high`. Categories are the same in every range."""
        import pandas as pd

        table, rows = self._table.slice(low, high - low), slice(low, high)
        codes = {name: table.stored(name)[0] for name in _CODES}
        module, root, label = codes["module"], codes["root"], codes["label"]
        labelled = np.flatnonzero(module < 0)
        named, typed = self._names.codes(root, module), module.copy()
        named[labelled] = label[labelled] + len(self._names.texts)
        typed[labelled] = label[labelled] + len(self._types)
        file, line = self._sources(label)
        data: dict[str, Any] = {
            "kind": categorical(codes["kind"], list(KINDS)),
            "name": self._name.column(named),
            "type": self._type.column(typed),
            "root": self._root.column(root),
            "module_id": nullable(table, "module"),
            "step": nullable(table, "step"),
            "phase": categorical(codes["phase"], list(PHASE_NAMES)),
            **{name: integers(table, name) for name in _NEVER_NULL},
            "forward": nullable(table, "forward"),
            **{name: nullable(table, name) for name in _NULLABLE},
            "inputs": self._signatures.column(codes["inputs"]),
            "outputs": self._signatures.column(codes["outputs"]),
            "status": categorical(codes["status"], list(STATUSES)),
            "error": self._errors.column(codes["error"]),
            "output_replaced": nullable_flags(table, "output_replaced"),
            "device_ns": _known(self._device_ns[rows]),
            "device_dry": pd.arrays.BooleanArray(self._dry[rows] == 1, self._dry[rows] < 0),
            "memory_delta_bytes": pd.arrays.IntegerArray(
                np.array(self._delta_bytes[rows]), ~self._memory_known[rows]
            ),
            "memory_peak_bytes": _known(self._peak_bytes[rows]),
            "memory_retries": _known(self._retries[rows]),
            "memory_device_allocs": _known(self._device_allocs[rows]),
            "saved_bytes": _known(self._saved_bytes[rows]),
            "flops": _known(self._work.flops[rows]),
            "flops_at_least": _known(self._work.least[rows]),
            **{name: floats(*self._values.of(name, rows)) for name in VALUE_COLUMNS},
            "source_file": file,
            "source_line": line,
        }
        index = pd.RangeIndex(low, high, name="call")
        data |= {name: nullable(table, name) for name in CALL_COLUMNS if name not in data}
        return pd.DataFrame({name: data[name] for name in CALL_COLUMNS}, index=index, copy=False)

    def _sources(self, label: Ints) -> tuple[Any, pd.arrays.IntegerArray]:
        """File and line of the code that calls each function."""
        import pandas as pd

        if not any(self._places):
            none = np.ones(len(label), np.bool_)
            return self._file.column(same(-1, np.int64, len(label))), pd.arrays.IntegerArray(
                np.zeros(len(label), np.int64), none
            )
        known = np.array([place is not None for place in self._places] + [False], np.bool_)[label]
        lines = np.array([place[1] if place is not None else 0 for place in self._places] + [0], np.int64)
        return self._file.column(np.where(known, label, -1)), pd.arrays.IntegerArray(lines[label], ~known)


def _known(values: Ints) -> pd.arrays.IntegerArray:
    """A nullable column from values that are -1 where they are not known."""
    import pandas as pd

    null = np.ones(len(values), np.bool_) if constant(values) and values[0] < 0 else values < 0
    if null.all():  # zeros that nobody reads take no memory
        return pd.arrays.IntegerArray(np.zeros(len(values), np.int64), null)
    return pd.arrays.IntegerArray(np.maximum(values, 0), null)


class CallNames:
    """Names of modules below their roots; a pair without a name has an empty one, as a root has."""

    def __init__(self, stored: Stored) -> None:
        table = stored.table("names")
        pair = column(table, "root") << 32 | column(table, "module")
        named = roots(stored)
        self.tops: list[int] = table.column("root").to_pylist()
        self.texts: list[str] = [*map(named.full, self.tops, table.column("name").to_pylist()), ""]
        self._order = np.argsort(pair)
        self._pair = pair[self._order]
        self._cells = self._by_cell(
            column(table, "root"), column(table, "module"), stored.table("modules").num_rows
        )

    def _by_cell(self, root: Ints, module: Ints, modules: int) -> tuple[Ints, Ints] | None:
        """A table of positions in `texts`: a row a root, the last for none, and a column a module, the first for none.

        Returns:
            Its cells, and for each module that of its row that is of module 0; None where it would be large.
        """
        tops = np.unique(root)
        width = modules + 1
        if (len(tops) + 1) * width > _MANY_CELLS:
            return None
        begin = np.full(width, len(tops) * width, np.int64)
        begin[tops] = np.arange(len(tops)) * width
        cells = np.full((len(tops) + 1) * width, len(self.texts) - 1, np.int64)
        cells[begin[root] + module + 1] = np.arange(len(root))
        return cells, begin + 1

    def codes(self, root: Ints, module: Ints) -> Ints:
        """Positions in `texts`, as an array of its own."""
        none = len(self.texts) - 1
        if not none:
            return np.zeros(len(root), np.int64)
        if self._cells is not None:
            cells, begin = self._cells
            cell = begin[root]
            cell += module
            return cells[cell]
        wanted = root << 32 | module
        index = np.minimum(np.searchsorted(self._pair, wanted), none - 1)
        return np.where(self._pair[index] == wanted, self._order[index], none)


def names(stored: Stored, root: Ints, module: Ints) -> tuple[Ints, list[str]]:
    """Names of modules below their roots, as keys into a list of names; a pair without a name has an empty one."""
    names_of_pairs = CallNames(stored)
    return names_of_pairs.codes(root, module), names_of_pairs.texts


@once
def same_text(stored: Stored) -> Ints:
    """For each signature the first that is written the same; -1 behind them for none. Those of inputs are told apart by
    values that no text shows.
    """
    first: dict[str, int] = {}
    texts = stored.table("signatures").column("text").to_pylist()
    return np.array([*(first.setdefault(text, code) for code, text in enumerate(texts)), -1], np.int64)


def commonest(keys: Ints, codes: Ints, count: int) -> Ints:
    """For each key the code that it has most often, -1 for none."""
    result = np.full(count, -1, np.int64)
    known = codes >= 0
    if not known.all():
        keys, codes = keys[known], codes[known]
    key, code, times = counted_pairs(keys, codes)
    order = np.argsort(times, kind="stable")
    result[key[order]] = code[order]
    return result


def error_texts(stored: Stored) -> list[str]:
    """`Type: first line` of each error, the type alone where no message was kept."""
    table = stored.table("errors")
    pairs = zip(table.column("type").to_pylist(), table.column("message").to_pylist(), strict=False)
    return [f"{class_name}: {message}" if message else class_name for class_name, message in pairs]


def tensor_devices(stored: Stored) -> list[str]:
    """Devices of the tensors in signatures: `cpu`, `cuda:0`."""
    tensors = stored.table("signatures").column("tensors")
    flat = tensors.combine_chunks().flatten()
    return sorted(set(flat.field("device").to_pylist())) if len(flat) else []
