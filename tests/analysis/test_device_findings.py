"""Findings about devices: each fires on what it is for and is silent on what almost is that.

The second device is `meta`, with a clock of the tests' own.
"""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.findings import findings
from modtrace.capture import device_times
from tests.capture.test_clocks import FakeClock

MIB = 1 << 20


def rules(trace):
    return {one.rule: one for one in findings(trace._read())}


def called(model, *given, steps=8, between=lambda: None, **options):
    with modtrace.trace(**options) as trace, torch.no_grad():
        for _ in range(steps):
            model(*given)
            between()
    return trace


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(device_times, "clock_of", lambda kind: fake if kind == "meta" else None)
    return fake


class Works(nn.Module):
    def __init__(self, clock, took_ns):
        super().__init__()
        self.clock, self.took_ns = clock, took_ns

    def forward(self, x):
        self.clock.now += self.took_ns
        return x + 1


@pytest.mark.parametrize(("gap_ns", "share"), [(600_000, "37.5"), (400_000, None)])
def test_an_idle_device(clock, gap_ns, share):
    def wait():
        clock.now += gap_ns

    trace = called(Works(clock, 1_000_000), torch.empty(4, device="meta"), between=wait)
    found = rules(trace).get("device_idle")
    if share is None:
        assert found is None
    else:
        assert f"at least {share}% of a step (600 us): the host does not keep it busy" in found.text
        assert "--syncs" in found.remedy
        assert found.won_ns >= 6 * gap_ns


class Loader:
    """A DataLoader is what waiting for data is told by."""

    def __init__(self, clock, took_ns):
        self.clock, self.took_ns = clock, took_ns

    def __getitem__(self, at):
        import time

        self.clock.now += self.took_ns
        time.sleep(self.took_ns / 1e9)
        return torch.ones(4)

    def __len__(self):
        return 10


def test_an_idle_device_that_waits_for_data(clock):
    model, parameter = Works(clock, 1_000_000), nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with modtrace.trace() as trace:
        for x in torch.utils.data.DataLoader(Loader(clock, 5_000_000), batch_size=1):
            model(x.to("meta"))
            (parameter * 2).sum().backward()
            optimizer.step()
    found = rules(trace)["device_idle"]
    assert "waiting for data takes" in found.text
    assert "workers" in found.remedy


def test_no_device_no_word():
    trace = called(nn.Linear(4, 4), torch.ones(2, 4))
    assert not {"device_idle", "copies", "syncs", "other_device", "full_precision"} & set(rules(trace))


class Reads(nn.Module):
    def forward(self, x):
        return x * x.sum().item() if x.numel() < 100 else x * x.sum()


def on_a_device(stored, monkeypatch, **columns):
    """What was noted on the CPU, as of a device."""
    table = stored.table("syncs")
    for name, value in {"device": "cuda:0", **columns}.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array([value] * len(table), table.schema.field(name).type))
    monkeypatch.setitem(stored._tables, "syncs", table)


def test_waits(monkeypatch):
    trace = called(nn.Sequential(Reads(), Reads()), torch.ones(4), syncs=True)
    assert "syncs" not in rules(trace)  # nothing waits on the CPU
    stored = trace._read()
    on_a_device(stored, monkeypatch)
    (found,) = [one for one in findings(stored) if one.rule == "syncs"]
    assert "wait for the device 2.0 times a step: item in " in found.text
    assert "test_device_findings.py:" in found.text


@pytest.mark.parametrize(("each", "fires"), [(MIB, True), (MIB // 4, False)])
def test_noted_copies(monkeypatch, each, fires):
    trace = called(nn.Sequential(Reads()), torch.ones(4), syncs=True)
    stored = trace._read()
    on_a_device(stored, monkeypatch, what="copy to host", size_bytes=each)
    found = [one for one in findings(stored) if one.rule == "copies"]
    assert bool(found) == fires
    if fires:
        assert (
            "module calls copy 1.00 MiB a step between host and device, most of it from cuda:0"
            in found[0].text
        )


class Moves(nn.Module):
    def forward(self, x):
        return x.to("meta")


@pytest.mark.parametrize(("count", "fires"), [(MIB // 4, True), (MIB // 4 - 1, False)])
def test_copies_told_by_signatures(count, fires):
    trace = called(nn.Sequential(nn.Identity(), Moves(), nn.Identity()), torch.ones(count))
    found = rules(trace).get("copies")
    assert (found is not None) == fires
    if found is not None:
        assert found.text.startswith("1 (Moves) is given 1.00 MiB a step on cpu and returns 1.00 MiB on meta")


class Mixed(nn.Module):
    def __init__(self, devices):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, device=device) for device in devices)

    def forward(self):
        for layer in self.layers:
            layer(torch.ones(2, 8, device=layer.weight.device))


def test_a_layer_that_was_left_on_the_host():
    found = rules(called(Mixed(["meta", "meta", "cpu", "meta"])))["other_device"]
    assert found.text == (
        "1 module with parameters computes on cpu, 3 others of Mixed on meta: layers.2 (Linear)"
    )
    for devices in (["meta"] * 3, ["cpu"] * 3, ["cpu", "cpu", "meta"]):
        assert "other_device" not in rules(called(Mixed(devices)))


class Halves(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, wide)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.first(x)
        return self.second(y.float())


@pytest.mark.parametrize("flops", [True, False])
def test_float32_inside_autocast(flops):
    x = torch.ones(8, 64)
    found = rules(called(Halves(64), x, flops=flops))["full_precision"]
    assert found.text.startswith(
        f"50.0% of the {'FLOPs' if flops else 'calls'} of layers inside autocast are in float32: second (Linear)"
    )
    if flops:
        assert "full_precision" not in rules(called(Halves(4), x))  # 6 % of the FLOPs
    with torch.autocast("cpu", torch.bfloat16):
        assert "full_precision" not in rules(called(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), x))
    assert "full_precision" not in rules(called(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), x))
