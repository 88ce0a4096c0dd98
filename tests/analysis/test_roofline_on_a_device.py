"""Speeds on a device by the device's own time, with a clock of the tests' own whose device is `meta`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.device_times import UNKNOWN, self_device_ns
from modtrace.analysis.roofline import roofline
from modtrace.capture.mechanisms import device_events as device_times
from modtrace.device_peaks.cache import DevicePeaks
from modtrace.views.models.roofline_notes import NO_DEVICE_TIME, ON_DEVICE
from modtrace.views.roofline import roofline_lines
from tests.capture.test_clocks import FakeClock

FLOPS = 2 * 8 * 32 * 64
MOVED = (8 * 32 + 8 * 64 + 32 * 64 + 64) * 4
REACHED = {"meta": DevicePeaks("a device", {"float32": 10**12}, 10**11)}


class Slow(nn.Linear):
    """A linear layer that takes the device `took_ns`."""

    def __init__(self, clock, took_ns):
        super().__init__(32, 64, device="meta")
        self.clock, self.took_ns = clock, took_ns

    def forward(self, x):
        self.clock.now += self.took_ns
        return super().forward(x)


class Around(nn.Module):
    def __init__(self, clock, quick, slow):
        super().__init__()
        self.clock, self.quick, self.slow = clock, quick, slow
        self.weight = nn.Parameter(torch.ones(64, 64, device="meta"))

    def forward(self, x):
        self.clock.now += 1_000
        self.quick(x)
        return self.slow(x) @ self.weight


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(device_times, "clock_of", lambda kind: fake if kind == "meta" else None)
    return fake


def traced(model, x, **options):
    with modtrace.trace(**options) as trace, torch.no_grad():
        for _ in range(6):
            model(x)
    return trace


@pytest.mark.parametrize("functions", [False, True])
def test_self_time_on_the_device_and_the_share_by_hand(clock, functions):
    model = Around(clock, Slow(clock, 500), Slow(clock, 20_000))
    trace = traced(model, torch.empty(8, 32, device="meta"), functions=functions)
    points = {one.name: one for one in roofline(trace._read(), REACHED)}
    assert {name: (one.calls, one.spent_ns) for name, one in points.items()} == {
        "model": (3, 3_000),
        "quick": (3, 1_500),
        "slow": (3, 60_000),
    }
    slow = points["slow"]
    roof = min(10**12, 10**11 * FLOPS / MOVED)
    assert slow.flops_per_s == pytest.approx(FLOPS / 20e-6)
    assert slow.share == pytest.approx(FLOPS / 20e-6 / roof)
    text = roofline_lines(list(points.values()), REACHED, None, width=100)
    assert ON_DEVICE in text
    assert NO_DEVICE_TIME not in text
    assert any("slow" in line and "60.0 us" in line for line in text)


def test_no_device_time_no_speed(clock, monkeypatch):
    monkeypatch.setattr(device_times, "clock_of", lambda kind: None)
    trace = traced(Slow(clock, 500), torch.empty(8, 32, device="meta"))
    (point,) = roofline(trace._read(), REACHED)
    assert (point.spent_ns, point.flops_per_s, point.share) == (None, None, None)
    text = roofline_lines([point], REACHED, None, width=100)
    assert NO_DEVICE_TIME in text
    assert ON_DEVICE not in text


def test_self_time_is_unknown_where_that_of_a_part_is(clock):
    class Host(nn.Module):
        def forward(self, x):
            return x

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.host, self.slow = Host(), Slow(clock, 70)

        def forward(self, x):
            self.host(torch.ones(2))
            return self.slow(x)

    trace = traced(Both(), torch.empty(8, 32, device="meta"))
    calls, own = trace.calls, self_device_ns(trace._read())
    assert own[calls["type"] == "Both"].tolist() == [UNKNOWN] * 6
    assert own[calls["type"] == "Host"].tolist() == [UNKNOWN] * 6
    assert own[calls["type"] == "Slow"].tolist() == [70] * 6
    assert [one.name for one in roofline(trace._read(), REACHED)] == ["slow"]
