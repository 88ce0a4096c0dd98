"""When the program calls backward, and when a checkpoint computes again in it: functions of torch that are replaced."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.stand_ins import leave
from modtrace.capture.mechanisms.backward_walk import BackwardWalk
from modtrace.capture.mechanisms.recomputing import Recomputing
from modtrace.capture.mechanisms.replacements import Replacements
from modtrace.capture.torch_private.names import run_backward


class BackwardCalls:
    """Records backward for one trace between `install` and `remove`."""

    def __init__(self, context: TraceContext) -> None:
        self.walk = BackwardWalk(context)
        self.replacements = Replacements(context)
        self._context = context
        self._recomputing = Recomputing(context, self.replacements.idle)

    def install(self) -> None:
        """Put the replacements in place."""
        if run_backward is not None:
            self.replacements.place(*run_backward, self._running_backward)
        for owner, name, wrap in self._recomputing.replacements():
            self.replacements.place(owner, name, wrap)

    def _running_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        idle, walk, events = self.replacements.idle, self.walk, self._context.events

        @functools.wraps(original)
        def run(t_outputs: Any, *args: Any, **kwargs: Any) -> Any:
            if idle():
                return original(t_outputs, *args, **kwargs)
            for requested in events.backward_requested:
                requested()
            accumulates = bool(kwargs.get("accumulate_grad", True))
            watch = walk.begin(t_outputs, sys._getframe(), accumulates=accumulates)
            if watch is None:
                return original(t_outputs, *args, **kwargs)
            try:
                result = original(t_outputs, *args, **kwargs)
            except BaseException as error:
                watch.end(error)
                leave(error)
                raise
            watch.end()
            for closed in events.backward_closed:
                closed()
            return result

        return run
