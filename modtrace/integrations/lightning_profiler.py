"""A profiler for Lightning: `Trainer(profiler=ModtraceProfiler("run.mtrace"))`. Needs lightning."""

from __future__ import annotations

import os
import sys
from typing import Any

from modtrace.api import Recording, trace

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning.profilers import Profiler
else:
    from lightning.pytorch.profilers import Profiler


class ModtraceProfiler(Profiler):  # type: ignore[misc]  # lightning is not there for the type checker
    """A recorder of what a Trainer does, into `trace`: one trace a run (fit, validate, test).

    An exception that ends the run ends the recording, and is in `trace.failure`.

    Args:
        path: the directory to write to; each later run of the Trainer replaces it. Without it the trace is temporary.
        options: those of `modtrace.trace`, such as `memory="0:3"`.

    Raises:
        UsageError: the path exists and `force` is not among the options, or an option makes no sense.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__()
        self.trace: Recording = trace(path=path, **options)
        self._arguments = (path, {**options, "force": True})
        self._depth = 0
        self._records = False
        self._was_used = False

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        if self._records:
            return
        if self._was_used:
            path, options = self._arguments
            self.trace = trace(path=path, **options)
        self.trace.__enter__()
        self._records = self._was_used = True

    def start(self, action_name: str) -> None:  # noqa: ARG002 - Lightning's
        self._depth += 1

    def stop(self, action_name: str) -> None:  # noqa: ARG002 - as above
        """End of an action. Lightning tells profilers of no exception: it is seen where it leaves the outermost one."""
        self._depth = max(self._depth - 1, 0)
        error = sys.exc_info()[1]
        if not self._depth and error is not None and not isinstance(error, StopIteration):
            self._end()

    def teardown(self, stage: str | None) -> None:
        self._end()
        super().teardown(stage)

    def _end(self) -> None:
        if self._records:
            self._records = False
            self.trace.__exit__(*sys.exc_info())
