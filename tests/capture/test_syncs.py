"""Where module calls wait for a device: on the CPU the same operations are seen, and wait for nothing."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import modtrace
from modtrace.analysis.syncs import places
from modtrace.capture.mechanisms import device_waits as recorder
from modtrace.errors import TraceError
from modtrace.trace.writer import Writer
from modtrace.views import console

HERE = Path(__file__).name


class Inner(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # inner: item
            x = x + 1
        return x


class Waits(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.inner(self.linear(x))
        scale = float(y.detach().max().item())  # item
        kept = y[y > -1e9]  # mask
        where = torch.nonzero(y > 0)  # nonzero
        for _ in range(3):
            x.amax().item()  # thrice
        return kept.sum() * scale + where.shape[0]


class Quiet(nn.Module):
    """The same without a wait."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        y = self.linear(x)
        y = torch.where(y > -1e9, y, 0.0)
        y = y.masked_fill(y > 5, 0.0).to(torch.float64)
        y = y.clone()
        y[y > 4] = 0.0  # one number of the host is filled in
        return y[:, [0, 1]].sum() * y[torch.tensor([0])].amax()


def line_of(mark):
    """The line of this file that ends with a mark."""
    (found,) = (
        at
        for at, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if text.endswith(f"  # {mark}")
    )
    return found


def run(model, steps=3, **options):
    torch.manual_seed(0)
    with modtrace.trace(syncs=True, **options) as trace:
        for _ in range(steps):
            model(torch.rand(3, 4)).backward()
    return trace


def rows(trace):
    frame = trace.syncs
    return [
        (call, what, Path(file).name, line, count)
        for call, what, file, line, count in zip(
            frame["type"],
            frame["what"],
            frame["source_file"],
            frame["source_line"],
            frame["count"],
            strict=True,
        )
    ]


EXPECTED = [
    ("Waits", "item", HERE, "item", 1),
    ("Waits", "mask", HERE, "mask", 1),
    ("Waits", "nonzero", HERE, "nonzero", 1),
    ("Waits", "item", HERE, "thrice", 3),
    ("Inner", "item", HERE, "inner: item", 1),
]


