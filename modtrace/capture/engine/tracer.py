"""Starts and stops the recorders of one trace. Owns the event buffers."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from modtrace.capture.engine import user_hooks as own_hooks
from modtrace.capture.engine.block_writer import Blocks, gap_rows, write_process
from modtrace.capture.engine.carriers import carrier_of
from modtrace.capture.engine.children import Children
from modtrace.capture.engine.compiling import Aside
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.exceptions import Errors
from modtrace.capture.engine.flusher import Flusher, without_collecting
from modtrace.capture.engine.labels import Labels
from modtrace.capture.engine.module_calls import RUNNERS
from modtrace.capture.engine.modules import Registry
from modtrace.capture.engine.open_calls import abort_left
from modtrace.capture.engine.pauses import Pauses
from modtrace.capture.engine.ranges import NOT_OPENED, Ranges
from modtrace.capture.engine.recorder import Recorder
from modtrace.capture.engine.recursion_limit import MISSED
from modtrace.capture.engine.selection import Selection
from modtrace.capture.engine.signatures import Signatures
from modtrace.capture.engine.thinning import VALUE_STEPS
from modtrace.capture.engine.thread_buffer import BufferTable
from modtrace.capture.engine.wall_clock import unix_origin_ns
from modtrace.capture.engine.watch_thread import WatchThread
from modtrace.capture.recorders import option_texts, recorders
from modtrace.capture.torch_private.lookup import CALLS, COMPILING, PHASES, missing
from modtrace.device_peaks.measure import device_keys
from modtrace.errors import SizeLimitError, UsageError, WriteError
from modtrace.systems.this_process import lacks_interpreter_lock, on_fork
from modtrace.trace.folder import write_json
from modtrace.trace.schema import STOP_FILE
from modtrace.trace.writer import Writer

RESUMED: Final = "greenlets took turns inside module calls; {} of these calls stand as aborted, without times"

REASON_LIMIT: Final = 200
SUMS_SHARE: Final = 2
MOST_SUMS_BYTES: Final = 64_000_000
"""Where sums may be kept, half of the size that a trace may have is for them alone, and no more than this."""
MOST_GAPS: Final = 8
"""`end.json` and `stopped.json` must fit into the room that is kept for them."""

_RUN_CALLS: Final = frozenset(
    str(sys.modules[name].__file__)
    for name in (
        "torch.autograd",
        "torch.autograd.graph",
        torch.optim.Optimizer.__module__,
        torch.nn.Module.__module__,
        torch.utils.data.DataLoader.__module__,
        torch.amp.GradScaler.__module__,
    )
)
"""Files of torch with the functions that run what has a row: frames of ours have left the traceback by then."""

NO_LOCK: Final = (
    "nothing is recorded: this Python runs without its global lock (GIL), which recording relies on; "
    "PYTHON_GIL=1 in the environment turns it on"
)
_RUNNING: weakref.WeakSet[Tracer] = weakref.WeakSet()


def check_interpreter() -> None:
    """Say that nothing can be recorded in this Python, before anything is made.

    Raises:
        UsageError: its threads run without the global lock.
    """
    if lacks_interpreter_lock():
        raise UsageError(NO_LOCK)


class Tracer:
    """Records the module calls of this process into one process folder of a trace.

    Nothing here raises in the user's program: a fault of the recorder ends the recording, with one warning and a row
    in `gaps`.

    Args:
        folder: the process folder.
        model: keep only calls of this model, and what is called in them.
        messages: keep the first line of exceptions' messages.
        origin_ns: `time.perf_counter_ns` at the start of recording; None is now.
        max_bytes: recording stops when the trace has this size.
        rank: of the process in its job.
        engine: the carrier of calls, a key of ENGINES.
        options: those of recorders, by argument.
    """

    _main_ended: tuple[int, int] | None = None
    """When the main thread ended, since the start of recording, and the calls written by then."""

    def __init__(
        self,
        folder: Path,
        *,
        model: torch.nn.Module | None = None,
        messages: bool = True,
        origin_ns: int | None = None,
        max_bytes: int | None = None,
        rank: int = 0,
        engine: str = "hooks",
        **options: bool | str | None,
    ) -> None:
        self.gaps: list[str] = []
        self._gaps_written = 0
        self._stopped: dict[str, Any] | None = None
        self._left_cost_ns: dict[str, int] = {}
        """Of recorders that have been taken off."""
        pauses = Pauses(time.perf_counter_ns)
        self._clock = pauses.clock if _may_pause(options) else time.perf_counter_ns
        self._started_ns = self._clock()
        self._folder = folder
        self._rank = rank
        self._pid = os.getpid()
        self._ended_ns: int | None = None
        registry = Registry()
        self._selection = Selection(model, registry.entries) if model is not None else None
        self._context = TraceContext(
            threads=BufferTable(),
            registry=registry,
            signatures=Signatures(),
            errors=Errors(messages=messages),
            labels=Labels(),
            clock=self._clock,
            origin_ns=self._started_ns if origin_ns is None else origin_ns,
            fault=self._failed,
            warn=self._warn,
            take_off=self._take_off,
            admits=self._selection,
            pauses=pauses,
            rank=rank,
            started_unix_ns=unix_origin_ns(self._clock, self._started_ns if origin_ns is None else origin_ns),
        )
        self._context.messages = messages
        self._ranges = self._context.part(Ranges)
        self._asked = _made(self._context, options)
        self._engine, self._option_texts = engine, option_texts(options)
        self._recorders: list[Recorder] = []
        """Those that run, in the order in which they have started."""
        self._blocks = self._blocks_in(folder, max_bytes)
        self._carrier = carrier_of(engine, self._context)
        self._aside, self._children = Aside(self._hide, self._show), Children()
        self._flusher = Flusher(
            self._context, self._blocks, running=self._is_running, read=self._read, has_news=self._has_news
        )
        self._watch = WatchThread(self._look_around, self._is_running)
        self._connect()

    def _blocks_in(self, folder: Path, max_bytes: int | None) -> Blocks:
        keeps_sums = any("rollups" in recorder.tables for recorder in self._asked)
        sums_bytes = min((max_bytes or 0) // SUMS_SHARE, MOST_SUMS_BYTES) if keeps_sums else 0
        return Blocks(
            Writer(folder, max_bytes=max_bytes, sums_bytes=sums_bytes),
            folder,
            self._context,
            further_rows=self._more_rows,
            latest_rows=self._latest_rows,
            limit_reached=self._keep_sums_alone,
            call_cost_ns=self._call_cost_ns,
        )

    def _connect(self) -> None:
        """Let what the recorders share speak to this tracer."""
        context = self._context
        events = context.events
        context.watch_again, context.stands_in = self._watch_again, self._stands_in
        context.flush, context.flush_now = self._flusher.when_due, self._flusher.at_once

        def seen(number: int, key: Any) -> None:
            for handler in events.signature_seen:
                handler(number, key)

        def entered(number: int, module: torch.nn.Module) -> None:
            for handler in events.module_entered:
                handler(number, module)

        context.signatures.seen, context.registry.entered = seen, entered

    def start(self) -> None:
        """Measure the hooks, write `process.json` and begin to record."""
        context = self._context
        try:
            self.gaps += missing(CALLS, PHASES)
            context.costs = self._carrier.costs(self._clock)
            # Before any signature is made: recorders look at each when it is new.
            for recorder in self._asked:
                self._begin(recorder)
            if context.thinning is not None and any("nonfinite" in asked.tables for asked in self._asked):
                context.thinning.delay_steps = VALUE_STEPS
            if self._selection is not None:
                self._selection.enter(context.registry)
            now = self._clock()
            write_process(
                self._folder,
                self._rank,
                context.costs,
                engine=self._engine,
                options=self._option_texts,
                started_unix_ns=context.started_unix_ns,
                start_ns=now - self._started_ns,
            )
            self._flusher.start()
            _RUNNING.add(self)
            self._carrier.start()
            self._aside.install()
            self._each("install")
            self._watch.start()
        except Exception as fault:
            self._fault(fault)

    # recorders --------------------------------------------------------------------------------------------------

    def _begin(self, recorder: Recorder) -> None:
        """Start a recorder and tell it of its events. Where that fails, as with another torch, a gap says so."""
        self._recorders.append(recorder)
        try:
            recorder.start()
            self._context.events.add(recorder, **recorder.events())
        except Exception as fault:
            self._take_off(recorder, fault, began=False)

    def _each(self, action: str) -> None:
        """Let every recorder do something; one that fails is taken off."""
        for recorder in list(self._recorders):
            try:
                getattr(recorder, action)()
            except Exception as fault:
                self._take_off(recorder, fault)

    def _take_off(self, recorder: Any, fault: BaseException, *, began: bool = True) -> None:
        """Go on without a recorder that has failed."""
        if recorder not in self._recorders:
            return
        self._recorders.remove(recorder)
        self._context.events.remove(recorder)
        if self._context.thinning is not None and "thinned" in recorder.tables:
            self._context.thinning.give_up()
        self._left_cost_ns[recorder.name] = _cost_of(recorder)
        for end in (recorder.remove, recorder.stop) if began else ():
            with contextlib.suppress(Exception):
                end()
        lost = recorder.lost or f"{recorder.name} is not recorded"
        self.gaps += [*recorder.gaps, f"{lost}{' from here on' if began else ''}: {type(fault).__name__}"]
        if os.environ.get("MODTRACE_DEBUG"):
            traceback.print_exception(fault)
        self._warn(f"{self.gaps[-1]}; the rest is recorded")

    def _call_cost_ns(self) -> int:
        return sum(recorder.call_cost_ns for recorder in self._recorders)

    def _read(self) -> None:
        self._each("read")

    def _is_running(self) -> bool:
        return not self._context.off and self._ended_ns is None

    def note_failure(self, error: BaseException) -> None:
        """Note the exception that ends the program, or the traced block, where it has left no call."""
        try:
            if isinstance(error, Exception) and not self._context.off and not self._has_left_a_call(error):
                self._context.errors.number(error, left_calls=False)
        except Exception as fault:
            self._fault(fault)

    def _has_left_a_call(self, error: BaseException) -> bool:
        last = self._context.buffers.current.error
        if last is None or last[0] != id(error):
            return False
        if any(recorder.owns_error(error) for recorder in self._recorders):
            return True
        # Numbers of objects are used again: an exception that left a call has passed a frame of torch that runs one.
        entry = error.__traceback__
        while entry is not None:
            if id(entry.tb_frame.f_code) in RUNNERS or entry.tb_frame.f_code.co_filename in _RUN_CALLS:
                return True
            entry = entry.tb_next
        return False

    def main_ended(self) -> None:
        """The main thread has come to the end of its program; other threads and exit functions may go on."""
        now = self._clock() - self._context.origin_ns
        self.flush()
        self._main_ended = (now, self.rows.get("calls", 0))

    def stop(self) -> None:
        """Take the hooks away and write everything. What is still running is left as unfinished."""
        if os.getpid() != self._pid or self._ended_ns is not None:
            return
        self._unregister()
        self._ended_ns = self._clock() - self._context.origin_ns
        try:
            self._each("stop")
            self.gaps += [reason for recorder in self._recorders for reason in recorder.gaps]
            self.gaps += self._carrier.gaps
            if self._context.events.missed:
                self.gaps.append(MISSED.format(self._context.events.missed))
            self.gaps += missing(COMPILING)
            abort_left(self._context.threads.all)
            if not self._context.off:
                has_rows = self._context.errors.has_rows or any(
                    recorder.has_rows for recorder in self._recorders
                )
                self._flusher.flush(wait=True, idle=has_rows)
            self._context.off = True
            self._end_with_main()
            resumed = sum(buffer.resumed for buffer in self._context.threads.all)
            if resumed and not self._context.events.missed:  # a call that was missed ends late, too
                self.gaps.append(RESUMED.format(resumed))
            self._write_gaps()
        except Exception as fault:
            self._fault(fault)
        self._context.take_out_left()
        self._blocks.writer.close()
        _RUNNING.discard(self)

    def _write_gaps(self) -> None:
        """Write the reasons that have come up since the last block; where that fails, `end_facts` has them."""
        reasons, at_ns = self._new_gaps(), self._clock() - self._context.origin_ns
        if reasons["reason"]:
            try:
                self._blocks.writer.append("gaps", reasons, at_ns=at_ns)
            except WriteError:
                pass

    def _new_gaps(self) -> dict[str, list[Any]]:
        new = self.gaps[self._gaps_written :]
        self._gaps_written = len(self.gaps)
        return gap_rows(new, self._clock() - self._context.origin_ns)

    def _end_with_main(self) -> None:
        """Where nothing ran behind the end of the main thread, the recording ended then: what came later was ours."""
        if self._main_ended is not None and not any(buffer.calls for buffer in self._context.threads.all):
            ended_ns, rows = self._main_ended
            if rows == self.rows.get("calls", 0):
                self._ended_ns = ended_ns

    def flush(self) -> None:
        """Write what has been recorded up to now."""
        if not self._context.off and os.getpid() == self._pid:
            try:
                self._read()
                self._flusher.flush(wait=True)
            except Exception as fault:
                self._fault(fault)

    @property
    def troubles(self) -> list[str]:
        """Gaps that a person is told of when the program has ended: those whose cause it has not reported itself."""
        return [gap for gap in self.gaps if gap not in self._context.told_by_program]

    @property
    def context(self) -> TraceContext:
        """The things that recorders share with it."""
        return self._context

    def begin_span(self, name: str) -> int:
        """Open a range of the user's; its number, to end it with."""
        return self._ranges.begin(self._ranges.span(name)) if self._is_running() else NOT_OPENED

    def end_span(self, number: int, error: BaseException | None) -> None:
        """Close a range of the user's, on the thread that opened it."""
        if self._is_running():
            self._ranges.end(number, error)

    def mark_step(self) -> None:
        """End a step here."""
        now = self._clock()
        if self._is_running():
            self._ranges.mark_step()
            for marked in self._context.events.step_marked:
                marked(now)

    def module_id_of(self, module: torch.nn.Module) -> int | None:
        """The number a living module has in this trace; None for one that was not seen."""
        return self._context.registry.number_of(module)

    @property
    def rows(self) -> dict[str, int]:
        """Rows written so far, by table."""
        return self._blocks.writer.rows

    @property
    def end_facts(self) -> dict[str, Any]:
        """Facts about the recording for `end.json`."""
        costs = self._context.costs
        calls_ns = self._context.module_calls * (costs.inside_ns + costs.outside_ns)
        spent_ns = self._left_cost_ns | {recorder.name: _cost_of(recorder) for recorder in self._recorders}
        return {
            "ended_ns": self._clock() - self._context.origin_ns if self._ended_ns is None else self._ended_ns,
            "rows": dict(self._blocks.writer.rows),
            "devices": device_keys(),
            "gaps": self.gaps[:MOST_GAPS],
            "stopped": self._stopped,
            "children": self._children.facts(),
            "cost": {
                "calls_ns": calls_ns + self._context.registry.spent_ns,
                "flush_ns": self._flusher.spent_ns,
                **{f"{name}_ns": cost_ns for name, cost_ns in spent_ns.items() if cost_ns},
            },
        }

    # hooks ------------------------------------------------------------------------------------------------------

    def _unregister(self) -> None:
        self._aside.remove()
        self._each("remove")
        self._carrier.remove()
        for buffer in self._context.threads.all:
            own_hooks.drop_all(buffer)

    def _stands_in(self) -> bool:
        """Frames of ours may be among those of an exception now."""
        return any(recorder.stands_in for recorder in self._recorders)

    def _more_rows(self) -> list[tuple[str, Mapping[str, list[Any]]]]:
        """Tables, and columns of their rows that are new."""
        rows: list[tuple[str, Mapping[str, list[Any]]]] = []
        for recorder in list(self._recorders):
            try:
                rows += recorder.rows()
            except Exception as fault:
                self._take_off(recorder, fault)
        return [*rows, ("watched", self._context.pauses.rows()), ("gaps", self._new_gaps())]

    def _latest_rows(self) -> list[tuple[str, Mapping[str, list[Any]]]]:
        """Tables, and columns of rows that take the place of those that this has handed out before."""
        rows: list[tuple[str, Mapping[str, list[Any]]]] = []
        for recorder in list(self._recorders):
            try:
                rows += recorder.latest_rows()
            except Exception as fault:
                self._take_off(recorder, fault)
        return rows

    def _keep_sums_alone(self, limit: SizeLimitError) -> None:
        """Go on with sums: single calls have reached their limit.

        Other recorders stay until the recording ends, and what they find is not written. A mode that one of them has
        put on a thread of the program can be taken off on that thread alone, and this is mostly another one. Where
        nobody keeps sums the recording ends.
        """
        if not any(recorder.goes_on for recorder in self._recorders):
            raise limit
        self.gaps.append(str(limit))
        self._note_stop(str(limit), f"{limit.cause}; sums go on")
        self._warn(f"{limit}; sums of modules go on, single calls are not recorded any more")

    def _hide(self) -> None:
        self._each("hide")
        self._carrier.hide()

    def _show(self) -> None:
        self._each("show")
        self._carrier.show()

    def before_fork(self) -> None:
        """Leave the process without a thread of ours, and nothing unwritten that such a thread would write."""
        self._children.forks(sys._getframe())
        self._watch.end()
        self._context.unwatched = True
        if any(buffer.records for buffer in self._context.threads.all):
            self.flush()

    def _look_around(self) -> None:
        self._children.look()
        if self._is_running() and os.getpid() == self._pid:
            with without_collecting():
                self._each("look")
        self._flusher.look()

    def _has_news(self) -> bool:
        return any(recorder.has_news for recorder in list(self._recorders))

    def _watch_again(self) -> None:
        self._context.unwatched = False
        self._watch.start()

    def abandon(self) -> None:
        """Let go in a forked child: nothing is recorded there and nothing is written."""
        self._context.off = True
        self._unregister()

    def _failed(self, fault: BaseException) -> None:
        """A call could not be recorded: next to python's limit of recursion it costs that call alone."""
        if isinstance(fault, RecursionError):
            self._context.events.missed += 1
        else:
            self._fault(fault)

    def _fault(self, fault: BaseException) -> None:
        """End the recording because of a fault of ours or of the disk; the program goes on."""
        if self._context.off:
            return
        self._context.off = True
        for recorder in self._recorders:
            with contextlib.suppress(Exception):
                recorder.stop_at_fault()
        for buffer in self._context.threads.all:
            buffer.calls.clear()
        if isinstance(fault, WriteError):
            reason, cause = str(fault), fault.cause
        else:
            cause = f"a fault of modtrace: {type(fault).__name__}"
            reason = f"recording was switched off by {cause}"
        self.gaps.append(reason)
        self._note_stop(reason, cause)
        if os.environ.get("MODTRACE_DEBUG"):
            traceback.print_exception(fault)
        self._warn(f"{reason}; the program goes on unrecorded")

    def _note_stop(self, reason: str, cause: str) -> None:
        """Say on disk that recording has ended, at once: the program may be killed before it comes to its end."""
        self._stopped = {
            "stopped_ns": self._clock() - self._context.origin_ns,
            "recorded_ns": self._blocks.written_ns,
            "reason": reason[:REASON_LIMIT],
            "cause": cause[:REASON_LIMIT],
        }
        try:
            write_json(self._folder, STOP_FILE, self._stopped)
        except Exception:  # the folder is gone; end.json has it too, where there is one
            pass

    def _warn(self, message: str) -> None:
        try:
            warnings.warn(f"modtrace: {message}", RuntimeWarning, stacklevel=3)
        except Warning:  # they are errors here
            pass


