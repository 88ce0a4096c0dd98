"""Loops as people have them, launched by torchrun or `accelerate launch` on 2 to 4 Gloo ranks: losses are those of
plain python, every rank is in the trace with all of its steps.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

import modtrace
from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.trace.reader import open_trace

BEGIN = """
import os, logging, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn

STEPS = 5
losses = []
torch.manual_seed(0)
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x, labels=None):
        loss = self.down(self.up(x).relu()).square().mean()
        losses.append(float(loss.detach()))
        return {"loss": loss}


rows = [{"x": torch.randn(8, generator=torch.Generator().manual_seed(n)), "labels": n} for n in range(64)]
"""
END = """
with open(os.environ["RESULT"] + "-" + os.environ["RANK"], "w") as file:
    print(losses, file=file)
"""
BY_HAND = """
import torch.distributed as dist
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
net = Net()
{shard}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(STEPS):
    optimizer.zero_grad()
    model(torch.stack([rows[(4 * step + n) * world % 60 + rank * {by_rank}]["x"] for n in range(4)]))["loss"].backward()
    optimizer.step()
dist.destroy_process_group()
"""
DDP = BY_HAND.format(shard="model = nn.parallel.DistributedDataParallel(net)", by_rank=1)
MESH = BY_HAND.format(
    shard="""
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
parallelize_module(net, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
model = fully_shard(net, mesh=mesh["data"])
""",
    by_rank=0,
)
ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
net = Net()
loader = torch.utils.data.DataLoader(rows, batch_size=4)
model, optimizer, loader = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1), loader)
for step, batch in zip(range(STEPS), loader):
    optimizer.zero_grad()
    accelerator.backward(model(batch["x"])["loss"])
    optimizer.step()
torch.distributed.destroy_process_group()
"""
LIGHTNING = """
import lightning
logging.disable()


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def training_step(self, batch, number):
        return self.net(batch["x"])["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_steps=STEPS, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Lit(), torch.utils.data.DataLoader(rows, batch_size=4))
"""
TRANSFORMERS = """
import transformers
arguments = transformers.TrainingArguments(
    "out", use_cpu=True, ddp_backend="gloo", max_steps=STEPS, per_device_train_batch_size=4, report_to=[],
    save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False,
)
transformers.Trainer(Net(), arguments, train_dataset=rows).train()
torch.distributed.destroy_process_group()
"""
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
# With --cpu it would start one process, whatever --num_processes says: docs/guides/distributed.md.
ACCELERATE_LAUNCH = (
    "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes",
)  # fmt: skip
JOBS = {  # launcher, ranks, what has to be installed, the loop
    "ddp": (TORCHRUN, 3, "torch", DDP),
    "mesh": (TORCHRUN, 4, "torch", MESH),
    "accelerate": (TORCHRUN, 2, "accelerate", ACCELERATE),
    "accelerate_launch": (ACCELERATE_LAUNCH, 2, "accelerate", ACCELERATE),
    "lightning": (TORCHRUN, 2, "lightning", LIGHTNING),
    "transformers": (TORCHRUN, 2, "transformers", TRANSFORMERS),
}


def launched(folder, launcher, ranks, *prefix):
    """What each rank wrote as its losses; all of them have ended well."""
    name = "traced" if prefix else "plain"
    done = subprocess.run(
        [sys.executable, "-m", *launcher, str(ranks), *prefix, "job.py"],
        cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "RESULT": str(folder / name), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [(folder / f"{name}-{rank}").read_text() for rank in range(ranks)]


@pytest.mark.parametrize("loop", JOBS)
def test_losses_are_those_of_plain_python_and_every_rank_is_there(tmp_path, loop):
    launcher, ranks, needed, code = JOBS[loop]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    (tmp_path / "job.py").write_text(BEGIN + code + END)
    plain = launched(tmp_path, launcher, ranks)
    assert launched(tmp_path, launcher, ranks, "-m", "modtrace", "run", "-q", "-o", "job.mtrace") == plain
    assert all(text.count(",") == 4 for text in plain)  # five losses each
    assert loop == "mesh" or plain[0] != plain[1]
    report = rank_report(open_trace(tmp_path / "job.mtrace"))
    assert [rank.rank for rank in report.ranks] == [*range(ranks)]
    assert [rank.end.state for rank in report.ranks] == ["exit 0"] * ranks
    assert [rank.whole_steps for rank in report.ranks] == [5] * ranks
    assert set(report.roles) == {0}
    trace = modtrace.load(tmp_path / "job.mtrace")
    assert trace.gaps["rank"].isna().all()  # no rank lost anything; a note of the reader is of none
    calls = trace.calls[(trace.calls["kind"] == "module") & trace.calls["type"].isin(["Net", "FSDPNet"])]
    assert calls.groupby("rank").size().to_dict() == dict.fromkeys(range(ranks), 5)
    names = {place.name.rpartition(".")[2] for place in (module.place for module in report.modules)}
    assert {"up", "down"} <= names
