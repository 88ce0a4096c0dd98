"""Programs with one planted fault each, and their healthy twins: the same without it.

A fault is planted in one step. Each says where it begins: the part of the step, and the module or the tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BAD_STEP = 3
STEPS = 5


@dataclass(frozen=True)
class Fault:
    """A program, and where its fault begins: place, module (name in the tree), and what the head must say."""

    name: str
    run: Callable[[bool], object]
    place: str
    module: str
    says: str = ""
    step: int | None = BAD_STEP


class Bad(nn.Module):
    """A module whose fault is switched on from outside."""

    bad = False


FAULTS: list[Fault] = []


def fault(place: str, module: str, says: str = "", step: int | None = BAD_STEP) -> Callable[[Any], Any]:
    """Plant a fault: the decorated function runs the program, with it or without."""

    def plant(run: Callable[[bool], object]) -> Callable[[bool], object]:
        FAULTS.append(Fault(run.__name__, run, place, module, says, step))
        return run

    return plant


def train(
    net: nn.Module,
    bad: bool,
    *,
    loss: Callable[[Any, Any], Any] = lambda output, target: (output - target).pow(2).mean(),
    batches: Any = None,
    lr: float = 1e-3,
    accumulate: int = 1,
) -> None:
    """Train some steps; in one of them everything in the model that can be bad is."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        for module in net.modules():
            if isinstance(module, Bad):
                module.bad = bad and step == BAD_STEP
        optimizer.zero_grad()
        for _ in range(accumulate):
            x = batches(step) if batches else torch.randn(4, 6, generator=generator)
            output = net(x)
            loss(output, torch.zeros(())).backward()
        optimizer.step()


