"""Rules about the time of steps: data, the first step, modules, backward, optimizer, tiny calls, drift, recompute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.findings.base import MIN_NS, Facts, Finding
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.step_columns import StepColumns
from modtrace.trace.schema import BACKWARD, MODULE, PHASE, PHASES
from modtrace.units import count, duration, percent, plural

Ints = npt.NDArray[np.int64]

DATA_SHARE: Final = 0.10
FIRST_TIMES: Final = 5.0
FIRST_SHARE: Final = 0.20
MODULE_SHARE: Final = 0.50
STEP_SHARE: Final = 0.30
MODULE_GROUPS: Final = 5
"""Of fewer kinds of modules one always is most of the time."""
BACKWARD_TIMES: Final = 3.0
OPTIMIZER_SHARE: Final = 0.20
TINY_NS: Final = 20_000
TINY_CALLS: Final = 1_000
TINY_SHARE: Final = 0.30
DRIFT: Final = 0.20
DRIFT_STEPS: Final = 30
RECOMPUTE_SHARE: Final = 0.15
FUSED: Final = ("SGD", "Adam", "AdamW", "Adagrad")
"""Optimizers of torch that have a fused implementation on every device."""


def data(facts: Facts) -> Iterator[Finding]:
    """Waiting for data is DATA_SHARE of the steps."""
    spent = int(facts.steady["data_ns"].sum()) if facts.enough else 0
    if spent < max(DATA_SHARE * facts.steady_ns, MIN_NS):
        return
    rows = facts.phase_rows("data") & (nullable_codes(facts.calls, "step") >= 0)
    loaders = facts.times_by_type(rows)
    loader = max(loaders, key=lambda class_name: loaders[class_name], default="DataLoader")
    long = int((facts.steady["data_ns"] > 10_000_000).sum())
    slow = f", {plural(long, 'step')} over 10 ms" if long else ""
    remedy = (
        "try num_workers=4" if "num_workers=0" in loader else "more workers, or less work for each sample"
    )
    text = f"waiting for data: {duration(spent)} ({percent(spent, facts.steady_ns)}% of the steps{slow}) in {loader}"
    yield Finding("data", text, remedy, spent)


def first_step(facts: Facts) -> Iterator[Finding]:
    """The first step, without what tracing cost in it, is FIRST_TIMES the median and FIRST_SHARE of all.

    Nothing is said of one in which operations were counted: it is not known how long it took without that.
    """
    if not facts.enough or bool(facts.complete["counted"][0]):
        return
    if int(facts.complete.number[0]) in facts.compiled:
        return  # the compiler's time, which is reported by itself
    number, rank = int(facts.complete.number[0]), column(facts.calls, "rank")
    in_step = (nullable_codes(facts.calls, "step") == number) & (rank == rank.min())
    first = int(facts.complete["duration_ns"][0]) - int(facts.known_ns("tracer_ns")[in_step].sum())
    usual = int(np.median(facts.steady["duration_ns"]))
    if first < max(FIRST_TIMES * usual, FIRST_SHARE * (first + facts.steady_ns), MIN_NS):
        return
    text = f"step {number} took {first / max(usual, 1):.1f}x the median ({duration(first)})"
    remedy = "totals include it; statistics of steps leave it out. Warm up first where it matters"
    yield Finding("first_step", text, remedy, first - usual)


def one_module(facts: Facts) -> Iterator[Finding]:
    """One group of modules has MODULE_SHARE of the time of all modules to itself, by medians over the steps, and
    STEP_SHARE of the steps. The numbers are those of WHERE THE TIME WENT.
    """
    if not facts.enough:
        return
    groups, rows = folded(facts.stored), np.flatnonzero(facts.steady_rows)
    number_of = np.zeros(int(facts.steady.number.max()) + 1, np.int64)
    number_of[np.sort(facts.steady.number)] = np.arange(len(facts.steady))
    step = number_of[nullable_codes(facts.calls, "step")[rows]]
    group, self_ns = groups.group[rows], facts.known_ns("self_ns")[rows]
    times = _median_a_step(group, step, self_ns, len(groups.name), len(facts.steady))
    times[~np.array(groups.of_module, bool)] = 0
    total = int(times.sum())
    if (times > 0).sum() < MODULE_GROUPS or total * len(facts.steady) < MIN_NS:
        return
    largest = int(times.argmax())
    if times[largest] < MODULE_SHARE * total:
        return
    of_module = group == largest
    spent_ns, steps = int(self_ns[of_module].sum()), len(facts.steady)
    if spent_ns < STEP_SHARE * facts.steady_ns:
        return
    calls = int((of_module & (column(facts.calls, "kind")[rows] == MODULE)).sum())
    text = (
        f"{groups.title(largest)} ({groups.type[largest]}) is {percent(spent_ns, facts.steady_ns)}% of a step: "
        f"{duration(spent_ns // steps)} in {plural(max(calls // steps, 1), 'call')}, mean of {plural(steps, 'step')}"
    )
    won = int(times[largest]) * len(facts.steady)
    yield Finding("one_module", text, "look at its sizes, its dtype and its backward first", won)


def _median_a_step(
    group: npt.NDArray[np.int64],
    step: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    groups: int,
    steps: int,
) -> npt.NDArray[np.int64]:
    """The median over steps of what each group has in a step."""
    present = np.flatnonzero(np.bincount(group, minlength=groups))
    begin = np.zeros(groups, np.int64)
    begin[present] = np.arange(len(present)) * steps
    sums = np.bincount(begin[group] + step, weights=values, minlength=len(present) * steps)
    medians = np.zeros(groups, np.int64)
    medians[present] = np.median(sums.reshape(len(present), steps), axis=1) if len(present) else 0
    return medians


def long_backward(facts: Facts) -> Iterator[Finding]:
    """Backward takes BACKWARD_TIMES as long as forward, what is recomputed left out. Not of one of several ranks, which
    may wait for the others there.
    """
    several = any((process.world_size or 1) > 1 for process in facts.stored.processes)
    if not facts.enough or facts.earlier is not None or facts.on_device or several:
        return
    forward, backward = (facts.usual_ns(name) for name in ("forward", "backward"))
    backward -= _recomputed(facts)
    if forward < MIN_NS or backward < BACKWARD_TIMES * forward:
        return
    modules = facts.self_by_module((column(facts.calls, "kind") == BACKWARD) & facts.in_steps(facts.steady))
    where = ""
    if modules:
        name, class_name, spent = max(modules, key=lambda module: module[2])
        where = f", longest in {name or class_name} ({duration(spent // len(facts.steady))} a step)"
    text = f"backward takes {backward / forward:.1f}x the forward{where}; about 2x is usual"
    yield Finding("long_backward", text, "look at its backward: modtrace info --tree", backward - 2 * forward)


def long_optimizer(facts: Facts) -> Iterator[Finding]:
    """The optimizer's own time is OPTIMIZER_SHARE of the usual step. The numbers are those of the phases of a step."""
    spent = facts.usual_ns("optimizer") if facts.enough else 0
    usual_ns = facts.usual_ns("duration") if facts.enough else 0
    if spent < max(OPTIMIZER_SHARE * usual_ns, MIN_NS):
        return
    by_class = facts.times_by_type(facts.phase_rows("optimizer"))
    if facts.on_device or not by_class:
        return
    class_name = max(by_class, key=lambda name: by_class[name])
    faster = "try fused=True where it is not set, or " if class_name in FUSED else ""
    phase_ns = int(facts.steady["optimizer_ns"].sum())
    share, each_ns = percent(phase_ns, facts.steady_ns), phase_ns // len(facts.steady)
    text = f"{class_name}.step takes {share}% of a step ({duration(each_ns)})"
    yield Finding("long_optimizer", text, f"{faster}step less often, for larger batches", spent)


