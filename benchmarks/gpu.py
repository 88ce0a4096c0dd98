"""What tracing costs on a GPU, and whether what it says there is true: `benchmarks/gpu.sh`.

All variants take turns in one run; a ratio is the median over the rounds of the ratios inside a round. Beside modtrace
stand torch's profiler and events recorded by hand around every module call. Then what modtrace says is laid beside what
others say: device time beside the sum of kernels, the peak beside torch's own, and memory is made to run out.

`--cpu` runs the same with small models on the processor, where only the costs mean something: for trying this out.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cnn import ResNet
from gpt2 import GPT2, Size
from torch import nn

import modtrace

STEP_BAR = 1.05
STEP_SECONDS = 0.05
CALL_BAR_US = 12.0
NEAR = 0.05
NO_GPU = "no GPU is here: this measures one (--cpu tries it out on the processor)"

Around = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Work:
    """What is run: a forward or a training step, and how many module calls it makes."""

    name: str
    run: Callable[[], object]
    calls: int
    trains: bool


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def traced() -> Iterator[modtrace.Recording]:
    """modtrace, writing into a folder that is then removed."""
    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace") as trace:
        yield trace


@contextmanager
def profiled() -> Iterator[None]:
    """torch's profiler, as it is used to see kernels."""
    with torch.profiler.profile():
        yield


