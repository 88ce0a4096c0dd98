"""Real ranks, one of them slower: is it named? `python benchmarks/stragglers.py [--runs N] [--seed S] [--ranks R]`.

Each run trains twelve layers under DistributedDataParallel on R Gloo ranks of this machine, recorded, and `modtrace
ranks` judges it. Of each N runs with a slow layer there are as many clean ones, and a fifth as many with slow input.
The seed chooses rank, layer, forward or backward, and whether the layer's 20 % more is a sleep or a bigger tensor. What
a layer takes is slept, so that ranks do not disturb each other on few cores; all else that runs on the machine does.

The ranks of all runs are started once and record with `modtrace.trace`; with --apart each run is a job of its own, by
`torchrun -m modtrace run`. --check: the status says whether each run was judged right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.trace.reader import open_trace

LAYERS: Final = 12
INPUT_EVERY: Final = 5
JOB_S: Final = 120
RIGHT, ALSO_OTHERS, WRONG, NOT_NAMED = "right", "right, others too", "wrong", "none"

JOB = """
import contextlib, json, os, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn

LAYER_S, STEPS, DATA_LAYERS, SLOWER, WIDTH = float(sys.argv[2]), int(sys.argv[3]), 5, 0.2, 128
torch.set_num_threads(1)


def work(amount):
    '''Sleep, and multiply matrices so many times.'''
    seconds, products = amount
    time.sleep(seconds)
    for _ in range(products):
        torch.mm(big, big)


class Work(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_work = backward
        work(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        work(ctx.backward_work)
        return gradient.clone(), None, None


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))
        self.work = {"forward": (LAYER_S, 0), "backward": (LAYER_S, 0)}

    def forward(self, x):
        return Work.apply(x @ self.weight, self.work["forward"], self.work["backward"])


class Rows(torch.utils.data.Dataset):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return STEPS

    def __getitem__(self, row):
        time.sleep(self.seconds)
        return torch.ones(8)


def train(run):
    slow = run["rank"] == dist.get_rank()
    layers = [Layer() for _ in range(12)]
    if slow and run["layer"] >= 0:
        more = (LAYER_S * (1 + SLOWER), 0) if run["by"] == "sleep" else (LAYER_S, products)
        layers[run["layer"]].work[run["direction"]] = more
    data_s = LAYER_S * DATA_LAYERS * (1 + SLOWER * (slow and run["layer"] < 0))
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for rows in torch.utils.data.DataLoader(Rows(data_s), batch_size=1):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()


def products_of_a_slow_layer():
    '''As many products as take what a slow layer takes more: the least time of several, on the first rank.'''
    least = 1.0
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(5):
            torch.mm(big, big)
        least = min(least, (time.perf_counter() - begun) / 5)
    count = torch.tensor([max(round(SLOWER * LAYER_S / least), 1)])
    dist.broadcast(count, 0)
    return int(count)


dist.init_process_group("gloo")
big = torch.ones(WIDTH, WIDTH)
products = products_of_a_slow_layer()
runs = json.loads(Path(sys.argv[1]).read_text())
for run in runs:
    dist.barrier()
    if "MODTRACE_APART" in os.environ:
        train(run)
        continue
    import modtrace
    with modtrace.trace(path=run["path"]):
        train(run)
    dist.barrier()
    if dist.get_rank() == 0:
        Path(run["path"] + ".done").touch()
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Run:
    """A job: `rank` is the slow one, -1 for none; `layer` is -1 for slow input."""

    path: str
    what: str
    rank: int = -1
    layer: int = -1
    direction: str = ""
    by: str = ""

    @property
    def wanted(self) -> list[tuple[int, str]]:
        if self.rank < 0:
            return []
        return [(self.rank, f"module.{self.layer} {self.direction}" if self.layer >= 0 else "input")]

    def __str__(self) -> str:
        wanted = "; ".join(f"rank {rank} {place}" for rank, place in self.wanted)
        return f"{self.what:6} {wanted:28} {self.by:6}"


