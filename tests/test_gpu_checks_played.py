"""What the checks for a GPU measure, over a CUDA that is played: they find device times where there are some."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.fake_cuda import fake_cuda

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from gpu_checks import clocks, sources
from gpu_checks.check import FAIL, PASS, Place
from gpu_checks.checklist import CHECKS

ON_CPU = Place("cpu")
"""Tensors on it are taken to be on the first played device."""


@pytest.fixture
def gpu():
    with fake_cuda(plays="cpu", follows_host=True) as played:
        yield played
        assert played.illegal == []


def test_times_of_roots_called_by_keyword(gpu):
    measured = CHECKS["2a"].measure(ON_CPU)
    assert measured["calls"] == 20
    assert measured["unknown"] == 0


@pytest.mark.parametrize(("more_ns", "word"), [(1_500, PASS), (9_000, FAIL)])
def test_the_resolution_is_what_a_device_takes_beyond_its_kernels(gpu, monkeypatch, more_ns, word):
    gpu.follows_host = False  # or the host's clock would tell when a device that is done begins
    kernels = []

    def spin(place, cycles):
        gpu.work(cycles + more_ns)
        kernels.append(cycles / 1e3)

    monkeypatch.setattr(clocks, "_spin", spin)
    monkeypatch.setattr(
        sources.Profiled, "of", lambda self, *_: [{"name": "spin", "dur": one} for one in kernels[1:]]
    )
    measured = clocks._one_kernel(ON_CPU, 5_000, 3)
    assert measured == ([5_000 + more_ns] * 3, [5.0] * 3)
    rows = {"5": {"calls": 3, "known": 3, "device_us": measured[0][0] / 1e3, "kernel_us": measured[1][0]}}
    assert CHECKS["6"].judge({"kernels": rows}).word == word


def test_starts_on_the_device_beside_those_on_the_host(gpu):
    measured = CHECKS["7"].measure(ON_CPU)
    assert measured["calls"] > 0
    assert len(measured["minima_us"]) == len(measured["recorded_us"]) == 1


def test_a_drift_is_seen_in_the_windows():
    host = np.arange(0, 60_000_000_000, 1_000_000_000)
    late = host + 8_000 + np.where(host % 3, 90_000, 0)  # most calls wait a little
    assert clocks._minima_us(host, late) == [8.0] * 12
    drifted = late + host * 10 // 1_000_000
    minima = clocks._minima_us(host, drifted)
    assert minima[0] == 8.0
    assert minima[-1] > 500
    figures = {"seconds": 60, "calls": 60, "minima_us": minima, "recorded_us": minima}
    assert CHECKS["7"].judge(figures).word == FAIL


@pytest.mark.parametrize("name", ["8a", "8b"])
def test_backwards_over_devices(gpu, name):
    check = CHECKS[name]
    assert check.judge(check.measure(ON_CPU)).word == PASS
