"""`%load_ext modtrace`: the cell magic `%%modtrace`, in IPython and Jupyter."""

from __future__ import annotations

import ast
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modtrace.api import Recording, trace
from modtrace.errors import UsageError

_LINE = re.compile(r"(?:-o\s+(?P<name>[^\W\d]\w*)(?:\s+|$))?(?P<model>(?!-).*)", re.DOTALL)


def register(shell: Any) -> None:
    """Make `%%modtrace` known to an IPython shell."""
    shell.register_magic_function(CellMagic(shell).modtrace, magic_kind="cell", magic_name="modtrace")


class CellMagic:
    """What `%%modtrace` does in one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._running = False

    def modtrace(self, line: str, cell: str) -> None:
        """Record the module calls of a cell: `%%modtrace [-o NAME] [MODEL]`.

        MODEL is an expression for the model to keep calls of; without one all are kept. The trace is left in `t`, or
        in NAME, also when the cell raises or is interrupted, and its summary is printed.

        Raises:
            UsageError: a cell is being recorded already, or MODEL is not a module.
        """
        if self._running:
            raise UsageError("%%modtrace inside of %%modtrace: the cell around it is being recorded already")
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise UsageError("usage: %%modtrace [-o NAME] [MODEL]")
        model = self._model(found["model"])
        code = self._compiled(cell)
        recording = trace(model)
        self._running = True
        try:
            record(recording, lambda: self._execute(code))
        finally:
            self._running = False
            self._shell.push({found["name"] or "t": recording})
            _print_summary(recording)

    def _model(self, expression: str) -> Any:
        if not expression:
            return None
        model = self._shell.ev(expression)
        if model is None or "torch" not in sys.modules:
            raise UsageError(f"%%modtrace takes a torch.nn.Module, not {type(model).__name__}")
        return model

    def _compiled(self, cell: str) -> list[Any]:
        """The code objects of a cell; the last expression shows its value, as in any cell."""
        compiler = self._shell.compile
        source = self._shell.transform_cell(cell)
        file = compiler.cache(source, self._shell.execution_count, raw_code=cell)
        tree = self._shell.transform_ast(compiler.ast_parse(source, filename=file))
        shown = tree.body[-1:] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        body = ast.Module(tree.body[: len(tree.body) - len(shown)], type_ignores=[])
        return [compiler(body, file, "exec"), compiler(ast.Interactive(shown), file, "single")]

    def _execute(self, codes: list[Any]) -> None:
        for code in codes:
            exec(code, self._shell.user_global_ns, self._shell.user_ns)  # noqa: S102 - the cell that is to be run


def record(recording: Recording, run: Any) -> None:
    """Call `run` while recording. However it ends, and wherever Ctrl-C comes, nothing goes on recording afterwards."""
    try:
        try:
            with _interrupts_later():
                recording.__enter__()
            run()
        finally:
            with _interrupts_later():
                recording.__exit__(*sys.exc_info())
    finally:  # where Ctrl-C came between the lines above; else there is nothing left to end
        with _interrupts_later():
            recording.__exit__(*sys.exc_info())


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C takes effect behind the block, so that starting and stopping are done whole."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals, or may say what they do
        return
    came: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return

    def note(*about: Any) -> None:
        came[:] = [about]

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            before(*came.pop())  # not kept: it holds a frame


def _print_summary(recording: Recording) -> None:
    """The summary below the cell; a fault in it must not hide what the cell raised."""
    try:
        text = recording.summary()
    except Exception as error:
        text = f"modtrace: no summary: {type(error).__name__}"
    sys.stdout.write(text.rstrip() + "\n")
