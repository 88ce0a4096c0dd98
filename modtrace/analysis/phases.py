"""The phase and the step of each call, and the parts of a step. Arrays in, arrays out.

A *unit* is what a thread's time is divided into: a root call or a phase with nothing around it but spans, functions and
optimizer steps (one of LBFGS runs forward and backward inside). The calls inside a unit have its phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.analysis import step_evaluations
from modtrace.analysis.call_arrays import Calls
from modtrace.analysis.columns import begun
from modtrace.analysis.intervals import covered_between
from modtrace.analysis.step_borders import Borders
from modtrace.analysis.step_evaluations import TrainedModules, UsualEvaluations
from modtrace.trace.optimizer_turns import Pair, turns
from modtrace.trace.schema import (
    BACKWARD,
    EVALUATING,
    FUNCTION,
    IN_BACKWARD,
    MODULE,
    NO_GRAD,
    OK,
    PHASE,
    PHASES,
    SPAN,
    STEP,
)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Losses = list[tuple[int, int]]

NAMES: Final = (*PHASES, "recompute")
"""Names of phases; `phase` of a call is an index into them."""
DATA, H2D, FORWARD, EVAL, LOSS, BACK, OPTIMIZER, ZERO_GRAD, RECOMPUTE = range(9)
NONE: Final = -1


class Stretch(NamedTuple):
    """Steps side by side of which no calls are recorded: how many, and when the first began and the last ended."""

    steps: int
    from_ns: int
    to_ns: int


@dataclass(frozen=True)
class Steps:
    """The steps of one process: an array element a step. `thread` is the one whose time is divided.

    recorded: calls of it are recorded. All else of a step that is not is empty: it begins and ends where the stretch of
        such steps begins.
    by: what ends them: "mark", "optimizer", "forward" (of the next one, for updates by hand), "root" (each root call).
    spent: phase -> nanoseconds outside of the other phases in it, in the order of NAMES without `recompute`.
    threads: nanoseconds in which calls ran on other threads while this one was in no phase.
    first, last: its calls on the thread; last < first for none.
    modules: of each root call that is a step, the module; empty where steps are ended by something else.
    evals: evaluations of other modules and of trained ones that come before anything else of it: shape (2, steps).
    final: how many steps, from the first on, no later optimizer step can change.
    pairs: (end of the step, optimizers) of those that share a step, see `turns`.
    training: units of the thread, with what tells which modules each step trains; None where there is no training.
    """

    by: str
    thread: int
    start: Ints
    end: Ints
    whole: Bools
    recorded: Bools
    spent: Ints
    threads: Ints
    first: Ints
    last: Ints
    modules: Ints
    evals: Ints
    final: int
    pairs: list[tuple[int, Pair]]
    training: step_evaluations.Units | None

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Division:
    """Result of `divide`: the phase and the step of each call. `losses` are (forward unit, backward unit) between which
    a loss was computed.
    """

    phase: Ints
    step: Ints
    units: Ints
    losses: Losses
    steps: Steps


@dataclass(frozen=True)
class PrecedingCalls:
    """Units and steps before calls that begin with a step, where a trace is divided piece by piece.

    by, thread: as in Steps.
    end: when the last step ended, None where there was none.
    usual: the evaluations in front of earlier steps.
    trained: modules with training forwards in them.
    pairs: optimizers that shared one of them.
    """

    by: str
    thread: int
    end: int | None
    usual: UsualEvaluations = field(default_factory=UsualEvaluations)
    trained: TrainedModules = field(default_factory=TrainedModules)
    pairs: frozenset[Pair] = frozenset()


@dataclass(frozen=True)
class _Ends:
    """The thread whose time is divided, what ends its steps, when, and the call that does (none where the next forward
    does); `final` and `pairs` as in Steps.
    """

    thread: int
    by: str
    end_ns: Ints
    closing: Ints
    final: int
    pairs: list[tuple[int, Pair]]


def divide(
    calls: Calls,
    earlier: PrecedingCalls | None = None,
    *,
    over: bool = False,
    stretches: Sequence[Stretch] = (),
) -> Division:
    """Find units, phases and steps.

    Args:
        calls: those of one process.
        earlier: what came before them.
        over: the program came to its end without an error, so no step is in progress.
        stretches: steps that were left out, in order.
    """
    units = _units(calls)
    phase_of_unit = _phases_of(calls, units)
    ends = _ends(calls, units, earlier)
    if earlier is not None and ends.by != earlier.by:
        ends = _Ends(earlier.thread, earlier.by, ends.end_ns[:0], ends.end_ns[:0], 0, [])
    thread, by = ends.thread, ends.by
    on_thread = np.flatnonzero(calls.thread[units] == thread)
    losses = _losses(calls, units[on_thread], phase_of_unit[on_thread]) if by != "root" else []
    bare = (calls.kind[units] == MODULE) & (calls.thread[units] == thread) & _between(units, losses)
    phase_of_unit[bare & ((phase_of_unit == FORWARD) | (phase_of_unit == EVAL))] = LOSS
    unit_of = _unit_of(calls, units)
    phase = _spread(calls, units, phase_of_unit, unit_of)
    functions = calls.kind == FUNCTION
    if functions.any():
        phase[functions & (phase == NONE) & _while_lost(calls, thread, losses)] = LOSS
    tops = _checkpoint_tops(calls)
    if len(tops):
        phase[_inside(tops, calls.last)] = RECOMPUTE
    if by == "root":
        return Division(phase, *_each_root(calls, units, phase_of_unit, stretches))
    works = np.isin(phase_of_unit, (FORWARD, EVAL, LOSS, BACK, OPTIMIZER))
    others = units[(calls.thread[units] != thread) & works]
    steps, losses = _steps(
        calls, units[on_thread], phase_of_unit[on_thread], others, losses, ends, earlier, over, stretches
    )
    return Division(phase, _step_of(calls, units, unit_of, steps), units, losses, steps)


def _step_of(calls: Calls, units: Ints, unit_of: Ints, steps: Steps) -> Ints:
    """The step that each call is in: the one in which its unit began, or the call itself where it is in none.

    On another thread a unit may outlive its step.
    """

    def of_moments(began: Ints) -> Ints:
        number = np.searchsorted(steps.start, began, side="right") - 1
        if not len(steps):
            return number
        return np.where((number >= 0) & (began < steps.end[np.maximum(number, 0)]), number, NONE)

    step = np.append(of_moments(calls.start[units]), NONE)[unit_of]
    outside = np.flatnonzero(unit_of < 0)
    step[outside] = of_moments(calls.start[outside])
    return step


def _unit_of(calls: Calls, units: Ints) -> Ints:
    """The innermost unit that each call is in, as its position in `units`; -1 for none."""
    index = begun(units, len(calls)) - 1
    if len(units):
        outside = calls.last[units][index] < np.arange(len(calls))
        index[outside] = -1  # where no unit has begun it is -1 already, whatever the last unit holds
    return index


def _between(units: Ints, losses: Losses) -> Bools:
    """Mask of the units that stand between the forward and the backward of a loss."""
    pairs = np.array(losses, np.int64).reshape(-1, 2)
    edges = np.zeros(len(units) + 1, np.int64)
    np.add.at(edges, np.searchsorted(units, pairs[:, 0], side="right"), 1)
    np.add.at(edges, np.searchsorted(units, pairs[:, 1], side="left"), -1)
    return np.cumsum(edges[:-1]) > 0


def _while_lost(calls: Calls, thread: int, losses: Losses) -> Bools:
    """Mask of the calls of the thread that start between the forward and the backward of a loss."""
    pairs = np.array(losses, np.int64).reshape(-1, 2)
    edges = np.zeros(len(calls) + 1, np.int64)
    np.add.at(edges, calls.last[pairs[:, 0]] + 1, 1)
    np.add.at(edges, pairs[:, 1], -1)
    between: Bools = (np.cumsum(edges[:-1]) > 0) & (calls.thread == thread)
    return between


def _units(calls: Calls) -> Ints:
    """Calls with nothing around them but spans, functions and optimizer steps."""
    optimizing = (calls.kind == PHASE) & (calls.label == OPTIMIZER)
    open_kind = (calls.kind == SPAN) | (calls.kind == FUNCTION) | optimizing
    top = calls.parent < 0
    clear = top.copy()
    while True:
        inner = ~top & open_kind[calls.parent] & clear[calls.parent] & ~clear
        if not inner.any():
            break
        clear |= inner
    return np.flatnonzero(clear & ((calls.kind == MODULE) | (calls.kind == PHASE)))


def _phases_of(calls: Calls, units: Ints) -> Ints:
    """The phase of each unit; a root call is `forward`, or `eval` when no backward can follow or has followed it."""
    phase = calls.label[units].copy()
    module = calls.kind[units] == MODULE
    mode = calls.mode[units]
    evaluating = (mode & EVALUATING) > 0
    # Checkpointing runs a part without grad first, and again in backward.
    repeated = np.isin(calls.module[units], calls.module[_recompute_tops(calls)]) & ~evaluating
    evaluates = ((mode & NO_GRAD) > 0) & ~repeated
    if evaluating.any():
        evaluates |= evaluating & ~_took_part(calls, units)
    phase[module] = np.where(evaluates[module], EVAL, FORWARD)
    return phase


def _took_part(calls: Calls, units: Ints) -> Bools:
    """Mask of the units that hold a call that had a backward."""
    targets = np.sort(calls.forward[calls.kind == BACKWARD])
    return np.searchsorted(targets, calls.last[units], side="right") > np.searchsorted(targets, units)


def _spread(calls: Calls, units: Ints, phase: Ints, unit_of: Ints) -> Ints:
    """The phase of every call from that of the innermost unit that it is in."""
    spread = np.append(phase, NONE)[unit_of]
    holds_units = calls.last[units] >= np.append(units[1:], len(calls))
    for unit in units[(phase == OPTIMIZER) & holds_units].tolist():
        phases_within = spread[unit : calls.last[unit] + 1]
        phases_within[phases_within == NONE] = OPTIMIZER
    return spread


def _recompute_tops(calls: Calls) -> Ints:
    return np.flatnonzero((calls.kind == MODULE) & ((calls.mode & IN_BACKWARD) > 0))


def _checkpoint_tops(calls: Calls) -> Ints:
    """The rows of checkpoints that computed again during backward, and the module calls that they made again."""
    return np.union1d(
        _recompute_tops(calls), np.flatnonzero((calls.kind == PHASE) & (calls.label == RECOMPUTE))
    )


def _inside(tops: Ints, last: Ints) -> Bools:
    """Mask of the calls that are one of some calls, or inside one."""
    edges = np.zeros(len(last) + 1, np.int64)
    np.add.at(edges, tops, 1)
    np.add.at(edges, last[tops] + 1, -1)
    return np.cumsum(edges[:-1]) > 0


def _ends(calls: Calls, units: Ints, earlier: PrecedingCalls | None) -> _Ends:
    """The phases that end steps, and their ends in nanoseconds."""
    marks = np.flatnonzero(calls.kind == STEP)
    if len(marks):
        marks = marks[np.argsort(calls.start[marks], kind="stable")]
        return _Ends(_busiest(calls.thread[marks]), "mark", calls.start[marks], marks, len(marks), [])
    of_optimizer = np.flatnonzero((calls.kind == PHASE) & (calls.label == OPTIMIZER))
    of_optimizer = of_optimizer[calls.known[of_optimizer] & (calls.status[of_optimizer] == OK)]
    parent = calls.parent[of_optimizer]
    stepping = of_optimizer[(parent < 0) | (calls.label[parent] != OPTIMIZER)]
    if len(stepping):
        return _optimizer_ends(calls, units, stepping, earlier)
    backward = units[calls.label[units] == BACK]
    if len(backward):
        return _forward_ends(calls, units, _busiest(calls.thread[backward]))
    return _Ends(0, "root", backward, backward, 0, [])


def _forward_ends(calls: Calls, units: Ints, thread: int) -> _Ends:
    """The ends of steps where the next forward, or the wait for its data, ends them."""
    units = units[calls.thread[units] == thread]
    begins = (calls.kind[units] == MODULE) | (calls.label[units] == DATA)
    backward = np.flatnonzero(calls.label[units] == BACK)
    seen = np.cumsum(calls.label[units] == BACK)
    first = np.flatnonzero(begins & (seen > 0))
    number, index = np.unique(seen[first], return_index=True)
    borders = Borders(calls, units)
    closing = units[first[index]]
    ended = calls.end[units[backward[number - 1]]]
    ends = [
        borders.begin_after(unit, since) for unit, since in zip(closing.tolist(), ended.tolist(), strict=True)
    ]
    return _Ends(thread, "forward", np.array(ends, np.int64), closing[:0], len(ends) + 1, [])


def _optimizer_ends(calls: Calls, units: Ints, stepping: Ints, earlier: PrecedingCalls | None) -> _Ends:
    """The ends of steps from the calls of optimizers' `step`."""
    thread = _busiest(calls.thread[stepping])
    stepping = stepping[calls.thread[stepping] == thread]
    around = units[np.maximum(np.searchsorted(units, stepping, side="right") - 1, 0)]
    closing = np.where(calls.last[around] >= stepping, around, stepping)
    backward = units[(calls.label[units] == BACK) & (calls.thread[units] == thread)]
    begun_before = np.searchsorted(calls.start[backward], calls.end[stepping])
    before = earlier.pairs if earlier is not None else frozenset[Pair]()
    turn_ends = turns(calls.maker[stepping].tolist(), begun_before.tolist(), before)
    closing = closing[turn_ends.last]
    ends = calls.end[closing]
    pairs = [
        (end, pair) for end, shared in zip(ends.tolist(), turn_ends.pairs, strict=True) for pair in shared
    ]
    final = len(np.unique(ends[: turn_ends.final]))
    moments, which = np.unique(ends, return_index=True)
    return _Ends(thread, "optimizer", moments, closing[which], final, pairs)


