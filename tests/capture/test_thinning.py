"""Steps that are left out before they are written (`--keep`), against the same program with all of them.

Which steps are remarkable depends on the clock, so no test says which steps are there: those that must be are there,
what is there is as it would be with all, and all numbers are those of the whole run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.rollups import UNKNOWN, rollup
from modtrace.analysis.statistics import chosen_steps
from modtrace.analysis.summary import summarise
from modtrace.analysis.thinned_steps import every_of, thinned_text
from modtrace.analysis.timeline import timeline
from modtrace.capture.engine.thinning import FIRST_STEPS, SLOWEST, Thinning
from modtrace.capture.mechanisms import step_numbers
from modtrace.capture.recorders.rollups import every_of_keep
from modtrace.errors import UsageError
from modtrace.trace.reader import open_trace

CALL_COLUMNS = ["kind", "name", "type", "phase", "depth", "inputs", "outputs", "status", "thread"]
STEPS = 160
ODD = (77, 123)
"""Steps with a batch of another shape."""


class Net(nn.Module):
    """Calls one module several times, and one in every third step alone."""

    def __init__(self):
        super().__init__()
        self.often, self.seldom = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4)
        self.number = 0

    def forward(self, x):
        self.number += 1
        for _ in range(self.number % 2 + 1):
            x = self.often(x)
        return self.seldom(x) if self.number % 3 == 0 else x


def by_optimizer(step, net, stepping):
    net(torch.ones(3 if step in ODD else 2, 4)).sum().backward()
    stepping.step()
    stepping.zero_grad()


def by_mark(step, net, _):
    with modtrace.span("iteration"), torch.no_grad():
        net(torch.ones(3 if step in ODD else 2, 4))
    modtrace.step()


def by_root(step, net, _):
    with torch.no_grad():
        net(torch.ones(3 if step in ODD else 2, 4))


def run(loop, *, flush_at=(), steps=STEPS, **options):
    torch.manual_seed(0)
    net = Net()
    stepping = torch.optim.SGD(net.parameters(), 0.1) if loop is by_optimizer else None
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with modtrace.trace(**options) as trace:
            for step in range(steps):
                loop(step, net, stepping)
                if step in flush_at:
                    trace._tracer.flush()
    return trace


LOOPS = {"optimizer": by_optimizer, "mark": by_mark, "root": by_root}


@pytest.fixture(scope="module", params=LOOPS)
def runs(request):
    """A run with all steps, and the same with each 20th, in which blocks end within and between steps."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "root":
            patched.setattr(step_numbers, "optimizers_exist", lambda: False)
        loop = LOOPS[request.param]
        yield run(loop, keep="all"), run(loop, keep=20, flush_at=(3, 31, 32, 100, 101, 102))


def steps_of(trace):
    return timeline(trace._read()).steps[0]


def test_steps_keep_their_numbers(runs):
    whole, thin = map(steps_of, runs)
    assert (thin.by, len(thin)) == (whole.by, len(whole)) == (whole.by, STEPS)
    assert whole.recorded.all()
    kept = set(np.flatnonzero(thin.recorded).tolist())
    assert set(range(FIRST_STEPS)) | set(range(0, STEPS, 20)) | {ODD[0]} <= kept
    assert len(kept) < STEPS / 2


def test_what_is_recorded_is_as_if_all_were(runs):
    whole, thin = (trace.calls for trace in runs)
    recorded = np.flatnonzero(steps_of(runs[1]).recorded).tolist()
    assert set(thin["step"].dropna().unique()) == set(recorded)
    for step in recorded:
        rows, expected = (
            calls[calls["step"] == step][CALL_COLUMNS].astype(str).values.tolist() for calls in (thin, whole)
        )
        assert rows == expected, step
        assert len(rows) > 2


def test_modules_have_the_totals_of_all_steps(runs):
    whole, thin = runs
    calls = {}
    for trace in runs:
        rows = trace.rollups[trace.rollups["kind"] == "module"] if trace is thin else None
        if rows is not None:
            calls[trace] = rows.groupby("name")["calls"].sum().to_dict()
        else:
            rows = trace.calls[(trace.calls["kind"] == "module") & trace.calls["step"].notna()]
            calls[trace] = rows.groupby("name", observed=True).size().to_dict()
    assert calls[whole] == calls[thin]
    assert sum(calls[thin].values()) > 4 * STEPS


