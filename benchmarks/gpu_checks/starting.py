"""Checks 1 and 12: nothing of modtrace's initialises CUDA, and processes that are forked work as without it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.scripts import PYTHON, RUN, VARIANTS, gaps_of, opened, run

VISIBLE = """
import json, os, sys
import torch
sys.path.insert(0, sys.argv[1])
from gpu_checks.sources import driver_is_initialised

torch.nn.Linear(2, 2)(torch.zeros(1, 2))
initialised = driver_is_initialised()
os.environ["CUDA_VISIBLE_DEVICES"] = ""
try:
    torch.zeros(1, device="cuda")
    outcome = "a GPU that was hidden"
except (RuntimeError, AssertionError) as error:
    outcome = "no GPU"
print(json.dumps([initialised, outcome]))
"""

FORKED = """
import json, multiprocessing
import torch

def child(queue, device):
    try:
        torch.zeros(1, device=device)
        queue.put("works")
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}"[:200])

def main():
    import sys
    torch.nn.Linear(2, 2)(torch.zeros(1, 2))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, sys.argv[1]))
    process.start()
    outcome = queue.get(timeout=60)
    process.join()
    print(json.dumps(outcome))

main()
"""

WORKERS = """
import json, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return int(sys.argv[2])
    def __getitem__(self, index):
        return torch.full((16,), float(index))

def main():
    device = sys.argv[1]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(batch):
        optimizer.zero_grad()
        loss = model(batch.to(device, non_blocking=True)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step(torch.ones(4, 16))]
    loader = DataLoader(Numbers(), batch_size=4, num_workers=int(sys.argv[3]), pin_memory=device == "cuda")
    for _ in range(2):
        losses += [step(batch) for batch in loader]
    print(json.dumps(losses))

if __name__ == "__main__":
    main()
"""

CALLED = {False: "", True: ", cuInit was called", None: ", no driver to ask"}

BENCHMARKS = str(Path(__file__).resolve().parents[1])


def variants(place: Place) -> tuple[str, ...]:
    """Ways to run a script: on the processor, where nothing can go wrong, one is enough."""
    return tuple(VARIANTS) if place.cuda else (RUN,)


def measure_visible(place: Place) -> Measured:
    """Hide all GPUs after `import torch`, untraced and traced."""
    with TemporaryDirectory() as folder:
        found = {name: run(Path(folder), VISIBLE, BENCHMARKS, variant=name).value for name in variants(place)}
    return {
        "initialised": {name: values[0] for name, values in found.items()},
        "sees": {name: values[1] for name, values in found.items()},
    }


def judge_visible(measured: Measured) -> Verdict:
    """Nobody has initialised the driver, and the variable is obeyed."""
    good = all(one is False for one in measured["initialised"].values())
    good = good and set(measured["sees"].values()) == {"no GPU"}
    figures = ", ".join(
        f"{name}: {sees}{CALLED[measured['initialised'][name]]}" for name, sees in measured["sees"].items()
    )
    return verdict(figures, good=good)


def measure_forked(place: Place) -> Measured:
    """Use the device in a forked child, untraced and traced."""
    with TemporaryDirectory() as folder:
        return {
            "children": {
                name: run(Path(folder), FORKED, place.device, variant=name).value for name in variants(place)
            }
        }


def judge_forked(measured: Measured) -> Verdict:
    """Every child works."""
    figures = ", ".join(f"{name}: {outcome}" for name, outcome in measured["children"].items())
    return verdict(figures, good=set(measured["children"].values()) == {"works"})


def measure_workers(place: Place) -> Measured:
    """Load batches with workers that start after the first step on the device."""
    items, workers = place.size(256, 16), place.size(4, 1)
    with TemporaryDirectory() as folder:
        ran = {
            name: run(Path(folder), WORKERS, place.device, str(items), str(workers), variant=name)
            for name in (PYTHON, RUN)
        }
        trace, reason = opened(ran[RUN].trace)
        return {
            "batches": {name: len(one.value) - 1 for name, one in ran.items()},
            "expected": items // 4 * 2,
            "same_losses": ran[PYTHON].value == ran[RUN].value,
            "stderr": [line for line in ran[RUN].stderr.splitlines() if "error" in line.lower()][:3],
            "gaps": [reason] if trace is None else gaps_of(trace),
        }


def judge_workers(measured: Measured) -> Verdict:
    """All batches come, with the losses of an untraced run, and nothing is said of CUDA."""
    good = set(measured["batches"].values()) == {measured["expected"]}
    good = good and measured["same_losses"] and not measured["stderr"] and not measured["gaps"]
    figures = (
        f"{measured['batches'][RUN]} of {measured['expected']} batches, "
        f"losses {'equal' if measured['same_losses'] else 'DIFFER'}"
    )
    return verdict("; ".join([figures, *measured["stderr"], *measured["gaps"]]), good=good)


CHECKS = (
    Check(
        "1a",
        "CUDA_VISIBLE_DEVICES set after `import torch`",
        "obeyed as without modtrace; nobody has called cuInit",
        measure_visible,
        judge_visible,
        good={
            "initialised": dict.fromkeys(VARIANTS, False),
            "sees": dict.fromkeys(VARIANTS, "no GPU"),
        },
        bad=(
            {"initialised": {**dict.fromkeys(VARIANTS, False), RUN: True}},
            {"initialised": dict.fromkeys(VARIANTS, None)},
            {"sees": {**dict.fromkeys(VARIANTS, "no GPU"), RUN: "a GPU that was hidden"}},
        ),
    ),
    Check(
        "1b",
        "a forked child uses the GPU",
        "works, as without modtrace",
        measure_forked,
        judge_forked,
        good={"children": dict.fromkeys(VARIANTS, "works")},
        bad=(
            {
                "children": {
                    **dict.fromkeys(VARIANTS, "works"),
                    RUN: "RuntimeError: Cannot re-initialize CUDA",
                }
            },
        ),
        on_cpu=True,
    ),
    Check(
        "12",
        "DataLoader, 4 workers, pinned memory, begun after a step on the GPU",
        "all batches, same losses, no error",
        measure_workers,
        judge_workers,
        good={
            "batches": {PYTHON: 128, RUN: 128},
            "expected": 128,
            "same_losses": True,
            "stderr": [],
            "gaps": [],
        },
        bad=(
            {"batches": {PYTHON: 128, RUN: 64}},
            {"same_losses": False},
            {"stderr": ["RuntimeError: CUDA error: initialization error"]},
            {"gaps": ["device time is not recorded from here on: RuntimeError"]},
        ),
        on_cpu=True,
    ),
)
