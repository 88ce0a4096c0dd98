"""Cost of tracing in nanoseconds, as the process measured it."""

from __future__ import annotations

from dataclasses import dataclass

from modtrace.trace.reader import Process


@dataclass(frozen=True)
class StepCost:
    """The cost of tracing in `steps` steps that took `steps_ns`."""

    cost_ns: int
    steps: int
    steps_ns: int


def tracing_cost(about: Process) -> int | None:
    """All that tracing cost a process, what it took to begin too; None for one that did not come to its end, which is
    when the parts are written.
    """
    running = _running_cost(about)
    return None if running is None else running + (about.start_cost_ns or 0)


def step_cost(about: Process, steps: int, steps_ns: int, step_calls: int, calls: int) -> StepCost | None:
    """The part of it in the steps that came to their end, by their share of the module calls; None where not known.

    Args:
        about: the process.
        steps, steps_ns, step_calls: those steps, their time and the module calls in them.
        calls: all module calls.
    """
    running = _running_cost(about)
    if running is None or not steps_ns or not calls:
        return None
    return StepCost(running * min(step_calls, calls) // calls, steps, steps_ns)


def _running_cost(about: Process) -> int | None:
    end = about.end
    if end is None or "calls" not in end.cost_ns:
        return None
    return sum(end.cost_ns.values())
