"""Of a job of many ranks the viewer opens the calls of those that are looked at."""

from __future__ import annotations

import pytest

from modtrace.cli import main
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.app import Viewer
from modtrace.views.tui.ranks_popup import RanksPopup
from tests.views.copied_ranks import copied_ranks, opened_folders
from tests.views.tui.screen import drive, press, text

RANKS = 12


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return copied_ranks(tmp_path_factory.mktemp("job"), RANKS)


def test_the_first_screen_opens_one_rank_and_a_key_the_next(job, monkeypatch):
    folders = opened_folders(monkeypatch)

    async def act(pilot, app):
        assert set(folders) == {"rank-0"}
        assert "rank 0/12" in text(app)
        await press(pilot, "right_curly_bracket")
        assert set(folders) == {"rank-0", "rank-1"}
        assert "rank 1/12" in text(app)
        await press(pilot, "left_curly_bracket", "left_curly_bracket")
        assert "rank 0/12" in text(app)
        assert set(folders) == {"rank-0", "rank-1"}

    drive(job, act)


def test_ranks_beside_each_other_open_none_and_enter_one(job, monkeypatch):
    folders = opened_folders(monkeypatch)

    async def act(pilot, app):
        await press(pilot, "b")
        assert isinstance(app.screen, RanksPopup)
        assert "reading" not in text(app)
        assert set(folders) == {"rank-0"}
        await press(pilot, *["down"] * 5, "enter")
        assert "rank 5/12" in text(app)
        assert set(folders) == {"rank-0", "rank-5"}

    drive(job, act)


def test_a_rank_that_cannot_be_read_leaves_the_one_that_is_shown(job, tmp_path, monkeypatch):
    path = copied_ranks(tmp_path, 2)
    folders = opened_folders(monkeypatch)

    async def act(pilot, app):
        whole = (path / "rank-1" / "modules.arrows").read_bytes()
        (path / "rank-1" / "modules.arrows").write_bytes((path / "rank-1" / "names.arrows").read_bytes())
        await press(pilot, "right_curly_bracket")
        assert "rank 0/2" in text(app)
        assert any("cannot be opened" in shown.message for shown in app._notifications)
        (path / "rank-1" / "modules.arrows").write_bytes(whole)
        await press(pilot, "right_curly_bracket")
        assert "rank 1/2" in text(app)

    drive(path, act)
    assert set(folders) == {"rank-0", "rank-1"}


def test_few_stay_open_the_one_that_is_shown_among_them(job, monkeypatch):
    folders = opened_folders(monkeypatch)
    opened = ViewerModel(job)
    for process in range(RANKS):
        opened.rank(process)
    folders.clear()
    opened.rank(RANKS - 1)
    opened.rank(RANKS - 8)
    assert folders == []
    opened.rank(0)
    assert set(folders) == {"rank-0"}


def test_a_rank_of_the_command_line(job, monkeypatch, capsys):
    folders = opened_folders(monkeypatch)
    assert Viewer(ViewerModel(job, rank=7)).process == 7
    assert set(folders) == {"rank-7"}
    main(["view", str(job), "--plain", "--rank", "9"])
    assert "rank 9 of 12 is shown" in capsys.readouterr().out
    main(["view", str(job), "--plain"])
    assert "rank 0 of 12 is shown" in capsys.readouterr().out
    assert set(folders) == {"rank-7", "rank-9", "rank-0"}
    for words in (["--rank", "12"], ["--rank", "x"], ["--against", str(job), "--rank", "1"]):
        with pytest.raises(SystemExit) as left:
            main(["view", str(job), "--plain", *words])
        assert left.value.code == 2