def tiny_calls(facts: Facts) -> Iterator[Finding]:
    """TINY_CALLS module calls a step that take less than TINY_NS each, and together TINY_SHARE of the steps."""
    if not facts.enough:
        return
    rows = (column(facts.calls, "kind") == MODULE) & facts.in_steps(facts.steady)
    rank = column(facts.calls, "rank")
    rows &= rank == rank[rows].min(initial=rank.max(initial=0))
    self_ns, known = values_and_known(facts.calls, "self_ns")
    tiny = np.flatnonzero(rows & known & (self_ns < TINY_NS))
    each, spent = len(tiny) / len(facts.steady), int(self_ns[tiny].sum())
    if each < TINY_CALLS or spent < TINY_SHARE * facts.steady_ns:
        return
    share = percent(spent, facts.steady_ns)
    types = facts.stored.table("modules").column("type").to_pylist()
    counts: dict[str, int] = {}
    for number, times in enumerate(np.bincount(nullable_codes(facts.calls, "module")[tiny]).tolist()):
        counts[types[number]] = counts.get(types[number], 0) + times
    most = max(counts, key=lambda name: counts[name])
    text = (
        f"{count(round(each))} module calls a step take under {duration(TINY_NS)} each, most of them of {most}: "
        f"{share}% of the steps"
    )
    yield Finding("tiny_calls", text, "batch them, or try torch.compile", spent)


