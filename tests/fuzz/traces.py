"""Small valid traces of every sort, to be damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch

import modtrace
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.schema import AT_END, AT_START, BACKWARD, MODULE, PHASE
from tests.fuzz.mutate import Image


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
        self.tied = self.layers[0]
        self.never = torch.nn.Linear(2, 2)

    def forward(self, x, mask=None):
        x.sum().item()
        return {"x": self.layers(self.norm(x)), "mask": mask}


class Fails(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x[:, :2])


def _step(model, optimizer):
    with modtrace.span("a span"):
        loss = torch.nn.functional.mse_loss(
            model(torch.randn(3, 4), mask=torch.ones(3))["x"], torch.zeros(3, 4)
        )
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _train(path: Path, steps: int = 7, **options):
    torch.manual_seed(0)
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with modtrace.trace(path=path, **options) as t:
        for _ in range(steps):
            _step(model, optimizer)
            t._tracer.flush()


def forward(path: Path) -> None:
    model = Block().eval()
    with torch.no_grad(), modtrace.trace(path=path, syncs=True) as t:
        t._tracer.gaps.append("something was not recorded")
        for size in (2, 3, 2):
            model(torch.randn(size, 4))
            t._tracer.flush()


def watched(path: Path) -> None:
    _train(path, 4, memory="0:3", saved="0:3", kernels="1:3", syncs=True, rollups=True)


def nonfinite(path: Path) -> None:
    """A run in which an infinity became NaN, with the ranges of values."""
    torch.manual_seed(0)

    class Infinite(torch.nn.Module):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return x * (torch.inf if self.calls == 4 else 1.0)

    class Zero(torch.nn.Module):
        def forward(self, x):
            return x * torch.zeros_like(x)

    model = torch.nn.Sequential(torch.nn.Linear(4, 4), Infinite(), Zero(), torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path, nan=True, values="every 2", values_with="norm", nan_pin=True):
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()


def functions(path: Path) -> None:
    _train(path, 3, functions=True)


def failed(path: Path) -> None:
    model, fails = Block(), Fails()
    with modtrace.trace(path=path) as t:
        model(torch.randn(2, 4))
        for _ in range(2):
            try:
                fails(torch.randn(2, 4))
            except RuntimeError:
                t._tracer.flush()


def killed(path: Path) -> None:
    """As it stood on disk in the middle of a forward."""
    source = path.with_name(f"{path.name}-whole")

    class Copies(torch.nn.ReLU):
        def forward(self, x):
            t._tracer.flush()
            shutil.copytree(source, path, dirs_exist_ok=True)
            return super().forward(x)

    with modtrace.trace(path=source) as t:
        model = torch.nn.Sequential(Block(), torch.nn.Identity())
        model[0].layers.append(Copies())
        for _ in range(2):
            model(torch.randn(2, 4))


def ranks(path: Path) -> None:
    """Two processes, one of which was recorded with threads and a limit."""
    _train(path, 3, rollups=True)
    other = path.with_name(f"{path.name}-other")
    with warnings.catch_warnings(), modtrace.trace(path=other, max_bytes=14_000) as t:
        warnings.simplefilter("ignore")
        model = Block()

        def work():
            for _ in range(5):
                model(torch.randn(2, 4))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while not t._tracer._context.off:
            model(torch.randn(2, 4))
            t._tracer.flush()
    shutil.copytree(other / "rank-0", path / "rank-1")


def thinned(path: Path) -> None:
    """Of 24 steps every third is recorded in full, and one besides whose shapes are new."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path, keep=3) as t:
        for step in range(24):
            model(torch.ones(7 if step == 17 else 3, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 8 == 5:
                t._tracer.flush()


REDUCES = """
import sys, torch, modtrace
from torch import distributed
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
class Reduces(torch.nn.Linear):
    def forward(self, x):
        distributed.all_reduce(x.clone())
        return super().forward(x)
model = Reduces(4, 4)
with modtrace.trace(path=sys.argv[1]) as t:
    for _ in range(4):
        model(torch.randn(2, 4))
        t._tracer.flush()
    distributed.barrier()
"""
"""In a process of its own: a process has one default group."""


def collective(path: Path) -> None:
    """Two ranks of a group, the second as the first and a little later, with one collective that has not ended."""
    command = [sys.executable, "-c", REDUCES, str(path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], timeout=200)
    image = Image(path)
    for name, later in (("rank-0", 0), ("rank-1", 1_000)):
        tables = image.folders[name] = dict(image.folders["rank-0"])
        rows = [{**row, "at_ns": row["at_ns"] + later} for row in tables["collectives.arrows"].to_pylist()]
        rows[-1]["ended"] = False
        groups = [{**row, "ranks": [0, 1]} for row in tables["process_groups.arrows"].to_pylist()]
        for table, content in (("collectives", rows), ("process_groups", groups)):
            tables[f"{table}.arrows"] = pa.Table.from_pylist(content, schema=arrow_schema(table))
    image.write(path)


def device(path: Path) -> None:
    """A training loop as a device would be seen in it, which no machine of the tests has."""
    whole = path.with_name(f"{path.name}-whole")
    _train(whole, 7)
    image = Image(whole)
    tables = image.folders["rank-0"]
    times, starts, memory = [], [], []
    for at, row in enumerate(sorted(tables["calls.arrows"].to_pylist(), key=lambda row: row["call"])):
        begin, took, of = row["start_ns"], row["duration_ns"], {"call": row["call"], "device": "cuda:0"}
        if row["kind"] in (MODULE, BACKWARD, PHASE):
            top = row["parent"] < 0
            times.append({**of, "start_ns": begin + 7 * at if top else None, "device_ns": took + 100 * at})
        if row["parent"] < 0 and row["kind"] in (MODULE, PHASE):
            starts.append({**of, "dry": at % 3 == 0})
            for moment, at_ns in ((AT_START, begin), (AT_END, begin + took)):
                held = {"allocated_bytes": at << 10, "reserved_bytes": at << 11, "peak_bytes": at << 11}
                events = {"total_bytes": at << 12, "retries": at // 3, "ooms": 0, "device_allocs": at}
                split = {"device_frees": at // 2, "inactive_split_bytes": at << 9}
                memory.append({**of, "at_ns": at_ns, "moment": moment, **held, **events, **split})
    for name, rows in (("device_times", times), ("device_starts", starts), ("device_memory", memory)):
        tables[f"{name}.arrows"] = pa.Table.from_pylist(rows, schema=arrow_schema(name))
    image.write(path)


TRACES: dict[str, Callable[[Path], None]] = {
    "forward": forward,
    "training": _train,
    "watched": watched,
    "functions": functions,
    "nonfinite": nonfinite,
    "failed": failed,
    "killed": killed,
    "ranks": ranks,
    "device": device,
    "thinned": thinned,
    "collective": collective,
}
