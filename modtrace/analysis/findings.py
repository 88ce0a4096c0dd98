"""What is worth a look in a trace: short, ranked, each with its number and what to do about it.

Every rule is silent unless there is enough to judge by. Times of steps are those of the thread that runs the loop, over
the steps that count in statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.calls import calls as calls_frame
from modtrace.analysis.columns import values_and_known
from modtrace.analysis.compilations import compiled_steps
from modtrace.analysis.cut import is_cut
from modtrace.analysis.device_findings import copies, device_idle, full_precision, other_device, syncs
from modtrace.analysis.device_times import launch_timed
from modtrace.analysis.memory_findings import activations, growth
from modtrace.analysis.modules import modules as modules_frame
from modtrace.analysis.paths import folded
from modtrace.analysis.steps import steps as steps_frame
from modtrace.analysis.timeline import timeline
from modtrace.analysis.training_findings import (
    TRAINED_STEPS,
    Earlier,
    children,
    earlier_steps,
    ended_early,
    listed,
    never_ran,
    no_optimizer,
    through_earlier,
    untouched,
)
from modtrace.trace.reader import Stored
from modtrace.trace.schema import EVALUATING, NO_GRAD, PHASES, SHORT_DTYPES
from modtrace.units import count, duration, percent, plural

MIN_STEPS: Final = 5
"""Fewer steps that count in statistics say nothing."""
MIN_NS: Final = 1_000_000
"""Nor does what takes less than this altogether."""
DATA_SHARE: Final = 0.10
FIRST_TIMES: Final = 5.0
FIRST_SHARE: Final = 0.20
MODULE_SHARE: Final = 0.50
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
BATCH_NORMS: Final = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    rule: its name.
    text: what was found, with its number.
    remedy: what to do.
    won_ns: time that is at stake, nanoseconds: findings are ranked by it. 0 where it is about results, not time.
    wrong: whether it is about results: such come first.
    """

    rule: str
    text: str
    remedy: str
    won_ns: int = 0
    wrong: bool = False


@dataclass(frozen=True)
class Facts:
    """What the rules look at. `whole` are the steps of rank 0 that came to their end, `steady` those of them that count
    in statistics; `compiled` are the numbers of those in which torch compiled.
    """

    stored: Stored
    calls: pd.DataFrame
    modules: pd.DataFrame
    steps: pd.DataFrame
    whole: pd.DataFrame
    steady: pd.DataFrame
    compiled: frozenset[int] = frozenset()

    @property
    def enough(self) -> bool:
        """Whether there are steps enough to judge by."""
        return len(self.steady) >= MIN_STEPS

    @cached_property
    def earlier(self) -> Earlier | None:
        """Backwards that go through the calls of earlier steps: then steps grow slower for that reason."""
        return through_earlier(self.calls)

    @cached_property
    def on_device(self) -> bool:
        """Whether a device works beside the host: then the times of the host are those of launching."""
        known = bool(self.steady["device_ns"].notna().any()) if "device_ns" in self.steady else False
        return known or launch_timed(self.stored) is not None

    def usual_ns(self, name: str) -> int:
        """Time of a column in all steady steps, had each taken the median: one slow step changes nothing."""
        return int(self.steady[f"{name}_ns"].astype(float).median()) * len(self.steady)

    @property
    def steady_ns(self) -> int:
        """Time of the steady steps."""
        return int(self.steady["duration_ns"].sum())

    @property
    def steady_rows(self) -> npt.NDArray[np.bool_]:
        """Which rows of `calls` are in the steady steps."""
        inside = self.calls["step"].isin(self.steady.index)
        chosen: npt.NDArray[np.bool_] = (inside & (self.calls["rank"] == self.calls["rank"].min())).to_numpy(
            bool
        )
        return chosen


def findings(stored: Stored) -> list[Finding]:
    """All findings, those about results first, then by the time at stake."""
    steps = steps_frame(stored)
    steps = steps[steps["rank"] == steps["rank"].min()] if len(steps) else steps
    whole = steps[steps["whole"].astype(bool)] if len(steps) else steps
    compiling = frozenset(np.flatnonzero(compiled_steps(stored)).tolist())
    # Where there are no others, steps with FLOP counting or compiling count in statistics; advice is not given on them.
    steady = steps[steps["in_statistics"] & ~steps["counted"]] if len(steps) else steps
    steady = steady[~steady.index.isin(compiling)]
    facts = Facts(stored, calls_frame(stored), modules_frame(stored), steps, whole, steady, compiling)
    silent = FROM_ABSENCE if is_cut(stored) else ()
    found = [finding for rule in RULES if rule not in silent for finding in rule(facts)]
    return sorted(found, key=lambda one: (not one.wrong, -one.won_ns))


