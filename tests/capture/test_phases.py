"""Phases and steps of real loops: what is found, that it adds up, and that nothing is left behind."""

from __future__ import annotations

import itertools
import json
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import modtrace
from modtrace.trace.schema import PHASES
from modtrace.views.console import info_json

SPENT = [f"{name}_ns" for name in (*PHASES, "other")]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 1))


def batches(count=4):
    return DataLoader([torch.full((4,), float(i)) for i in range(2 * count)], batch_size=2)


def rows(trace, depth=1):
    """(step, name) of what stands directly in each step, in order."""
    calls = trace.calls
    found = calls[(calls["depth"] == depth) & calls["step"].notna()]
    return [(int(step), name) for step, name in zip(found["step"], found["name"], strict=True)]


def of_step(trace, number):
    return [name for step, name in rows(trace) if step == number]


def assert_adds_up(trace):
    steps = trace.steps
    assert (steps["duration_ns"] == steps[SPENT].sum(axis=1)).all()
    assert (steps[SPENT] >= 0).all(axis=None)
    calls = trace.calls
    inner = calls[calls["parent"].isin(calls.index[calls["kind"] == "step"])]
    for number, row in steps[steps["call"].notna()].iterrows():
        children = inner[inner["parent"] == row["call"]]
        assert children["duration_ns"].sum() + row["other_ns"] == row["duration_ns"], number


def test_a_plain_loop():
    model, criterion = net(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for x in batches():
            loss = criterion(model(x), torch.zeros(2, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert len(trace.steps) == 4
    assert of_step(trace, 0) == ["data", "data", "forward", "loss", "backward", "optimizer"]
    for number in (1, 2, 3):
        assert of_step(trace, number) == ["data", "forward", "loss", "backward", "optimizer"]
    inside = trace.calls[trace.calls["phase"] == "loss"]
    assert set(inside["name"]) == {"loss", "", "zero_grad"} - {"zero_grad"}
    assert list(trace.steps["samples"]) == [2, 2, 2, 2]
    assert (trace.steps["ends"] == "optimizer").all()
    assert (trace.steps[["data_ns", "forward_ns", "loss_ns", "backward_ns", "optimizer_ns"]] > 0).all(
        axis=None
    )
    assert (trace.steps["eval_ns"] == 0).all()
    assert_adds_up(trace)


def test_accumulation_is_one_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with modtrace.trace() as trace:
        for number, x in enumerate(batches(6)):
            model(x).sum().backward()
            if number % 3 == 2:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    assert len(trace.steps) == 2
    assert of_step(trace, 1) == ["zero_grad", *["data", "forward", "loss", "backward"] * 3, "optimizer"]
    assert list(trace.steps["samples"]) == [6, 6]
    assert_adds_up(trace)


def test_two_optimizers_of_one_iteration():
    generator, critic = nn.Linear(3, 3), nn.Linear(3, 1)
    first, second = (torch.optim.Adam(part.parameters()) for part in (critic, generator))
    with modtrace.trace() as trace:
        for _ in range(3):
            critic(generator(torch.ones(2, 3)).detach()).sum().backward()
            first.step()
            critic(generator(torch.ones(2, 3))).sum().backward()
            second.step()
    assert len(trace.steps) == 3
    assert of_step(trace, 1).count("optimizer") == 2
    assert_adds_up(trace)


def test_one_optimizer_steps_less_often():
    model, other = net(), nn.Linear(3, 3)
    often, seldom = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(other.parameters(), 0.1)
    with modtrace.trace() as trace:
        for number, x in enumerate(batches(4)):
            model(x).sum().backward()
            often.step()
            if number == 1:
                seldom.step()
    assert [of_step(trace, n).count("optimizer") for n in range(4)] == [1, 2, 1, 1]


def test_scheduler_and_scaler():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with modtrace.trace() as trace:
        for number, x in enumerate(batches(3)):
            loss = model(x).sum()
            scaler.scale(loss * (float("inf") if number == 1 else 1.0)).backward()
            scaler.step(optimizer)  # the second one is skipped: its gradients are infinite
            scaler.update()
            scheduler.step()
            optimizer.zero_grad()
    assert len(trace.steps) == 3
    assert all(of_step(trace, n).count("optimizer") == 1 for n in range(3))
    assert_adds_up(trace)


def test_closure_runs_inside_the_optimizer():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    x = torch.randn(4, 4)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with modtrace.trace() as trace:
        for _ in range(2):
            optimizer.step(closure)
    steps = trace.steps
    assert len(steps) == 2
    assert (steps[["forward_ns", "backward_ns", "optimizer_ns"]] > 0).all(axis=None)
    assert (steps["duration_ns"] == steps[SPENT].sum(axis=1)).all()
    assert (steps[SPENT] >= 0).all(axis=None)
    phase = trace.calls[trace.calls["kind"] == "module"]["phase"]
    assert set(phase) == {"forward"}


def test_updates_by_hand_end_with_the_next_forward():
    model = net()
    with modtrace.trace() as trace:
        for x in batches(3):
            model(x).sum().backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    assert len(trace.steps) == 3
    assert (trace.steps["ends"] == "forward").all()
    assert of_step(trace, 1) == ["data", "forward", "loss", "backward"]
    assert list(trace.steps["whole"]) == [True, True, True]
    assert_adds_up(trace)


def test_without_training_each_root_call_is_a_step():
    model = net().eval()
    with modtrace.trace() as trace, torch.inference_mode():
        for x in batches(3):
            model(x)
    assert (trace.steps["ends"] == "root").all()
    assert len(trace.steps) == 3
    assert not (trace.calls["kind"] == "step").any()
    roots = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["depth"] == 0)]
    assert list(roots["step"]) == [0, 1, 2]
    assert set(roots["phase"]) == {"eval"}


def validate(model, count=5):
    model.eval()
    with torch.no_grad():
        for x in batches(count):
            model(x)
    model.train()


def test_validation_belongs_to_no_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for _ in range(2):
            validate(model)
            for x in batches(3):
                optimizer.zero_grad()
                model(x).sum().backward()
                optimizer.step()
        validate(model)
    assert len(trace.steps) == 6
    assert (trace.steps["eval_ns"] == 0).all()
    roots = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["name"] == "")]
    evals = roots[roots["phase"] == "eval"]
    assert len(evals) == 15
    assert evals["step"].isna().all()
    assert roots[roots["phase"] == "forward"]["step"].tolist() == list(range(6))
    assert of_step(trace, 3)[-4:] == ["forward", "loss", "backward", "optimizer"]
    assert_adds_up(trace)


