"""All that is to be known of a GPU, in one go: `benchmarks/gpu.sh`, or `python benchmarks/gpu.py` with PYTHONPATH set.

The checks of `gpu_checks` come first, then what tracing costs and how it agrees with torch. Markdown goes to stdout,
progress to stderr. The exit status is 2 without a GPU, 1 if a check or a part failed or a bar was missed. `--cpu` runs
the same with small models on the processor: checks then say `fake`, parts that need CUDA are named and left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEP_BAR = 1.05
STEP_BAR_FROM_MS = 50.0
CALL_BAR_US = 12.0
AGREE_BAR = 0.05
BUSY = 0.95
"""From such a share of the wall time that kernels ran on, the device is busy."""
WINDOW_S = 0.2
ROUNDS = 5
MINUTES = 10.0
FOR_THE_REST_S = 200.0
"""Of the time for all, what is kept for the parts behind the checks."""
FOR_OVERHEAD_S = 90.0
AT_ONCE = 4
"""Checks that run beside each other, where there are twice as many cores; else one at a time."""


@dataclass
class Go:
    """One run of the benchmark: where, how long, and what was missed in it."""

    device: str
    rounds: int
    small: bool
    deadline: float
    """By `time.monotonic`: when all should be done."""
    only: tuple[str, ...] | None = None
    """Run these checks and nothing else, all of them if none is named; None for everything."""
    with_checks: bool = True
    missed: list[str] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        """Whether it is on a GPU."""
        return self.device == "cuda"

    def check(self, what: str, *, good: bool) -> str:
        """The word for a table; what is not good is remembered."""
        if not good:
            self.missed.append(what)
        return "ok" if good else "**missed**"

    @property
    def left_s(self) -> float:
        """Seconds until all should be done."""
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()


Part = Callable[[Go], Iterator[str]]


def checks(go: Go) -> Iterator[str]:
    """Each measures in a process of its own, beside torch.profiler, nvidia-smi, the driver and torch's counters."""
    from gpu_checks.check import FAIL
    from gpu_checks.checklist import CHECKS
    from gpu_checks.runner import FAKE, HEADER, Outcome, row, run_fake, run_on_gpu

    chosen = [check for name, check in CHECKS.items() if not go.only or name in go.only]
    if go.cuda:
        import torch

        at_once = AT_ONCE if (os.cpu_count() or 1) >= 2 * AT_ONCE else 1
        kept = 0.0 if go.only is not None else FOR_THE_REST_S
        outcomes = run_on_gpu(chosen, torch.cuda.device_count(), go.deadline - kept, at_once)
    else:
        yield f"No GPU: `{FAKE}` is a check whose judge was tried on made-up figures. It says nothing of CUDA."
        yield ""
        outcomes = run_fake(chosen)
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        say(f"check {outcome.check.name}: {outcome.verdict.word}  {outcome.verdict.figures}")
        found[outcome.check.name] = outcome
    ordered = [found[check.name] for check in chosen]
    yield from HEADER
    yield from map(row, ordered)
    yield ""
    counts = Counter(outcome.verdict.word for outcome in ordered)
    yield ", ".join(f"{word} {count}" for word, count in sorted(counts.items()))
    for outcome in ordered:
        if outcome.verdict.word == FAIL:
            go.missed.append(f"check {outcome.check.name}: {outcome.verdict.figures}")
        if outcome.last_lines:
            yield f"\nThe last lines of check {outcome.check.name}:\n"
            yield from fenced("\n".join(outcome.last_lines))


def tests(go: Go) -> Iterator[str]:
    """The tests that need a GPU."""
    if not go.cuda:
        yield "Left out: needs CUDA."
        return
    words = [
        sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-c", "/dev/null", "--rootdir", str(ROOT), "--noconftest",
        "-p", "no:cacheprovider", "-o", "markers=cuda: needs an NVIDIA GPU", "--import-mode=importlib",
        str(ROOT / "tests" / "cuda"),
    ]  # fmt: skip
    limit_s = max(go.left_s - FOR_OVERHEAD_S, 20.0)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit_s)
    if "No module named pytest" in done.stderr:
        yield "Left out: pytest is not installed here."
        return
    yield from fenced("\n".join((done.stdout + done.stderr).strip().splitlines()[-30:]))
    yield f"Exit status {done.returncode}: {go.check('pytest -m cuda', good=done.returncode == 0)}"


