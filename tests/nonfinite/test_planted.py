"""The producer of each planted fault is named, and no healthy twin is accused."""

from __future__ import annotations

import pytest

import modtrace
from modtrace.analysis.nonfinite import first_fault, nonfinite
from modtrace.views.models.nonfinite_texts import head
from tests.nonfinite.planted import FAULTS, Fault

ENGINES = ("hooks", "calls")


def test_there_are_as_many_as_promised():
    places = [fault.place for fault in FAULTS]
    assert len(FAULTS) >= 40
    assert places.count("backward") >= 10


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_producer_is_named(fault: Fault, engine: str, capsys):
    with modtrace.trace(nan=True, engine=engine) as trace:
        fault.run(True)
    entry = first_fault(trace._read())
    assert entry is not None
    text = head(entry)
    assert (entry.place, entry.module, fault.says in text) == (fault.place, fault.module, True), text
    if fault.step is not None:
        assert entry.step == fault.step, text
    assert capsys.readouterr().err.count(" began") == 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_its_healthy_twin_is_not_accused(fault: Fault, capsys):
    with modtrace.trace(nan=True) as trace:
        fault.run(False)
    assert first_fault(trace._read()) is None
    assert not nonfinite(trace._read())
    assert "began" not in capsys.readouterr().err
