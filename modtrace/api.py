"""The public objects: a trace that is there, and one that is being recorded."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import tempfile
import textwrap
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from modtrace.decorated import Arguments, Result, Shared, inside
from modtrace.errors import ModtraceError, UsageError
from modtrace.export.methods import Exports
from modtrace.trace.folder import copy, create, free_room, write_json
from modtrace.trace.packed import packed, unpack
from modtrace.trace.run_json import run_facts
from modtrace.trace.schema import END_FILE
from modtrace.trace.shared_folder import enter
from modtrace.trace.size_limit import size_bytes

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from modtrace.analysis.failure import Failure
    from modtrace.analysis.run_facts import RunFacts
    from modtrace.capture.engine.tracer import Tracer
    from modtrace.capture.mechanisms.asked_steps import Steps
    from modtrace.export.target import Target
    from modtrace.trace.reader import Stored
    from modtrace.views.html.inline import InlineReport


class Trace(Exports):
    """A recorded trace.

    Its tables are pandas DataFrames. They are made at the first use and kept: change a copy. Times are nanoseconds and
    sizes bytes, as the names of columns say; what is not known is null. `frame.attrs["units"]` has the unit of each
    column, `t.columns("calls")` its type, unit and meaning, docs/data.md those of all tables.

    They raise TraceError where the files of the trace cannot be read.
    """

    def __init__(self, stored: Stored, *, saved: bool = True) -> None:
        self._stored = stored
        self._saved = saved
        self._frames: dict[str, pd.DataFrame] = {}

    @property
    def path(self) -> Path | None:
        """The directory of the trace; None while it has not been saved."""
        return self._read().path if self._saved else None

    @property
    def run(self) -> RunFacts:
        """The run as a whole: script, state at its end, time, steps, ranks, versions. See `help(t.run)`."""
        from modtrace.analysis.run_facts import run_facts

        return run_facts(self._read())

    @property
    def failure(self) -> Failure | None:
        """Where and why it failed: `error`, `path` of the modules with shapes of what each was given, `line`, `reason`.

        None where no exception left a module call, a backward or an optimizer's step, or ended the recording. See
        `help(t.failure)`.
        """
        from modtrace.analysis.failure import last_failure

        return last_failure(self._read())

    @property
    def calls(self) -> pd.DataFrame:
        """One row a call, indexed by `call` (order of start). Times in ns, sizes in bytes; unknown is null."""
        return self._frame("calls")

    @property
    def modules(self) -> pd.DataFrame:
        """One row a module instance of each rank, indexed by `module_id`; those that never ran have 0 calls."""
        return self._frame("modules")

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step, indexed by `step`: its phases in ns, which add up to its duration.

        Where there are several ranks the index is (`rank`, `step`), and (`rank`, `process`, `step`) where one of them
        was restarted: `t.steps.xs(0, level="rank")` are the steps of one rank. `mfu` is null where the devices of the
        trace have not been measured.
        """
        return self._frame("steps")

    @property
    def folded(self) -> pd.DataFrame:
        """Where the time went: one row a module, repeats as one (`h.*.mlp`, 12 `instances`), most time first.

        What the summary shows: sums over the steps that count in statistics, the first step left out; without steps
        over the recorded calls. `attrs["windows"]` says which, with their length. `profile(whole_run=True)` is of all
        the time.
        """
        return self.profile()

    def profile(self, *, whole_run: bool = False) -> pd.DataFrame:
        """The same as `folded`, or of the whole run.

        Args:
            whole_run: of all the time from the start of recording on. The first step and what was left out for watching
                or compiling is in it. The time before the first call and outside of calls are rows.
        """
        if not whole_run:
            return self._frame("folded")
        from modtrace.analysis.answers import folded
        from modtrace.analysis.tables import with_units

        return self._cached("whole run", lambda stored: with_units(folded(stored, whole_run=True), "folded"))

    @property
    def findings(self) -> pd.DataFrame:
        """Remarks worth a look, each with its number and what to do; about results first, then by time at stake."""
        return self._frame("findings")

    @property
    def gaps(self) -> pd.DataFrame:
        """Gaps: parts that were not recorded or are lost, and why; empty where nothing is missing."""
        return self._frame("gaps")

    @property
    def operations(self) -> pd.DataFrame:
        """The computation of each module in one call: its operations and FLOPs, repeats of a module as one row."""
        return self._frame("operations")

    @property
    def holders(self) -> pd.DataFrame:
        """Holders of memory at the peak of each device, the largest first; empty unless `memory=` was asked for."""
        return self._frame("holders")

    @property
    def kernels(self) -> pd.DataFrame:
        """One row a name of an operator or kernel in each module call, backward or phase, where they were watched."""
        return self._frame("kernels")

    @property
    def syncs(self) -> pd.DataFrame:
        """One row a kind of wait for a device and place of the code in each module call, where `syncs` was asked for.

        Rows of `device` cpu waited for nothing; they would on a device.
        """
        return self._frame("syncs")

    @property
    def values(self) -> pd.DataFrame:
        """Ranges of tensors by module and step; empty unless `values=` or `nan=` was asked for."""
        return self._frame("values")

    @property
    def nonfinite(self) -> pd.DataFrame:
        """Values that are not finite, and where they began; empty unless `nan=True` was asked for."""
        return self._frame("nonfinite")

    @property
    def ranks(self) -> pd.DataFrame:
        """One row a start of a rank: its steps and phases, how it ended, whether the others wait for it.

        The calls of one rank at a time are opened for it.
        """
        return self._frame("ranks")

    @property
    def collectives(self) -> pd.DataFrame:
        """One row a collective (all_reduce, barrier ...) and rank: when it was launched, in which call, how late.

        On Gloo. Of a run that was thinned (`keep`) those of the steps that are recorded in full.
        """
        return self._frame("collectives")

    @property
    def compilations(self) -> pd.DataFrame:
        """One row a graph that `torch.compile` made, with its time and, where it was made again, the reason."""
        return self._frame("compilations")

    @property
    def rollups(self) -> pd.DataFrame:
        """Sums and quantiles of each module over windows of steps, where `rollups=True` was asked for.

        They are of all steps, also of those of which single calls are not recorded any more.
        """
        return self._frame("rollups")

    def columns(self, table: str) -> pd.DataFrame:
        """The columns of a table: `type`, `unit`, `description` and when they are null, indexed by `column`.

        Args:
            table: `calls`, `modules`, `steps`, `folded` ...; `series(name)` and `series()` for those of `series`.

        Raises:
            UsageError: there is no such table.
        """
        import pandas as pd

        from modtrace.trace.dataframes import columns_of

        described = columns_of(table)
        return pd.DataFrame(
            {
                "type": [column.type for column in described],
                "unit": [column.unit for column in described],
                "description": [column.doc for column in described],
                "null": [column.null for column in described],
            },
            index=pd.Index([column.name for column in described], name="column"),
        )

    def series(
        self, name: str | int | torch.nn.Module | None = None, *, type: str | None = None
    ) -> pd.DataFrame:
        """A curve: of a module or a phase over the steps, or without a name of memory over time.

        With a name, one row a step in which it ran, indexed by `step`. It has forward, backward and recompute time,
        self time, time on the device, FLOPs and peak memory, repeats added up (`t.columns("series(name)")`). Without,
        one row a change of what is held on a device, by what it is held for (`t.columns("series()")`); empty where
        memory was not watched (`memory=(0, 3)`).

        Args:
            name: the FQN of a module (`encoder.layers.0`), alone or behind the name of its root (`G.encoder.layers.0`);
                folded for all its repeats (`h.*.mlp`). Or the name or class of a root; the name of a phase, span
                or function, alone or as `phase:optimizer`. Or a `module_id`, or the module itself, where this process
                has recorded it.
            type: only what is of this class, where a name means several: `series("optimizer", type="SGD")`.

        Raises:
            UsageError: nothing of that name ran, or several unlike things have it. The message names the candidates.
        """
        from modtrace.analysis.series import memory_series, module_series
        from modtrace.analysis.tables import with_units

        if name is None:
            return with_units(memory_series(self._read()), "series()")
        if not isinstance(name, str | int):
            number = self.module_id_of(name)
            if number is None:
                raise UsageError("this trace has not seen that module; give its name or its module_id")
            name = number
        return with_units(module_series(self._read(), name, type), "series(name)")

    def module_id_of(self, module: torch.nn.Module) -> int | None:  # noqa: ARG002 - a loaded trace knows none
        """The `module_id` of a living module; None for one that was not seen, or where the trace was loaded."""
        return None

    def summary(self, *, width: int = 80, ascii: bool = False) -> str:
        """The summary that `modtrace run` prints at the end, without colors; at most `width` columns."""
        from modtrace.views.console import summary

        return summary(self._read(), width=width, ascii=ascii)

    def tree(self, depth: int | None = None, *, width: int = 80, ascii: bool = False) -> str:
        """The call tree, calls of one module merged and repeated blocks folded, down to `depth`."""
        from modtrace.views.console import tree

        return tree(self._read(), depth=depth, width=width, ascii=ascii)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Copy the trace to a directory, usually named `NAME.mtrace`.

        Raises:
            UsageError: the path exists (and `force` is not given) or cannot be written.
        """
        target = Path(path)
        copy(self._read().path, target, force=force)
        return target

    def to_html(
        self,
        target: Target,
        *,
        full: bool = False,
        max_bytes: int | None = None,
        force: bool = False,
    ) -> None:
        """Write the report: one HTML file that needs no network and nothing beside it.

        Args:
            target: a path, or a stream of text or bytes.
            full: with every call; otherwise whole steps until the file has 1 MB, all totals complete.
            max_bytes: another limit than 1 MB.
            force: replace a file that is there.

        Raises:
            UsageError: the file is there, or cannot be written, or `full` of more than 2,000,000 calls without a limit.
        """
        from modtrace.export.target import write
        from modtrace.views.html.report import report

        def page() -> Iterator[bytes]:
            yield report(self._read(), full=full, max_bytes=max_bytes).html.encode()

        write(page(), target, force=force)

    def show(self) -> InlineReport:
        """The report for a notebook, as the value of a cell: in a frame of its own that may run its script and nothing
        else. It is kept in the notebook, with at most 1 MB.
        """
        from modtrace.views.html.inline import shown

        return shown(self._read())

    def _repr_html_(self) -> str | None:
        """A table for a notebook, without a script and of less than 20 kB; None while nothing has been recorded."""
        try:
            stored = self._read()
        except ModtraceError:
            return None
        from modtrace.views.html.inline import table

        return table(stored)

    def _frame(self, name: str) -> pd.DataFrame:
        from modtrace.analysis.tables import shown

        return self._cached(name, lambda stored: shown(stored, name))

    def _cached(self, name: str, make: Callable[[Stored], pd.DataFrame]) -> pd.DataFrame:
        stored = self._read()
        if name not in self._frames:
            self._frames[name] = make(stored)
        return self._frames[name]

    def _read(self) -> Stored:
        return self._stored

    def _ended(self) -> Stored:
        """The trace, which does not grow any more.

        Raises:
            ModtraceError: it is being recorded, or has not been.
        """
        return self._read()

    def __copy__(self) -> Trace:
        return Trace(self._ended(), saved=self.path is not None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Trace:
        """Another view of the same files, which nothing changes; DataFrames are made anew."""
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the files of the trace, and needs none of them where it is opened."""
        stored = self._ended()
        return _unpacked, (packed(stored.path), stored.max_memory_bytes)

    def __repr__(self) -> str:
        stored = self._read()
        count = stored.call_count
        from modtrace.analysis.recording_end import headline_of

        parts = [f"{count:,} calls", f"{len(stored.processes)} processes", headline_of(stored)]
        return f"<modtrace.Trace {', '.join(part for part in parts if part)}>"


