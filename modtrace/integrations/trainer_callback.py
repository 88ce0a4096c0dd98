"""A callback for the Trainer of transformers, which it needs: `Trainer(callbacks=[ModtraceCallback("run.mtrace")])`."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from transformers import TrainerCallback

from modtrace.api import Recording, trace


class ModtraceCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not there for the type checker
    """A recorder of `train()`, evaluations in it too, into `trace`.

    Where an exception leaves `train()`, the Trainer tells no callback: `end()` ends the recording, and so does
    the end of the process. `trace.failure` says why it failed.

    Args:
        path: the directory to write to; each later `train()` replaces it. Without it the trace is temporary.
        options: those of `modtrace.trace`, such as `memory="0:3"`.

    Raises:
        UsageError: the path exists and `force` is not among the options, or an option makes no sense.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.trace: Recording = trace(path=path, **options)
        self._arguments = (path, {**options, "force": True})
        self._records = False
        self._was_used = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - the Trainer's
        self.end()
        if self._was_used:
            path, options = self._arguments
            self.trace = trace(path=path, **options)
        self.trace.__enter__()
        self._records = self._was_used = True
        atexit.register(self.end)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        self.end()

    def end(self) -> None:
        """End the recording, where it goes on."""
        if self._records:
            self._records = False
            atexit.unregister(self.end)
            self.trace.__exit__(*sys.exc_info())