@contextmanager
def events_by_hand() -> Iterator[None]:
    """An event at each end of every module call, from hooks, read at the end."""
    pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    opened: list[torch.cuda.Event] = []

    def enter(*_: object) -> None:
        opened.append(torch.cuda.Event(enable_timing=True))
        opened[-1].record()

    def leave(*_: object) -> None:
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        pairs.append((opened.pop(), ended))

    modules = nn.modules.module
    handles = (
        modules.register_module_forward_pre_hook(enter),
        modules.register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        wait()
        for first, second in pairs:
            first.elapsed_time(second)


def variants(device: str) -> dict[str, Around]:
    """What is laid side by side."""
    found: dict[str, Around] = {"untraced": nullcontext, "modtrace": traced, "torch.profiler": profiled}
    if device == "cuda":
        found["events by hand"] = events_by_hand
    return found


def work_of(device: str, *, small: bool) -> Iterator[Work]:
    """GPT-2 and a residual network, forward and training, with a small batch and a large one."""
    size = Size(layers=2, vocabulary=256, width=32) if small else Size(width=768, heads=12)
    for name, make, given in (
        (
            "GPT-2",
            lambda: GPT2(size),
            lambda batch: torch.randint(0, size.vocabulary, (batch, 8 if small else 512)),
        ),
        (
            "ResNet",
            lambda: ResNet(8 if small else 128, 2 if small else 16),
            lambda batch: torch.rand(batch, 3, 64, 64),
        ),
    ):
        for batch in (1, 2) if small else (1, 32):
            model = make().to(device)
            x = given(batch).to(device)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
            calls = len(list(model.modules())) - sum(
                isinstance(one, nn.ModuleList) for one in model.modules()
            )

            def forward(model: nn.Module = model, x: torch.Tensor = x) -> None:
                with torch.no_grad():
                    model(x)

            def step(
                model: nn.Module = model, x: torch.Tensor = x, optimizer: torch.optim.Optimizer = optimizer
            ) -> None:
                optimizer.zero_grad()
                model(x).float().square().mean().backward()
                optimizer.step()

            yield Work(f"{name}, forward, batch {batch}", forward, calls, trains=False)
            yield Work(f"{name}, training, batch {batch}", step, calls, trains=True)


def measure(work: Work, around: dict[str, Around], *, rounds: int, runs: int) -> dict[str, list[float]]:
    """Seconds a run takes under each variant, one number a round; the device has ended each."""
    seconds: dict[str, list[float]] = {name: [] for name in around}
    for _ in range(rounds):
        for name, variant in around.items():
            with variant():
                for _ in range(3):
                    work.run()
                wait()
                started = time.perf_counter()
                for _ in range(runs):
                    work.run()
                wait()
                seconds[name].append((time.perf_counter() - started) / runs)
    return seconds


def costs(device: str, *, small: bool, rounds: int, runs: int) -> list[str]:
    """Print what tracing costs; the bars that are missed."""
    missed = []
    print(
        "\n## Cost\n\n| what | variant | a run | ratio to untraced (least, most) | a module call |"
        "\n|---|---|---|---|---|"
    )
    for work in work_of(device, small=small):
        seconds = measure(work, variants(device), rounds=rounds, runs=runs)
        base = seconds["untraced"]
        for name, taken in seconds.items():
            ratios = [a / b for a, b in zip(taken, base, strict=True)]
            middle = statistics.median(ratios)
            added_us = statistics.median(a - b for a, b in zip(taken, base, strict=True)) / work.calls * 1e6
            a_call = "" if work.trains or name == "untraced" else f"{added_us:.1f} us"
            print(
                f"| {work.name} | {name} | {statistics.median(taken) * 1e3:.3f} ms "
                f"| {middle:.3f} ({min(ratios):.3f}, {max(ratios):.3f}) | {a_call} |"
            )
            if name != "modtrace":
                continue
            if work.trains and statistics.median(base) >= STEP_SECONDS and middle > STEP_BAR:
                missed.append(f"{work.name}: {middle:.3f} times untraced, the bar is {STEP_BAR}")
            if not work.trains and added_us > CALL_BAR_US:
                missed.append(f"{work.name}: {added_us:.1f} us a module call, the bar is {CALL_BAR_US}")
    return missed


def device_time() -> list[str]:
    """Device time of roots beside the kernels that torch's profiler saw, where the device is busy."""
    model = nn.Sequential(*[nn.Linear(4096, 4096, bias=False) for _ in range(6)]).cuda()
    x = torch.randn(8192, 4096, device="cuda")
    for _ in range(3):
        model(x)
    wait()
    with traced() as trace:
        for _ in range(10):
            model(x)
    calls = trace.calls
    roots = calls[(calls["kind"] == "module") & (calls["name"] == "")]["device_ns"]
    told = float(roots.iloc[1:].median())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(10):
            model(x)
        wait()
    kernels = [one for one in profiler.events() if one.device_type == torch.autograd.DeviceType.CUDA]
    summed = sum(one.time_range.elapsed_us() for one in kernels) * 1e3 / 10
    off = abs(told - summed) / summed
    print(
        f"\n## Device time\n\n{told / 1e6:.3f} ms told, {summed / 1e6:.3f} ms of kernels: {100 * off:.1f} % apart"
    )
    return [f"device time is {100 * off:.1f} % from the kernels, the bar is 5 %"] if off > NEAR else []


def peak() -> list[str]:
    """The peak of a training step beside torch's own."""
    model = GPT2(Size(width=256)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 50_257, (8, 256), device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with traced() as trace:
        for _ in range(4):
            optimizer.zero_grad()
            model(tokens).float().logsumexp(-1).mean().backward()
            optimizer.step()
        wait()
    own = torch.cuda.max_memory_allocated()
    steps = trace.steps["memory_peak_bytes"]
    told = int(steps.max()) if steps.notna().any() else None
    print(f"\n## Peak\n\ntold {told} bytes, torch's own {own} bytes\n\n{steps.to_string()}")
    return [] if told == own else [f"the peak told is {told}, torch's own {own}"]


def out_of_memory() -> list[str]:
    """A failed allocation on purpose, and what the summary makes of it."""

    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(1024, 1024)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return torch.empty(torch.cuda.mem_get_info()[1], 64, device=x.device) + x.sum()

    torch.cuda.empty_cache()
    with TemporaryDirectory() as folder:
        trace = modtrace.trace(path=Path(folder) / "run.mtrace")
        try:
            with trace:
                Greedy().cuda()(torch.ones(64, 1024, device="cuda"))
        except torch.OutOfMemoryError:
            pass
        text = trace.summary()
    print(f"\n## Out of memory\n\n```\n{text}```")
    return [] if "OUT OF MEMORY" in text else ["a failed allocation is not told of"]


def main() -> int:
    """Measure and print a page of Markdown; 1 where a bar is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="small models on the processor")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    torch.manual_seed(0)
    device = "cpu" if options.cpu else "cuda"
    name = platform.machine() if options.cpu else torch.cuda.get_device_name()
    print(f"# modtrace on {name}\n\ntorch {torch.__version__}, Python {platform.python_version()}")
    missed = costs(device, small=options.cpu, rounds=options.rounds, runs=options.runs)
    if options.cpu:
        print("\nskipped, for they need a GPU: device time, peak, out of memory")
        return 0
    for part in (device_time, peak, out_of_memory):
        missed += part()
    print("\n## Bars\n\n" + ("\n".join(f"- missed: {one}" for one in missed) or "all met"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
