"""Sums over windows of steps against those of the single calls of the same run, which go through other code."""

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
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.phases import RECOMPUTE
from modtrace.analysis.rollups import UNKNOWN, rollup
from modtrace.analysis.timeline import timeline
from modtrace.capture.mechanisms import step_numbers
from modtrace.trace.histogram import added_up, buckets_of, windows_of
from modtrace.trace.reader import open_trace
from modtrace.trace.schema import BACKWARD, MODULE, PHASES


class Net(nn.Module):
    """Calls a module several times, one in some steps only, one that is computed again, and itself."""

    def __init__(self):
        super().__init__()
        self.often, self.seldom, self.again = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
        self.inner = nn.Linear(4, 4)
        self.number = 0

    def part(self, x):
        return checkpoint(self.again, self.inner(x), use_reentrant=False)

    def forward(self, x, depth=1):
        if depth:
            return self(x, depth - 1)
        self.number += 1
        for _ in range(self.number % 3 + 1):
            x = self.often(x)
        x = checkpoint(self.part, x, use_reentrant=False)
        return self.seldom(x) if self.number % 2 else x


def train(net, steps, *, optimizer=True, flush=None):
    stepping = torch.optim.SGD(net.parameters(), 0.1) if optimizer else None
    for number in range(steps):
        net(torch.ones(2, 4)).sum().backward()
        if stepping is not None:
            stepping.step()
            stepping.zero_grad()
        if flush is not None and number % 7 == 3:
            flush()


def written(stored):
    """(first step, module) -> the row of the table; phases and the steps themselves left out."""
    rows = stored.table("rollups").to_pylist()
    keys = [(row["first_step"], row["module"], row["phase"]) for row in rows]
    assert len(set(keys)) == len(keys)
    return {key[:2]: row for key, row in zip(keys, rows, strict=True) if key[1] is not None}


def expected(stored):
    """The same from the single calls."""
    steps, table = rollup(stored), {}
    first, _ = windows_of(steps.step)
    for key in sorted(set(zip(first.tolist(), steps.module.tolist(), strict=True))):
        part = steps.chosen((first == key[0]) & (steps.module == key[1]))
        row = {"calls": int(part.calls.sum())}
        for side, counted in (("forward", part.calls > 0), ("backward", part.backward_ns != UNKNOWN)):
            spent = getattr(part, f"{side}_ns")[counted]
            known = len(spent) > 0 and bool((spent != UNKNOWN).all())
            timed = spent[spent != UNKNOWN]
            buckets, counts = added_up(buckets_of(timed), np.ones(len(timed), np.int64))
            row |= {
                f"{side}_ns": int(spent.sum()) if known else None,
                f"{side}_max_ns": int(timed.max()) if len(timed) else None,
                f"{side}_buckets": buckets.tolist(),
                f"{side}_steps": counts.tolist(),
            }
        table[key] = row
    return table


def own_times(stored):
    """(first step, module) -> own time of its forwards, and of its backwards and what was computed again."""
    table, own = timeline(stored).calls, {}
    columns = {
        name: table.to_arrow().column(name).to_pylist() for name in ("kind", "module", "step", "phase")
    }
    again = [phase == RECOMPUTE for phase in columns["phase"]]
    self_ns = table.to_arrow().column("self_ns").to_pylist()
    rows = zip(columns["kind"], columns["module"], columns["step"], again, self_ns, strict=True)
    for kind, module, step, is_again, spent in rows:
        if kind not in (MODULE, BACKWARD) or step is None or step < 0:
            continue
        key = int(windows_of(np.array([step]))[0][0]), module
        times = own.setdefault(key, [0, 0])
        if spent is None or None in times:
            times[:] = None, None
        else:
            times[kind == BACKWARD or is_again] += spent
    return own


def check(stored):
    of_calls, sums, own = expected(stored), written(stored), own_times(stored)
    assert [*of_calls] == sorted(sums)
    for key, row in of_calls.items():
        assert {name: sums[key][name] for name in row} == row, key
        shown = [sums[key][f"{side}_self_ns"] for side in ("forward", "backward")]
        assert [time or 0 for time in shown] == [time or 0 for time in own[key]], key
    return sums


