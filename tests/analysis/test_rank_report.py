"""Ranks are read one at a time; who failed first and who is behind follows from what each wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.ranks.rank_end import STANDS_NS, WRITTEN_NS, RankEnd
from modtrace.analysis.ranks.rank_faults import rank_faults
from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.cli import main
from modtrace.trace.reader import open_trace
from modtrace.views.ranks import named, percent, ranks_lines, remarks

STEPS = 24


class Wide(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def record(path, size, steps=STEPS, fail_at=None):
    model = Wide(size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path):
        for step in range(steps):
            x = torch.ones(2, 3 if step == fail_at else size)
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()


def job(folder, *ranks, world_size=None):
    """A trace of several ranks, each recorded here: (size, keywords of `record`)."""
    path = folder / "job.mtrace"
    for rank, (size, keywords) in enumerate(ranks):
        single = folder / f"{rank}.mtrace"
        try:
            record(single, size, **keywords)
        except RuntimeError:
            assert "fail_at" in keywords
        process = json.loads((single / "rank-0" / "process.json").read_text())
        process |= {"rank": rank, "world_size": world_size or len(ranks)}
        (single / "rank-0" / "process.json").write_text(json.dumps(process))
        if rank:
            shutil.move(single / "rank-0", path / f"rank-{rank}")
        else:
            shutil.move(single, path)
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two ranks of one role and one of another."""
    folder = tmp_path_factory.mktemp("three")
    return job(folder, (4, {}), (4, {}), (8, {"steps": 5}), world_size=4)


def report(path):
    return rank_report(open_trace(path))


def test_numbers_are_those_of_each_rank(three):
    frame, steps = modtrace.load(three).ranks, modtrace.load(three).steps
    assert frame["rank"].tolist() == [0, 1, 2]
    assert frame["steps"].tolist() == [STEPS, STEPS, 5]
    assert frame["role"].tolist() == [0, 0, 1]
    for rank in (0, 1, 2):
        counted = steps.loc[rank][steps.loc[rank].in_statistics]
        for column, source in {"step_ns": "duration_ns", "forward_ns": "forward_ns"}.items():
            exact = np.percentile(counted[source].to_numpy(float), 50, method="inverted_cdf")
            assert frame[column][rank] == int(exact)


def test_modules_are_merged_by_name_over_ranks_of_one_role(three):
    calls = modtrace.load(three).calls
    counted = modtrace.load(three).steps["in_statistics"]
    by_name = {
        (module.role, module.place.name, module.place.direction): module for module in report(three).modules
    }
    for name in ("layers.0", "layers.1"):
        for kind, direction in (("module", "forward"), ("backward", "backward")):
            medians = []
            for rank in (0, 1):
                rows = calls[(calls["rank"] == rank) & (calls.name == name) & (calls.kind == kind)]
                chosen = rows[[counted[rank, step] for step in rows.step]]
                medians.append(int(np.median(chosen.self_ns.to_numpy(float))))
            module = by_name[0, name, direction]
            assert (module.low_ns, module.high_ns, module.ranks) == (min(medians), max(medians), 2)
            assert medians[module.high_rank] == max(medians)
            assert by_name[1, name, direction].ranks == 1


def test_the_calls_of_one_rank_at_a_time_are_in_memory(three, monkeypatch):
    from modtrace.trace.reader import Stored

    opened = []
    original = Stored.alone

    def alone(stored, folder):
        part = original(stored, folder)
        opened.append(len(part.folders()))
        return part

    monkeypatch.setattr(Stored, "alone", alone)
    stored = open_trace(three)
    rank_report(stored)
    assert opened == [1, 1, 1]
    assert stored._calls is None


def test_a_rank_that_wrote_nothing_is_missing(three):
    assert report(three).missing == [3]
    assert "rank 3 of 4 has written nothing to this trace" in remarks(report(three))


def test_a_rank_that_cannot_be_read_is_told(three, tmp_path):
    path = tmp_path / "damaged.mtrace"
    shutil.copytree(three, path)
    (path / "rank-1" / "names.arrows").unlink()
    (path / "rank-1" / "modules.arrows").unlink()
    shown = report(path)
    assert [rank.rank for rank in shown.ranks] == [0, 1, 2]
    assert shown.ranks[0].steps == STEPS


