"""A failed allocation: what torch says of it, what the step had made, and what is said to help."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import modtrace
from modtrace.analysis.failure import last_failure
from modtrace.analysis.out_of_memory import Told, autopsy, told
from modtrace.views.out_of_memory import autopsy_lines

GIB = 1 << 30
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.19 GiB is "
    "free. Process 4121 has 77.91 GiB memory in use. Of the allocated memory 55.50 GiB is allocated by PyTorch, and "
    "21.50 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
HOST = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
)


def test_what_torch_says():
    assert told("OutOfMemoryError", CUDA) == Told(
        2 * GIB, round(79.11 * GIB), round(1.19 * GIB), round(55.5 * GIB), round(21.5 * GIB)
    )
    assert told("RuntimeError", HOST) == Told(1 << 52, None, None, None, None)
    assert told("RuntimeError", "mat1 and mat2 shapes cannot be multiplied") is None
    assert told("ValueError", HOST) is None
    assert told("OutOfMemoryError", None) is None
    assert told("OutOfMemoryError", "") == Told(None, None, None, None, None)


@given(st.text())
def test_any_message_gives_numbers_or_none(message):
    for kind in ("OutOfMemoryError", "RuntimeError"):
        found = told(kind, CUDA[:40] + message)
        assert found is None or found.asked is None or found.asked >= 0


def test_numbers_without_end_are_no_numbers():
    assert told("OutOfMemoryError", f"Tried to allocate {'9' * 400} GiB").asked is None


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([Block() for _ in range(3)])
        self.head = Head()

    def forward(self, x, size):
        for block in self.h:
            x = block(x)
        return self.head(x, size)


class Head(nn.Module):
    def forward(self, x, size):
        return x.sum() + 0 * torch.empty(size).sum()


def failed(sizes=(8, 8, 8), *, messages=True):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with pytest.raises(RuntimeError), modtrace.trace(messages=messages) as t:
        for at, rows in enumerate(sizes):
            optimizer.zero_grad()
            last = at == len(sizes) - 1
            model(torch.ones(rows, 16), 1 << 50 if last else 1).backward()
            optimizer.step()
    return t


def test_a_real_failure_on_the_host():
    t = failed()
    found = autopsy(t._read(), last_failure(t._read()))
    assert found.told.asked == 1 << 52
    outputs = 3 * (8 * 64 + 8 * 16) * 4
    assert found.made_bytes == outputs
    assert found.steps_bytes == [outputs + 4, outputs + 4, outputs]  # the head returned one number
    assert [(one.name, one.calls, one.output_bytes) for one in found.made] == [
        ("h.*.up", 3, 3 * 8 * 64 * 4),
        ("h.*.down", 3, 3 * 8 * 16 * 4),
    ]
    parameters = 3 * (16 * 64 + 64 + 64 * 16 + 16) * 4
    assert (found.parameter_bytes, found.trainable_bytes) == (parameters, parameters)
    assert found.block == "h.*"
    summary = t.summary()
    assert "OUT OF MEMORY   asked for 4096 TiB" in summary
    assert "head Head" in summary
    assert "look at the sizes given to the failing module" in " ".join(summary.split())
    assert summary.count("\n") <= 30


def test_inputs_that_grow_are_what_is_told():
    t = failed((8, 12, 18, 27, 40))
    lines = autopsy_lines(autopsy(t._read(), last_failure(t._read())), width=80)
    assert "inputs grow from step to step" in " ".join(lines)


def test_without_messages_nothing_is_known():
    t = failed(messages=False)
    assert autopsy(t._read(), last_failure(t._read())) is None
    assert "OUT OF MEMORY" not in t.summary()


def test_another_failure_has_no_autopsy():
    with pytest.raises(RuntimeError), modtrace.trace() as t:
        nn.Linear(3, 4)(torch.ones(2, 4))
    assert autopsy(t._read(), last_failure(t._read())) is None


def test_what_a_device_says_is_kept_whole():
    class Fails(nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError(CUDA)

    model = nn.Sequential(nn.Linear(4, 4), Fails())
    with pytest.raises(torch.OutOfMemoryError), modtrace.trace() as t:
        model(torch.ones(2, 4))
    summary = t.summary(width=100)
    assert "asked for 2.00 GiB   free 1.19 GiB   of 79.1 GiB   allocated 55.5 GiB" in summary
    assert "fragmented: 27.9% of what is reserved is unused" in summary
    assert "limit" not in summary
    assert "far more than this step's outputs" in summary


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_fits(width):
    t = failed()
    assert all(len(line) <= width for line in t.summary(width=width).splitlines())


def test_the_program_dies_as_it_would(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x + torch.empty(1 << 50)\n"
        "Net()(torch.ones(1))\n"
    )
    plain = subprocess.run([sys.executable, "train.py"], capture_output=True, cwd=tmp_path, check=False)
    command = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py"]
    traced = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert traced.returncode == plain.returncode == 1
    assert traced.stderr.startswith(plain.stderr)
    assert b"OUT OF MEMORY   asked for" in traced.stderr
