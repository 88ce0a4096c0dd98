"""The number of the training step in progress, as far as it can be told while a program runs. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MANY_ROOTS: Final = 64
"""So many root calls may come before the first optimizer steps."""


class LiveStep:
    """Counts steps: `step` is the number of the one in progress, so many are over.

    Optimizers that step by turns make a round, and a round is a step. Which they are is known when the first of them
    steps again; until then each step that ends is taken for the end of the round.

    Args:
        optimizers_exist: says that the program has made an optimizer, which may step later.
    """

    def __init__(self, optimizers_exist: Callable[[], bool]) -> None:
        self.step = 0
        self._optimizers_exist = optimizers_exist
        self._marks = self._roots = self._forwards = self._backwards = self._rounds = 0
        self._backward_since_root = False
        self._round: set[int] = set()
        """Optimizers that have stepped in the round in progress."""
        self._members: set[int] | None = None
        """Those of the round before; None in the first one."""

    @property
    def is_known(self) -> bool:
        """False while an optimizer that has not stepped yet leaves open where steps end."""
        counted = self._marks or self._rounds or self._roots > MANY_ROOTS
        return bool(counted or self._roots <= 1 or not self._optimizers_exist())

    def root_began(self) -> None:
        """A root call begins outside of any backward; the first behind a backward is that of the next step."""
        self._roots += 1
        if self._backward_since_root:
            self._backward_since_root = False
            self._forwards += 1
        self._count()

    def backward_requested(self) -> None:
        """The program has called backward."""
        self._backwards += 1
        self._backward_since_root = True
        self._count()

    def optimizer_ended(self, number: int) -> None:
        """An optimizer has stepped; `number` tells it from others."""
        if self._members is None and number not in self._round:
            self._rounds = 1
            self._round.add(number)
        else:
            if number in self._round:  # the round before is over: those were all
                self._rounds += self._members is not None
                self._members, self._round = self._round, set()
            self._round.add(number)
            if self._members is not None and self._members <= self._round:
                self._rounds += 1
                self._round = set()
        self._count()

    def step_marked(self) -> None:
        """The program says that a step ends."""
        self._marks += 1
        self._count()

    def _count(self) -> None:
        if self._marks:
            self.step = self._marks
        elif self._rounds:
            self.step = self._rounds
        elif self._roots <= MANY_ROOTS and self._optimizers_exist():
            self.step = 0
        elif self._backwards:
            self.step = self._forwards
        else:
            self.step = max(self._roots - 1, 0)
