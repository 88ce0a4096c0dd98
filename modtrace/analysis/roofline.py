"""FLOP/s of modules beside the peaks of their device.

A computation of F FLOPs over B bytes takes no less than F / peak and no less than B / bandwidth: at F / B operations a
byte it reaches min(peak, bandwidth * F / B) at the most. (Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.device_times import self_device_ns
from modtrace.analysis.flops import work
from modtrace.analysis.memory_peaks import signature_bytes, tensors_bytes
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.trace.call_table import CallTable
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE, OK

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

UNKNOWN = -1
HOST = "cpu"


@dataclass(frozen=True)
class Point:
    """One group of modules on one device in one type, forward or backward, over the calls in which nothing was counted.

    flops: without what modules inside compute; None where an operation has no formula or none was counted.
    bytes: of inputs, outputs and own parameters, each once a call (twice in backward, for values and gradients): the
        least that must move; None where one is not known.
    spent_ns: self time, on an accelerator that of the device; None where that is not known: what the host took to tell
        it what to do says nothing.
    device, dtype: those of its first floating output, or input where there is none; `?` where neither tells.
    counted: there were no other calls, so the time includes counting.
    share: of what the device reaches at this intensity; None where that is not known.
    """

    name: str
    type: str
    backward: bool
    calls: int
    flops: int | None
    bytes: int | None
    spent_ns: int | None
    device: str
    dtype: str
    counted: bool
    share: float | None

    @property
    def flops_per_s(self) -> float | None:
        """FLOPs a second."""
        return (
            None if self.flops is None or self.spent_ns is None else self.flops * 1e9 / max(self.spent_ns, 1)
        )


def device_keys(stored: Stored) -> dict[str, str]:
    """Key in the cache of peaks of each device of a trace, for those that are the same in all its processes."""
    keys_of: dict[str, set[str]] = {}
    for process in stored.processes:
        keys = process.end.devices if process.end is not None else {}
        for name, key in (keys or dict(zip((HOST,), process.devices, strict=False))).items():
            keys_of.setdefault(name, set()).add(key)
    return {name: next(iter(keys)) for name, keys in keys_of.items() if len(keys) == 1}


def roofline(stored: Stored, reached: Mapping[str, DevicePeaks]) -> list[Point]:
    """The groups of modules that compute anything, by the time they take; none where no FLOPs are known.

    Args:
        stored: the trace.
        reached: what has been measured of each device, by its name in the trace.
    """
    table, computed, groups = timeline(stored).calls, work(stored), folded(stored)
    call_kind, status = column(table, "kind"), column(table, "status")
    spent, timed = values_and_known(table, "self_ns")
    on_device = self_device_ns(stored)
    of = _forward(table)
    chosen = ((call_kind == MODULE) | (call_kind == BACKWARD)) & (status == OK) & timed & (computed.own != 0)
    if not (chosen & (computed.own > 0)).any():
        return []
    moved, (places, place) = _moved(stored, table, of), computed_in(stored, table, of)
    points = []
    keys = np.stack([groups.group, call_kind == BACKWARD, place])
    for code, behind, number in np.unique(keys[:, chosen], axis=1).T.tolist():
        of_point = np.flatnonzero(chosen & (keys == [[code], [behind], [number]]).all(axis=0))
        device, dtype = places[number]
        took_ns = spent if device == HOST else on_device
        rows = _preferred(of_point, computed.own > 0, ~computed.counted, took_ns >= 0)
        total = None if (moved[rows] < 0).any() else sum(moved[rows].tolist()) * (2 if behind else 1)
        flops = sum(computed.own[rows].tolist()) if (computed.own[rows] > 0).all() else None
        took = int(took_ns[rows].sum()) if (took_ns[rows] >= 0).all() else None
        points.append(
            Point(
                groups.title(code),
                groups.type[code],
                bool(behind),
                len(rows),
                flops,
                total,
                took,
                device,
                dtype,
                bool(computed.counted[rows].any()),
                _share(flops, total, took, dtype, reached.get(device)),
            )
        )
    return sorted(points, key=lambda point: -(point.spent_ns or 0))


def mfu_of_steps(
    stored: Stored, low: int, high: int, flops: Ints, duration_ns: Ints, reached: Mapping[str, DevicePeaks]
) -> list[float | None]:
    """Of each step of one process the share of what its devices reach (model FLOPs utilisation): the time that its
    products would take at their peaks, each in its own type, over the time of the step on all devices it computed on.

    Args:
        stored: the trace.
        low, high: the rows of the process in its timeline.
        flops: of each step, below 0 where not known.
        duration_ns: of each step.
        reached: what has been measured of each device. None for a step that computed in another type or place.
    """
    count = len(flops)
    if not reached:
        return [None] * count
    table, self_flops = timeline(stored).calls, work(stored).own[low:high]
    step = nullable_codes(table, "step")[low:high]
    places, place = computed_in(stored, table, _forward(table))
    place = place[low:high]
    computing = (step >= 0) & (step < count) & (self_flops > 0)
    ideal, used = np.zeros(count), np.zeros(count, np.int64)
    for number in np.unique(place[computing]).tolist():
        device, dtype = places[number]
        peak = reached[device].flops_per_s.get(dtype) if device in reached else None
        of_place = computing & (place == number)
        ideal += np.bincount(
            step[of_place], weights=self_flops[of_place] * 1e9 / (peak or np.nan), minlength=count
        )
    for device in {places[number][0] for number in np.unique(place[computing]).tolist()}:
        on_this = np.isin(
            place, [number for number, device_and_dtype in enumerate(places) if device_and_dtype[0] == device]
        )
        used += np.bincount(step[computing & on_this], minlength=count) > 0
    shares = ideal / np.maximum(duration_ns * np.maximum(used, 1), 1)
    known = (flops >= 0) & (duration_ns > 0) & ~np.isnan(shares)
    return [share if sure else None for share, sure in zip(shares.tolist(), known.tolist(), strict=True)]


def _share(
    flops: int | None, moved: int | None, spent_ns: int | None, dtype: str, reached: DevicePeaks | None
) -> float | None:
    peak = reached.flops_per_s.get(dtype) if reached is not None else None
    if reached is None or peak is None or not moved or flops is None or spent_ns is None:
        return None
    roof = min(peak, reached.bytes_per_s * flops / moved)
    return flops * 1e9 / max(spent_ns, 1) / roof


def _preferred(rows: Ints, *wishes: Bools) -> Ints:
    """Those rows that meet one wish after another, where there are any that do."""
    for wish in wishes:
        if wish[rows].any():
            rows = rows[wish[rows]]
    return rows


def _forward(table: CallTable) -> Ints:
    """The row of the call that each row is, or is the backward of."""
    forward = nullable_codes(table, "forward")
    behind = (column(table, "kind") == BACKWARD) & (forward >= 0)
    return np.where(behind, forward, np.arange(len(table)))


def _moved(stored: Stored, table: CallTable, of: Ints) -> Ints:
    """Bytes of inputs, outputs and own parameters of the call that each row is, or is the backward of."""
    sizes = np.append(signature_bytes(stored), UNKNOWN)
    input_bytes, output_bytes = (sizes[nullable_codes(table, name)[of]] for name in ("inputs", "outputs"))
    bytes_of_modules = [
        tensors_bytes(parameters) for parameters in stored.table("modules").column("parameters").to_pylist()
    ]
    parameter_bytes = np.array([*bytes_of_modules, UNKNOWN], np.int64)[nullable_codes(table, "module")[of]]
    return np.where(
        (input_bytes < 0) | (output_bytes < 0) | (parameter_bytes < 0),
        UNKNOWN,
        input_bytes + output_bytes + parameter_bytes,
    )


def computed_in(stored: Stored, table: CallTable, of: Ints) -> tuple[list[tuple[str, str]], Ints]:
    """Where and in which type each row computes: (device, dtype) by a number, and the number of each row.

    Under autocast a product's inputs have the wider type and its output that in which it was computed.
    """
    numbers: dict[tuple[str, str], int] = {("?", "?"): 0}
    codes = []
    for tensors in stored.table("signatures").column("tensors").to_pylist():
        first = next(
            ((tensor["device"], tensor["dtype"]) for tensor in tensors or () if "float" in tensor["dtype"]),
            None,
        )
        codes.append(0 if first is None else numbers.setdefault(first, len(numbers)))
    by_signature = np.array([*codes, 0], np.int64)
    inputs, outputs = (by_signature[nullable_codes(table, name)[of]] for name in ("inputs", "outputs"))
    return list(numbers), np.where(outputs > 0, outputs, inputs)
