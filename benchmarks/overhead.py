"""What tracing costs, beside nothing, an empty pair of hooks and torch's own profiler: `python benchmarks/overhead.py`.

All variants take turns in one run, on one thread, with the garbage collector as users have it. Each window of a variant
stands between two without one, and is held against their mean: a machine whose speed wanders slows all three. A number
is the median of the rounds. A window begins when the variant has warmed up and is long enough for modtrace to write in
it. What happens once a trace or once a module is measured apart. The profiler's work after a window, which is long, is
left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpt2 import GPT2, Size
from huggingface import eval_forward, models
from torch import nn
from whole_runs import long_run, start_up

import modtrace

IDENTITIES = 1_000
WARM_UP_S = 0.4
UNTRACED_SHARE = 0.4
CALLS = "modtrace, engine calls"
BARS = {
    "identity: added by modtrace / added by empty pair": 2.2,
    "identity: added by modtrace, engine calls / added by empty pair": 1.2,
    "GPT-2 of bytes, training forward: modtrace / untraced": 1.2,
    "GPT-2 of bytes, training forward: modtrace, engine calls / untraced": 1.12,
    "GPT-2 of bytes, eval forward: modtrace / untraced": 1.25,
    "GPT-2 of bytes, eval forward: modtrace, engine calls / untraced": 1.13,
    **{f"{name}, eval forward: modtrace / untraced": 1.45 for name in models()},
    **{f"{name}, eval forward: {CALLS} / untraced": 1.25 for name in models()},
    "memory growth over 1,000,000 calls [MB]": 50.0,
    "trace on disk, identity modules [bytes a call]": 50.0,
    "trace on disk, GPT-2 [bytes a call]": 50.0,
    "start-up of `modtrace run` [s]": 0.1,
}
"""The most each may be."""


@dataclass(frozen=True)
class Variant:
    """A way to run the same forward; `share` of the forwards of a window are run, as slow ones need fewer."""

    name: str
    around: Callable[[], AbstractContextManager[object]]
    share: float = 1.0


@dataclass(frozen=True)
class Measurement:
    """The median of the rounds of one variant on one model; the times are `ratio` times that without a variant."""

    model: str
    variant: str
    forward_us: float
    call_ns: float
    ratio: float
    added_ns: float


@contextmanager
def empty_pair() -> Iterator[None]:
    """The hooks modtrace registers, with nothing in them: what torch itself charges for being watched."""
    handles = (
        nn.modules.module.register_module_forward_pre_hook(lambda module, args: None),
        nn.modules.module.register_module_forward_hook(
            lambda module, args, *rest: None, with_kwargs=True, always_call=True
        ),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def traced(engine: str = "hooks") -> Iterator[None]:
    """modtrace, writing into a folder that is then removed."""
    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace", engine=engine):
        yield


def profiler(**options: bool) -> AbstractContextManager[object]:
    """torch's profiler of the CPU."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], **options)


VARIANTS = (
    Variant("untraced", nullcontext),
    Variant("empty pair of hooks", empty_pair),
    Variant("modtrace", traced),
    Variant(CALLS, lambda: traced("calls")),
    Variant("torch.profiler", profiler, share=0.1),
    Variant("torch.profiler, record_shapes", lambda: profiler(record_shapes=True), share=0.1),
    Variant("torch.profiler, with_stack", lambda: profiler(with_stack=True), share=0.1),
)


def window(variant: Variant, forward: Callable[[], object], forwards: int) -> float:
    """Seconds a forward takes under the variant."""
    forwards = max(1, round(forwards * variant.share))
    with variant.around():
        warm_at = time.perf_counter() + WARM_UP_S * variant.share
        while time.perf_counter() < warm_at:
            forward()
        started = time.perf_counter()
        for _ in range(forwards):
            forward()
        return (time.perf_counter() - started) / forwards


def once_a_module(rounds: int) -> dict[str, float]:
    """What a trace of two calls costs, and what each module costs when it is first seen."""
    one, many = nn.Identity(), nn.Sequential(*[nn.Linear(2, 2) for _ in range(IDENTITIES)])

    def seconds(model: nn.Module) -> float:
        started = time.perf_counter()
        with traced():
            model(x)
        return time.perf_counter() - started

    x = torch.ones(1, 2)
    small = statistics.median(seconds(one) for _ in range(rounds))
    large = statistics.median(seconds(many) for _ in range(rounds))
    return {
        "a trace of one call, start and end [s]": small,
        "a module seen for the first time [us]": (large - small) / IDENTITIES * 1e6,
    }