def drift(facts: Facts) -> Iterator[Finding]:
    """The last third of the steps takes DRIFT more than the first, beyond their spread."""
    took = facts.steady["duration_ns"]
    if len(took) < DRIFT_STEPS or facts.earlier is not None:
        return
    third = len(took) // 3
    first, last = took[:third], took[-third:]
    early, late = np.median(first), np.median(last)
    if late < (1 + DRIFT) * early or np.quantile(last, 0.25) <= np.quantile(first, 0.75):
        return
    if _computes_more(facts.steady, third, float(late / early)):
        return
    grown = {
        name: np.median(facts.steady[f"{name}_ns"][-third:]) - np.median(facts.steady[f"{name}_ns"][:third])
        for name in (*PHASES, "other")
    }
    most = max(grown, key=lambda name: grown[name])
    share = percent(int(late - early), int(early))
    text = (
        f"steps grow slower: {duration(int(early))} at first, {duration(int(late))} at the end (+{share}%), "
        f"most of it in {most}"
    )
    remedy = (
        "look at what the loader does"
        if most == "data"
        else "look for lists that grow and graphs that are kept"
    )
    yield Finding("drift", text, remedy, int((late - early) * third))


def _computes_more(steady: StepColumns, third: int, times: float) -> bool:
    """True where the last third of the steps has at least half as much more to do, by FLOPs, tokens or samples."""
    for name in ("flops", "tokens", "samples"):
        done = steady.known(name)
        if len(done) and len(done) == len(steady):
            first, last = np.median(done[:third]), np.median(done[-third:])
            return bool(last > (1 + (times - 1) / 2) * first)
    return False


def recompute(facts: Facts) -> Iterator[Finding]:
    """Forwards that checkpointing makes again are RECOMPUTE_SHARE of the steps."""
    spent = _recomputed(facts) if facts.enough else 0
    if spent < max(RECOMPUTE_SHARE * facts.steady_ns, MIN_NS):
        return
    share = percent(spent, facts.steady_ns)
    text = f"recomputing checkpointed modules takes {share}% of the steps ({duration(spent)})"
    yield Finding("recompute", text, "checkpoint less if memory allows", spent)


def _recomputed(facts: Facts) -> int:
    call_kind, phase = column(facts.calls, "kind"), nullable_codes(facts.calls, "phase")
    again = ((call_kind == MODULE) | (call_kind == PHASE)) & (phase == RECOMPUTE)
    if not again.any():
        return 0
    again &= facts.in_steps(facts.steady)
    above = np.append(again, False)[column(facts.calls, "parent")]
    return int(facts.known_ns("duration_ns")[again & ~above].sum())
