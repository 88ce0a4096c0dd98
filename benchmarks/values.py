"""What ranges of values cost a training step: `python benchmarks/values.py`.

GPT-2 of two widths, 2 x 128 tokens, forward, backward and SGD. Beside modtrace stand `detect_anomaly` and the usual
hook, which asks each output whether any element is NaN. All variants take turns in one run; a ratio is the median over
the rounds of the ratios inside a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpt2 import GPT2, Size
from overhead import Variant
from torch import nn

import modtrace

BARS = {("width 512", "--values"): 1.05}
"""The most that a step may take, a traced one without values 1."""


@contextmanager
def traced(**options: Any) -> Iterator[None]:
    """modtrace, writing into a folder that is then removed."""
    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace", **options):
        yield


@contextmanager
def isnan_hook() -> Iterator[None]:
    """A global hook that asks of every output whether any element is NaN."""

    def look(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and torch.isnan(output).any():
            raise FloatingPointError(type(module).__name__)

    handle = nn.modules.module.register_module_forward_hook(look)
    yield
    handle.remove()


VARIANTS = (
    Variant("modtrace", traced),
    Variant("--values", lambda: traced(values="0:1000000")),
    Variant("--values, with norm", lambda: traced(values="0:1000000", values_with="norm")),
    Variant("--nan", lambda: traced(nan=True)),
    Variant("untraced", nullcontext),
    Variant("isnan().any() in a hook", isnan_hook),
    Variant("detect_anomaly", lambda: torch.autograd.detect_anomaly(check_nan=True)),
)


def step_of(size: Size) -> Callable[[], object]:
    """A training step of a GPT-2 on 2 x 128 tokens."""
    model = GPT2(size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tokens = torch.randint(0, size.vocabulary, (2, 128))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(tokens)
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()

    return step


def measure(step: Callable[[], object], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step takes under each variant, one number a round. Steps with counting are not among them."""
    seconds: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant in VARIANTS:
            with variant.around():
                for _ in range(4):
                    step()
                started = time.perf_counter()
                for _ in range(steps):
                    step()
                seconds[variant.name].append((time.perf_counter() - started) / steps)
    return seconds


def main() -> int:
    """Measure and print; with --check say by the exit status whether the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {torch.get_num_threads()} threads\n")
    missed = False
    for width in (64, 512):
        seconds = measure(step_of(Size(width=width)), rounds=options.rounds, steps=options.steps)
        print(f"width {width}")
        for variant, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, seconds["modtrace"], strict=True))
            bar = BARS.get((f"width {width}", variant))
            over = bar is not None and ratio > bar
            told = "" if bar is None else f"  at most {bar:g}{'  MISSED' if over else ''}"
            print(f"  {variant:28}{statistics.median(taken) * 1e3:10.1f} ms{ratio:8.3f}{told}")
            missed = missed or over
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