class _Spool:
    """A private temporary directory, removed with the last thing that uses it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="modtrace-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _unpacked(files: dict[str, bytes], max_memory_bytes: int) -> Trace:
    """The trace of a pickle, in a private temporary directory."""
    from modtrace.trace.reader import open_trace

    spool = _Spool()
    unpack(files, spool.path)
    return Trace(open_trace(spool.path, max_memory_bytes=max_memory_bytes, owner=spool), saved=False)


class Recording(Trace):
    """A trace that is recorded while its `with` block, or the function it decorates, runs. Made by `trace()`.

    Inside the block the tables show what has been recorded so far. As a context manager it can be used again where it
    has no `path`; the last recording is what is shown.

    As a decorator every call of the function starts the recording anew, and calls that overlap (recursion, threads,
    coroutines) are one recording. Coroutine functions are recorded from the first turn of the coroutine to its end,
    generators and asynchronous generators from the first `next` until they have ended or are closed. What else runs
    between their turns is in the recording too.

    `copy` and `pickle` give a `Trace` of what was recorded; while it is being recorded they raise UsageError.
    """

    def __init__(
        self,
        model: torch.nn.Module | None,
        path: str | os.PathLike[str] | None,
        *,
        force: bool,
        options: dict[str, Any],
        break_rank: int = 0,
    ) -> None:
        self._break_rank = break_rank
        self._model = weakref.ref(model) if model is not None else None
        self._target = Path(path) if path is not None else None
        self._force = force
        self._options = options
        self._tracer: Tracer | None = None
        self._folder: Path | None = None
        self._spool: _Spool | None = None
        self._running = False
        self._seen = -1
        self._frames = {}
        self._overlapping = Shared(self)

    def __enter__(self) -> Recording:
        if self._running:
            raise UsageError("this trace is being recorded already; make another one with modtrace.trace()")
        if self._tracer is not None and self._target is not None:
            raise UsageError("this trace has been recorded already; make another one with modtrace.trace()")
        from modtrace.capture.engine.imports import without_arrow_thread

        with without_arrow_thread():
            from modtrace.capture.engine.tracer import Tracer, check_interpreter

        check_interpreter()
        model = self._model() if self._model is not None else None
        if self._model is not None and model is None:
            raise UsageError("the model given to trace() is gone: keep a reference to it")
        if self._target is not None:
            root = Path(os.path.abspath(self._target))
        else:
            self._spool = _Spool()
            root = self._spool.path / "trace.mtrace"
        from modtrace.capture.mechanisms.break_conditions import for_rank
        from modtrace.launch.rank import launch

        launched = launch()
        member = launched.membership if self._target is not None else None
        if member is None:
            self._folder = create(root, run_facts(), process=launched.folder, force=self._force)
        else:  # each rank of a job records into the same path
            self._folder, trouble = enter(root, run_facts(launch=member.key), member, force=self._force)
            if trouble is not None:
                warnings.warn(f"modtrace: {trouble}", RuntimeWarning, stacklevel=2)
        self._frames.clear()
        self._seen = -1
        break_on = for_rank(self._options.get("break_on"), launched.rank, self._break_rank)
        self._tracer = Tracer(
            self._folder,
            model=model,
            rank=launched.rank,
            **{**self._options, "break_on": break_on},
        )
        self._running = True
        self._tracer.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._running or self._tracer is None or self._folder is None:
            return
        self._running = False
        if error is not None:
            self._tracer.note_failure(error)
            _FAILED[:] = [weakref.ref(self)]
        self._tracer.stop()
        facts = self._tracer.end_facts
        facts |= {"exit_status": None, "exception": error_type.__name__ if error_type is not None else None}
        facts |= {"script_start_ns": 0, "torch_imported": True}
        try:
            write_json(self._folder, END_FILE, facts)
            free_room(self._folder)
        except OSError:
            pass  # the disk is full or gone: the trace opens as one that did not come to its end

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Record each call of a function, coroutines and generators to their end."""
        return inside(self._overlapping, function)

    def module_id_of(self, module: torch.nn.Module) -> int | None:
        """The `module_id` of a module that still lives; None for one that was not seen."""
        return self._tracer.module_id_of(module) if self._tracer is not None else None

    @property
    def path(self) -> Path | None:
        """The directory given to `trace`; None for a trace that has not been saved."""
        return self._target

    def _read(self) -> Stored:
        from modtrace.trace.reader import open_trace

        if self._tracer is None or self._folder is None:
            raise ModtraceError("nothing has been recorded yet: use the trace in a with statement first")
        if self._running:
            self._tracer.flush()
        written = sum(self._tracer.rows.values()) * 2 + self._running
        if written != self._seen:
            self._frames.clear()
            self._seen = written
            self._stored = open_trace(self._folder.parent, owner=self._spool)
        return self._stored

    def _ended(self) -> Stored:
        if self._running:
            raise UsageError(
                "this trace is being recorded: copy or pickle it behind the with block, or save() what there is now"
            )
        return self._read()

    def __repr__(self) -> str:
        if self._tracer is None:
            return "<modtrace.Trace not recorded yet>"
        return super().__repr__()