def test_views_say_which_steps_are_there(runs):
    stored = runs[1]._read()
    steps, (stretch, *_) = steps_of(runs[1]), stored.table("thinned").to_pylist()
    text = thinned_text(stored, 0)
    assert text.startswith(f"steps {stretch['first_step']} to ")
    assert ": 1 in 20 in full" in text
    for view in (runs[1].summary(width=200), repr(runs[1])):
        assert text in view
    assert f"{STEPS - int(steps.recorded.sum())} not recorded in full" in chosen_steps(stored, 0).text
    assert thinned_text(runs[0]._read(), 0) == ""


def test_a_step_that_was_left_out_is_no_step_with_nothing_in_it(runs):
    whole, thin = runs
    steps = steps_of(thin)
    assert thin.steps.index.tolist() == np.flatnonzero(steps.recorded).tolist()
    assert (thin.steps["calls"] == whole.steps["calls"].loc[thin.steps.index]).all()
    assert not (chosen_steps(thin._read(), 0).steps & ~steps.recorded).any()
    every = thin.steps["every"]
    assert (every.loc[: FIRST_STEPS - 1] == 1).all()
    assert (every.loc[range(40, STEPS, 20)] == 20).all()
    assert every.loc[list(ODD[:1])].isna().all()
    assert not thin.steps["in_statistics"][every.isna()].any(), "the others are what is usual"
    assert (thin.series("often")["every"].fillna(0) == every.fillna(0)).all()
    assert (whole.steps["every"] == 1).all()


def test_times_of_steps_reach_from_one_end_to_the_next(runs):
    steps, stored = steps_of(runs[1]), runs[1]._read()
    behind = np.flatnonzero(steps.recorded[1:] & ~steps.recorded[:-1]) + 1
    ends = {row["end_step"]: row["to_ns"] for row in stored.table("thinned").to_pylist()}
    assert len(behind) > 5
    for step in behind.tolist():
        assert ends[step] <= steps.start[step] < steps.end[step]
        assert steps.start[step] - ends[step] < 1_000_000_000
    recorded = np.flatnonzero(steps.recorded)
    assert (steps.end[recorded][:-1] <= steps.start[recorded][1:]).all()


def test_a_trace_becomes_thinner_as_its_limit_comes_near():
    whole = run(by_optimizer, keep="all", steps=400)
    size = sum(file.stat().st_size for file in whole._read().path.glob("rank-0/*.arrows"))
    limit = size * 8 // 10
    thin = run(by_optimizer, steps=400, max_bytes=limit, flush_at=range(0, 400, 25))
    stored, steps = thin._read(), steps_of(thin)
    assert len(steps) == 400
    assert stored.processes[0].stop is None
    assert sum(file.stat().st_size for file in stored.path.glob("rank-0/*")) < limit
    stretches = stored.table("thinned").to_pylist()
    every = [row["every"] for row in stretches]
    assert every == sorted(every)
    assert {number & (number - 1) for number in every} == {0}
    assert 2 <= every[0] < every[-1]
    assert stretches[0]["first_step"] > FIRST_STEPS, "all of them fit at first"
    assert 40 < steps.recorded.sum() < 350
    check_sums(thin, whole)


def check_sums(thin, whole):
    """Calls of all steps; times of all steps, from single calls and from sums, are of the same run, so add up."""
    frame = thin.rollups
    rows = frame[frame["kind"] == "module"]
    sums = rows.groupby("name")["calls"].sum()
    calls = whole.calls[(whole.calls["kind"] == "module") & whole.calls["step"].notna()]
    assert sums.to_dict() == calls.groupby("name", observed=True).size().to_dict()
    for _, of_module in rows.groupby("module_id"):
        first, end = of_module["first_step"].to_numpy(), of_module["end_step"].to_numpy()
        assert (end[:-1] <= first[1:]).all(), "windows do not overlap"
    begun = int(min(thin._read().table("rollups").column("first_step").to_pylist()))
    assert begun > 0
    early = rollup(thin._read())
    early = early.chosen(early.step < begun)
    from_calls = rows[rows["end_step"] <= begun]
    assert from_calls["calls"].sum() == early.calls.sum() > 0
    assert from_calls["forward_ns"].sum() == early.forward_ns[early.forward_ns != UNKNOWN].sum()
    assert from_calls["backward_ns"].sum() == early.backward_ns[early.backward_ns != UNKNOWN].sum()


