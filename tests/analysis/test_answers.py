"""DataFrames of answers say what the screens say; names of series mean one thing, or the candidates are listed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.findings.ranked import findings
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.memory_peaks import peaks
from modtrace.errors import UsageError

WIDTH = 8


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp, self.act = nn.Linear(WIDTH, WIDTH), nn.ReLU()

    def forward(self, x):
        return self.act(self.mlp(x))


class Net(nn.Module):
    """`h.0` to `h.2` are repeats; `loss` is the name of a phase too; `pair.0` and `pair.1` are unlike."""

    def __init__(self):
        super().__init__()
        self.h = nn.ModuleList([Block() for _ in range(3)])
        self.pair = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.loss = nn.Identity()

    def forward(self, x):
        for block in self.h:
            x = block(x)
        return self.loss(self.pair(x))


def trained(steps=6, **options):
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    with modtrace.trace(**options) as recorded:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, WIDTH)).sum().backward()
            optimizer.step()
    return recorded


@pytest.fixture(scope="module")
def t():
    return trained(memory=(0, 2))


@pytest.fixture(scope="module")
def saved(t, tmp_path_factory):
    return t.save(tmp_path_factory.mktemp("answers") / "x.mtrace")


def with_folders(saved, path, folders):
    """The trace with further processes: name of the folder -> rank."""
    shutil.copytree(saved, path)
    for name, rank in folders.items():
        shutil.copytree(saved / "rank-0", path / name)
        about = json.loads((path / name / "process.json").read_text())
        (path / name / "process.json").write_text(json.dumps(about | {"rank": rank, "world_size": 2}))
    return modtrace.load(path)


@pytest.fixture
def two_ranks(saved, tmp_path):
    return with_folders(saved, tmp_path / "two.mtrace", {"rank-1": 1})


@pytest.mark.parametrize("whole_run", [False, True])
def test_the_profile_is_that_of_the_screens(t, whole_run):
    frame, profile = t.profile(whole_run=whole_run), flat_profile(t._read(), whole_run=whole_run)
    count = len(profile.rows)
    assert frame["name"].tolist()[:count] == [row.name for row in profile.rows]
    assert frame["self_ns"].tolist()[:count] == [row.self_ns for row in profile.rows]
    assert frame["self_ns"].sum() == profile.window.base_ns
    assert frame["share"].sum() == pytest.approx(1)
    (window,) = frame.attrs["windows"]
    assert window == {
        "rank": 0, "text": profile.window.text, "base_ns": profile.window.base_ns, "steps": profile.window.steps
    }  # fmt: skip


def test_repeats_are_one_row_of_the_profile(t):
    frame = t.folded
    (mlp,) = frame[frame["name"] == "h.*.mlp"].to_dict("records")
    steps = frame.attrs["windows"][0]["steps"]
    assert (mlp["type"], mlp["instances"], mlp["calls"]) == ("Linear", 3, 3 * steps)
    assert (mlp["output"], mlp["of_module"]) == (f"f32[2,{WIDTH}]", True)
    assert mlp["forward_ns"] + mlp["backward_ns"] == mlp["self_ns"] > 0
    optimizer = frame[frame["name"] == "optimizer"].iloc[0]
    assert not optimizer["of_module"]
    assert optimizer[["instances", "forward_ns", "backward_ns", "output"]].isna().all()


def test_time_before_the_first_call_is_in_the_whole_run_alone(t):
    assert "before the first call" not in set(t.folded["name"])
    row = t.profile(whole_run=True).set_index("name").loc["before the first call"]
    assert row["self_ns"] == flat_profile(t._read(), whole_run=True).before_ns
    assert pd.isna(row["calls"])


def test_findings(t):
    frame = t.findings
    assert frame["text"].tolist() == [finding.text for finding in findings(t._read())]


def test_a_finding_about_results_has_no_time():
    model = Net()
    model.spare = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(model) as recorded:
        for _ in range(3):
            model(torch.ones(1, WIDTH)).sum().backward()
            optimizer.step()
    frame = recorded.findings.set_index("rule")
    assert pd.isna(frame.loc["never_ran", "won_ns"])
    assert "spare" in frame.loc["never_ran", "text"]


def test_gaps_say_what_is_missing(t, tmp_path):
    assert t.gaps.empty
    with modtrace.trace(path=tmp_path / "x.mtrace", max_bytes=1) as recorded:
        Net()(torch.ones(1, WIDTH))
    frame = recorded.gaps
    assert "limit" in " ".join(frame["reason"])
    assert set(frame["rank"].dropna()) == {0}
    (tmp_path / "x.mtrace" / "rank-0" / "end.json").unlink(missing_ok=True)
    notes = modtrace.load(tmp_path / "x.mtrace").gaps
    assert notes["rank"].isna().any()
    assert not notes.loc[notes["rank"].isna(), "reason"].eq("").any()


def test_operations(t):
    frame = t.operations.set_index(["name", "type"])
    mlp = frame.loc[("h.*.mlp", "Linear")]
    assert (mlp["instances"], mlp["calls"], mlp["counted"]) == (3, 18, True)
    assert mlp["flops"] == 2 * 2 * WIDTH * WIDTH
    assert "addmm" in mlp["operations"]
    uncounted = trained(2, flops=False).operations
    assert not uncounted["counted"].any()
    assert uncounted["flops"].isna().all()


def test_holders_of_the_peak(t):
    (peak,) = peaks(t._read())
    frame = t.holders
    assert frame["held_bytes"].sum() == peak.held_bytes
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["held_bytes"].is_monotonic_decreasing
    assert set(frame["peak_ns"]) == {peak.at_ns}
    assert {"parameter", "optimizer_state"} <= set(frame["category"])
    assert trained(1).holders.empty


def test_the_run(t, two_ranks):
    run = t.run
    assert (run.steps, run.ranks, run.world_size, run.state) == (6, (0,), None, "")
    assert run.module_calls == (t.calls["kind"] == "module").sum()
    assert run.torch == torch.__version__
    assert run.wall_ns == t._read().processes[0].wall_ns
    assert two_ranks.run.ranks == (0, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.steps = 3


def test_a_failure_has_path_shapes_and_reason():
    with pytest.raises(RuntimeError), modtrace.trace() as recorded:
        Net()(torch.ones(2, WIDTH + 1))
    failure = recorded.failure
    assert [(place.name, place.type) for place in failure.path][-1] == ("h.0.mlp", "Linear")
    assert failure.path[-1].tensors == f"f32[2,{WIDTH + 1}]"
    assert str(WIDTH + 1) in failure.reason
    assert recorded.run.state == "ended by RuntimeError"
    assert trained(1).failure is None


def test_steps_of_several_ranks_are_told_apart(t, two_ranks):
    assert t.steps.index.name == "step"
    assert "rank" in t.steps
    frame = two_ranks.steps
    assert frame.index.names == ["rank", "step"]
    assert frame.index.is_unique
    assert frame.index.tolist() == [(rank, step) for rank in (0, 1) for step in range(6)]
    expected = t.steps["duration_ns"].tolist()
    assert frame.xs(1, level="rank")["duration_ns"].tolist() == expected
    assert frame.reset_index()["rank"].tolist() == [0] * 6 + [1] * 6
    assert frame.groupby("rank")["duration_ns"].sum().tolist() == [sum(expected)] * 2
    assert frame.attrs["units"]["duration_ns"] == "ns"


def test_steps_of_a_rank_that_was_restarted(saved, tmp_path):
    frame = with_folders(saved, tmp_path / "again.mtrace", {"rank-0.1": 0, "rank-1": 1}).steps
    assert frame.index.names == ["rank", "process", "step"]
    assert frame.index.is_unique
    starts = [(0, 0), (0, 1), (1, 0)]
    assert frame.index.tolist() == [(*start, step) for start in starts for step in range(6)]


def test_modules_have_a_rank(t, two_ranks):
    frame = two_ranks.modules
    count = len(t.modules)
    assert t.modules["rank"].tolist() == [0] * count
    assert frame["rank"].tolist() == [0] * count + [1] * count
    assert frame["name"].tolist() == t.modules["name"].tolist() * 2
    of_calls = two_ranks.calls.dropna(subset=["module_id"])
    assert (
        frame["rank"].loc[of_calls["module_id"].astype(int)].to_numpy() == of_calls["rank"].to_numpy()
    ).all()


def test_the_profile_of_several_ranks(two_ranks):
    frame = two_ranks.folded
    assert set(frame["rank"]) == {0, 1}
    assert [window["rank"] for window in frame.attrs["windows"]] == [0, 1]
    for _, of_rank in frame.groupby("rank"):
        assert of_rank["share"].sum() == pytest.approx(1)


def test_a_folded_name_is_all_repeats(t):
    frame = t.series("h.*.mlp")
    each = [t.series(f"h.{number}.mlp") for number in range(3)]
    for name in ("calls", "total_ns", "forward_ns", "backward_ns", "self_ns"):
        assert frame[name].tolist() == sum(part[name] for part in each).tolist(), name
    assert frame["total_ns"].equals(frame["forward_ns"] + frame["backward_ns"])
    assert t.series("model.h.*.mlp").equals(frame)


@pytest.mark.parametrize("name", ["optimizer", "phase:optimizer"])
def test_a_phase(t, name):
    frame, calls = t.series(name), t.calls
    rows = calls[(calls["kind"] == "phase") & (calls["name"] == "optimizer")]
    assert frame["total_ns"].tolist() == rows["duration_ns"].tolist()
    assert frame["calls"].tolist() == [1] * 6
    assert frame[["forward_ns", "backward_ns", "recompute_ns"]].isna().all().all()
    assert t.series(name, type="Adam").equals(frame)


def test_spans_have_names_too():
    with modtrace.trace() as recorded:
        for _ in range(2):
            with modtrace.span("warm up"):
                Net()(torch.ones(1, WIDTH))
            modtrace.step()
    assert recorded.series("warm up")["calls"].tolist() == [1, 1]
    assert recorded.series("span:warm up")["total_ns"].notna().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "'loss' is a module and a phase; which one: model.loss, phase:loss"),
        ("pair.*", '\'pair.*\' are modules of several classes; which ones: type="Linear", type="ReLU"'),
        ("mlp", "no module or phase named 'mlp' ran; did you mean h.*.mlp or"),
        ("h.0.mpl", "no module or phase named 'h.0.mpl' ran; did you mean h.0.mlp"),
        ("optimiser", "did you mean optimizer?"),
        ("phase:optimiser", "no module or phase named 'phase:optimiser' ran; did you mean phase:optimizer"),
        ("zzzzzz", "no module or phase named 'zzzzzz' ran"),
    ],
)
def test_names_that_do_not_mean_one_thing(t, name, message):
    with pytest.raises(UsageError) as raised:
        t.series(name)
    assert str(raised.value).startswith(message) or message in str(raised.value)
    assert name != "zzzzzz" or str(raised.value) == message


def test_what_tells_them_apart_is_taken(t):
    assert t.series("model.loss")["forward_ns"].notna().all()
    assert t.series("phase:loss")["forward_ns"].isna().all()
    assert t.series("pair.*", type="ReLU").equals(t.series("pair.1"))
    with pytest.raises(UsageError, match="of class Conv2d ran"):
        t.series("pair.*", type="Conv2d")