def trace(  # noqa: PLR0913 - an argument an option of `modtrace run`
    model: torch.nn.Module | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    engine: str = "hooks",
    functions: bool = False,
    flops: bool = True,
    memory: Steps | None = None,
    kernels: Steps | None = None,
    saved: Steps | None = None,
    syncs: bool = False,
    values: Steps | None = None,
    values_with: str | None = None,
    rollups: bool = False,
    keep: int | str = "auto",
    nan: bool = False,
    nan_stop: bool = False,
    nan_pin: bool = False,
    nan_allow: str | None = None,
    break_on: str | Sequence[str] | None = None,
    break_rank: int = 0,
    watch: str | Sequence[str] | None = None,
    messages: bool = True,
    max_bytes: int | str | None = 4 << 30,
    **recorders: bool | str | None,
) -> Recording:
    """Record the calls of a model, or of every module in the process, as a context manager or a decorator.

    Args:
        model: keep the calls of this model and of its submodules called directly, with everything called inside them;
            None keeps all.
        path: where to write the trace while it is recorded (`NAME.mtrace`); None keeps it in a private temporary
            directory until `save`.
        force: replace a trace that stands at `path`.
        engine: how calls are noticed: "hooks", a pair of torch's hooks around every call, or "calls", a function in the
            place of `Module.__call__`, which costs less.
        {options}
        break_rank: the rank of a job that `break_on` stops in.
        messages: keep the first line of exceptions' messages; False keeps their types only.
        max_bytes: how large the trace may get on disk: a number, or "512MB"; where nothing more fits recording stops.
        recorders: options of recorders that others have registered, by their argument.

    Raises:
        UsageError: `path` cannot be used, the value of an option makes no sense, or there is no such engine.
        TypeError: there is no such option.
    """
    from modtrace.capture.engine.engines import checked_engine
    from modtrace.capture.mechanisms.break_conditions import joined_texts

    _check_arguments(model, recorders)
    options = {
        "engine": checked_engine(engine), "functions": functions, "flops": flops, "syncs": syncs,
        **_step_options(memory=memory, kernels=kernels, saved=saved, values=values), "values_with": values_with,
        "rollups": rollups, "keep": str(keep), "nan": nan, "nan_stop": nan_stop, "nan_pin": nan_pin,
        "nan_allow": nan_allow, "break_on": joined_texts("break_on", break_on),
        "watch": joined_texts("watch", watch), "messages": messages,
        "max_bytes": size_bytes(max_bytes) if isinstance(max_bytes, str) else max_bytes, **recorders,
    }  # fmt: skip
    return Recording(model, path, force=force, options=options, break_rank=break_rank)


