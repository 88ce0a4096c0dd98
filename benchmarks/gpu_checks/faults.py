"""Check 11: under a sanitizer, with blocking launches, on several ranks, killed, and after a device-side assert."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_checks.check import Check, Measured, Place, Skip, Verdict, verdict
from gpu_checks.scripts import PYTHON, RUN, Ran, gaps_of, opened, run

TRAIN = """
import json, sys
import torch
from torch import nn

device, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
model = nn.Sequential(nn.LayerNorm(64), nn.GELU(), nn.LayerNorm(64)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
losses = []
for _ in range(steps):
    optimizer.zero_grad()
    loss = model(torch.ones(8, 64, device=device)).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(json.dumps(losses))
"""

RANKS = """
import json, os, sys
import torch
from torch import distributed, nn

device, backend, way = sys.argv[1:4]
rank = int(os.environ["RANK"])
if device == "cuda":
    torch.cuda.set_device(rank % torch.cuda.device_count())
distributed.init_process_group(backend)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).to(device)
if way == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
else:
    from torch.distributed.fsdp import fully_shard
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
torch.manual_seed(rank)
losses = []
for _ in range(5):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 64, device=device)).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(round(loss.item(), 4))
distributed.destroy_process_group()
with open(f"losses-{rank}.json", "w") as file:
    json.dump(losses, file)
"""

KILLED = """
import os, signal, sys, time
import torch
from torch import nn

device = sys.argv[1]
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).to(device)
started, steps = time.monotonic(), 0
while time.monotonic() - started < float(sys.argv[2]):
    model(torch.randn(8, 64, device=device)).sum().item()
    steps += 1
    time.sleep(0.001)
os.write(1, str(steps).encode())
os.kill(os.getpid(), signal.SIGKILL)
"""

ASSERTS = """
import sys
import torch
from torch import nn

device = sys.argv[1]
model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8)).to(device)
for _ in range(20):
    model(torch.zeros(4, dtype=torch.long, device=device)).sum().item()
