"""Jobs that shard a model, on Gloo: results are those of plain python, and ranks are put together by what they have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import modtrace
from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.trace.reader import open_trace

SCRIPT = """
import os, sys
import torch, torch.distributed as dist
from torch import nn

kind = sys.argv[1]
torch.manual_seed(0)
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.up(x).relu())

steps = 6
if kind == "fully_shard":
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (world,))
    model = nn.Sequential(Block(), Block())
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
elif kind == "tensor":
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    model = nn.Sequential(Block(), Block())
    for block in model:
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(block, init_device_mesh("cpu", (world,)), plan)
elif kind == "pipeline":
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
    model = nn.Sequential(Block()) if rank == 0 else nn.Sequential(Block(), nn.Linear(8, 2))
    stage = PipelineStage(model, rank, world, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=nn.functional.mse_loss)
else:
    model = nn.Sequential(Block(), Block())
    steps += 3 * rank
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for step in range(steps):
    optimizer.zero_grad()
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
    if kind == "pipeline":
        if rank == 0:
            schedule.step(x)
        else:
            schedule.step(target=torch.zeros(4, 2), losses=(part := []))
            losses.append(float(sum(part)))
    else:
        loss = model(x).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
    optimizer.step()
with open(f"{os.environ['RESULT']}-{rank}", "w") as file:
    own = [getattr(parameter.detach(), "_local_tensor", parameter.detach()) for parameter in model.parameters()]
    print(losses, [float(part.double().sum()) for part in own], file=file)
dist.destroy_process_group()
"""
KINDS = ("fully_shard", "tensor", "pipeline", "unequal")


def launched(folder, kind, *prefix):
    """What each rank wrote as its result."""
    name = "traced" if prefix else "plain"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, *prefix, "job.py", kind], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "RESULT": str(folder / name), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [(folder / f"{name}-{rank}").read_text() for rank in range(2)]


@pytest.fixture(scope="module", params=KINDS)
def job(request, tmp_path_factory):
    """The kind of a job and its trace; what it computed is what it computes without modtrace."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "job.py").write_text(SCRIPT)
    plain = launched(folder, request.param)
    traced = launched(folder, request.param, "-m", "modtrace", "run", "-q", "--rollups", "-o", "job.mtrace")
    assert traced == plain
    return request.param, folder / "job.mtrace"


def test_ranks_of_one_role_have_the_same_modules_and_shapes(job):
    kind, path = job
    report = rank_report(open_trace(path))
    assert [rank.end.state for rank in report.ranks] == ["exit 0", "exit 0"]
    assert [rank.whole_steps for rank in report.ranks] == ([6, 9] if kind == "unequal" else [6, 6])
    frame = modtrace.load(path).modules
    names = [set(frame[(frame["rank"] == rank) & (frame["calls"] > 0)]["name"]) for rank in (0, 1)]
    if kind == "pipeline":  # a stage each
        assert set(report.roles) == {0, 1}
        assert "1" in names[1] - names[0]
        return
    assert set(report.roles) == {0}
    assert names[0] == names[1]
    assert {"0.up", "0.down", "1.up", "1.down"} <= names[0]
    merged = {(module.place.name, module.place.direction): module for module in report.modules}
    for name in ("0.up", "1.down"):
        assert merged[name, "forward"].ranks == 2
        assert sorted(dict(merged[name, "forward"].by_rank)) == [0, 1]


def test_sums_of_each_rank_are_those_of_its_calls(job):
    """Each module forward of each rank, in the steps that ended."""
    kind, path = job
    trace = modtrace.load(path)
    sums = trace.rollups
    sums = sums[sums["kind"] == "module"].groupby("module_id")[["calls", "forward_ns"]].sum()
    calls = trace.calls
    rows = calls[(calls["kind"] == "module") & (calls["phase"] != "recompute") & calls["step"].notna()]
    rows = rows.groupby("module_id")["duration_ns"].agg(["size", "sum"])
    ran = rows[rows["size"] > 0]
    assert len(ran) > 3
    for module in ran.index:
        assert sums["calls"][module] == ran["size"][module], (kind, module)
        assert sums["forward_ns"][module] == ran["sum"][module], (kind, module)
