"""Notices torch's profiler of the program's own: it gets all that it would get alone.

torch has one profiler in a process. One that is started while another runs gets nothing, so ours ends before theirs is
prepared. That is seen by replacing the functions through which every profiler of torch is started and ended.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modtrace.capture.engine.dynamo_skip import see_through
from modtrace.capture.torch_private.lookup import places
from modtrace.capture.torch_private.names import profiler_flag, profiler_runs, set_profiler_flag
from modtrace.capture.torch_private.spelled import PROFILER_ENDS, PROFILER_STARTS


class OtherProfilers:
    """Watches for the program's own profilers between `install` and `remove`.

    Args:
        starting: called on the thread of the program before a profiler of its own is prepared or started.
    """

    def __init__(self, starting: Callable[[], None]) -> None:
        self._starting_theirs = starting
        self._prepared = False
        self._ours: int | None = None
        self._placed: list[tuple[Any, str, Any, Any]] = []

    @property
    def theirs(self) -> bool:
        """A profiler of the program's own is prepared or runs, as far as its start was seen or torch tells it."""
        flagged = set_profiler_flag is not None and bool(profiler_flag())  # ours takes the flag back
        return self._prepared or flagged

    @property
    def active(self) -> bool:
        """A profiler of the program's own is prepared or runs, or any on this thread."""
        return self.theirs or bool(profiler_runs())

    def install(self) -> None:
        """Put the replacements in place."""
        self._prepared = _any_prepared()
        for names, wrap in ((PROFILER_STARTS, self._start), (PROFILER_ENDS, self._end)):
            for owner, name in places(names):
                original = getattr(owner, name)
                replacement = functools.wraps(original)(wrap(original))
                see_through(replacement)
                self._placed.append((owner, name, original, replacement))
                setattr(owner, name, replacement)

    def remove(self) -> None:
        """Take them away; one that the program has wrapped meanwhile passes on from then on."""
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if getattr(owner, name, None) is replacement:
                setattr(owner, name, original)

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Context in which this thread starts or ends our own profiler."""
        self._ours = threading.get_ident()
        try:
            yield
        finally:
            self._ours = None

    def _start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            if self._placed and self._ours != threading.get_ident():
                self._starting_theirs()
                self._prepared = True
            return original(*args, **kwargs)

        return start

    def _end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def end(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                if self._ours != threading.get_ident():
                    self._prepared = False

        return end


def _any_prepared() -> bool:
    """True if a profiler waits for its start, as during the warm-up of a schedule: torch itself does not tell."""
    cls: Any = torch.autograd.profiler.profile
    return any(
        getattr(profiler, "entered", False) and getattr(profiler, "kineto_results", None) is None
        for profiler in gc.get_objects()
        if type(profiler) is cls
    )
