"""Loops as people have them, launched by torchrun on 2 or 3 Gloo ranks: losses are those of plain python, every rank is
in the trace with all of its steps.
"""

from __future__ import annotations

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
DDP = """
import torch.distributed as dist
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = nn.parallel.DistributedDataParallel(Net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(STEPS):
    optimizer.zero_grad()
    model(torch.stack([rows[(4 * step + n) * world % 60 + rank]["x"] for n in range(4)]))["loss"].backward()
    optimizer.step()
dist.destroy_process_group()
"""
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
JOBS = {
    "ddp": (3, DDP),
    "accelerate": (2, ACCELERATE),
    "lightning": (2, LIGHTNING),
}


def launched(folder, ranks, *prefix):
    """What each rank wrote as its losses."""
    name = "traced" if prefix else "plain"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*launcher, *prefix, "job.py"], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "RESULT": str(folder / name), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [(folder / f"{name}-{rank}").read_text() for rank in range(ranks)]


@pytest.mark.parametrize("loop", JOBS)
def test_losses_are_those_of_plain_python_and_every_rank_is_there(tmp_path, loop):
    ranks, code = JOBS[loop]
    (tmp_path / "job.py").write_text(BEGIN + code + END)
    plain = launched(tmp_path, ranks)
    assert launched(tmp_path, ranks, "-m", "modtrace", "run", "-q", "-o", "job.mtrace") == plain
    assert all(text.count(",") == 4 for text in plain)  # five losses each
    assert plain[0] != plain[1]
    report = rank_report(open_trace(tmp_path / "job.mtrace"))
    assert [rank.rank for rank in report.ranks] == [*range(ranks)]
    assert [rank.end.state for rank in report.ranks] == ["exit 0"] * ranks
    assert [rank.whole_steps for rank in report.ranks] == [5] * ranks
    assert set(report.roles) == {0}
    trace = modtrace.load(tmp_path / "job.mtrace")
    assert trace.gaps["rank"].isna().all()  # no rank lost anything; a note of the reader is of none
    calls = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["type"] == "Net")]
    assert calls.groupby("rank").size().to_dict() == dict.fromkeys(range(ranks), 5)
    names = {place.name.rpartition(".")[2] for place in (module.place for module in report.modules)}
    assert {"up", "down"} <= names
