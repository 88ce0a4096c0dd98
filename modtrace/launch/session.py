"""One recorded run of `modtrace run`: from before the script starts to the end of the process. Standard library only.

torch is not imported here: recording begins when the script has imported it, so that environment variables which the
script sets before still count, and a script without torch costs nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from modtrace.capture.engine.imports import AfterImport, without_arrow_thread
from modtrace.capture.engine.stand_ins import leave
from modtrace.errors import UsageError
from modtrace.launch import run_script
from modtrace.trace.folder import free_room, write_json
from modtrace.trace.schema import END_FILE


class Session:
    """Records what the process does while its `with` block runs the script.

    Recording goes on behind the block, for threads that outlive the main one and for exit functions: python joins
    those and then runs these, ours last. `prepare` is called when the script has ended, because some modules cannot be
    imported once threads are joined. `post_mortem` is called with the traceback of an exception that nobody has caught,
    when it has been printed. `report` is called at the very end, in this process only. `troubles` are faults of
    ours, for it to print.
    """

    def __init__(
        self,
        folder: Path,
        options: dict[str, Any],
        report: Callable[[Session], None],
        prepare: Callable[[], None],
        post_mortem: Callable[[TracebackType], None] | None = None,
    ) -> None:
        self.folder = folder
        self.troubles: list[str] = []
        self.exit_status: int | None = None
        self.exception: str | None = None
        self._options = options
        self._report = report
        self._prepare = prepare
        self._post_mortem = post_mortem
        self._pid = os.getpid()
        self._tracer: Any = None
        self._ended = False
        self._waiting = AfterImport("torch", self._begin)
        self._origin_ns = 0

    @property
    def here(self) -> bool:
        """True if this is the process that was started, not a fork of it."""
        return os.getpid() == self._pid

    def __enter__(self) -> Session:
        atexit.register(self._finish)
        self._origin_ns = time.perf_counter_ns()
        self._waiting.install()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, SystemExit):
            self._wrap_excepthook()
        if not self.here:
            return
        self._note_end(error)
        if self._tracer is not None:
            self._tracer.main_ended()
        with contextlib.suppress(Exception):  # the report says what is wrong; now is the last time to import
            self._prepare()

    def stop(self) -> None:
        """End the recording and say so on disk; does nothing the second time."""
        if self._ended or not self.here:
            return
        self._ended = True
        self._waiting.remove()
        facts: dict[str, Any] = {"ended_ns": time.perf_counter_ns() - self._origin_ns, "rows": {}, "cost": {}}
        try:
            if self._tracer is not None:
                self._tracer.stop()
                facts = self._tracer.end_facts
                self.troubles += self._tracer.troubles
            elif self.troubles:
                stopped = {
                    "stopped_ns": 0,
                    "recorded_ns": 0,
                    "reason": self.troubles[0],
                    "cause": self.troubles[0],
                }
                facts["stopped"] = {
                    key: value[:200] if isinstance(value, str) else value for key, value in stopped.items()
                }
            facts |= {
                "exit_status": self.exit_status,
                "exception": self.exception,
                "script_start_ns": 0,
                "torch_imported": self._tracer is not None or "torch" in sys.modules,
            }
            write_json(self.folder, END_FILE, facts)
            free_room(self.folder)
        except Exception as fault:
            self.troubles.append(f"the end of the run could not be written: {type(fault).__name__}")

    def _begin(self) -> None:
        """torch has just been imported."""
        if not self.here or self._ended:
            return
        try:
            torch = sys.modules["torch"]
            if not hasattr(getattr(torch, "nn", None), "Module"):
                return  # a module of the user's own by that name
            with without_arrow_thread():
                from modtrace.capture.engine.tracer import Tracer, check_interpreter

            check_interpreter()
            self._tracer = Tracer(self.folder, origin_ns=self._origin_ns, **self._options)
            self._tracer.start()
        except UsageError as error:
            self.troubles.append(str(error))
        except Exception as fault:
            self.troubles.append(f"recording could not begin: {type(fault).__name__}: {fault}")

    def _note_end(self, error: BaseException | None) -> None:
        if error is None:
            self.exit_status = 0
        elif isinstance(error, SystemExit):
            code = error.code
            self.exit_status = 0 if code is None else code & 0xFF if isinstance(code, int) else 1
        else:
            if self._tracer is not None:
                self._tracer.note_failure(error)
            self.exception = type(error).__name__
            self.exit_status = None if isinstance(error, KeyboardInterrupt) else 1

    def _finish(self) -> None:
        """Registered before the script starts, so it runs after every exit function of the user's."""
        if self.here:
            self.stop()
            self._report(self)
            if self.exception == "KeyboardInterrupt":
                _say_interrupted()

    def _look_at(self, error: BaseException, traceback: TracebackType | None) -> None:
        """Open the debugger at an exception, where that is asked for."""
        post_mortem, self._post_mortem = self._post_mortem, None
        # A person has left the debugger.
        is_fault = isinstance(error, Exception) and type(error).__name__ != "BdbQuit"
        if post_mortem is not None and traceback is not None and self.here and is_fault:
            post_mortem(traceback)

    def _wrap_excepthook(self) -> None:
        """Let the hook that will be called, python's or one of the program's, see the traceback of plain python.

        Done when an exception leaves the script: until then the program finds the hook that it would find without us.
        """
        hook = getattr(sys, "excepthook", None)

        def excepthook(
            error_type: type[BaseException], error: BaseException, traceback: TracebackType | None
        ) -> None:
            if hook is None:
                del sys.excepthook
            else:
                sys.excepthook = hook
            with contextlib.suppress(Exception):
                from modtrace.capture.engine.tracebacks import clean

                clean(error, traceback, {__file__, run_script.__file__, *OWN_FRAMES})
                traceback = error.__traceback__
                sys.last_traceback = traceback
            try:
                (hook or _without_hook)(error_type, error, traceback)
            except BaseException as failed:
                leave(failed)
                raise
            self._look_at(error, traceback)

        sys.excepthook = excepthook


def _without_hook(
    error_type: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Do as python does with an exception where the program has deleted the hook."""
    sys.stderr.write("sys.excepthook is missing\n")
    sys.__excepthook__(error_type, error, traceback)


def _say_interrupted() -> None:
    """Let python die by SIGINT, as it is about to after an interrupt that nobody caught.

    It notes that in a flag, which any text that is run takes back, such as those that make classes for the report.
    """
    try:
        exec("raise KeyboardInterrupt")  # noqa: S102 - a text that ends so sets the flag
    except KeyboardInterrupt:
        pass


OWN_FRAMES: list[str] = []
"""Files of ours whose frames are above the script's; the command adds its own."""
