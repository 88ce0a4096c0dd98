"""How often `modtrace diff` is wrong: the same script against itself, and with a change planted in one module.

    python benchmarks/compare.py                  three models, runs of their own (40 minutes on two cores)
    python benchmarks/compare.py --keep FOLDER    keeps the runs, and goes on with those that are there
    python benchmarks/compare.py --pool 5 --trials 1 --models mlp    a quick look
    python benchmarks/compare.py --simulate       made numbers in the place of runs (minutes)

Runs are recorded in turns, a round of one run of each side after the other. A trial takes five rounds of eight that
follow one another, so that its runs are neighbours in time, as those of `modtrace compare` are. Where nothing is
planted chance says which of the two runs of a round is on which side. In `added` a tenth of the step is added to one
module in the recorded times, to each in turn: the noise is real, and the truth is known.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from synthetic import write_gpt

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.run_files import runs_in
from modtrace.analysis.comparing.run_numbers import RunNumbers, StepTimes

RUNS = 5
NEIGHBOURS = 8
"""Rounds that follow one another, out of which a trial takes RUNS."""
PLANTS = ("sleep", "bigger", "calls")

SCRIPT = """
import os, sys, time
import torch
from torch import nn

plant, model_name, steps = os.environ.get("PLANT", ""), sys.argv[1], int(sys.argv[2])
PLANTED, before_s = 0.1, 0.0  # part of a step that is slept for; what the step before took without it
torch.set_num_threads(1)
torch.manual_seed(0)


class Planted(nn.Module):
    '''A linear layer in which something may be planted: the one of block 2.'''

    def __init__(self, size, here):
        super().__init__()
        inner = size * 2 if here and plant == "bigger" else size
        self.work = nn.Linear(size, inner)
        self.back = nn.Linear(inner, size)
        self.here = here

    def forward(self, x):
        if self.here and plant == "sleep":
            time.sleep(PLANTED * before_s)
        y = self.back(torch.relu(self.work(x)))
        if self.here and plant == "calls":
            y = y + self.back(torch.relu(self.work(y)))
        return y


class Block(nn.Module):
    def __init__(self, size, here):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.mixer = nn.Conv1d(8, 8, 3, padding=1) if model_name == "conv" else nn.Linear(size, size)
        self.planted = Planted(size, here)

    def forward(self, x):
        return x + self.planted(torch.relu(self.mixer(self.norm(x))))