def test_nothing_is_left_out_far_below_the_limit():
    trace = run(by_optimizer, max_bytes=100_000_000)
    stored = trace._read()
    assert stored.table("thinned").num_rows == stored.table("rollups").num_rows == 0
    assert steps_of(trace).recorded.all()
    assert not [*stored.path.glob("rank-0/*.latest")]


def test_steps_in_which_a_call_failed_are_recorded(monkeypatch):
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: False)

    class Fails(nn.Module):
        def forward(self, step):
            if step in (55, 91):
                raise ValueError(step)
            return step

    net = Fails()
    with modtrace.trace(keep=50) as trace:
        for step in range(120):
            try:
                net(step)
            except ValueError:
                pass
    assert {0, 50, 55, 91, 100, 119} <= set(trace.steps.index)
    assert (trace.calls["status"] == "raised").sum() == 2


def test_a_step_with_values_that_are_not_finite_is_recorded():
    """That is known a step or two later."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    stepping = torch.optim.SGD(net.parameters(), 0.0)
    with modtrace.trace(keep=1000, nan=True) as trace:
        for step in range(90):
            scale = float("nan") if step == 61 else 1.0
            loss = (net(torch.ones(2, 4)) * 1.0).sum()
            with torch.no_grad():
                net(torch.full((2, 4), scale))
            loss.backward()
            stepping.step()
            if step % 7 == 0:
                trace._tracer.flush()
    assert 61 in set(trace.steps.index)
    assert len(trace.nonfinite)
    assert set(trace.nonfinite["step"]) == {61}


def test_steps_that_something_is_asked_of_are_recorded():
    trace = run(by_optimizer, keep=1000, memory="33:35", flush_at=(20, 34))
    assert {33, 34} <= set(trace.steps.index)
    assert trace.steps["memory_peak_bytes"].loc[[33, 34]].notna().all()


def test_a_span_around_steps_stays_around_those_that_are_recorded():
    net = Net()
    stepping = torch.optim.SGD(net.parameters(), 0.1)
    with modtrace.trace(keep=15) as trace:
        for epoch in range(4):
            with modtrace.span(f"epoch {epoch}"):
                for step in range(20):
                    by_optimizer(step, net, stepping)
                    if step == 13:
                        trace._tracer.flush()
    calls = trace.calls
    assert not trace._read().notes
    for number in (15, 30, 45, 60, 75):
        (forward,) = calls[
            (calls["step"] == number) & (calls["type"] == "Net") & (calls["kind"] == "module")
        ].index
        around = calls.loc[calls["parent"].loc[forward]]
        while around["kind"] != "span":
            around = calls.loc[around["parent"]]
        assert around["name"] == f"epoch {number // 20}"


KILLED = """
import os, signal, torch, modtrace
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with modtrace.trace(path=PATH, keep=40) as trace:
    for step in range(95):
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        if step in (30, 60, 93):
            for recorder in trace._tracer._recorders:
                if recorder.name == "rollups":
                    recorder._written_ns = -10**9  # as if half a second had passed
            trace._tracer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_of_a_killed_run_is_told_right(tmp_path):
    path = tmp_path / "t.mtrace"
    script = textwrap.dedent(KILLED).replace("PATH", repr(str(path)))
    done = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    stored = open_trace(path)
    (steps,) = timeline(stored).steps
    assert not stored.is_damaged
    assert len(steps) == 94, "the stretch in progress is known"
    assert {0, 40, 80} <= set(np.flatnonzero(steps.recorded).tolist())
    assert "in full" in thinned_text(stored, 0)
    calls = modtrace.load(path).calls
    for step in (40, 80):
        assert (calls["step"] == step).sum() == (calls["step"] == 5).sum()