def test_a_teacher_belongs_to_every_step():
    model, teacher = net(), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for x in batches(3):
            with torch.no_grad():
                target = teacher(x)
            optimizer.zero_grad()
            (model(x) - target).square().sum().backward()
            optimizer.step()
    assert of_step(trace, 1) == ["data", "eval", "zero_grad", "forward", "loss", "backward", "optimizer"]
    assert (trace.steps["eval_ns"] > 0).all()
    assert_adds_up(trace)


def test_frozen_batch_norm_is_no_evaluation():
    model = net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for x in batches(2):
            model(x).sum().backward()
            optimizer.step()
        model(torch.ones(2, 4))
    roots = trace.calls[(trace.calls["kind"] == "module") & (trace.calls["name"] == "")]
    assert list(roots["phase"]) == ["forward", "forward", "eval"]


def test_steps_and_spans_by_hand():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for x in itertools.islice(batches(), 3):
            with modtrace.span("both"):
                model(x).sum().backward()
                optimizer.step()
            with modtrace.span("again"):
                model(x).sum().backward()
                optimizer.step()
            modtrace.step()
    assert (trace.steps["ends"] == "mark").all()
    assert len(trace.steps) == 3
    assert of_step(trace, 1) == ["data", "both", "again"]
    assert set(trace.calls[trace.calls["name"] == "both"]["kind"]) == {"span"}
    steps = trace.steps
    assert (steps["duration_ns"] == steps[SPENT].sum(axis=1)).all()
    assert (steps["optimizer_ns"] > 0).all()
    modtrace.step()
    with modtrace.span("nothing records this"):
        pass


def test_span_as_decorator_with_errors_and_threads():
    @modtrace.span("work")
    def work(depth):
        model(torch.ones(1, 3))
        if depth:
            work(depth - 1)
        else:
            raise ValueError("enough")

    model = nn.Linear(3, 3)

    def run():
        with pytest.raises(ValueError, match="enough"):
            work(2)

    with modtrace.trace() as trace:
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spans = trace.calls[trace.calls["kind"] == "span"]
    assert len(spans) == 12
    assert sorted(spans["depth"]) == [0] * 4 + [1] * 4 + [2] * 4
    assert (spans["status"] == "raised").all()
    modules = trace.calls[trace.calls["kind"] == "module"]
    assert sorted(modules["depth"]) == [1] * 4 + [2] * 4 + [3] * 4


def test_a_span_across_steps():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    crossing = modtrace.span("crossing")
    with modtrace.trace() as trace, modtrace.span("epoch"):
        for number, x in enumerate(batches()):
            model(x).sum().backward()
            if number == 1:
                crossing.__enter__()
            optimizer.step()
            if number == 2:
                crossing.__exit__(None, None, None)
    assert len(trace.steps) == 4
    # The span begins in one step and ends with the next: the first has no row, and loses no time for it.
    assert trace.steps["call"].notna().tolist() == [True, False, True, True]
    assert (trace.steps["optimizer_ns"] > 0).all()
    assert list(trace.calls[trace.calls["kind"] == "step"]["depth"]) == [1, 2, 1]