@pytest.mark.parametrize("optimizer", [True, False])
@pytest.mark.parametrize("flushes", [False, True])
def test_sums_are_those_of_the_single_calls(optimizer, flushes, monkeypatch):
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: optimizer)
    with modtrace.trace(rollups=True) as trace:
        train(Net(), 150, optimizer=optimizer, flush=trace._tracer.flush if flushes else None)
    sums = check(trace._read())
    assert {first for first, _ in sums} == set(windows_of(np.arange(150))[0].tolist())
    assert sum(row["backward_ns"] is not None for row in sums.values()) > 100


@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_root_calls_without_training_are_steps(engine, monkeypatch):
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: False)
    net = Net()
    with modtrace.trace(rollups=True, engine=engine) as trace, torch.no_grad():
        for _ in range(70):
            net(torch.ones(2, 4))
    sums = check(trace._read())
    assert {row["backward_ns"] for row in sums.values()} == {None}


def test_calls_that_are_open_over_blocks_are_in_the_step_in_which_they_began():
    class Flushes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            x = self.inner(x)
            trace._tracer.flush()
            return checkpoint(self.inner, x, use_reentrant=False)

    net = nn.Sequential(Flushes(), Flushes())
    with modtrace.trace(rollups=True) as trace:
        train(net, 40)
    check(trace._read())


def test_steps_that_are_not_known_while_it_runs_are_added_up_as_one(monkeypatch):
    """An optimizer that exists may step yet: what is a step is not known of the first 64 root calls."""
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: True)
    with modtrace.trace(rollups=True) as trace:
        train(Net(), 80, optimizer=False)
    stored = trace._read()
    calls = rollup(stored)
    sums = written(stored)
    assert {first for first, _ in sums} == {0, *windows_of(np.arange(64, 80))[0].tolist()}
    for module in np.unique(calls.module).tolist():
        own = calls.chosen(calls.module == module)
        rows = [row for (_, number), row in sums.items() if number == module]
        assert sum(row["calls"] for row in rows) == own.calls.sum()
        assert sum(row["backward_ns"] for row in rows) == own.backward_ns.sum()


def test_a_call_that_raised_has_its_time_and_one_that_was_left_has_none(monkeypatch):
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: False)

    class Leaves(nn.Module):
        def forward(self, x, error):
            raise error

    leaves = Leaves()
    with modtrace.trace(rollups=True) as trace:
        for error in (ValueError(), KeyboardInterrupt(), ValueError()):
            with pytest.raises(type(error)):
                leaves(torch.ones(1), error)
    sums = check(trace._read())
    assert [row["calls"] for row in sums.values()] == [1, 1, 1]


def test_steps_have_a_row_of_their_own():
    with modtrace.trace(rollups=True) as trace:
        train(Net(), 40)
    stored = trace._read()
    rows = [
        row for row in stored.table("rollups").to_pylist() if row["module"] is None and row["phase"] is None
    ]
    (steps,) = timeline(stored).steps
    assert sum(row["calls"] for row in rows) == len(steps) - 1, "when the first one began is not known"
    for row in rows:
        between = np.diff(steps.end)[row["first_step"] - 1 : row["end_step"] - 1]
        assert abs(row["forward_ns"] - int(between.sum())) < 100_000 * len(between)


def test_nothing_is_written_where_nobody_asks_for_it():
    with modtrace.trace() as trace:
        train(Net(), 5)
    stored = trace._read()
    assert stored.table("rollups").num_rows == 0
    assert not [*stored.path.glob("rank-0/*.latest")]


KILLED = """
import os, signal, time, torch, modtrace
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with modtrace.trace(path=PATH, rollups=True) as trace:
    for _ in range(45):
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    trace._tracer.flush()
    for _ in range(5):
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    for recorder in trace._tracer._recorders:
        if recorder.name == "rollups":
            recorder._written_ns = -10**9  # as if half a second had passed
    trace._tracer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sums_of_a_killed_run_are_there_up_to_the_last_block(tmp_path):
    path = tmp_path / "t.mtrace"
    script = textwrap.dedent(KILLED).replace("PATH", repr(str(path)))
    done = subprocess.run([sys.executable, "-c", script], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    assert (path / "rank-0" / "rollups.latest").exists()
    stored = open_trace(path)
    sums = check(stored)
    assert max(row["end_step"] for row in sums.values()) == 50
    assert not stored.is_damaged


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A run of which single calls fit for some of its 300 steps."""
    path = tmp_path_factory.mktemp("limit") / "t.mtrace"
    net = Net()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with modtrace.trace(path=path, rollups=True, keep="all", max_bytes=400_000) as trace:
            train(net, 300, flush=trace._tracer.flush)
            assert trace._tracer._is_running()
    return path, [str(one.message) for one in told if "modtrace" in str(one.message)]