def runs_of(options: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """The runs of a trial, the kinds in turn."""
    for number in range(options.runs):
        chance = random.Random(f"{options.seed} {number}")
        rank, layer = chance.randrange(options.ranks), chance.randrange(LAYERS)
        direction, by = chance.choice(["forward", "backward"]), chance.choice(["sleep", "tensor"])
        yield Run(str(folder / f"{number}-slow.mtrace"), "layer", rank, layer, direction, by)
        yield Run(str(folder / f"{number}-clean.mtrace"), "clean")
        if number % INPUT_EVERY == 0:
            yield Run(
                str(folder / f"{number}-input.mtrace"), "input", chance.randrange(options.ranks), by="sleep"
            )


def judged(run: Run) -> tuple[str, str]:
    """How the verdict of `modtrace ranks` fits, and that verdict with all its numbers."""
    report = rank_report(open_trace(run.path))
    named = [(late.rank, late.place.text if late.place else late.verdict.cause) for late in report.late]
    text = "; ".join(
        f"rank {rank} {place} +{late.verdict.excess_ns / 1e6:.2f} ms ({late.verdict.relative:.0%})"
        for (rank, place), late in zip(named, report.late, strict=True)
    )
    if not report.compared_steps:
        text = report.why_not
    if named == run.wanted:
        return RIGHT, text
    if run.wanted and run.wanted[0] in named:
        return ALSO_OTHERS, text
    return (WRONG if named else NOT_NAMED), text


def started(
    options: argparse.Namespace, folder: Path, runs: list[Run], path: str = ""
) -> subprocess.Popen[bytes]:
    """The ranks of some runs; with a path each is started by `modtrace run`."""
    (folder / "job.py").write_text(JOB)
    todo = folder / "runs.json"
    todo.write_text(json.dumps([asdict(run) for run in runs]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(options.ranks),
    ]
    if path:
        environment["MODTRACE_APART"] = "1"
        words += ["-m", "modtrace", "run", "-q", "-o", path]
    words += ["job.py", str(todo), str(options.layer_ms / 1000), str(options.steps)]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def recorded(options: argparse.Namespace, folder: Path) -> Iterator[Run]:
    """The runs, each as soon as its trace is whole.

    Raises:
        RuntimeError: a job failed, or wrote nothing for JOB_S and the time that its steps take.
    """
    runs = list(runs_of(options, folder))
    if options.apart:
        for run in runs:
            if started(options, folder, [run], run.path).wait(JOB_S + options.steps):
                raise RuntimeError(f"the job of this run failed: {run}")
            yield run
        return
    job = started(options, folder, runs)
    try:
        for run in runs:
            until = time.monotonic() + JOB_S + options.steps
            while not Path(f"{run.path}.done").exists():
                if job.poll() or time.monotonic() > until:
                    raise RuntimeError(f"the job ended, or hangs, in this run: {run}")
                time.sleep(0.1)
            yield run
        job.wait(JOB_S)
    finally:
        job.terminate()
        job.wait()


def shown(counts: dict[str, Counter[str]]) -> list[str]:
    """The table: a line a kind of run."""
    titles = {"layer": "slow layer", "clean": "clean", "input": "slow input"}
    lines = [
        f"{'':12}{'runs':>6}" + "".join(f"{title:>19}" for title in (RIGHT, ALSO_OTHERS, WRONG, NOT_NAMED))
    ]
    for what, title in titles.items():
        of = counts[what]
        cells = "".join(f"{of[verdict]:>19}" for verdict in (RIGHT, ALSO_OTHERS, WRONG, NOT_NAMED))
        lines.append(f"{title:12}{of.total():>6}{cells}")
    return lines


def main() -> int:
    """Run the trial and print a line a run and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--layer-ms", type=float, default=4.0)
    parser.add_argument("--apart", action="store_true", help="each run is a job of its own")
    parser.add_argument("--keep", help="a directory for the traces")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    counts = {what: Counter[str]() for what in ("layer", "clean", "input")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for run in recorded(options, folder):
            verdict, text = judged(run)
            counts[run.what][verdict] += 1
            print(f"{run} {verdict:18} {text}", flush=True)
    print(f"\n{options.ranks} ranks, {options.steps} steps, {options.layer_ms:g} ms a layer and direction")
    print("\n".join(shown(counts)))
    return int(options.check and any(of[RIGHT] < of.total() for of in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
