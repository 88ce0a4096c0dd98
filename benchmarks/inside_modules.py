"""What it costs to see inside modules: functions, and FLOPs. `python benchmarks/inside_modules.py`

All variants take turns in one run, on one thread; a ratio is the median over the rounds of the ratios inside a round.
Functions stand beside a function mode that does nothing but call on. FLOPs stand beside a trace without them and
beside torch's `FlopCounterMode` around every step; the steps in which modtrace counts, 1, 2, 4, 8 ..., are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpt2 import GPT2, Size
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from training_step import WARM_UP, step_of

import modtrace

FUNCTIONS_BAR = 1.6
FLOPS_BAR = 1.02

Around = Callable[[], AbstractContextManager[object]]


class Empty(TorchFunctionMode):
    """A function mode that does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def traced(**options: bool) -> Iterator[None]:
    """modtrace, writing into a folder that is then removed."""
    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace", **options):
        yield


def measure(
    run: Callable[[], object], variants: dict[str, Around], *, rounds: int, runs: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Seconds a run takes under each variant, one number a round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, around in variants.items():
            with around():
                for _ in range(warm_up):
                    run()
                started = time.perf_counter()
                for _ in range(runs):
                    run()
                seconds[name].append((time.perf_counter() - started) / runs)
    return seconds


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the ratios inside a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


SMALL = "200 functions of 4 numbers"


def forward_of(size: Size) -> Callable[[], object]:
    """A forward of a GPT-2 on 2 x 32 tokens."""
    model, tokens = GPT2(size), torch.randint(0, size.vocabulary, (2, 32))
    return lambda: model(tokens)


def small_functions() -> object:
    """Functions that do next to nothing: what is left is the price of a call."""
    x, weight, bias = torch.ones(4), torch.ones(4, 4), torch.ones(4)
    for _ in range(50):
        torch.add(x, bias)
        x.view(2, 2)
        F.relu(x)
        F.linear(x, weight, bias)
    return None


def functions(rounds: int) -> float:
    """Print what functions cost; the ratio that the bar is about."""
    variants: dict[str, Around] = {
        "untraced": nullcontext,
        "empty function mode": Empty,
        "modtrace": traced,
        "modtrace, functions": lambda: traced(functions=True),
    }
    worst = 0.0
    for name, run, runs in (
        ("GPT-2, width 64, forward", forward_of(Size()), 10),
        ("GPT-2, width 64, of bytes, forward", forward_of(Size(vocabulary=256)), 10),
        (SMALL, small_functions, 20),
    ):
        seconds = measure(run, variants, rounds=rounds, runs=runs)
        print(name)
        for variant, taken in seconds.items():
            print(
                f"  {variant:28}{statistics.median(taken) * 1e3:10.3f} ms{ratio(taken, seconds['untraced']):8.3f}"
            )
        total = ratio(seconds["modtrace, functions"], seconds["empty function mode"])
        print(f"  with functions / in an empty mode{total:14.3f}\n")
        worst = max(worst, total if name != SMALL else 0.0)
    return worst


def flops(rounds: int) -> float:
    """Print what FLOPs cost after the first step; the ratio that the bar is about."""
    step = step_of(Size())
    variants: dict[str, Around] = {
        "untraced": nullcontext,
        "modtrace without FLOPs": lambda: traced(flops=False),
        "modtrace": traced,
    }
    seconds = measure(step, variants, rounds=rounds, runs=8)
    counted = []
    for _ in range(3):
        started = time.perf_counter()
        with FlopCounterMode(display=False):
            step()
        counted.append(time.perf_counter() - started)
    first = []
    for _ in range(3):
        with traced():
            started = time.perf_counter()
            step()
            first.append(time.perf_counter() - started)
    print("GPT-2, width 64, training step")
    base = statistics.median(seconds["untraced"])
    for variant, taken in seconds.items():
        print(
            f"  {variant:28}{statistics.median(taken) * 1e3:10.2f} ms{ratio(taken, seconds['untraced']):8.3f}"
        )
    for variant, taken in (("modtrace, the first step", first), ("FlopCounterMode each step", counted)):
        value = statistics.median(taken)
        print(f"  {variant:28}{value * 1e3:10.2f} ms{value / base:8.3f}")
    found = ratio(seconds["modtrace"], seconds["modtrace without FLOPs"])
    print(f"  with / without FLOPs{found:27.3f}\n")
    return found


def main() -> int:
    """Measure and print; with --check say by the exit status whether a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread\n")
    found = {
        f"functions of a GPT-2, at most {FUNCTIONS_BAR}": (functions(options.rounds), FUNCTIONS_BAR),
        f"FLOPs after the first step, at most {FLOPS_BAR}": (flops(options.rounds), FLOPS_BAR),
    }
    for name, (value, _) in found.items():
        print(f"{name:50}{value:8.3f}")
    return int(options.check and any(value > bar for value, bar in found.values()))


if __name__ == "__main__":
    sys.exit(main())
