"""Own times of modules over ranks in trees, against medians of the single calls of each rank by itself."""

from __future__ import annotations

import json
import shutil
from statistics import median_low

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.metric_values import GroupNumbers, of_single_calls
from modtrace.analysis.ranks.rank_report import rank_report
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import open_trace
from modtrace.units import duration
from modtrace.views import console
from modtrace.views.html.report import report
from tests.views.copied_ranks import opened_folders
from tests.views.tui.screen import drive, press, text

KEYS = ("ranks_min", "ranks_median", "ranks_max")


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, width)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def made(folder, *, widths=(2, 2, 2), rollups):
    """A rank for each width of the last layer: ranks of one width have one role."""
    path = folder / "job.mtrace"
    for rank, width in enumerate(widths):
        single, net = folder / f"{rank}.mtrace", Net(width)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with modtrace.trace(path=single, rollups=rollups):
            for _ in range(40):
                net(torch.ones(2 + 30 * rank, 8)).sum().backward()
                optimizer.step()
        about = json.loads((single / "rank-0" / "process.json").read_text())
        (single / "rank-0" / "process.json").write_text(
            json.dumps(about | {"rank": rank, "world_size": len(widths)})
        )
        shutil.move(single / "rank-0", path / f"rank-{rank}") if rank else shutil.move(single, path)
    return path


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return made(tmp_path_factory.mktemp("job"), rollups=False)


@pytest.fixture(scope="module")
def summed(tmp_path_factory):
    return made(tmp_path_factory.mktemp("summed"), rollups=True)


def medians(path):
    """(name, kind) -> the median own time a step of each rank, of its calls by themselves."""
    found = {}
    for folder in open_trace(path).folders():
        one = modtrace.api.Trace(open_trace(path).alone(folder))
        usual = set(one.steps.index[one.steps["in_statistics"]])
        calls = one.calls[one.calls["kind"].isin(["module", "backward"]) & one.calls["step"].isin(usual)]
        by_step = calls.groupby(["name", "kind", "step"], observed=True)["self_ns"].sum()
        for (name, kind), spent in by_step.groupby(level=[0, 1], observed=True):
            found.setdefault((name, kind), []).append(float(np.median(spent.astype(float))))
    return found


def groups_by_place(stored):
    """A group for each module and direction of the rows of a timeline; but the backward of the root, in which no time
    of its own is spent.
    """
    table = timeline(stored).calls.to_arrow()
    trace = modtrace.api.Trace(stored)
    frame = trace.calls
    assert len(frame) == len(table)
    keys = [
        (row.name_, row.kind) if row.kind == "module" or (row.kind == "backward" and row.name_) else None
        for row in frame.rename(columns={"name": "name_"}).itertuples()
    ]
    places = sorted({key for key in keys if key is not None})
    return np.array([places.index(key) if key is not None else -1 for key in keys]), places


def test_rows_have_the_medians_of_all_ranks(job):
    stored = open_trace(job)
    rank_report(stored)
    one = stored.alone(stored.folders()[1])
    group, places = groups_by_place(one)
    numbers = GroupNumbers(one, group, len(places))
    wanted = medians(job)
    assert len(places) == 9
    for key, choose in zip(KEYS, (min, median_low, max), strict=True):
        values, known = numbers.values(key)
        assert known.all()
        for place, value in zip(places, values.tolist(), strict=True):
            assert value == pytest.approx(choose(wanted[place]), abs=1), (key, place)


def test_several_modules_in_one_row_are_added_up_on_each_rank(job):
    stored = open_trace(job)
    rank_report(stored)
    one = stored.alone(stored.folders()[0])
    group, places = groups_by_place(one)
    layers = [at for at, (name, kind) in enumerate(places) if name.startswith("layers") and kind == "module"]
    of_three = np.where(np.isin(group, layers), 0, -1)
    wanted = medians(job)
    sums = [sum(wanted[places[at]][rank] for at in layers) for rank in range(3)]
    for key, choose in zip(KEYS, (min, median_low, max), strict=True):
        values, known = GroupNumbers(one, of_three, 2).values(key)
        assert known.tolist() == [True, False]
        assert values[0] == pytest.approx(choose(sums), abs=3)