def _busiest(threads: Ints) -> int:
    return int(np.bincount(threads).argmax())


def _losses(calls: Calls, units: Ints, phase: Ints) -> Losses:
    """For each backward the forward before it after which only the loss was computed.

    That is the last root call with parameters since the backward before; a criterion has none. Where no root call has
    any it is the last one.
    """
    pairs = []
    forward = bare = NONE
    has_parameters = calls.parameters[units].tolist()
    for unit, name, has_some in zip(units.tolist(), phase.tolist(), has_parameters, strict=True):
        if name in (FORWARD, EVAL):
            forward, bare = (unit, bare) if has_some else (forward, unit)
        elif name == BACK:
            before = forward if forward != NONE else bare
            if before != NONE and calls.known[before] and calls.parent[before] == calls.parent[unit]:
                pairs.append((before, unit))
            forward = bare = NONE
        elif name == OPTIMIZER:
            forward = bare = NONE
    return pairs


def _each_root(
    calls: Calls, units: Ints, phase: Ints, stretches: Sequence[Stretch]
) -> tuple[Ints, Ints, Losses, Steps]:
    """Without anything that ends a step every root call is one, over all threads."""
    roots = units[calls.kind[units] == MODULE]
    names = phase[calls.kind[units] == MODULE]
    order = np.argsort(calls.start[roots], kind="stable")
    number = np.empty(len(roots), np.int64)
    number[order] = np.arange(len(roots))
    place = _places_of(stretches, calls.start[roots][order])
    number += _before(place, stretches, len(roots))[number]
    step = _spread(calls, roots, number, _unit_of(calls, roots))
    roots, names = roots[order], names[order]
    spent = np.zeros((len(PHASES), len(roots)), np.int64)
    spent[names, np.arange(len(roots))] = np.where(
        calls.known[roots], calls.end[roots] - calls.start[roots], 0
    )
    steps = Steps(
        by="root",
        thread=-1,
        start=calls.start[roots],
        end=np.where(calls.known[roots], calls.end[roots], calls.start[roots]),
        whole=calls.known[roots],
        recorded=np.ones(len(roots), np.bool_),
        spent=spent,
        threads=np.zeros(len(roots), np.int64),
        first=roots,
        last=calls.last[roots],
        modules=calls.module[roots],
        evals=np.zeros((2, len(roots)), np.int64),
        final=len(roots),
        pairs=[],
        training=None,
    )
    return step, units, [], _with_stretches(steps, place, stretches)


