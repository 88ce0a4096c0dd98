"""Loops as people write them, unedited: plain PyTorch, Hugging Face Trainer, Lightning, Accelerate.

Each runs under plain python and under `modtrace run`; what they print (losses in full precision) must be the same.
"""

from __future__ import annotations

import textwrap

import pytest

import modtrace
from modtrace.trace.schema import PHASES
from tests.e2e.test_run import start
from tests.torture.compare import assert_well_formed

SPENT = [f"{name}_ns" for name in (*PHASES, "other")]

PLAIN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
data = DataLoader(TensorDataset(torch.randn(24, 8), torch.randint(0, 3, (24,))), batch_size=4)
for epoch in range(2):
    for number, (x, y) in enumerate(data):
        loss = nn.functional.cross_entropy(model(x), y) / 2
        loss.backward()
        if number % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        print(float(loss))
    model.eval()
    with torch.no_grad():
        print(sum(float(model(x).sum()) for x, _ in data))
    model.train()
"""

TRAINER = """
import torch, warnings
warnings.simplefilter("ignore")
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments
torch.manual_seed(0)
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
model = BertForSequenceClassification(config)
rows = [{"input_ids": torch.randint(0, 50, (6,)), "labels": torch.tensor(i % 2)} for i in range(16)]
arguments = TrainingArguments(
    output_dir="out", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=4, report_to=[],
    save_strategy="no", logging_steps=1, use_cpu=True, disable_tqdm=True, seed=0, eval_strategy="steps", eval_steps=2,
)
trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4])
trainer.remove_callback(PrinterCallback)  # it prints times
trainer.train()
for entry in trainer.state.log_history:
    print({key: value for key, value in entry.items() if key in ("loss", "eval_loss", "grad_norm")})
"""

LIGHTNING = """
import torch, warnings, logging
warnings.simplefilter("ignore")
import lightning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    def training_step(self, batch, _):
        loss = self.body(batch[0]).square().mean()
        print(float(loss))
        return loss
    def validation_step(self, batch, _):
        self.log("validation", self.body(batch[0]).mean())
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
lightning.seed_everything(0)
data = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=2)
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Lit(), data, data)
"""

ACCELERATE = """
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
data = DataLoader(TensorDataset(torch.randn(16, 4)), batch_size=2)
model, optimizer, data = accelerator.prepare(model, torch.optim.Adam(model.parameters()), data)
for (x,) in data:
    with accelerator.accumulate(model):
        loss = model(x).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    print(float(loss))
"""


def both(folder, script):
    """The trace of a script that prints the same under plain python and under `modtrace run`."""
    (folder / "train.py").write_text(textwrap.dedent(script))
    plain = start(folder, "train.py")
    assert plain.returncode == 0, plain.stderr.decode()[-2000:]
    traced = start(folder, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py")
    assert traced.returncode == 0, traced.stderr.decode()[-2000:]
    assert traced.stdout == plain.stdout
    trace = modtrace.load(folder / "t.mtrace")
    steps = trace.steps
    assert (steps["duration_ns"] == steps[SPENT].sum(axis=1)).all()
    assert (steps[SPENT] >= 0).all(axis=None)
    assert (trace.calls["status"] == "ok").all()
    assert not len(trace._stored.table("gaps"))
    assert_well_formed(trace.calls)
    return trace


def phases(trace, number):
    """The phases of one step, in order; a run of equal ones is one."""
    calls = trace.calls
    step = trace.steps["call"][number]
    found = [str(name) for name in calls[(calls["parent"] == step)]["name"]]
    return [name for at, name in enumerate(found) if not at or found[at - 1] != name]


def test_plain_loop_with_accumulation(tmp_path):
    trace = both(tmp_path, PLAIN)
    assert len(trace.steps) == 6
    assert (trace.steps["samples"] == 8).all()
    assert phases(trace, 1) == ["zero_grad", *["data", "forward", "loss", "backward"] * 2, "optimizer"]
    assert (trace.steps["eval_ns"] == 0).all()
    evals = trace.calls[(trace.calls["phase"] == "eval") & (trace.calls["kind"] == "module")]
    assert len(evals) == 12 * 5
    assert evals["step"].isna().all()
    modules = trace.modules
    assert (modules["backward_total_ns"] > 0).all()


def test_hugging_face_trainer(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    trace = both(tmp_path, TRAINER)
    assert len(trace.steps) == 4
    assert (trace.steps["samples"].dropna() == 4).all()
    for number in range(4):
        found = phases(trace, number)
        assert found.count("backward") == 2
        assert found.count("forward") == 2
        assert found.count("optimizer") == 1
    assert (trace.steps["eval_ns"] == 0).all()
    roots = trace.calls[
        (trace.calls["type"] == "BertForSequenceClassification") & (trace.calls["kind"] == "module")
    ]
    assert (roots["phase"] == "forward").sum() == 8
    assert (roots["phase"] == "eval").sum() >= 1
    layers = trace.modules[trace.modules["type"] == "BertLayer"]
    assert (layers["backward_total_ns"] > 0).all()


def test_lightning(tmp_path):
    pytest.importorskip("lightning")
    trace = both(tmp_path, LIGHTNING)
    assert len(trace.steps) == 8
    # Lightning runs forward and backward in the closure of the optimizer.
    assert (trace.steps[["forward_ns", "backward_ns", "optimizer_ns"]] > 0).all(axis=None)
    assert (trace.steps["ends"] == "optimizer").all()
    body = trace.modules[trace.modules["name"] == "body"]
    assert (body["backward_total_ns"] > 0).all() or len(body) == 0
    evals = trace.calls[(trace.calls["phase"] == "eval") & (trace.calls["kind"] == "module")]
    assert len(evals) > 0


def test_accelerate(tmp_path):
    pytest.importorskip("accelerate")
    trace = both(tmp_path, ACCELERATE)
    assert len(trace.steps) == 4
    assert (trace.steps["samples"] == 4).all()
    for number in range(4):
        assert phases(trace, number).count("backward") == 2


def test_what_is_printed_of_a_loop(tmp_path):
    (tmp_path / "train.py").write_text(PLAIN)
    done = start(tmp_path, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py")
    told = done.stderr.decode()
    told = told[told.index("modtrace  train.py") :]
    assert len(told.splitlines()) <= 30
    assert all(len(line) <= 80 for line in told.splitlines())
    for words in (
        "6 steps in ",
        "STEP  median ",
        "counted  ",
        "backward",
        "a step",
        "between phases",
    ):
        assert words.lower() in told.lower()
    shown = start(tmp_path, "-m", "modtrace", "info", "--steps", "t.mtrace").stdout.decode().splitlines()
    assert shown[0] == "  6 steps, ended by the optimizer"
    assert (
        shown[1].split() == ["step", "total", "data", "fwd", "loss", "bwd", "optim", "zero", "other"]
        or "bwd" in shown[1]
    )
    assert [line.split()[0].rstrip("*") for line in shown[2:8]] == list("012345")
    tree = start(tmp_path, "-m", "modtrace", "info", "--tree", "t.mtrace").stdout.decode()
    for words in (
        "step",
        "  data  DataLoader(num_workers=0)",
        "  backward",
        "  optimizer  AdamW",
        "eval",
        "  loss",
    ):
        assert words in tree
    found = start(tmp_path, "-m", "modtrace", "info", "--findings", "t.mtrace")
    assert found.returncode == 0
    assert found.stdout.decode().isascii()
