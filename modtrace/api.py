"""The public objects: a trace that is there, and one that is being recorded."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable
from contextlib import ContextDecorator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modtrace.errors import ModtraceError, UsageError
from modtrace.export.methods import Exports
from modtrace.trace.folder import copy, create, free_room, write_json
from modtrace.trace.schema import END_FILE
from modtrace.trace.shared_folder import enter
from modtrace.trace.start import run_facts

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from modtrace.capture.tracer import Tracer
    from modtrace.trace.reader import Stored
    from modtrace.views.html.inline import Shown


class Trace(Exports):
    """A recorded trace.

    `calls`, `modules` and `steps` are pandas DataFrames; their columns are listed in docs/data.md, with units in
    the names. They are made at the first use and kept: change a copy.
    """

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._frames: dict[str, pd.DataFrame] = {}

    @property
    def path(self) -> Path | None:
        """The directory of the trace; None while it has not been saved."""
        return self._read().path

    @property
    def calls(self) -> pd.DataFrame:
        """One row a call, indexed by `call` (order of start). Times in ns, sizes in bytes; unknown is null."""
        from modtrace.analysis.calls import calls

        return self._frame("calls", calls)

    @property
    def modules(self) -> pd.DataFrame:
        """One row a module instance, indexed by `module_id`; those that never ran have 0 calls."""
        from modtrace.analysis.modules import modules

        return self._frame("modules", modules)

    @property
    def steps(self) -> pd.DataFrame:
        """One row a step, indexed by `step`: its phases in ns, which add up to its duration. `mfu` is null where
        `modtrace info --device` has not measured the devices of the trace.
        """
        from modtrace.analysis.roofline import device_keys
        from modtrace.analysis.steps import steps
        from modtrace.trace.reach import cached_of

        return self._frame("steps", lambda stored: steps(stored, cached_of(device_keys(stored))))

    @property
    def kernels(self) -> pd.DataFrame:
        """One row a name of an operator or kernel in each module call, backward or phase, where they were watched."""
        from modtrace.analysis.kernels import kernels

        return self._frame("kernels", kernels)

    @property
    def syncs(self) -> pd.DataFrame:
        """One row a kind of wait for a device and place of the code in each module call, where `syncs` was asked for.

        Rows of `device` cpu waited for nothing; they would on a device.
        """
        from modtrace.analysis.syncs import syncs

        return self._frame("syncs", syncs)

    @property
    def compilations(self) -> pd.DataFrame:
        """One row a graph that `torch.compile` made, with its time and, where it was made again, the reason."""
        from modtrace.analysis.compilations import compilations

        return self._frame("compilations", compilations)

    def series(self, name: str | int | torch.nn.Module | None = None) -> pd.DataFrame:
        """A curve: of one module over the steps, or without a name of memory over time. Columns are in trace/frames.py.

        With a name, one row a step in which the module ran, indexed by `step`: its forward, backward and recompute
        time, self time, time on the device, FLOPs and peak memory. Without, one row a change of what is held on a
        device, by what it is held for; empty where memory was not watched (`memory="0:3"`).

        Args:
            name: a FQN (`encoder.layers.0`), alone or behind the name of its root (`G.encoder.layers.0`); the name or
                the class of a root module; a `module_id`; or the module itself, where this process has recorded it.

        Raises:
            UsageError: no such module ran, or modules of several roots have that name.
        """
        from modtrace.analysis.series import memory_series, module_series

        if name is None:
            return memory_series(self._read())
        if not isinstance(name, str | int):
            number = self.module_id_of(name)
            if number is None:
                raise UsageError("this trace has not seen that module; give its name or its module_id")
            name = number
        return module_series(self._read(), name)

    def module_id_of(self, module: torch.nn.Module) -> int | None:  # noqa: ARG002 - a loaded trace knows none
        """The `module_id` of a living module; None for one that was not seen, or where the trace was loaded."""
        return None

    def summary(self, *, width: int = 80, ascii: bool = False) -> str:
        """What `modtrace run` prints at the end, without colors; at most `width` columns."""
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
        self, target: str | os.PathLike[str], *, full: bool = False, max_bytes: int | None = None
    ) -> None:
        """Write the report: one HTML file that needs no network and nothing beside it.

        Args:
            target: the path of the file.
            full: with every call; otherwise whole steps until the file has 1 MB, all totals complete.
            max_bytes: another limit than 1 MB.

        Raises:
            UsageError: the file cannot be written, or `full` of more than 2,000,000 calls without a limit.
        """
        from modtrace.views.html.report import write

        write(self._read(), target, full=full, max_bytes=max_bytes)

    def show(self) -> Shown:
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

    def _frame(self, name: str, make: Callable[[Stored], pd.DataFrame]) -> pd.DataFrame:
        stored = self._read()
        if name not in self._frames:
            self._frames[name] = make(stored)
        return self._frames[name]

    def _read(self) -> Stored:
        return self._stored

    def __repr__(self) -> str:
        stored = self._read()
        count = stored.table("calls").num_rows
        from modtrace.analysis.cut import headline_of

        parts = [f"{count:,} calls", f"{len(stored.processes)} processes", headline_of(stored)]
        return f"<modtrace.Trace {', '.join(part for part in parts if part)}>"


class _Spool:
    """A private temporary directory, removed with the last thing that uses it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="modtrace-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Recording(Trace, ContextDecorator):
    """A trace that is recorded while its `with` block, or the function it decorates, runs. Made by `trace()`.

    Inside the block the tables show what has been recorded so far. It can be used once as a context manager; as a
    decorator every call of the function starts the recording anew, and the last one is what is shown.
    """

    def __init__(
        self,
        model: torch.nn.Module | None,
        path: str | os.PathLike[str] | None,
        *,
        force: bool,
        options: dict[str, Any],
    ) -> None:
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

    def __enter__(self) -> Recording:
        if self._running:
            raise UsageError("this trace is being recorded already; make another one with modtrace.trace()")
        if self._tracer is not None and self._target is not None:
            raise UsageError("this trace has been recorded already; make another one with modtrace.trace()")
        from modtrace.capture.imports import without_arrow_thread

        with without_arrow_thread():
            from modtrace.capture.tracer import Tracer

        model = self._model() if self._model is not None else None
        if self._model is not None and model is None:
            raise UsageError("the model given to trace() is gone: keep a reference to it")
        if self._target is not None:
            root = Path(os.path.abspath(self._target))
        else:
            self._spool = _Spool()
            root = self._spool.path / "trace.mtrace"
        from modtrace.capture.launch import launch

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
        self._tracer = Tracer(
            self._folder,
            model=model,
            rank=launched.rank,
            **self._options,
        )
        self._running = True
        self._tracer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._running or self._tracer is None or self._folder is None:
            return
        self._running = False
        if error is not None:
            self._tracer.note_failure(error)
        self._tracer.stop()
        facts = self._tracer.end_facts
        facts |= {"exit_status": None, "exception": kind.__name__ if kind is not None else None}
        facts |= {"script_start_ns": 0, "torch_imported": True}
        try:
            write_json(self._folder, END_FILE, facts)
            free_room(self._folder)
        except OSError:
            pass  # the disk is full or gone: the trace opens as one that did not come to its end

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:  # type: ignore[override]
        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return recorded

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

    def __repr__(self) -> str:
        if self._tracer is None:
            return "<modtrace.Trace not recorded yet>"
        return super().__repr__()