def test_failures_inside_phases_do_not_swallow_what_follows():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no gradient today")

    class Refuses(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no step today")

    model = net()
    good, bad = torch.optim.SGD(model.parameters(), lr=0.1), Refuses(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        with pytest.raises(RuntimeError, match="no gradient"):
            Broken.apply(model(torch.ones(2, 4))).sum().backward()
        with pytest.raises(RuntimeError, match="no step"):
            bad.step()
        with pytest.raises(RuntimeError, match="second time"):
            loss = model(torch.ones(2, 4)).sum()
            loss.backward()
            loss.backward()
        model(torch.ones(2, 4)).sum().backward()
        good.step()
    calls = trace.calls
    raised = calls[(calls["status"] == "raised") & (calls["kind"] == "phase")]
    assert list(raised["name"]) == ["backward", "backward"]
    assert set(calls[calls["status"] == "raised"]["kind"]) == {"phase", "backward"}
    assert list(raised["error"]) == ["RuntimeError: no gradient today", raised["error"].iloc[1]]
    assert (calls[calls["name"] == "optimizer"]["status"] == ["aborted", "ok"]).all()
    assert len(trace.steps) == 1
    roots = calls[(calls["kind"] == "module") & (calls["name"] == "")]
    assert set(roots["depth"]) == {2}


def places():
    loader = torch.utils.data.dataloader
    found = [
        (torch.autograd, "_engine_run_backward"),
        (loader._BaseDataLoaderIter, "__next__"),
        (loader.DataLoader, "__iter__"),
        (torch.optim.Optimizer, "zero_grad"),
        (nn.Module, "zero_grad"),
        (torch.amp.GradScaler, "step"),
        (torch.Tensor, "to"),
        (torch.Tensor, "cuda"),
    ]
    return [vars(owner).get(name) for owner, name in found]


def optimizer_hooks():
    module = __import__("torch.optim.optimizer", fromlist=["x"])
    return len(module._global_optimizer_pre_hooks), len(module._global_optimizer_post_hooks)


def test_nothing_is_left_behind():
    before = places()
    with modtrace.trace():
        assert optimizer_hooks() == (1, 1)
        assert places() != before
    assert places() == before
    assert optimizer_hooks() == (0, 0)


def test_a_wrapper_put_on_top_stays_and_works():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    original = torch.optim.Optimizer.zero_grad
    seen = []
    try:
        with modtrace.trace():
            ours = torch.optim.Optimizer.zero_grad

            def wrapped(self, *args, **kwargs):
                seen.append(type(self).__name__)
                return ours(self, *args, **kwargs)

            torch.optim.Optimizer.zero_grad = wrapped
        assert torch.optim.Optimizer.zero_grad is wrapped
        model(torch.ones(2, 4)).sum().backward()
        optimizer.zero_grad()
        assert seen == ["SGD"]
        assert model[0].weight.grad is None
    finally:
        torch.optim.Optimizer.zero_grad = original


class Tagged(torch.Tensor):
    """Keeps its class through the conversions it knows, as torchvision's tv_tensors do."""

    KNOWN = frozenset({torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.clone})

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs or {})
        return result.as_subclass(cls) if function in cls.KNOWN else result


def test_tensor_itself_is_never_patched():
    before = dict(vars(torch.Tensor))
    with modtrace.trace(functions=True, memory="0:2", kernels="0:2", saved="0:2", syncs=True):
        assert dict(vars(torch.Tensor)) == before
        tagged = torch.ones(3).as_subclass(Tagged)
        assert type(tagged.to(torch.float16)) is Tagged
        assert type(tagged.to("meta")) is Tagged
        assert type(tagged + 1) is torch.Tensor


def test_copies_to_a_device_are_not_known():
    """The device is played by the meta device. No copy to it is recorded, so their time is null, not 0."""
    with modtrace.trace() as trace:
        model = net().to("meta")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x in batches():
            model(x.to("meta")).sum().backward()
            optimizer.step()
    assert trace.steps["h2d_ns"].isna().all()
    assert json.loads(info_json(trace._read()))["phases_ns"]["h2d"] is None
    parts = trace.steps.filter(regex="_ns$").drop(columns=["start_ns", "duration_ns"])
    assert parts.filter(regex="^(data|forward|loss|backward|optimizer|other)").notna().all(axis=None)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_to_cuda():
    model = net().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as trace:
        for x in batches():
            model(x.cuda()).sum().backward()
            optimizer.step()
    assert of_step(trace, 1) == ["data", "forward", "loss", "backward", "optimizer"]
    backward = trace.calls[trace.calls["kind"] == "backward"]
    assert len(backward) == 4 * 5
    assert_adds_up(trace)
