"""Runs blocks of code of pages, each in a fork of a process that has imported torch: half a second in place of four.

It reads a line of JSON a block from standard input: `{"folder": ..., "words": [...]}` for a command of modtrace (or
`python`), `{"folder": ..., "code": ...}` for Python. For each it writes one: `[exit status, stdout, stderr]`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import pandas as pd  # noqa: F401 - imported once, for all
import pyarrow as pa  # noqa: F401

import modtrace.capture.engine.tracer
import modtrace.views.console


def main() -> tuple[list[str], str | None] | None:
    """Serve; returns in a fork only, with what that is to run."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        block = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.chdir(block["folder"])
                return block.get("words", []), block.get("code")
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            texts = [_text(file) for file in (out, err)]
        answers.write(json.dumps([status, *texts]) + "\n")
        answers.flush()
    return None


def _text(file) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


if __name__ == "__main__" and (asked := main()) is not None:
    words, code = asked
    sys.path[0] = ""
    if code is not None:
        sys.argv[:] = ["-c"]
        exec(compile(code, "<block>", "exec"), {"__name__": "__main__"})
    elif words[0] == "python":
        import runpy

        sys.argv[:] = words[1:]
        runpy.run_path(words[1], run_name="__main__")
    else:
        from modtrace.cli import main as modtrace

        modtrace(words[1:])