def _places_of(stretches: Sequence[Stretch], moments: Ints) -> Ints:
    """In front of which step each stretch stands, by a moment of each step, in order."""
    place: Ints = np.searchsorted(moments, np.array([stretch.to_ns for stretch in stretches], np.int64))
    return place


def _before(place: Ints, stretches: Sequence[Stretch], count: int) -> Ints:
    """Steps that are left out before each of `count` that are recorded, and before the end: shape (count + 1)."""
    total = np.zeros(count + 1, np.int64)
    np.add.at(total, place, np.array([stretch.steps for stretch in stretches], np.int64))
    return np.cumsum(total)


def _with_stretches(steps: Steps, place: Ints, stretches: Sequence[Stretch]) -> Steps:
    """Steps with those put in that were left out: a stretch in front of each place."""
    if not len(place):
        return steps
    amounts, moments = np.array([(stretch.steps, stretch.from_ns) for stretch in stretches], np.int64).T
    count = len(steps) + int(amounts.sum())
    position = np.arange(len(steps)) + _before(place, stretches, len(steps))[:-1]
    recorded = np.zeros(count, np.bool_)
    recorded[position] = True
    moment = np.repeat(moments, amounts)
    row = np.append(steps.first, len(steps) and int(steps.last[-1]) + 1)[np.repeat(place, amounts)]

    def spread(values: Ints, others: Ints | int) -> Ints:
        spread_values = np.zeros((*values.shape[:-1], count), np.int64)
        spread_values[..., position] = values
        spread_values[..., ~recorded] = others
        return spread_values

    return replace(
        steps,
        start=spread(steps.start, moment),
        end=spread(steps.end, moment),
        whole=spread(steps.whole.astype(np.int64), 0) > 0,
        recorded=recorded,
        spent=spread(steps.spent, 0),
        threads=spread(steps.threads, 0),
        first=spread(steps.first, row),
        last=spread(steps.last, row - 1),
        modules=spread(steps.modules, NONE) if len(steps.modules) else steps.modules,
        evals=spread(steps.evals, 0),
        final=int(np.append(position, count)[steps.final]),
        training=None if steps.training is None else _moved(steps.training, position, count),
    )


