"""The page of a pair, without a script and in a browser: what is drawn, and nothing that should not happen."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

from modtrace.analysis.comparing.comparison import Comparison
from modtrace.cli import main
from modtrace.views.html.pair_page import COLORS, pair_page
from tests.comparing.made_runs import NET, noisy_runs, run_of

MORE = {**NET, "h.2.adapter": ("Adapter", 100), "h.2.adapter.down": ("Linear", 700)}
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def comparison():
    return Comparison(
        noisy_runs(5, 1, environment={"torch": HOSTILE}),
        noisy_runs(5, 2, net=MORE, scale={"h.3.mlp.fc": 4, "optimizer": 0.5}),
    )


@pytest.fixture(scope="module")
def html(comparison):
    return pair_page(comparison, ("main", HOSTILE))


def test_the_page_says_all_without_a_script(html):
    text = unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", "\n", html, flags=re.DOTALL))
    for part in (
        "h.3.mlp.fc",
        "optimizer",
        "modules of one side alone",
        "all else",
        "the step",
        "h.2.adapter",
        "the same",
        "slower",
    ):
        assert part in text, part
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert html.count("<script") == 3


def test_data_are_those_of_the_comparison(html, comparison):
    data = json.loads(re.search(r'id="pair">(.*?)</script>', html, re.DOTALL)[1])
    rows = {row[1]: row for row in data["nodes"]}
    module = next(module for module in comparison.modules if module.name == "h.3.mlp.fc")
    assert rows["h.3.mlp.fc"][6] == module.times["subtree"].verdict == "slower"
    assert rows["h.3.mlp.fc"][5] == pytest.approx(module.times["subtree"].candidate_ns, rel=0.01)
    assert set(rows) == {"step", "model", *filter(None, MORE), *comparison.outside}


@pytest.fixture
def page(browser, html, tmp_path):
    file = tmp_path / "pair.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    shown, wrong = context.new_page(), []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on(
        "console", lambda message: None if "getImageData" in message.text else wrong.append(message.text)
    )
    shown.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    shown.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None
    )
    shown.goto(file.as_uri())
    shown.wait_for_selector("html[data-ready]")
    yield shown
    assert wrong == []
    context.close()


def names(page):
    return page.eval_on_selector_all("#pair-rows tr th", "heads => heads.map(head => head.title)")


def test_rows_open_sort_and_are_found(page):
    assert "h.3.mlp.fc" in names(page)
    assert names(page)[0] == "step"
    page.click("#close-all")
    assert "head" not in names(page)
    page.click("#pair-rows tr:nth-child(2) .twist")
    assert "head" in names(page)
    page.select_option("#pair-sort", "name")
    top = [
        name
        for name in names(page)
        if name in ("model", "data", "optimizer", "between phases", "modtrace itself")
    ]
    assert top == sorted(top)
    page.click('#pair-grid th[data-sort="change"]')
    assert page.get_attribute('#pair-grid th[data-sort="change"]', "aria-sort") == "descending"
    page.fill("#pair-find", "adapter.down")
    assert "h.2.adapter.down" in names(page)
    assert page.inner_text("#pair-hits") == "1 row"
    assert page.eval_on_selector_all("#pair-rows tr.hit th", "heads => heads.map(head => head.title)") == [
        "h.2.adapter.down"
    ]


def test_keys_move_in_the_tree(page):
    page.click("#close-all")
    page.focus("#pair-rows tr:first-child")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.eval_on_selector("#pair-rows tr.chosen th", "head => head.title") == names(page)[2]
    page.keyboard.press("ArrowLeft")
    assert page.eval_on_selector("#pair-rows tr.chosen th", "head => head.title") == "model"
    page.keyboard.press("ArrowLeft")
    assert "head" not in names(page)


PIXELS = """(canvas) => {
  const context = canvas.getContext("2d"), counts = {};
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    const color = "#" + [0, 1, 2].map((part) => data[at + part].toString(16).padStart(2, "0")).join("").toUpperCase();
    counts[color] = (counts[color] ?? 0) + 1;
  }
  return counts;
}"""


def drawn(page):
    """Verdict -> pixels of its colour in the flame."""
    counts = page.eval_on_selector("#pair-flame", PIXELS)
    return {verdict: counts.get(color.upper(), 0) for verdict, color in COLORS.items()}


def test_the_flame_is_coloured_by_what_changed(page):
    candidate = drawn(page)
    assert min(candidate[verdict] for verdict in ("slower", "faster", "same", "alone")) > 100
    page.select_option("#pair-side", "baseline")
    baseline = drawn(page)
    assert baseline["alone"] == 0
    assert baseline["faster"] > candidate["faster"]
    page.select_option("#pair-side", "difference")
    difference = drawn(page)
    assert difference["same"] < candidate["same"] / 5
    assert difference["slower"] > difference["faster"] > 100


def test_a_click_in_the_flame_chooses_a_row_and_zooms(page):
    page.locator("#pair-flame").click(position={"x": 10, "y": 30})
    assert page.eval_on_selector("#pair-rows tr.chosen th", "head => head.title") == "model"
    page.locator("#pair-flame").dblclick(position={"x": 10, "y": 50})
    assert page.eval_on_selector("#pair-rows tr.chosen th", "head => head.title") == "h"
    wide = drawn(page)
    page.keyboard.press("0")
    assert page.evaluate("document.activeElement.id") in ("pair-flame", "")
    assert wide["faster"] == 0, "the optimizer is outside of what was zoomed to"


CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("scheme", "scripted"), [("light", True), ("dark", True), ("light", False)])
@pytest.mark.parametrize("width", [400, 1280])
def test_it_can_be_used_by_keyboard_and_with_poor_sight(browser, html, tmp_path, scheme, scripted, width):
    file = tmp_path / "pair.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripted
    )
    shown = context.new_page()
    shown.goto(file.as_uri())
    if scripted:
        shown.wait_for_selector("html[data-ready]")
    assert shown.evaluate(f"(() => {{ {CHECKS}\nreturn lacking(); }})()") == []
    context.close()


def test_a_page_of_one_run_a_side_and_of_nothing(browser, tmp_path):
    for number, found in enumerate(
        (
            Comparison([run_of()], [run_of()]),
            Comparison([run_of({"": ("Net", 0)}, outside={"data": 0, "optimizer": 0})] * 2, [run_of()]),
        )
    ):
        file = tmp_path / f"{number}.html"
        file.write_text(pair_page(found, ("a", "b")), encoding="utf-8")
        shown = browser.new_page()
        shown.goto(file.as_uri())
        shown.wait_for_selector("html[data-ready]")
        shown.close()


def test_as_commands(tmp_path, monkeypatch, capsys):
    from modtrace.analysis.comparing.baseline_file import baseline_text

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    (tmp_path / "a.json").write_text(baseline_text(noisy_runs(5, 1)))
    (tmp_path / "b.json").write_text(baseline_text(noisy_runs(5, 2, scale={"head": 2})))
    main(["report", "a.json", "--against", "b.json"])
    assert (tmp_path / "a.json-against-b.json.html").stat().st_size > 10_000
    assert "wrote a.json-against-b.json.html" in capsys.readouterr().err
    main(["view", "a.json", "--against", "b.json"])
    assert "WHAT CHANGED" in capsys.readouterr().out
    for side in "ab":
        for number, run in enumerate(noisy_runs(5, ord(side), scale={"head": 2} if side == "b" else None)):
            (tmp_path / f"{side}-{number}.json").write_text(baseline_text([run]))
    sides = [[f"{side}-{number}.json" for number in range(5)] for side in "ab"]
    main(["report", *sides[0], "--against", *sides[1]])
    page = (tmp_path / "a-0.json-against-b-0.json.html").read_text(encoding="utf-8")
    assert "a-0.json and 4 more, 5 runs" in unescape(page)
    main(["view", *sides[0], f"--against={sides[1][0]}", *sides[1][1:]])
    assert "5 runs against 5" in capsys.readouterr().out
    for words, message in (
        (["report", "a.json", "--against", "b.json"], "exists already"),
        (["report", "a.json", "--against", "b.json", "--full"], "single calls"),
        (["view", "a.json", "--against"], "--against stands between the traces"),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        assert message in capsys.readouterr().err
