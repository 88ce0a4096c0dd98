"""The list of rules, and the findings of a trace, ranked.

Every rule is silent unless there is enough to judge by. Times of steps are those of the thread that runs the loop, over
the steps that count in statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from modtrace.analysis.compilations import compiled_steps
from modtrace.analysis.findings.allocator_rules import device_allocs, retries
from modtrace.analysis.findings.base import Facts, Finding
from modtrace.analysis.findings.device_rules import (
    copies,
    device_idle,
    full_precision,
    other_device,
    pageable,
    syncs,
)
from modtrace.analysis.findings.memory_rules import activations, growth
from modtrace.analysis.findings.mode_rules import batch_norm, eval_with_grad
from modtrace.analysis.findings.process_rules import children
from modtrace.analysis.findings.time_rules import (
    data,
    drift,
    first_step,
    long_backward,
    long_optimizer,
    one_module,
    recompute,
    tiny_calls,
)
from modtrace.analysis.findings.training_rules import earlier_steps, never_ran, no_gradient, no_optimizer
from modtrace.analysis.findings.value_rules import dead, exploding, saturating, values_drift, vanishing
from modtrace.analysis.recording_end import lacks_calls
from modtrace.analysis.step_columns import StepColumns, joined, recorded_columns
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored

Rule = Callable[[Facts], Iterator[Finding]]

RULES: Final[tuple[Rule, ...]] = (
    data, first_step, one_module, long_backward, long_optimizer, never_ran, no_optimizer, earlier_steps, no_gradient,
    batch_norm, tiny_calls, drift, eval_with_grad, recompute, growth, activations, retries, device_allocs,
    device_idle, copies, pageable, syncs, other_device, full_precision, children,
    saturating, dead, vanishing, exploding, values_drift,
)  # fmt: skip
FROM_ABSENCE: Final[tuple[Rule, ...]] = (
    never_ran,
    no_gradient,
    eval_with_grad,
)
"""Rules that conclude from calls that are not there. They say nothing of a recording that was cut short, or in
which steps were left out.
"""


@once
def findings(stored: Stored) -> list[Finding]:
    """All findings, those about results first, then by the time at stake."""
    steps = _steps_of_first_rank(stored)
    complete = steps.chosen(steps["whole"])
    compiling = frozenset(np.flatnonzero(compiled_steps(stored)).tolist())
    # Where there are no others, steps with FLOP counting or compiling count in statistics; advice is not given on them.
    usual = steps["in_statistics"] & ~steps["counted"]
    steady = steps.chosen(usual & ~np.isin(steps.number, list(compiling)))
    facts = Facts(stored, timeline(stored).calls, steps, complete, steady, compiling)
    silent = FROM_ABSENCE if lacks_calls(stored) else ()
    ranked = [finding for rule in RULES if rule not in silent for finding in rule(facts)]
    return sorted(ranked, key=lambda entry: (not entry.wrong, -entry.won_ns))


def _steps_of_first_rank(stored: Stored) -> StepColumns:
    """The steps of the lowest rank that has any; a rank that was restarted has several processes."""
    processes = [number for number, steps in enumerate(timeline(stored).steps) if len(steps)] or [0]
    lowest = min(stored.processes[number].rank for number in processes)
    return joined(
        [recorded_columns(stored, number) for number in processes if stored.processes[number].rank == lowest]
    )
