"""What tracing costs a whole training step, backward told apart by module: `python benchmarks/training_step.py`.

Forward, backward and SGD of the benchmark's GPT-2. All variants take turns in one run, on one thread, with windows of a
few steps each, so that what else the machine does hits all alike; a ratio is the median over the rounds of the ratios
inside a round. Beside modtrace stands the usual way to learn the same: torch's profiler with a range for every module.
modtrace counts operations in the 1st, 2nd, 4th, 8th ... step of a kind; such a step is measured by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from gpt2 import GPT2, Size
from huggingface import models, training_step
from overhead import CALLS, Variant, empty_pair, profiler, traced
from torch import nn

BARS = {
    ("GPT-2, width 64, of bytes", "modtrace"): 1.3,
    ("GPT-2, width 64, of bytes", CALLS): 1.2,
    **{(name, "modtrace"): 1.35 for name in models()},
    **{(name, CALLS): 1.25 for name in models()},
}
"""The most that a step may take, untraced 1, by model and variant."""
WARM_UP = 16
"""Steps before a window. Operations are counted in the last of them, and then not before the 32nd."""
COUNTING = "modtrace, a step with counting"


@contextmanager
def profiler_with_ranges() -> Iterator[None]:
    """torch's profiler, and a `record_function` around every module call."""
    ranges: list[torch.profiler.record_function] = []

    def enter(module: nn.Module, _: object) -> None:
        ranges.append(torch.profiler.record_function(type(module).__name__))
        ranges[-1].__enter__()

    def leave(*_: object) -> None:
        ranges.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        stack.enter_context(profiler())
        modules = nn.modules.module
        stack.callback(modules.register_module_forward_pre_hook(enter).remove)
        stack.callback(modules.register_module_forward_hook(leave, always_call=True).remove)
        yield


VARIANTS = (
    Variant("untraced", nullcontext),
    Variant("empty pair of hooks", empty_pair),
    Variant("modtrace", traced),
    Variant(CALLS, lambda: traced("calls")),
    Variant("torch.profiler", profiler),
    Variant("torch.profiler, a range a module", profiler_with_ranges),
)


def step_of(size: Size) -> Callable[[], object]:
    """A training step of a GPT-2 on 2 x 32 tokens."""
    model = GPT2(size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tokens = torch.randint(0, size.vocabulary, (2, 32))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()

    return step


def measure(step: Callable[[], object], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step takes under each variant, one number a round."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            with variant.around():
                for _ in range(WARM_UP - 1):
                    step()
                started = time.perf_counter()
                step()
                if variant.name == "modtrace":
                    seconds.setdefault(COUNTING, []).append(time.perf_counter() - started)
                started = time.perf_counter()
                for _ in range(steps):
                    step()
                seconds[variant.name].append((time.perf_counter() - started) / steps)
    return seconds


def main() -> int:
    """Measure and print; with --check say by the exit status whether the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, choices=range(1, WARM_UP))
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread\n")
    missed = False
    steps = {
        "GPT-2, width 64": step_of(Size()),
        "GPT-2, width 256": step_of(Size(width=256)),
        "GPT-2, width 64, of bytes": step_of(Size(vocabulary=256)),
    }
    steps |= {name: training_step(make()) for name, make in models().items()}
    for name, step in steps.items():
        if options.only not in name:
            continue
        seconds = measure(step, rounds=options.rounds, steps=options.steps)
        print(name)
        for variant, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, seconds["untraced"], strict=True))
            bar = BARS.get((name, variant))
            over = bar is not None and ratio > bar
            told = "" if bar is None else f"  at most {bar:g}{'  MISSED' if over else ''}"
            print(f"  {variant:36}{statistics.median(taken) * 1e3:10.2f} ms{ratio:8.3f}{told}")
            missed = missed or over
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
