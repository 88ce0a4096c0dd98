"""`PYTHONBREAKPOINT`: another debugger is called with the frame of a forward or its caller; what a stop leaves."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch

import modtrace
from modtrace.capture.engine.pauses import Pauses
from tests.debugging import other_debugger


class Double(torch.nn.Module):
    def forward(self, x, *, shift=0):
        doubled = x * 2
        return doubled + shift


class Chain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.twice = torch.nn.Linear(3, 3), Double()

    def forward(self, x):
        return self.twice(self.fc(x), shift=1)


@pytest.fixture(autouse=True)
def other(monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "tests.debugging.other_debugger.set_trace")
    other_debugger.STOPS.clear()
    other_debugger.ACTIONS.clear()
    tracer = sys.gettrace()
    yield other_debugger
    assert sys.gettrace() is tracer


def train(model, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_it_is_called_in_the_frame(other, engine):
    with modtrace.trace(break_on=["twice and step=1", "fc and step=2 and duration>0ns"], engine=engine):
        train(Chain())
    (before, inside), (after, around) = other.STOPS
    assert (before, type(inside.f_locals["self"])) == ("forward", Double)
    assert (after, type(around.f_locals["self"])) == ("forward", Chain)


def test_one_that_takes_no_frame(monkeypatch, other):
    monkeypatch.setenv("PYTHONBREAKPOINT", "tests.debugging.other_debugger.without_frame")
    with modtrace.trace(break_on="twice and step=1"):
        train(Chain())
    assert other.STOPS == [("", None)]


def test_nothing_stops_where_it_is_switched_off(monkeypatch, other):
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    with modtrace.trace(break_on="twice") as trace:
        train(Chain())
        modtrace.breakpoint()
    assert not other.STOPS
    assert (trace.calls["kind"] == "module").sum() == 9


def test_one_that_cannot_be_imported_is_said(monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "no.such_debugger")
    with pytest.warns(RuntimeWarning, match="no.such_debugger"), modtrace.trace(break_on="twice"):
        train(Chain())


@pytest.mark.parametrize("engine", ["hooks", "calls"])
@pytest.mark.parametrize("expression", ["twice and step=1", "fc and step=1 and duration>0ns"])
def test_time_at_a_prompt_is_in_no_number(monkeypatch, other, engine, expression):
    """An hour passes while a person is asked."""
    real, asleep = time.perf_counter_ns, [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: real() + asleep[0])

    def sleep(frame):
        asleep[0] += 3600 * 10**9

    other.ACTIONS.append(sleep)
    with modtrace.trace(break_on=expression, engine=engine) as trace:
        train(Chain(), steps=6)
    assert len(other.STOPS) == 1
    minute = 60 * 10**9
    calls, steps = trace.calls, trace.steps
    assert calls["duration_ns"].max() < minute
    assert (calls["start_ns"] + calls["duration_ns"]).max() < minute
    assert steps["duration_ns"].sum() < minute
    assert not steps.loc[1, "in_statistics"]
    assert steps["in_statistics"].any()
    assert trace.run.wall_ns < minute


def test_time_at_a_breakpoint_in_the_code_is_in_no_statistic(monkeypatch, other):
    real, asleep = time.perf_counter_ns, [0]
    monkeypatch.setattr(time, "perf_counter_ns", lambda: real() + asleep[0])

    def sleep(frame):
        asleep[0] += 3600 * 10**9

    class Stops(Double):
        def forward(self, x):
            modtrace.breakpoint("step=3")
            return x * 2

    other.ACTIONS.append(sleep)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Stops())
    with modtrace.trace() as trace:
        train(model, steps=6)
    assert [name for name, _ in other.STOPS] == ["forward"]
    steps = trace.steps
    assert not steps.loc[3, "in_statistics"]
    assert steps[steps["in_statistics"]]["duration_ns"].max() < 60 * 10**9


def test_two_threads_that_stop_at_once(other):
    """One goes on while a person still looks at the other: until that goes on too, no step counts."""
    both, goes_on, results = threading.Barrier(2), threading.Event(), []

    def look(frame):
        both.wait(60)
        if threading.current_thread().name == "second":
            assert goes_on.wait(60)

    def call(model):
        results.append(model(torch.ones(2, 3)))

    other.ACTIONS.append(look)
    first, second = (
        threading.Thread(target=call, args=(Chain(),), name=name) for name in ("first", "second")
    )
    model = torch.nn.Linear(3, 3)
    with modtrace.trace(break_on="twice", flops=False) as trace:
        train(model, steps=3)
        for thread in (first, second):
            thread.start()
        first.join()
        train(model, steps=3)
        goes_on.set()
        second.join()
        train(model, steps=3)
    assert len(other.STOPS) == len(results) == 2
    counts = trace.steps["in_statistics"].tolist()
    assert counts == [False, True, True, False, False, False, False, True, True]


def test_calls_at_a_prompt_are_not_recorded(other):
    model = Chain()
    other.ACTIONS.append(lambda frame: model(torch.ones(1, 3)))
    with modtrace.trace(break_on="twice and step=1") as trace:
        train(model)
    assert len(other.STOPS) == 1
    assert (trace.calls["kind"] == "module").sum() == 9


def test_results_are_those_of_a_run_that_does_not_stop(other):
    def result(**options):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(), Chain())
        with modtrace.trace(**options):
            train(model)
        return [*model.state_dict().values(), torch.random.get_rng_state()]

    plain, stopped = result(), result(break_on=["nan", "Dropout", "shape~[9]", "duration>0ns"], watch="*")
    assert all(torch.equal(first, second) for first, second in zip(plain, stopped, strict=True))
    assert len(other.STOPS) > 9


def test_modules_that_nothing_matches_are_left_alone(other, monkeypatch):
    from modtrace.capture.mechanisms import breaking

    asked = []
    original = breaking.Breaking._facts

    def facts(self, known, *rest):
        asked.append(known)
        return original(self, known, *rest)

    monkeypatch.setattr(breaking.Breaking, "_facts", facts)
    with modtrace.trace(break_on="fc and step=99"):
        train(Chain())
    assert {known.names.shown for known in asked} == {"fc"}
    assert len(asked) == 3


def test_the_clock_stands_still_in_a_pause():
    now = [0]
    pauses = Pauses(lambda: now[0])
    seen = []
    begin, end = pauses.begin, pauses.end
    for moment, action in (
        (5, None),
        (10, begin),
        (50, begin),
        (70, None),
        (90, end),
        (95, end),
        (100, None),
    ):
        now[0] = moment
        if action is not None:
            action()
        seen.append(pauses.clock())
    assert seen == [5, 10, 10, 10, 10, 15, 20]


def test_a_condition_that_makes_no_sense_is_refused():
    with pytest.raises(modtrace.UsageError, match="did you mean step=3"):
        modtrace.trace(break_on="stpe=3")
    with modtrace.trace(), pytest.raises(modtrace.UsageError, match="known inside of a call"):
        modtrace.breakpoint("duration>1s")