def _check_arguments(model: object, recorders: Mapping[str, object]) -> None:
    """Check the model, and the names of options that others have registered.

    Raises:
        UsageError: it is no model.
        TypeError: there is no such option.
    """
    if model is not None and "torch" in sys.modules and not isinstance(model, sys.modules["torch"].nn.Module):
        raise UsageError(f"trace() takes a torch.nn.Module, not {type(model).__name__}; path= names the file")
    from modtrace.capture.recorders import options

    arguments = {option.argument for _, option in options()}
    for name in recorders:
        if name not in arguments:
            raise TypeError(f"trace() got an unexpected keyword argument {name!r}")


def _step_options(**asked: Steps | None) -> dict[str, str | None]:
    """Texts of the options that name steps, by argument."""
    from modtrace.capture.mechanisms.asked_steps import every_of, steps_text

    every = asked["values"] if isinstance(asked["values"], str) and every_of(asked["values"]) else None
    return {
        name: every if name == "values" and every else steps_text(name, steps)
        for name, steps in asked.items()
    }


def _with_options(docstring: str) -> str:
    """A docstring in which `{options}` is what recorders say of theirs."""
    from modtrace.capture.recorders import options

    lines = [
        "\n            ".join(textwrap.wrap(f"{option.argument}: {option.doc}", 108))
        for _, option in options()
    ]
    return docstring.replace("{options}", "\n        ".join(lines))


