"""What many ranks cost to look at: `python benchmarks/ranks.py [--ranks N] [--steps N] [--check]`.

One rank is recorded. The others are made of it: each has sums of its own (`--rollups`), of times drawn from fixed
random numbers, through the code that adds them up and writes them; all other files are those of the one. One rank is
20 % slower in one module from the middle of the run on, and must be the one that is named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modtrace.capture.engine.decode import BlockCalls, DecodedCalls
from modtrace.capture.mechanisms.step_sums import StepSums
from modtrace.trace.schema import BACKWARD, MODULE, PHASE
from modtrace.trace.writer import Writer

Ints = npt.NDArray[np.int64]

GROUPS = 20
BLOCK_STEPS = 100
SPREAD = 0.05
SLOW_GROUP, SLOWER = 6, 1.2
LABELS = ("data", "backward", "optimizer")
DATA, BACK, OPTIMIZER = range(3)
PHASE_NS = (200_000, 0, 400_000)
WAIT_NS = 300_000
ROWS = 2 * GROUPS + len(LABELS)
BARS = {"ranks": (20.0, 1000.0), "info": (2.0, 300.0)}
"""CPU seconds and MB of memory."""
INFO_RANKS = 256

TEMPLATE = """
import torch, modtrace
from torch import nn
model = nn.Sequential(*(nn.Linear(4, 4) for _ in range({layers})))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with modtrace.trace(path={path!r}, rollups=True):
    for _ in range({steps}):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
