"""The viewer of a pair: what is to be seen of both sides, and its keys."""

from __future__ import annotations

import asyncio
import csv

import pytest

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.views.tui.app import binding_ids
from modtrace.views.tui.pair_viewer import PairViewer, pair_binding_ids
from tests.comparing.made_runs import NET, noisy_runs
from tests.views.tui.screen import press, settled, styles, text

MORE = {**NET, "h.2.adapter": ("Adapter", 100), "h.2.adapter.down": ("Linear", 700)}


@pytest.fixture(scope="module")
def comparison():
    return Comparison(noisy_runs(5, 1), noisy_runs(5, 2, net=MORE, scale={"h.3.mlp.fc": 4, "optimizer": 0.5}))


def drive(comparison, act, size=(120, 40), keys=None):
    async def main():
        app = PairViewer(comparison, ("main", "new\x1b[2J"), **({"keys": keys} if keys else {}))
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            await act(pilot, app)

    asyncio.run(main())


def row_of(app, name):
    return next(line for line in text(app).splitlines() if f" {name} " in line)


def test_both_sides_and_the_change_are_to_be_seen(comparison):
    async def act(pilot, app):
        lines = text(app).splitlines()
        assert lines[0].startswith(" modtrace  main -> new\\x1b[2J   step 33.5 ms -> ")
        assert lines[0].endswith("slower")
        assert lines[1].split() == [
            "module",
            "baseline",
            "candidate",
            "differencev",
            "change",
            "verdict",
            "interval",
        ]
        cells = row_of(app, "fc Linear").split()
        assert cells[2:4] == ["1.30", "ms"]
        assert 3.8 < float(cells[6]) < 4.0
        assert "slower" in cells
        assert row_of(app, "adapter Adapter").split()[-1] == "alone"
        assert any(line.startswith("|step") for line in lines), "the flame"
        assert {"red", "cyan", "yellow"} <= {color.split("'")[1] for color in styles(app) if "'" in color}

    drive(comparison, act)


def test_rows_open_and_close(comparison):
    async def act(pilot, app):
        await press(pilot, "C")
        assert " fc Linear " not in text(app)
        assert "+ model Net" in text(app)
        await press(pilot, "down", "right")
        assert "- model Net" in text(app)
        assert "head Linear" in text(app)
        await press(pilot, "left")
        assert "head Linear" not in text(app)
        await press(pilot, "enter")
        assert "head Linear" in text(app)
        await press(pilot, "down", "left")
        assert app.screen.pair_list.node == 1
        await press(pilot, "E")
        assert len(app.screen.pair_tree.rows) == len(app.screen.pair_tree.nodes)

    drive(comparison, act)


def test_sorting_goes_round_and_stays_on_the_row(comparison):
    async def act(pilot, app):
        screen = app.screen
        await press(pilot, "down", "down")
        node = screen.pair_list.node
        seen = []
        for _ in range(5):
            seen.append(screen.pair_tree.sort)
            await press(pilot, "s")
            assert screen.pair_list.node == node
        assert seen == ["change", "candidate", "baseline", "name", "order"]
        assert screen.pair_tree.sort == "change"
        assert "sorted by change" in text(app)

    drive(comparison, act)


def test_the_flame_is_of_either_side_or_the_difference(comparison):
    async def act(pilot, app):
        screen, widths = app.screen, {}
        for side in ("candidate", "baseline", "difference"):
            assert screen.side == side
            boxes = screen.flame.boxes
            named = {
                screen.pair_tree.nodes[int(owner)].name: place for place, owner in enumerate(boxes.owner)
            }
            widths[side] = {name: int(boxes.end[at] - boxes.start[at]) for name, at in named.items()}
            assert f"flame of {side}" in text(app)
            await press(pilot, "d")
        assert "h.2.adapter" not in widths["baseline"]
        assert widths["candidate"]["h.3.mlp.fc"] > 2 * widths["baseline"]["h.3.mlp.fc"]
        assert widths["difference"]["h.3.mlp.fc"] > widths["difference"]["head"] * 10

    drive(comparison, act)


def test_tree_and_flame_point_at_the_same(comparison):
    async def act(pilot, app):
        screen = app.screen
        await press(pilot, "down", "down", "down")
        boxes = screen.flame.boxes
        assert int(boxes.owner[screen.flame.selected]) == screen.pair_list.node
        await press(pilot, "tab")
        assert screen.flame.has_focus
        await press(pilot, "up", "up", "up", "down", "right")
        assert int(boxes.owner[screen.flame.selected]) == screen.pair_list.node
        await press(pilot, "enter", "escape")

    drive(comparison, act)


@pytest.mark.parametrize("size", [(60, 12), (80, 24), (200, 50), (40, 8)])
def test_in_any_size(comparison, size):
    async def act(pilot, app):
        lines = text(app).splitlines()
        assert max(map(len, lines)) <= size[0]
        assert ("terminal too small" in lines[0]) == (size[0] < 60)
        await press(pilot, "question_mark")
        await press(pilot, "escape")

    drive(comparison, act, size)


def test_rows_are_exported(comparison, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def act(pilot, app):
        await press(pilot, "x", "enter")
        (file,) = tmp_path.glob("*.csv")
        rows = list(csv.DictReader(file.read_text().splitlines()))
        fc = next(row for row in rows if row["name"] == "h.3.mlp.fc")
        assert (fc["type"], fc["verdict"]) == ("Linear", "slower")
        assert int(fc["candidate_ns"]) - int(fc["baseline_ns"]) == int(fc["change_ns"]) > 0
        assert float(fc["ratio_low"]) < float(fc["ratio"]) < float(fc["ratio_high"])

    drive(comparison, act)


def test_keys_of_ones_own(comparison, tmp_path):
    assert set(pair_binding_ids()) < set(binding_ids())
    file = tmp_path / "keys.toml"
    file.write_text('pair.sort = "o"\ntree.sort = "p"\n')

    async def act(pilot, app):
        await press(pilot, "o")
        assert app.screen.pair_tree.sort == "candidate"
        await press(pilot, "q")
        assert not app.is_running

    drive(comparison, act, keys=file)