def test_only_where_sums_do_not_fit_does_recording_end(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with modtrace.trace(path=tmp_path / "t.mtrace", keep=10, max_bytes=45_000) as trace:
            net = Net()
            stepping = torch.optim.SGD(net.parameters(), 0.1)
            for step in range(600):
                by_optimizer(step, net, stepping)
                if step % 50 == 0:
                    trace._tracer.flush()
            assert not trace._tracer._is_running()
    assert any("the program goes on unrecorded" in str(one.message) for one in told)
    stored = open_trace(tmp_path / "t.mtrace")
    assert stored.processes[0].stop.cause == "limit of 45 KB"
    assert "recorded until" in modtrace.load(tmp_path / "t.mtrace").summary()


@pytest.mark.parametrize("text", ["", "0", "-3", "some", "1.5", "1" * 12])
def test_a_choice_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="there are auto, all and a number"):
        every_of_keep(text)


def test_choices_of_steps():
    assert [every_of_keep(text) for text in ("all", "auto", "1", "50", 50)] == [None, 1, 1, 50, 50]


def test_the_slowest_steps_are_among_those_that_are_taken_for_slow():
    """Steps of a clock that the test plays: the slowest of all are taken for slow at their end."""
    for seed in range(5):
        times = np.random.default_rng(seed).lognormal(13, 1, 20_000).astype(np.int64)
        thinning = Thinning(10**6, is_on=True)
        ends = np.cumsum(times)
        slow = set()
        thinning.step_began(1, 0, is_known=True)
        for step, end in enumerate(ends.tolist(), 1):
            thinning.step_began(step + 1, end, is_known=True)
            if thinning._is_slow(step):
                slow.add(step)
        slowest = set((np.argsort(-times)[: SLOWEST // 2] + 1).tolist())
        assert len(slow) < 500
        assert {step for step in slowest if step > 2_000} <= slow
        assert len(slowest & slow) > SLOWEST // 4


def test_a_live_view_numbers_steps_as_every_other(runs):
    steps, trace = runs[1].steps, LiveTrace(runs[1]._read().path)
    for _ in range(4):
        trace.look()
    live = trace.processes[0].steps
    known = live.last(1000)
    assert [step.number for step in known] == steps.index[steps["whole"]].tolist()
    assert [step.duration_ns for step in known] == steps["duration_ns"][steps["whole"]].tolist()
    chosen, words = live.in_statistics(1000)
    assert [step.number for step in chosen] == steps.index[steps["in_statistics"]].tolist()
    assert words == f"{len(chosen)} of the last {len(known)} steps in full"
    assert live.number == STEPS


def test_every_of_is_one_where_nothing_was_left_out(runs):
    assert set(every_of(runs[0]._read(), 0).tolist()) == {1}


def test_what_is_said_of_all_steps_is_not_of_those_in_full_alone(runs):
    """The cost of tracing is that of all steps, the slowest is among the remarkable, and a whole run has them all."""
    thin = runs[1]
    stored, steps = thin._read(), steps_of(thin)
    about = stored.processes[0]
    summary = summarise(stored)
    rows = thin.rollups[thin.rollups["kind"] == "module"]
    inside = thin.calls[(thin.calls["kind"] == "module") & thin.calls["step"].notna()]
    whole = steps.whole[inside["step"].astype(int)].sum()
    spent_ns = sum(about.end.cost_ns.values())
    assert summary.step_cost.cost_ns == spent_ns * int(whole) // int(rows["calls"].sum())
    usual = thin.steps[~thin.steps["counted"]].drop(index=0, errors="ignore")
    if "slowest" in thin.summary():  # not of calls of several roots
        line = thin.summary().split("slowest")[1].split("\n")[0]
        assert f" at {usual['duration_ns'].astype(int).idxmax()}" in line
    profile = flat_profile(stored, whole_run=True)
    left_ns = sum(row["to_ns"] - row["from_ns"] for row in stored.table("thinned").to_pylist())
    assert profile.left_out_ns == left_ns > 0
    parts = (
        profile.tracer_ns,
        profile.unknown_ns,
        profile.before_ns,
        profile.left_out_ns,
        profile.outside_ns,
    )
    own_ns = sum(row.spent_ns for row in profile.rows)
    assert own_ns + sum(parts) - profile.parallel_ns == profile.window.base_ns