def data(facts: Facts) -> Iterator[Finding]:
    """Waiting for data is DATA_SHARE of the steps."""
    spent = int(facts.steady["data_ns"].sum()) if facts.enough else 0
    if spent < max(DATA_SHARE * facts.steady_ns, MIN_NS):
        return
    rows = _of_phase(facts, "data")
    rows = rows[rows["step"].notna()]
    loaders = rows.groupby("type", observed=True)["duration_ns"].sum()
    loader = str(loaders.idxmax()) if len(loaders) else "DataLoader"
    long = int((facts.steady["data_ns"] > 10_000_000).sum())
    more = f", {plural(long, 'step')} over 10 ms" if long else ""
    remedy = (
        "try num_workers=4" if "num_workers=0" in loader else "more workers, or less work for each sample"
    )
    text = f"waiting for data: {duration(spent)} ({percent(spent, facts.steady_ns)}% of the steps{more}) in {loader}"
    yield Finding("data", text, remedy, spent)


def _of_phase(facts: Facts, name: str) -> pd.DataFrame:
    """The rows of a phase; modules and spans may have the same name."""
    return facts.calls[(facts.calls["kind"] == "phase") & (facts.calls["name"] == name)]


def first_step(facts: Facts) -> Iterator[Finding]:
    """The first step, without what tracing cost in it, is FIRST_TIMES the median and FIRST_SHARE of all.

    Nothing is said of one in which operations were counted: it is not known how long it took without that.
    """
    if not facts.enough or bool(facts.whole["counted"].iloc[0]):
        return
    if facts.whole.index[0] in facts.compiled:
        return  # the compiler's time, which is reported by itself
    number, calls = facts.whole.index[0], facts.calls
    own = calls[(calls["step"] == number) & (calls["rank"] == calls["rank"].min())]
    first = int(facts.whole["duration_ns"].iloc[0]) - int(own["tracer_ns"].sum())
    usual = int(facts.steady["duration_ns"].median())
    if first < max(FIRST_TIMES * usual, FIRST_SHARE * (first + facts.steady_ns), MIN_NS):
        return
    text = f"step {number} took {first / max(usual, 1):.1f}x the median ({duration(first)})"
    remedy = "totals include it; statistics of steps leave it out. Warm up first where it matters"
    yield Finding("first_step", text, remedy, first - usual)


def one_module(facts: Facts) -> Iterator[Finding]:
    """One group of modules has MODULE_SHARE of the time of all modules to itself, by medians over the steps."""
    if not facts.enough:
        return
    groups, rows = folded(facts.stored), np.flatnonzero(facts.steady_rows)
    calls = facts.calls.iloc[rows]
    step = np.searchsorted(np.sort(facts.steady.index.to_numpy(int)), calls["step"].to_numpy(int))
    group, own = groups.group[rows], calls["self_ns"].fillna(0).to_numpy(int)
    ran = calls["kind"].astype(str).to_numpy() == "module"
    times = _median_a_step(group, step, own, len(groups.name), len(facts.steady))
    times[~np.array(groups.of_module, bool)] = 0
    total = int(times.sum())
    if (times > 0).sum() < MODULE_GROUPS or total * len(facts.steady) < MIN_NS:
        return
    at = int(times.argmax())
    if times[at] < MODULE_SHARE * total:
        return
    name = groups.title(at)
    number = _median_a_step(group, step, ran.astype(int), len(groups.name), len(facts.steady))[at]
    text = (
        f"{name} ({groups.type[at]}) is {percent(int(times[at]), total)}% of the time of all modules: "
        f"{duration(int(times[at]))} in {plural(int(number), 'call')} a step, the median of {len(facts.steady)} steps"
    )
    won = int(times[at]) * len(facts.steady)
    yield Finding("one_module", text, "look at its sizes, its dtype and its backward first", won)


def _median_a_step(
    group: npt.NDArray[np.int64],
    step: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    groups: int,
    steps: int,
) -> npt.NDArray[np.int64]:
    """The median over steps of what each group has in a step."""
    present, which = np.unique(group, return_inverse=True)
    sums = np.bincount(which * steps + step, weights=values, minlength=len(present) * steps)
    found = np.zeros(groups, np.int64)
    found[present] = np.median(sums.reshape(len(present), steps), axis=1) if len(present) else 0
    return found


