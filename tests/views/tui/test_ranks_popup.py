"""The ranks of a job in the viewer: what is drawn, and the way to one of them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

import modtrace
from modtrace.units import duration
from modtrace.views.tui.ranks_popup import RanksPopup
from tests.views.tui.screen import drive, press, text


class Part(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.lin = nn.Linear(size, size)

    def forward(self, x):
        return self.lin(x)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Two ranks; the second has two hundred times as much to compute."""
    folder = tmp_path_factory.mktemp("job")
    for rank, rows in enumerate((2, 20_000)):
        net = nn.Sequential(Part(32), Part(32))
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with modtrace.trace(path=folder / f"{rank}.mtrace"):
            for _ in range(6):
                net(torch.ones(rows, 32)).sum().backward()
                optimizer.step()
        about = folder / f"{rank}.mtrace" / "rank-0" / "process.json"
        about.write_text(json.dumps(json.loads(about.read_text()) | {"rank": rank, "world_size": 2}))
    shutil.move(folder / "1.mtrace" / "rank-0", folder / "0.mtrace" / "rank-1")
    return folder / "0.mtrace"


@pytest.mark.parametrize("size", [(120, 32), (80, 24)])
def test_a_line_a_rank_and_enter_shows_it(job, size):
    frame = modtrace.load(job).ranks

    async def act(pilot, app):
        assert app.process == 0
        await press(pilot, "b")
        assert isinstance(app.screen, RanksPopup)
        lines = text(app).splitlines()
        head = next(line for line in lines if "forward" in line)
        assert head.split()[1:4] == ["rank", "step", "forward"]
        for rank in (0, 1):
            line = next(line for line in lines if line.strip(" │").startswith(f"{rank} "))
            assert duration(int(frame["step_ns"][rank])) in line
            assert ("#" in line.strip(" │#")) == (rank == 1), "levels have signs too"
        await press(pilot, "down", "enter")
        assert not isinstance(app.screen, RanksPopup)
        assert app.process == 1
        assert "rank 1/2" in text(app)
        await press(pilot, "b", "escape")
        assert app.process == 1

    drive(job, act, size=size)


def test_one_process_has_no_ranks(job, tmp_path):
    shutil.copytree(job, tmp_path / "one.mtrace")
    shutil.rmtree(tmp_path / "one.mtrace" / "rank-1")

    async def act(pilot, app):
        await press(pilot, "b")
        assert not isinstance(app.screen, RanksPopup)

    drive(tmp_path / "one.mtrace", act)
