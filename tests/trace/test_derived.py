"""What is worked out of a trace is worked out once, kept by that trace, and gone with it."""

from __future__ import annotations

import ast
import gc
import weakref
from pathlib import Path

import torch

import modtrace
from modtrace.analysis.findings import findings
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.summary import summarise
from modtrace.trace.derived import once
from modtrace.trace.reader import open_trace
from tests.places import PACKAGE


def saved(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with modtrace.trace(path=folder / "t.mtrace"):
        torch.nn.Linear(2, 2)(torch.ones(1, 2))
    return folder / "t.mtrace"


def test_each_thing_is_worked_out_once_for_each_trace_and_argument(tmp_path):
    computed = []

    @once
    def number_of(stored, size=1, *, name="a"):
        computed.append((stored.path.name, size, name))
        return len(computed)

    first, second = (open_trace(saved(tmp_path / name)) for name in ("first", "second"))
    assert [number_of(first), number_of(first), number_of(first, 2), number_of(first, name="b")] == [
        1,
        1,
        2,
        3,
    ]
    assert [number_of(second), number_of(first)] == [4, 1]
    assert [number_of(first, 1), number_of(first, size=1, name="a"), number_of(first, size=2)] == [1, 1, 2]


def test_groups_findings_and_summary_are_shared(tmp_path):
    stored = open_trace(saved(tmp_path))
    assert folded(stored) is folded(stored)
    assert folded(stored) is folded(stored, repeats=True)
    assert folded(stored, repeats=False) is not folded(stored)
    assert findings(stored) is findings(stored)
    assert summarise(stored) is summarise(stored)


def test_nothing_outlives_its_trace(tmp_path):
    stored = open_trace(saved(tmp_path))
    groups = weakref.ref(folded(stored))
    del stored
    gc.collect()
    assert groups() is None


def test_a_trace_that_grows_is_worked_out_anew():
    model = torch.nn.Linear(2, 2)
    with modtrace.trace(model) as t:
        model(torch.ones(1, 2))
        assert ", 1 call in " in t.summary()
        assert len(t.calls) == 1
        model(torch.ones(1, 2))
        assert ", 2 calls in " in t.summary()
        assert len(t.calls) == 2


def test_no_module_keeps_anything_of_traces():
    for file in (*(PACKAGE / "analysis").glob("*.py"), *(PACKAGE / "views").rglob("*.py")):
        assert "WeakKeyDictionary" not in {
            node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
        }


def test_calls_that_were_let_go_of_are_read_anew(tmp_path):
    """Their number stays known, and the second reading does not count against the memory that a trace may take."""
    path = saved(tmp_path)
    first = open_trace(path)
    calls = first.calls.values("call").tolist()
    stored = open_trace(path, max_memory_bytes=first._budget.taken_bytes)
    assert stored.calls.values("call").tolist() == calls
    stored.release()
    assert stored._calls is None
    assert stored.call_count == len(calls)
    assert stored._calls is None
    assert stored.calls.values("call").tolist() == calls