def long_backward(facts: Facts) -> Iterator[Finding]:
    """Backward takes BACKWARD_TIMES as long as forward, what is recomputed left out."""
    if not facts.enough or facts.earlier is not None or facts.on_device:
        return
    forward, backward = (facts.usual_ns(name) for name in ("forward", "backward"))
    backward -= _recomputed(facts)
    if forward < MIN_NS or backward < BACKWARD_TIMES * forward:
        return
    own = facts.calls[(facts.calls["kind"] == "backward") & facts.calls["step"].isin(facts.steady.index)]
    by_name = own.groupby(["name", "type"], observed=True)["self_ns"].sum()
    where = ""
    if len(by_name):
        name, kind = by_name.index[int(by_name.to_numpy(float).argmax())]
        where = f", most of it in {name or kind} ({duration(int(by_name.max()))})"
    text = f"backward takes {backward / forward:.1f}x the forward{where}; about 2x is usual"
    yield Finding("long_backward", text, "look at its backward: modtrace info --tree", backward - 2 * forward)


def long_optimizer(facts: Facts) -> Iterator[Finding]:
    """The optimizer's own time is OPTIMIZER_SHARE of the steps."""
    spent = facts.usual_ns("optimizer") if facts.enough else 0
    whole = facts.usual_ns("duration") if facts.enough else 0
    if spent < max(OPTIMIZER_SHARE * whole, MIN_NS):
        return
    of_kind = _of_phase(facts, "optimizer").groupby("type", observed=True)["duration_ns"].sum()
    if facts.on_device or not len(of_kind):
        return
    kind = str(of_kind.idxmax())
    faster = "try fused=True where it is not set, or " if kind in FUSED else ""
    text = f"{kind}.step takes {percent(spent, whole)}% of the usual step ({duration(spent // len(facts.steady))})"
    yield Finding("long_optimizer", text, f"{faster}step less often, for larger batches", spent)


def no_gradient(facts: Facts) -> Iterator[Finding]:
    """Modules ran in forward, no backward went through them, though through others, and an optimizer that has their
    parameters found no gradient.
    """
    calls, modules = facts.calls, facts.modules
    backward = calls[calls["kind"] == "backward"]
    if not len(backward) or not len(facts.whole):
        return
    inside = calls["step"].isin(facts.whole.index)
    forward = calls[inside & (calls["kind"] == "module") & (calls["phase"] == "forward")]
    roots = set(calls.loc[backward["forward"].dropna(), "root"].astype(str))
    reached = set(backward["module_id"].dropna()) | set(
        calls[calls["phase"] == "recompute"]["module_id"].dropna()
    )
    ran = set(forward["module_id"].dropna()) - reached
    names = [
        f"{modules['name'][number] or modules['type'][number]} ({modules['type'][number]})"
        for number in sorted(ran & untouched(facts.stored))
        if modules["root"][number] in roots
    ]
    if names and len(facts.whole) >= TRAINED_STEPS and not ended_early(facts.stored):
        text = f"no gradient reached {listed(names)}, trainable and part of the forward"
        yield Finding("no_gradient", text, "check for detach() and unused outputs, or freeze it", wrong=True)


def batch_norm(facts: Facts) -> Iterator[Finding]:
    """BatchNorm in training mode was given batches of 1."""
    calls = facts.calls
    kinds = (
        BATCH_NORMS if len(facts.stored.processes) == 1 else BATCH_NORMS[:3]
    )  # SyncBatchNorm adds batches up
    rows = calls[calls["type"].isin(kinds) & (calls["phase"] == "forward") & (calls["kind"] == "module")]
    rows = rows[facts.modules["training"].reindex(rows["module_id"]).fillna(False).to_numpy(bool)]
    alone = rows[rows["inputs"].astype(str).map(_batch_of) == 1]
    if len(alone):
        names = dict.fromkeys(
            f"{name or kind} ({kind})" for name, kind in zip(alone["name"], alone["type"], strict=True)
        )
        text = (
            f"batches of 1 in training mode: {listed(names)}, in {plural(len(alone), 'call')} of {len(rows)}"
        )
        last = len(alone) < len(rows) / 2
        remedy = (
            "drop_last=True, if they are the last batches" if last else "use larger batches, or GroupNorm"
        )
        yield Finding("batch_norm", text, f"{remedy}, or eval() it", wrong=True)


def _batch_of(signature: object) -> int:
    """The first dimension of a text such as f32[1,3,8,8]; 0 for another text."""
    kind, _, rest = signature.partition("[") if isinstance(signature, str) else ("", "", "")
    first = rest.partition(",")[0]
    return int(first) if kind in SHORT_DTYPES.values() and "," in rest and first.isdigit() else 0


