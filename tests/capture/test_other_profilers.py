"""A profiler of the program's own, beside ours: it gets what it gets without modtrace."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.autograd import profiler as autograd_profiler
from torch.profiler import ProfilerActivity, profile, schedule

import modtrace
from modtrace.capture.mechanisms.profiler_window import BUSY, ENDED_FOR_THEIRS

OPTIONS = [{"kernels": "0:4"}, {"memory": "0:4"}, {"memory": "0:9", "kernels": "1:3"}]


def steps(count, each=lambda: None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        each()


def names(events):
    """What a profiler has seen, but for what hooks of any kind add."""
    return sorted(
        event.name for event in events if event.name.startswith(("aten::", "Optimizer", "ProfilerStep"))
    )


def scheduled():
    seen = []
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=1, warmup=1, active=2, repeat=1),
        on_trace_ready=lambda ready: seen.append(names(ready.events())),
    ) as theirs:
        steps(6, theirs.step)
    return seen


def whole():
    with profile(activities=[ProfilerActivity.CPU]) as theirs:
        steps(3)
    return [names(theirs.events())]


def of_autograd():
    with autograd_profiler.profile() as theirs:
        steps(2)
    return [names(theirs.function_events)]


def nvtx():
    """Only that it starts and ends: it keeps nothing."""
    with contextlib.suppress(RuntimeError), autograd_profiler.emit_itt():
        steps(1)
    return []


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("program", [scheduled, whole, of_autograd, nvtx])
def test_it_gets_all_it_would_get_alone(program, options, capfd):
    steps(1)  # what torch does once in a process
    alone = program()
    capfd.readouterr()
    with modtrace.trace(flops=False, **options) as t:
        steps(1)  # ours runs already
        beside = program()
    assert beside == alone
    assert "disableProfiler" not in capfd.readouterr().err
    if program is not nvtx:
        assert ENDED_FOR_THEIRS in t._tracer.gaps or BUSY in t._tracer.gaps
    assert not torch._C._autograd._profiler_enabled()
    assert not autograd_profiler._is_profiler_enabled
    assert len(t.calls[t.calls["kind"] == "module"]) > 0


def test_theirs_that_waits_for_its_start_is_left_alone(capfd):
    """Prepared and not started yet: ours does not begin."""
    with modtrace.trace(kernels="1:4", flops=False) as t:
        theirs = profile(activities=[ProfilerActivity.CPU])
        theirs.prepare_trace()
        steps(3)
        theirs.start_trace()
        steps(2)
        theirs.stop_trace()
    assert sum(name == "Optimizer.step#SGD.step" for name in names(theirs.events())) == 2
    assert BUSY in t._tracer.gaps
    assert "disableProfiler" not in capfd.readouterr().err


def test_theirs_that_was_prepared_before_recording_is_left_alone(capfd):
    theirs = profile(
        activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=1, active=2, repeat=1)
    )
    with theirs, modtrace.trace(kernels="0:4", memory="0:4", flops=False) as t:
        steps(4, theirs.step)
    assert sum(name == "Optimizer.step#SGD.step" for name in names(theirs.events())) == 2
    assert BUSY in t._tracer.gaps
    assert "disableProfiler" not in capfd.readouterr().err


ON_ANOTHER_THREAD = """
import sys, threading, torch, modtrace

model = torch.nn.Linear(3, 3)

def theirs():
    with torch.profiler.profile() as profiler:
        model(torch.ones(2, 3))
    seen.append(sum(event.name == "aten::addmm" for event in profiler.events()))

def beside():
    thread = threading.Thread(target=theirs)
    thread.start()
    thread.join()

seen = []
with modtrace.trace({options}, flops=False) as t:
    model(torch.ones(2, 3))
    beside()
    for _ in range(2 * {more}):
        model(torch.ones(2, 3))
beside()
theirs()
sys.stdout.write(str([seen, torch._C._autograd._profiler_enabled(), t._tracer.gaps]))
"""


@pytest.mark.parametrize("options", ["kernels='0:9'", "memory='0:2'"])
@pytest.mark.parametrize("more", [0, 1])
def test_theirs_on_another_thread(options, more):
    """torch crashes where ours is ended after theirs has taken its session: in a process of its own."""
    script = ON_ANOTHER_THREAD.format(options=options, more=more)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, str([[1, 1, 1], False, [ENDED_FOR_THEIRS]])), done.stderr


def test_one_that_ends_before_is_no_reason(capfd):
    with modtrace.trace(kernels="3:5", flops=False) as t:
        with profile(activities=[ProfilerActivity.CPU]):
            steps(1)
        steps(6)
    assert t._tracer.gaps == []
    assert set(t.kernels["step"].dropna()) == {3, 4}


def test_nothing_is_left_behind():
    before = {name: vars(autograd_profiler)[name] for name in vars(autograd_profiler)}
    with modtrace.trace(kernels="0:2", memory="0:2", flops=False):
        steps(1)
        assert not autograd_profiler._is_profiler_enabled  # torch's compiler makes other code where it is set
        steps(2)
    after = {name: vars(autograd_profiler)[name] for name in vars(autograd_profiler)}
    assert all(after[name] is before[name] for name in before if not name.startswith("__"))