def _moved(training: step_evaluations.Units, position: Ints, count: int) -> step_evaluations.Units:
    """The same units where steps have other numbers; those behind the last step are behind the last still."""
    return replace(training, step=np.append(position, count)[np.minimum(training.step, len(position))])


def _steps(
    calls: Calls,
    units: Ints,
    phase: Ints,
    others: Ints,
    losses: Losses,
    ended: _Ends,
    earlier: PrecedingCalls | None,
    over: bool,
    stretches: Sequence[Stretch],
) -> tuple[Steps, Losses]:
    """The steps of a thread that end as `_ends` says, and a last one that did not come to its end; the losses that
    were computed within one step. `others` are units of other threads that compute.
    """
    count = len(ended.end_ns)
    behind = np.searchsorted(ended.end_ns, calls.start[units], side="right") == count
    ends, closing = _with_tail(calls, ended, _tail(calls, units, phase, behind, over))
    place = _places_of(stretches, ends)
    borders = Borders(calls, units[~np.isin(phase, (DATA, H2D, ZERO_GRAD))])
    begin = _begin(borders, units, ends, closing, earlier)
    if earlier is None or earlier.end is None:
        begin = min([begin, *_forwards_elsewhere(calls, units, phase, others)])
    moved = len(ends) - len(closing)  # those that a forward ends are not
    ends = np.concatenate(
        [ends[:moved], borders.ends(ends[moved:], closing, max([begin, *ends[:moved][-1:]]))]
    )
    number = np.searchsorted(ends, calls.start[units], side="right")
    training = _training(calls, units, phase, number, len(ends))
    begins = _begins(begin, ends, place, stretches)
    start, evals = _starts(borders, units, training, begins, ends, count, earlier)
    keep = start < ends
    behind_left_out = np.append(np.cumsum(keep) - keep, np.count_nonzero(keep))
    start, ends, evals = start[keep], ends[keep], evals[:, keep]
    number_of = np.append(np.cumsum(keep) - 1, np.count_nonzero(keep))
    # What a forward would have ended is as whole as it will be when none comes any more.
    trains = bool((phase[behind] == BACK).any())
    is_whole = ((np.arange(len(keep)) < count) | (ended.by == "forward" and trains))[keep]
    losses = _within(calls, losses, start)
    first, last = _rows_of_steps(calls, ended.thread, start, ends)
    spent = _within_steps(_spent(calls, units, phase, losses, start, ends), ends - start)
    steps = Steps(
        by=ended.by,
        thread=ended.thread,
        start=start,
        end=ends,
        whole=is_whole,
        recorded=np.ones(len(start), np.bool_),
        spent=spent,
        threads=np.minimum(
            _on_others(calls, units, others, losses, start, ends), ends - start - spent.sum(axis=0)
        ),
        first=first,
        last=last,
        modules=calls.module[:0],
        evals=evals,
        final=int(keep[: ended.final].sum()),
        pairs=ended.pairs,
        training=replace(training, step=number_of[training.step]),
    )
    return _with_stretches(steps, behind_left_out[place], stretches), losses


