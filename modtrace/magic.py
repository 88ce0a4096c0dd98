"""`%load_ext modtrace`: the cell magic `%%modtrace`, in IPython and Jupyter.

A cell that begins with `%%modtrace` is run by IPython itself, with one statement in front of it that starts the
recording: its number, values, `await`, `;` and tracebacks are those of any cell. The recording ends when IPython says
that the cell has.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import signal
import sys
import threading
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from modtrace.api import Recording, trace
from modtrace.capture.recorders import options
from modtrace.errors import ModtraceError, UsageError

_FIRST_LINE: Final = re.compile(r"%%modtrace(?:[ \t]+(?P<line>.*?))?[ \t]*\r?\n?")
_QUOTED: Final = re.compile(r"""(['"])(.*?)\1(?=\s|\Z)""")
_USAGE: Final = "%%modtrace [options] [MODEL]"
_ABOUT: Final = """\
Records the module calls of a cell. The trace is left in t, also when the cell raises or is interrupted, and its
summary is shown. MODEL is an expression for the model to keep calls of; without one all are kept.

  %%modtrace                            all calls of the cell
  %%modtrace model                      those of one model
  %%modtrace -o second --memory 0:3     memory in three steps; the trace is left in second

%modtrace anywhere in a cell records from there to its end."""
_RUNS_CELLS: Final = "run_code"
"""The method of the shell that the code of a cell is run by."""


class CellError(UsageError):
    """An UsageError that notebooks show without a traceback: what is wrong is the line of the magic."""

    def _render_traceback_(self) -> list[str]:
        return [f"UsageError: {self}"]


@dataclass(frozen=True)
class MagicLine:
    """Words behind `%%modtrace`: the name for the trace, an expression for the model, arguments of `trace()`.

    show: `summary`, `tree` or `none`.
    html: the file of a report that is written at the end; "" for none.
    force: replace a trace, or a report, that is there.
    help: the text that is asked for in place of a recording; "" for none.
    """

    name: str
    model: str
    options: dict[str, Any]
    show: str = "summary"
    html: str = ""
    force: bool = False
    help: str = ""


def register(shell: Any) -> None:
    """Make `%%modtrace` and `%modtrace` known to an IPython shell."""
    magic = CellMagic(shell)
    shell.register_magic_function(magic.run_cell, magic_kind="cell", magic_name="modtrace")
    shell.register_magic_function(magic.begin, magic_kind="line", magic_name="modtrace")
    shell.input_transformers_cleanup.append(magic.transform)
    shell.events.register("pre_run_cell", magic.cell_started)
    shell.events.register("post_run_cell", magic.cell_ended)


def unregister(shell: Any) -> None:
    """Take them out of the shell again."""
    for transform in list(shell.input_transformers_cleanup):
        magic = getattr(transform, "__self__", None)
        if isinstance(magic, CellMagic):
            shell.input_transformers_cleanup.remove(transform)
            shell.events.unregister("pre_run_cell", magic.cell_started)
            shell.events.unregister("post_run_cell", magic.cell_ended)
    for magic_kind in ("line", "cell"):
        shell.magics_manager.magics[magic_kind].pop("modtrace", None)


class CellMagic:
    """The magic `%%modtrace` in one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._cells: list[Any] = []
        """Facts of IPython about the cells that run now, the innermost last."""
        self._cell: Any = None
        self._recording: Recording | None = None
        self._asked = MagicLine("t", "", {})
        self._runs_itself = False

    def transform(self, lines: list[str]) -> list[str]:
        """A cell whose first line is `%%modtrace` as one that begins with the statement `%modtrace`."""
        match = _FIRST_LINE.fullmatch(lines[0]) if lines else None
        if match is None:
            return lines
        line = match["line"] or ""
        start = f"get_ipython().run_line_magic('modtrace', {line!r})\n"
        if {"-h", "--help"} & set(line.split()):
            return [start]
        first = next((text.strip() for text in lines[1:] if text.strip()), "")
        # Without a body, or with the magic of another cell below, it is for IPython to say what is to be done.
        return lines if not first or first.startswith("%%") else [start, *lines[1:]]

    def begin(self, line: str) -> None:
        """Record the module calls from here to the end of the cell: `%modtrace --help` has the options.

        Raises:
            CellError: the line makes no sense, MODEL is not a module, or the cell is being recorded already.
        """
        __tracebackhide__ = True
        asked = parsed(line)
        if asked.help:
            sys.stdout.write(asked.help)
            return
        if not self._cells:
            raise CellError("%modtrace records the cell that it stands in; elsewhere use modtrace.trace()")
        recording = self._recording_of(asked)
        self._cell, self._recording, self._asked = self._cells[-1], recording, asked
        with _interrupts_later():
            recording.__enter__()

    def cell_started(self, info: Any) -> None:
        """IPython is about to run a cell."""
        if not _inside_a_cell():
            self._cells.clear()
            self._end(None)  # where Ctrl-C came between the end of a cell and what is done then
        self._cells.append(info)

    def cell_ended(self, result: Any) -> None:
        """IPython has run a cell, or could not."""
        try:
            with _interrupts_later():
                self._take_off(result.info.raw_cell if result is not None else None)
                if self._recording is not None and not any(cell is self._cell for cell in self._cells):
                    self._end(
                        result.error_before_exec or result.error_in_exec if result is not None else None
                    )
        except KeyboardInterrupt as interrupt:
            if result is None:
                raise
            result.error_in_exec = result.error_in_exec or interrupt
            self._shell.showtraceback()

    def _take_off(self, source: str | None) -> None:
        """Take the cell of this source, and those inside it, off those that run; all of them for None."""
        while self._cells and self._cells.pop().raw_cell != source:
            pass

    def _end(self, error: BaseException | None) -> None:
        """End the recording in progress, if there is one, and show it."""
        recording, self._recording, self._cell = self._recording, None, None
        if recording is None:
            return
        try:
            recording.__exit__(type(error) if error is not None else None, error, None)
        finally:
            self._show(self._asked, recording)

    def _recording_of(self, asked: MagicLine) -> Recording:
        """The recording that a line asks for, not started."""
        if self._recording is not None or self._runs_itself:
            raise CellError("%%modtrace inside of %%modtrace: the cell around it is being recorded already")
        try:
            for path in (asked.options.get("path"), asked.html):
                if path and os.path.lexists(path) and not asked.force:
                    raise CellError(f"{path} exists already; -f replaces it")
            return trace(self._model(asked.model), force=asked.force, **asked.options)
        except ModtraceError as error:
            raise CellError(str(error)) from None

    def _model(self, expression: str) -> Any:
        if not expression:
            return None
        try:
            model = self._shell.ev(expression)
        except Exception as error:
            raise CellError(f"%%modtrace {expression}: {type(error).__name__}: {error}") from None
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(model, torch.nn.Module):
            raise CellError(f"%%modtrace takes a torch.nn.Module, not {type(model).__name__}")
        return model

    def _show(self, asked: MagicLine, recording: Recording) -> None:
        """Leave the trace in its variable and show it; a fault in that must not hide what the cell raised."""
        self._shell.push({asked.name: recording})
        try:
            if asked.html:
                recording.to_html(asked.html, force=asked.force)
                sys.stdout.write(f"wrote {asked.html}\n")
        except Exception as error:
            sys.stdout.write(f"modtrace: no report: {error}\n")
        try:
            self._show_as(asked.show, recording)
        except Exception as error:
            sys.stdout.write(f"modtrace: no summary: {type(error).__name__}\n")

    def _show_as(self, show: str, recording: Recording) -> None:
        if show == "none":
            return
        text = recording.tree() if show == "tree" else recording.summary()
        html = recording._repr_html_() if show == "summary" and self._is_notebook else None
        if html:  # one output in both forms: the front end takes the one that it can show
            self._shell.display_pub.publish({"text/html": html, "text/plain": text.rstrip()})
        else:
            sys.stdout.write(text.rstrip() + "\n")

    @property
    def _is_notebook(self) -> bool:
        """True where a kernel runs the cells: its front ends show HTML; a terminal's shell has none."""
        return getattr(self._shell, "kernel", None) is not None

    def run_cell(self, line: str, cell: str) -> None:
        """Record the module calls of a cell: `%%modtrace --help` has the options.

        This is for cells that do not begin with it: below another cell magic, or run by `run_cell_magic`.

        Raises:
            CellError: as `begin` says.
        """
        __tracebackhide__ = True
        asked = parsed(line)
        if asked.help:
            sys.stdout.write(asked.help)
            return
        codes = self._compiled(cell)
        recording = self._recording_of(asked)
        self._runs_itself = True
        try:
            record(recording, lambda: self._run(codes))
        except BaseException as error:
            error.__traceback__ = _below_here(error.__traceback__)
            raise
        finally:
            self._runs_itself = False
            self._show(asked, recording)

    def _compiled(self, cell: str) -> list[Any]:
        """The code objects of a cell; the last expression shows its value, unless there is a `;` behind it."""
        compiler = self._shell.compile
        source = self._shell.transform_cell(cell)
        running = self._shell.displayhook.exec_result
        number = self._shell.execution_count if running is None else running.execution_count
        file = compiler.cache(source, number, raw_code=cell)
        tree = self._shell.transform_ast(compiler.ast_parse(source, filename=file))
        silent = self._shell.displayhook.semicolon_at_end_of_expression(cell)
        shown = tree.body[-1:] if tree.body and isinstance(tree.body[-1], ast.Expr) and not silent else []
        body = ast.Module(tree.body[: len(tree.body) - len(shown)], type_ignores=[])
        return [compiler(body, file, "exec"), compiler(ast.Interactive(shown), file, "single")]

    def _run(self, codes: list[Any]) -> None:
        for code in codes:
            exec(code, self._shell.user_global_ns, self._shell.user_ns)  # noqa: S102 - the cell that is to be run


CellMagic.transform.has_side_effects = True  # type: ignore[attr-defined]
"""IPython asks with this left out where a cell ends: at a blank line, as that of any cell magic."""


def parsed(line: str) -> MagicLine:
    """Read the words behind `%%modtrace`. Options come first; all behind them is the expression for the model.

    Raises:
        CellError: it makes no sense.
    """
    words, text = [], line.strip()
    valued = {"-o", "--output", "--engine", "--print", "--max-size"}
    valued |= {option.flag for _, option in options() if option.value is not None}
    while text.startswith("-"):
        word, text = _first_word(text)
        words.append(word)
        if word in valued and text:
            word, text = _first_word(text)
            words.append(word)
    parser = _parser()
    values = parser.parse_args(words)
    name = values.name or "t"
    if not name.isidentifier():
        raise CellError(f"-o takes the name of a variable, not {name!r}")
    return MagicLine(
        name,
        text,
        _arguments(values),
        show="none" if values.quiet else values.show,
        html=f"{name}.html" if values.html == "" else values.html or "",
        force=values.force,
        help=parser.format_help() if values.help else "",
    )


def _first_word(text: str) -> tuple[str, str]:
    """The first word, or what stands in quotes, and what is behind it."""
    quoted = _QUOTED.match(text)
    if quoted is not None:
        return quoted[2], text[quoted.end() :].lstrip()
    word, *others = text.split(None, 1)
    return word, others[0] if others else ""


def _arguments(values: Namespace) -> dict[str, Any]:
    """Arguments of `trace()` from the options that were read."""
    arguments: dict[str, Any] = {"messages": not values.no_messages}
    further = {"engine": values.engine, "path": values.output, "max_bytes": values.max_size}
    arguments |= {name: value for name, value in further.items() if value}
    for _, option in options():
        value = getattr(values, option.argument)
        if isinstance(value, list):
            value = "\n".join(value)
        if option.value is None:
            arguments[option.argument] = value != option.default
        else:
            arguments[option.argument] = option.default if value is None else value
    return arguments


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CellError(f"{message}; %%modtrace --help lists the options")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="modtrace",
        usage=_USAGE.replace("%", "%%"),
        description=_ABOUT,
        add_help=False,
        allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o", dest="name", metavar="NAME", help="leave the trace in this variable (default t)"
    )
    parser.add_argument("--output", metavar="PATH", help="write the trace there while it is recorded")
    parser.add_argument(
        "-f", "--force", action="store_true", help="replace a trace, or a report, that is there"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing at the end")
    parser.add_argument(
        "--print", dest="show", metavar="WHAT", choices=("summary", "tree", "none"), default="summary",
        help="summary (default), tree or none",
    )  # fmt: skip
    parser.add_argument("--engine", metavar="NAME", help="hooks (default), or calls, which costs less")
    for _, option in options():
        text = option.help.replace("%", "%%")
        if option.value is None:
            parser.add_argument(option.flag, dest=option.argument, action="store_true", help=text)
        else:
            action = "append" if option.repeated else "store"
            parser.add_argument(
                option.flag, dest=option.argument, action=action, metavar=option.value, help=text
            )
    parser.add_argument(
        "--no-messages", action="store_true", help="keep only the types of exceptions, not their messages"
    )
    parser.add_argument(
        "--max-size", metavar="SIZE", help="stop recording at this size on disk (default 4GB)"
    )
    parser.add_argument(
        "--html", metavar="F", nargs="?", const="",
        help="write a report at the end too; --html=F names it (default: the variable's name with .html)",
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="store_true", help="show this and record nothing")
    return parser


def _inside_a_cell() -> bool:
    """True where the code of a cell is running, and has asked for another to be run."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == _RUNS_CELLS and frame.f_globals.get("__name__") == "IPython.core.interactiveshell":
            return True
        frame = frame.f_back
    return False


def _below_here(traceback: Any) -> Any:
    """A traceback without the frames of this file at its head."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


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
