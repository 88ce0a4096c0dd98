"""`modtrace run`: run a script, a module or a string as python would, and record its module calls."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from modtrace.capture.debugger.prompt_signs import SIGNS
from modtrace.capture.engine.engines import HOOKS, checked_engine
from modtrace.capture.mechanisms.break_conditions import for_rank
from modtrace.capture.recorders import options
from modtrace.cli import live_run
from modtrace.cli.chosen_trace import memory_limit
from modtrace.cli.options import Option, ParsedOptions, Verb, lacks_value, parse
from modtrace.errors import UsageError
from modtrace.export.target import refuse_existing
from modtrace.launch import run_script, session
from modtrace.launch.rank import Launch, default_path, launch
from modtrace.launch.run_script import Target
from modtrace.launch.session import Session
from modtrace.systems.open_files import NOT_PRIVATE, keeps_others_out, path_from_here
from modtrace.systems.terminals import is_console
from modtrace.text import plain
from modtrace.trace import onlooker
from modtrace.trace.folder import create
from modtrace.trace.run_json import run_facts
from modtrace.trace.shared_folder import enter
from modtrace.trace.size_limit import size_bytes

OPTIONS: Final = (
    Option(("-o", "--output"), "PATH", "where to write the trace (default: ./NAME-DATE-TIME.mtrace)"),
    Option(("-f", "--force"), None, "replace a trace, or a report, that is there"),
    Option(("-q", "--quiet"), None, "print only where the trace was saved"),
    Option(("--print",), "WHAT", "summary (default), tree or none"),
    Option(
        ("--engine",),
        "NAME",
        "hooks (default), or calls: Module.__call__ itself is replaced, which costs less",
    ),
    *(Option((option.flag,), option.value, option.help, repeated=option.repeated) for _, option in options()),
    Option(("--break-rank",), "N", "rank of the job that --break stops in (default 0)"),
    Option(
        ("--html",),
        "F",
        "write a report at the end too; --html=F names it (default: the trace's name with .html)",
        optional=True,
    ),
    Option(("--open",), None, "show that report in a browser"),
    Option(("--no-messages",), None, "keep only the types of exceptions, not their messages"),
    Option(
        ("--max-size",),
        "SIZE",
        "how large the trace may get on disk (default 4GB): as it comes near, fewer steps are kept, see --keep",
    ),
    Option(
        ("--fail-on",),
        "nan",
        "exit with 3 where the script ended well but values began to be NaN or infinite",
    ),
    Option(("--pdb",), None, "open the debugger in the failing module when an exception ends the script"),
    Option(("--live",), None, "look at it while it runs; q leaves it to itself, K stops it"),
)
NONFINITE: Final = 3
"""Exit status of `--fail-on nan`."""
_LINE: Final = "modtrace run [options] script.py | -m module | -c code  [args ...]"
_TEXT: Final = (
    "Runs the script as python would and records every module call of it. Everything behind the script's name is "
    "its own. The summary goes to stderr; stdout, exit status and tracebacks are the script's."
    + ("" if keeps_others_out() else f" {NOT_PRIVATE}")
)
VERB: Final = Verb(
    "run",
    _LINE,
    _TEXT,
    OPTIONS,
    stop=("-m", "-c"),
    examples=(
        ("modtrace run train.py --lr 1e-3", "--lr is the script's"),
        ("modtrace run --memory 0:3 train.py", "memory, steps 0 to 2"),
        ("torchrun --nproc-per-node 2 -m modtrace run train.py", "all ranks, one trace"),
    ),
    docs="docs/recording.md, docs/training.md, docs/memory.md, docs/ranks.md",
)


@dataclass(frozen=True)
class PreparedRun:
    """A run that can start: the trace's folder exists."""

    target: Target
    folder: Path
    launched: Launch
    show: str
    options: dict[str, Any]
    html: Path | None
    open: bool
    force: bool
    fail_on_nan: bool = False
    pdb: bool = False


