"""A finished trace, played again as it was written: a copy that grows batch by batch or byte by byte."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from modtrace.trace.schema import END_FILE, TABLES
from modtrace.trace.stream_reader import messages, open_stream

TRAINING = """
import sys, time, torch
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.act = torch.nn.Linear(8, 8), torch.nn.ReLU()
    def forward(self, x):
        return x + self.act(self.fc(x))

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.h = torch.nn.ModuleList(Block() for _ in range(4))
        self.head = torch.nn.Linear(8, 2)
    def forward(self, x):
        for block in self.h[:-1]:
            x = block(x)
        x = checkpoint(self.h[-1], x, use_reentrant=False)
        return self.head(x)

torch.manual_seed(0)
net, criterion = Net(), torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
data = TensorDataset(torch.randn(240, 8), torch.randint(0, 2, (240,)))
for epoch in range(int(sys.argv[1])):
    net.train()
    for x, y in DataLoader(data, batch_size=8):
        optimizer.zero_grad()
        criterion(net(x), y).backward()
        optimizer.step()
        time.sleep(0.01)  # so that it is written in many blocks
    net.eval()
    with torch.no_grad():
        for x, y in DataLoader(data, batch_size=60):
            net(x)
"""

INFERENCE = """
import sys, time, torch
net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
with torch.no_grad():
    for size in range(int(sys.argv[1])):
        net(torch.ones(1 + size % 7, 4))
        time.sleep(0.003)
"""

MARKED = """
import sys, time, torch, modtrace
net = torch.nn.Linear(4, 4)
for step in range(int(sys.argv[1])):
    with modtrace.span("work"):
        net(torch.ones(2, 4))
        net(torch.ones(3, 4)).sum().backward()
    modtrace.step()
    time.sleep(0.01)
"""

STAGED = """
import sys, time, torch
from torch import nn

def trains(model, optimizer):
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    time.sleep(0.01)

def validates(model, times):
    model.eval()
    with torch.no_grad():
        for _ in range(times):
            model(torch.randn(4, 8))
    model.train()

torch.manual_seed(0)
count = int(sys.argv[1])
body, head = nn.Linear(8, 8), nn.Linear(8, 2)
net = nn.Sequential(body, head)
validates(net, 2)
for part in (head, net, net):
    optimizer = torch.optim.SGD(part.parameters(), 0.1)
    for _ in range(count):
        trains(net, optimizer)
    validates(net, 1)
for _ in range(count):
    trains(net, torch.optim.SGD(net.parameters(), 0.1))
    validates(net, 1)
critic, generator = nn.Linear(8, 1), nn.Linear(8, 8)
first, second = (torch.optim.Adam(part.parameters()) for part in (critic, generator))
for _ in range(count):
    for _ in range(2):
        trains(nn.Sequential(generator, critic), first)
    trains(nn.Sequential(generator, critic), second)
"""


def record(folder: Path, source: str, *words: str) -> Path:
    """Run a script under modtrace and return its trace."""
    (folder / "script.py").write_text(source)
    trace = folder / "made.mtrace"
    subprocess.run(
        [sys.executable, "-m", "modtrace", "run", "-q", "-o", str(trace), "script.py", *words],
        cwd=folder, check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    return trace


class Replay:
    """A copy of a trace that shows what had been written by some moment."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.ends: dict[Path, list[tuple[int, int]]] = {}
        target.mkdir()
        shutil.copy(source / "run.json", target / "run.json")
        for folder in sorted(source.glob("rank-*")):
            (target / folder.name).mkdir()
            shutil.copy(folder / "process.json", target / folder.name)
            for table in TABLES:
                name = f"{table}.arrows"
                opened = open_stream(folder / name)
                if opened is None:
                    continue
                descriptor, status = opened
                self.ends[Path(folder.name, name)] = [
                    (batch.at_ns, end) for batch, end in messages(descriptor, status.st_size, table)
                ]
                os.close(descriptor)

    @property
    def moments(self) -> list[int]:
        """When something was written, in order."""
        return sorted({at for ends in self.ends.values() for at, _ in ends})

    def show(self, moment_ns: int) -> None:
        """Have in the copy what had been written by then."""
        for name, ends in self.ends.items():
            size = max((end for at, end in ends if at <= moment_ns), default=0)
            self.cut(name, size)

    def cut(self, name: Path, size: int) -> None:
        """Have so many bytes of one file in the copy; a file that had more keeps them."""
        target = self.target / name
        have = target.stat().st_size if target.exists() else 0
        if size > have:
            with (self.source / name).open("rb") as file, target.open("ab") as copy:
                file.seek(have)
                copy.write(file.read(size - have))

    def finish(self) -> None:
        """Have all of it, with the end of the processes."""
        for name in self.ends:
            self.cut(name, (self.source / name).stat().st_size)
        for folder in self.source.glob("rank-*"):
            shutil.copy(folder / END_FILE, self.target / folder.name)
