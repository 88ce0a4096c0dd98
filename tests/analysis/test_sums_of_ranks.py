"""Sums of a job of several ranks: its calls stay closed, and the rows are those of each rank opened by itself."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.rollup_windows import rollup_facts
from modtrace.trace import reader
from modtrace.trace.reader import open_trace

RANKS = 3


class Net(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def made(folder, **options):
    """Ranks as torchrun leaves them; the modules of each have numbers of their own."""
    path = folder / "job.mtrace"
    for rank in range(RANKS):
        single = folder / f"{rank}.mtrace"
        net = Net(50 + rank)  # more modules than fit into a byte
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with modtrace.trace(path=single, **options):
            for _ in range(40):
                net(torch.ones(2, 8)).sum().backward()
                optimizer.step()
        about = json.loads((single / "rank-0" / "process.json").read_text())
        (single / "rank-0" / "process.json").write_text(
            json.dumps(about | {"rank": rank, "world_size": RANKS})
        )
        shutil.move(single / "rank-0", path / f"rank-{rank}") if rank else shutil.move(single, path)
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return made(tmp_path_factory.mktemp("job"), rollups=True)


def opened_calls(monkeypatch, *, forbidden=True):
    """Folders whose calls are read, in order; with `forbidden` none may be."""
    folders, read = [], reader.read_batches

    def batches(path, table, budget):
        if table in ("calls", "open"):
            assert not forbidden, f"{path} is opened"
            folders.append(path.parent.name)
        return read(path, table, budget)

    monkeypatch.setattr(reader, "read_batches", batches)
    return folders


def each_alone(path):
    """The rows of each rank as of a trace of its own, with module numbers of the whole job."""
    stored, frames, start = open_trace(path), [], 0
    for folder in stored.folders():
        one = modtrace.api.Trace(stored.alone(folder))
        frames.append(one.rollups.assign(module_id=one.rollups["module_id"] + start))
        start += len(one.modules)
    return pd.concat(frames, ignore_index=True)


def test_the_sums_of_a_job_open_no_calls(job, monkeypatch):
    expected = each_alone(job)
    modules = modtrace.load(job).modules
    opened_calls(monkeypatch)
    rows = modtrace.load(job).rollups
    texts = ("name", "type", "root", "kind")
    pd.testing.assert_frame_equal(
        rows.astype(dict.fromkeys(texts, object)), expected.astype(dict.fromkeys(texts, object))
    )
    assert sorted(set(rows["rank"])) == [0, 1, 2]
    of_modules = rows[rows["kind"] == "module"]
    names = modules["name"].loc[of_modules["module_id"]].to_numpy()
    assert (names == of_modules["name"].astype(object).to_numpy()).all()


def test_the_reader_of_calls_that_is_watched_is_the_one_that_is_used(job, monkeypatch):
    opened_calls(monkeypatch)
    with pytest.raises(AssertionError, match="is opened"):
        len(modtrace.load(job).calls)


def test_the_sums_of_the_first_rank_open_its_calls_alone(job, monkeypatch):
    alone = open_trace(job)
    expected = rollup_facts(alone.alone(alone.folders()[0]))
    folders = opened_calls(monkeypatch, forbidden=False)
    assert rollup_facts(open_trace(job)) == expected
    assert set(folders) == {"rank-0"}


def test_ranks_whose_first_steps_have_no_sums_are_opened_one_at_a_time(tmp_path):
    """With `--keep` sums begin where steps are left out; the steps before come from calls."""
    path = made(tmp_path, keep=20)
    rows = modtrace.load(path).rollups
    assert (rows.groupby("rank")["first_step"].min() == 0).all()
    steps = rows[rows["kind"] == "step"]
    assert (steps.groupby("rank")["calls"].sum() == 39).all()
    calls = rows[rows["kind"] == "module"].groupby(["rank", "name"], observed=True)["calls"].sum()
    assert (calls == 40).all()
