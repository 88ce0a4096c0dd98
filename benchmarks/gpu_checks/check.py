"""What a check is: how it measures, what is expected, and the function that judges.

`measure` runs in a process of its own on a GPU. It gives plain values (numbers, texts, lists, dictionaries), computed
from torch.profiler, nvidia-smi, the driver or torch.cuda's statistics, beside those of modtrace. `judge` is a pure
function from these values to a verdict, so it is tested without a GPU: `good` is a made-up measurement that it must
pass, each of `bad` says which values make it fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

PASS: Final = "PASS"  # noqa: S105 - no password
FAIL: Final = "FAIL"
SKIP: Final = "SKIP"

Measured = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a check measures. On `cpu` it only shows that the code runs: the numbers of a device are None there."""

    device: str

    @property
    def cuda(self) -> bool:
        """On a GPU."""
        return self.device == "cuda"

    def size(self, on_gpu: int, on_cpu: int) -> int:
        """A number of steps, or a width: small on the processor."""
        return on_gpu if self.cuda else on_cpu

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.cuda:
            import torch

            torch.cuda.synchronize()


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check, and the numbers that it rests on."""

    word: str
    figures: str


class Skip(Exception):
    """What a check needs is not there: raised by `measure` with the reason."""


def verdict(figures: str, *, good: bool) -> Verdict:
    """PASS or FAIL."""
    return Verdict(PASS if good else FAIL, figures)


@dataclass(frozen=True)
class Check:
    """One check.

    name: `5b`: its number in the list, with a letter where it has several parts.
    expects: the figures that pass, for the table.
    limit_s: after so many seconds its process is ended, and it has failed.
    gpus: how many it needs.
    alone: it measures times, so nothing else may run beside it.
    on_cpu: what it measures on the processor passes too, as no number of a device is in it.
    """

    name: str
    title: str
    expects: str
    measure: Callable[[Place], Measured]
    judge: Callable[[Measured], Verdict]
    good: Measured
    bad: tuple[Measured, ...]
    limit_s: float = 60.0
    gpus: int = 1
    alone: bool = False
    on_cpu: bool = False


def judge_faults(check: Check) -> list[str]:
    """What is wrong with the judge of a check, tried on its made-up measurements; empty if nothing is."""
    faults = []
    if check.judge(check.good).word != PASS:
        faults.append(f"does not pass {check.good}")
    faults += [
        f"does not fail {values}" for values in check.bad if check.judge(check.good | values).word != FAIL
    ]
    return faults