class Net(nn.Module):
    def __init__(self, size, blocks):
        super().__init__()
        self.rnn = nn.GRU(size, size // 4, batch_first=True) if model_name == "rnn" else nn.Identity()
        self.blocks = nn.ModuleList(Block(size, number == 2) for number in range(blocks))
        self.head = nn.Linear(size, 10)

    def forward(self, x):
        x = self.rnn(x)[0].repeat(1, 1, 4) if model_name == "rnn" else self.rnn(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


model = Net(256, 6)
optimizer = torch.optim.SGD(model.parameters(), 0.001)
for _ in range(steps):
    began = time.perf_counter()
    optimizer.zero_grad()
    model(torch.randn(32, 8, 256)).square().mean().backward()
    optimizer.step()
    took = time.perf_counter() - began
    before_s = took - PLANTED * before_s if plant == "sleep" else took
"""
MODELS = ("mlp", "conv", "rnn")
PLANTED = "blocks.2.planted"


@dataclass
class Tally:
    """What came out of trials.

    modules: modules judged, all trials together; different: of these called slower or faster in any way.
    any_different, step_different: trials in which a module, and in which the step was.
    named: trials in which the planted module has a line, or one below it; alone: and no other module has.
    called: trials in which one of its times, or of one below it, is called slower; apart: and of no other module but
        those around it.
    """

    trials: int = 0
    modules: int = 0
    different: int = 0
    any_different: int = 0
    step_different: int = 0
    named: int = 0
    alone: int = 0
    called: int = 0
    apart: int = 0
    others: list[str] = field(default_factory=list)

    def add(self, baseline: list[RunNumbers], candidate: list[RunNumbers], planted: str = "") -> None:
        found = Comparison(baseline, candidate)
        called = [
            module.name for module in found.modules if any(time.changed for time in module.times.values())
        ]
        self.trials += 1
        self.modules += len(found.modules)
        self.different += len(called)
        self.any_different += bool(called)
        self.step_different += found.steps["step"].changed
        change = found.step_change
        lines = [line.name for line in change.lines if line.type] if change is not None else []
        inside, outside = divided(lines, planted)
        called_inside, called_outside = divided(called, planted)
        beside = [name for name in called_outside if not f"{planted}.".startswith(f"{name}.")]
        self.called += bool(called_inside)
        self.apart += bool(called_inside) and not [name for name in beside if name != found.tree.name(0)]
        self.named += bool(inside)
        self.alone += bool(inside) and not outside
        self.others += outside

    def unchanged(self) -> str:
        share = 100 * self.different / max(self.modules, 1)
        return (
            f"{share:6.2f} % of modules   any in {self.any_different} of {self.trials}   "
            f"step in {self.step_different} of {self.trials}"
        )

    def changed(self) -> str:
        return (
            f"has a line in {self.named} of {self.trials}, alone in {self.alone}   "
            f"called slower in {self.called}, no sibling in {self.apart}   others: {self.others[:4]}"
        )


def divided(names: list[str], planted: str) -> tuple[list[str], list[str]]:
    """Names of the planted module and those below it, and all others."""
    inside = [name for name in names if name == planted or name.startswith(f"{planted}.")]
    return inside, [name for name in names if name not in inside]


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulate", action="store_true", help="made numbers")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--plants", default=",".join(PLANTS), help="changes to plant")
    parser.add_argument("--pool", type=int, default=20, help="runs of each side and model")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60, help="training steps a run")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep the runs, and use those that are there"
    )
    asked = parser.parse_args()
    if asked.simulate:
        simulate(asked.trials)
        return
    with TemporaryDirectory() as folder:
        for name in asked.models.split(","):
            measure(name, asked, asked.keep or Path(folder))


def measure(name: str, asked: argparse.Namespace, folder: Path) -> None:
    """Record the runs of one model that are not there yet, and draw trials from them."""
    plants = asked.plants.split(",")
    script = folder / "train.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPT)
    sides: dict[str, list[RunNumbers]] = {plant: [] for plant in ("", "again", *plants)}
    for number in range(asked.pool):
        for plant in sides:
            trace = folder / f"{name}-{plant or 'as-it-is'}-{number}.mtrace"
            if not trace.exists():
                record(script, trace, name, asked, "" if plant == "again" else plant)
            sides[plant] += runs_in(trace)
    plain = sides[""] + sides["again"]
    places = leaves_of(plain[0])
    unchanged, added = Tally(), Tally()
    planted = {plant: Tally() for plant in plants}
    drawn, none = random.Random(1), np.random.default_rng(0)
    for trial, chosen in enumerate(drawn_rounds(asked.pool, asked.trials)):
        pairs = [drawn.sample((sides[""][number], sides["again"][number]), 2) for number in chosen]
        baseline, candidate = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        unchanged.add(baseline, candidate)
        leaf = places[trial % len(places)]
        slower = [varied(run, none, 0.0, leaf=leaf, share=0.1) for run in candidate]
        added.add(baseline, slower, candidate[0].forest.short_path(leaf))
        for plant, tally in planted.items():
            tally.add(baseline, [sides[plant][number] for number in chosen], PLANTED)
    least_ns = least_step_ns(plain)
    print(f"{name:5} {len(plain[0].modules)} modules, step {least_ns / 1e6:.1f} ms at best, {spread(plain)}")
    print(f"{name:5} unchanged  {unchanged.unchanged()}")
    print(f"{name:5} added      step +10.0 %          {added.changed()}")
    for plant, tally in planted.items():
        change = 100 * (least_step_ns(sides[plant]) / least_ns - 1)
        print(f"{name:5} {plant:9}  step {change:+5.1f} % at best  {tally.changed()}", flush=True)


def drawn_rounds(pool: int, trials: int) -> list[list[int]]:
    """For each trial the rounds whose runs it compares, in order."""
    drawn = random.Random(0)
    span = min(NEIGHBOURS, pool)
    rounds = []
    for _ in range(trials):
        first = drawn.randrange(pool - span + 1)
        rounds.append(sorted(drawn.sample(range(first, first + span), min(RUNS, pool))))
    return rounds


def leaves_of(run: RunNumbers) -> list[int]:
    """Modules that have time and none below them."""
    forest, times = run.forest, run.module_times["subtree"].p50_ns
    return [number for number in forest.parents_first() if not forest.below[number] and times[number] > 0]


def least_step_ns(runs: list[RunNumbers]) -> int:
    """The median step of the run that was least disturbed."""
    return min(int(run.step_times.p50_ns[0]) for run in runs)


def spread(runs: list[RunNumbers]) -> str:
    """The median steps of runs: their median, and the middle nine tenths."""
    steps = np.array([int(run.step_times.p50_ns[0]) for run in runs])
    middle = float(np.median(steps))
    low, high = np.quantile(steps, (0.05, 0.95)) / middle - 1
    return f"median {middle / 1e6:.1f} ms, runs {100 * low:+.0f} .. {100 * high:+.0f} % of it"


def record(script: Path, trace: Path, name: str, asked: argparse.Namespace, plant: str) -> None:
    """Record one run of the script into a trace."""
    part = trace.with_name("part.mtrace")
    words = [sys.executable, "-m", "modtrace", "run", "-q", "--force", "-o", str(part), str(script), name]
    words.append(str(asked.steps))
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PLANT": plant})
    part.rename(trace)


# made numbers -------------------------------------------------------------------------------------------------------


def simulate(trials: int) -> None:
    """Runs that vary as they are told to: each module by itself, and all together as a machine does."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gpt.mtrace"
        write_gpt(path, steps=12, layers=3, memory=False)
        (run,) = runs_in(path)
    print(f"{len(run.modules)} modules, {RUNS} runs against {RUNS}, {trials} trials")
    for noise in (0.01, 0.03, 0.10):
        drawn = np.random.default_rng(0)
        same, slower = Tally(), Tally()
        leaves = leaves_of(run)
        for trial in range(trials):
            base = [varied(run, drawn, noise) for _ in range(RUNS)]
            same.add(base, [varied(run, drawn, noise) for _ in range(RUNS)])
            leaf = leaves[trial % len(leaves)]
            planted = [varied(run, drawn, noise, leaf=leaf, share=0.1) for _ in range(RUNS)]
            slower.add(base, planted, run.forest.short_path(leaf))
        print(f"noise {100 * noise:3.0f} %  unchanged  {same.unchanged()}")
        print(f"noise {100 * noise:3.0f} %  +10 %      {slower.changed()}", flush=True)


def varied(
    run: RunNumbers, drawn: np.random.Generator, noise: float, *, leaf: int = -1, share: float = 0.0
) -> RunNumbers:
    """The run with other times: all of them by a common factor, and each module and phase by its own.

    Args:
        run: what is varied.
        drawn: chance.
        noise: spread of modules; that of the common factor is as large.
        leaf, share: a module that takes longer by a part of the step.
    """
    forest = run.forest
    common = float(np.exp(drawn.normal(0, noise)))
    old = run.module_times["subtree"].p50_ns.astype(np.float64)
    own = old.copy()
    for number in forest.parents_first():
        if forest.above[number] >= 0:
            own[forest.above[number]] -= old[number]
    own *= common * np.exp(drawn.normal(0, noise, len(own)))
    if leaf >= 0:
        own[leaf] += share * common * float(run.step_times.p50_ns[0])
    new = own.copy()
    for number in reversed(forest.parents_first()):
        if forest.above[number] >= 0:
            new[forest.above[number]] += new[number]
    factors = new / np.maximum(old, 1)
    outside = common * np.exp(drawn.normal(0, noise, len(run.outside_names)))
    outside_times = scaled(run.outside_times, outside)
    total = new[forest.tops].sum() + outside_times.p50_ns.sum()
    step = np.full(len(run.step_names), total / max(float(run.step_times.p50_ns[0]), 1))
    return replace(
        run,
        module_times={kind: scaled(times, factors) for kind, times in run.module_times.items()},
        outside_times=outside_times,
        step_times=scaled(run.step_times, step),
    )


def scaled(times: StepTimes, factors: np.ndarray) -> StepTimes:
    """Times, each by its factor."""

    def of(values: np.ndarray) -> np.ndarray:
        return np.where(values >= 0, values * factors, values).astype(np.int64)

    return replace(times, p50_ns=of(times.p50_ns), least_ns=of(times.least_ns), most_ns=of(times.most_ns))


if __name__ == "__main__":
    main()