def prepare(words: Sequence[str]) -> PreparedRun | live_run.LiveRun:
    """Read the command line and make the trace; with --live the process that is started makes it.

    Raises:
        UsageError: nothing has been started.
    """
    SIGNS.take(os.environ.pop(onlooker.VARIABLE, None))
    parsed = parse(words, VERB)
    asked = _asked(parsed)
    launched = launch()
    asked["break_on"] = for_rank(
        str(asked["break_on"] or ""), launched.rank, parsed.number("break-rank") or 0
    )
    target = _target(parsed)
    show = "saved" if parsed.on("quiet") else parsed.values.get("print", "summary")
    if show not in ("saved", "summary", "tree", "none"):
        raise UsageError(f"--print takes summary, tree or none, not {show!r}")
    fails = _fails_on_nan(parsed)
    asked["nan"] = asked["nan"] or fails
    engine = checked_engine(parsed.values.get("engine") or HOOKS)
    max_bytes = size_bytes(parsed.values.get("max-size", "4GB"))
    run_script.check(target)
    output = parsed.values.get("output")
    path = Path(os.path.abspath(output)) if output else default_path(target.stem, launched)
    html = _html(parsed, path)
    if parsed.on("live"):
        against = live_run.against(launched)
        if against is None:
            return live_run.plan(words, parsed, OPTIONS, name=target.name, trace=path)
        _write(f"modtrace: --live {against}; this is a run without it\n")
    facts = run_facts(script=target.name, argv=target.args, launch=launched.key)
    folder = _folder(path, facts, launched, force=parsed.on("force"), stem=None if output else target.stem)
    settings = {
        "rank": launched.rank,
        "engine": engine,
        "messages": not parsed.on("no-messages"),
        "max_bytes": max_bytes,
        **asked,
    }
    pdb = parsed.on("pdb") and launched.rank == (parsed.number("break-rank") or 0)
    switches = parsed.on("open"), parsed.on("force"), fails, pdb
    return PreparedRun(target, folder, launched, show, settings, html, *switches)


def _fails_on_nan(parsed: ParsedOptions) -> bool:
    """True for `--fail-on nan`.

    Raises:
        UsageError: it names something else.
    """
    condition = parsed.values.get("fail-on", "")
    if condition not in ("", "nan"):
        raise UsageError(f"--fail-on takes nan, not {plain(condition, 40)!r}")
    return condition == "nan"


def _asked(parsed: ParsedOptions) -> dict[str, bool | str | None]:
    """Values of the options of recorders, by the argument of `trace()`.

    Raises:
        UsageError: the value of one makes no sense.
    """
    asked: dict[str, bool | str | None] = {}
    for _, option in options():
        key = option.flag.lstrip("-")
        if option.value is None:
            asked[option.argument] = parsed.on(key) != option.default
        else:
            asked[option.argument] = parsed.values.get(key) or option.default
            if option.check is not None and asked[option.argument]:
                _check(option.flag, option.value, str(asked[option.argument]), option.check)
    return asked


def _check(flag: str, value: str, text: str, check: Callable[[str], object]) -> None:
    """Check the value of an option of a recorder.

    Raises:
        UsageError: it makes no sense; for a file in its place the message says what is missing in front of it.
    """
    try:
        check(text)
    except UsageError as error:
        if os.path.exists(text):
            raise UsageError(lacks_value(flag, value, text)) from None
        raise UsageError(f"{flag}: {error}") from None


def _folder(path: Path, facts: dict[str, Any], launched: Launch, *, force: bool, stem: str | None) -> Path:
    """The folder of this process in the trace at a path, or in that of its launch."""
    member = launched.membership
    if member is None:
        return create(path, facts, process=launched.folder, force=force)
    folder, trouble = enter(path, facts, member, force=force, stem=stem)
    if trouble is not None:
        _write(f"modtrace: {plain(trouble)}\n")
    return folder


def execute(prepared: PreparedRun | live_run.LiveRun) -> None:
    """Run it. Whatever the script raises goes on up."""
    if isinstance(prepared, live_run.LiveRun):
        live_run.execute(prepared)
        return
    session.OWN_FRAMES[:] = [__file__, str(Path(__file__).with_name("__init__.py")), *_entry_files()]
    with Session(
        prepared.folder,
        prepared.options,
        lambda ended: _report(prepared, ended),
        lambda: _prepare(prepared),
        (lambda traceback: _post_mortem(prepared, traceback)) if prepared.pdb else None,
    ):
        run_script.run(prepared.target)


def _target(parsed: ParsedOptions) -> Target:
    if not parsed.words:
        raise UsageError(f"what should be run? {_LINE}")
    first, arguments = parsed.words[0], parsed.words[1:]
    if first in ("-m", "-c"):
        if not arguments:
            raise UsageError(f"{first} needs {'a module' if first == '-m' else 'code'}")
        return Target("module" if first == "-m" else "code", arguments[0], tuple(arguments[1:]))
    return Target("script", first, tuple(arguments))