def measure(
    name: str, forward: Callable[[], object], calls: int, *, forwards: int, rounds: int
) -> list[Measurement]:
    """All variants on one model, taking turns."""
    untraced, *others = VARIANTS
    beside = replace(untraced, share=UNTRACED_SHARE)
    ratios: dict[str, list[float]] = {variant.name: [] for variant in others}
    seconds = [window(beside, forward, forwards)]
    for _ in range(rounds):
        for variant in others:
            taken = window(variant, forward, forwards)
            seconds.append(window(beside, forward, forwards))
            ratios[variant.name].append(taken / statistics.mean(seconds[-2:]))
    usual_s = statistics.median(seconds)
    medians = {untraced.name: 1.0} | {variant: statistics.median(each) for variant, each in ratios.items()}
    return [
        Measurement(
            model=name,
            variant=variant,
            forward_us=ratio * usual_s * 1e6,
            call_ns=ratio * usual_s / calls * 1e9,
            ratio=ratio,
            added_ns=(ratio - 1) * usual_s / calls * 1e9,
        )
        for variant, ratio in medians.items()
    ]


def identity_forward() -> Callable[[], object]:
    """A container that calls 1,000 identity modules."""
    model = nn.Sequential(*[nn.Identity() for _ in range(IDENTITIES)])
    x = torch.ones(1)
    return lambda: model(x)


def gpt2_forward(size: Size, *, training: bool) -> Callable[[], object]:
    """A GPT-2 on a batch of 2 x 32 tokens."""
    model = GPT2(size).train(training)
    tokens = torch.randint(0, size.vocabulary, (2, 32))
    return lambda: model(tokens)


def calls_of(forward: Callable[[], object]) -> int:
    """How many module calls a forward makes."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    forward()
    handle.remove()
    return calls


def measure_all(rounds: int) -> list[Measurement]:
    """Every model under every variant."""
    found = measure("identity modules", identity_forward(), IDENTITIES + 1, forwards=150, rounds=rounds)
    gpt2, of_bytes = Size(layers=12, width=64), Size(layers=12, width=64, vocabulary=256)
    for name, size, training in (
        ("GPT-2 training forward", gpt2, True),
        ("GPT-2 eval forward", gpt2, False),
        ("GPT-2 of bytes, training forward", of_bytes, True),
        ("GPT-2 of bytes, eval forward", of_bytes, False),
    ):
        forward = gpt2_forward(size, training=training)
        found += measure(name, forward, calls_of(forward), forwards=150, rounds=rounds)
    for name, make in models().items():
        forward = eval_forward(make())
        found += measure(f"{name}, eval forward", forward, calls_of(forward), forwards=150, rounds=rounds)
    return found


def facts_of(found: list[Measurement], rounds: int) -> dict[str, float]:
    """Single numbers: those with a bar and a few beside them."""
    at = {(one.model, one.variant): one for one in found}
    pair = at["identity modules", "empty pair of hooks"]
    engines = ("modtrace", CALLS)
    facts = {
        f"identity: added by {engine} / added by empty pair": at["identity modules", engine].added_ns
        / pair.added_ns
        for engine in engines
    }
    facts |= {
        f"{model}: {variant} / untraced": one.ratio
        for (model, variant), one in at.items()
        if variant in engines and model != "identity modules"
    }
    return facts | once_a_module(rounds) | long_run() | start_up(rounds)


def show(found: list[Measurement], facts: dict[str, float]) -> None:
    """The table, for people."""
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread\n")
    model = None
    for one in found:
        if one.model != model:
            model = one.model
            print(f"{model:34}{'forward us':>12}{'ns a call':>12}{'ratio':>8}{'added ns a call':>18}")
        print(
            f"  {one.variant:32}{one.forward_us:12.0f}{one.call_ns:12.0f}{one.ratio:8.2f}{one.added_ns:18.0f}"
        )
    print()
    for name, value in facts.items():
        bar = f"  at most {BARS[name]:g}" if name in BARS else ""
        missed = "  MISSED" if name in BARS and value > BARS[name] else ""
        print(f"{name:70}{value:10.3f}{bar}{missed}")


def main() -> int:
    """Measure, print, and with --check say by the exit status whether a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often every variant has its turn")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure_all(options.rounds)
    facts = facts_of(found, options.rounds)
    if options.json:
        json.dump(
            {"measurements": [asdict(one) for one in found], "facts": facts, "bars": BARS},
            sys.stdout,
            indent=1,
        )
        print()
    else:
        show(found, facts)
    missed = [name for name, bar in BARS.items() if facts[name] > bar]
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