def trace(  # noqa: PLR0913 - an argument an option of `modtrace run`
    model: torch.nn.Module | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    functions: bool = False,
    flops: bool = True,
    memory: str | None = None,
    kernels: str | None = None,
    saved: str | None = None,
    syncs: bool = False,
    messages: bool = True,
    max_bytes: int | None = 4 << 30,
) -> Recording:
    """Record the calls of a model, or of every module in the process, as a context manager or a decorator.

    Args:
        model: keep the calls of this model and of its submodules called directly, with everything called inside them;
            None keeps all.
        path: where to write the trace while it is recorded (`NAME.mtrace`); None keeps it in a private temporary
            directory until `save`.
        force: replace a trace that stands at `path`.
        functions: record torch's functions too, as rows below the module that called them, on the thread that starts
            the trace.
        flops: count FLOPs and operations of each module, in a few calls and backwards with inputs of a kind.
        memory: steps in which memory is watched, such as "0:3".
        kernels: steps in which operators and kernels are watched.
        saved: steps in which what autograd keeps for backward is counted.
        syncs: note where module calls wait for a device, such as by `.item()`, with the line of the code. Slow.
        messages: keep the first line of exceptions' messages; False keeps their types only.
        max_bytes: recording stops, the program goes on, when the trace on disk has grown to this.

    Raises:
        UsageError: `path` cannot be used.
    """
    if model is not None and "torch" in sys.modules and not isinstance(model, sys.modules["torch"].nn.Module):
        raise UsageError(f"trace() takes a torch.nn.Module, not {type(model).__name__}; path= names the file")
    options = {
        "functions": functions,
        "flops": flops,
        "memory": memory,
        "kernels": kernels,
        "saved": saved,
        "syncs": syncs,
        "messages": messages,
        "max_bytes": max_bytes,
    }
    return Recording(model, path, force=force, options=options)


class span(ContextDecorator):  # noqa: N801 - used like a function
    """A range of the user's own in every trace that records this thread: `with modtrace.span("warm up"): ...`.

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

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for tracer, number in reversed(self._opened.pop()):
            tracer.end_span(number, error)


def step() -> None:
    """Say that a training step ends here. Where it is said once, nothing else ends a step in that trace."""
    for tracer in _running():
        tracer.mark_step()


def _running() -> list[Tracer]:
    """The tracers that record this process; none where nothing was ever recorded, for which torch is not imported."""
    module = sys.modules.get("modtrace.capture.tracer")
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
