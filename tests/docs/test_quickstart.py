"""docs/quickstart.md: each command and each piece of code is run, in order, and shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import page_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "quickstart.md"


def blocks():
    """The blocks of code of the page, in order."""
    return page_blocks.blocks(PAGE)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each command line and each piece of code printed: command or code -> (exit status, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "examples").symlink_to(ROOT / "examples")
    served, found = page_blocks.Server(), {}
    for block in blocks():
        if block.language == "python":
            found[block.text] = served.ask(folder=str(folder), code=block.text)
            continue
        for line in page_blocks.commands(block):
            assert line.startswith("modtrace ")
            found[line] = served.ask(folder=str(folder), words=line.split())
    served.end()
    return found


def test_everything_runs(outputs):
    fails = [block.text.strip() for block in blocks() if block.status == 1]
    assert len(fails) == 1
    assert len(outputs) > 10
    for command, (status, _, stderr) in outputs.items():
        assert status == (1 if command in fails else 0), (command, stderr)


def test_the_summary_has_the_lines_that_are_explained(outputs):
    _, stdout, stderr = outputs["modtrace run -o first.mtrace examples/lenet.py"]
    assert stdout.count("epoch ") == 4
    assert "exit 0" in stderr
    assert "  STEP  median" in stderr
    assert "  WHERE THE TIME WENT, a step" in stderr or "  TIME OF A STEP" in stderr
    assert re.search(r"layer1\.conv1 +Conv2d", stderr)


def test_views_show_what_is_said_of_them(outputs):
    assert "layer3" in outputs["modtrace view first.mtrace"][1]
    assert "f32[64,6,28,28]" in outputs["modtrace info first.mtrace --tree"][1]
    assert re.search(r"convolution", outputs["modtrace info first.mtrace --operations"][1])
    assert "peak" in outputs["modtrace info memory.mtrace --memory"][1]
    code = next(text for text in outputs if "groupby" in text)
    assert "layer2.conv2" in outputs[code][1]


def test_two_runs_of_one_script_differ_in_nothing_that_counts(outputs):
    text = outputs["modtrace diff first.mtrace second.mtrace"][1]
    assert "one run a side" in text
    assert "FLOPs" not in text
    assert "STRUCTURE" not in text or "same" in text


def test_a_fault_is_told(outputs):
    status, _, stderr = outputs["modtrace run -o broken.mtrace examples/broken_lenet.py"]
    assert status == 1
    assert "WHERE IT FAILED" in stderr
    assert "layer3.fc2" in stderr