def overhead(go: Go) -> Iterator[str]:
    """What each way to watch costs, all taking turns; a ratio is the median over the rounds of those inside a round."""
    import gpu_workloads as load

    yield "| run | watched by | ms | ratio to untraced | spread | us added a module call | bar |"
    yield "|---|---|---|---|---|---|---|"
    for large in (False, True):
        for make in (load.gpt2, load.resnet):
            work = make(go.device, large=large, small_model=go.small)
            yield from _rows(go, f"{work.name}, forward", work.forward, work.calls)
            yield from _rows(go, f"{work.name}, training step", work.step, None)
    work = load.small_layers(go.device, count=20 if go.small else 200)
    yield from _rows(go, f"{work.name}, forward", work.forward, work.calls, launch_bound=True)


def _rows(
    go: Go, name: str, run: Callable[[], Any], calls: int | None, *, launch_bound: bool = False
) -> Iterator[str]:
    """Rows of one run under all variants."""
    say(name)
    seconds = _measure(go, run)
    untraced = seconds["untraced"]
    base_ms = statistics.median(untraced) * 1e3
    for variant, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, untraced, strict=True)]
        ratio = statistics.median(ratios)
        added = [(a - b) / calls * 1e6 for a, b in zip(taken, untraced, strict=True)] if calls else []
        each = f"{statistics.median(added):.2f}" if added and variant != "untraced" else ""
        bar = ""
        if go.cuda and variant == "modtrace" and launch_bound:
            bar = go.check(f"{name}: {each} us a call", good=statistics.median(added) <= CALL_BAR_US)
            bar = f"at most {CALL_BAR_US:g} us: {bar}"
        elif go.cuda and variant == "modtrace" and calls is None and base_ms >= STEP_BAR_FROM_MS:
            bar = f"at most {STEP_BAR}: {go.check(f'{name}: {ratio:.3f}', good=ratio <= STEP_BAR)}"
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        ms = statistics.median(taken) * 1e3
        yield f"| {name} | {variant} | {ms:.2f} | {ratio:.3f} | {spread} | {each} | {bar} |"


