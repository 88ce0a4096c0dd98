"""Comparing runs in code: `modtrace.compare` and `modtrace.check`, for tests and notebooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modtrace.api import Trace
from modtrace.errors import CannotTellError, RegressionError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from modtrace.analysis.comparing.change_lines import StepChange
    from modtrace.analysis.comparing.comparison import Comparison
    from modtrace.analysis.comparing.gate import LimitResult
    from modtrace.analysis.comparing.plain_changes import EnvironmentChange, NumberChange, StructureChange
    from modtrace.analysis.comparing.run_numbers import RunNumbers

Compared = Trace | str | os.PathLike[str]
"""A trace, or the path of one or of a baseline file."""


class Difference:
    """All that differs between two sides; `print` shows what `modtrace diff` does. Made by `compare()`."""

    def __init__(self, comparison: Comparison, names: tuple[str, str], limits: Sequence[LimitResult]) -> None:
        self._comparison, self._names, self._limits = comparison, names, list(limits)

    @property
    def verdict(self) -> str:
        """The verdict on the step: `slower`, `faster`, `same` or `unknown`."""
        return self._comparison.steps["step"].verdict

    @property
    def environment(self) -> list[EnvironmentChange]:
        """Facts of the runs that differ."""
        return self._comparison.environment

    @property
    def structure(self) -> list[StructureChange]:
        """Modules that were added, removed, renamed, moved or wrapped, or are of another class or shape."""
        return self._comparison.structure

    @property
    def numbers(self) -> list[NumberChange]:
        """Numbers without noise that differ, of the run and of modules."""
        return self._comparison.numbers

    @property
    def step(self) -> StepChange | None:
        """The change of the step as lines that add up, the largest first; None where its time is not known."""
        return self._comparison.step_change

    @property
    def limits(self) -> list[LimitResult]:
        """The limits that were held against it."""
        return self._limits

    @property
    def modules(self) -> pd.DataFrame:
        """One row a module that both sides have, and time of it: `forward`, `backward`, `device`, `time` (with all
        modules below it). Times are medians of the runs in ns; what is not known is null.
        """
        import pandas as pd

        from modtrace.export.difference_json import TIME_NAMES

        rows = [
            {
                "name": module.name,
                "type": module.type,
                "which": TIME_NAMES[kind],
                "baseline_ns": time.baseline_ns,
                "candidate_ns": time.candidate_ns,
                "ratio": time.ratio,
                "ratio_low": time.low,
                "ratio_high": time.high,
                "verdict": time.verdict,
                "reason": time.reason,
            }
            for module in self._comparison.modules
            for kind, time in module.times.items()
            if time.baseline_ns is not None or time.candidate_ns is not None
        ]
        frame = pd.DataFrame(rows)
        whole = [name for name in ("baseline_ns", "candidate_ns") if len(frame)]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    def text(self, *, width: int = 80, ascii: bool = False, every: bool = False) -> str:
        """The text that `modtrace diff` prints, without colors; with `every` all rows."""
        from modtrace.views.console import difference_text

        return difference_text(
            self._comparison, self._names, limits=self._limits, every=every, width=width, ascii=ascii
        )

    def to_json(self) -> str:
        """The text that `modtrace diff --json` prints."""
        from modtrace.export.difference_json import difference_json

        return difference_json(self._comparison, self._limits)

    def to_markdown(self) -> str:
        """The text that `modtrace diff --markdown` prints."""
        from modtrace.views.difference_markdown import difference_markdown

        return difference_markdown(self._comparison, self._names, self._limits)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        step = self._comparison.steps["step"]
        ratio = "?" if step.ratio is None else f"{100 * (step.ratio - 1):+.1f}%"
        return f"<modtrace.Difference step {ratio}, {step.verdict}>"


def compare(
    baseline: Compared | Sequence[Compared],
    candidate: Compared | Sequence[Compared],
    fail_on: str | None = None,
    *,
    names: str | Sequence[str] = (),
    noise: float = 0.05,
    unknown_ok: bool = False,
) -> Difference:
    """Compare runs: what changed from a baseline to a candidate.

    Args:
        baseline, candidate: a trace, the path of one or of a baseline file, or several of these. Times can be told from
            noise with five runs a side or more.
        fail_on: limits, as those of `modtrace diff --fail-on`: `"step:+5%, peak:+1%, flops:+0"`.
        names: names of modules that changed, as those of `--map`: `"encoder.*=enc.*"`.
        noise: changes of times by less than this are none; 0.05 is 5 %.
        unknown_ok: a limit of which it cannot be told whether it holds is fine.

    Raises:
        RegressionError: a limit is exceeded.
        CannotTellError: of a limit it cannot be told.
        UsageError: a limit or a name cannot be read.
        TraceError: a trace cannot be read.
    """
    from modtrace.analysis.comparing.comparison import Comparison
    from modtrace.analysis.comparing.gate import held_against
    from modtrace.analysis.comparing.limits import parse_limits
    from modtrace.analysis.comparing.name_map import NameMap

    limits = parse_limits(fail_on) if fail_on is not None else []
    renamed = NameMap([names] if isinstance(names, str) else names)
    sides = _listed(baseline), _listed(candidate)
    runs = [[run for one in side for run in _runs(one)] for side in sides]
    comparison = Comparison(runs[0], runs[1], names=renamed, noise=noise)
    results = held_against(comparison, limits)
    found = Difference(comparison, (_name(sides[0]), _name(sides[1])), results)
    _end(results, found.text(), unknown_ok=unknown_ok)
    return found


def check(trace: Compared, limits: str, *, unknown_ok: bool = False) -> list[LimitResult]:
    """Hold limits against one run.

    Args:
        trace: the run.
        limits: as those of `modtrace check --fail-on`: `"step.p50<50ms, peak<2GB, findings"`.
        unknown_ok: a limit of which it cannot be told whether it holds is fine.

    Raises:
        RegressionError: a limit is exceeded. The message is the table of limits.
        CannotTellError: of a limit it cannot be told.
        UsageError: a limit cannot be read, or is about a change.
        TraceError: the trace cannot be read.
    """
    from modtrace.analysis.comparing.gate import held_against_run
    from modtrace.analysis.comparing.limits import parse_limits
    from modtrace.views.console import limits_text

    parsed = parse_limits(limits)
    runs = _runs(trace)
    if len(runs) != 1:
        raise UsageError(f"check looks at one run; this baseline has {len(runs)}")
    results = held_against_run(runs[0], parsed, lambda: _findings(trace))
    _end(results, limits_text(results, cut=False), unknown_ok=unknown_ok)
    return results


def _listed(side: Compared | Sequence[Compared]) -> list[Compared]:
    """The runs of a side; one alone is a list of one.

    Raises:
        UsageError: there are none.
    """
    listed = [side] if isinstance(side, Trace | str | os.PathLike) else list(side)
    if not listed:
        raise UsageError("compare() takes a trace, or several, on each side")
    return listed


def _runs(one: Compared) -> list[RunNumbers]:
    from modtrace.analysis.comparing.run_extraction import run_numbers
    from modtrace.analysis.comparing.run_files import runs_in

    if isinstance(one, Trace):
        return [run_numbers(one._read())]  # noqa: SLF001 - of the same package
    return runs_in(Path(one))


def _findings(one: Compared) -> int:
    from modtrace.analysis.findings import findings
    from modtrace.trace.reader import open_trace

    if isinstance(one, Trace):
        return len(findings(one._read()))  # noqa: SLF001 - of the same package
    if Path(one).is_file():
        raise UsageError("a baseline file holds no findings: check the trace")
    return len(findings(open_trace(Path(one))))


def _name(side: Sequence[Compared]) -> str:
    first = side[0].path if isinstance(side[0], Trace) else Path(side[0])
    name = first.name if first is not None else "a recording"
    return name if len(side) == 1 else f"{name} and {len(side) - 1} more"


def _end(results: Sequence[LimitResult], table: str, *, unknown_ok: bool) -> None:
    """Raise where the verdict on limits is not good."""
    from modtrace.analysis.comparing.gate import CANNOT_TELL, EXCEEDED, verdict

    worst = verdict(results, unknown_ok=unknown_ok)
    if worst == EXCEEDED and results:
        raise RegressionError(f"a limit is exceeded\n{table}")
    if worst == CANNOT_TELL and results:
        raise CannotTellError(f"of a limit it cannot be told\n{table}")
