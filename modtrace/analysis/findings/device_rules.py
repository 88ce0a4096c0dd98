"""Rules about devices: idle time, copies, waits, modules that compute in the wrong place or type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, distinct_pairs, nullable_codes, values_and_known
from modtrace.analysis.device_starts import GETTING_DATA, LAUNCHING, UNTOLD, WAITING, DrySteps, dry_in
from modtrace.analysis.findings.base import Facts, Finding
from modtrace.analysis.flops import work
from modtrace.analysis.kernels import kernels, operators, watched_steps
from modtrace.analysis.memory_peaks import signature_bytes
from modtrace.analysis.module_parameters import own_parameters
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.modules import module_names
from modtrace.analysis.nesting import below_module, root_calls
from modtrace.analysis.phases import NAMES
from modtrace.analysis.roofline import computed_in
from modtrace.analysis.syncs import SyncLine, places
from modtrace.analysis.timeline import timeline
from modtrace.text import and_more
from modtrace.trace.schema import COPY_TO_DEVICE, COPY_TO_HOST, FUNCTION, MEMORY_COPY, MODULE, OK
from modtrace.units import duration, percent, plural, size

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

HOST: Final = "cpu"
IDLE_SHARE: Final = 0.30
IDLE_NS: Final = 1_000_000
DRY_SHARE: Final = 0.5
EXPLAINED: Final = 0.5
"""Waiting for data explains an idle device where it is so much of that time, a cause where it is in so many steps."""
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
    """The device has nothing to do for IDLE_SHARE of a step, in the median, or the host launches so slowly that it had
    run dry at DRY_SHARE of the starts of root calls and phases. Why, where that is sure: see `device_starts`.
    """
    if not facts.enough:
        return
    idle_ns = _idle(facts)
    dry = _dry(facts)
    cause, before = _main_cause(dry, len(facts.steady))
    # Time without work between two rows is in `idle_ns`. That inside of them, between launches, is in no number.
    if not idle_ns and (cause != LAUNCHING or dry.dry < DRY_SHARE * dry.starts):
        return
    at_starts = f"had run dry at {dry.dry:,} of {plural(dry.starts, 'start')} of root calls and phases"
    share = f"{100 * idle_ns[1]:.1f}" if idle_ns else ""
    text = f"the device idles at least {share}% of a step ({duration(idle_ns[2])})" if idle_ns else ""
    text = f"{text}, and {at_starts}" if text and dry.dry else text or f"the device {at_starts}"
    why, remedy = _why_idle(facts, cause, before, idle_ns[2] if idle_ns else None)
    yield Finding("device_idle", f"{text}: {why}", remedy, idle_ns[0] if idle_ns else 0)


def _idle(facts: Facts) -> tuple[int, float, int] | None:
    """Idle time of the device in all steps, its share of a step and its median, nanoseconds; None where that is not
    known, or less than is worth a word.
    """
    steps = facts.steady
    steps = steps.chosen((steps["device_ns"] >= 0) & (steps["device_idle_ns"] >= 0))
    if not len(steps) or len(steps) < len(facts.steady) / 2:
        return None
    idle, busy = steps["device_idle_ns"], steps["device_ns"]
    share = float(np.median(idle / np.maximum(idle + busy, 1)))
    if share < IDLE_SHARE or idle.sum() < IDLE_NS:
        return None
    return int(idle.sum()), share, int(np.median(idle))


def _dry(facts: Facts) -> DrySteps:
    rank = int(facts.steady["rank"][0])
    process = next(
        index for index, process_facts in enumerate(facts.stored.processes) if process_facts.rank == rank
    )
    chosen = np.zeros(int(facts.steady.number.max()) + 1, np.bool_)
    chosen[facts.steady.number] = True
    return dry_in(facts.stored, process, chosen)


def _main_cause(dry: DrySteps, steps: int) -> tuple[int, list[str]]:
    """Reason for which the device had run dry in EXPLAINED of the steps, and behind which phases; UNTOLD where nothing
    is sure.
    """
    often = {key: count for key, count in dry.steps.items() if count >= EXPLAINED * steps}
    if not often:
        return UNTOLD, []
    by_cause: dict[int, int] = {}
    for (cause, _), count in often.items():
        by_cause[cause] = by_cause.get(cause, 0) + count
    main = max(by_cause, key=lambda cause: by_cause[cause])
    return main, [name for name in NAMES if (main, name) in often]


def _why_idle(facts: Facts, cause: int, before: list[str], idle_ns: int | None) -> tuple[str, str]:
    """Sentences: the reason for which the device idles, and what to do."""
    waited = int(np.median(facts.steady["data_ns"]))
    workers = "more workers, pin_memory=True, or less work for each sample"
    larger = "larger batches, torch.compile or CUDA graphs; look for waits with --syncs"
    behind = " and ".join(before)
    if cause == GETTING_DATA:
        return f"it runs dry while the host gets data ({duration(waited)} a step)", workers
    if cause == LAUNCHING:
        why = (
            f"it is done with {behind} as soon as the host is, whose launching or waits inside take the time"
        )
        return why, larger
    if cause == WAITING:
        why = f"the host waits for it behind {behind} before it launches more"
        return why, "read values such as loss.item() every few steps, or once the next step is launched"
    if idle_ns is not None and waited >= EXPLAINED * idle_ns:
        return f"waiting for data takes {duration(waited)}", workers
    return "the host does not keep it busy", larger


def syncs(facts: Facts) -> Iterator[Finding]:
    """Module calls wait for the device WAITS times a step (where waits were noted: `--syncs`)."""
    steps = len(facts.steady)
    waiting = [place for place in _places(facts) if place.waits]
    times = sum(place.count for place in waiting)
    if not steps or times < WAITS * steps:
        return
    shown = [
        f"{place.what} in {place.name}{_source_of(place)} ({place.count / steps:.1f} a step)"
        for place in waiting
    ]
    text = f"module calls wait for the device {times / steps:.1f} times a step: {and_more(shown, 3)}"
    yield Finding("syncs", text, "keep values on the device, read them after the step")


def _places(facts: Facts) -> list[SyncLine]:
    ranks = facts.steady["rank"]
    return places(facts.stored, facts.steady.number.tolist(), int(ranks[0])) if len(ranks) else []


def _source_of(place: SyncLine) -> str:
    if place.file is None or place.line is None:
        return ""
    return f" at {place.file.replace(chr(92), '/').rpartition('/')[2]}:{place.line}"


def copies(facts: Facts) -> Iterator[Finding]:
    """Module calls copy COPY_BYTES a step between the host and a device.

    Told by the waits that were noted, else by calls that are given tensors on the one and return them on the other;
    else by copies that are COPY_SHARE of what the device did, where kernels were watched.
    """
    text = _noted_copies(facts) or _crossing_calls(facts) or _watched_copies(facts)
    if text:
        yield Finding("copies", text, "make it on the device, or copy it once before the loop")


def _noted_copies(facts: Facts) -> str:
    copying = [
        place for place in _places(facts) if place.what in (COPY_TO_HOST, COPY_TO_DEVICE) and place.waits
    ]
    step_bytes = [(place.size_bytes or 0) // len(facts.steady) for place in copying]
    total = sum(step_bytes)
    if total < COPY_BYTES:
        return ""
    largest = max(step_bytes)
    place = copying[step_bytes.index(largest)]
    to = f"from {place.device}" if place.what == COPY_TO_HOST else f"to {place.device}"
    return (
        f"module calls copy {size(total)} a step between host and device, most of it {to} in {place.name}"
        f"{_source_of(place)} ({size(largest)})"
    )


class _Crossing(NamedTuple):
    """Calls whose inputs are on one device and whose outputs are on another: rows, bytes and devices of both."""

    rows: Ints
    input_bytes: Ints
    output_bytes: Ints
    before: list[str]
    after: list[str]


def _crossing_calls(facts: Facts) -> str:
    crossings = _crossings(facts)
    steps = max(len(facts.steady), 1)
    least = np.minimum(crossings.input_bytes, crossings.output_bytes)
    if int(least.sum()) < COPY_BYTES * steps:
        return ""
    groups = folded(facts.stored)
    group = groups.group[crossings.rows]
    sums = np.zeros(len(groups.name), np.int64)
    np.add.at(sums, group, least)
    largest = int(sums.argmax())
    in_largest = np.flatnonzero(group == largest)
    input_bytes = int(crossings.input_bytes[in_largest].sum()) // steps
    output_bytes = int(crossings.output_bytes[in_largest].sum()) // steps
    first = int(in_largest[0])
    name = groups.title(largest)
    class_text = f" ({groups.type[largest]})" if groups.name[largest] else ""
    return (
        f"{name}{class_text} is given {size(input_bytes)} a step on {crossings.before[first]} and returns "
        f"{size(output_bytes)} on {crossings.after[first]}: a copy between host and device inside forward"
    )


def _crossings(facts: Facts) -> _Crossing:
    """Calls of modules, and of functions inside them, that take tensors of the host alone and return tensors of one
    device alone, or the other way round; those with such a call inside them left out.
    """
    table = timeline(facts.stored).calls
    call_kind, last = column(table, "kind"), column(table, "last_call")
    devices, sizes = _devices(facts), np.append(signature_bytes(facts.stored), -1)
    inputs, outputs = (nullable_codes(table, name) for name in ("inputs", "outputs"))
    first, second, which = distinct_pairs(inputs + 1, outputs + 1)
    pairs = zip((first - 1).tolist(), (second - 1).tolist(), strict=True)
    crossing = np.array([_crosses(devices[a], devices[b]) for a, b in pairs], np.bool_)
    if not crossing.any():
        return _Crossing(inputs[:0], inputs[:0], inputs[:0], [], [])
    crosses = crossing[which]
    inside = (call_kind == MODULE) | ((call_kind == FUNCTION) & below_module(call_kind, last))
    chosen = crosses & inside & facts.steady_rows & (sizes[inputs] >= 0) & (sizes[outputs] >= 0)
    chosen &= column(table, "status") == OK
    total = np.concatenate([[0], np.cumsum(chosen)])
    indices = np.arange(len(table))
    rows = np.flatnonzero(chosen & (total[last + 1] - total[indices + 1] == 0))
    return _Crossing(
        rows,
        sizes[inputs[rows]],
        sizes[outputs[rows]],
        [next(iter(devices[code])) for code in inputs[rows].tolist()],
        [next(iter(devices[code])) for code in outputs[rows].tolist()],
    )


def _crosses(before: frozenset[str], after: frozenset[str]) -> bool:
    return len(before) == len(after) == 1 and before != after and HOST in before | after


def _devices(facts: Facts) -> list[frozenset[str]]:
    """The devices of the tensors of each signature, and at the end of none."""
    tensors = facts.stored.table("signatures").column("tensors").to_pylist()
    return [
        *(frozenset(tensor["device"] for tensor in signature or ()) for signature in tensors),
        frozenset(),
    ]


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
    name, class_name = by_module.index[int(by_module.to_numpy(float).argmax())]
    return (
        f"copies between host and device inside forward are {percent(spent, total)}% of what the device did "
        f"({duration(spent)}), most of it in {name or class_name}"
    )


def pageable(facts: Facts) -> Iterator[Finding]:
    """Copies from pageable memory that no operator waits for are COPY_BYTES a watched step: they cannot overlap."""
    table = operators(facts.stored)
    if not len(table):
        return
    names = np.array(
        [("HtoD" in name and "Pageable" in name) for name in table.column("name").to_pylist()], np.bool_
    )
    waited = np.array([flag is False for flag in table.column("waited").to_pylist()], np.bool_)
    sizes, known = values_and_known(table, "size_bytes")
    rows = names & waited & known & (column(table, "kind") == MEMORY_COPY)
    steps = max(watched_steps(facts.stored), 1)
    copied = int(sizes[rows].sum()) // steps
    if copied >= COPY_BYTES:
        yield Finding(
            "pageable",
            f"copies to the device with non_blocking=True are from pageable memory ({size(copied)} a step): "
            "they do not overlap with anything",
            "pin it: DataLoader(pin_memory=True), or tensor.pin_memory()",
        )


def other_device(facts: Facts) -> Iterator[Finding]:
    """Modules compute with parameters on the host while most of their model computes on a device."""
    stored = facts.stored
    table = timeline(stored).calls
    of = np.arange(len(table))
    where, place = computed_in(stored, table, of)
    if all(device in (HOST, "?") for device, _ in where):
        return
    rows = np.flatnonzero((column(table, "kind") == MODULE) & (column(table, "status") == OK) & (place > 0))
    module, root = nullable_codes(table, "module")[rows], nullable_codes(table, "root")[rows]
    parameter_devices = [
        {parameter["device"] for parameter in parameters} for parameters in own_parameters(stored)
    ]
    for tree in np.unique(root).tolist():
        in_tree = root == tree
        computed: dict[int, set[str]] = {}
        for number, code in _distinct_in_order(module[in_tree], place[rows[in_tree]]):
            if parameter_devices[number]:
                computed.setdefault(number, set()).add(where[code][0])
        on_host = [
            number for number, devices in computed.items() if devices == parameter_devices[number] == {HOST}
        ]
        others = sorted(set().union(*computed.values()) - {HOST})
        away = sum(HOST not in devices for devices in computed.values())
        if not on_host or away <= len(on_host):
            continue
        spent = int(facts.known_ns("self_ns")[rows[np.isin(module, on_host)]].sum())
        names, types = module_names(stored)[0], stored.table("modules").column("type").to_pylist()
        shown = and_more([f"{names[number]} ({types[number]})" for number in on_host], 3)
        verb = "computes" if len(on_host) == 1 else "compute"
        text = (
            f"{plural(len(on_host), 'module')} with parameters {verb} on {HOST}, {away} others of {types[tree]} on "
            f"{', '.join(others)}: {shown}"
        )
        yield Finding("other_device", text, "move the whole model with .to(device)", spent)


def _distinct_in_order(first: Ints, second: Ints) -> list[tuple[int, int]]:
    """The distinct pairs of two columns of keys, in the order in which they come."""
    width = int(second.max(initial=0)) + 1
    code = first * width + second
    row = np.full(int(code.max(initial=-1)) + 1, len(code), np.int64)
    row[code[::-1]] = np.arange(len(code))[::-1]
    rows = np.sort(row[row < len(code)])
    return list(zip(first[rows].tolist(), second[rows].tolist(), strict=True))


def full_precision(facts: Facts) -> Iterator[Finding]:
    """Layers of products compute in float32 in root calls in which others with float32 weights do not: inside autocast.
    They are FULL_SHARE of the FLOPs of such layers there, or of the calls where FLOPs are not known.
    """
    stored = facts.stored
    table = timeline(stored).calls
    where, place = computed_in(stored, table, np.arange(len(table)))
    call_kind = column(table, "kind")
    module = nullable_codes(table, "module")
    layers = _wide_layers(facts)
    rows = np.flatnonzero((call_kind == MODULE) & np.append(layers, False)[module] & (place > 0))
    roots = np.flatnonzero(root_calls(call_kind, column(table, "last_call")))
    if not len(rows) or not len(roots):
        return
    dtype = np.array([name for _, name in where])[place[rows]]
    root = np.searchsorted(roots, rows, side="right") - 1
    narrow = np.isin(dtype, HALVES)
    under = np.isin(root, np.unique(root[narrow]))
    wide = under & (dtype == "float32")
    self_flops = work(stored).own[rows]
    weight = self_flops if (self_flops[under] > 0).all() else np.ones(len(rows), np.int64)
    part, total = int(weight[wide].sum()), int(weight[under].sum())
    if not wide.any() or part < FULL_SHARE * total:
        return
    groups = folded(stored)
    sums = np.zeros(len(groups.name), np.int64)
    np.add.at(sums, groups.group[rows[wide]], weight[wide])
    largest = [group for group in np.argsort(-sums, kind="stable").tolist() if sums[group]]
    shown = and_more([f"{groups.title(group)} ({groups.type[group]})" for group in largest], 3)
    of = "FLOPs" if weight is self_flops else "calls"
    text = f"{percent(part, total)}% of the {of} of layers inside autocast are in float32: {shown}"
    spent = int(facts.known_ns("self_ns")[rows[wide]].sum())
    yield Finding(
        "full_precision", text, "look for autocast(enabled=False) and .float() around it", spent // 2
    )


def _wide_layers(facts: Facts) -> Bools:
    """A mask of the modules that are layers of products with float32 weights."""
    modules = facts.stored.table("modules")
    types, parameters = modules.column("type").to_pylist(), own_parameters(facts.stored)
    return np.array(
        [
            class_name in PRODUCTS
            and any(
                parameter["path"] == "weight" and parameter["dtype"] == "float32"
                for parameter in parameters_of
            )
            for class_name, parameters_of in zip(types, parameters, strict=True)
        ],
        np.bool_,
    )
