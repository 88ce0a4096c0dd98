"""The page of a job of many ranks: the calls of one, and numbers of the others from their sums."""

from __future__ import annotations

import re

import pytest

import modtrace
from modtrace.cli import main
from modtrace.trace.reader import open_trace
from modtrace.views.html.report import report
from tests.views.copied_ranks import copied_ranks, opened_folders

RANKS = 12


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return copied_ranks(tmp_path_factory.mktemp("job"), RANKS)


def ranks_of(html):
    """Names in the heat map: of all ranks, and of those that lead to steps in the page."""
    panel = html.partition('class="panel ranks"')[2].partition("<thead>")[2]
    names = re.findall(r'<th scope="row"><(\w+).*?>rank (\d+)</', panel.partition("</table>")[0])
    return [int(rank) for _, rank in names], [int(rank) for tag, rank in names if tag == "a"]


def test_one_rank_is_opened_and_all_are_in_the_heat_map(job, tmp_path, monkeypatch):
    folders = opened_folders(monkeypatch)
    main(["report", str(job), "-o", str(tmp_path / "page.html")])
    html = (tmp_path / "page.html").read_text()
    assert set(folders) == {"rank-0"}
    assert ranks_of(html) == ([*range(RANKS)], [0])
    assert "12; this page is of rank 0: modtrace report --rank N" in html


def test_another_rank_is_asked_for(job, tmp_path, monkeypatch):
    folders = opened_folders(monkeypatch)
    main(["report", str(job), "--rank", "7", "-o", str(tmp_path / "page.html")])
    html = (tmp_path / "page.html").read_text()
    assert set(folders) == {"rank-7"}
    assert ranks_of(html) == ([*range(RANKS)], [7])
    assert "12; this page is of rank 7" in html


def test_to_html_does_the_same(job, tmp_path, monkeypatch):
    folders = opened_folders(monkeypatch)
    modtrace.load(job).to_html(tmp_path / "page.html")
    assert set(folders) == {"rank-0"}


def test_many_ranks_without_sums_have_no_heat_map(tmp_path, monkeypatch):
    path = copied_ranks(tmp_path, RANKS, rollups=False)
    folders = opened_folders(monkeypatch)
    html = report(open_trace(path)).html
    assert set(folders) == {"rank-0"}
    assert ranks_of(html) == ([], [])
    assert "12; this page is of rank 0" in html


def test_few_ranks_with_few_calls_are_all_in_the_page(tmp_path, monkeypatch):
    path = copied_ranks(tmp_path, 3, rollups=False)
    html = report(open_trace(path)).html
    assert ranks_of(html) == ([0, 1, 2], [0, 1, 2])
    monkeypatch.setattr("modtrace.analysis.ranks.rank_report.FEW_CALLS", 3 * 12 * 3 - 1)
    html = report(open_trace(path)).html
    assert "3; this page is of rank 0" in html
