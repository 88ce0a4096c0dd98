"""The blocks of code of README and docs, and how each is to be run.

A comment in front of a block says what is special about it, and is not shown to readers:

    <!-- exit 1 -->               the command ends with this status
    <!-- not run: REASON -->      it is not run; the reason is one of NOT_RUN

A block without a language, behind a block of commands, is what the last of these printed: see `missing_lines`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NOT_RUN = {
    "installs": "it would change the environment that the tests run in; CI does it in a fresh one",
    "other machines": "it needs a cluster, a container or a second shell",
    "terminal": "it draws on a terminal or asks at a prompt; tests of views and debugging drive one",
    "GPU": "it needs a GPU",
    "long": "it takes minutes",
    "verdict": "how it ends depends on how fast the machine is; tests of comparing play the times",
    "drawing": "a drawing",
    "framework": "it needs a model and data of a training framework; tests/integrations has both",
    "other program": "a file that another program reads",
    "other run": "printed by a run whose numbers the text speaks of; a test of that view makes its own",
    "syntax": "the form of a command, with [] around what may be left out; the page of options is generated",
}

TESTED_ELSEWHERE = {
    "docs/quickstart.md": "tests/docs/test_quickstart.py",
    "docs/data.md": "tests/docs/test_data_page.py",
    "docs/command-line.md": "tests/docs/test_command_line_page.py",
    "docs/python.md": "tests/docs/test_python_page.py",
    "docs/debugging.md": "tests/debugging/test_page.py",
    "docs/scale.md": "tests/docs/test_scale_page.py",
}


@dataclass(frozen=True)
class Block:
    """A block of code: its first line in the page, language ("" for none), text, and the comment in front of it."""

    line: int
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str | None:
        """Why it is not run; None for a block that is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def status(self) -> int:
        return int(self.note.removeprefix("exit ")) if self.note.startswith("exit ") else 0


def pages() -> list[Path]:
    """README, the pages of docs and of its folders."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n+)?"
    r"(?:^```(?P<language>\w*)[^\n]*\n(?P<fenced>.*?)^```$"
    r"|(?<=\n\n)(?P<indented>(?:    [^\n]*\n(?:\n(?=    ))?)+))",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order. Indented ones are commands."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        indented = match["indented"]
        found.append(
            Block(
                line=text[: match.start()].count("\n") + 1,
                language="sh" if indented else match["language"],
                text=textwrap.dedent(indented) if indented else match["fenced"],
                note=match["note"] or "",
            )
        )
    return found


def commands(block: Block) -> list[str]:
    """The command lines of a block, joined where they go on, without comments."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


class Server:
    """A process that runs blocks in forks of itself."""

    def __init__(self):
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "docs" / "block_server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **block):
        self.process.stdin.write(json.dumps(block) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.communicate()


_NUMBER = re.compile(
    r"[<+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?\s*(?:[kMGTP]?(?:FLOP(?:/s)?\b|i?B\b)|ns\b|us\b|ms\b|s\b|%)?"
)


def without_numbers(line: str) -> str:
    """A line with `#` for each number and its unit, without bars: what is the same on every machine."""
    line = re.sub(r"(?<!\S)[#█▉▊▋▌▍▎▏]+(?!\S)", "", line)
    return " ".join(_NUMBER.sub("# ", line).split())


def missing_lines(shown: str, printed: str) -> list[str]:
    """Lines that were not printed. Numbers may differ; `...` stands for lines, or the end of one, left out.

    Of a line of a table the first column is looked for: how wide the others are, and which of them have room, depends
    on how fast the machine is.
    """
    there = [_first_column(line) for line in printed.splitlines()]
    lines = [line for line in shown.splitlines() if line.strip() not in ("", "...")]
    return [line for line in lines if not _is_among(line, there)]


def _first_column(line: str) -> str:
    line = line.strip().replace(
        "TIME OF A STEP", "WHERE THE TIME WENT, a step"
    )  # the same table, where names are long
    return without_numbers(re.split(r"\s{2,}", line)[0])


def _is_among(line: str, there: list[str]) -> bool:
    if line.endswith("..."):
        begin = _first_column(line.removesuffix("..."))
        return any(other.startswith(begin) for other in there)
    return _first_column(line) in there