trace.__doc__ = _with_options(trace.__doc__ or "")


class span(ContextDecorator):  # noqa: N801 - used like a function
    """Record a named range in every trace that records this thread: `with modtrace.span("warm up"): ...`.

    It is a row of kind `span`, with what happens inside below it. Nothing happens while nothing is recorded.
    """

    def __init__(self, name: str) -> None:
        self.name = str(name)
        self._opened: list[list[tuple[Tracer, int]]] = []

    def _recreate_cm(self) -> span:
        return span(self.name)

    def __enter__(self) -> span:
        self._opened.append([(tracer, tracer.begin_span(self.name)) for tracer in _running()])
        return self

    def __exit__(self, error_type: object, error: BaseException | None, traceback: object) -> None:
        for tracer, number in reversed(self._opened.pop()):
            tracer.end_span(number, error)


def step() -> None:
    """Mark the end of a training step. Once called, automatic detection of steps is off for that trace."""
    for tracer in _running():
        tracer.mark_step()


def breakpoint(*conditions: str | bool) -> None:  # noqa: A001 - it is python's, which knows modules
    """Open the debugger here, where a trace is being recorded and all conditions hold; else as `breakpoint()` does.

    At the prompt `module`, `args`, `kwargs` and `call` are those of the innermost module call around, `mtree`, `mup`
    and `mdown` show and walk the calls that are open. Time at the prompt is in no number of the trace. In workers of a
    DataLoader nothing stops, in a job of several processes only rank 0.

    Args:
        conditions: texts in the language of `--break` about that call (`"step=10"`, `"shape~[*,0]"`), or truth values.

    Raises:
        UsageError: a text cannot be read, or asks for what is known only at the end of a call.
    """
    if not all(condition for condition in conditions if not isinstance(condition, str)):
        return
    contexts = [tracer.context for tracer in _running()]
    here = inspect.currentframe()
    caller = here.f_back if here is not None else None
    if caller is None:
        return
    if not contexts:
        _plain_breakpoint(caller)
        return
    from modtrace.capture.mechanisms.code_breakpoints import CodeBreakpoints

    texts = [condition for condition in conditions if isinstance(condition, str)]
    contexts[0].part(CodeBreakpoints).stop(caller, texts, contexts)


