"""Speeds beside what a device reaches, against numbers worked out by hand; measuring and keeping what it reaches."""

from __future__ import annotations

import json
import stat

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.memory_peaks import tensors_bytes
from modtrace.analysis.roofline import device_keys, mfu_of_steps, roofline
from modtrace.analysis.steps import steps
from modtrace.analysis.timeline import timeline
from modtrace.device_peaks import measure as measuring
from modtrace.device_peaks.cache import DevicePeaks, cached, entry_of
from modtrace.errors import UsageError
from modtrace.trace.reader import open_trace
from modtrace.views import console
from modtrace.views.models.roofline_notes import MANY
from modtrace.views.roofline import roofline_lines

REACHED = {"cpu": DevicePeaks("a device", {"float32": 10**12}, 10**11)}


FLOPS = 2 * 8 * 32 * 64
ENTRY = {"flops_per_s": {"float32": 10**12}, "bytes_per_s": 10**11}


def keep(folder, held):
    """Put something in the cache."""
    (folder / "modtrace").mkdir(exist_ok=True)
    (folder / "modtrace" / "devices.json").write_text(json.dumps(held))


def quickly(monkeypatch):
    """Measure with next to nothing."""
    for name, value in (("SECONDS", 0.001), ("SIZES", (32,)), ("COPY_BYTES", 1 << 16)):
        monkeypatch.setattr(measuring, name, value)


@pytest.fixture(scope="module")
def trace():
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace() as t:
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(8, 32, requires_grad=True)).sum().backward()
            optimizer.step()
    return t


def test_a_linear_by_hand(trace):
    points = {(one.name, one.backward): one for one in roofline(trace._read(), REACHED)}
    assert set(points) == {("0", False), ("0", True)}  # a ReLU counts nothing
    forward, backward = points["0", False], points["0", True]
    flops, moved = FLOPS, (8 * 32 + 8 * 64 + 32 * 64 + 64) * 4
    assert (forward.calls, forward.flops, forward.bytes, forward.dtype) == (
        3,
        3 * flops,
        3 * moved,
        "float32",
    )
    assert (backward.flops, backward.bytes) == (3 * 2 * flops, 3 * 2 * moved)
    roof = min(10**12, 10**11 * flops / moved)
    assert forward.share == pytest.approx(forward.flops * 1e9 / forward.spent_ns / roof)
    spent = trace.calls[
        (trace.calls["name"] == "0") & (trace.calls["kind"] == "module") & trace.calls["step"].isin([2, 4, 5])
    ]
    assert forward.spent_ns == spent["self_ns"].sum()


class Product(nn.Module):
    """A product that takes, gives or owns nothing where that is asked for."""

    def __init__(self, lacks):
        super().__init__()
        weight = torch.ones(32, 64)
        self.weight = weight if lacks == "parameters" else nn.Parameter(weight)
        self.lacks = lacks

    def forward(self, *values):
        product = (values[0] if values else torch.ones(8, 32)) @ self.weight
        return None if self.lacks == "output" else product


@pytest.mark.parametrize(
    ("lacks", "elements"),
    [("parameters", 8 * 32 + 8 * 64), ("inputs", 32 * 64 + 8 * 64), ("output", 32 * 64 + 8 * 32)],
)
def test_nothing_to_move_is_known(lacks, elements):
    """A module without parameters moves no bytes of them, which is not an unknown number of bytes."""
    model, values = Product(lacks), () if lacks == "inputs" else (torch.ones(8, 32),)
    with modtrace.trace() as t:
        for _ in range(3):
            model(*values)
    (point,) = roofline(t._read(), {})
    assert point.flops == FLOPS * point.calls
    assert point.bytes == elements * 4 * point.calls


def test_what_was_not_measured_is_unknown(trace):
    other = DevicePeaks("other", {"bfloat16": 1}, 1)
    for reached in ({}, {"cpu": other}, {"cuda:0": REACHED["cpu"]}):
        assert all(one.share is None for one in roofline(trace._read(), reached))
        assert steps(trace._read(), reached)["mfu"].isna().all()
    assert steps(trace._read())["mfu"].isna().all()


def test_model_flops_utilisation(trace):
    frame = steps(trace._read(), REACHED)
    expected = frame["flops"] * 1e9 / 10**12 / frame["duration_ns"]
    assert frame["flops"].tolist() == [3 * FLOPS] * 6
    assert frame["mfu"].tolist() == pytest.approx(expected.tolist())


