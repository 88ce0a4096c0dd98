"""`modtrace run`: run a script, a module or a string as python would, and record its module calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from modtrace.capture import runner, session
from modtrace.capture.launch import Launch, default_path, launch
from modtrace.capture.runner import Target
from modtrace.capture.session import Session
from modtrace.capture.steps import steps_of
from modtrace.cli import live_run
from modtrace.cli.chosen import memory_limit
from modtrace.cli.options import Option, Parsed, parse, size, usage
from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.folder import create
from modtrace.trace.shared_folder import enter
from modtrace.trace.start import run_facts

OPTIONS: Final = (
    Option(("-o", "--output"), "PATH", "where to write the trace (default: ./NAME-DATE-TIME.mtrace)"),
    Option(("-f", "--force"), None, "replace a trace that stands there"),
    Option(("-q", "--quiet"), None, "print only where the trace was saved"),
    Option(("--print",), "WHAT", "summary (default), tree or none"),
    Option(
        ("--functions",), None, "record torch's functions too, below the module that calls them (main thread)"
    ),
    Option(("--no-flops",), None, "do not count FLOPs and operations"),
    Option(("--memory",), "STEPS", "watch allocations in these steps, such as 0:3"),
    Option(("--kernels",), "STEPS", "watch operators and kernels in these steps, such as 2:5"),
    Option(("--saved",), "STEPS", "count what is kept for backward in these steps, by module"),
    Option(
        ("--syncs",), None, "note where module calls wait for the device (.item(), .cpu(), nonzero); slow"
    ),
    Option(
        ("--html",),
        "F",
        "write a report at the end too (default: the trace's name with .html)",
        optional=True,
    ),
    Option(("--open",), None, "show that report in a browser"),
    Option(("--no-messages",), None, "keep only the types of exceptions, not their messages"),
    Option(("--max-size",), "SIZE", "stop recording at this size on disk (default 4GB)"),
    Option(("--live",), None, "look at it while it runs; q leaves it to itself, k stops it"),
    Option(("-h", "--help"), None, "this text"),
)
_LINE: Final = "modtrace run [options] script.py | -m module | -c code  [args ...]"
_TEXT: Final = (
    "Runs the script as python would and records every module call of it. Everything behind the script's name is\n"
    "its own. The summary goes to stderr; stdout, exit status and tracebacks are the script's."
)


@dataclass(frozen=True)
class Prepared:
    """A run that can start: the trace's folder exists."""

    target: Target
    folder: Path
    launched: Launch
    show: str
    options: dict[str, Any]
    html: Path | None
    open: bool


def prepare(words: Sequence[str]) -> Prepared | live_run.Plan:
    """Read the command line and make the trace; with --live the process that is started makes it.

    Raises:
        UsageError: nothing has been started.
    """
    parsed = parse(words, OPTIONS, stop=("-m", "-c"), verb="run")
    if parsed.on("help"):
        print(usage(_LINE, _TEXT, OPTIONS), end="")
        raise SystemExit(0)
    target = _target(parsed)
    show = "saved" if parsed.on("quiet") else parsed.values.get("print", "summary")
    if show not in ("saved", "summary", "tree", "none"):
        raise UsageError(f"--print takes summary, tree or none, not {show!r}")
    max_bytes = size(parsed.values.get("max-size", "4GB"))
    for name in ("memory", "kernels", "saved"):
        if parsed.values.get(name):
            steps_of(parsed.values[name])
    runner.check(target)
    launched = launch()
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
    options = {
        "rank": launched.rank,
        "functions": parsed.on("functions"),
        "memory": parsed.values.get("memory"),
        "kernels": parsed.values.get("kernels"),
        "saved": parsed.values.get("saved"),
        "syncs": parsed.on("syncs"),
        "flops": not parsed.on("no-flops"),
        "messages": not parsed.on("no-messages"),
        "max_bytes": max_bytes,
    }
    return Prepared(target, folder, launched, show, options, html, parsed.on("open"))


def _folder(path: Path, facts: dict[str, Any], launched: Launch, *, force: bool, stem: str | None) -> Path:
    """The folder of this process in the trace at a path, or in that of its launch."""
    member = launched.membership
    if member is None:
        return create(path, facts, process=launched.folder, force=force)
    folder, trouble = enter(path, facts, member, force=force, stem=stem)
    if trouble is not None:
        _write(f"modtrace: {plain(trouble)}\n")
    return folder


def execute(prepared: Prepared | live_run.Plan) -> None:
    """Run it. Whatever the script raises goes on up."""
    if isinstance(prepared, live_run.Plan):
        live_run.execute(prepared)
        return
    session.OWN_FRAMES[:] = [__file__, str(Path(__file__).with_name("__init__.py")), *_entry_files()]
    with Session(
        prepared.folder, prepared.options, lambda ended: _report(prepared, ended), lambda: _prepare(prepared)
    ):
        runner.run(prepared.target)


def _target(parsed: Parsed) -> Target:
    if not parsed.rest:
        raise UsageError(f"what should be run? {_LINE}")
    first, rest = parsed.rest[0], parsed.rest[1:]
    if first in ("-m", "-c"):
        if not rest:
            raise UsageError(f"{first} needs {'a module' if first == '-m' else 'code'}")
        return Target("module" if first == "-m" else "code", rest[0], tuple(rest[1:]))
    return Target("script", first, tuple(rest))


def _html(parsed: Parsed, trace: Path) -> Path | None:
    """Where the report goes; None for nowhere. A folder that is not there is told before the script starts."""
    asked = parsed.values.get("html", "1" if parsed.on("open") else "")
    if asked in ("", "0", "no", "false"):
        return None
    path = trace.with_suffix(".html") if asked == "1" else Path(os.path.abspath(asked))
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"no report can be written to {plain(str(path))}")
    return path


def _entry_files() -> list[str]:
    """The file of the program that called us: the console script, or `python -m modtrace`."""
    main: Any = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return [file] if isinstance(file, str) else []


def _report(prepared: Prepared, ended: Session) -> None:
    """Print what is to be said at the end, to stderr. It never makes a run fail."""
    try:
        text = _text(prepared, ended)
        if text:
            _write(text if text.endswith("\n") else text + "\n")
    except Exception as fault:
        _write(f"modtrace: the summary could not be made: {type(fault).__name__}: {plain(str(fault))}\n")
    try:
        if prepared.html is not None and not prepared.launched.rank:
            _write(_write_html(prepared, prepared.html))
    except Exception as fault:
        _write(f"modtrace: the report could not be made: {type(fault).__name__}: {plain(str(fault))}\n")


def _write_html(prepared: Prepared, path: Path) -> str:
    from modtrace.cli.report import written
    from modtrace.trace.reader import open_trace

    stored = open_trace(prepared.folder.parent, max_memory_bytes=memory_limit())
    return written(stored, path, show=prepared.open)


def _prepare(prepared: Prepared) -> None:
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


def _text(prepared: Prepared, ended: Session) -> str:
    troubles = "".join(f"modtrace: {plain(trouble)}\n" for trouble in ended.troubles)
    if prepared.show == "none" or (prepared.launched.rank and not ended.exit_status):
        return troubles
    trace = prepared.folder.parent
    shown = os.path.relpath(trace)
    shown = f"./{shown}" if not shown.startswith("..") else str(trace)
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
        if stream is not None and not stream.closed:
            stream.flush()
        while data:
            data = data[os.write(2, data) :]
    except (OSError, ValueError):
        pass
