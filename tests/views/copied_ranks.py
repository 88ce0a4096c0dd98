"""Jobs of many ranks, all with the calls of one that was recorded; and which of them are opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import nn

import modtrace
from modtrace.trace import reader


def copied_ranks(folder: Path, ranks: int, *, rollups: bool = True) -> Path:
    """A trace of so many ranks."""
    path = folder / "job.mtrace"
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with modtrace.trace(path=path, rollups=rollups):
        for _ in range(12):
            net(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    about = json.loads((path / "rank-0" / "process.json").read_text())
    for rank in range(ranks):
        target = path / f"rank-{rank}"
        if rank:
            shutil.copytree(path / "rank-0", target)
        (target / "process.json").write_text(json.dumps(about | {"rank": rank, "world_size": ranks}))
    return path


def opened_folders(monkeypatch) -> list[str]:
    """Names of the folders whose calls are read from now on, in order; it grows."""
    folders: list[str] = []
    read = reader.read_batches

    def batches(path, table, budget):
        if table == "calls":
            folders.append(path.parent.name)
        return read(path, table, budget)

    monkeypatch.setattr(reader, "read_batches", batches)
    return folders
