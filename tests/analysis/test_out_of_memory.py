"""A failed allocation: what torch says of it, what the step had made, and what is said to help."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import modtrace
from modtrace.analysis.failure import last_failure
from modtrace.analysis.out_of_memory import AllocatorMessage, autopsy, told
from modtrace.capture.engine.exceptions import first_line, is_out_of_memory
from modtrace.capture.engine.flusher import Flusher
from modtrace.capture.mechanisms import counter_readings as memory_readings
from modtrace.capture.mechanisms.device_memory import Counters
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


PUBLISHED = {
    # As users published them from 2024 to 2026; which version of torch said them is not told.
    "Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which 12.73 GiB is free. Including "
    "non-PyTorch memory, this process has 18.73 GiB memory in use. Of the allocated memory 9.08 GiB is allocated by "
    "PyTorch, and 9.35 GiB is reserved by PyTorch but unallocated.": (22.78, 31.47, 12.73, 9.08, 9.35),
    "Tried to allocate 1002.00 MiB. GPU 0 has a total capacity of 8.00 GiB of which 0 bytes is free. Of the allocated "
    "memory 13.98 GiB is allocated by PyTorch, and 129.48 MiB is reserved by PyTorch but unallocated.": (
        1002 / 1024, 8.0, 0.0, 13.98, 129.48 / 1024,
    ),
    "Tried to allocate 546.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which 514.19 MiB is free. Process 562167 "
    "has 15.25 GiB memory in use. Of the allocated memory 13.73 GiB is allocated by PyTorch, with 46.00 MiB allocated "
    "in private pools (e.g., CUDA Graphs), and 736.86 MiB is reserved by PyTorch but unallocated.": (
        546 / 1024, 15.77, 514.19 / 1024, 13.73, 736.86 / 1024,
    ),
    "Tried to allocate 124.68 GiB. GPU 0 has a total capacity of 95.22 GiB of which 51.23 GiB is free. Process 608946 "
    "has 14.91 GiB memory in use. Process 734147 has 29.07 GiB memory in use. Of the allocated memory 25.50 GiB is "
    "allocated by PyTorch, and 3.14 GiB is reserved by PyTorch but unallocated.": (124.68, 95.22, 51.23, 25.5, 3.14),
}  # fmt: skip
ADVICE = (
    " If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to "
    "avoid fragmentation.  See documentation for Memory Management  "
    "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)


@pytest.mark.parametrize("message", PUBLISHED)
def test_what_devices_have_said(message):
    line = first_line(
        torch.OutOfMemoryError("CUDA out of memory. " + message + ADVICE + "\nException raised from")
    )
    found = told("OutOfMemoryError", line)
    numbers = (found.asked, found.capacity, found.free, found.allocated, found.unused)
    assert numbers == tuple(round(value * GIB) for value in PUBLISHED[message])


def test_a_message_cut_anywhere_gives_no_other_number():
    whole = told("OutOfMemoryError", CUDA)
    for end in range(len(CUDA)):
        found = told("OutOfMemoryError", CUDA[:end])
        for name in ("asked", "capacity", "free", "allocated", "unused"):
            assert getattr(found, name) in (None, getattr(whole, name))


def test_what_torch_says():
    assert told("OutOfMemoryError", CUDA) == AllocatorMessage(
        2 * GIB, round(79.11 * GIB), round(1.19 * GIB), round(55.5 * GIB), round(21.5 * GIB)
    )
    assert told("RuntimeError", HOST) == AllocatorMessage(1 << 52, None, None, None, None)
    assert told("RuntimeError", "mat1 and mat2 shapes cannot be multiplied") is None
    assert told("ValueError", HOST) is None
    assert told("OutOfMemoryError", None) is None
    assert told("OutOfMemoryError", "") == AllocatorMessage(None, None, None, None, None)


@given(st.text())
def test_any_message_gives_numbers_or_none(message):
    for kind in ("OutOfMemoryError", "RuntimeError"):
        found = told(kind, CUDA[:40] + message)
        assert found is None or found.asked is None or found.asked >= 0


def test_numbers_without_end_are_no_numbers():
    for digits in (20, 400):
        found = told(
            "OutOfMemoryError",
            f"Tried to allocate {'9' * digits} GiB {'9' * digits} GiB is allocated by PyTorch",
        )
        assert (found.asked, found.allocated) == (None, None)


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


def failed(sizes=(8, 8, 8), *, messages=True, kind=torch.optim.SGD):
    torch.manual_seed(0)
    model = Net()
    optimizer = kind(model.parameters(), lr=0.01)
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


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (3, 3), (4, 3)])
def test_the_largest_outputs_are_listed(count, shown):
    t = failed()
    found = autopsy(t._read(), last_failure(t._read()))
    made = [replace(found.made[0], name=f"layer{number}") for number in range(count)]
    (line,) = [
        line for line in autopsy_lines(replace(found, made=made), width=400) if "largest outputs:" in line
    ]
    assert [f"layer{number} " in line for number in range(count)] == [
        number < shown for number in range(count)
    ]


def test_what_was_held_beside_outputs():
    for kind, state in ((torch.optim.SGD, None), (torch.optim.AdamW, 2), (torch.optim.Adagrad, 1)):
        t = failed(kind=kind)
        found = autopsy(t._read(), last_failure(t._read()))
        wanted = None if state is None else state * found.trainable_bytes
        assert (found.gradients, found.optimizers, found.kept) == (True, [(kind.__name__, wanted)], True)
        text = " ".join(" ".join(autopsy_lines(found, width=200)).split())
        assert "gradients up to 24.9 KiB" in text
        assert f"{kind.__name__}'s state {'?' if state is None else 'about'}" in text


def test_what_had_not_been_made_yet_is_not_told():
    t = failed((8,))
    found = autopsy(t._read(), last_failure(t._read()))
    assert (found.gradients, found.optimizers) == (False, [])
    assert "state" not in " ".join(autopsy_lines(found, width=200))


def test_without_gradients_nothing_is_kept():
    with pytest.raises(RuntimeError), modtrace.trace() as t, torch.no_grad():
        Net()(torch.ones(8, 16), 1 << 50)
    found = autopsy(t._read(), last_failure(t._read()))
    assert found.kept is False
    text = "\n".join(autopsy_lines(replace(found, told=told("OutOfMemoryError", "")), width=200))
    assert "freed again without gradients" in text
    assert "nothing to checkpoint" in text


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (CUDA, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
        (CUDA.replace("2.00 GiB", "30.00 GiB").replace("55.50", "1.50"), "held outside of torch"),
        ("Tried to allocate 8.00 KiB.", "checkpoint h.* (torch.utils.checkpoint)"),
    ],
)
def test_what_would_help(message, advice):
    t = failed()
    found = autopsy(t._read(), last_failure(t._read()))
    text = " ".join(autopsy_lines(replace(found, told=told("OutOfMemoryError", message)), width=200))
    assert advice in text


def test_the_setting_is_named_as_its_torch_does():
    t = failed()
    found = replace(autopsy(t._read(), last_failure(t._read())), told=told("OutOfMemoryError", CUDA))
    older = " ".join(autopsy_lines(replace(found, setting="PYTORCH_CUDA_ALLOC_CONF"), width=200))
    assert "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in older


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut_off(width):
    t = failed()
    found = replace(autopsy(t._read(), last_failure(t._read())), told=told("OutOfMemoryError", CUDA))
    lines = autopsy_lines(found, width=width)
    assert all(len(line) <= width for line in lines)
    assert "reserved but unused 21.5 GiB" in " ".join(" ".join(lines).split())


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
    assert "set PYTORCH_ALLOC_CONF=expandable_segments:True" in summary


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


KILLED = """
import os, signal, time, torch
class Net(torch.nn.Module):
    def forward(self, x, size):
        return x + torch.empty(size).sum()