def test_utilisation_of_steps_that_are_not_known(trace):
    stored = trace._read()
    flops, took = np.array([10, -1, 10, 10]), np.array([10, 10, 0, 10])
    found = mfu_of_steps(stored, 0, len(timeline(stored).calls), flops, took, REACHED)
    assert [one is None for one in found] == [False, True, True, False]


def test_the_frame_has_what_was_measured(trace, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert modtrace.load(trace._read().path).steps["mfu"].isna().all()
    keep(tmp_path, {trace._read().processes[0].devices[0]: ENTRY})
    assert (modtrace.load(trace._read().path).steps["mfu"] > 0).all()


def test_each_type_has_its_own_peak():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(32, 64)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                low = self.linear(x)
            return self.linear(x), low

    model = Both()
    with modtrace.trace() as t, torch.no_grad():
        for _ in range(3):
            model(torch.ones(8, 32))
    points = {one.dtype: one for one in roofline(t._read(), REACHED)}
    faster = {"cpu": DevicePeaks("a device", {"float32": 10**12, "float16": 10**15}, 10**11)}
    text = "\n".join(roofline_lines(list(points.values()), faster, None, width=100))
    assert "cpu reaches 1.00 TFLOP/s in float32, copies 100 GB/s" in text  # nothing computed in float16
    assert set(points) == {"float32", "bfloat16"}
    assert points["bfloat16"].share is None
    assert points["float32"].share is not None
    assert steps(t._read(), REACHED)["mfu"].isna().all()
    both = {"cpu": DevicePeaks("a device", {"float32": 10**12, "bfloat16": 4 * 10**12}, 10**11)}
    frame = steps(t._read(), both)
    ideal = FLOPS * 1e9 * (1 / 10**12 + 1 / (4 * 10**12))
    assert frame["mfu"].tolist() == pytest.approx((ideal / frame["duration_ns"]).tolist())


def moved_to(stored, device, monkeypatch):
    """The trace as if its tensors had been on another device."""
    table = stored.table("signatures")
    rows = [[{**one, "device": device} for one in tensors] for tensors in table.column("tensors").to_pylist()]
    at = table.column_names.index("tensors")
    tensors = pa.array(rows, table.schema.field("tensors").type)
    monkeypatch.setitem(stored._tables, "signatures", table.set_column(at, "tensors", tensors))


def test_an_accelerator_is_not_timed_by_the_host(trace, monkeypatch):
    stored = open_trace(trace._read().path)
    stored.table("signatures")
    moved_to(stored, "cuda:0", monkeypatch)
    reached = {**REACHED, "cuda:0": DevicePeaks("a gpu", {"float32": 10**14}, 10**12)}
    points = roofline(stored, reached)
    assert [(one.device, one.spent_ns, one.flops_per_s, one.share) for one in points] == [
        ("cuda:0", None, None, None)
    ] * 2
    assert steps(stored, REACHED)["mfu"].isna().all()  # never beside the processor's peak
    assert (steps(stored, reached)["mfu"] > 0).all()
    text = "\n".join(roofline_lines(points, reached, None, width=100))
    assert "the time on the accelerator is not known" in text
    assert "those on the device" not in text
    assert "0.0%" not in text


def test_a_parameter_of_unknown_size_is_not_nothing(trace, monkeypatch):
    stored = open_trace(trace._read().path)
    table = stored.table("modules")
    rows = table.column("parameters").to_pylist()
    for tensors in rows:
        for one in tensors:
            one["shape"] = None
    parameters = pa.array(rows, table.schema.field("parameters").type)
    at = table.column_names.index("parameters")
    monkeypatch.setitem(stored._tables, "modules", table.set_column(at, "parameters", parameters))
    assert [(one.bytes, one.share) for one in roofline(stored, REACHED)] == [(None, None)] * 2
    tensor = {"shape": [2, 3], "dtype": "float32", "layout": "strided"}
    assert tensors_bytes([tensor]) == 24
    for shape in (None, [None], [-1], [1 << 40, 1 << 40]):
        assert tensors_bytes([tensor, {**tensor, "shape": shape}]) == -1


def test_only_counted():
    with modtrace.trace() as t:
        nn.Linear(32, 64)(torch.ones(8, 32))
    (point,) = roofline(t._read(), {})
    assert point.counted
    assert "* includes counting" in "\n".join(roofline_lines([point], {}, None, width=80))


def test_flops_that_are_not_known_are_shown_so():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.solve(x, x)

    model = nn.Sequential(nn.Linear(8, 8), Odd())
    with modtrace.trace() as t, torch.no_grad():
        for _ in range(5):
            model(torch.eye(8))
    points = {one.type: one for one in roofline(t._read(), REACHED)}
    unknown = t.modules.set_index("type")["uncounted"]["Odd"]
    assert unknown
    assert (points["Odd"].flops, points["Odd"].flops_per_s, points["Odd"].share) == (None, None, None)
    assert points["Linear"].flops == 2 * 2 * 8**3
    assert "?" in "\n".join(roofline_lines([points["Odd"]], REACHED, None, width=80))


@pytest.mark.parametrize("columns", [20, 80, 120])
def test_as_text(trace, columns, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = console.roofline_text(trace._read(), width=columns)
    assert all(len(line) <= columns for line in text.splitlines())
    if columns > 20:
        assert "modtrace device" in text
    key = trace._read().processes[0].devices[0]
    keep(tmp_path, {key: ENTRY})
    if columns == 120:
        assert "MFU of a step" in console.roofline_text(trace._read(), width=columns)


def test_no_flops_no_roof():
    with modtrace.trace(flops=False) as t:
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert "no FLOPs are known" in console.roofline_text(t._read())
    assert roofline(t._read(), REACHED) == []


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_as_there_is_room_for(more):
    with modtrace.trace() as t:
        nn.Linear(32, 64)(torch.ones(8, 32))
    points = roofline(t._read(), {}) * (MANY + more)
    text = "\n".join(roofline_lines(points, {}, None, width=80))
    assert text.count("Linear") >= MANY
    assert (" more" in text) == (more > 0)


def test_measured_and_kept_until_it_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quickly(monkeypatch)
    first = measuring.measure()
    assert first.flops_per_s["float32"] > 0
    assert first.bytes_per_s > 0
    path = tmp_path / "modtrace" / "devices.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cached(measuring.device_key()) == first
    monkeypatch.setattr(measuring, "_products", lambda device: {"float32": 7})
    assert measuring.measure().flops_per_s == {"float32": 7}
    kept = cached(measuring.device_key())
    assert kept is not None
    assert kept.flops_per_s == {"float32": 7}


@pytest.mark.parametrize(
    "held",
    [None, [], {}, {"flops_per_s": 3}, {"flops_per_s": {"float32": -1}, "bytes_per_s": 5},
     {"flops_per_s": {"float32": 1 << 70}, "bytes_per_s": 5}, {"flops_per_s": {"float32": 5}, "bytes_per_s": "x"}],
)  # fmt: skip
def test_a_broken_cache_says_nothing(held, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert entry_of(held, "x") is None
    assert cached("x") is None
    (tmp_path / "modtrace").mkdir()
    (tmp_path / "modtrace" / "devices.json").write_text("{")
    assert cached("x") is None


def test_a_device_that_is_not_there():
    from modtrace.cli import device

    for name in ("cuda:99", "meta", "nonsense"):
        with pytest.raises(UsageError, match=f"{name} cannot be measured"):
            device.execute(device.prepare([name]))


def test_a_broken_cache_is_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quickly(monkeypatch)
    keep(tmp_path, {measuring.device_key(): {"flops_per_s": "x"}, "another": ENTRY})
    found = measuring.measure()
    assert cached(measuring.device_key()) == found
    assert cached("another") is not None


def test_the_command(tmp_path, monkeypatch, capsys):
    from modtrace.cli import device

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    quickly(monkeypatch)
    for words in ([], ["cpu"], ["cpu", "cpu", "--plain"]):
        device.execute(device.prepare(words))
        text = capsys.readouterr().out
        assert "float32" in text
        assert text.count("float32") == 1
        assert text.splitlines()[-1].endswith("devices.json")


def test_devices_that_a_program_has_used(monkeypatch):
    assert measuring.device_keys() == {"cpu": measuring.device_key()}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU {name}")
    assert measuring.device_keys()["cuda:1"] == f"GPU cuda:1, torch {torch.__version__}"


def test_the_trace_says_what_its_devices_are(trace):
    assert device_keys(trace._read()) == {"cpu": measuring.device_key()}


def test_a_device_that_cannot_tell_its_name_does_not_reach_the_program(monkeypatch):
    def fails(*_):
        raise AssertionError("Invalid device id")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", fails)
    with modtrace.trace() as t:
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert list(t._read().processes[0].end.devices) == ["cpu"]
