"""A number that is added to the schema and to the registry alone is in every view and export."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modtrace.units import size
from tests.views.reports import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    train(folder / "t.mtrace", names=["a"], steps=3)
    command = [sys.executable, "-m", "tests.views.a_further_metric", str(folder / "t.mtrace"), str(folder)]
    completed = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def facts(folder):
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def known_of(facts):
    return [number for number in facts["numbers"] if number is not None]


def test_text(facts):
    _, head, *lines = facts["tree"].splitlines()
    assert head.split()[-2:] == ["toys", "output"]
    most = max(known_of(facts))
    assert any(size(most) in line for line in lines)
    head, *rows = facts["modules"].splitlines()[1:]
    assert head.split() == ["self", "%", "forward", "backward", "total", "calls", "toys", "module"]
    end = head.index("toys") + 4
    cells = [row[end - 10 : end].split() for row in rows if len(row) > end]
    assert cells[0][1] == "KiB"
    assert len({cell[0] for cell in cells}) > 1
    passing = [number for number in known_of(facts) if number >= 3 * 1024]
    assert passing
    assert len(facts["where"].splitlines()) > len(passing)


def test_viewer(facts):
    assert "toy" in facts["keys"]
    assert "toy" in facts["columns"]
    assert "toys" in facts["head"].split()
    drawn = [
        number
        for number in facts["numbers"]
        if number is not None and any(size(number) in line for line in facts["lines"])
    ]
    assert drawn
    assert any(line.startswith("toys ") for line in facts["detail"])
    columns, *rows = facts["sheet"]
    place = columns.index("toy_bytes")
    assert {row[place] for row in rows} <= set(facts["numbers"])


def test_exports(folder, facts):
    with (folder / "calls.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = [int(row["toy_bytes"]) for row in rows if row["toy_bytes"]]
    assert len(known) > 10
    assert "" in {row["toy_bytes"] for row in rows}
    assert max(known) == max(known_of(facts))
    table = pq.read_table(folder / "calls.parquet")
    assert [value for value in table.column("toy_bytes").to_pylist() if value is not None] == known
    assert b"toys of a call" in b"".join(table.schema.field("toy_bytes").metadata.values())
    assert facts["calls"] == known


def test_documentation(facts):
    assert "| `toy_bytes` | Int64 | bytes | toys of a call |" in facts["page"]
    assert "| `toy` | toys | bytes | the most toys that a call had |" in facts["page"]


def test_report(browser, folder, facts):
    page = browser.new_page(viewport={"width": 1800, "height": 900})
    page.add_init_script("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    page.goto((folder / "r.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    page.click("#open-all")
    head = page.locator("#tree-grid .grid-head .c-toy")
    assert head.inner_text() == "toys"
    assert head.is_visible()
    cells = page.locator("#tree-grid .grid-space .c-toy").all_inner_texts()
    wanted = ["?" if number is None else size(number) for number in facts["numbers"]]
    assert cells[: len(wanted)] == wanted
    page.select_option("#sort", "toy")
    assert head.get_attribute("aria-sort") == "descending"
    page.fill("#filter", "toy >= 3KiB")
    passing = sum(number >= 3 * 1024 for number in known_of(facts))
    assert page.locator("#kept").inner_text().startswith(f"{passing} of ")
    page.fill("#filter", "toys>1KiB")
    assert "did you mean toy>1KiB?" in page.locator("#kept").inner_text()
    page.fill("#filter", "")
    page.click("#copy-tree")
    page.wait_for_function("window.copied")
    rows = list(csv.DictReader(page.evaluate("window.copied").splitlines()))
    assert {row["toy_bytes"] for row in rows} - {""} == {
        str(number) for number in facts["numbers"] if number is not None
    }
    page.locator("#tree-grid [role=row][data-position='0']").click()
    page.close()