model(torch.full((4,), 99, dtype=torch.long, device=device)).sum().item()
"""

SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")


def _sanitizer() -> str:
    places = [
        Path(os.environ.get(name, "")) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)
    ]
    path = os.pathsep.join(map(str, [*places, "/usr/local/cuda/bin", os.environ.get("PATH", "")]))
    found = shutil.which("compute-sanitizer", path=path)
    if found is None:
        raise Skip("compute-sanitizer is not installed")
    return found


def measure_memcheck(place: Place) -> Measured:
    """A few steps under memcheck; untraced too where it found something."""
    before = (_sanitizer(), "--tool", "memcheck")

    def errors(ran: Ran) -> int | None:
        found = SUMMARY.search(ran.stdout + ran.stderr)
        return int(found[1]) if found else None

    with TemporaryDirectory() as folder:
        ran = run(Path(folder), TRAIN, place.device, "3", variant=RUN, before=before)
        counts = {RUN: errors(ran)}
        if counts[RUN] != 0:
            plain = run(Path(folder), TRAIN, place.device, "3", before=before)
            counts[PYTHON] = errors(plain)
            if counts[RUN] is counts[PYTHON] is None:
                raise Skip(f"compute-sanitizer does not run here: {(plain.stdout + plain.stderr)[-200:]}")
        trace, reason = opened(ran.trace)
        return {
            "errors": counts,
            "status": ran.status,
            "gaps": [reason] if trace is None else gaps_of(trace),
        }


def judge_memcheck(measured: Measured) -> Verdict:
    """No error that is not there untraced."""
    errors = measured["errors"].get(RUN)
    plain = measured["errors"].get(PYTHON, 0)
    figures = (
        "no summary of memcheck" if errors is None else f"{errors} errors, {plain or 0} of them untraced"
    )
    good = errors is not None and errors <= (plain or 0) and measured["status"] == 0 and not measured["gaps"]
    return verdict("; ".join([figures, *measured["gaps"]]), good=good)


def measure_blocking(place: Place) -> Measured:
    """Every launch waits for its kernel."""
    environment = {"CUDA_LAUNCH_BLOCKING": "1"}
    steps = str(place.size(50, 3))
    with TemporaryDirectory() as folder:
        plain, traced = (
            run(Path(folder), TRAIN, place.device, steps, variant=name, environment=environment)
            for name in (PYTHON, RUN)
        )
        trace, reason = opened(traced.trace)
        return {
            "same_losses": plain.value == traced.value,
            "steps": 0 if trace is None else len(trace.steps),
            "expected": int(steps),
            "gaps": [reason] if trace is None else gaps_of(trace),
        }


def judge_blocking(measured: Measured) -> Verdict:
    """The losses of an untraced run, all steps, no gap."""
    good = measured["same_losses"] and measured["steps"] >= measured["expected"] and not measured["gaps"]
    figures = f"losses {'equal' if measured['same_losses'] else 'DIFFER'}, {measured['steps']} steps"
    return verdict("; ".join([figures, *measured["gaps"]]), good=good)


def _ranks(place: Place, way: str, ranks: int, backend: str) -> Measured:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    found: Measured = {"ranks": ranks, "backend": backend}
    losses = {}
    with TemporaryDirectory() as text:
        folder = Path(text)
        for variant in (PYTHON, RUN):
            ran = run(
                folder, RANKS, place.device, backend, way, variant=variant, before=(*launcher, "--no-python")
            )
            files = [folder / f"losses-{rank}.json" for rank in range(ranks)]
            losses[variant] = [file.read_text() if file.exists() else "" for file in files]
            for file in files:
                file.unlink(missing_ok=True)
            found["status"] = ran.status
            lines = ran.stderr.strip().splitlines() or [""]
            found["errors"] = [line for line in lines if "CUDA error" in line][:2]
            if ran.status and not found["errors"]:
                found["errors"] = [line for line in lines if "Error" in line][:1] or lines[-1:]
            if ran.status and variant == PYTHON:
                raise Skip(f"fails untraced too: {found['errors'][0][:200]}")
        trace, reason = opened(ran.trace)
        found["processes"] = 0 if trace is None else len(trace._stored.processes)  # noqa: SLF001
        found["gaps"] = [reason] if trace is None else gaps_of(trace)
    return found | {"same_losses": losses[PYTHON] == losses[RUN] and all(losses[RUN])}


def _backend(place: Place) -> tuple[int, str]:
    """(GPUs, a backend for two ranks): NCCL refuses two ranks on one GPU."""
    import torch

    gpus = torch.cuda.device_count() if place.cuda else 0
    return gpus, "nccl" if gpus > 1 else "gloo"


def measure_ddp(place: Place) -> Measured:
    """Two ranks; on one GPU they share it, over gloo."""
    return _ranks(place, "ddp", 2, _backend(place)[1])


def measure_fsdp(place: Place) -> Measured:
    """Two ranks; one where there is one GPU."""
    gpus, backend = _backend(place)
    return _ranks(place, "fsdp", 2 if gpus > 1 else 1, "nccl" if place.cuda else backend)


def judge_ranks(measured: Measured) -> Verdict:
    """Each rank is in the trace, with the losses of an untraced run, without a CUDA error or a gap."""
    good = measured["status"] == 0 and measured["processes"] == measured["ranks"] and measured["same_losses"]
    good = good and not measured["errors"] and not measured["gaps"]
    figures = (
        f"{measured['ranks']} ranks over {measured['backend']}, {measured['processes']} in the trace, "
        f"exit status {measured['status']}, losses {'equal' if measured['same_losses'] else 'DIFFER'}"
    )
    return verdict("; ".join([figures, *measured["errors"], *measured["gaps"]]), good=good)


def measure_killed(place: Place) -> Measured:
    """kill -9 in the middle of a loop."""
    with TemporaryDirectory() as folder:
        ran = run(Path(folder), KILLED, place.device, str(place.size(4, 1)), variant=RUN)
        trace, reason = opened(ran.trace)
        rows = 0
        if trace is not None:
            calls = trace.calls
            rows = int(((calls["kind"] == "module") & (calls["name"] == "")).sum())
        return {"status": ran.status, "steps": int(ran.stdout or 0), "rows": rows, "fault": reason}


def judge_killed(measured: Measured) -> Verdict:
    """The trace opens; at most a second of four is lost."""
    share = measured["rows"] / measured["steps"] if measured["steps"] else 0.0
    good = not measured["fault"] and measured["status"] == -signal.SIGKILL and share >= 0.7
    figures = measured["fault"] or f"{measured['rows']:,} of {measured['steps']:,} root calls are there"
    return verdict(figures, good=good)


def measure_assert(place: Place) -> Measured:
    """An index beyond an embedding."""
    with TemporaryDirectory() as folder:
        plain, traced = (run(Path(folder), ASSERTS, place.device, variant=name) for name in (PYTHON, RUN))
        trace, reason = opened(traced.trace)
        about_us = [line for line in traced.stderr.splitlines() if "device time is not recorded" in line]
        return {
            "untraced_status": plain.status,
            "status": traced.status,
            "calls": 0 if trace is None else len(trace.calls),
            "fault": reason,
            "said": about_us[:1],
        }


def judge_assert(measured: Measured) -> Verdict:
    """The program fails as untraced, the trace opens, and nothing is added to the program's own error."""
    good = measured["status"] == measured["untraced_status"] != 0 and not measured["fault"]
    good = good and measured["calls"] >= 60 and not measured["said"]
    figures = measured["fault"] or (
        f"exit status {measured['status']}, untraced {measured['untraced_status']}; {measured['calls']} calls"
    )
    return verdict("; ".join([figures, *measured["said"]]), good=good)