def _html(parsed: ParsedOptions, trace: Path) -> Path | None:
    """Where the report goes; None for nowhere. Why it cannot be written there is said before the script starts."""
    asked = parsed.values.get("html", "1" if parsed.on("open") else "")
    if asked in ("", "0", "no", "false"):
        return None
    path = trace.with_suffix(".html") if asked == "1" else Path(os.path.abspath(asked))
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"no report can be written to {plain(str(path))}")
    refuse_existing(path, force=parsed.on("force"))
    return path


def _entry_files() -> list[str]:
    """The file of the program that called us: the console script, or `python -m modtrace`."""
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return [file] if isinstance(file, str) else []


def _report(prepared: PreparedRun, ended: Session) -> None:
    """Print what is to be said at the end, to stderr. It never makes a run fail."""
    try:
        text = _text(prepared, ended)
        if text:
            _write(text if text.endswith("\n") else text + "\n")
    except Exception as fault:
        _write(f"modtrace: the summary could not be made: {type(fault).__name__}: {plain(str(fault))}\n")
    try:
        if prepared.html is not None and not prepared.launched.rank:
            _write(_write_html(prepared, prepared.html) + "\n")
    except Exception as fault:
        _write(f"modtrace: the report could not be made: {type(fault).__name__}: {plain(str(fault))}\n")
    if prepared.fail_on_nan and ended.exit_status == 0:
        _end_with_failure(prepared.folder.parent)


def _end_with_failure(trace: Path) -> None:
    """End the process with NONFINITE where the trace has a fault. Its exit functions have run: ours is the last."""
    from modtrace.analysis.nonfinite import first_fault
    from modtrace.trace.reader import open_trace

    try:
        faulty = first_fault(open_trace(trace, max_memory_bytes=memory_limit())) is not None
    except Exception as fault:
        _write(f"modtrace: --fail-on nan could not look at the trace: {type(fault).__name__}\n")
        return
    if faulty:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(NONFINITE)


def _post_mortem(prepared: PreparedRun, traceback: TracebackType) -> None:
    """Open the debugger where the script failed, with what is known of the failure above it."""
    from modtrace.capture.debugger.post_mortem import post_mortem

    try:
        from modtrace.trace.reader import open_trace
        from modtrace.views.console import failure_text

        text = failure_text(open_trace(prepared.folder.parent, max_memory_bytes=memory_limit()))
    except Exception as fault:
        text = f"modtrace: the failure could not be described: {type(fault).__name__}: {plain(str(fault))}"
    post_mortem(traceback, text)


def _write_html(prepared: PreparedRun, path: Path) -> str:
    from modtrace.cli.report import written
    from modtrace.trace.reader import open_trace

    stored = open_trace(prepared.folder.parent, max_memory_bytes=memory_limit())
    return written(stored, path, show=prepared.open, force=prepared.force)


def _prepare(prepared: PreparedRun) -> None:
    """Import what the report needs, if there will be one."""
    if prepared.launched.rank:
        return
    # The reader needs it, and python refuses to import it when it is about to end.
    import_module("concurrent.futures.thread")
    if prepared.show in ("summary", "tree"):
        import_module("modtrace.views.console")
    if prepared.html is not None:
        import_module("modtrace.cli.report")
        import_module("modtrace.views.html.report")


def _text(prepared: PreparedRun, ended: Session) -> str:
    troubles = "".join(f"modtrace: {plain(trouble)}\n" for trouble in ended.troubles)
    if prepared.show == "none" or (prepared.launched.rank and not ended.exit_status):
        return troubles
    trace = prepared.folder.parent
    shown = path_from_here(trace)
    shown = os.path.join(".", shown) if not shown.startswith("..") else str(trace)
    if prepared.show == "saved" or prepared.launched.rank:
        return f"{troubles}modtrace: saved {plain(shown)}\n"
    from modtrace.trace.reader import open_trace
    from modtrace.views import console

    stored = open_trace(trace, max_memory_bytes=memory_limit())
    style = console.style_of(sys.stderr)
    if prepared.show == "tree":
        return f"{troubles}{console.tree(stored, **style)}\nsaved {plain(shown)}\n"
    return troubles + console.summary(stored, shown_path=shown, **style)


def _write(text: str) -> None:
    """To stderr as it is now; where the script has closed or replaced it, to the descriptor, or nowhere."""
    encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
    data = text.encode(encoding, "backslashreplace")
    try:
        sys.stdout.flush()
    except Exception:  # closed by the script
        pass
    try:
        stream = sys.__stderr__
        if stream is not None and is_console(stream):
            stream.write(data.decode(encoding))
            data = b""
        if stream is not None and not stream.closed:
            stream.flush()
        while data:
            data = data[os.write(2, data) :]
    except (OSError, ValueError):
        pass
