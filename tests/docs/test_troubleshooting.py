"""docs/troubleshooting.md has a line for every message that the code can make."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import modtrace
from modtrace.errors import ModtraceError

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")

PASSED_ON = {
    "analysis/live.py": "gaps that were read",
    "api.py": "what trace/shared_folder.py says",
    "capture/debugger/post_mortem.py": "the report of the failure",
    "capture/engine/tracer.py": "gaps of recorders and carriers",
    "capture/mechanisms/counter_readings.py": "a gap that was just noted",
    "capture/mechanisms/counting_recorder.py": "names of torch that are not there",
    "capture/mechanisms/device_events.py": "names of torch that are not there, and a gap that was just noted",
    "capture/mechanisms/flight_recorder.py": "names of torch that are not there",
    "capture/mechanisms/profiler_window.py": "names of torch that are not there",
    "capture/recorders/flops.py": "what the counting says",
    "capture/recorders/functions.py": "names of torch that are not there, and what a mode says",
    "capture/recorders/saved_tensors.py": "names of torch that are not there",
    "cli/live_run.py": "an error of modtrace",
    "cli/run.py": "an error of an option, behind its name",
    "launch/interleaved_runs.py": "an error of the system, behind the name of a command",
    "magic.py": "errors of modtrace, passed on to a cell",
    "trace/follow.py": "damage that was found",
    "trace/reader.py": "damage that was found, and notes of trace/merge.py",
    "trace/validate.py": "a reason that the caller has worded: a size below zero",
    "trace/writer.py": "a failure that is raised again",
    "views/summary.py": "gaps that were read",
}
"""Files in which a message is passed on, and whose it is."""


@pytest.fixture(scope="module")
def generator():
    sys.path.insert(0, str(DOCS))
    try:
        specification = importlib.util.spec_from_file_location(
            "troubleshooting_page", DOCS / "troubleshooting_page.py"
        )
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(DOCS))


def test_page_is_up_to_date(generator):
    assert generator.page() == PAGE, "run: python docs/troubleshooting_page.py"


def test_messages_are_collected(generator):
    texts = {message.text for message in generator.messages()}
    assert len(texts) > 250
    kinds = {
        kind: sum(message.kind == kind for message in generator.messages())
        for kind in ("error", "warning", "gap")
    }
    assert min(kinds.values()) >= 5, kinds


def test_every_remedy_is_for_a_message(generator):
    used = {generator.section_of(message) for message in generator.messages()}
    written = {(title, remedy) for title, _, rows in generator.SECTIONS for _, remedy in rows}
    assert written - used == set()


def test_a_message_without_a_line_is_noticed(generator):
    message = generator.Message("the moon is full", "warning", "api.py")
    with pytest.raises(LookupError, match="the moon is full"):
        generator.section_of(message)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: modtrace.load(folder / "absent.mtrace"),
        lambda folder: modtrace.trace("text"),
        lambda folder: modtrace.trace(memory="soon"),
        lambda folder: modtrace.trace().calls,
        lambda folder: modtrace.check([], "step<"),
        lambda folder: modtrace.trace(engine="steam").__enter__(),
    ],
)
def test_messages_that_are_seen_are_on_the_page(make, tmp_path, generator):
    """The collector reads code; these come out of the running program."""
    with pytest.raises(ModtraceError) as raised:
        make(tmp_path)
    assert any(matches(message.text, str(raised.value)) for message in generator.messages())


def matches(template, text):
    parts, at = template.split("..."), 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
    return sum(map(len, parts)) > 8


def test_a_warning_and_a_gap_that_are_seen_are_on_the_page(generator):
    layer = torch.nn.Linear(2, 2)
    with (
        pytest.warns(RuntimeWarning, match="goes on unrecorded") as caught,
        modtrace.trace(max_bytes=30_000) as t,
    ):
        for _ in range(40):
            for _ in range(500):
                layer(torch.ones(1, 2))
            assert t.calls is not None  # what was recorded is written when it is looked at
    known = {kind: [m.text for m in generator.messages() if m.kind == kind] for kind in ("warning", "gap")}
    assert any(matches(text, str(caught[0].message)) for text in known["warning"])
    assert len(t.gaps) > 0
    for reason in t.gaps["reason"]:
        assert any(matches(text, reason) for text in known["gap"]), reason


def test_what_is_only_passed_on_is_known(generator):
    """A file that makes a message out of nothing that can be read here is one of these, with the reason."""
    assert set(generator.untold()) == set(PASSED_ON)
