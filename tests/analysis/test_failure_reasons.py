"""Why a program failed, in the cases that people ask about most: real errors of torch, in modules and outside."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modtrace
from modtrace.analysis.failure import last_failure


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.conv = nn.Embedding(10, 8), nn.Conv1d(8, 6, 3)
        self.bn, self.fc = nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, i):
        return self.fc(self.bn(self.conv(self.emb(i).transpose(1, 2))).mean(2))


class AddsInPlace(nn.Module):
    def forward(self, x):
        y = torch.sigmoid(x)
        y += 1
        return y


class Views(nn.Module):
    def forward(self, x):
        return F.pad(x, (1, 1)).t().view(-1)


INDICES = torch.arange(28).view(4, 7) % 10


def index_range():
    Net()(INDICES + 1)


def index_range_of_a_bag():
    nn.EmbeddingBag(7, 4)(torch.tensor([[1, 7]]))


def dtype():
    nn.Linear(6, 5)(torch.ones(3, 6, dtype=torch.float64))


def channels_last():
    nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())(torch.ones(2, 32, 32, 3))


def batch_of_the_target():
    nn.CrossEntropyLoss()(Net()(INDICES), torch.zeros(3, dtype=torch.long))


def target_out_of_bounds():
    F.cross_entropy(Net()(INDICES), torch.full((4,), 5))


def target_out_of_bounds_in_a_module():
    nn.NLLLoss()(torch.zeros(4, 3), torch.full((4,), 3))


def float_targets():
    F.nll_loss(torch.zeros(4, 3), torch.zeros(4))


def no_probabilities():
    F.binary_cross_entropy(torch.full((3,), 2.0), torch.ones(3))


def shape_of_the_target():
    nn.BCEWithLogitsLoss()(torch.zeros(4, 1), torch.zeros(4))


def device():
    net = Net()
    net.fc.to("meta")
    net(INDICES)


def step_before_backward():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    first, second = net(INDICES), net(INDICES)
    first.sum().backward()
    optimizer.step()
    second.square().sum().backward()


def changed_in_place():
    nn.Sequential(nn.Linear(3, 3), AddsInPlace(), nn.Linear(3, 1))(torch.ones(2, 3)).sum().backward()


def state_of_an_earlier_step():
    cell, state = nn.GRUCell(6, 8), torch.zeros(1, 8)
    optimizer = torch.optim.SGD(cell.parameters(), 0.1)
    for _ in range(3):
        state = cell(torch.ones(1, 6), state)
        optimizer.zero_grad()
        state.sum().backward()


def backward_twice():
    y = nn.Sequential(nn.Linear(3, 3), nn.Tanh())(torch.ones(2, 3)).sum()
    y.backward()
    y.backward()


def cut_graph():
    Net()(INDICES).argmax(1).float().mean().backward()


def without_gradients():
    with torch.no_grad():
        y = nn.Linear(3, 1)(torch.ones(2, 3))
    y.sum().backward()


def frozen():
    nn.Linear(3, 1).requires_grad_(False)(torch.ones(2, 3)).sum().backward()


def not_a_number():
    nn.Linear(3, 2)(torch.ones(2, 3)).backward()


def batch_of_one():
    nn.Sequential(nn.BatchNorm1d(6))(torch.ones(1, 6))


def backward_hook():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True))
    model[0].register_full_backward_hook(lambda *_: None)
    model(torch.ones(1, 3, 9, 9)).sum().backward()


def hidden_state():
    nn.LSTM(3, 8, batch_first=True)(torch.ones(4, 5, 3), (torch.zeros(1, 3, 8), torch.zeros(1, 3, 8)))


def small_image():
    nn.Sequential(nn.Conv2d(3, 8, 5))(torch.ones(1, 3, 2, 2))


def cell_size():
    nn.LSTMCell(4, 8)(torch.ones(2, 5))


def order_in_memory():
    Views()(torch.ones(2, 3))


REASONS = {
    index_range: ("emb", "an index is outside of 0 to 9: the weight has 10 rows"),
    index_range_of_a_bag: ("", "an index is outside of 0 to 6: the weight has 7 rows"),
    dtype: ("", "dtypes differ: the input is float64, weight is float32"),
    channels_last: ("0", "are the channels last?"),
    batch_of_the_target: ("", "the input has 4 samples, the target 3"),
    target_out_of_bounds: (None, "target 5 is outside of 0 to 4: the input has 5 classes"),
    target_out_of_bounds_in_a_module: ("", "target 3 is outside of 0 to 2: the input has 3 classes"),
    float_targets: (None, "the target is float32; numbers of classes must be int64"),
    no_probabilities: (None, "put a sigmoid before it"),
    shape_of_the_target: ("", "the target has shape [4], the input [4, 1]"),
    device: ("fc", "devices differ: the input is on cpu, weight on meta"),
    step_before_backward: ("fc", "an optimizer stepped between this forward and its backward"),
    changed_in_place: ("1", "what sigmoid returned was changed in place"),
    state_of_an_earlier_step: ("", "a forward of GRUCell of step 0"),
    backward_twice: (None, "a backward has gone through this forward already"),
    cut_graph: (None, "the model's output has a gradient, the loss made of it has none"),
    without_gradients: (None, "the forward ran without gradients"),
    frozen: (None, "no parameter of the model requires gradients"),
    not_a_number: (None, "the loss is not a single number"),
    batch_of_one: ("0", "a batch of 1"),
    backward_hook: ("1", "a full backward hook is on a module"),
    hidden_state: ("", "the hidden state is of a batch of 3, the input of 4"),
    small_image: ("0", "is smaller than the kernel"),
    cell_size: ("", "the input's last size is 5"),
    order_in_memory: ("", "use reshape()"),
}
"""Program -> (name of the failing module, None where it is not certain or there is none; part of the reason)."""


@pytest.mark.parametrize("program", REASONS, ids=lambda program: program.__name__)
def test_the_reason_is_told(program):
    name, text = REASONS[program]
    with contextlib.suppress(Exception), modtrace.trace() as trace:
        program()
        pytest.fail("it did not fail")
    failure = last_failure(trace._read())
    assert failure is not None
    assert text in (failure.reason or "nothing")
    if name is not None:
        assert failure.path[-1].name == name
    # The last line of the program's own code: in this file, inside of the program that failed or of a class of it.
    file, _, line = failure.line.rpartition(":")
    assert file == __file__
    with open(__file__) as source:
        body = source.read().splitlines()[int(line) - 1]
    assert body.startswith("    ")
    shown = trace.summary()
    assert "WHERE IT FAILED" in shown
    assert "\n    at " in shown
    assert "-> " in shown
    assert "forward in" not in shown or "torch/nn" not in shown


def ends(body):
    """What is known of the end of a program."""
    with contextlib.suppress(Exception), modtrace.trace() as trace:
        body()
    return last_failure(trace._read()), trace


def test_a_function_outside_of_modules():
    failure, trace = ends(target_out_of_bounds)
    assert failure.outside
    assert failure.called == ("F.cross_entropy", "input f32[4,5], target i64[4]")
    text = trace.summary()
    assert "WHERE IT FAILED   outside modules   IndexError: Target 5 is out of bounds." in text
    assert "F.cross_entropy got input f32[4,5], target i64[4]" in text


def test_an_error_of_the_program_itself_is_no_failure_of_a_module():
    def body():
        with contextlib.suppress(RuntimeError):
            nn.Linear(3, 4)(torch.ones(2, 5))
        raise KeyError("no such file")

    failure, _ = ends(body)
    assert failure.outside
    assert (failure.error, failure.path, failure.reason, failure.called) == (
        "KeyError: 'no such file'",
        [],
        None,
        None,
    )


def test_an_exception_that_left_a_module_is_told_of_there():
    failure, trace = ends(lambda: Net()(INDICES + 1))
    assert not failure.outside
    assert trace._read().table("errors").column("left_calls").to_pylist() == [True]


def test_full_names():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(9, 4)

        def forward(self, x):
            return self.fc2(self.fc1(x))

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.ModuleList([Block()])

        def forward(self, x):
            return self.h[0](x)

    _, trace = ends(lambda: Deep()(torch.ones(2, 4)))
    assert "h.0.fc2 Linear" in trace.summary()


def test_messages_that_were_not_kept_tell_nothing():
    with contextlib.suppress(Exception), modtrace.trace(messages=False) as trace:
        target_out_of_bounds()
    failure = last_failure(trace._read())
    assert (failure.error, failure.reason) == ("IndexError", None)
