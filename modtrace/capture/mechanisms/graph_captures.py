"""Captures of graphs, on any thread of the process: while one is under way no event may be asked for.

A capture in CUDA's default mode, "global", is broken by a query on whichever thread; ROCm's also in others. Captures
that other libraries begin by themselves are not seen: a thread that asks CUDA sees that of its own stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch

from modtrace.capture.engine.dynamo_skip import see_through

LONGEST_READ_SECONDS: Final = 1.0
"""A capture waits so long, at most, for events that are being read: about a hundred times what that takes."""
ENDS: Final = ("capture_end", "capture_end_pre")
"""Methods that end a capture; torch has the second from 2.14 on."""


class Guard(Protocol):
    """A lock, of either kind."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; False where that took too long."""

    def release(self) -> None:
        """Give it back."""


class Captures:
    """Counts the captures that are under way between `watch` and `close`."""

    def __init__(self) -> None:
        self.counted = False
        """True if each capture of torch's that begins is noticed."""
        self._graphs: set[int] = set()
        self._placed: list[tuple[type, str, Any, Any]] = []

    @property
    def under_way(self) -> bool:
        """True if any thread captures a graph."""
        return bool(self._graphs)

    def watch(self, reading: Guard) -> None:
        """Notice captures; each begins when `reading` is free."""
        cuda: Any = torch.cuda
        accelerator: Any = getattr(torch, "accelerator", None)
        for owner in (getattr(cuda, "CUDAGraph", None), getattr(accelerator, "Graph", None)):
            if isinstance(owner, type):
                self._replace(owner, "capture_begin", functools.partial(self._beginning, reading))
                for name in ENDS:
                    self._replace(owner, name, self._ending)
        self.counted = any(owner is getattr(cuda, "CUDAGraph", None) for owner, *_ in self._placed)

    def close(self) -> None:
        """Watch no more."""
        self.counted = False
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)

    def _replace(self, owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
        original = vars(owner).get(name)
        if callable(original):
            replacement = functools.wraps(original)(wrap(original))
            see_through(replacement)
            self._placed.append((owner, name, original, replacement))
            setattr(owner, name, replacement)

    def _beginning(self, reading: Guard, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_begin(graph: Any, *args: Any, **kwargs: Any) -> Any:
            free = reading.acquire(timeout=LONGEST_READ_SECONDS)
            self._graphs.add(id(graph))
            if free:
                reading.release()
            try:
                return original(graph, *args, **kwargs)
            except BaseException:
                self._graphs.discard(id(graph))
                raise

        return capture_begin

    def _ending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def capture_end(graph: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(graph, *args, **kwargs)
            finally:
                self._graphs.discard(id(graph))

        return capture_end
