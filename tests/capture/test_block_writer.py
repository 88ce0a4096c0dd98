"""A block that is taken while its thread runs on."""

from __future__ import annotations

import pytest

from modtrace.capture.engine.block_writer import TakenBlock
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import ThreadBuffer


class Runs(ThreadBuffer):
    """A thread buffer whose thread runs on before and after its records are taken."""

    __slots__ = ("after", "before")

    def take(self):
        self.before()
        records = super().take()
        self.after()
        return records


@pytest.mark.parametrize("open_before", [False, True])
@pytest.mark.parametrize("closed_after", [False, True])
def test_calls_around_those_of_a_block_are_in_it(open_before, closed_after):
    """Whenever the thread opens and closes the parent: the child's record is taken, its parent's comes later."""
    buffer = Runs(0)
    root, parent, child = Entry(1), Entry(2), Entry(3)

    def opens():
        buffer.open(root, 11, 100, args=5)
        buffer.open(parent, 12, 200, args=6)

    def before():
        if not open_before:
            opens()
        buffer.open(child, 13, 300, args=7)
        buffer.close(400)

    def after():
        if closed_after:
            buffer.close(500)
            buffer.own_hooks_begin(550)
            buffer.close(600)

    buffer.before, buffer.after = before, after
    if open_before:
        opens()
    nodes = TakenBlock(buffer).nodes
    assert nodes.call.tolist() == [0, 1, 2]
    assert nodes.module.tolist() == [1, 2, 3]
    assert nodes.given.tolist() == [5, 6, 7]
    assert nodes.parent.tolist() == [-1, 0, 1]
    assert nodes.record.tolist() == [-1, -1, 0]


def test_calls_that_began_later_are_of_the_next_block():
    buffer = Runs(0)

    def after():
        buffer.open(Entry(2), 12, 200)
        buffer.close(300)

    buffer.before, buffer.after = (lambda: None), after
    buffer.open(Entry(1), 11, 0)
    buffer.close(100)
    assert TakenBlock(buffer).nodes.call.tolist() == [0]
    buffer.after = lambda: None
    assert TakenBlock(buffer).nodes.call.tolist() == [1]


def test_a_call_that_began_since_is_no_part_of_one_that_has_ended_since():
    """The first is open when the records are taken; it ends and the second begins before the buffer is looked at."""
    buffer = Runs(0)
    buffer.open(Entry(1), 11, 0)
    buffer.open(Entry(2), 12, 100)
    buffer.open(Entry(3), 13, 150)
    buffer.close(160)

    def after():
        buffer.close(200)
        buffer.open(Entry(4), 14, 300)

    buffer.before, buffer.after = (lambda: None), after
    assert TakenBlock(buffer).nodes.call.tolist() == [0, 1, 2]
    buffer.after = lambda: None
    nodes = TakenBlock(buffer).nodes
    assert nodes.call.tolist() == [0, 1, 3]
    assert nodes.record.tolist() == [-1, 0, -1]


def test_a_call_that_began_since_is_known_to_be_open():
    """A kill right behind the block still leaves it in the trace."""
    buffer = Runs(0)
    buffer.open(Entry(1), 11, 0)
    buffer.before, buffer.after = (lambda: None), lambda: buffer.open(Entry(2), 12, 100)
    assert TakenBlock(buffer).nodes.call.tolist() == [0, 1]
