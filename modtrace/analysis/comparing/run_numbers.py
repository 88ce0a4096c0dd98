"""The numbers of one run that runs are compared by: what a baseline file holds, and what a trace is boiled down to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.comparing.module_forest import ModuleForest, NamedModule
from modtrace.analysis.metrics import METRICS

Ints = npt.NDArray[np.int64]

UNKNOWN: Final = -1

FORWARD, BACKWARD, DEVICE, SUBTREE = "forward", "backward", "device", "subtree"
MODULE_TIMES: Final = (FORWARD, BACKWARD, DEVICE, SUBTREE)
"""Times of a module a step: of its forward and its backward with everything inside, on the device, and the wall time of
it and of all modules whose names are below its own, functions included.
"""
STEP: Final = "step"


@dataclass(frozen=True)
class NumberFacts:
    """A number of runs or modules that has no noise: title, unit, and what it is."""

    title: str
    unit: str
    doc: str


def _as_metric(key: str, doc: str) -> NumberFacts:
    """The title and the unit that the number has in every view."""
    return NumberFacts(METRICS[key].title, METRICS[key].unit, doc)


MODULE_NUMBERS: Final[Mapping[str, NumberFacts]] = {
    "calls": _as_metric("calls", "calls of forward a step"),
    "flops": _as_metric("flops", "FLOPs a step, forward and backward"),
    "parameters": NumberFacts("parameters", "", "elements of all parameters"),
    "parameter_bytes": NumberFacts("parameter bytes", "bytes", "bytes of all parameters"),
    "saved": NumberFacts("saved", "bytes", "bytes kept for one backward (--saved)"),
    "peak": _as_metric("mem", "most memory held while it ran"),
    "operations": NumberFacts("operations", "", "its own operations in one call"),
}
"""Numbers of a module by key."""

RUN_NUMBERS: Final[Mapping[str, NumberFacts]] = {
    "calls": _as_metric("calls", "module calls a step"),
    "flops": _as_metric("flops", "FLOPs a step"),
    "parameters": NumberFacts("parameters", "", "elements of all parameters"),
    "parameter_bytes": NumberFacts("parameter bytes", "bytes", "bytes of all parameters"),
    "saved": NumberFacts("saved", "bytes", "bytes kept for one backward (--saved)"),
    "peak": _as_metric("mem", "most memory held in a step"),
    "operations": NumberFacts("operations", "", "operations of modules, each in one call"),
    "graphs": NumberFacts("graphs", "", "graphs that torch.compile made"),
    "recompiles": NumberFacts("recompiles", "", "graphs that it made again"),
    "modules": NumberFacts("modules", "", "modules, those that never ran too"),
}
"""Numbers of a run by key."""


@dataclass(frozen=True)
class StepTimes:
    """Times a step of several things over the steps that count, an array element a thing; UNKNOWN where there are none.

    p50_ns, least_ns, most_ns: over the steps in which it ran.
    steps: how many those are.
    mean_ns, p95_ns: likewise; UNKNOWN where a baseline file has left them out.
    """

    p50_ns: Ints
    least_ns: Ints
    most_ns: Ints
    steps: Ints
    mean_ns: Ints
    p95_ns: Ints

    @classmethod
    def unknown(cls, count: int) -> StepTimes:
        """Of so many things of which nothing is known."""
        none = np.full(count, UNKNOWN, np.int64)
        return cls(none, none, none, np.zeros(count, np.int64), none, none)

    def rows(self, numbers: Ints) -> StepTimes:
        """Some of the things."""
        return StepTimes(*(getattr(self, column.name)[numbers] for column in fields(self)))

    def __len__(self) -> int:
        return len(self.p50_ns)


@dataclass(frozen=True)
class RunNumbers:
    """One run, its first rank.

    environment: facts by name, None where not known.
    modules: all modules; the numbers of `module_numbers` and the times of `module_times` have an element for each,
        UNKNOWN where not known. `SUBTREE` is known of cores alone, see `ModuleForest`.
    dtypes: types of the parameters of each module itself, `float32`; outputs: the signature it returned most often; "".
    operations: the operations of each module itself in one call; None where they were not kept.
    step_times: `step` and its phases, by name in `step_names`.
    outside_times: what is in no module, such as `optimizer` and `between phases`, by name in `outside_names`.
    totals: the numbers of RUN_NUMBERS, None where not known.
    steps: steps that count. training: they are steps of a training loop, else calls of roots.
    nonfinite: values were not finite; None where that was not looked for.
    notes: what is to be known about the recording.
    """

    environment: Mapping[str, str | None]
    modules: Sequence[NamedModule]
    dtypes: Sequence[str]
    outputs: Sequence[str]
    operations: Sequence[tuple[str, ...]] | None
    module_numbers: Mapping[str, Ints]
    module_times: Mapping[str, StepTimes]
    step_names: Sequence[str]
    step_times: StepTimes
    outside_names: Sequence[str]
    outside_times: StepTimes
    totals: Mapping[str, int | None]
    steps: int
    training: bool
    nonfinite: bool | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @cached_property
    def forest(self) -> ModuleForest:
        """Its modules as trees; made once."""
        return ModuleForest(self.modules)
