"""What a torture model is: a factory, a way to run it, and what is known about the run beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Run = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Case:
    """One awkward model; `run` returns what the program computed or lets an exception of `raises` out."""

    name: str
    make: Callable[[], nn.Module]
    run: Run
    raises: type[BaseException] | None = None
    aborts: bool = False
    """Exceptions inside are BaseExceptions, so that calls they pass through are `aborted`, not `raised`."""
    statuses: tuple[str, ...] | None = None
    """Statuses in order of start, where the way a frame was left does not tell them."""
    grad: bool = False
    """The output has a graph worth a backward."""
    fixed_tree: bool = True
    """The modules called are those of the root's tree before the run, so that names can be compared."""
    hooks_seen: bool = True
    """torch gets as far as its hooks in every call; if not, nothing but the oracle can see the call."""


CASES: dict[str, Case] = {}


def call_with_batch(model: nn.Module) -> object:
    """The usual run: one call with a random batch."""
    return model(torch.randn(2, 4))


def case(
    *,
    run: Run = call_with_batch,
    raises: type[BaseException] | None = None,
    aborts: bool = False,
    statuses: tuple[str, ...] | None = None,
    grad: bool = False,
    fixed_tree: bool = True,
    hooks_seen: bool = True,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a factory (a module class or a function) as a case named like it."""

    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        name = make.__name__
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, make, run, raises, aborts, statuses, grad, fixed_tree, hooks_seen)
        return make

    return register
