"""Functions of torch that are replaced while recording.

Each replacement calls the original with what it was given, returns what that returns, and is taken away at the end. One
that the user has wrapped meanwhile stays below the wrapper, and only passes on from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import see_through, unseen
from modtrace.capture.engine.stand_ins import uncounted
from modtrace.capture.torch_private.tracing import is_tracing

_INHERITED: Final = object()

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Replacements:
    """The replacements of one recorder; `idle` says for each whether it only passes on now."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._placed: list[tuple[Any, str, Any, Any]] = []
        self._hidden = 0

    def place(self, owner: Any, name: str, wrap: Wrap) -> None:
        """Replace an attribute of a class or module by what `wrap` makes of it; nothing where it has none."""
        original = getattr(owner, name, None)
        if not callable(original):
            return
        replacement = wrap(original)
        uncounted(replacement)
        see_through(replacement)
        self._placed.append((owner, name, vars(owner).get(name, _INHERITED), replacement))
        setattr(owner, name, replacement)

    def remove(self) -> None:
        """Take them away; does nothing the second time."""
        while self._placed:
            owner, name, original, replacement = self._placed.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if original is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, original)

    def hide(self) -> None:
        """Record nothing for a while: torch compiles."""
        self._hidden += 1

    def show(self) -> None:
        """Record again."""
        self._hidden = max(self._hidden - 1, 0)

    def idle(self) -> bool:
        """Nothing is to be recorded now."""
        return bool(self._context.off or not self._placed or self._hidden or is_tracing())


unseen(Replacements.idle)
