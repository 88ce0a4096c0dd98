# ruff: noqa: E501
"""Thousands of damaged traces through everything: one clear refusal or an answer that can be true, never a traceback.

`MODTRACE_FUZZ` is how many are tried (200 unless told, in a long run 5,000), `MODTRACE_FUZZ_FIRST` with which to begin.
A seed makes the same damage every time: `MODTRACE_FUZZ_FIRST=1234 MODTRACE_FUZZ=1 pytest tests/fuzz`.
"""

from __future__ import annotations

import os
import traceback
import warnings

import pytest

import modtrace
from modtrace.errors import ModtraceError
from modtrace.trace.reader import open_trace
from tests.fuzz.exercise import exercise
from tests.fuzz.mutate import Image, mutated
from tests.fuzz.traces import TRACES

COUNT = int(os.environ.get("MODTRACE_FUZZ", "200"))
FIRST = int(os.environ.get("MODTRACE_FUZZ_FIRST", "0"))
GROUPS = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name, make in TRACES.items():
        make(folder / f"{name}.mtrace")
        found[name] = Image(folder / f"{name}.mtrace")
    return found


def table(path):
    """What is known of each call, as text: numbers of rows and keys may differ."""
    columns = [
        "name",
        "type",
        "kind",
        "phase",
        "inputs",
        "outputs",
        "status",
        "error",
        "duration_ns",
        "self_ns",
        "flops",
        "step",
    ]
    return modtrace.load(path).calls[columns].astype(str).to_csv()


def test_whole_traces_are_opened(images, tmp_path):
    """What is damaged is there to begin with: a fuzz of empty traces would find nothing."""
    for name, image in images.items():
        image.write(tmp_path / "t.mtrace")
        stored = exercise(tmp_path / "t.mtrace")
        assert stored is not None, name
        assert stored.table("calls").num_rows > 3
    filled = {
        file for image in images.values() for content in image.folders.values() for file, data in content.items()
        if file.endswith(".arrows") and len(data)
    }  # fmt: skip
    assert {
        f"{one}.arrows"
        for one in ("calls", "open", "modules", "names", "signatures", "labels", "errors", "gaps")
    } <= filled
    assert {
        f"{one}.arrows" for one in ("work", "saved", "syncs", "allocations", "operators", "watched")
    } <= filled


@pytest.mark.parametrize("group", range(GROUPS))
def test_damaged_traces(images, tmp_path, group):
    names = list(images)
    path = tmp_path / "t.mtrace"
    wrong: list[str] = []
    opened = refused = neutral = 0
    for seed in range(FIRST + group, FIRST + COUNT, GROUPS):
        name = names[seed % len(names)]
        damaged = mutated(images[name], seed)
        damaged.write(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                stored = exercise(path)
                if damaged.neutral:
                    neutral += 1
                    images[name].write(tmp_path / "whole.mtrace")
                    assert stored is not None, "rows in another order were refused"
                    assert table(path) == table(tmp_path / "whole.mtrace"), (
                        "rows in another order say something else"
                    )
        except Exception as fault:
            last = traceback.extract_tb(fault.__traceback__)[-1]
            where = [
                frame for frame in traceback.extract_tb(fault.__traceback__) if "/modtrace/" in frame.filename
            ]
            at = where[-1] if where else last
            wrong.append(
                f"seed {seed} ({name}): {damaged.notes}\n    {type(fault).__name__}: {str(fault)[:300]}\n    {at.filename}:{at.lineno} {at.name}"
            )
        opened += stored is not None if not wrong else 0
        refused += stored is None if not wrong else 0
    assert not wrong, f"{len(wrong)} of {COUNT // GROUPS}:\n" + "\n".join(wrong)
    if COUNT >= 200:
        assert min(opened, refused) >= COUNT // GROUPS // 10, "both outcomes are tried"


@pytest.mark.parametrize("name", TRACES)
def test_no_process_folder(images, tmp_path, name):
    image = images[name].copy()
    image.folders.clear()
    image.write(tmp_path / "t.mtrace")
    with pytest.raises(ModtraceError, match="process"):
        open_trace(tmp_path / "t.mtrace")
    assert exercise(tmp_path / "t.mtrace") is None
