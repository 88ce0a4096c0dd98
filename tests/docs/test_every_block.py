"""Every block of code of README and docs is run, prints what the page shows, or has a reason that is written down."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from modtrace.cli import VERBS
from modtrace.cli.options import Verb
from tests.docs.page_blocks import (
    NOT_RUN,
    ROOT,
    TESTED_ELSEWHERE,
    Server,
    blocks,
    commands,
    missing_lines,
    name_of,
    pages,
    without_numbers,
)

NAMES = """\
import torch
from torch import nn

class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        blocks = [nn.ModuleDict({"mlp": nn.Linear(4, 4)}) for _ in range(3)]
        self.layers = nn.ModuleList(blocks)

    def forward(self, x):
        for layer in self.layers:
            x = layer["mlp"](x)
        return x

model = Layers()
x = torch.ones(2, 4)
loader = [(x, x)] * 4
criterion = nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

def train(steps):
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(x), x).backward()
        optimizer.step()
"""
"""Names that code in a page takes for granted."""

RUN_PAGES = [page for page in pages() if name_of(page) not in TESTED_ELSEWHERE]


def blocks_that_run(page):
    return [block for block in blocks(page) if block.reason is None]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server, and a folder as a reader has it: train.py, and traces of it."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.mtrace", "__pycache__")
    )
    lenet = (ROOT / "examples" / "lenet.py").read_text(encoding="utf-8")
    (folder / "train.py").write_text(lenet.replace("make_digits(512)", "make_digits(128)"), encoding="utf-8")
    served = Server()
    status, _, errors = served.ask(
        folder=str(folder), words=["modtrace", "run", "-q", "-o", "run.mtrace", "train.py"]
    )
    assert status == 0, errors
    yield served, folder
    served.end()


@pytest.fixture
def reader(server, tmp_path):
    """What runs a command line or code in the reader's folder of this page."""
    served, template = server
    folder = tmp_path / "reader"
    shutil.copytree(template, folder, symlinks=True)
    for name in ("old", "new", "run-1", "run-2", "a-1", "a-2", "b-1", "b-2"):
        shutil.copytree(folder / "run.mtrace", folder / f"{name}.mtrace")
    return functools.partial(served.ask, folder=str(folder))


def ended(reader, line):
    """Exit status and what a command line printed; a pipe or a redirection goes through a shell."""
    words = shlex.split(line)
    assert words[0] in ("modtrace", "python"), f"{line}: a program that is not run here"
    target = None
    if ">" in words:
        at = words.index(">")
        words, target = words[:at], words[at + 1]
    folder = Path(reader.keywords["folder"])
    words = [
        found
        for word in words
        for found in (sorted(path.name for path in folder.glob(word)) if "*" in word else [word])
    ]
    status, out, errors = reader(words=words)
    if target is not None:
        (folder / target).write_text(out, encoding="utf-8")
    return status, out + errors


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [page for page in RUN_PAGES if blocks_that_run(page)], ids=name_of)
def test_blocks_of(page, reader):
    printed = ""
    for block in blocks_that_run(page):
        place = f"{name_of(page)}:{block.line}"
        if block.language == "python":
            status, out, errors = reader(code=NAMES + block.text)
            assert status == block.status, (place, errors)
            printed = out + errors
        elif block.language == "sh":
            for line in commands(block):
                status, printed = ended(reader, line)
                assert status == block.status, (place, line, printed)
        else:
            assert block.language in ("", "text"), place
            assert missing_lines(block.text, printed) == [], (place, printed)


def test_reasons_are_few_and_used():
    used = [block.reason for page in pages() for block in blocks(page) if block.reason]
    assert set(used) == set(NOT_RUN)
    every = [block for page in pages() for block in blocks(page)]
    assert len(every) > 100
    assert len(used) < len(every) / 3


def test_notes_are_known():
    notes = {block.note for page in pages() for block in blocks(page)}
    known = re.compile(r"|exit \d+|not run: (" + "|".join(NOT_RUN) + ")")
    assert [note for note in notes if not known.fullmatch(note)] == []


@pytest.mark.parametrize(("page", "test"), TESTED_ELSEWHERE.items())
def test_a_page_with_a_test_of_its_own_is_read_there(page, test):
    text = (ROOT / test).read_text(encoding="utf-8")
    assert Path(page).name in text


def test_python_that_is_not_run_can_be_parsed():
    for page in pages():
        for block in blocks(page):
            if block.language == "python":
                ast.parse(block.text)


def verb(name) -> Verb:
    return import_module(f"modtrace.cli.{name}").VERB


def lines_of_modtrace():
    """(place, words) of each command of modtrace in a block or in code font of a page."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        written = re.findall(r"`((?:modtrace|[\w.-]+ [^`\n]*-m modtrace) [^`\n]+)`", prose)
        written += [line for block in blocks(page) if block.language == "sh" for line in commands(block)]
        for line in written:
            match = re.search(r"(?:^|\s)modtrace (.*)", line)
            if match:
                yield f"{name_of(page)}: {line}", re.findall(r"'[^']*'|[^\s']+", match[1].replace("\\|", "|"))


def test_every_command_and_option_that_is_named_is_there():
    """Those in running text and in tables too, which are not run."""
    seen, wrong = 0, []
    for place, words in lines_of_modtrace():
        seen += 1
        if words[0] not in VERBS:
            if words[0] not in ("help", "COMMAND", "--help", "--version", "itself") and not words[0].endswith(
                ".mtrace"
            ):
                wrong.append(place)
            continue
        options = {name for option in verb(words[0]).options for name in option.names} | {"--help", "-h"}
        for word in words[1:]:
            if words[0] == "run" and re.match(r"[\w./]+\.py$|-m$|-c$|script", word):
                break
            asked = re.match(r"\[?(--[\w-]+|-[a-zA-Z]\b)", word)
            if asked and asked[1] not in options:
                wrong.append(f"{place}: {asked[1]}")
    assert seen > 150
    assert wrong == []


def test_what_is_the_same_on_every_machine():
    shown = "  conv.0  Conv2d       33.4 ms  46.4  18.9 ms  14.5 ms  f32[8,128,9,9]\n...\nforward ### 60.2%"
    printed = "forward #### 58%\n  conv.0  Conv2d   933 us  <0.1  1.9 ms   145 us  f32[8,128,9,9]\n"
    assert missing_lines(shown, printed) == []
    assert missing_lines(shown.replace("conv.0", "conv.a"), printed) == [
        shown.splitlines()[0].replace("conv.0", "conv.a")
    ]
    assert without_numbers("peak 1.5 GiB at 3,000 FLOP/s") == "peak # at # "[:-1]