_RANKS = {
    "ranks": 2,
    "backend": "nccl",
    "status": 0,
    "errors": [],
    "processes": 2,
    "gaps": [],
    "same_losses": True,
}
_BAD_RANKS = (
    {"status": 1},
    {"processes": 1},
    {"same_losses": False},
    {"errors": ["CUDA error: an illegal memory access was encountered"]},
    {"gaps": ["device time is not recorded from here on: RuntimeError"]},
)

CHECKS = (
    Check(
        "11a",
        "`compute-sanitizer --tool memcheck`",
        "no error, no gap",
        measure_memcheck,
        judge_memcheck,
        good={"errors": {RUN: 0}, "status": 0, "gaps": []},
        bad=({"errors": {RUN: 3, PYTHON: 1}}, {"errors": {}}, {"status": 1}, {"gaps": ["device time"]}),
        limit_s=120,
    ),
    Check(
        "11b",
        "`CUDA_LAUNCH_BLOCKING=1`",
        "same losses, no gap",
        measure_blocking,
        judge_blocking,
        good={"same_losses": True, "steps": 50, "expected": 50, "gaps": []},
        bad=({"same_losses": False}, {"steps": 9}, {"gaps": ["device time is not recorded"]}),
        on_cpu=True,
    ),
    Check(
        "11c",
        "DDP, 2 ranks (on one GPU over gloo)",
        "no CUDA error, no gap, same losses",
        measure_ddp,
        judge_ranks,
        good=_RANKS,
        bad=_BAD_RANKS,
        limit_s=90,
        on_cpu=True,
    ),
    Check(
        "11d",
        "FSDP2, 2 ranks (1 on one GPU)",
        "no CUDA error, no gap, same losses",
        measure_fsdp,
        judge_ranks,
        good=_RANKS,
        bad=_BAD_RANKS,
        limit_s=90,
        on_cpu=True,
    ),
    Check(
        "11e",
        "kill -9",
        "the trace opens, 70% of the calls of 4 s are there at least",
        measure_killed,
        judge_killed,
        good={"status": -9, "steps": 3_000, "rows": 2_800, "fault": ""},
        bad=({"rows": 1_500}, {"fault": "no trace there"}, {"steps": 0, "rows": 0}, {"status": 0}),
    ),
    Check(
        "11f",
        "a device-side assert",
        "fails as untraced, the trace opens, no line of modtrace about it",
        measure_assert,
        judge_assert,
        good={"untraced_status": 1, "status": 1, "calls": 63, "fault": "", "said": []},
        bad=(
            {"status": 0},
            {"untraced_status": 0, "status": 0},
            {"calls": 0, "fault": "no trace there"},
            {"said": ["modtrace: device time is not recorded from here on: AcceleratorError"]},
        ),
        on_cpu=True,
    ),
)