"""


class Steps:
    """Steps of one rank as blocks of decoded calls: a wait for data, a forward of a root and what is in it, a backward
    of each at whose end others are waited for, an optimizer.
    """

    def __init__(self, modules: list[int]) -> None:
        """`modules` are their numbers, the root first."""
        self._kind = np.array([PHASE, *[MODULE] * GROUPS, PHASE, *[BACKWARD] * GROUPS, PHASE], np.int64)
        numbers = [DATA, *modules, BACK, *modules[::-1], OPTIMIZER]
        self._module = np.array(numbers, np.int64)
        self._parent = np.full(ROWS, -1)
        self._parent[2 : GROUPS + 1] = 1
        self._parent[GROUPS + 2 : 2 * GROUPS + 2] = GROUPS + 1

    def block(
        self, chance: np.random.Generator, count: int, slower: Ints, start_ns: int
    ) -> tuple[DecodedCalls, Ints]:
        """The calls of some steps, and when each of these ended.

        Args:
            chance: what times are drawn from.
            count: of steps.
            slower: factor of SLOW_GROUP in each step.
            start_ns: when the first begins.
        """
        own = np.zeros((count, ROWS))
        own[:, 1 : GROUPS + 1] = 100_000 * (1 + np.arange(GROUPS) % 7)
        own[:, GROUPS + 2 : 2 * GROUPS + 2] = 2 * own[:, GROUPS:0:-1]
        own[:, 0], own[:, -1], own[:, GROUPS + 1] = PHASE_NS[DATA], PHASE_NS[OPTIMIZER], WAIT_NS
        own *= np.exp(chance.normal(0, SPREAD, own.shape))
        own[:, 1 + SLOW_GROUP] *= slower
        own = own.astype(np.int64)
        spent = own.copy()
        spent[:, 1] = own[:, 1 : GROUPS + 1].sum(axis=1)
        spent[:, GROUPS + 1] = own[:, GROUPS + 1 : 2 * GROUPS + 2].sum(axis=1)
        # Rows are in order of start; where inside its parent a call begins does not matter here.
        top = self._parent < 0
        ends = start_ns + np.cumsum(spent[:, top].sum(axis=1))
        begin = np.concatenate([[start_ns], ends[:-1]])[:, None] + np.cumsum(np.where(top, spent, 0), axis=1)
        start = (begin - np.where(top, spent, 0)).ravel()
        rows = np.arange(count * ROWS)
        parent = np.where(top, -1, self._parent + ROWS * np.arange(count)[:, None]).ravel()
        zeros = np.zeros(len(rows), np.int64)
        nodes = BlockCalls(
            call=rows, kind=np.tile(self._kind, count), module=np.tile(self._module, count), given=zeros, depth=zeros,
            start=start, record=rows, parent=parent, root=rows,
        )  # fmt: skip
        none = np.zeros(len(rows), np.bool_)
        columns: dict[str, npt.NDArray[Any]] = {
            "start_ns": start, "duration_ns": spent.ravel(), "self_ns": own.ravel()
        }  # fmt: skip
        return DecodedCalls(nodes, columns, {"duration_ns": none, "self_ns": none}), ends


def write_sums(folder: Path, rank: int, steps: int, modules: list[int], *, slow: bool) -> None:
    """The rollups of a rank, in a folder that is made for it."""
    folder.mkdir()
    writer, sums, made = Writer(folder, max_bytes=None), StepSums(), Steps(modules)
    chance = np.random.default_rng(rank)
    start_ns = 0
    for first in range(0, steps, BLOCK_STEPS):
        numbers = np.arange(first, min(first + BLOCK_STEPS, steps))
        slower = np.where(slow & (numbers >= steps // 2), SLOWER, 1.0)
        calls, ends = made.block(chance, len(numbers), slower, start_ns)
        start_ns = int(ends[-1])
        for number, end_ns in zip(numbers.tolist(), ends.tolist(), strict=True):
            sums.step_began(number + 1, end_ns)
        sums.add(calls, 0, 0, LABELS.__getitem__)
        sums.finish(start_ns)
        if columns := sums.closed():
            writer.append("rollups", columns, at_ns=start_ns)
    sums.close()
    writer.append("rollups", sums.closed(), at_ns=start_ns)
    writer.close()


def make(folder: Path, ranks: int, steps: int, slow_rank: int) -> Path:
    """A trace of so many ranks."""
    path = folder / f"{ranks}.mtrace"
    code = TEMPLATE.format(layers=GROUPS - 1, path=str(path), steps=steps)
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
    from modtrace.trace.reader import open_trace
    from modtrace.trace.table_keys import ints

    first = path / "rank-0"
    modules = ints(open_trace(path).alone(first).unmerged("modules"), "module").tolist()
    about = json.loads((first / "process.json").read_text())
    own = {"rollups.arrows", "rollups.latest", "process.json"}
    shared = [file for file in first.iterdir() if file.name not in own]
    for rank in range(ranks):
        target, scratch = path / f"rank-{rank}", folder / f"sums-{rank}"
        write_sums(scratch, rank, steps, modules[:GROUPS], slow=rank == slow_rank)
        if rank:
            target.mkdir()
            for file in shared:
                os.link(file, target / file.name)
        shutil.move(scratch / "rollups.arrows", target / "rollups.arrows")
        (target / "process.json").write_text(json.dumps(about | {"rank": rank, "world_size": ranks}))
        shutil.rmtree(scratch)
    return path


def measured(words: list[str]) -> tuple[str, float, float]:
    """What a command prints, its CPU seconds, and the most memory that it took, in MB."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "modtrace", *words], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        output.seek(0)
        return output.read(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> int:
    """Measure; with --check the status says whether the bars are kept to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    late = []
    with tempfile.TemporaryDirectory() as folder:
        print(f"{options.steps:,} steps x {GROUPS} modules\n")
        print(f"{'':34} {'CPU s':>7} {'at most':>8} {'MB':>7} {'at most':>8}")
        for command, ranks in (("ranks", options.ranks), ("info", min(INFO_RANKS, options.ranks))):
            slow_rank = ranks * 2 // 3
            begun = time.process_time()
            path = make(Path(folder), ranks, options.steps, slow_rank)
            made_s = time.process_time() - begun
            text, cpu_s, memory_mb = measured([command, str(path)])
            cpu_bar, memory_bar = BARS[command]
            name = f"modtrace {command}, {ranks:,} ranks"
            print(
                f"{name:34} {cpu_s:7.1f} {cpu_bar:8g} {memory_mb:7.0f} {memory_bar:8g}   (made in {made_s:.0f} s)"
            )
            late.append(cpu_s > cpu_bar or memory_mb > memory_bar)
            if command == "ranks":
                named = f"rank {slow_rank} is " in text and text.count(" slower in ") == 1
                print(f"  names the slow rank, and no other: {'yes' if named else 'NO'}")
                late.append(not named)
            shutil.rmtree(path)
    return int(options.check and any(late))


if __name__ == "__main__":
    sys.exit(main())