class Net(nn.Module):
    """Linear, something in between, linear."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.middle, self.last = nn.Linear(6, 6), middle, nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.middle(self.first(x)))


# forward ------------------------------------------------------------------------------------------------------------


class Log(Bad):
    def forward(self, x: Any) -> Any:
        return torch.log(x * 0 - 1 if self.bad else x.abs() + 1e-3)


class LogOfZero(Bad):
    def forward(self, x: Any) -> Any:
        return torch.log(torch.where(x > 0, 0.0, 1.0) if self.bad else x.abs() + 1e-3)


class TimesZero(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * torch.zeros_like(x)


class Divide(Bad):
    def forward(self, x: Any) -> Any:
        return x / (x * 0 if self.bad else x.abs() + 1)


class ExpOverflow(Bad):
    def forward(self, x: Any) -> Any:
        return torch.exp(x * (1e4 if self.bad else 0.1))


class Masked(Bad):
    def forward(self, x: Any) -> Any:
        mask = torch.zeros_like(x)
        mask[:, 3:] = -torch.inf
        if self.bad:
            mask[0] = -torch.inf
        return torch.softmax(x + mask, -1)


@fault("forward", "middle", "forward   middle (Log)")
def log_of_negative(bad: bool) -> None:
    train(Net(Log()), bad)


@fault("forward", "middle.0", "middle.0 (LogOfZero)")
def infinity_becomes_nan_later(bad: bool) -> None:
    train(Net(nn.Sequential(LogOfZero(), TimesZero())), bad)


@fault("forward", "middle")
def zero_by_zero(bad: bool) -> None:
    train(Net(Divide()), bad)


@fault("forward", "middle", "WHERE INF BEGAN")
def overflow_of_exp(bad: bool) -> None:
    train(Net(ExpOverflow()), bad)


@fault("forward", "middle", "middle (Masked)")
def fully_masked_softmax(bad: bool) -> None:
    train(Net(Masked()), bad)


class InDict(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.log = nn.Linear(6, 6), inner

    def forward(self, x: Any) -> Any:
        h = self.inner(x)
        return {"hidden": self.log(h), "raw": h}


class UsesDict(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.body, self.head = inner, nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x)["hidden"])


class MakesDict(Bad):
    def forward(self, x: Any) -> Any:
        return {"hidden": torch.sqrt(x * 0 - 1 if self.bad else x.abs() + 1e-3), "raw": x}


@fault("forward", "body")
def nan_in_a_dict(bad: bool) -> None:
    train(UsesDict(MakesDict()), bad)


@dataclass
class Both:
    hidden: Any
    raw: Any


class MakesDataclass(Bad):
    def forward(self, x: Any) -> Any:
        return Both(torch.rsqrt(x * 0 - 1 if self.bad else x.abs() + 1e-3), x)


class UsesDataclass(UsesDict):
    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).hidden)


@fault("forward", "body")
def nan_in_a_dataclass(bad: bool) -> None:
    train(UsesDataclass(MakesDataclass()), bad)


class InPlace(Bad):
    def forward(self, x: Any) -> Any:
        y = x.clone()
        return y.sub_(y + 1).log_() if self.bad else y.abs_().add_(1e-3).log_()


class InPlaceOnInput(Bad):
    def forward(self, x: Any) -> Any:
        return x.mul_(torch.nan) if self.bad else x.mul_(1.5)


@fault("forward", "middle")
def in_place(bad: bool) -> None:
    train(Net(InPlace()), bad)


@fault("forward", "middle.1")
def in_place_on_its_input(bad: bool) -> None:
    train(Net(nn.Sequential(nn.Linear(6, 6), InPlaceOnInput(), nn.ReLU(inplace=True))), bad)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.log, self.mix, self.last = CountedLog(), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.last(self.log(self.mix(self.log(x))))


class CountedLog(Bad):
    calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        second = self.calls % 2 == 0
        return torch.log(x * 0 - 1 if self.bad and second else x.abs() + 1e-3)


@fault("forward", "log")
def shared_module_in_its_second_call(bad: bool) -> None:
    train(Shared(), bad)


class Recursive(Bad):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth, self.scale = depth, nn.Linear(6, 6)

    def forward(self, x: Any, depth: int = 0) -> Any:
        if depth == self.depth:
            return x.log() if self.bad else x.abs()
        return self.scale(self(x * 0 - 1 if self.bad and depth == self.depth - 1 else x, depth + 1))


@fault("forward", "middle")
def recursion(bad: bool) -> None:
    train(Net(Recursive(3)), bad)


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.block, self.last = nn.Linear(6, 6), inner, nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=False))


@fault("forward", "block.1")
def checkpointed_block(bad: bool) -> None:
    train(Checkpointed(nn.Sequential(nn.Linear(6, 6), Log())), bad)


class OwnCode(Bad):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        h = self.first(x)
        return self.last((h * 0) / (h * 0) if self.bad else h)


@fault("forward", "net", "in its code before last (Linear)")
def code_between_two_modules(bad: bool) -> None:
    train(OwnCode(), bad)


class OwnCodeAtTheEnd(OwnCode):
    def forward(self, x: Any) -> Any:
        h = self.last(self.first(x))
        return h.sub(1e30).log() if self.bad else h


@fault("forward", "net")
def code_behind_the_last_module(bad: bool) -> None:
    train(OwnCodeAtTheEnd(), bad)


@fault("forward", "middle.2.1.0")
def deep_in_sequentials(bad: bool) -> None:
    blocks = nn.Sequential(
        nn.ReLU(), nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU(), nn.Sequential(Log()))
    )
    train(Net(blocks), bad)


class LossModule(Bad):
    def forward(self, output: Any, target: Any) -> Any:
        return torch.log(output * 0 - 1 if self.bad else output.abs() + 1e-3).mean()


@fault("forward", "criterion")
def loss_that_is_a_module(bad: bool) -> None:
    net, criterion = Net(nn.ReLU()), LossModule()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for step in range(STEPS):
        criterion.bad = bad and step == BAD_STEP
        optimizer.zero_grad()
        criterion(net(torch.ones(4, 6)), None).backward()
        optimizer.step()


@fault("loss", "", "loss")
def loss_that_is_code(bad: bool) -> None:
    steps = iter(range(STEPS))

    def loss(output: Any, target: Any) -> Any:
        worst = bad and next(steps) == BAD_STEP
        return (output.abs() * 0 - worst * 1.0 + (not worst)).log().mean()

    train(Net(nn.ReLU()), bad, loss=loss)


@fault("forward", "middle", step=None)
def in_another_thread(bad: bool) -> None:
    net = Net(Log())
    net.middle.bad = bad
    thread = threading.Thread(target=lambda: net(torch.randn(4, 6)))
    thread.start()
    thread.join()


class Classifier(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.inner, self.last = nn.Linear(6, 6), inner, nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.last(self.inner(self.first(x))).argmax(-1)


@fault("forward", "inner")
def hidden_by_argmax(bad: bool) -> None:
    net = Classifier(Log()).eval()
    with torch.no_grad():
        for step in range(STEPS):
            net.inner.bad = bad and step == BAD_STEP
            net(torch.ones(4, 6))


@fault("forward", "middle.1")
def layer_norm_without_epsilon(bad: bool) -> None:
    class Constant(Bad):
        def forward(self, x: Any) -> Any:
            return x * 0 + 1 if self.bad else x

    train(Net(nn.Sequential(Constant(), nn.LayerNorm(6, eps=0.0))), bad)


@fault("forward", "middle", "WHERE INF BEGAN")
def overflow_of_half_precision(bad: bool) -> None:
    class Half(Bad):
        def forward(self, x: Any) -> Any:
            return (x.half() * (1e6 if self.bad else 1.0)).float()

    train(Net(Half()), bad)


@fault("forward", "middle")
def half_precision_with_a_scaler(bad: bool) -> None:
    class Scaled(Bad):
        def forward(self, x: Any) -> Any:
            return x * (torch.inf if self.bad else 1.0)

    net = Net(Scaled())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(STEPS):
        net.middle.bad = bad and step == BAD_STEP
        optimizer.zero_grad()
        loss = net(torch.ones(4, 6)).pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()


# backward -----------------------------------------------------------------------------------------------------------


class Backward(Bad):
    """Values are finite, gradients are not."""

    def __init__(self, good: Callable[[Any], Any], worse: Callable[[Any], Any]) -> None:
        super().__init__()
        self.good, self.worse = good, worse

    def forward(self, x: Any) -> Any:
        return self.worse(x) if self.bad else self.good(x)


def _backward(name: str, worse: Callable[[Any], Any], good: Callable[[Any], Any] = torch.tanh) -> None:
    def run(bad: bool) -> None:
        train(Net(Backward(good, worse)), bad)

    run.__name__ = name
    fault("backward", "middle")(run)


class _NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * torch.nan


_backward("root_of_zero", lambda x: torch.sqrt(x * 0))
_backward("a_branch_not_taken", lambda x: torch.where(x > 1e9, torch.log(x * 0), x))
_backward("arc_cosine_of_one", lambda x: torch.acos(torch.clamp(x.abs() + 2, max=1.0) * 0 + 1 + x * 0))
_backward("custom_function", _NanBackward.apply)
_backward("power_of_zero", lambda x: (x * 0).pow(0.5))
_backward("power_below_one", lambda x: (x * 0).abs().pow(0.3))
_backward("arc_sine_of_one", lambda x: torch.asin(x * 0 + 1))


@fault("backward", "block.1")
def backward_of_a_checkpointed_block(bad: bool) -> None:
    train(
        Checkpointed(nn.Sequential(nn.Linear(6, 6), Backward(torch.tanh, lambda x: torch.sqrt(x * 0)))), bad
    )


@fault("backward", "middle.1")
def backward_with_accumulation(bad: bool) -> None:
    train(Net(nn.Sequential(nn.ReLU(), Backward(torch.tanh, _NanBackward.apply))), bad, accumulate=3)


@fault("backward", "middle.1")
def backward_of_a_nested_module(bad: bool) -> None:
    inner = nn.Sequential(nn.Linear(6, 6), Backward(torch.tanh, lambda x: (x * 0).sqrt()), nn.Linear(6, 6))
    train(Net(inner), bad)


# parameters ---------------------------------------------------------------------------------------------------------


@fault("optimizer", "first", "after the optimizer step")
def learning_rate_that_overflows(bad: bool) -> None:
    _with_optimizer(
        bad, lambda net: torch.optim.SGD(net.parameters(), lr=1e-3), lambda group: group.update(lr=3e38)
    )


@fault("optimizer", "first", "after the optimizer step")
def learning_rate_of_nan(bad: bool) -> None:
    _with_optimizer(
        bad, lambda net: torch.optim.SGD(net.parameters(), lr=1e-3), lambda group: group.update(lr=torch.nan)
    )


def _with_optimizer(bad: bool, make: Callable[[Any], Any], spoil: Callable[[Any], Any]) -> None:
    net = Net(nn.ReLU())
    with torch.no_grad():
        net.last.bias += 100.0
    optimizer = make(net)
    for step in range(STEPS):
        optimizer.zero_grad()
        net(torch.ones(4, 6)).pow(2).mean().backward()
        if bad and step == BAD_STEP:
            spoil(optimizer.param_groups[0])
        optimizer.step()


@fault("parameter", "last", "before forward   last.weight")
def parameter_spoilt_between_steps(bad: bool) -> None:
    net = Net(nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for step in range(STEPS):
        if bad and step == BAD_STEP:
            net.last.weight.data[0, 0] = torch.nan
        optimizer.zero_grad()
        net(torch.ones(4, 6)).pow(2).mean().backward()
        optimizer.step()


@fault("parameter", "first", "first.bias", step=0)
def parameter_that_was_never_set(bad: bool) -> None:
    net = Net(nn.ReLU())
    if bad:
        with torch.no_grad():
            net.first.bias.fill_(torch.inf)
    train(net, bad)


@fault("optimizer", "first")
def adam_without_epsilon(bad: bool) -> None:
    net = Net(nn.ReLU())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        net(torch.ones(4, 6)).pow(2).mean().backward()
        if bad and step == BAD_STEP:
            optimizer.param_groups[0].update(eps=0.0, betas=(0.0, 0.0))
            for parameter in net.parameters():
                parameter.grad.zero_()
        optimizer.step()


# data ---------------------------------------------------------------------------------------------------------------


def _loader(items: list[Any]) -> Any:
    return torch.utils.data.DataLoader(items, batch_size=None)


def _batches(bad: bool, spoil: Callable[[Any], Any]) -> list[Any]:
    torch.manual_seed(0)
    batches = [torch.randn(4, 6) for _ in range(STEPS)]
    if bad:
        spoil(batches[BAD_STEP])
    return batches


def _train_on(net: nn.Module, loader: Any, take: Callable[[Any], Any] = lambda batch: batch) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for batch in loader:
        optimizer.zero_grad()
        net(take(batch)).pow(2).mean().backward()
        optimizer.step()


@fault("forward", "", "input 0 of net (Net), from the loader")
def nan_from_the_loader(bad: bool) -> None:
    _train_on(Net(nn.ReLU()), _loader(_batches(bad, lambda batch: batch[1].fill_(torch.nan))))


@fault("forward", "", "from the loader")
def nan_from_the_loader_of_a_loop_without_an_optimizer(bad: bool) -> None:
    """A step ends when the next one computes, after the next batch has come."""
    net = Net(nn.ReLU())
    for batch in _loader(_batches(bad, lambda batch: batch[1].fill_(torch.nan))):
        net(batch).sum().backward()


@fault("forward", "", "from the loader")
def nan_from_the_loader_in_evaluation(bad: bool) -> None:
    net = Net(nn.ReLU()).eval()
    with torch.no_grad():
        for batch in _loader(_batches(bad, lambda batch: batch[1].fill_(torch.nan))):
            net(batch)


@fault("forward", "", "from the loader")
def infinity_from_the_loader(bad: bool) -> None:
    items = [{"x": batch, "n": 3} for batch in _batches(bad, lambda batch: batch[1].fill_(torch.inf))]
    _train_on(Net(nn.ReLU()), _loader(items), lambda batch: batch["x"])


@fault("forward", "", "from the loader")
def normalised_after_the_loader(bad: bool) -> None:
    _train_on(
        Net(nn.ReLU()),
        _loader(_batches(bad, lambda batch: batch.fill_(torch.nan))),
        lambda batch: batch * 2 - 1,
    )


@fault("forward", "", "input 0 of net (Net)")
def input_made_in_code(bad: bool) -> None:
    def batches(step: int) -> Any:
        x = torch.ones(4, 6)
        return x / 0 - x / 0 if bad and step == BAD_STEP else x

    train(Net(nn.ReLU()), bad, batches=batches)


@fault("data", "", "from the loader")
def target_from_the_loader(bad: bool) -> None:
    targets = _batches(bad, lambda batch: batch.fill_(torch.nan))
    loader = _loader([(torch.ones(4, 6), target[:, :2]) for target in targets])
    net = Net(nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for x, target in loader:
        optimizer.zero_grad()
        F.mse_loss(net(x), target).backward()
        optimizer.step()
