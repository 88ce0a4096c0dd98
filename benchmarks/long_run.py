"""What a long run costs and how true its trace is: `python benchmarks/long_run.py [--steps N] [--check]`.

No model runs and no clock is read: blocks of calls with times drawn from fixed random numbers go through the code that
chooses steps and keeps sums, from decoded blocks to the files, with a limit on their size. The times are drawn again
afterwards, to hold the percentiles that a reader shows against those of all of them, and to see whether the slowest
steps are there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modtrace.analysis.rollup_windows import rollup_facts
from modtrace.capture.engine.decode import Block, BlockCalls, DecodedCalls
from modtrace.capture.engine.thinning import TakenRows, Thinning
from modtrace.capture.mechanisms.step_sums import StepSums
from modtrace.trace.folder import create, write_json
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import BACKWARD, END_FILE, LATEST_SUFFIX, MODULE, PROCESS_FILE, TABLES
from modtrace.trace.writer import Writer

Ints = npt.NDArray[np.int64]

MODULES = 150
BLOCK_STEPS = 66
"""A block holds about 20,000 calls, as those of a recording do."""
SPREAD = 0.1
HICCUP_STEPS, HICCUP_MODULE = 1000, 3
"""In one of so many steps this module takes some hundred times as long."""
EVERY_BLOCKS = 10
"""The window in progress is written once in so many blocks: half a second of 5 us a call."""
CHECKED = (0, 7, 149)
LIMIT = 30_000_000
SLOWEST = 20
BARS = {
    "slowest steps not in full": 0.0,
    "MB on disk": 30.0,
    "MB more resident": 20.0,
    "% off at p50, p95, p99": 1.0,
}


def times_of(block: int) -> Ints:
    """Times of forwards and backwards, nanoseconds: shape (steps, 2, modules)."""
    chance = np.random.default_rng(block)
    drift = 1 + 0.3 * np.sin(block / 2000)
    middle = 20_000 * (1 + np.arange(MODULES) % 7) * np.array([[1.0], [2.0]])
    noise = np.exp(chance.normal(0, SPREAD, (BLOCK_STEPS, 2, MODULES)))
    hiccups = chance.random(BLOCK_STEPS) < 1 / HICCUP_STEPS
    noise[hiccups, 0, HICCUP_MODULE] *= np.exp(chance.normal(6, 1, int(hiccups.sum())))
    return (middle * drift * noise).astype(np.int64)


class Blocks:
    """Blocks one after another, each a whole number of steps; what is the same in all of them is made once."""

    def __init__(self) -> None:
        count = BLOCK_STEPS * 2 * MODULES
        sides = np.repeat([MODULE, BACKWARD], MODULES)
        self._kind: Ints = np.tile(sides, BLOCK_STEPS).astype(np.int64)
        self._module: Ints = np.tile(np.arange(MODULES), 2 * BLOCK_STEPS).astype(np.int64)
        self._rows = np.arange(count)
        inside = self._rows % (2 * MODULES)
        # The first module of a forward holds the others.
        self._parent = np.where((inside > 0) & (inside < MODULES), self._rows - inside, -1)
        self._none = np.full(count, -1)
        self._zeros, self._timed = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        empty = ("label", "forward", "hooks_ns", "output_replaced", "error")
        self._nulls = {name: np.ones(count, np.bool_) for name in empty}
        self._nulls |= {"duration_ns": self._timed, "self_ns": self._timed}
        widths = {"int8": np.int8, "int32": np.int32, "int64": np.int64, "bool": np.bool_}
        self._columns = {column.name: np.zeros(count, widths[column.type]) for column in TABLES["calls"]}
        self._columns |= {"parent": self._none, "kind": self._kind.astype(np.int8)}
        self._columns |= dict.fromkeys(("module", "root"), self._module.astype(np.int32))

    def calls(self, block: int, start_ns: int) -> tuple[TakenRows, Ints]:
        """The calls of a block, and when each of its steps ended."""
        call = self._rows + block * len(self._rows)
        spent = times_of(block).ravel()
        ends = start_ns + np.cumsum(spent)
        start = ends - spent
        nodes = BlockCalls(
            call=call, kind=self._kind, module=self._module, given=self._zeros, depth=self._zeros,
            start=start, record=self._rows, parent=self._parent, root=self._rows,
        )  # fmt: skip
        rows: dict[str, npt.NDArray[Any]] = self._columns | {
            "call": call,
            "last_call": call,
            "start_ns": start,
        }
        rows |= {"duration_ns": spent, "self_ns": spent}
        taken = TakenRows(0, nodes, Block(rows, self._nulls, {}))
        return taken, ends[2 * MODULES - 1 :: 2 * MODULES]


def resident_mb() -> float:
    """Memory that this process has now."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def record(folder: Path, blocks: int) -> tuple[float, float]:
    """Write the sums of so many blocks; nanoseconds a call, and MB that were resident more."""
    writer = Writer(folder, max_bytes=LIMIT, sums_bytes=LIMIT // 2)
    sums, thinning, made = StepSums(), Thinning(1, is_on=False), Blocks()
    modules = {
        name: [None] * MODULES
        for name in ("variable", "instances", "parameter_count", "parameter_bytes", "trainable_count",
                     "trainable_bytes", "buffer_count", "buffer_bytes", "training", "extra_repr", "source_file",
                     "source_line")
    }  # fmt: skip
    modules |= {"module": [*range(MODULES)], "type": [f"M{n}" for n in range(MODULES)]}
    modules |= {
        "type_module": ["m"] * MODULES,
        "parameters": [[]] * MODULES,
        "overrides_call": [False] * MODULES,
    }
    writer.append("modules", modules, at_ns=0)
    spent_ns = start_ns = step = 0
    before_mb = most_mb = 0.0
    for block in range(blocks):
        taken, ends = made.calls(block, start_ns)
        start_ns = int(ends[-1])
        calls = DecodedCalls(taken.nodes, taken.block.calls, taken.block.calls_nulls)
        begun = time.thread_time_ns()
        for end_ns in ends.tolist():
            step += 1
            sums.step_began(step, end_ns)
            thinning.step_began(step, end_ns, is_known=True)
        write_chosen(writer, thinning, taken, start_ns)
        sums.add(calls, 0, 0, None)
        sums.finish(start_ns)
        for columns in filter(None, [sums.closed()]):
            writer.append("rollups", columns, at_ns=start_ns)
        if block % EVERY_BLOCKS == 0:
            writer.replace("rollups", sums.latest(), at_ns=start_ns)
            writer.replace("thinned", thinning.latest(), at_ns=start_ns)
        spent_ns += time.thread_time_ns() - begun
        if block == EVERY_BLOCKS:
            before_mb = resident_mb()
        if block % 100 == 0:
            most_mb = max(most_mb, resident_mb())
    sums.close()
    writer.append("rollups", sums.closed(), at_ns=start_ns)
    writer.replace("rollups", {}, at_ns=start_ns)
    writer.replace("thinned", thinning.latest(), at_ns=start_ns)
    writer.close()
    write_json(folder, END_FILE, {"ended_ns": start_ns, "rows": writer.rows})
    return spent_ns / (blocks * BLOCK_STEPS * 2 * MODULES), max(most_mb, resident_mb()) - before_mb


def write_chosen(writer: Writer, thinning: Thinning, taken: TakenRows, at_ns: int) -> None:
    """Write those calls of a block that are recorded."""
    thinning.room_bytes = writer.room_bytes(thinning.sums_growth)
    thinning.prepare(len(taken.nodes.call), writer.single_bytes, at_ns)
    blocks = [taken.block]
    if thinning.is_on:
        blocks, _ = thinning.chosen([taken], [], at_ns)
        stretches = thinning.stretches()
        if stretches["every"]:
            writer.append("thinned", stretches, at_ns=at_ns)
    for block in blocks:
        writer.append("calls", block.calls, nulls=block.calls_nulls, at_ns=at_ns)


def missing_slow_steps(path: Path, blocks: int) -> tuple[int, int]:
    """The number of the slowest steps that are not recorded in full, and that of all steps that are."""
    took = np.concatenate([times_of(block).sum(axis=(1, 2)) for block in range(blocks)])
    recorded = np.ones(len(took), np.bool_)
    for row in open_trace(path).table("thinned").to_pylist():
        recorded[row["first_step"] : row["end_step"]] = False
    slowest = np.argsort(-took)[:SLOWEST]
    return int((~recorded[slowest]).sum()), int(recorded.sum())


def worst_error(path: Path, blocks: int) -> float:
    """The most that a percentile is off that of all times, in percent."""
    facts = rollup_facts(open_trace(path))
    assert facts is not None
    shown = {(row.type, row.side): row for row in facts.modules}
    worst = 0.0
    for side, name in enumerate(("forward", "backward")):
        times = np.concatenate([times_of(block)[:, side, CHECKED] for block in range(blocks)])
        for column, module in enumerate(CHECKED):
            row = shown[f"M{module}", name]
            assert row.steps == row.calls == len(times)
            assert row.total_ns == int(times[:, column].sum())
            assert row.max_ns == int(times[:, column].max())
            exact = np.percentile(times[:, column], (50, 95, 99))
            for value, true in zip((row.p50_ns, row.p95_ns, row.p99_ns), exact.tolist(), strict=True):
                worst = max(worst, abs(value - true) / true * 100)
    return worst


def main() -> int:
    """Measure; with --check the status says whether the bars are kept to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    blocks = max(options.steps // BLOCK_STEPS, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mtrace"
        rank = create(path, {"format": "modtrace", "schema": 1, "modtrace": "0"}, process="rank-0")
        write_json(rank, PROCESS_FILE, {"pid": 1, "rank": 0})
        call_ns, more_mb = record(rank, blocks)
        files = [file for file in rank.iterdir() if file.suffix != LATEST_SUFFIX]
        missing, recorded = missing_slow_steps(path, blocks)
        figures = {
            "slowest steps not in full": missing,
            "MB on disk": sum(file.stat().st_size for file in files) / 1e6,
            "MB more resident": more_mb,
            "% off at p50, p95, p99": worst_error(path, blocks),
        }
    print(
        f"{blocks * BLOCK_STEPS:,} steps x {MODULES} modules, forward and backward; {call_ns:.0f} ns a call; "
        f"{recorded:,} steps in full\n"
    )
    for name, value in figures.items():
        print(f"{name:28} {value:8.2f}   at most {BARS[name]:g}")
    return int(options.check and any(value > BARS[name] for name, value in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
