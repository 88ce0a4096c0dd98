"""One rank reduced to a few numbers: its calls are opened, added up, and can be let go before the next rank's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.device_times import accelerators
from modtrace.analysis.module_names import dotted
from modtrace.analysis.modules import module_names
from modtrace.analysis.phases import BACK, RECOMPUTE
from modtrace.analysis.ranks.process_groups import attempt_of
from modtrace.analysis.ranks.rank_arrivals import RankLaunches, rank_launches
from modtrace.analysis.ranks.rank_end import RankEnd, rank_end
from modtrace.analysis.ranks.rank_waits import RankCollectives, last_collectives
from modtrace.analysis.step_columns import StepColumns, step_columns
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE, PHASE

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

FORWARD, BACKWARD_OF, WAIT = "forward", "backward", "wait"
MANY_CELLS: Final = 1 << 26
"""About so many times, of a module in a step, are kept of all ranks together: 256 MB."""
WRAPPERS: Final = ("torch.distributed.", "torch.nn.parallel.")
"""Modules of classes that begin so wait for other ranks in their own time."""
_SHOWN: Final = ("data_ns", "forward_ns", "backward_ns", "optimizer_ns", "other_ns")
"""Phases that have a column; all further ones are in `other_ns`."""


@dataclass(frozen=True)
class Place:
    """A module and a direction, `forward` or `backward`: what has a time of its own in a step."""

    name: str
    type: str
    direction: str

    @property
    def text(self) -> str:
        """`layers.7 backward`."""
        return f"{self.name} {self.direction}"


@dataclass(frozen=True)
class RankStepTimes:
    """Times of a rank in its steps, an array element a step.

    number: of the step in its process.
    counts: which of them statistics are of.
    duration_ns, data_ns: of the step, and of its waiting for data.
    wait_ns: the part of it in which a wrapper (DistributedDataParallel) or the end of a backward may have waited for
        other ranks, and once ranks are beside each other what modules stood in collectives.
    own_ns: shape (steps, places); wall time in a place without the calls inside, NaN where it is not known.
    width: an element is so many steps, their mean; 1 but where sums over windows of steps were read.
    """

    number: Ints
    counts: Bools
    duration_ns: Floats
    data_ns: Floats
    wait_ns: Floats
    own_ns: Floats
    width: int = 1


_NONE: Final = np.zeros(0, np.float32)
NO_TIMES: Final = RankStepTimes(
    np.zeros(0, np.int64), np.zeros(0, np.bool_), _NONE, _NONE, _NONE, np.zeros((0, 0), np.float32)
)


@dataclass(frozen=True)
class RankNumbers:
    """One process of a job: a rank, or one of its starts.

    attempt: 0 for the first start of this rank.
    end: how it ended and where it stands.
    steps, whole_steps: those that began, those that came to their end.
    phases_ns: the median of a step and of its phases over the steps that count: `step_ns`, those of _SHOWN and
        `modules_ns`, time in modules in which nothing is waited for; None for each where no step counts.
    places: modules in forward and backward, in order of first call.
    role: the same for ranks of the same modules and shapes of parameters.
    times: of the steps that are kept, until ranks have been held against each other.
    devices: accelerators that it used, `cuda`; none for a rank that computes on its processor alone.
    fault: reason for which it cannot be read.
    from_sums: its numbers are those that it added up itself (`--rollups`), its calls were not opened.
    collectives: those that it launched last; None where it launched none.
    launches: all of them, until ranks have been held against each other.
    wait_ns: the median over the steps that count of the time in which a collective of it waited for other ranks; None
        where not known.
    """

    folder: str
    rank: int
    attempt: int
    world_size: int | None
    end: RankEnd
    steps: int
    whole_steps: int
    phases_ns: dict[str, int | None]
    places: tuple[Place, ...]
    role: Any
    times: RankStepTimes
    devices: tuple[str, ...]
    fault: str | None = field(default=None)
    from_sums: bool = False
    collectives: RankCollectives | None = None
    launches: RankLaunches | None = None
    wait_ns: int | None = None


PHASE_KEYS: Final = ("step_ns", *_SHOWN, "modules_ns")


def reduced(stored: Stored, cells: int) -> RankNumbers:
    """The numbers of the process of a trace of one.

    Args:
        stored: the trace, of one process.
        cells: about so many times are kept: each second step, each fourth and so on where there are more.

    Raises:
        TraceError: it cannot be read.
    """
    about = stored.processes[0]
    numbers = step_columns(stored, 0)
    names, role, place_of = _places(stored)
    number = _kept(len(numbers), max(len(names), 1), cells)
    place_of_call = _places_of_calls(stored, place_of)
    own = _own_ns(stored, place_of_call, number, len(names))
    ran = np.flatnonzero(np.nansum(own, axis=0) > 0) if len(names) else np.zeros(0, np.int64)
    times = RankStepTimes(
        number=number,
        counts=numbers["in_statistics"][number].astype(np.bool_),
        duration_ns=_known(numbers["duration_ns"][number]),
        data_ns=_known(numbers["data_ns"][number]),
        wait_ns=_wait_ns(stored, number),
        own_ns=own[:, ran],
    )
    steps = timeline(stored).steps[0]
    shown = np.full(len(names) + 1, -1, np.int64)
    shown[ran] = np.arange(len(ran))
    return RankNumbers(
        folder=about.folder,
        rank=about.rank,
        attempt=attempt_of(about.folder),
        world_size=about.world_size,
        end=rank_end(stored),
        steps=len(steps),
        whole_steps=int(steps.whole.sum()),
        phases_ns=_phases(numbers, times),
        places=tuple(names[place] for place in ran.tolist()),
        role=role,
        times=times,
        devices=tuple(accelerators(stored)),
        collectives=last_collectives(stored),
        launches=rank_launches(stored, numbers["in_statistics"].astype(np.bool_), shown[place_of_call]),
    )


def unreadable(folder: str, rank: int, fault: str) -> RankNumbers:
    """A process that cannot be read."""
    unknown = dict.fromkeys(PHASE_KEYS)
    end = RankEnd("cannot be read", failed=False, running=False)
    return RankNumbers(
        folder, rank, attempt_of(folder), None, end, 0, 0, unknown, (), None, NO_TIMES, (), fault
    )


def _kept(steps: int, places: int, cells: int) -> Ints:
    """Numbers of the steps that are kept: each, each second, each fourth ..., the same for any two ranks as far as both
    keep so many.
    """
    stride = 1
    while steps // stride > 1 and (steps // stride) * places > cells:
        stride *= 2
    return np.arange(0, steps, stride)


def _places(stored: Stored) -> tuple[list[Place], Any, Ints]:
    name, _, root = module_names(stored)
    return places_of(stored.table("modules"), name, root)


def places_of(table: pa.Table, name: list[str], root: list[str]) -> tuple[list[Place], Any, Ints]:
    """The places of a process, its role, and of each module the number of its place in forward; that in backward is the
    next. -1 for a module that waits for other ranks itself.

    Args:
        table: the table `modules` of the process.
        name, root: of each of its rows.
    """
    types: list[str] = table.column("type").to_pylist()
    sources = table.column("type_module").to_pylist()
    parameters = table.column("parameters").to_pylist()
    several = len(set(root)) > 1
    places: dict[tuple[str, str], int] = {}
    place_of = np.full(len(types), -1, np.int64)
    shapes: set[tuple[Any, ...]] = set()
    rows = zip(name, root, types, sources, parameters, strict=True)
    for module, (own, top, class_name, source, tensors) in enumerate(rows):
        shown = dotted(top, own) if several else own or top
        sizes = tuple((tensor["path"], tuple(tensor["shape"] or ())) for tensor in tensors or [])
        shapes.add((shown if several else own, class_name, sizes))
        if not f"{source or ''}.".startswith(WRAPPERS):
            place_of[module] = 2 * places.setdefault((shown, class_name), len(places))
    directions = (FORWARD, BACKWARD_OF)
    return [Place(*key, direction) for key in places for direction in directions], frozenset(shapes), place_of


def _position(number: Ints, steps: int) -> Ints:
    """For each step of a process its place among those that are kept, -1 for none; one more for "outside of steps"."""
    position = np.full(steps + 1, -1, np.int64)
    position[number] = np.arange(len(number))
    return position


def _places_of_calls(stored: Stored, place_of: Ints) -> Ints:
    """Of each call the number of the place that its own time is in, -1 for none."""
    table = timeline(stored).calls
    call_kind, module = column(table, "kind"), nullable_codes(table, "module")
    in_backward = (call_kind == BACKWARD) | (nullable_codes(table, "phase") == RECOMPUTE)
    forward = np.append(place_of, -1)[module]
    has_place = ((call_kind == MODULE) | (call_kind == BACKWARD)) & (forward >= 0)
    return np.where(has_place, forward + in_backward, -1)


def _own_ns(stored: Stored, place_of_call: Ints, number: Ints, places: int) -> Floats:
    table = timeline(stored).calls
    position = _position(number, len(timeline(stored).steps[0]))[nullable_codes(table, "step")]
    rows = np.flatnonzero((place_of_call >= 0) & (position >= 0))
    cell = position[rows] * places + place_of_call[rows]
    self_ns, known = values_and_known(table, "self_ns")
    shape = (len(number), places)
    spent = np.bincount(cell, weights=self_ns[rows], minlength=len(number) * places).astype(np.float32)
    spent[cell[~known[rows]]] = np.nan
    return spent.reshape(shape)


def _wait_ns(stored: Stored, number: Ints) -> Floats:
    """Own time of backward phases and of modules that wrap others for several ranks, in each step that is kept."""
    table = timeline(stored).calls
    call_kind, module, step = (
        column(table, "kind"), nullable_codes(table, "module"), nullable_codes(table, "step"),
    )  # fmt: skip
    sources = [f"{source or ''}." for source in stored.table("modules").column("type_module").to_pylist()]
    wraps = np.array([*(source.startswith(WRAPPERS) for source in sources), False], np.bool_)
    position = _position(number, len(timeline(stored).steps[0]))[step]
    is_call = (call_kind == MODULE) | (call_kind == BACKWARD)
    waits = (is_call & wraps[module]) | ((call_kind == PHASE) & (nullable_codes(table, "phase") == BACK))
    rows = np.flatnonzero(waits & (position >= 0))
    self_ns, known = values_and_known(table, "self_ns")
    spent = np.bincount(position[rows], weights=self_ns[rows], minlength=len(number)).astype(np.float32)
    spent[position[rows[~known[rows]]]] = np.nan
    return spent


def _known(values: Ints) -> Floats:
    return np.where(values >= 0, values, np.nan).astype(np.float32)


def _phases(numbers: StepColumns, times: RankStepTimes) -> dict[str, int | None]:
    """Medians over the steps that count."""
    chosen = numbers.chosen(numbers["in_statistics"].astype(np.bool_))
    shown: dict[str, Ints] = {"step_ns": chosen["duration_ns"], **{key: chosen[key] for key in _SHOWN}}
    for key in ("h2d_ns", "eval_ns", "loss_ns", "zero_grad_ns", "other_threads_ns"):
        shown["other_ns"] = shown["other_ns"] + np.maximum(chosen[key], 0)
    medians = {key: median_of(_known(values)) for key, values in shown.items()}
    return {**medians, "modules_ns": median_of(times.own_ns[times.counts].sum(axis=1))}


def median_of(values: Sequence[float] | Floats) -> int | None:
    """The median of those that are known, nearest rank as everywhere, None for none."""
    known = np.asarray(values)
    known = np.sort(known[~np.isnan(known)])
    return int(known[(len(known) - 1) // 2]) if len(known) else None
