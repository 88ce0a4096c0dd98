"""What is worth a look about devices: when they idle, what is copied, what computes in the wrong place or type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.analysis.around import below_module, root_calls
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.holders import signature_bytes
from modtrace.analysis.kernels import kernels
from modtrace.analysis.own_parameters import own_parameters
from modtrace.analysis.paths import folded
from modtrace.analysis.roofline import computed_in
from modtrace.analysis.syncs import Place, places
from modtrace.analysis.timeline import timeline
from modtrace.analysis.work import work
from modtrace.trace.schema import COPY_TO_DEVICE, COPY_TO_HOST, FUNCTION, MODULE, OK
from modtrace.units import duration, percent, plural, size

if TYPE_CHECKING:
    from modtrace.analysis.findings import Facts, Finding

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOST: Final = "cpu"
IDLE_SHARE: Final = 0.30
IDLE_NS: Final = 1_000_000
EXPLAINED: Final = 0.5
"""Waiting for data explains an idle device where it is so much of that time."""
COPY_BYTES: Final = 1 << 20
COPY_SHARE: Final = 0.05
WAITS: Final = 1.0
FULL_SHARE: Final = 0.10
HALVES: Final = ("bfloat16", "float16")
PRODUCTS: Final = (
    "Linear", "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
)  # fmt: skip
"""Layers that autocast lets compute in the narrow type."""


def device_idle(facts: Facts) -> Iterator[Finding]:
    """The device has nothing to do for IDLE_SHARE of a step, in the median."""
    from modtrace.analysis.findings import Finding

    steps = facts.steady
    steps = steps[steps["device_ns"].notna() & steps["device_idle_ns"].notna()] if len(steps) else steps
    if not facts.enough or len(steps) < len(facts.steady) / 2:
        return
    idle, busy = steps["device_idle_ns"].to_numpy(float), steps["device_ns"].to_numpy(float)
    shares = idle / np.maximum(idle + busy, 1)
    if float(np.median(shares)) < IDLE_SHARE or idle.sum() < IDLE_NS:
        return
    waited = steps["data_ns"].to_numpy(float)
    by_data = float(np.median(waited)) >= EXPLAINED * float(np.median(idle))
    why = (
        f"waiting for data takes {duration(int(np.median(waited)))}"
        if by_data
        else "the host does not keep it busy"
    )
    remedy = (
        "more workers, pin_memory=True, or less work for each sample"
        if by_data
        else "larger batches, torch.compile or CUDA graphs; look for waits with --syncs"
    )
    share = f"{100 * float(np.median(shares)):.1f}"
    text = f"the device idles at least {share}% of a step ({duration(int(np.median(idle)))}): {why}"
    yield Finding("device_idle", text, remedy, int(idle.sum()))


def syncs(facts: Facts) -> Iterator[Finding]:
    """Module calls wait for the device WAITS times a step (where waits were noted: `--syncs`)."""
    from modtrace.analysis.findings import Finding

    steps = len(facts.steady)
    found = [one for one in _places(facts) if one.waits]
    times = sum(one.count for one in found)
    if not steps or times < WAITS * steps:
        return
    shown = [f"{one.what} in {one.name}{_at(one)} ({one.count / steps:.1f} a step)" for one in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    text = f"module calls wait for the device {times / steps:.1f} times a step: {', '.join(shown)}{more}"
    yield Finding("syncs", text, "keep values on the device, read them after the step")


def _places(facts: Facts) -> list[Place]:
    ranks = facts.steady["rank"]
    return places(facts.stored, facts.steady.index.tolist(), int(ranks.iloc[0])) if len(ranks) else []


def _at(place: Place) -> str:
    if place.file is None or place.line is None:
        return ""
    return f" at {place.file.replace(chr(92), '/').rpartition('/')[2]}:{place.line}"


def copies(facts: Facts) -> Iterator[Finding]:
    """Module calls copy COPY_BYTES a step between the host and a device.

    Told by the waits that were noted, else by calls that are given tensors on the one and return them on the other;
    else by copies that are COPY_SHARE of what the device did, where kernels were watched.
    """
    from modtrace.analysis.findings import Finding

    text = _noted_copies(facts) or _crossing_calls(facts) or _watched_copies(facts)
    if text:
        yield Finding("copies", text, "make it on the device, or copy it once before the loop")


def _noted_copies(facts: Facts) -> str:
    found = [one for one in _places(facts) if one.what in (COPY_TO_HOST, COPY_TO_DEVICE) and one.waits]
    each = {at: (one.size_bytes or 0) // len(facts.steady) for at, one in enumerate(found)}
    total = sum(each.values())
    if total < COPY_BYTES:
        return ""
    at = max(each, key=lambda one: each[one])
    one = found[at]
    to = f"from {one.device}" if one.what == COPY_TO_HOST else f"to {one.device}"
    return (
        f"module calls copy {size(total)} a step between host and device, most of it {to} in {one.name}"
        f"{_at(one)} ({size(each[at])})"
    )


class _Crossing(NamedTuple):
    """Calls that return tensors where they were given none."""

    rows: Ints
    given_bytes: Ints
    returned_bytes: Ints
    before: list[str]
    after: list[str]


def _crossing_calls(facts: Facts) -> str:
    found = _crossings(facts)
    steps = max(len(facts.steady), 1)
    least = np.minimum(found.given_bytes, found.returned_bytes)
    if int(least.sum()) < COPY_BYTES * steps:
        return ""
    groups = folded(facts.stored)
    group = groups.group[found.rows]
    sums = np.zeros(len(groups.name), np.int64)
    np.add.at(sums, group, least)
    at = int(sums.argmax())
    mine = np.flatnonzero(group == at)
    given, returned = (int(some[mine].sum()) // steps for some in (found.given_bytes, found.returned_bytes))
    first = int(mine[0])
    name = groups.title(at)
    kind = f" ({groups.type[at]})" if groups.name[at] else ""
    return (
        f"{name}{kind} is given {size(given)} a step on {found.before[first]} and returns {size(returned)} on "
        f"{found.after[first]}: a copy between host and device inside forward"
    )


def _crossings(facts: Facts) -> _Crossing:
    """Calls of modules, and of functions inside them, that take tensors of the host alone and return tensors of one
    device alone, or the other way round; those with such a call inside them left out.
    """
    table = timeline(facts.stored).calls
    kind, last = column(table, "kind"), column(table, "last_call")
    devices, sizes = _devices(facts), np.append(signature_bytes(facts.stored), -1)
    given, returned = (nullable_codes(table, name) for name in ("inputs", "outputs"))
    before, after = ([devices[code] for code in some.tolist()] for some in (given, returned))
    crosses = np.array([_crosses(a, b) for a, b in zip(before, after, strict=True)], np.bool_)
    inside = (kind == MODULE) | ((kind == FUNCTION) & below_module(kind, last))
    some = crosses & inside & facts.steady_rows & (sizes[given] >= 0) & (sizes[returned] >= 0)
    some &= column(table, "status") == OK
    total = np.concatenate([[0], np.cumsum(some)])
    here = np.arange(len(table))
    rows = np.flatnonzero(some & (total[last + 1] - total[here + 1] == 0))
    return _Crossing(
        rows,
        sizes[given[rows]],
        sizes[returned[rows]],
        [next(iter(before[row])) for row in rows.tolist()],
        [next(iter(after[row])) for row in rows.tolist()],
    )


def _crosses(before: frozenset[str], after: frozenset[str]) -> bool:
    return len(before) == len(after) == 1 and before != after and HOST in before | after


def _devices(facts: Facts) -> list[frozenset[str]]:
    """The devices of the tensors of each signature, and at the end of none."""
    tensors = facts.stored.table("signatures").column("tensors").to_pylist()
    return [*(frozenset(one["device"] for one in some or ()) for some in tensors), frozenset()]


def _watched_copies(facts: Facts) -> str:
    if not len(facts.stored.table("operators")):
        return ""
    frame = kernels(facts.stored)
    frame = frame[frame["kind"] != "operator"]
    total = int(frame["total_ns"].sum())
    names = frame["operator"].astype(str)
    ours = frame[names.str.contains("HtoD|DtoH") & (frame["kind"] == "memcpy") & frame["module"].notna()]
    ours = ours[~ours["backward"]]
    spent = int(ours["total_ns"].sum())
    if not total or spent < max(COPY_SHARE * total, IDLE_NS):
        return ""
    by_module = ours.groupby(["module", "type"], observed=True)["total_ns"].sum()
    name, kind = by_module.index[int(by_module.to_numpy(float).argmax())]
    return (
        f"copies between host and device inside forward are {percent(spent, total)}% of what the device did "
        f"({duration(spent)}), most of it in {name or kind}"
    )


def other_device(facts: Facts) -> Iterator[Finding]:
    """Modules compute with parameters on the host while most of their model computes on a device."""
    from modtrace.analysis.findings import Finding

    stored = facts.stored
    table = timeline(stored).calls
    of = np.arange(len(table))
    where, place = computed_in(stored, table, of)
    rows = np.flatnonzero((column(table, "kind") == MODULE) & (column(table, "status") == OK) & (place > 0))
    module, root = nullable_codes(table, "module")[rows], nullable_codes(table, "root")[rows]
    held = [{one["device"] for one in some} for some in own_parameters(stored)]
    for tree in np.unique(root).tolist():
        mine = root == tree
        devices: dict[int, set[str]] = {}
        for number, code in zip(module[mine].tolist(), place[rows[mine]].tolist(), strict=True):
            if held[number]:
                devices.setdefault(number, set()).add(where[code][0])
        on_host = [number for number, some in devices.items() if some == held[number] == {HOST}]
        others = sorted({name for some in devices.values() for name in some} - {HOST})
        away = sum(HOST not in some for some in devices.values())
        if not on_host or away <= len(on_host):
            continue
        spent = int(facts.calls["self_ns"].fillna(0).to_numpy(np.int64)[rows[np.isin(module, on_host)]].sum())
        names, types = facts.modules["name"], facts.modules["type"]
        shown = ", ".join(f"{names[one]} ({types[one]})" for one in on_host[:3])
        more = f" and {len(on_host) - 3} more" if len(on_host) > 3 else ""
        verb = "computes" if len(on_host) == 1 else "compute"
        text = (
            f"{plural(len(on_host), 'module')} with parameters {verb} on {HOST}, {away} others of {types[tree]} on "
            f"{', '.join(others)}: {shown}{more}"
        )
        yield Finding("other_device", text, "move the whole model with .to(device)", spent)


def full_precision(facts: Facts) -> Iterator[Finding]:
    """Layers of products compute in float32 in root calls in which others with float32 weights do not: inside autocast.
    They are FULL_SHARE of the FLOPs of such layers there, or of the calls where FLOPs are not known.
    """
    from modtrace.analysis.findings import Finding

    stored = facts.stored
    table = timeline(stored).calls
    where, place = computed_in(stored, table, np.arange(len(table)))
    kind = column(table, "kind")
    module = nullable_codes(table, "module")
    layers = _wide_layers(facts)
    rows = np.flatnonzero((kind == MODULE) & np.append(layers, False)[module] & (place > 0))
    roots = np.flatnonzero(root_calls(kind, column(table, "last_call")))
    if not len(rows) or not len(roots):
        return
    dtype = np.array([name for _, name in where])[place[rows]]
    root = np.searchsorted(roots, rows, side="right") - 1
    narrow = np.isin(dtype, HALVES)
    under = np.isin(root, np.unique(root[narrow]))
    wide = under & (dtype == "float32")
    own = work(stored).own[rows]
    weight = own if (own[under] > 0).all() else np.ones(len(rows), np.int64)
    part, whole = int(weight[wide].sum()), int(weight[under].sum())
    if not wide.any() or part < FULL_SHARE * whole:
        return
    groups = folded(stored)
    sums = np.zeros(len(groups.name), np.int64)
    np.add.at(sums, groups.group[rows[wide]], weight[wide])
    largest = [at for at in np.argsort(-sums, kind="stable").tolist() if sums[at]]
    shown = ", ".join(f"{groups.title(at)} ({groups.type[at]})" for at in largest[:3])
    more = f" and {len(largest) - 3} more" if len(largest) > 3 else ""
    of = "FLOPs" if weight is own else "calls"
    text = f"{percent(part, whole)}% of the {of} of layers inside autocast are in float32: {shown}{more}"
    spent = int(facts.calls["self_ns"].fillna(0).to_numpy(np.int64)[rows[wide]].sum())
    yield Finding(
        "full_precision", text, "look for autocast(enabled=False) and .float() around it", spent // 2
    )


def _wide_layers(facts: Facts) -> Bools:
    """Which modules are layers of products with float32 weights."""
    modules = facts.stored.table("modules")
    types, parameters = modules.column("type").to_pylist(), own_parameters(facts.stored)
    return np.array(
        [
            kind in PRODUCTS and any(one["path"] == "weight" and one["dtype"] == "float32" for one in some)
            for kind, some in zip(types, parameters, strict=True)
        ],
        np.bool_,
    )
