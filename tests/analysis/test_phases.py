"""Units, phases and what lies between, in random forests of calls: against walks from each call to its root.

Loops that are recorded are in tests/capture/test_phases.py.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from modtrace.analysis import nesting, phases
from modtrace.analysis.call_arrays import Calls
from modtrace.analysis.phases import BACK, EVAL, FORWARD, LOSS, NONE, OPTIMIZER, RECOMPUTE, ZERO_GRAD
from modtrace.trace.schema import BACKWARD, EVALUATING, FUNCTION, IN_BACKWARD, MODULE, NO_GRAD, PHASE, SPAN


class Forest:
    """Random calls of two threads: `calls` as arrays, `above` each call with those around it, the innermost first."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        count = rng.randint(1, 40)
        first_of_second = rng.choice((count, count, rng.randint(0, count)))
        parent, open_calls = [], []
        for number in range(count):
            if number == first_of_second:
                open_calls = []
            del open_calls[rng.randint(0, len(open_calls)) :]
            parent.append(open_calls[-1] if open_calls else -1)
            open_calls.append(number)
        self.above = []
        for number in range(count):
            chain = [number]
            while parent[chain[-1]] >= 0:
                chain.append(parent[chain[-1]])
            self.above.append(chain)
        last = [
            max(inner for inner in range(count) if number in self.above[inner]) for number in range(count)
        ]
        kinds = [rng.choice((MODULE, MODULE, PHASE, SPAN, FUNCTION, BACKWARD)) for _ in range(count)]
        labels = [
            rng.choice((BACK, OPTIMIZER, OPTIMIZER, ZERO_GRAD, RECOMPUTE)) if k == PHASE else NONE
            for k in kinds
        ]
        modes = [
            rng.choice((0, NO_GRAD, EVALUATING, EVALUATING | NO_GRAD, IN_BACKWARD)) if k == MODULE else 0
            for k in kinds
        ]
        forward = [rng.randint(-1, number) if kinds[number] == BACKWARD else NONE for number in range(count)]
        depth = [len(chain) - 1 for chain in self.above]
        thread = [int(number >= first_of_second) for number in range(count)]
        integers = {
            "kind": kinds, "module": [rng.randint(0, 3) for _ in kinds], "parent": parent, "last": last,
            "depth": depth, "thread": thread, "label": labels, "maker": [0] * count, "forward": forward,
            "mode": modes, "start": list(range(0, 10 * count, 10)), "end": [10 * number + 5 for number in last],
            "status": [0] * count,
        }  # fmt: skip
        arrays = {name: np.array(values, np.int64) for name, values in integers.items()}
        true = np.ones(count, np.bool_)
        self.calls = Calls(**arrays, known=true, parameters=true)

    def is_open(self, call):
        calls = self.calls
        return calls.kind[call] in (SPAN, FUNCTION) or (calls.kind[call], calls.label[call]) == (
            PHASE,
            OPTIMIZER,
        )

    def units(self):
        return [
            call
            for call, chain in enumerate(self.above)
            if self.calls.kind[call] in (MODULE, PHASE) and all(map(self.is_open, chain[1:]))
        ]


@pytest.fixture(params=range(60))
def forest(request):
    return Forest(request.param)


def test_inside(forest):
    rows = np.array([forest.rng.random() < 0.3 for _ in forest.above])
    expected = [any(rows[outer] for outer in chain[1:]) for chain in forest.above]
    assert nesting.inside(rows, forest.calls.last).tolist() == expected
    assert nesting.inside(rows, forest.calls.last + 7, 7).tolist() == expected


def test_root_calls(forest):
    kinds = forest.calls.kind
    modules = [any(kinds[outer] in (MODULE, BACKWARD) for outer in chain[1:]) for chain in forest.above]
    assert nesting.below_module(kinds, forest.calls.last).tolist() == modules
    expected = [kinds[call] == MODULE and not below for call, below in enumerate(modules)]
    assert nesting.root_calls(kinds, forest.calls.last).tolist() == expected


def test_units(forest):
    assert phases._units(forest.calls).tolist() == forest.units()