def test_ranks_that_fail(tmp_path):
    path = job(tmp_path, (4, {}), (4, {"fail_at": 3}))
    shown = report(path)
    failed = shown.ranks[1].end
    assert (failed.failed, failed.place, failed.step) == (True, "layers.0", 3)
    assert failed.error.startswith("RuntimeError: mat1 and mat2")
    (first, *_) = remarks(shown)
    assert first.startswith("rank 1 failed first: RuntimeError: mat1 and mat2")
    assert first.endswith("in layers.0, at step 3")


def test_a_killed_rank(tmp_path):
    path = job(tmp_path, (4, {}), (4, {}))
    (path / "rank-1" / "end.json").unlink()
    process = json.loads((path / "rank-1" / "process.json").read_text())
    (path / "rank-1" / "process.json").write_text(json.dumps({**process, "pid": 0}))
    shown = report(path)
    assert shown.ranks[1].end.state == "killed, or left by os._exit"
    assert remarks(shown)[0] == (
        f"rank 1 failed first: killed, or left by os._exit, last written at step {STEPS}"
    )


def ended(**facts):
    return RankEnd(**{"state": "exit 1", "failed": True, "running": False, "at_unix_ns": 0, **facts})


def in_trouble(three, *ends):
    """The remarks about ranks that end in some way."""
    template = report(three)
    ranks = [
        replace(template.ranks[0], rank=rank, end=end, world_size=len(ends)) for rank, end in enumerate(ends)
    ]
    return rank_faults(replace(template, ranks=tuple(ranks), roles=(0,) * len(ends)))


NOTICED = {"error": "RuntimeError: Connection closed by peer", "noticed": True}
OWN = {"error": "ValueError: bad batch"}
KILLED = {"state": "killed", "step": 5}


def test_who_failed_first(three):
    first = lambda *ends: getattr(in_trouble(three, *ends).first, "rank", None)  # noqa: E731
    late, later = 10_000_000_000, 20_000_000_000
    assert first(ended(**NOTICED), ended(**OWN, at_unix_ns=later)) == 1
    assert first(ended(**NOTICED), ended(**KILLED)) == 1
    assert first(ended(**KILLED, noticed=True), ended(**KILLED)) == 1
    assert first(ended(**KILLED), ended(**KILLED)) is None
    assert first(ended(**OWN, at_unix_ns=later), ended(**KILLED)) == 0
    assert first(ended(**OWN, at_unix_ns=later), ended(error="KeyError: 3", at_unix_ns=late)) == 1
    assert first(ended(**OWN, at_unix_ns=late), ended(**OWN, at_unix_ns=late + 1)) is None
    assert first(ended(**NOTICED), ended(**NOTICED)) is None


def stands(step, calls, *, running=True, **facts):
    open_ns = STANDS_NS if running else WRITTEN_NS
    state = "still running" if running else "killed"
    facts = {"state": state, "failed": not running, "open_ns": open_ns, **facts}
    return ended(running=running, step=step, calls_in_step=calls, **facts)


def test_who_is_behind(three):
    def behind(*ends):
        faults = in_trouble(three, *ends)
        return [rank.rank for rank in faults.behind], [rank.rank for rank in faults.ahead]

    assert behind(stands(7, 20), stands(7, 12), stands(7, 20)) == ([1], [0, 2])
    assert behind(stands(7, 20), stands(6, 30)) == ([1], [0])
    assert behind(stands(7, 20), stands(7, 20)) == ([], [])
    assert behind(stands(7, 20, running=False), stands(7, 12, running=False)) == ([1], [0])
    # One that goes on may only not have written yet; one that was killed may have gone further than it wrote.
    assert behind(stands(7, 20), stands(7, 12, open_ns=STANDS_NS - 1)) == ([], [])
    assert behind(stands(7, 20), stands(7, 12, open_ns=None)) == ([], [])
    assert behind(stands(7, 20, running=False), stands(7, 12, running=False, open_ns=1)) == ([], [])
    assert behind(stands(7, 12), ended(state="exit 0", failed=False, step=30)) == ([0], [])


def test_texts(three):
    assert named([3]) == "rank 3"
    assert named([7, 0, 1, 2, 2]) == "ranks 0-2, 7"
    assert [percent(part) for part in (0.061, 0.1, 0.18, 0.0049, 0.0999)] == [
        "6.1%",
        "10%",
        "18%",
        "0.5%",
        "10%",
    ]
    lines = [line.text for line in ranks_lines(report(three), 80)]
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "modtrace ranks  3 ranks, 2 roles"


