"""Records of a thread buffer, taken in blocks at any moment, become rows: against an account in plain Python."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from modtrace.capture.engine.block_writer import TakenBlock
from modtrace.capture.engine.decode import Carried, Costs, Naming, decode, distinct, records_of
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import (
    ABORTED,
    MODE_SHIFT,
    RAISED,
    REPLACED,
    RETURNED,
    UNKNOWN_OUTPUT,
    ThreadBuffer,
)
from modtrace.trace.schema import ABORTED as STATUS_ABORTED
from modtrace.trace.schema import BACKWARD, FUNCTION, MODULE, OK, PHASE
from modtrace.trace.schema import RAISED as STATUS_RAISED

COSTS = Costs(inside_ns=3, outside_ns=5, function_inside_ns=2, function_outside_ns=7)
ORIGIN_NS, BASE = 1_000_000, 3 << 40
NAMING = Naming(
    tops=lambda roots, modules: [100 * root + module for root, module in zip(roots, modules, strict=True)],
    joined=lambda args, kwargs: 1000 * args + kwargs,
)


@dataclass
class Call:
    """One call as the test made it."""

    number: int
    entry: Entry
    args: int
    start: int
    parent: Call | None
    depth: int
    end: int = 0
    code: int = RETURNED
    timed: bool = True
    kwargs: int = 0
    result: int = 0
    hooks: int | None = None
    spent: int = 0
    last: int = 0
    children: list[Call] = field(default_factory=list)

    def top(self):
        """The module that its name is relative to."""
        outermost, call = self, self
        while call is not None:
            outermost = call if call.entry.kind in (MODULE, BACKWARD) else outermost
            call = call.parent
        module = self.entry.number
        return module if outermost.entry.number == module else 100 * outermost.entry.number + module

    def shared(self):
        """Cells that a call has while it is open and afterwards."""
        of_module = self.entry.kind in (MODULE, BACKWARD)
        has_mode = self.entry.kind in (MODULE, PHASE)
        mode = self.args >> MODE_SHIFT if has_mode else 0
        in_module = self.parent is not None and self.parent.entry.kind == MODULE
        no_mode = (self.entry.kind != MODULE or in_module) and mode == 0
        return {
            "call": BASE + self.number,
            "parent": -1 if self.parent is None else BASE + self.parent.number,
            "kind": self.entry.kind,
            "module": self.entry.number if of_module else None,
            "root": self.top() if of_module else None,
            "label": None if of_module else self.entry.number,
            "forward": self.args if self.entry.kind == BACKWARD else None,
            "mode": None if no_mode else mode,
            "depth": self.depth,
            "start_ns": self.start - ORIGIN_NS,
        }

    def signature(self, *, ended):
        args = self.args & ((1 << MODE_SHIFT) - 1)
        if self.entry.kind not in (MODULE, FUNCTION) or args == UNKNOWN_OUTPUT:
            return None
        return 1000 * args + self.kwargs if ended and self.kwargs else args

    def opened(self):
        return self.shared() | {"inputs": self.signature(ended=False)}

    def row(self):
        """All cells of the ended call."""
        duration = self.end - self.start if self.timed else None
        measured = self.timed and all(child.timed for child in self.children)
        self_ns = tracer = None
        if measured:
            apart = max(duration - sum(child.end - child.start for child in self.children), 0)
            cost = self.spent + {MODULE: 3, FUNCTION: 2}.get(self.entry.kind, 0)
            cost += sum({MODULE: 5, FUNCTION: 7}.get(child.entry.kind, 0) for child in self.children)
            tracer = min(cost, apart)
            self_ns = apart - tracer
        hooks = self.end - self.hooks if self.timed and self.hooks is not None else None
        has_output = (
            self.timed
            and self.code in (RETURNED, REPLACED)
            and self.entry.kind in (MODULE, FUNCTION)
            and self.result != UNKNOWN_OUTPUT
        )
        return self.shared() | {
            "last_call": BASE + self.last,
            "duration_ns": duration,
            "self_ns": self_ns,
            "tracer_ns": tracer,
            "hooks_ns": hooks,
            "output_replaced": None if hooks is None or self.code == RAISED else self.code == REPLACED,
            "outputs": self.result if has_output else None,
            "status": {RAISED: STATUS_RAISED, ABORTED: STATUS_ABORTED}.get(self.code, OK),
            "error": self.result if self.code == RAISED else None,
            "inputs": self.signature(ended=True),
        }


class Program:
    """Opens and closes calls at random, with a clock of its own."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.buffer = ThreadBuffer(0)
        self.open, self.all = [], []
        self.now = ORIGIN_NS + 10

    def passes(self):
        self.now += self.rng.choice((0, 1, 4, 30, 200))
        return self.now

    def begin(self):
        call_kind = self.rng.choice((MODULE, MODULE, MODULE, FUNCTION, BACKWARD, PHASE))
        entry = Entry(self.rng.randint(1, 5), call_kind)
        args = self.rng.choice((0, 1, 7, UNKNOWN_OUTPUT))
        if call_kind in (MODULE, PHASE):
            args |= self.rng.choice((0, 0, 1, 2)) << MODE_SHIFT
        _, number, *_ = self.buffer.open(entry, 11, self.passes(), args=args)
        parent = self.open[-1] if self.open else None
        call = Call(number, entry, args, self.now, parent, len(self.open), last=number)
        if parent is not None:
            parent.children.append(call)
        for above in self.open:
            above.last = number
        self.open.append(call)
        self.all.append(call)

    def end(self):
        if not self.open:
            return
        call = self.open.pop()
        call.code = self.rng.choice((RETURNED, RETURNED, RETURNED, RAISED, ABORTED))
        call.result = self.rng.choice((0, 2, 9, UNKNOWN_OUTPUT)) if call.code != RAISED else 4
        call.kwargs = self.rng.choice((0, 0, 6))
        if call.entry.kind == MODULE and call.code == RETURNED and self.rng.random() < 0.3:
            call.hooks = self.passes()
            self.buffer.own_hooks_begin(call.hooks)
            call.code = self.rng.choice((RETURNED, REPLACED))
        call.end = self.passes()
        call.timed = call.code != ABORTED or call.end > call.start
        self.buffer.close(call.end, code=call.code, kwargs=call.kwargs, output=call.result)

    def abort(self):
        """A `BaseException` left calls, nobody knows when."""
        depth = self.rng.randint(0, len(self.open))
        for call in self.open[depth:]:
            call.code, call.end, call.timed = ABORTED, call.start, False
        del self.open[depth:]
        self.buffer.abort(depth)

    def cost(self):
        if self.open:
            depth = self.rng.randrange(len(self.open))
            spent = self.rng.choice((1, 10, 300))
            self.open[depth].spent += spent
            self.buffer.cost(depth, spent)

    def step(self):
        action = self.rng.choices((self.begin, self.end, self.abort, self.cost), (10, 9, 1, 2))
        action[0]()