def _with_tail(calls: Calls, ended: _Ends, tail: int | None) -> tuple[Ints, Ints]:
    """Ends of steps and the calls that end them, with the step that did not come to its end and its last unit."""
    if tail is None:
        return ended.end_ns, ended.closing
    end = max(int(calls.end[tail]), int(calls.start[tail]))
    return np.append(ended.end_ns, end), np.append(ended.closing, tail)


def _begins(begin: int, ends: Ints, place: Ints, stretches: Sequence[Stretch]) -> Ints:
    """The end of the step before each, be that one that was left out."""
    begins = np.concatenate([[begin], ends])[: len(ends)]
    for before, stretch in zip(place.tolist(), stretches, strict=True):
        if before < len(begins):
            begins[before] = max(int(begins[before]), stretch.to_ns)
    return begins


def _rows_of_steps(calls: Calls, thread: int, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """First and last call of each step on its thread, whose calls stand together."""
    on_thread = np.flatnonzero(calls.thread == thread)
    low, high = np.searchsorted(calls.start[on_thread], (start, end))
    offset = int(on_thread[0]) if len(on_thread) else 0
    return low + offset, high + offset - 1


def _within_steps(spent: Ints, took: Ints) -> Ints:
    """Phases that together last no longer than their step, also where rows of a damaged trace overlap.

    Args:
        spent: nanoseconds, shape (phases, steps).
        took: nanoseconds of each step.
    """
    reached = np.minimum(np.cumsum(spent, axis=0), took)
    return np.diff(reached, axis=0, prepend=0)


def _begin(borders: Borders, units: Ints, ends: Ints, closing: Ints, earlier: PrecedingCalls | None) -> int:
    """When the first step begins."""
    if earlier is not None and earlier.end is not None:
        return earlier.end
    if not len(units):
        return 0
    if not len(ends):
        return int(borders.calls.start[units[0]])
    return borders.first_begin(
        int(units[0]), int(ends[0]), int(closing[0]) if len(closing) == len(ends) else None
    )


def _forwards_elsewhere(calls: Calls, units: Ints, phase: Ints, others: Ints) -> list[int]:
    """When forwards on other threads began that the first backward is of, having none on its own thread."""
    backward = np.flatnonzero(phase == BACK)
    if not len(backward) or (phase[: backward[0]] == FORWARD).any():
        return []
    forwards = others[(calls.kind[others] == MODULE) & ((calls.mode[others] & (NO_GRAD | EVALUATING)) == 0)]
    began: list[int] = calls.start[forwards].tolist()
    return [moment for moment in began if moment < calls.start[units[backward[0]]]]


def _within(calls: Calls, losses: Losses, start: Ints) -> Losses:
    """The losses with no beginning of a step between forward and backward."""
    pairs = np.array(losses, np.int64).reshape(-1, 2)
    first, last = calls.end[pairs[:, 0]], calls.start[pairs[:, 1]]
    same = np.searchsorted(start, first, side="right") == np.searchsorted(start, last, side="right")
    return [pair for pair, within in zip(losses, same.tolist(), strict=True) if within]


def _tail(calls: Calls, units: Ints, phase: Ints, behind: Bools, over: bool) -> int | None:
    """The last unit of a step that did not come to its end, None where there is no such step.

    A forward alone behind the last step, of a program that came to its end, was no step of training.
    """
    tail = behind & ((phase == FORWARD) | (phase == LOSS) | (phase == BACK))
    if not tail.any():
        return None
    failed = bool((calls.status[units[behind]] != OK).any())
    if over and not failed and not (phase[behind] == BACK).any():
        return None
    return int(units[np.flatnonzero(tail)[-1]])


def _training(calls: Calls, units: Ints, phase: Ints, step: Ints, count: int) -> step_evaluations.Units:
    """Facts that tell which units lead a step and which train a module; `step` is that of each unit, below `count`."""
    return step_evaluations.Units(
        module=calls.module[units],
        step=step,
        leading=_leading(phase, step, np.searchsorted(step, np.arange(count + 1))),
        trains=(phase == FORWARD) & (calls.kind[units] == MODULE),
        evaluating=(calls.mode[units] & EVALUATING) > 0,
    )


def _starts(
    borders: Borders,
    units: Ints,
    training: step_evaluations.Units,
    begins: Ints,
    ends: Ints,
    ended: int,
    earlier: PrecedingCalls | None,
) -> tuple[Ints, Ints]:
    """When each step starts, and the evaluations in front of each; `begins` are the ends of the steps before, and
    `ended` of the steps came to their end.
    """
    earlier = earlier or PrecedingCalls("", 0, None)
    start = begins.copy()
    cut, evals = step_evaluations.outside(training, ended, len(ends), earlier.usual, earlier.trained)
    first = np.searchsorted(training.step, np.arange(len(ends) + 1))
    following = np.append(units, len(borders.calls))
    for number in np.flatnonzero(cut >= 0).tolist():
        since, leader = int(start[number]), int(cut[number])
        start[number] = max(borders.end_before(int(units[leader]), int(following[leader + 1]), since), since)
    # A step whose first unit is in a span that ends behind the step begins inside of it.
    opening = np.where(cut >= 0, cut + 1, first[:-1])
    of_first = (np.arange(len(ends)) == 0) & (cut >= 0) & (earlier.end is None)
    in_span = borders.calls.parent[following[opening] % len(borders.calls)] >= 0
    for number in np.flatnonzero((opening < first[1:]) & (in_span | of_first)).tolist():
        unit = int(units[opening[number]])
        begin, crosses = borders.begin_within(unit, int(start[number]), int(ends[number]))
        if crosses or of_first[number]:
            start[number] = begin
    return start, evals


def _leading(phase: Ints, step: Ints, first: Ints) -> Bools:
    """The evaluations that come before anything else of a step but data (and what a loop clears at its end).

    `step` is that of each unit, `first` where the units of each step begin.
    """
    others = np.concatenate([[0], np.cumsum(~np.isin(phase, (EVAL, DATA, H2D, ZERO_GRAD)))])
    begin = first[np.minimum(step, len(first) - 1)]
    return np.asarray((phase == EVAL) & (others[:-1] == others[begin]), np.bool_)


def _spent(calls: Calls, units: Ints, phase: Ints, losses: Losses, start: Ints, end: Ints) -> Ints:
    """Nanoseconds of each phase in each step: shape (phases, steps)."""
    spent = np.zeros((len(PHASES), len(start)), np.int64)
    if not len(start):
        return spent
    self_ns = np.where(calls.known[units], calls.end[units] - calls.start[units], 0)
    # A unit inside an optimizer step is not the optimizer's time.
    around = calls.parent[units]
    while (in_span := (around >= 0) & np.isin(calls.kind[around], (SPAN, FUNCTION))).any():
        around = np.where(in_span, calls.parent[around], around)
    outer = np.searchsorted(units, around)
    nested = (around >= 0) & (outer < len(units)) & (units[np.minimum(outer, len(units) - 1)] == around)
    np.subtract.at(self_ns, outer[nested], self_ns[nested].copy())
    step = np.searchsorted(start, calls.start[units], side="right") - 1
    inside = (step >= 0) & (calls.start[units] < end[np.maximum(step, 0)]) & (phase >= 0)
    np.add.at(spent, (phase[inside], step[inside]), self_ns[inside])
    forward, backward = np.array(losses, np.int64).reshape(-1, 2).T
    low, high = calls.end[forward], calls.start[backward]
    number = np.searchsorted(start, low, side="right") - 1
    first, last = np.searchsorted(units, forward, side="right"), np.searchsorted(units, backward)
    ahead = np.concatenate([[0], np.cumsum(self_ns)])
    gap = np.maximum(high - low - np.where(last > first, ahead[last] - ahead[first], 0), 0)
    counts = (number >= 0) & (low < end[np.maximum(number, 0)])
    np.add.at(spent[LOSS], number[counts], gap[counts])
    counts &= nested[last]  # in the closure of an optimizer
    np.subtract.at(spent, (phase[outer[last[counts]]], number[counts]), gap[counts])
    return spent


def _on_others(calls: Calls, units: Ints, others: Ints, losses: Losses, start: Ints, end: Ints) -> Ints:
    """For how long of each step calls ran on other threads while its own was in no phase."""
    if not len(others) or not len(start):
        return np.zeros(len(start), np.int64)
    pairs = np.array(losses, np.int64).reshape(-1, 2)
    loop_spans = (
        np.concatenate([calls.start[units], calls.end[pairs[:, 0]]]),
        np.concatenate([_ends_of(calls, units), calls.start[pairs[:, 1]]]),
    )
    both = (
        np.concatenate([loop_spans[0], calls.start[others]]),
        np.concatenate([loop_spans[1], _ends_of(calls, others)]),
    )
    return covered_between(*both, start, end) - covered_between(*loop_spans, start, end)


def _ends_of(calls: Calls, rows: Ints) -> Ints:
    """When calls ended; of one whose end was not seen, when it began."""
    return np.where(calls.known[rows], calls.end[rows], calls.start[rows])