def _measure(go: Go, run: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds a run takes under each variant, one number a round; the device is waited for at both ends of a window."""
    from gpu_workloads import variants

    once = _window(go, run, 2)
    runs = max(2, min(100, round((0.02 if go.small else WINDOW_S) / max(once, 1e-6))))
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants(go.device)}
    for number in range(go.rounds):
        if number and go.left_s < 0:
            break  # one round of each must be enough
        for variant in variants(go.device):
            with variant.around():
                seconds[variant.name].append(_window(go, run, max(2, round(runs * variant.share))))
    return seconds


def _window(go: Go, run: Callable[[], Any], runs: int) -> float:
    # Operations are counted in the 1st, 2nd, 4th, 8th ... run: none of the window is such a one.
    for _ in range(3 if go.small else 1 << (runs - 1).bit_length()):
        run()
    go.wait()
    started = time.perf_counter()
    for _ in range(runs):
        run()
    go.wait()
    return (time.perf_counter() - started) / runs


def agreement(go: Go) -> Iterator[str]:
    """`device_ns` of forwards beside the kernels that torch's profiler saw in as many others."""
    import gpu_workloads as load
    from gpu_checks.sources import profiled

    import modtrace

    yield "| forward | device_ns, ms | kernels, ms | differ by | kernels of wall | bar |"
    yield "|---|---|---|---|---|---|"
    runs = 3 if go.small else 10
    for large in (False, True):
        for make in (load.gpt2, load.resnet):
            work = make(go.device, large=large, small_model=go.small)
            say(f"agreement, {work.name}")
            for _ in range(3):
                work.forward()
            go.wait()
            with modtrace.trace(work.model, flops=False) as trace:
                for _ in range(runs):
                    work.forward()
            known = _roots(trace)["device_ns"].iloc[1:]  # the first finds an idle device
            wall = _window(go, work.forward, runs)
            with profiled(go.device) as seen:
                for _ in range(runs):
                    work.forward()
            kernels = seen.device_us / runs / 1e6
            if not go.cuda:
                seen = "nothing" if known.isna().all() and not kernels else "something"
                yield f"| {work.name} | ? | ? | ? | ? | left out: needs CUDA ({seen} seen of a device) |"
                continue
            ours = float(known.mean()) / 1e9 if known.notna().all() else float("nan")
            differ, busy = ours / kernels - 1, kernels / wall
            bar = "not busy"
            if busy >= BUSY:
                word = go.check(f"agreement, {work.name}: {differ:+.1%}", good=abs(differ) <= AGREE_BAR)
                bar = f"within {AGREE_BAR:.0%}: {word}"
            yield (
                f"| {work.name} | {ours * 1e3:.3f} | {kernels * 1e3:.3f} | {differ:+.1%} | {busy:.0%} | {bar} |"
            )


def _roots(trace: Any) -> Any:
    """The calls of a trace that no module call is around."""
    calls = trace.calls
    return calls[(calls["kind"] == "module") & (calls["name"] == "")]


def peaks(go: Go) -> Iterator[str]:
    """The peak of root calls and steps beside `torch.cuda.max_memory_allocated`, which a trace leaves as it was."""
    import gpu_workloads as load
    import torch

    import modtrace

    work = load.gpt2(go.device, large=True, small_model=go.small)
    by_hand: dict[str, list[int]] = {"forward": [], "step": []}

    def peak(run: Callable[[], Any], name: str) -> None:
        if go.cuda:
            torch.cuda.reset_peak_memory_stats()
        run()
        by_hand[name].append(int(torch.cuda.max_memory_allocated()) if go.cuda else 0)

    work.step()
    with modtrace.trace(work.model, flops=False) as forwards:
        for _ in range(3):
            peak(work.forward, "forward")
    with modtrace.trace(flops=False) as steps:
        for _ in range(3):
            peak(work.step, "step")
    yield "| of | modtrace, bytes | torch, bytes | exact |"
    yield "|---|---|---|---|"
    ours = {"forward": _roots(forwards)["memory_peak_bytes"], "step": steps.steps["memory_peak_bytes"]}
    for name, known in ours.items():
        found = [None if missing else int(value) for value, missing in zip(known, known.isna(), strict=True)]
        if not go.cuda:
            yield f"| {name} | {_listed(found)} | ? | left out: needs CUDA |"
            continue
        word = go.check(f"peak of a {name}", good=found[: len(by_hand[name])] == by_hand[name])
        yield f"| {name} | {_listed(found)} | {_listed(by_hand[name])} | {word} |"


def _listed(values: Any) -> str:
    return ", ".join("?" if one is None else f"{one:,}" for one in values)


GROWS = """
import sys, torch
from torch import nn

class Grows(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(6))
        self.times = 2

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).repeat(self.times, 1)
        return x

device = sys.argv[1]
model = Grows().to(device)
optimizer = torch.optim.Adam(model.parameters())
for last in (False, False, True):
    rows = 4
    if last and device == "cuda":
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, (1 << 30) / total))
        rows, model.times = 4096, 8
    elif last:
        model.times = 1 << 40  # more than can be addressed: refused at once, before any memory is taken
    model(torch.randn(rows, 256, device=device)).sum().backward()
    optimizer.step()
"""


def out_of_memory(go: Go) -> Iterator[str]:
    """An allocation that fails on purpose (beyond 1 GiB of a device), and what is said of it."""
    say("out of memory")
    with TemporaryDirectory() as folder:
        script = Path(folder) / "grows.py"
        script.write_text(GROWS)
        words = [
            "-m",
            "modtrace",
            "run",
            "-o",
            str(Path(folder) / "t.mtrace"),
            str(script),
            go.device,
            "4096",
        ]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    start = re.search(r"^.*OUT OF MEMORY", done.stderr, re.MULTILINE)
    good = done.returncode == 1 and start is not None
    shown = done.stderr[start.start() :] if start is not None else done.stderr[-3_000:]
    shown = shown.partition("\n\n")[0]
    yield from fenced(shown.strip().replace(folder, "..."))
    yield f"Exit status {done.returncode}, with an autopsy: {go.check('out of memory', good=good)}"


def fenced(text: str) -> Iterator[str]:
    """Text as it is."""
    yield "```"
    yield from text.splitlines()
    yield "```"
    yield ""


PARTS: dict[str, Part] = {
    "Checks": checks,
    "Device time beside kernels": agreement,
    "Peaks": peaks,
    "Out of memory": out_of_memory,
    "Tests": tests,
    "Overhead": overhead,
}
"""The last one takes as long as there is time for."""


def head(go: Go) -> Iterator[str]:
    """What it ran on."""
    import torch

    import modtrace

    name = torch.cuda.get_device_name() if go.cuda else f"{platform.machine()}, a dry run without a GPU"
    yield f"# modtrace on {name}"
    yield ""
    yield (
        f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, Python {platform.python_version()}, "
        f"modtrace {modtrace.__version__}, {go.rounds} rounds at most{', small models' if go.small else ''}"
    )


def checklist() -> list[str]:
    """The names of all checks."""
    from gpu_checks.checklist import CHECKS

    return [*CHECKS]


def say(text: str) -> None:
    """Say what is being done, to stderr."""
    print(text, file=sys.stderr, flush=True)


def run(go: Go) -> int:
    """All parts; one that fails does not stop the others."""
    print("\n".join(head(go)))
    parts = {"Checks": checks} if go.only is not None else PARTS
    if not go.with_checks:
        parts = {title: part for title, part in PARTS.items() if part is not checks}
    for title, part in parts.items():
        print(f"\n## {title}\n\n{part.__doc__}\n", flush=True)
        try:
            for line in part(go):
                print(line, flush=True)
        except Exception:
            go.missed.append(f"{title} failed")
            print("\n".join(["", *fenced(traceback.format_exc(limit=-4))]))
    print("\n## Missed\n")
    print("\n".join(f"- {one}" for one in go.missed) or "Nothing.")
    return 1 if go.missed else 0


def main() -> int:
    """Run on the GPU, or with --cpu without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often every variant has its turn")
    parser.add_argument("--cpu", action="store_true", help="small models on the processor: does it all run?")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long all may take")
    parser.add_argument("--no-checks", action="store_true", help="everything but the checks")
    parser.add_argument(
        "--only", nargs="*", metavar="CHECK", help="only the checks, or only these, such as 3 5a"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.only or ()) - set(checklist()))
    if unknown:
        parser.error(f"no such check: {' '.join(unknown)}; there are {' '.join(checklist())}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler writes to stderr at every start
    try:
        import torch

        import modtrace.api
        import modtrace.views.console  # noqa: F401 - the report at the end of a run needs it
    except ImportError as error:
        say(f"benchmarks/gpu.py: {error}")
        return 2
    if not options.cpu and not torch.cuda.is_available():
        say("benchmarks/gpu.py: there is no GPU here that torch can use; --cpu tries everything without one")
        return 2
    torch.manual_seed(0)
    deadline = time.monotonic() + options.minutes * 60
    only = None if options.only is None else tuple(options.only)
    go = Go("cuda", options.rounds or ROUNDS, False, deadline, only, not options.no_checks)
    if options.cpu:
        torch.set_num_threads(1)
        go = replace(go, device="cpu", rounds=options.rounds or 2, small=True)
    return run(go)


if __name__ == "__main__":
    sys.exit(main())
