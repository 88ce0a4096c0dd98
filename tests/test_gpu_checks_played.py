"""What the checks for a GPU measure, over a CUDA that is played; NOT_PLAYED says of which that cannot be, and why."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fake_cuda import fake_cuda

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from gpu_checks import clocks, devices, faults, graphs, sources, starting
from gpu_checks.check import FAIL, PASS, Place
from gpu_checks.checklist import CHECKS

PATHS = [str(Path(__file__).resolve().parents[1] / part) for part in ("", "benchmarks")]
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


class _Played(Place):
    """The played device as a GPU, with the numbers of steps that a processor gets."""

    cuda = True

    def size(self, on_gpu, on_cpu):
        return on_cpu


def test_a_context_on_the_second_device_alone(monkeypatch):
    with fake_cuda(devices=2, home=1) as played:
        monkeypatch.setattr(devices, "devices_with_context", lambda: played.contexts)
        monkeypatch.setattr(devices, "gpus_of_process", lambda _: None)
        check = CHECKS["2b"]
        assert check.judge(check.measure(Place("meta"))).word == PASS
        assert played.illegal == []


def test_no_context_for_a_model_of_the_processor(monkeypatch):
    with fake_cuda() as played:
        played.devices[0].context = False
        monkeypatch.setattr(devices, "devices_with_context", lambda: played.contexts)
        monkeypatch.setattr(devices, "_roots_by_keyword", _after_use(played, devices._roots_by_keyword))
        check = CHECKS["2a"]
        assert check.judge(check.measure(Place("meta"))).word == PASS
        assert played.illegal == []


def _after_use(played, roots):
    """The program's first tensor on a device makes the context there."""

    def run(device, count):
        played.devices[0].context = True
        return roots(device, count)

    return run


def test_captures_beside_a_traced_thread(monkeypatch):
    monkeypatch.setattr(graphs.time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.001)))
    with fake_cuda() as played:
        check = CHECKS["9a"]
        assert check.judge(check.measure(_Played("meta"))).word == PASS
        assert played.illegal == []


def test_types_on_their_way_to_the_device(gpu):
    check = CHECKS["10a"]
    assert check.judge(check.measure(ON_CPU)).word == PASS


IN_A_PROCESS = """
import signal
import sys
sys.path[:0] = {paths!r}
from tests.fake_cuda import fake_cuda
_playing = fake_cuda(plays="cpu", initialized={initialised})
gpu = _playing.__enter__()
{more}
"""
BEHIND = """
import atexit
def _look():
    if gpu.illegal:
        print("Error: illegal:", gpu.illegal, file=sys.stderr)
atexit.register(_look)
"""


def _over_a_played_device(monkeypatch, file, *, initialised=True, more="", changes=()):
    """Let the scripts of a file of checks run over a played device; what is illegal is an error on stderr."""
    before = IN_A_PROCESS.format(paths=PATHS, initialised=initialised, more=more) + BEHIND
    run, illegal = file.run, []

    def played(folder, script, *arguments, **named):
        for old, new in changes:
            assert old in script
            script = script.replace(old, new)
        ran = run(folder, before + script, *arguments, **named)
        illegal.extend(line for line in ran.stderr.splitlines() if line.startswith("Error: illegal"))
        return ran

    monkeypatch.setattr(file, "run", played)
    return illegal


def test_cuda_is_not_initialised_and_the_variable_is_obeyed(monkeypatch):
    illegal = _over_a_played_device(
        monkeypatch,
        starting,
        initialised=False,
        changes=[
            (
                "from gpu_checks.sources import driver_is_initialised",
                "driver_is_initialised = lambda: gpu.initialised",
            )
        ],
    )
    check = CHECKS["1a"]
    assert check.judge(check.measure(_Played("cuda"))).word == PASS
    assert illegal == []


def test_a_forked_child_can_start_cuda(monkeypatch):
    illegal = _over_a_played_device(
        monkeypatch,
        starting,
        initialised=False,
        changes=[("torch.zeros(1, device=device)", "torch.cuda.init()")],
    )
    check = CHECKS["1b"]
    assert check.judge(check.measure(_Played("cuda"))).word == PASS
    assert illegal == []


@pytest.mark.parametrize("name", ["11b", "12"])
def test_programs(monkeypatch, name):
    """Their tensors are on the played device. The losses are those of an untraced run, and no gap is there."""
    illegal = _over_a_played_device(monkeypatch, starting if name == "12" else faults)
    check = CHECKS[name]
    measured = check.measure(ON_CPU)
    word = check.judge(measured)
    assert word.word == PASS, word
    assert illegal == []


def test_a_killed_program(monkeypatch):
    """How much of it is there depends on how fast the disk is; that it opens does not."""
    illegal = _over_a_played_device(monkeypatch, faults)
    measured = CHECKS["11e"].measure(ON_CPU)
    assert (measured["status"], measured["fault"]) == (-signal.SIGKILL, "")
    assert 0 <= measured["rows"] <= measured["steps"]
    assert illegal == []


def test_a_device_that_fails(monkeypatch):
    """The assert is the device's: from then on each of its functions raises."""
    fails = "for name in ('record', 'query', 'elapsed_time', 'memory_stats'):\n    gpu.broken[name] = error"
    illegal = _over_a_played_device(
        monkeypatch,
        faults,
        more="error = RuntimeError('CUDA error: device-side assert triggered')",
        changes=[("model(torch.full", f"{fails}\nmodel(torch.full")],
    )
    check = CHECKS["11f"]
    assert check.judge(check.measure(ON_CPU)).word == PASS
    assert illegal == []


NOT_PLAYED = {
    "3": "its kernels are CUPTI's: the join to launches is tested on events in torch's shape in test_device_rows",
    "4": "the same; that both ends of watching wait for the devices is tested in test_watched_devices",
    "5a": "the time of a step on a device: a played one takes none",
    "5b": "the time of a call of CUDA: how many there are is counted in test_played_cuda",
    "5c": "how long a thread waits for the interpreter: it follows from the real driver",
    "9b": "torch.compile makes no graph without triton; a replay is played in test_played_cuda",
    "10b": "segments that grow are the driver's; peaks over a played allocator are in test_device_memory",
    "10c": "CUDA's own pool is the driver's; an allocator that counts no totals is in test_device_memory",
    "11a": "compute-sanitizer looks at the real driver",
    "11c": "ranks share no played device; over gloo on the processor test_gpu_benchmark runs it",
    "11d": "the same",
}
"""Checks that no played device can answer, and why."""
PLAYED = {"1a", "1b", "2a", "2b", "6", "7", "8a", "8b", "9a", "10a", "11b", "11e", "11f", "12"}


def test_each_check_is_played_or_says_why_not():
    assert PLAYED | set(NOT_PLAYED) == set(CHECKS)
    assert not PLAYED & set(NOT_PLAYED)
    source = Path(__file__).read_text()
    assert all(f'"{name}"' in source.partition("\nNOT_PLAYED = ")[0] for name in PLAYED)
