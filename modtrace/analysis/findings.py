"""What is worth a look in a trace: short, ranked, each with its number and what to do about it.

Every rule is silent unless there is enough to judge by. Times of steps are those of the thread that runs the loop, of
whole steps without the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from modtrace.analysis.calls import calls as calls_frame
from modtrace.analysis.columns import values_and_known
from modtrace.analysis.cut import is_cut
from modtrace.analysis.device_findings import copies, device_idle, full_precision, other_device, syncs
from modtrace.analysis.memory_findings import activations, growth
from modtrace.analysis.modules import modules as modules_frame
from modtrace.analysis.paths import folded
from modtrace.analysis.steps import steps as steps_frame
from modtrace.analysis.summary import CONTAINERS
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import EVALUATING, NO_GRAD, SHORT_DTYPES
from modtrace.units import count, duration, percent, plural

MIN_STEPS: Final = 5
"""Fewer whole steps than that, the first left out, say nothing."""
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
    """What the rules look at. `steady` are the whole steps of rank 0 but the first and those in which operations were
    counted, `whole` these too.
    """

    stored: Stored
    calls: pd.DataFrame
    modules: pd.DataFrame
    steps: pd.DataFrame
    whole: pd.DataFrame
    steady: pd.DataFrame

    @property
    def enough(self) -> bool:
        """Whether there are steps enough to judge by."""
        return len(self.steady) >= MIN_STEPS

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
    steady = whole.iloc[1:]
    steady = steady[~steady["counted"].astype(bool)] if len(steady) else steady
    facts = Facts(stored, calls_frame(stored), modules_frame(stored), steps, whole, steady)
    silent = FROM_ABSENCE if is_cut(stored) else ()
    found = [finding for rule in RULES if rule not in silent for finding in rule(facts)]
    return sorted(found, key=lambda one: (not one.wrong, -one.won_ns))


def data(facts: Facts) -> Iterator[Finding]:
    """Waiting for data is DATA_SHARE of the steps."""
    spent = int(facts.steady["data_ns"].sum()) if facts.enough else 0
    if spent < max(DATA_SHARE * facts.steady_ns, MIN_NS):
        return
    rows = facts.calls[(facts.calls["name"] == "data") & facts.calls["step"].notna()]
    loaders = rows.groupby("type", observed=True)["duration_ns"].sum()
    loader = str(loaders.idxmax()) if len(loaders) else "DataLoader"
    long = int((facts.steady["data_ns"] > 10_000_000).sum())
    more = f", {plural(long, 'step')} over 10 ms" if long else ""
    remedy = (
        "try num_workers=4" if "num_workers=0" in loader else "more workers, or less work for each sample"
    )
    text = f"waiting for data: {duration(spent)} ({percent(spent, facts.steady_ns)}% of the steps{more}) in {loader}"
    yield Finding("data", text, remedy, spent)


def first_step(facts: Facts) -> Iterator[Finding]:
    """The first step is FIRST_TIMES the median and FIRST_SHARE of all."""
    if not facts.enough:
        return
    first, usual = int(facts.whole["duration_ns"].iloc[0]), int(facts.steady["duration_ns"].median())
    if first < max(FIRST_TIMES * usual, FIRST_SHARE * (first + facts.steady_ns), MIN_NS):
        return
    number = facts.whole.index[0]
    text = f"step {number} took {first / max(usual, 1):.1f}x the median ({duration(first)})"
    yield Finding(
        "first_step",
        text,
        "totals include it: warm up first, or use t.modules, which leaves it out",
        first - usual,
    )


def one_module(facts: Facts) -> Iterator[Finding]:
    """One group of modules has MODULE_SHARE of the time of all modules to itself."""
    groups, calls = folded(facts.stored), facts.calls
    own = calls["self_ns"].fillna(0).where(calls["step"].fillna(1) > 0, 0).to_numpy(int)
    spent = np.bincount(groups.group, weights=own, minlength=len(groups.name)).astype(np.int64)
    spent[~np.array(groups.of_module, bool)] = 0
    total = int(spent.sum())
    if (spent > 0).sum() < MODULE_GROUPS or total < MIN_NS:
        return
    at = int(spent.argmax())
    if spent[at] < MODULE_SHARE * total:
        return
    name = groups.title(at)
    times = int(((groups.group == at) & (calls["kind"] == "module")).sum())
    text = (
        f"{name} ({groups.type[at]}) is {percent(int(spent[at]), total)}% of the time of all modules: "
        f"{duration(int(spent[at]))} in {plural(times, 'call')}"
    )
    yield Finding("one_module", text, "look at its sizes, its dtype and its backward first", int(spent[at]))


def long_backward(facts: Facts) -> Iterator[Finding]:
    """Backward takes BACKWARD_TIMES as long as forward, what is recomputed left out."""
    if not facts.enough:
        return
    forward, backward = (int(facts.steady[f"{name}_ns"].sum()) for name in ("forward", "backward"))
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
    spent = int(facts.steady["optimizer_ns"].sum()) if facts.enough else 0
    if spent < max(OPTIMIZER_SHARE * facts.steady_ns, MIN_NS):
        return
    rows = facts.calls[facts.calls["name"] == "optimizer"]
    kind = str(rows["type"].iloc[0]) if len(rows) else "the optimizer"
    text = f"{kind}.step takes {percent(spent, facts.steady_ns)}% of the steps ({duration(spent)})"
    yield Finding("long_optimizer", text, "try foreach=True or fused=True, or step less often", spent)


def never_ran(facts: Facts) -> Iterator[Finding]:
    """Modules of a model that ran were never called; containers and parts of fused layers are left out."""
    modules = facts.modules
    quiet = modules[
        (modules["calls"] == 0) & (modules["recompute_calls"] == 0) & (modules["parameter_count"] > 0)
    ]
    quiet = quiet[~quiet["type"].isin(CONTAINERS)]
    ran = set(zip(modules["root"], modules["name"], modules["calls"] > 0, strict=True))
    names = [
        (str(name), str(kind))
        for name, kind, root in zip(quiet["name"], quiet["type"], quiet["root"], strict=True)
        if name and not _reads_parameters(modules, str(root), str(name)) and (root, "", False) not in ran
    ]
    if names:
        shown = ", ".join(f"{name} ({kind})" for name, kind in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"{plural(len(names), 'module')} with parameters never ran: {shown}{more}"
        yield Finding("never_ran", text, "remove what is not needed, or call it", wrong=True)


def _reads_parameters(modules: pd.DataFrame, root: str, name: str) -> bool:
    """Whether a module around one is known to use the parameters of its parts without calling them."""
    same = modules[modules["root"] == root]
    kinds = dict(zip(same["name"], same["type"], strict=True))
    parts = name.split(".")
    around = [kinds.get(".".join(parts[:n]), "") for n in range(len(parts))]
    return any(kind in ("MultiheadAttention", "TransformerEncoderLayer") for kind in around)


def no_gradient(facts: Facts) -> Iterator[Finding]:
    """Modules with trainable parameters ran in forward and no backward went through them, though through others."""
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
    table = facts.stored.table("modules")
    own = [any(p["requires_grad"] for p in some or ()) for some in table.column("parameters").to_pylist()]
    names = [
        f"{modules['name'][number] or modules['type'][number]} ({modules['type'][number]})"
        for number in sorted(ran)
        if own[number] and modules["root"][number] in roots
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"no gradient reached {', '.join(names[:3])}{more}, trainable and part of the forward"
        yield Finding("no_gradient", text, "check for detach() and unused outputs, or freeze it", wrong=True)


def batch_norm(facts: Facts) -> Iterator[Finding]:
    """BatchNorm in training mode was given batches of 1."""
    calls = facts.calls
    rows = calls[
        calls["type"].isin(BATCH_NORMS) & (calls["phase"] == "forward") & (calls["kind"] == "module")
    ]
    rows = rows[facts.modules["training"].reindex(rows["module_id"]).fillna(False).to_numpy(bool)]
    alone = rows[rows["inputs"].astype(str).map(_batch_of) == 1]
    if len(alone):
        text = f"{alone['type'].iloc[0]} in training mode saw batches of 1 in {plural(len(alone), 'call')}"
        yield Finding("batch_norm", text, "use larger batches, or GroupNorm, or eval() it", wrong=True)


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
    text = (
        f"{count(round(each))} module calls a step take under {duration(TINY_NS)} each: {share}% of the steps"
    )
    yield Finding("tiny_calls", text, "batch them, or try torch.compile", spent)


def drift(facts: Facts) -> Iterator[Finding]:
    """The last third of the steps takes DRIFT more than the first, beyond their spread."""
    took = facts.steady["duration_ns"].to_numpy(float)
    if len(took) < DRIFT_STEPS:
        return
    third = len(took) // 3
    first, last = took[:third], took[-third:]
    early, late = np.median(first), np.median(last)
    if late < (1 + DRIFT) * early or np.quantile(last, 0.25) <= np.quantile(first, 0.75):
        return
    more = percent(int(late - early), int(early))
    text = f"steps grow slower: {duration(int(early))} at first, {duration(int(late))} at the end (+{more}%)"
    yield Finding(
        "drift", text, "look for lists that grow and graphs that are kept", int((late - early) * third)
    )


def eval_with_grad(facts: Facts) -> Iterator[Finding]:
    """Root calls in eval mode, of trainable modules, with grad mode on and no backward after them."""
    table = timeline(facts.stored).calls
    mode, known = values_and_known(table, "mode")
    rows = facts.calls[known & ((mode & EVALUATING) > 0) & ((mode & NO_GRAD) == 0)]
    rows = rows[(rows["phase"] == "eval") & rows["inputs"].notna()]
    trainable = facts.modules["trainable_count"].reindex(rows["module_id"]).fillna(0).to_numpy(int) > 0
    rows = rows[trainable]
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
    data, first_step, one_module, long_backward, long_optimizer, never_ran, no_gradient, batch_norm, tiny_calls, drift,
    eval_with_grad, recompute, growth, activations, device_idle, copies, syncs, other_device, full_precision,
)  # fmt: skip
FROM_ABSENCE: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    never_ran,
    no_gradient,
    eval_with_grad,
)
"""Rules that conclude from calls that are not there. They say nothing of a recording that was cut short."""