def test_every_call_has_the_phase_of_its_innermost_unit(forest):
    units = forest.units()
    phase = [int(forest.calls.label[unit]) if forest.calls.label[unit] >= 0 else FORWARD for unit in units]
    calls, rows = forest.calls, np.array(units, np.int64)
    spread = phases._spread(calls, rows, np.array(phase, np.int64), phases._unit_of(calls, rows))
    expected = [
        next((phase[units.index(outer)] for outer in chain if outer in units), NONE) for chain in forest.above
    ]
    assert spread.tolist() == expected


def test_what_was_computed_again(forest):
    calls = forest.calls

    def is_top(call):
        again = calls.kind[call] == MODULE and calls.mode[call] & IN_BACKWARD
        return bool(again) or (calls.kind[call], calls.label[call]) == (PHASE, RECOMPUTE)

    assert phases._inside(phases._checkpoint_tops(calls), calls.last).tolist() == [
        any(map(is_top, chain)) for chain in forest.above
    ]


def test_evaluations(forest):
    calls, units = forest.calls, forest.units()
    phases_found = phases._phases_of(calls, np.array(units, np.int64)).tolist()
    again = {
        int(m)
        for m, mode, call_kind in zip(calls.module, calls.mode, calls.kind, strict=True)
        if call_kind == MODULE and mode & IN_BACKWARD
    }
    for unit, phase in zip(units, phases_found, strict=True):
        if calls.kind[unit] == PHASE:
            assert phase == calls.label[unit]
            continue
        mode = int(calls.mode[unit])
        inside = [call for call, chain in enumerate(forest.above) if unit in chain]
        trained = any(
            calls.kind[call] == BACKWARD and calls.forward[call] in inside for call in range(len(calls))
        )
        repeated = int(calls.module[unit]) in again and not mode & EVALUATING
        evaluates = (mode & NO_GRAD and not repeated) or (mode & EVALUATING and not trained)
        assert phase == (EVAL if evaluates else FORWARD)


def test_between_a_forward_and_its_backward(forest):
    units = forest.units()
    top = [unit for unit in units if forest.calls.parent[unit] < 0 and forest.calls.thread[unit] == 0]
    edges = sorted(forest.rng.sample(top, len(top) // 2 * 2)) if len(top) > 1 else []
    losses = list(zip(edges[::2], edges[1::2], strict=True))
    between = phases._between(np.array(units, np.int64), losses)
    assert between.tolist() == [any(low < unit < high for low, high in losses) for unit in units]
    lost = phases._while_lost(forest.calls, 0, losses)
    assert lost.tolist() == [
        forest.calls.thread[call] == 0 and any(forest.calls.last[low] < call < high for low, high in losses)
        for call in range(len(forest.calls))
    ]


def test_the_forward_before_a_loss(forest):
    """The last root call with parameters since the backward before, else the last one."""
    calls, units = forest.calls, forest.units()
    parameters = np.array([forest.rng.random() < 0.6 for _ in forest.above])
    known = np.array([forest.rng.random() < 0.9 for _ in forest.above])
    fields = {name: getattr(calls, name) for name in calls.__dataclass_fields__}
    calls = Calls(**{**fields, "parameters": parameters, "known": known})
    phase = [forest.rng.choice((FORWARD, EVAL, BACK, OPTIMIZER, ZERO_GRAD, LOSS)) for _ in units]
    expected = []
    for position, unit in enumerate(units):
        if phase[position] != BACK:
            continue
        since = position
        while since and phase[since - 1] not in (BACK, OPTIMIZER):
            since -= 1
        forwards = [units[index] for index in range(since, position) if phase[index] in (FORWARD, EVAL)]
        forwards = [call for call in forwards if parameters[call]] or forwards
        if forwards and known[forwards[-1]] and calls.parent[forwards[-1]] == calls.parent[unit]:
            expected.append((forwards[-1], unit))
    assert phases._losses(calls, np.array(units, np.int64), np.array(phase, np.int64)) == expected


def test_the_busiest_thread():
    assert phases._busiest(np.array([3, 1, 1, 3, 1])) == 1