def tiny_calls(facts: Facts) -> Iterator[Finding]:
    """TINY_CALLS module calls a step that take less than TINY_NS each, and together TINY_SHARE of the steps."""
    if not facts.enough:
        return
    calls = facts.calls
    rows = calls[(calls["kind"] == "module") & calls["step"].isin(facts.steady.index)]
    rows = rows[rows["rank"] == rows["rank"].min()]
    tiny = rows[rows["self_ns"] < TINY_NS]
    each, spent = len(tiny) / len(facts.steady), int(tiny["self_ns"].sum())
    if each < TINY_CALLS or spent < TINY_SHARE * facts.steady_ns:
        return
    share = percent(spent, facts.steady_ns)
    most = tiny["type"].astype(str).value_counts().index[0]
    text = (
        f"{count(round(each))} module calls a step take under {duration(TINY_NS)} each, most of them of {most}: "
        f"{share}% of the steps"
    )
    yield Finding("tiny_calls", text, "batch them, or try torch.compile", spent)


def drift(facts: Facts) -> Iterator[Finding]:
    """The last third of the steps takes DRIFT more than the first, beyond their spread."""
    took = facts.steady["duration_ns"].to_numpy(float)
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
        name: facts.steady[f"{name}_ns"].iloc[-third:].median()
        - facts.steady[f"{name}_ns"].iloc[:third].median()
        for name in (*PHASES, "other")
    }
    most = max(grown, key=lambda name: grown[name])
    more = percent(int(late - early), int(early))
    text = (
        f"steps grow slower: {duration(int(early))} at first, {duration(int(late))} at the end (+{more}%), most of it "
        f"in {most}"
    )
    remedy = (
        "look at what the loader does"
        if most == "data"
        else "look for lists that grow and graphs that are kept"
    )
    yield Finding("drift", text, remedy, int((late - early) * third))


def _computes_more(steady: pd.DataFrame, third: int, times: float) -> bool:
    """Whether the last third of the steps has at least half as much more to do, by FLOPs, tokens or samples."""
    for name in ("flops", "tokens", "samples"):
        done = steady[name].astype("Float64") if name in steady else pd.Series(dtype="Float64")
        if len(done) and done.notna().all():
            first, last = done.iloc[:third].median(), done.iloc[-third:].median()
            return bool(last > (1 + (times - 1) / 2) * first)
    return False


def eval_with_grad(facts: Facts) -> Iterator[Finding]:
    """Root calls in eval mode, of trainable modules, with grad mode on and no backward after them."""
    table = timeline(facts.stored).calls
    mode, known = values_and_known(table, "mode")
    rows = facts.calls[known & ((mode & EVALUATING) > 0) & ((mode & NO_GRAD) == 0)]
    rows = rows[(rows["phase"] == "eval") & rows["inputs"].notna()]
    trainable = facts.modules["trainable_count"].reindex(rows["module_id"]).fillna(0).to_numpy(int) > 0
    rows = rows[trainable & (rows["status"] == "ok").to_numpy(bool)]
    if ended_early(facts.stored):
        rows = rows.iloc[:-1]  # a backward of the last might have followed
    if len(rows):
        spent = int(rows["duration_ns"].sum())
        kind = rows["type"].iloc[0]
        text = f"{plural(len(rows), 'evaluation')} of {kind} kept a graph for backward ({duration(spent)})"
        yield Finding(
            "eval_with_grad", text, "evaluate under torch.no_grad() or inference_mode()", spent // 4
        )


def recompute(facts: Facts) -> Iterator[Finding]:
    """What checkpointing makes again is RECOMPUTE_SHARE of the steps."""
    spent = _recomputed(facts) if facts.enough else 0
    if spent < max(RECOMPUTE_SHARE * facts.steady_ns, MIN_NS):
        return
    share = percent(spent, facts.steady_ns)
    text = f"recomputing checkpointed modules takes {share}% of the steps ({duration(spent)})"
    yield Finding("recompute", text, "checkpoint less if memory allows", spent)


def _recomputed(facts: Facts) -> int:
    calls = facts.calls
    again = (
        calls["kind"].isin(["module", "phase"])
        & (calls["phase"] == "recompute")
        & calls["step"].isin(facts.steady.index)
    )
    above = calls["parent"].map(again).fillna(False).astype(bool)
    return int(calls[again & ~above]["duration_ns"].sum())


RULES: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    data, first_step, one_module, long_backward, long_optimizer, never_ran, no_optimizer, earlier_steps, no_gradient,
    batch_norm, tiny_calls, drift, eval_with_grad, recompute, growth, activations, device_idle, copies, syncs,
    other_device, full_precision, children,
)  # fmt: skip
FROM_ABSENCE: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    never_ran,
    no_gradient,
    eval_with_grad,
)
"""Rules that conclude from calls that are not there. They say nothing of a recording that was cut short."""
