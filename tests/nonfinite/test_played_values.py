"""Ranges of values on played CUDA devices: no step waits for one, and nothing is asked while a graph is captured."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import modtrace
from tests.fake_cuda import fake_cuda

CAPTURED = "values are not read while a graph is captured"


@pytest.fixture
def gpu():
    with fake_cuda(plays="cpu") as played:
        yield played
        assert played.illegal == []


def model():
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def steps(net, gpu=None, count=6, each=lambda step: None):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(count):
        optimizer.zero_grad()
        if gpu is not None:
            gpu.work(1_000)
        net(torch.full((3, 4), float(step))).sum().backward()
        optimizer.step()
        each(step)


def largest(trace, kind="output", name="0"):
    rows = trace.values
    rows = rows[(rows["kind"] == kind) & (rows["name"] == name)]
    return rows["absolute_maximum"].tolist()


def wanted(count=6):
    """The same without a device and without modtrace."""
    net, found = model(), []
    net[0].register_forward_hook(lambda module, args, output: found.append(output.abs().max().item()))
    steps(net, count=count)
    return found


def gaps(trace):
    return trace._read().table("gaps").column("reason").to_pylist()


@pytest.mark.parametrize(
    "options", [{"values": (0, 6)}, {"values": (0, 6), "values_with": "norm", "nan": True}]
)
def test_no_step_waits_for_a_device_that_is_behind(gpu, options):
    with modtrace.trace(**options, flops=False) as trace:
        gpu.hold()  # any question is answered with no, any wait is illegal
        steps(model(), gpu)
        assert gpu.calls["query"] > 0
        assert gpu.illegal == []
        gpu.let_go()
        gpu.may_sync = True  # recording ends: what is on its way is waited for
    assert largest(trace) == wanted()
    assert gaps(trace) == []


def test_copies_and_questions_are_few(gpu):
    """A step makes two copies at most for each type of tensor, whatever the number of modules."""
    with modtrace.trace(values=(0, 6), flops=False) as trace:
        steps(model(), gpu)
        gpu.may_sync = True
    assert gpu.calls["pinned_memory"] <= 2 * 7
    assert len(largest(trace)) == 6


def test_what_arrives_late_belongs_to_its_step(gpu):
    def each(step):
        gpu.let_go() if step % 2 else gpu.hold()

    with modtrace.trace(values=(0, 6), flops=False) as trace:
        steps(model(), gpu, each=each)
        gpu.let_go()
        gpu.may_sync = True
    rows = trace.values
    rows = rows[(rows["kind"] == "output") & (rows["name"] == "0")]
    assert rows["step"].tolist() == list(range(6))
    assert rows["absolute_maximum"].tolist() == wanted()


def test_a_graph_that_is_captured_has_none_of_it(gpu):
    net = model()
    with modtrace.trace(values=(0, 99), nan=True, flops=False) as trace:
        with torch.no_grad():
            net(torch.ones(3, 4))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(torch.cuda.Stream()):
                graph.capture_begin()
                net(torch.full((3, 4), 2.0))
                graph.capture_end()
            net(torch.full((3, 4), 3.0))
        gpu.may_sync = True
    with torch.no_grad():
        both = [net[0](torch.full((3, 4), value)).abs().max().item() for value in (1.0, 3.0)]
    assert largest(trace) == both
    assert gaps(trace).count(CAPTURED) == 1


def test_nor_has_one_that_another_library_captures(gpu):
    """torch's own methods do not say that it begins."""
    net, graph = model(), torch.cuda.CUDAGraph()
    with modtrace.trace(values=(0, 99), flops=False) as trace:
        steps(net, gpu, 1)
        with torch.cuda.stream(torch.cuda.Stream()):
            graph.mode = "thread_local"
            gpu.begin_capture(graph)
            steps(net, gpu, 2)
            gpu.end_capture(graph)
        steps(net, gpu, 3)
        gpu.may_sync = True
    assert len(largest(trace)) == 1 + 3
    assert gaps(trace) == [CAPTURED]


def test_nothing_is_asked_while_another_thread_captures(gpu):
    begun, done, failed = threading.Event(), threading.Event(), []

    def captures():
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin()
                begun.set()
                done.wait(30)
                graph.capture_end()
        except RuntimeError as error:
            failed.append(error)

    with modtrace.trace(values=(0, 99), flops=False) as trace:
        net = model()
        steps(net, gpu, 2)
        thread = threading.Thread(target=captures)
        gpu.hold()
        steps(net, gpu, 1)
        thread.start()
        begun.wait(30)
        asked = gpu.calls["query"], gpu.calls["pinned_memory"]
        steps(net, gpu, 3)
        assert (gpu.calls["query"], gpu.calls["pinned_memory"]) == asked
        done.set()
        thread.join()
        gpu.let_go()
        steps(net, gpu, 2)
        gpu.may_sync = True
    assert failed == []
    assert len(largest(trace)) == 2 + 1 + 2
    assert gaps(trace) == [CAPTURED]


def test_a_recording_that_ends_in_a_capture_says_so(gpu):
    net, graph, recording = model(), torch.cuda.CUDAGraph(), modtrace.trace(values=(0, 99), flops=False)
    trace = recording.__enter__()
    gpu.hold()
    steps(net, gpu, 2)
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin()
        recording.__exit__(None, None, None)
        graph.capture_end()
    assert "ranges of the last steps are not known: recording ended where a device may not be asked" in gaps(
        trace
    )
    assert not len(largest(trace))
