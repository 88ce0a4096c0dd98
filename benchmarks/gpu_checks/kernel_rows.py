"""Checks 3 and 4: `--kernels` gives each kernel to the module that launched it, and loses none."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.sources import Profiled, comparable, profiled

NEAR = 0.02


class Work:
    """A model of linear layers with its loss inside, and a training step without any wait for the device."""

    def __init__(self, place: Place, widths: list[int], rows: int) -> None:
        import torch
        from torch import nn

        class Layers(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                pairs = itertools.pairwise(widths)
                self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

            def forward(self, x: torch.Tensor, mark: Callable[[str], Any] | None = None) -> torch.Tensor:
                for index, layer in enumerate(self.layers):
                    if mark is None:
                        x = layer(x)
                    else:
                        with mark(f"layers.{index}"):
                            x = layer(x)
                return x.square().mean()

        torch.manual_seed(0)
        self.model = Layers().to(place.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(rows, widths[0], device=place.device)
        self.one = torch.ones((), device=place.device)
        for _ in range(3):
            self.step()
        place.wait()

    def step(self, mark: Callable[[str], Any] | None = None) -> None:
        """One training step; `mark` opens a range of torch's profiler around each layer."""
        self.optimizer.zero_grad()
        self.model(self.batch, mark).backward(self.one)
        self.optimizer.step()


def _by_profiler(place: Place, work: Work, steps: int) -> Profiled:
    from torch.profiler import record_function

    with profiled(place.device, host=True) as seen:
        for _ in range(steps):
            work.step(record_function)
    return seen


def _by_modtrace(work: Work, kernels: str, steps: int) -> Any:
    """`t.kernels`."""
    import modtrace

    with modtrace.trace(kernels=kernels) as trace:
        for _ in range(steps):
            work.step()
    return trace.kernels


def on_device(table: Any) -> Any:
    """The rows of `t.kernels` that are of devices."""
    return table[table["kind"] != "operator"]


def of_layers(table: Any) -> Counter[tuple[str, bool, str]]:
    """How often each name is in the rows of each layer: (layer, in backward, name)."""
    found: Counter[tuple[str, bool, str]] = Counter()
    columns = (table[name].tolist() for name in ("module", "backward", "operator", "count"))
    for module, backward, operator, count in zip(*columns, strict=True):
        if isinstance(module, str) and module.startswith("layers."):
            found[module, bool(backward), comparable(operator)] += count
    return found


def of_steps(table: Any, steps: range) -> dict[str, int]:
    """How many executions are in the rows of each step."""
    counts = table.groupby("step")["count"].sum()
    return {str(step): int(counts.get(step, 0)) for step in steps}


def measure_layers(place: Place) -> Measured:
    """12 layers of different sizes: whose kernels are whose, by torch's profiler and by modtrace."""
    widths = [place.size(1_024 + 128 * number, 16 + number) for number in range(13)]
    work = Work(place, widths, place.size(8_192, 4))
    seen = _by_profiler(place, work, 2)
    table = on_device(_by_modtrace(work, "2:4", 6))
    ours = of_layers(table)
    theirs = seen.by_range("layers.")
    wrong = sum(((ours - theirs) + (theirs - ours)).values())
    return {
        "kernels_of_layers": sum(theirs.values()),
        "layers": len({name for name, _, _ in theirs}),
        "misplaced": wrong,
        "ours_us": float(table["total_ns"].sum()) / 1e3,
        "torch_us": seen.device_us,
        "ranges": sorted({str(name) for name in table["operator"] if str(name).startswith("Optimizer.")}),
    }


def judge_layers(measured: Measured) -> Verdict:
    """Every kernel is with its layer, all together they take what torch says, and no range is a kernel."""
    torch_us, ours_us = measured["torch_us"], measured["ours_us"]
    differ = ours_us / torch_us - 1 if torch_us else float("nan")
    good = measured["layers"] == 12 and measured["kernels_of_layers"] >= 12 and measured["misplaced"] == 0
    good = good and abs(differ) <= NEAR and not measured["ranges"]
    figures = (
        f"{measured['misplaced']} of {measured['kernels_of_layers']} kernels of {measured['layers']} layers "
        f"misplaced; all {ours_us:,.0f} us, torch.profiler {torch_us:,.0f} us ({differ:+.1%})"
    )
    return verdict("; ".join([figures, *measured["ranges"]]), good=good)


def measure_steps(place: Place) -> Measured:
    """A loop that never waits, so that the host is steps ahead of the device when watching ends."""
    width = place.size(4_096, 16)
    work = Work(place, [width] * 9, place.size(8_192, 4))
    seen = _by_profiler(place, work, 1)
    table = on_device(_by_modtrace(work, "3:7", 10))
    return {
        "steps": of_steps(table, range(3, 7)),
        "torch": len(seen.on_device),
    }


def judge_steps(measured: Measured) -> Verdict:
    """Each watched step, the last one too, has as many kernels as torch's profiler sees in one."""
    counts = list(measured["steps"].values())
    good = measured["torch"] > 0 and counts == [measured["torch"]] * 4
    figures = f"steps 3 to 6: {', '.join(map(str, counts))} kernels; torch.profiler {measured['torch']}"
    return verdict(figures, good=good)


CHECKS = (
    Check(
        "3",
        "`--kernels 2:4`, 12 linear layers of different sizes",
        "each layer has its own kernels; sum within 2% of torch.profiler; no row `Optimizer.step#...`",
        measure_layers,
        judge_layers,
        good={
            "kernels_of_layers": 118,
            "layers": 12,
            "misplaced": 0,
            "ours_us": 60_500.0,
            "torch_us": 60_000.0,
            "ranges": [],
        },
        bad=(
            {"misplaced": 2},
            {"layers": 11},
            {"kernels_of_layers": 0, "layers": 0},
            {"ours_us": 62_000.0},
            {"ours_us": 0.0},
            {"torch_us": 0.0},
            {"ranges": ["Optimizer.step#SGD.step"]},
        ),
        alone=True,
    ),
    Check(
        "4",
        "`--kernels 3:7` of a loop that never waits for the GPU",
        "the last watched step has as many kernels as the others, and as torch.profiler",
        measure_steps,
        judge_steps,
        good={"steps": {"3": 52, "4": 52, "5": 52, "6": 52}, "torch": 52},
        bad=(
            {"steps": {"3": 52, "4": 52, "5": 52, "6": 9}},
            {"steps": {"3": 104, "4": 52, "5": 52, "6": 52}},
            {"torch": 60},
            {"steps": {"3": 0, "4": 0, "5": 0, "6": 0}, "torch": 0},
        ),
    ),
)