def test_the_command(three, capsys):
    main(["ranks", str(three), "--plain"])
    assert "rank 3 of 4 has written nothing" in capsys.readouterr().out
    main(["ranks", str(three), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert [rank["steps"] for rank in shown["ranks"]] == [STEPS, STEPS, 5]
    assert shown["missing"] == [3]
    assert {module["name"] for module in shown["modules"]} == {"model", "layers.0", "layers.1"}


def test_many_ranks_are_shown_in_few_lines(three):
    template = report(three)
    ranks = tuple(replace(template.ranks[0], rank=rank) for rank in range(1000))
    failed = replace(ranks[700], end=ended(**OWN, step=3))
    many = replace(template, ranks=(*ranks[:700], failed, *ranks[701:]), roles=(0,) * 1000)
    lines = [line.text for line in ranks_lines(many, 80)]
    assert len(lines) < 45
    assert any(line.split()[:1] == ["700"] for line in lines)
    assert "  984 more ranks: modtrace ranks --all" in lines
    every = [line.text for line in ranks_lines(many, 80, 1000)]
    assert len(every) > 1000


def test_ranks_that_compute_on_devices_are_not_compared(three, monkeypatch):
    """The host goes on while a device works: its times in modules tell nothing."""
    monkeypatch.setattr("modtrace.analysis.ranks.rank_numbers.accelerators", lambda _: ["cuda"])
    shown = report(three)
    assert (shown.compared_steps, shown.late) == (0, ())
    assert "cuda" in shown.why_not
    assert modtrace.load(three).ranks["late"].isna().all()


def test_a_failure_is_followed_below_distributed_data_parallel(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)))
        with pytest.raises(RuntimeError), modtrace.trace() as t:
            model(torch.ones(2, 3))
    finally:
        torch.distributed.destroy_process_group()
    assert [place.type for place in t.failure.path] == ["DistributedDataParallel", "Sequential", "Linear"]
    assert t.failure.path[-1].name == "module.1"
    assert t.ranks["failed"].tolist() == [True]


@pytest.mark.parametrize(
    ("waits_ms", "says"),
    [
        ((None, None), "no rank is held up"), ((None, 9), "no rank is held up"), ((0.2, 0.3), "no rank is held up"),
        ((0, 5), "rank 1 waits 5.00 ms a step for others in collectives, rank 0 0 ns;"),
        ((7, 1), "rank 0 waits 7.00 ms a step for others in collectives, rank 1 1.00 ms;"),
    ],
)  # fmt: skip
def test_where_ranks_wait_nobody_is_said_to_be_held_up_by_nobody(three, waits_ms, says):
    """What holds the other one up is in no module and in no wait for data: code between them."""
    ranks = [
        replace(rank, phases_ns=rank.phases_ns | {"step_ns": 10_000_000}, wait_ns=wait and int(wait * 1e6))
        for rank, wait in zip(report(three).ranks, waits_ms, strict=False)
    ]
    shown = replace(
        report(three),
        ranks=tuple(ranks),
        roles=(0, 0),
        late=(),
        compared_steps=20,
        compared=frozenset({0, 1}),
    )
    text = " ".join(" ".join(line.text for line in ranks_lines(shown, 200)).split())
    assert says in text
    assert ("no module and no wait for data says why, in 20 steps" in text) == ("waits" in says)


def test_code_between_the_phases_may_be_where_a_rank_is_held_up(three):
    phases = {"step_ns": 20_000_000}
    first, second = (
        replace(rank, phases_ns=rank.phases_ns | phases | {"other_ns": other_ns}, wait_ns=wait_ns)
        for rank, other_ns, wait_ns in zip(
            report(three).ranks, (1_000_000, 9_000_000), (8_000_000, 0), strict=False
        )
    )
    shown = replace(report(three), ranks=(first, second), roles=(0, 0), late=(), compared_steps=20)
    text = " ".join(" ".join(line.text for line in ranks_lines(shown, 300)).split())
    assert "; rank 1 takes 8.00 ms a step longer outside of data, forward, backward and optimizer, in" in text