def test_unknown_where_there_is_nothing_to_tell(job, tmp_path):
    unread = open_trace(job)
    one = unread.alone(unread.folders()[0])
    group = np.zeros(len(timeline(one).calls), np.int64)
    for key in KEYS:
        assert not GroupNumbers(one, group, 1).values(key)[1].any(), "ranks have not been asked for"
    rank_report(unread)
    one = unread.alone(unread.folders()[0])
    for key in KEYS:
        assert not GroupNumbers(one, group, 1).values(key)[1].any(), "phases are in the group"
        assert not of_single_calls(one, key, 0, len(group))[1].any()
    roles = open_trace(made(tmp_path, widths=(2, 3, 4), rollups=True))
    one = roles.alone(roles.folders()[0])
    group, places = groups_by_place(one)
    assert not GroupNumbers(one, group, len(places)).values("ranks_max")[1].any(), "no two of one role"


def test_ranks_of_another_role_are_not_counted(tmp_path):
    stored = open_trace(made(tmp_path, widths=(2, 2, 5), rollups=True))
    of_two = {module.place: module for module in rank_report(stored).modules if module.role == 0}
    one = stored.alone(stored.folders()[0])
    group, places = groups_by_place(one)
    values, known = GroupNumbers(one, group, len(places)).values("ranks_max")
    assert known.all()
    for place, value in zip(places, values.tolist(), strict=True):
        direction = "forward" if place[1] == "module" else "backward"
        (module,) = [
            of_two[at] for at in of_two if at.direction == direction and at.name == (place[0] or "net")
        ]
        assert module.ranks == 2
        assert value == module.high_ns
    other = stored.alone(stored.folders()[2])
    group, places = groups_by_place(other)
    assert not GroupNumbers(other, group, len(places)).values("ranks_max")[1].any()


def wanted_texts(path):
    """Least, median and most of the backward of `head`, from the report of ranks."""
    (module,) = [
        module for module in rank_report(open_trace(path)).modules if module.place.text == "head backward"
    ]
    return [duration(number) for number in (module.low_ns, module.median_ns, module.high_ns)]


@pytest.mark.parametrize("width", [80, 140])
def test_text(job, width):
    stored = open_trace(job)
    lines = console.tree(stored.alone(stored.folders()[0]), width=width).splitlines()
    assert " ".join(lines[1].split()).startswith("CALL TREE total % calls ranks min ranks med ranks max")
    assert ("output" in lines[1]) == (width == 140)
    heads = [line for line in lines if line.split()[:1] == ["head"]]
    number = " ".join(wanted_texts(job))
    assert number in " ".join(heads[-1].split())
    assert max(map(len, lines)) <= width
    optimizer = next(line for line in lines if "optimizer" in line)
    assert "?" not in optimizer
    narrow = console.tree(stored.alone(stored.folders()[0]), width=79)
    assert "ranks min" not in narrow
    alone = console.tree(stored.alone(stored.folders()[0]), width=80, sort="ranks_max")
    assert alone.splitlines()[1].split().count("max") == 1


def test_viewer_and_its_background_open_no_other_rank(summed, monkeypatch):
    folders = opened_folders(monkeypatch)

    async def act(pilot, app):
        await app.workers.wait_for_complete()
        await press(pilot, "3", "E")
        head = next(line for line in text(app).splitlines() if "ranks max" in line)
        assert head.index("ranks min") < head.index("ranks med") < head.index("ranks max")
        lines = [line for line in text(app).splitlines() if " head " in line]
        assert all(number in lines[-1] for number in wanted_texts(summed))
        assert set(folders) == {"rank-0"}

    drive(summed, act, size=(260, 40))


def test_page(browser, job, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(report(open_trace(job)).html, encoding="utf-8")
    page = browser.new_page(viewport={"width": 2400, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.click("#open-all")
    for key, title in zip(KEYS, ("ranks min", "ranks med", "ranks max"), strict=True):
        head = page.locator(f"#tree-grid .grid-head .c-{key}")
        assert head.is_visible()
        assert head.inner_text() == title
    rows = page.locator("#tree-grid .grid-space [role=row]").all()
    cells = [
        (row.locator(".label").inner_text(), [row.locator(f".c-{key}").inner_text() for key in KEYS])
        for row in rows
    ]
    assert [texts for label, texts in cells if label == "head"][-1] == wanted_texts(job)
    assert ["", "", ""] in [texts for label, texts in cells if label.startswith("optimizer")]
    page.close()