@pytest.mark.parametrize("options", [{}, {"flops": False}, {"functions": True}])
def test_each_call_has_its_waits_with_the_line(options):
    trace = run(Waits(), **options)
    expected = sorted((call, what, file, line_of(mark), count) for call, what, file, mark, count in EXPECTED)
    assert sorted(rows(trace)) == sorted(expected * 3)
    assert set(trace.syncs["device"]) == {"cpu"}
    assert trace.syncs["step"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    items = trace.syncs[trace.syncs["what"] == "item"]
    assert items["size_bytes"].tolist() == [4, 4 * 3, 1] * 3  # the last is a bool
    assert trace.syncs[trace.syncs["what"] == "mask"]["size_bytes"].isna().all()


def test_what_does_not_wait_is_no_row():
    assert rows(run(Quiet())) == []


def test_without_the_option_there_is_no_row():
    with modtrace.trace() as trace:
        Waits()(torch.rand(3, 4))
    assert rows(trace) == []


def test_flops_are_as_without():
    model = Waits()
    counted = run(model)
    with modtrace.trace() as plain:
        for _ in range(3):
            model(torch.rand(3, 4)).backward()
    assert counted.calls["flops"].tolist() == plain.calls["flops"].tolist()
    assert counted.steps["counted"].tolist() == [True, True, False]


class Copies(nn.Module):
    """To a device and between tensors; meta stands for one, and nothing comes back from it."""

    def forward(self, x):
        there = x.to("meta")  # to
        there.copy_(x)  # copy_
        there.copy_(x, non_blocking=True)
        x.to("meta", non_blocking=True)
        there.to("meta", torch.float64)
        there.copy_(there)
        x.to(torch.float64)
        return x


def test_copies_between_devices_with_their_bytes():
    with modtrace.trace(syncs=True) as trace:
        Copies()(torch.ones(5, 7))
    found = trace.syncs
    assert found[["what", "device", "count", "size_bytes"]].to_numpy().tolist() == [
        ["copy to device", "meta", 1, 140],
        ["copy to device", "meta", 1, 140],
    ]
    assert found["source_line"].tolist() == [line_of("to"), line_of("copy_")]


def test_a_copy_back_by_hand():
    source, target = torch.empty(5, 7, device="meta"), torch.ones(5, 7)
    kinds = recorder.Syncs()._kinds
    aten = torch.ops.aten
    expected = recorder.Wait("copy to host", "meta", 140)
    assert kinds[aten._to_copy.default]((source,), {"device": torch.device("cpu")}, target) == expected
    assert kinds[aten.copy_.default]((target, source), {}, target) == expected
    assert kinds[aten.copy_.default]((target, source, True), {}, target) is None
    assert kinds[aten.copy_.default]((target, source), {"non_blocking": True}, target) is None
    mask = torch.ones(5, 7, dtype=torch.bool)
    put = kinds[aten.index_put_.default]
    assert put((source, [mask], torch.tensor(0.0)), {}, source) is None
    assert put((source, [mask], torch.ones(35)), {}, source) == recorder.Wait("mask", "meta", None)
    assert put((source, [mask], torch.tensor(0.0), True), {}, source) == recorder.Wait("mask", "meta", None)
    repeat = kinds[aten.repeat_interleave.Tensor]
    assert repeat((source,), {"output_size": 3}, None) is None
    assert repeat((source,), {}, None) == recorder.Wait("repeat_interleave", "meta", None)


def test_operations_results_and_warnings_are_those_of_an_unwatched_run():
    class Sees(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Waits()

        def forward(self, x):
            with Sees() as mode:
                y = self.inside(x)
            self.seen = mode.seen
            return y

    model, x = Looks(), torch.rand(3, 4)

    def once():
        model.zero_grad()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("error")
            y = model(x)
            y.backward()
        return y, model.inside.linear.weight.grad.clone(), model.seen, caught

    y, grad, seen, caught = once()
    filters = list(warnings.filters)
    with modtrace.trace(syncs=True) as trace:
        again = once()
    assert torch.equal(y, again[0])
    assert torch.equal(grad, again[1])
    assert seen == again[2]
    assert caught == again[3] == []
    assert warnings.filters == filters
    assert torch._C._len_torch_dispatch_stack() == 0
    assert len(rows(trace)) == len(EXPECTED)


def test_a_call_that_raises_keeps_what_it_waited_for():
    class Fails(nn.Module):
        def forward(self, x):
            x.amax().item()
            raise KeyError("no")

    with modtrace.trace(syncs=True) as trace:
        for _ in range(2):
            with pytest.raises(KeyError):
                Fails()(torch.ones(2))
    assert [row[:2] for row in rows(trace)] == [("Fails", "item")] * 2
    assert torch._C._len_torch_dispatch_stack() == 0


def test_torchs_own_python_is_not_where_the_program_asks():
    class Asks(nn.Module):
        def forward(self, x):
            return F.one_hot(x).sum() + x.unique().sum()  # unique

    with modtrace.trace(syncs=True) as trace:
        Asks()(torch.tensor([1, 2, 2]))
    assert ("Asks", "unique", HERE, line_of("unique"), 1) in rows(trace)


def test_a_fault_of_ours_ends_the_notes_alone(monkeypatch):
    def broken(*_):
        raise OSError

    monkeypatch.setattr(recorder, "_place", broken)
    model = Waits()
    with pytest.warns(RuntimeWarning, match="waits for the device are not noted any more: OSError"):
        trace = run(model)
    assert rows(trace) == []
    assert len(trace.calls[trace.calls["kind"] == "module"]) == 9
    assert trace.calls["flops"].notna().any()
    gaps = trace._read().table("gaps").column("reason").to_pylist()
    assert gaps == ["waits for the device are not noted any more: OSError"]


def test_too_many_places(monkeypatch):
    monkeypatch.setattr(recorder, "MANY", 2)
    trace = run(Waits())
    assert len(rows(trace)) == 6
    assert trace._read().table("gaps").column("reason").to_pylist() == [recorder.LOST]


@pytest.mark.parametrize("wrong", [{"count": -1}, {"size_bytes": -1}, {"count": 1 << 60}])
def test_impossible_numbers_are_refused(monkeypatch, wrong):
    original = Writer.append

    def append(self, table, columns, **more):
        if table == "syncs":
            columns = {**columns, **{name: [value] * len(columns["call"]) for name, value in wrong.items()}}
        original(self, table, columns, **more)

    monkeypatch.setattr(Writer, "append", append)
    trace = run(Waits())
    with pytest.raises(TraceError, match=r"contradicts itself: .* is impossible"):
        _ = trace.syncs


def on_a_device(stored, monkeypatch):
    """The trace as if it had waited for a device."""
    table = stored.table("syncs")
    at = table.column_names.index("device")
    device = pa.array(["cuda:0"] * len(table), table.schema.field("device").type)
    monkeypatch.setitem(stored._tables, "syncs", table.set_column(at, "device", device))


def test_as_text(monkeypatch):
    stored = run(Waits())._read()
    assert "5 places would wait if their tensors were on a device" in console.syncs_text(stored, width=120)
    text = console.syncs_text(stored, every=True, width=120)
    assert "cpu: nothing was waited for" in text
    assert f"{HERE}:{line_of('thrice')}" in text
    on_a_device(stored, monkeypatch)
    found = places(stored)
    assert [one.count for one in found] == [9, 3, 3, 3, 3]
    assert all(one.waits and one.steps == 3 for one in found)
    text = console.syncs_text(stored, width=120)
    (line,) = (line for line in text.splitlines() if f"{HERE}:{line_of('thrice')}" in line)
    assert line.split()[:4] == ["model", "Waits", "9", "36"]
    assert "item, cuda:0" in line
    assert "would" not in text
    with modtrace.trace() as without:
        nn.Identity()(torch.ones(1))
    assert "modtrace run --syncs" in console.syncs_text(without._read())


def test_a_run_with_errors_for_warnings(tmp_path):
    (tmp_path / "script.py").write_text(
        "import torch\n"
        "class Asks(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.sum().item()\n"
        "print(Asks()(torch.ones(3)))\n"
    )
    words = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "modtrace",
        "run",
        "--syncs",
        "-q",
        "-o",
        "t.mtrace",
        "script.py",
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "3.0\n"
    found = subprocess.run(
        [sys.executable, "-m", "modtrace", "info", "--syncs", "--all", "t.mtrace"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "item, cpu" in found.stdout
    assert "script.py:4" in found.stdout