net = Net()
def step(size):
    {around}
end = time.monotonic() + 1.0
while time.monotonic() < end:  # until no block is due for a while
    step(1)
    time.sleep(0.1)
step(1)
try:
    step(1 << 50)
except RuntimeError:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "around",
    [
        "net(torch.ones(1), size)",
        "with __import__('modtrace').span('outer'): net(torch.ones(1), size)",
    ],
)
def test_it_is_on_disk_before_the_process_dies(tmp_path, around):
    (tmp_path / "train.py").write_text(KILLED.format(around=around))
    command = [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", "train.py"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode in (-9, 137)
    t = modtrace.load(tmp_path / "t.mtrace")
    failure = last_failure(t._read())
    assert failure is not None
    assert autopsy(t._read(), failure).told.asked == 1 << 52


def test_which_exceptions_tell_of_memory():
    class Odd(RuntimeError):
        def __str__(self):
            raise AssertionError("code of the program's ran")

    yes = [
        MemoryError(),
        torch.OutOfMemoryError(""),
        RuntimeError(HOST),
        RuntimeError("CUDA error: out of memory"),
    ]
    no = [
        RuntimeError(),
        RuntimeError(3),
        RuntimeError("shapes"),
        ValueError(HOST),
        Odd(HOST),
        KeyboardInterrupt(),
    ]
    assert all(map(is_out_of_memory, yes))
    assert not any(map(is_out_of_memory, no))


class Allocator:
    """Of a device of the test's own, `meta`: what is allocated, and a quarter more reserved."""

    kind = "meta"

    def __init__(self):
        self.now = self.peak = 0

    def count(self):
        return 1

    def read(self, device):
        return Counters(self.now, self.now * 5 // 4, self.peak, None)

    def watch(self, resets):
        pass

    def close(self):
        pass

    def take(self, size):
        self.now += size
        self.peak = max(self.peak, self.now)


def run_out(monkeypatch, kept, message="CUDA out of memory. Tried to allocate 2.00 GiB."):
    """Steps that keep `kept` bytes each, and one more that fails inside a module, 40 MiB above that."""
    allocator = Allocator()
    monkeypatch.setattr(memory_readings, "memory_of", lambda kind: allocator if kind == "meta" else None)
    monkeypatch.setattr(memory_readings, "KINDS", ("meta",))

    class Head(nn.Module):
        fails = False

        def forward(self, x):
            allocator.take(40 << 20)
            if self.fails:
                raise torch.OutOfMemoryError(message)
            allocator.take(-(40 << 20))
            return x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Head()

        def forward(self, x):
            return self.head(x)

    model = Net()
    with modtrace.trace(flops=False) as t:
        for size in kept:
            model(torch.empty(8, device="meta"))
            allocator.take(size)
            modtrace.step()
        model.head.fails = True
        with pytest.raises(torch.OutOfMemoryError):
            model(torch.empty(8, device="meta"))
    return t, autopsy(t._read(), last_failure(t._read()))


def test_the_allocators_counters_stand_in_for_the_message(monkeypatch):
    _, found = run_out(monkeypatch, [100 << 20] * 4)
    assert found.told == AllocatorMessage(2 * GIB, None, None, 440 << 20, 110 << 20)
    assert found.ends_bytes == [100 << 20, 200 << 20, 300 << 20, 400 << 20]
    text = "\n".join(autopsy_lines(found, width=120))
    assert "asked for 2.00 GiB   allocated 440 MiB   reserved but unused 110 MiB" in text
    assert "allocated at the end of the steps before: 100 MiB, 200 MiB, 300 MiB, 400 MiB" in " ".join(
        text.split()
    )
    assert "each step leaves more memory held than the one before" in text


def test_what_the_message_says_is_kept(monkeypatch):
    _, found = run_out(monkeypatch, [100 << 20] * 2, message=CUDA)
    assert found.told == told("OutOfMemoryError", CUDA)


def test_memory_that_does_not_grow_is_no_growth(monkeypatch):
    _, found = run_out(monkeypatch, [100 << 20, 0, 0, 0, 0, 0, 0])
    assert found.ends_bytes == [100 << 20] * 5
    assert "each step leaves" not in "\n".join(autopsy_lines(found, width=80))


def test_the_counters_are_on_disk_when_the_error_leaves_the_model(monkeypatch, tmp_path):
    seen = []
    original = Flusher.at_once

    def at_once(self, buffer):
        original(self, buffer)
        seen.append(dict(self._blocks.writer.rows))

    monkeypatch.setattr(Flusher, "at_once", at_once)
    t, _ = run_out(monkeypatch, [1 << 20])
    assert [rows["device_memory"] for rows in seen] == [
        t._tracer.rows["device_memory"] - 1
    ]  # one more at the end


@pytest.mark.parametrize(
    ("allocated", "unused", "elsewhere"), [(50, 15, 25), (75, 15, 0), (80, 15, None), (None, 15, None)]
)
def test_what_others_hold_on_the_device(allocated, unused, elsewhere):
    message = AllocatorMessage(asked=20, capacity=100, free=10, allocated=allocated, unused=unused)
    assert message.elsewhere == elsewhere


@pytest.mark.parametrize(
    ("allocated", "unused", "expected"), [(50, 15, (50, 15)), (50, None, (60, 10)), (None, 15, (60, 10))]
)
def test_counters_complete_a_message_that_lacks_a_number(allocated, unused, expected):
    message = AllocatorMessage(None, None, None, allocated, unused).completed(allocated=60, reserved=70)
    assert (message.allocated, message.unused) == expected