def _may_pause(options: Mapping[str, bool | str | None]) -> bool:
    """True if a recorder that is asked for may let the program wait."""
    return any(
        recorder.option is not None
        and recorder.may_pause
        and recorder.is_asked(options.get(recorder.option.argument))
        for recorder in recorders()
    )


def _made(context: TraceContext, options: Mapping[str, bool | str | None]) -> list[Recorder]:
    """The recorders that options ask for, in the order in which they start.

    Raises:
        UsageError: an option is not known, or its value makes no sense.
    """
    asked = dict(options)
    chosen: list[Recorder] = []
    for recorder in recorders():
        option = recorder.option
        value = True if option is None else asked.pop(option.argument, option.default)
        further = {
            extra.argument: asked.pop(extra.argument, extra.default) for extra in recorder.further_options
        }
        if recorder.is_asked(value) or recorder.is_implied(further):
            if option is not None and option.check is not None:
                option.check(str(value))
            chosen.append(recorder(context, value))
            chosen[-1].further = further
    if asked:
        raise UsageError(f"no recorder has an option {next(iter(asked))}")
    return chosen


def _cost_of(recorder: Recorder) -> int:
    try:
        return recorder.cost_ns
    except Exception:  # it has not come to its start
        return 0


def running() -> list[Tracer]:
    """The tracers that are recording."""
    return list(_RUNNING)


def _before_fork() -> None:
    for tracer in list(_RUNNING):
        tracer.before_fork()


def _abandon_all() -> None:
    for tracer in list(_RUNNING):
        tracer.abandon()


on_fork(_before_fork, _abandon_all)
