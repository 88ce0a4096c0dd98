"""Runs checks, each in a process of its own with a limit of time, and makes a table of their verdicts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_checks.check import FAIL, PASS, SKIP, Check, Measured, Place, Skip, Verdict, judge_faults

BENCHMARKS = Path(__file__).resolve().parents[1]
FAKE = "fake"
LAST_LINES = 12
LEAST_SECONDS = 10.0
"""With less time left a check is not begun."""


@dataclass(frozen=True)
class Outcome:
    """A verdict, how long it took, and the last lines of a process that crashed."""

    check: Check
    verdict: Verdict
    seconds: float
    last_lines: tuple[str, ...] = ()


def command_of(check: Check, device: str, file: Path) -> list[str]:
    """What measures a check."""
    return [sys.executable, "-m", "gpu_checks", check.name, device, str(file)]


def run_check(check: Check, command: Sequence[str], file: Path, limit_s: float) -> Outcome:
    """Run what measures a check, and judge what it wrote into the file. It is ended when its time is over."""
    environment = dict(os.environ)
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    started = time.monotonic()
    with (file.parent / "output").open("w+b") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=file.parent, start_new_session=True
        )
        try:
            process.wait(limit_s)
            why = f"exit status {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            why = f"ran past its limit of {limit_s:.0f} s"
        _end_group(process)
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    seconds = time.monotonic() - started
    if not why and not file.exists():
        why = "wrote nothing"
    if why:
        return Outcome(check, Verdict(FAIL, why), seconds, tuple(lines[-LAST_LINES:]))
    return _judged(check, json.loads(file.read_text()), seconds)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _judged(check: Check, measured: Measured, seconds: float) -> Outcome:
    if "skip" in measured:
        return Outcome(check, Verdict(SKIP, measured["skip"]), seconds)
    try:
        return Outcome(check, check.judge(measured), seconds)
    except Exception:
        lines = [f"cannot be judged: {measured}", *traceback.format_exc(limit=-2).splitlines()]
        return Outcome(check, Verdict(FAIL, "cannot be judged"), seconds, tuple(lines[-LAST_LINES:]))


def run_on_gpu(checks: Sequence[Check], gpus: int, deadline: float, at_once: int) -> Iterator[Outcome]:
    """Run checks: those that measure times one after the other, then the others, several at once.

    Args:
        checks: which.
        gpus: how many there are.
        deadline: by `time.monotonic`: what has not begun by then is not run, and has failed.
        at_once: how many processes may run beside each other.
    """

    def one(check: Check) -> Outcome:
        left = deadline - time.monotonic()
        if gpus < check.gpus:
            return Outcome(check, Verdict(SKIP, f"needs {check.gpus} GPUs, there is {gpus}"), 0.0)
        if left < LEAST_SECONDS:
            return Outcome(check, Verdict(FAIL, "no time was left for it"), 0.0)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "measured.json"
            return run_check(check, command_of(check, "cuda", file), file, min(check.limit_s, left))

    yield from map(one, [check for check in checks if check.alone])
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(one, check) for check in checks if not check.alone]
        yield from (future.result() for future in as_completed(running))


def run_fake(checks: Iterable[Check]) -> Iterator[Outcome]:
    """Try checks without a GPU: judges on made-up measurements, and what measures on the processor, where no number of
    a device can be known. It says nothing of a GPU; what is at fault in the checks themselves is FAIL.
    """
    for check in checks:
        started = time.monotonic()
        faults, lines = judge_faults(check), []
        try:
            measured = check.measure(Place("cpu"))
            json.dumps(measured)
            lacking = sorted(set(check.good) ^ set(measured))
            faults += [f"measures other values than are judged: {lacking}"] if lacking else []
            found = check.judge(measured) if check.on_cpu and not lacking else None
            faults += [f"on the processor: {found.figures}"] if found and found.word != PASS else []
        except Skip:
            pass
        except Exception:
            faults.append("what measures fails on the processor")
            lines = traceback.format_exc(limit=-4).splitlines()
        seconds = time.monotonic() - started
        figures = f"made-up figures: 1 passes, {len(check.bad)} fail; on the processor: {_on_cpu(check)}"
        word = Verdict(FAIL, "; ".join(faults)) if faults else Verdict(FAKE, figures)
        yield Outcome(check, word, seconds, tuple(lines[-LAST_LINES:]))


def _on_cpu(check: Check) -> str:
    return "passes" if check.on_cpu else "runs, without a verdict"


HEADER = ("| check | what | expected | found | verdict | s |", "|---|---|---|---|---|---|")


def row(outcome: Outcome) -> str:
    """A row of the table in Markdown."""
    check, cells = outcome.check, (outcome.check.title, outcome.check.expects, outcome.verdict.figures)
    texts = " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return f"| {check.name} | {texts} | {outcome.verdict.word} | {outcome.seconds:.0f} |"
