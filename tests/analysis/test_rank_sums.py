"""Ranks from the sums that they wrote, against the same ranks from their calls, which is other code."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.ranks.rank_numbers import reduced
from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.analysis.ranks.rank_sums import reduced_from_sums
from modtrace.analysis.ranks.stragglers import Peers, stragglers
from modtrace.cli import main
from modtrace.trace.reader import open_trace

CELLS = 1 << 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.act = nn.Tanh()

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return x


def record(path, steps, *, fails=False):
    net, criterion = Net(), nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with modtrace.trace(path=path, rollups=True):
        for step in range(steps):
            optimizer.zero_grad()
            criterion(
                net(torch.ones(2, 7 if fails and step == steps - 1 else 8)), torch.zeros(2, 8)
            ).backward()
            optimizer.step()


def numbers(path):
    """Of each rank from its sums, and from its calls."""
    stored = open_trace(path)
    return [
        (reduced_from_sums(stored.alone(folder), 0), reduced(stored.alone(folder), CELLS))
        for folder in stored.folders()
    ]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "t.mtrace"
    record(path, 200)
    return path


def test_the_same_rank_both_ways(one):
    ((sums, calls),) = numbers(one)
    assert sums.from_sums
    assert not calls.from_sums
    assert sums.places == calls.places
    assert sums.role == calls.role
    assert (sums.steps, sums.whole_steps) == (calls.steps, calls.whole_steps) == (200, 200)
    assert (sums.end.state, sums.end.failed, sums.devices) == (
        calls.end.state,
        calls.end.failed,
        calls.devices,
    )
    steps = modtrace.load(one).steps.iloc[1:]
    for key in ("data_ns", "backward_ns", "optimizer_ns"):
        exact = np.percentile(steps[key], 50, method="inverted_cdf")
        assert sums.phases_ns[key] == pytest.approx(exact, rel=0.01), key
    assert sums.phases_ns["forward_ns"] > calls.phases_ns["forward_ns"]  # the loss function is a root call


def test_bins_hold_all_steps_but_the_first_ones(one):
    """Means of bins against the single steps of the same rank."""
    ((sums, calls),) = numbers(one)
    width = sums.times.width
    assert width == 4
    assert len(sums.times.number) >= 200 / width - 2
    own = calls.times.own_ns.astype(np.float64)
    for first, shown in zip(sums.times.number.tolist(), sums.times.own_ns, strict=True):
        if first >= width and first + width <= 200:
            np.testing.assert_allclose(shown, own[first : first + width].mean(axis=0), rtol=1e-5)
    backward = sums.times.wait_ns[5:90] < sums.times.duration_ns[5:90]
    assert backward.all()


def test_a_width_of_others_is_kept_to(one):
    stored = open_trace(one)
    (folder,) = stored.folders()
    wide = reduced_from_sums(stored.alone(folder), 8)
    assert wide.times.width == 8
    assert len(wide.times.number) in (24, 25)
    narrow = reduced_from_sums(stored.alone(folder), 2)
    joined = narrow.times.own_ns[narrow.times.number >= 64].sum(axis=0)
    np.testing.assert_allclose(
        joined * 2, wide.times.own_ns[wide.times.number >= 64].sum(axis=0) * 8, rtol=0.06
    )


def test_no_call_is_opened_of_a_rank_that_ended_well(one):
    stored = open_trace(one)
    alone = stored.alone(stored.folders()[0])
    assert reduced_from_sums(alone, 0) is not None
    assert "calls" not in alone._raw


def test_sums_of_an_earlier_version_are_not_used(one, tmp_path, monkeypatch):
    """A trace whose sums have no own times is read by its calls."""
    from modtrace.trace.reader import Stored

    def without(self, table, read=Stored.unmerged):
        rows = read(self, table)
        if table != "rollups":
            return rows
        at = rows.schema.get_field_index("forward_self_ns")
        return rows.set_column(at, "forward_self_ns", pa.nulls(len(rows), pa.int64()))

    monkeypatch.setattr(Stored, "unmerged", without)
    report = rank_report(open_trace(one))
    assert not report.from_sums
    assert report.ranks[0].steps == 200


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Three ranks that ended well, and one that failed."""
    folder = tmp_path_factory.mktemp("job")
    path = folder / "job.mtrace"
    for rank in range(4):
        single = folder / f"{rank}.mtrace"
        if rank == 2:
            with pytest.raises(RuntimeError):
                record(single, 30, fails=True)
        else:
            record(single, 60)
        about = json.loads((single / "rank-0" / "process.json").read_text())
        (single / "rank-0" / "process.json").write_text(json.dumps(about | {"rank": rank, "world_size": 4}))
        shutil.move(single / "rank-0", path / f"rank-{rank}") if rank else shutil.move(single, path)
    return path


def test_a_job_from_sums(job, capsys):
    report = rank_report(open_trace(job))
    assert report.from_sums
    assert [rank.steps for rank in report.ranks] == [60, 60, 30, 60]
    assert set(report.roles) == {0}
    failed = report.ranks[2].end
    assert failed.failed
    assert failed.error.startswith("RuntimeError")
    assert failed.place == "layers.0"
    assert failed.step == 29
    main(["ranks", str(job), "--plain"])
    text = capsys.readouterr().out
    assert "rank 2 failed first: RuntimeError" in text
    assert "from sums that each rank wrote (--rollups)" in text


def test_modules_of_a_job_have_a_time_of_each_rank(job):
    report = rank_report(open_trace(job))
    for module in report.modules:
        times = dict(module.by_rank)
        assert sorted(times) == [0, 1, 2, 3]
        assert (module.low_ns, module.high_ns) == (min(times.values()), max(times.values()))
        assert times[module.high_rank] == module.high_ns


def test_info_opens_one_rank_and_says_which(job, capsys):
    main(["info", str(job), "--rank", "1", "--plain"])
    text = capsys.readouterr().out
    assert "rank 1 of 4 is shown" in text
    assert "rank 2 failed first" in text
    with pytest.raises(SystemExit) as left:
        main(["info", str(job), "--rank", "9", "--plain"])
    assert left.value.code == 2
    assert "rank 9 is not in the trace: it has 4, from 0 to 3" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [2, 4, 64])
def test_nobody_is_late_in_bins_of_alike_ranks(ranks):
    """Of means of 16 steps few are needed, and chance alone names nobody."""
    for seed in range(20 if ranks < 64 else 4):
        chance = np.random.default_rng(seed)
        own = [chance.normal(1e6, 5e4 / 4, (62, 40)).astype(np.float32) for _ in range(ranks)]
        total = np.stack([times.sum(axis=1) for times in own]).astype(float)
        none = np.zeros_like(total)
        assert stragglers(Peers(own, none, total, none, width=16)) == [], seed


def test_a_module_that_is_late_from_the_middle_on_is_named_in_bins():
    for seed in range(10):
        chance = np.random.default_rng(seed)
        own = [chance.normal(1e6, 5e4 / 4, (62, 40)).astype(np.float32) for _ in range(4)]
        own[3][31:, 7] *= 1.2
        total = np.stack([times.sum(axis=1) for times in own]).astype(float)
        none = np.zeros_like(total)
        (late,) = stragglers(
            Peers(own, none, total.max(axis=0, keepdims=True) + none, total.max(axis=0) - total, width=16)
        )
        assert (late.rank, late.place) == (3, 7)
        assert abs(late.since - 31) <= 1