def _plain_breakpoint(frame: FrameType) -> None:
    """Do as `breakpoint()` does, in that frame."""
    if sys.breakpointhook is not sys.__breakpointhook__:
        sys.breakpointhook()  # noqa: T100 - that of the program
        return
    from modtrace.capture.debugger.debugger import Debugger
    from modtrace.capture.debugger.module_prompt import StopPoint

    Debugger().now(frame, StopPoint(""))


def pm(trace: Trace | None = None) -> None:
    """Open the debugger on the last exception that nobody caught: in a notebook, on the cell that has failed.

    It begins in the innermost frame of the program's own code, inside the module that failed, with WHERE IT FAILED
    above it. `mtree`, `mup` and `mdown` show and walk the module calls on the way.

    Args:
        trace: a trace of it; the last that was recorded with a failure, where it still is there.

    Raises:
        UsageError: nothing has failed.
    """
    from modtrace.capture.debugger.post_mortem import post_mortem
    from modtrace.views.console import failure_text

    traceback = getattr(sys, "last_traceback", None)
    if traceback is None:
        raise UsageError("nothing has failed: pm() looks at the last exception that nobody caught")
    recorded = trace if trace is not None else _FAILED[-1]() if _FAILED else None
    text = failure_text(recorded._read()) if recorded is not None else ""  # noqa: SLF001 - of this file
    post_mortem(traceback, text)


_FAILED: list[weakref.ref[Recording]] = []
"""The recording that was the last to end with an exception."""


def _running() -> list[Tracer]:
    """The tracers that record this process; none where nothing was ever recorded, for which torch is not imported."""
    module = sys.modules.get("modtrace.capture.engine.tracer")
    return module.running() if module is not None else []


def load(path: str | os.PathLike[str], *, max_memory_bytes: int | None = None) -> Trace:
    """Open a trace directory.

    Args:
        path: the directory.
        max_memory_bytes: what its tables may take in memory when they are unpacked; 2 GB where nothing is said.

    Raises:
        TraceError: there is none, or it cannot be read.
    """
    from modtrace.trace.reader import open_trace

    return Trace(open_trace(Path(path), max_memory_bytes=max_memory_bytes))
