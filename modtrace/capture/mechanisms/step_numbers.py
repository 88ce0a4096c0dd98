"""Numbers that the training step in progress may have when all of the program is known.

What ends a step is decided afterwards: marks before optimizers before backward passes before root calls. While the
program runs each of these that may still come to be is followed, so that what is wanted of some steps is watched in all
that may turn out to be these.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import inherits, namespace
from modtrace.capture.engine.module_facts import raw
from modtrace.trace.optimizer_turns import turns

MANY_EVALUATIONS: Final = 64
MANY_FORWARDS: Final = 4096
"""So many root calls may precede the first optimizer step, without and with training, before it is not waited for."""
MANY_OPTIMIZERS: Final = 4
"""Of those that step by turns so many are taken into account for what may step next."""
MANY_LOOKS: Final = 4
TAIL: Final = 256
"""Optimizer steps, from the last training step on that is certain, that are looked at."""


class StepNumbers:
    """Follows one program.

    Args:
        first: numbers below it are of no interest.
        last: nor are this one and those above it.
    """

    def __init__(self, first: int, last: int) -> None:
        self.possible: frozenset[int] = frozenset({0})
        """Numbers that the step in progress may have."""
        self._first, self._last = first, last
        self._marks = self._roots = self._forwards = self._before = 0
        self._trains = self._after_backward = False
        self._backwards = 0
        self._makers: list[int] = []
        self._passes: list[int] = []
        self._living: set[int] = set()
        self.optimizers: dict[int, weakref.ref[Any]] = {}
        """Those that have stepped, by their numbers."""
        self._looks = 0

    def root_begins(self, *, trains: bool) -> None:
        """A root call begins outside of any backward, with gradients in training mode (`trains`) or not."""
        self._roots += 1
        self._trains |= trains
        if self._after_backward:
            self._after_backward = False
            self._forwards += 1
        self._judge()

    def backward_begins(self) -> None:
        """A backward begins that is inside of none."""
        self._backwards += 1
        self._after_backward = True
        self._judge()

    def optimizer_ended(self, optimizer: Any, number: int) -> None:
        """The step of an optimizer has ended that is inside of no other's; `number` tells it from others."""
        if number not in self.optimizers:
            self.optimizers[number] = weakref.ref(optimizer)
        if self._before < self._last:
            self._makers.append(number)
            self._passes.append(self._backwards)
            self._settle()
            self._judge()

    def marked(self) -> None:
        """The program says that a step ends."""
        self._marks += 1
        self._judge()

    def _look_around(self) -> None:
        """Look for optimizers that have not stepped yet: numbers below zero."""
        base: type = torch.optim.Optimizer
        stepped = {id(ref()) for ref in self.optimizers.values()}
        self._living = {
            -id(thing)
            for thing in gc.get_objects()
            if inherits(type(thing), base) and id(thing) not in stepped
        }

    def _judge(self) -> None:
        if self._marks:
            self.possible = frozenset({self._marks})
        elif self._before >= self._last or (self._makers and self._before + len(self._makers) < self._first):
            self.possible = frozenset({self._before})
        elif self._makers:
            self.possible = frozenset(self._by_optimizers())
            if min(self.possible) >= self._last and self._looks < MANY_LOOKS:
                self._looks += 1
                self._look_around()
                self.possible = frozenset(self._by_optimizers())
        else:
            by = self._forwards if self._backwards else max(self._roots - 1, 0)
            limit = MANY_FORWARDS if self._trains or self._backwards else MANY_EVALUATIONS
            may_come = self._roots <= limit and optimizers_exist()
            self.possible = frozenset({by, 0} if may_come else {by})

    def _settle(self) -> None:
        """Leave out training steps that are certain, but for the last of them."""
        known = turns(self._makers, self._passes)
        certain = known.final - 1 if len(self._makers) < TAIL else max(known.final - 1, len(known.last) // 2)
        if certain > 0:
            cut = known.last[certain - 1] + 1
            self._before += certain
            del self._makers[:cut], self._passes[:cut]

    def _by_optimizers(self) -> Iterator[int]:
        count, passes = len(self._makers), self._backwards
        yield self._before + len(turns(self._makers, self._passes).last)
        others = [
            *list(dict.fromkeys(self._makers))[:MANY_OPTIMIZERS],
            *sorted(self._living)[:MANY_OPTIMIZERS],
        ]
        for first in others:
            for extra in (0, 1):
                yield self._ended([first], [passes + extra], count)
            for second in others:
                yield self._ended([first, second], [passes + 1, passes + 2], count)

    def _ended(self, makers: list[int], passes: list[int], count: int) -> int:
        """Number of steps that have ended by now if these optimizers step next."""
        last = turns(self._makers + makers, self._passes + passes).last
        return self._before + sum(position < count for position in last)


def trains(module: Any) -> bool:
    """A root call of a module is one of training: with gradients, in training mode."""
    return torch.is_grad_enabled() and bool(raw(module).get("training", True))


def optimizers_exist() -> bool:
    """True if any optimizer of torch has been made in this process; torch marks the `step` of its class then."""
    pending: list[Any] = list(torch.optim.Optimizer.__subclasses__())
    while pending:
        cls = pending.pop()
        if getattr(namespace(cls).get("step"), "hooked", False):
            return True
        pending += type.__subclasses__(cls)
    return False
