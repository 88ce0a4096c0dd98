"""The seam for recorders: one file is enough, and a fault in it costs that recorder alone."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import modtrace
from modtrace.analysis.summary import summarise
from modtrace.capture import recorders
from modtrace.capture.engine.recorder import EVENTS, Recorder

TOY = Path(__file__).with_name("toy_recorder.py")
SCRIPT = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


@pytest.fixture
def toy():
    from tests.capture import toy_recorder

    recorders.register(toy_recorder.Toy)
    yield toy_recorder.Toy
    recorders.unregister("toy")


def train(steps=3):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def counts(stored):
    """Calls by step, of a trace whose blocks may have cut a step in two."""
    table = stored.table("toy").to_pydict()
    by_step: dict[int, int] = {}
    for step, calls in zip(table["step"], table["calls"], strict=True):
        by_step[step] = by_step.get(step, 0) + calls
    return by_step


def test_a_toy_is_one_short_file():
    assert len(TOY.read_text().splitlines()) < 40


def test_its_rows_are_in_the_trace(toy):
    with modtrace.trace(toy="1000") as trace:
        train()
    assert counts(trace._read()) == {0: 3, 1: 3, 2: 3}
    assert trace._read().table("gaps").num_rows == 0


def test_it_is_off_where_nobody_asks_for_it(toy):
    with modtrace.trace() as trace:
        train()
    assert trace._read().table("toy").num_rows == 0


def test_its_cost_is_in_the_summary(toy):
    with modtrace.trace(toy="1000") as with_toy:
        train()
    with modtrace.trace() as without:
        train()
    costs = with_toy._read().processes[0].end.cost_ns
    assert costs["toy"] == 7_000_000_000
    assert summarise(with_toy._read()).cost_ns >= 7_000_000_000 > summarise(without._read()).cost_ns


def test_a_fault_costs_it_alone(toy):
    with (
        pytest.warns(RuntimeWarning, match="calls are not counted") as caught,
        modtrace.trace(toy="5") as trace,
    ):
        train()
    assert len(caught) == 1
    reasons = trace._read().table("gaps").column("reason").to_pylist()
    assert reasons == ["calls are not counted from here on: ArithmeticError"]
    assert (trace.calls["kind"] == "module").sum() == 9
    assert trace._read().table("work").num_rows  # another recorder goes on
    assert "calls are not counted" in trace.summary()


@pytest.mark.parametrize("method", ["start", "install", "rows", "stop", "remove", "read"])
def test_a_fault_anywhere_in_its_life_costs_it_alone(toy, monkeypatch, method):
    def fails(self):
        raise ArithmeticError("made up")

    monkeypatch.setattr(toy, method, fails)
    with (
        pytest.warns(RuntimeWarning, match="calls are not counted") as caught,
        modtrace.trace(toy="1000") as trace,
    ):
        train()
        trace._tracer.flush()
    assert len(caught) == 1
    assert (trace.calls["kind"] == "module").sum() == 9
    assert trace._read().table("work").num_rows


def test_a_value_that_makes_no_sense_is_refused(toy):
    with pytest.raises(ValueError, match="invalid literal"), modtrace.trace(toy="many"):
        pass


def test_an_argument_that_no_recorder_has_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'toys'"):
        modtrace.trace(toys="3")


def test_its_option_is_in_the_command_line(tmp_path):
    """The option, its help, its place in the environment and its rows, in a process that has loaded the one file."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    start = f"import runpy, sys; sys.path.insert(0, {str(TOY.parent)!r}); import toy_recorder; "
    run = [
        sys.executable,
        "-c",
        start + "sys.argv = sys.argv[1:]; runpy.run_module('modtrace', run_name='__main__')",
        "modtrace",
    ]
    told = subprocess.run([*run, "run", "--help"], capture_output=True, text=True, check=True)
    assert "--toy LIMIT" in told.stdout
    assert "count calls; fail at LIMIT" in told.stdout
    words = ["run", "-q", "-o", "x.mtrace", "--toy", "99", "script.py"]
    subprocess.run([*run, *words], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "x.mtrace" / "rank-0" / "toy.arrows").stat().st_size
    stored = modtrace.load(tmp_path / "x.mtrace")._read()
    assert (
        len(stored.table("calls")) > 9
    )  # one that has not loaded the file opens it all the same, and says so
    assert any("toy" in note for note in stored.notes)


def test_arguments_of_trace_are_the_options_of_recorders():
    parameters = inspect.signature(modtrace.trace).parameters
    known = {option.argument: option.default for _, option in recorders.options()}
    assert {name: parameters[name].default for name in known} == known
    for _, option in recorders.options():
        assert f"{option.argument}: " in (modtrace.trace.__doc__ or "")


def test_each_table_has_one_recorder_that_can_be_named():
    names = [recorder.name for recorder in recorders.recorders()]
    assert len(set(names)) == len(names)
    for recorder in recorders.recorders():
        assert all(hasattr(Recorder, event) for event in EVENTS)
        assert recorder.lost


def test_recorders_are_found_without_torch():
    code = "import sys; from modtrace.capture.recorders import recorders; recorders(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
