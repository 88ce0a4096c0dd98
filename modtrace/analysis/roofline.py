"""How fast modules compute, beside what their device reaches.

A computation of F FLOPs over B bytes takes no less than F / peak and no less than B / bandwidth: at F / B operations a
byte it reaches min(peak, bandwidth * F / B) at the most. (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.holders import signature_bytes
from modtrace.analysis.paths import folded
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.trace.reach import Reach
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, DTYPE_BYTES, MODULE, OK

Ints = npt.NDArray[np.int64]

UNKNOWN = -1


@dataclass(frozen=True)
class Point:
    """One group of leaf modules, forward or backward, over the calls in which nothing was counted.

    bytes: of inputs, outputs and own parameters, each once a call (twice in backward, for values and gradients): the
        least that must move; None where one is not known.
    dtype: that of its first input. share: of what the device reaches at this intensity; None where it was not measured.
    """

    name: str
    type: str
    backward: bool
    calls: int
    flops: int
    bytes: int | None
    spent_ns: int
    dtype: str
    share: float | None

    @property
    def flops_per_s(self) -> float:
        """How fast it was."""
        return self.flops * 1e9 / max(self.spent_ns, 1)


def roofline(stored: Stored, reached: Reach | None) -> list[Point]:
    """The groups of modules that compute anything, by the time they take.

    Args:
        stored: the trace.
        reached: what the device reaches; None where it has not been measured.
    """
    table, computed, groups = timeline(stored).calls, work(stored), folded(stored)
    kind, status = column(table, "kind"), column(table, "status")
    spent, known = values_and_known(table, "self_ns")
    forward = nullable_codes(table, "forward")
    of = np.where((kind == BACKWARD) & (forward >= 0), forward, np.arange(len(table)))
    chosen = ((kind == MODULE) | (kind == BACKWARD)) & (status == OK) & known & (computed.own > 0)
    if (chosen & ~computed.counted).any():
        chosen &= ~computed.counted
    moved = _moved(stored, table, of)
    dtypes = _dtypes(stored)
    inputs = nullable_codes(table, "inputs")
    found = []
    for behind in (False, True):
        mine = chosen & ((kind == BACKWARD) == behind)
        for code in np.unique(groups.group[mine]).tolist():
            rows = np.flatnonzero(mine & (groups.group == code))
            total = None if (moved[rows] < 0).any() else int(moved[rows].sum()) * (2 if behind else 1)
            dtype = dtypes[inputs[of[rows[0]]]] if inputs[of[rows[0]]] >= 0 else "?"
            flops, took = int(computed.own[rows].sum()), int(spent[rows].sum())
            share = _share(flops, total, took, dtype, reached)
            name = groups.name[code] or groups.type[code]
            found.append(Point(name, groups.type[code], behind, len(rows), flops, total, took, dtype, share))
    return sorted(found, key=lambda one: -one.spent_ns)


def _share(flops: int, moved: int | None, spent_ns: int, dtype: str, reached: Reach | None) -> float | None:
    peak = reached.flops_per_s.get(dtype) if reached is not None else None
    if reached is None or peak is None or not moved:
        return None
    roof = min(peak, reached.bytes_per_s * flops / moved)
    return flops * 1e9 / max(spent_ns, 1) / roof


def _moved(stored: Stored, table: pa.Table, of: Ints) -> Ints:
    """Bytes of inputs, outputs and own parameters of the call that each row is, or is the backward of."""
    sizes = np.append(signature_bytes(stored), UNKNOWN)
    given, returned = (sizes[nullable_codes(table, name)[of]] for name in ("inputs", "outputs"))
    own = []
    for tensors in stored.table("modules").column("parameters").to_pylist():
        each = [np.prod(one["shape"] or [1]) * DTYPE_BYTES.get(one["dtype"], 0) for one in tensors or ()]
        own.append(int(sum(each)))
    parameters = np.array([*own, 0], np.int64)[nullable_codes(table, "module")[of]]
    return np.where((given < 0) | (returned < 0), UNKNOWN, given + returned + parameters)


def _dtypes(stored: Stored) -> list[str]:
    """The type of the first floating tensor of each signature, `?` for none."""
    found = []
    for tensors in stored.table("signatures").column("tensors").to_pylist():
        kinds = [one["dtype"] for one in tensors or () if "float" in one["dtype"]]
        found.append(kinds[0] if kinds else "?")
    return found


def mfu(flops: Ints, duration_ns: Ints, reached: Reach | None, dtype: str = "float32") -> list[float | None]:
    """Of each step the share of the device's peak that it used (model FLOPs utilisation); None where not known."""
    peak = reached.flops_per_s.get(dtype) if reached is not None else None
    return [
        None if peak is None or done < 0 or took <= 0 else done * 1e9 / took / peak
        for done, took in zip(flops.tolist(), duration_ns.tolist(), strict=True)
    ]