def test_sums_go_on_where_single_calls_reach_their_limit(limited):
    path, told = limited
    stored = open_trace(path)
    (steps,) = timeline(stored).steps
    assert 10 < len(steps) < 290
    sums = written(stored)
    assert max(row["end_step"] for row in sums.values()) == 300
    (root,) = (
        number
        for number, name in enumerate(stored.table("modules").column("type").to_pylist())
        if name == "Net"
    )
    assert sum(row["calls"] for (_, module), row in sums.items() if module == root) == 600
    whole = {
        key: row for key, row in expected(stored).items() if windows_of(np.array(key[0]))[1] <= len(steps) - 1
    }
    assert len(whole) > 50
    for key, row in whole.items():
        assert {name: sums[key][name] for name in row} == row
    assert len(told) == 1
    assert "sums of modules go on" in told[0]


def test_the_limit_holds_for_both_together(limited):
    path, _ = limited
    assert sum(file.stat().st_size for file in (path / "rank-0").glob("*.arrows")) < 400_000


def test_views_say_where_single_calls_end(limited):
    path, _ = limited
    stop = open_trace(path).processes[0].stop
    assert stop.cause == "limit of 400 KB; sums go on"
    assert "recorded until" in modtrace.load(path).summary()
    assert "limit of 400 KB; sums go on" in modtrace.load(path).summary()


def test_recording_ends_where_sums_do_not_fit_either(tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with modtrace.trace(path=tmp_path / "t.mtrace", rollups=True, keep="all", max_bytes=30_000) as trace:
            train(Net(), 400, flush=trace._tracer.flush)
            assert not trace._tracer._is_running()
    stored = open_trace(tmp_path / "t.mtrace")
    assert stored.processes[0].stop.cause == "limit of 30 KB"
    assert any("the program goes on unrecorded" in str(one.message) for one in told)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.LBFGS])
def test_phases_are_those_of_the_steps(optimizer_class):
    """Against the division into steps and phases that a reader makes of the single calls, which is other code."""
    net, loss = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.MSELoss()
    optimizer = optimizer_class(net.parameters(), 0.01)
    loader = torch.utils.data.DataLoader(torch.ones(24, 4), batch_size=2)
    with modtrace.trace(rollups=True) as trace:
        for number, batch in enumerate(loader):
            with modtrace.span("step"):

                def closure(batch=batch):
                    optimizer.zero_grad()
                    value = loss(net(batch), batch)
                    value.backward()
                    return value

                if optimizer_class is torch.optim.SGD:
                    closure()
                optimizer.step(closure if optimizer_class is torch.optim.LBFGS else None)
            with torch.no_grad():
                net(batch)
            if number % 5 == 3:
                trace._tracer.flush()
    stored = trace._read()
    frame, steps = trace.rollups, trace.steps
    phases = frame[frame["kind"] == "phase"]
    total = phases.groupby("name", observed=True)["forward_ns"].sum()
    assert steps["whole"].all()
    calls = trace.calls
    roots = calls[(calls["kind"] == "module") & ~calls["name"].str.contains(r"\d", na=False)]
    spent = {phase: roots[roots["phase"] == phase]["duration_ns"] for phase in ("forward", "loss", "eval")}
    # Between forward and backward a step of an optimizer that computes itself waits for the loss.
    between = steps["loss_ns"].sum() - spent["loss"].sum() if optimizer_class is torch.optim.LBFGS else 0
    for name in ("data", "backward", "zero_grad"):
        assert total[name] == pytest.approx(steps[f"{name}_ns"].sum(), rel=0.001), name
    assert total["optimizer"] == pytest.approx(steps["optimizer_ns"].sum() + between, rel=0.001)
    assert total["forward"] == spent["forward"].sum() + spent["loss"].sum()
    assert total["eval"] == spent["eval"].iloc[:-1].sum(), "the last one is behind the last step"
    own = phases[phases["name"] == "backward"]["forward_self_ns"].sum()
    assert own == calls[(calls["kind"] == "phase") & (calls["phase"] == "backward")]["self_ns"].sum()
    assert {PHASES[row["phase"]] for row in stored.table("rollups").to_pylist() if row["phase"] is not None} == {
        "data", "forward", "eval", "backward", "optimizer", "zero_grad",
    }  # fmt: skip