def cells(columns, nulls):
    """Rows of a block as dicts, None where a cell is null."""
    count = len(next(iter(columns.values()))) if columns else 0
    return [
        {
            name: None if name in nulls and nulls[name][row] else column[row].item()
            for name, column in columns.items()
        }
        for row in range(count)
    ]


@pytest.mark.parametrize("block", [1, 2, 7, 40, 1_000])
@pytest.mark.parametrize("seed", range(8))
def test_rows_of_random_programs(seed, block):
    program, carried = Program(seed), Carried()
    rows, opened = [], []
    for number in range(1, 301):
        program.step()
        if number % block and number < 300:
            continue
        taken = TakenBlock(program.buffer)
        decoded, carried = decode(
            taken.records, taken.nodes, carried, base=BASE, naming=NAMING, costs=COSTS, origin_ns=ORIGIN_NS
        )
        rows += cells(decoded.calls, decoded.calls_nulls)
        opened += cells(decoded.opened, decoded.opened_nulls)
        assert {row["call"] - BASE for row in opened} >= {call.number for call in program.open}
    ended = [call for call in program.all if call not in program.open]
    assert sorted(row["call"] for row in rows) == [call.number + BASE for call in ended]
    by_call = {row["call"]: row for row in rows}
    for call in ended:
        assert by_call[call.number + BASE] == call.row()
    assert len({row["call"] for row in opened}) == len(opened), "an open call is written once"
    for row in opened:
        assert row == program.all[row["call"] - BASE].opened()


def test_a_block_of_nothing():
    program, carried = Program(0), Carried(high=7)
    taken = TakenBlock(program.buffer)
    decoded, after = decode(
        taken.records, taken.nodes, carried, base=0, naming=NAMING, costs=COSTS, origin_ns=0
    )
    assert (decoded.calls, decoded.opened, after) == ({}, {}, carried)


def test_half_a_record_is_left_out():
    assert records_of(list(range(21))).tolist() == [list(range(8)), list(range(8, 16))]
    assert records_of([]).shape == (0, 8)


@pytest.mark.parametrize("values", [[], [4], [3, 1, 3, 2, 1], [-5, -5, 0], [0]])
def test_distinct(values):
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))
