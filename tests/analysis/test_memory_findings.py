"""Findings about memory: each fires on what it is for and is silent on what is not."""

from __future__ import annotations

import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import findings
from modtrace.capture.mechanisms import counter_readings as memory_readings
from modtrace.capture.mechanisms.device_memory import Counters


def rules(keep, *, steps=10, watch="0:10", width=64, rows=64, depth=1):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    model = nn.Sequential(*blocks, nn.Linear(width, width // 2))
    optimizer = torch.optim.Adam(model.parameters())
    kept = []
    with modtrace.trace(memory=watch) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            output = model(torch.ones(rows, width))
            loss = output.sum()
            loss.backward()
            optimizer.step()
            kept.append(keep(output, loss))
    return {one.rule: one for one in findings(t._read())}


def test_growth():
    found = rules(lambda output, loss: output.detach())["growth"]
    assert "8.00 KiB a step" in found.text
    assert "allocated in 1" in found.text
    assert found.wrong


def growth_of(net, keep, steps=10):
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    kept = []
    with modtrace.trace(memory=f"0:{steps}") as t:
        for _ in range(steps):
            loss = net(torch.randn(256, 64)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kept.append(keep(net))
    return {one.rule: one for one in findings(t._read())}["growth"].text


def tanh_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 1))


def test_growth_names_the_module_whose_output_is_kept():
    """A part of the model is called by itself, and its graph is kept: the second Tanh keeps nothing."""
    text = growth_of(tanh_net(), lambda net: net[:2](torch.randn(256, 64)).mean())
    assert "576 KiB a step" in text  # the output of the Tanh and the input: 256 x (512 + 64) x 4
    assert text.endswith("allocated in Sequential.1 (Tanh)")


def test_growth_names_repeats_together():
    def both(net):
        x = net[1](net[0](torch.randn(256, 64)))
        return x.mean() + net[3](net[2](x)).mean()

    text = growth_of(tanh_net(), both)
    assert text.partition("allocated in ")[2] == "net.1 (Tanh), net.3 (Tanh)", text  # each is a root here

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.ModuleList([nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(3)])

        def forward(self, x):
            for block in self.block:
                x = block(x)
            return x

    text = growth_of(Net(), lambda net: net(torch.randn(256, 64)).mean())
    assert "allocated in block.*." in text
    assert text.endswith("(Tanh)")


def test_growth_outside_of_modules():
    assert growth_of(tanh_net(), lambda net: torch.ones(5000)).endswith("allocated outside of modules")


def test_numbers_that_are_kept_do_not():
    assert "growth" not in rules(lambda output, loss: loss.item())


def test_few_steps_say_nothing():
    assert "growth" not in rules(lambda output, loss: output.detach(), watch="0:5")


def test_activations():
    found = rules(lambda output, loss: None, rows=8192, width=32, depth=8, watch="0:3", steps=4)[
        "activations"
    ]
    assert "of the peak" in found.text
    assert "checkpoint" in found.remedy


def test_activations_beside_large_parameters():
    assert "activations" not in rules(lambda output, loss: None, rows=2, width=512, watch="0:3", steps=4)


class Allocator:
    """Of a device of the test's own, `meta`."""

    kind = "meta"

    def __init__(self):
        self.now = self.peak = 0

    def count(self):
        return 1

    def read(self, device):
        return Counters(self.now, self.now, self.peak, None)

    def watch(self, resets):
        pass

    def close(self):
        pass

    def take(self, size):
        self.now += size
        self.peak = max(self.peak, self.now)


def grown(monkeypatch, sizes):
    """The finding of a program whose steps leave so many bytes more on the device, each."""
    allocator = Allocator()
    monkeypatch.setattr(memory_readings, "memory_of", lambda kind: allocator if kind == "meta" else None)
    model = nn.Identity()
    with modtrace.trace(flops=False) as t:
        for size in sizes:
            model(torch.empty(2, device="meta"))
            allocator.take(size)
            modtrace.step()
    return {found.rule: found for found in findings(t._read())}.get("growth")


def test_growth_by_the_counters_of_the_device(monkeypatch):
    found = grown(monkeypatch, [1 << 20] * 8)
    assert found.text == "memory grows by 1.00 MiB a step (3.00 MiB to 8.00 MiB in 6 steps) on the device"


def test_no_growth_by_the_counters_of_the_device(monkeypatch):
    assert grown(monkeypatch, [1 << 20] * 6) is None  # too few
    assert grown(monkeypatch, [1 << 20] * 2 + [0] * 8) is None
    assert grown(monkeypatch, [1 << 30] + [1 << 13] * 9) is None  # next to nothing of what is held
    assert grown(monkeypatch, [1 << 20] * 5 + [-(1 << 20)] + [1 << 20] * 5) is None
