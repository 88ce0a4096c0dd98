"""Memory chart, tables, timelines and keys of a report, as they are drawn; and the HTML of a notebook."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import modtrace
from modtrace.analysis.flat_profile import flat_profile, hottest
from modtrace.analysis.memory import memory
from modtrace.trace.reader import open_trace
from modtrace.units import duration
from modtrace.views.html.aggregate import aggregate
from modtrace.views.html.colors import CATEGORY_COLORS, PHASE_COLORS
from modtrace.views.html.memory_chart import watched
from modtrace.views.html.report import report
from modtrace.views.html.tree_paths import TreePaths
from tests.views.reports import Page, train
from tests.views.test_report_first_screen import written
from tests.views.test_report_in_a_browser import Opened


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    # What torch's profiler does at its first start may take seconds, beside which steps would be no pixel wide.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        torch.ones(1)
    return train(tmp_path_factory.mktemp("parts") / "t.mtrace", names=["a", "b"], memory="1:4")


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    return written(trace, tmp_path_factory.mktemp("parts") / "r.html")


@pytest.fixture
def opened(browser, file):
    page = Opened(browser, file)
    yield page
    page.context.close()
    assert not [text for text in page.wrong if "willReadFrequently" not in text]


COLORS = """(selector) => {
  const canvas = document.querySelector(selector);
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const seen = {};
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] < 255) continue;
    const color = "#" + [0, 1, 2].map((part) => data[at + part].toString(16).padStart(2, "0")).join("").toUpperCase();
    seen[color] = (seen[color] ?? 0) + 1;
  }
  return seen;
}"""


def drawn(page, selector):
    """Color -> pixels of it in a canvas."""
    page.page.locator(selector).scroll_into_view_if_needed()
    page.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.page.evaluate(COLORS, selector)


def test_memory_is_stacked_by_what_it_is_held_for(opened, trace):
    (device,) = memory(open_trace(trace.path))
    names = list(CATEGORY_COLORS)
    large = {names[code] for code in device.category.tolist()} - {"buffer"}
    seen = drawn(opened, ".curve")
    for name in large & {"parameter", "gradient", "activation"}:
        assert seen.get(CATEGORY_COLORS[name], 0) > 20, name
    legend = opened.page.locator("#memory .legend li").all_inner_texts()
    assert {name.replace("_", " ") for name in large} == set(legend)


def test_categories_add_up_to_the_curve(trace):
    stored = open_trace(trace.path)
    numbers = aggregate(stored, most_modules=None, most_steps=None)
    assert watched(stored, numbers.texts)
    page = Page(report(stored).html)
    curve = page.columns("curve-0")
    parts = [values for name, values in curve.items() if re.fullmatch(r"held_\d+", name)]
    assert len(parts) > 2
    assert [sum(column) for column in zip(*parts, strict=True)] == curve["held_bytes"]


def test_the_axis_of_memory_begins_with_the_first_call(opened):
    opened.page.locator(".curve").scroll_into_view_if_needed()
    opened.page.locator(".curve").hover(position={"x": 3, "y": 60})
    (told,) = re.findall(r"at (.+)", opened.text("#card b"))
    first = Page(opened.page.content()).meta["memory"][0]["from_ns"]
    unit = {"us": 1e3, "ms": 1e6, "s": 1e9}
    number, name = told.split(" ")
    assert float(number) * unit[name] > 0.8 * first


def test_a_row_of_a_table_chooses_its_row_of_the_tree(opened):
    grid = opened.page.locator("#modules-grid")
    grid.scroll_into_view_if_needed()
    row = grid.locator(".grid-space [role=row]", has_text="blocks.1.0")
    row.click()
    assert "blocks" in opened.text("#detail h3")
    assert opened.page.locator("#detail h3").evaluate(
        "one => { const box = one.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
    )


def test_modules_of_two_models_are_told_apart(browser, tmp_path):
    G, D = (torch.nn.Sequential(torch.nn.Linear(4, 4)) for _ in range(2))
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for _ in range(3):
            D(G(torch.ones(1, 4)))
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    names = page.page.locator("#modules-grid .grid-space [role=row]:not([hidden]) .c-name")
    assert sorted(names.all_inner_texts()) == ["D", "D.0", "G", "G.0"]
    page.context.close()


def test_tables_are_sorted_by_keyboard_and_say_so(opened):
    for name in ("modules", "steps"):
        heads = opened.page.locator(f"#{name}-grid .grid-head [role=columnheader]")
        assert all(heads.nth(at).get_attribute("aria-sort") == "none" for at in range(heads.count()))
        head = opened.page.locator(f"#{name}-grid .grid-head .c-calls")
        head.focus()
        opened.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        opened.press(" ")
        assert head.get_attribute("aria-sort") == "ascending"
        assert head.get_attribute("title")


def test_names_stay_in_sight_when_a_table_is_moved(opened):
    view = opened.page.locator("#modules-grid .grid-view")
    view.evaluate("one => { one.scrollLeft = 400; }")
    opened.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    left = view.bounding_box()["x"]
    assert view.evaluate("one => one.scrollLeft") == 400
    for cell in ("#modules-grid .grid-space .c-name", "#modules-grid .grid-head .c-name"):
        assert abs(opened.page.locator(cell).first.bounding_box()["x"] - left) < 12
    head, body = (
        opened.page.locator(f"#modules-grid {part} .c-self_ns").first.bounding_box()["x"]
        for part in (".grid-head", ".grid-space")
    )
    assert abs(head - body) < 1


def test_what_scrolls_has_the_focus_and_each_column_a_name(opened):
    """Rules of axe-core: scrollable-region-focusable, empty-table-header, heading-order."""
    assert (
        opened.page.evaluate("""() => Array.from(document.querySelectorAll("*")).filter((one) => {
        const style = getComputedStyle(one);
        const scrolls = /auto|scroll/.test(style.overflowY + style.overflowX)
          && (one.scrollHeight > one.clientHeight + 1 || one.scrollWidth > one.clientWidth + 1);
        return scrolls && one.tabIndex < 0 && !one.querySelector("[tabindex='0'], a, button");
    }).map((one) => one.id || one.className)""")
        == []
    )
    heads = opened.page.locator("[role=columnheader], th[scope=col]")
    texts = heads.evaluate_all("all => all.map((one) => one.textContent.trim())")
    assert texts
    assert all(texts)
    levels = opened.page.locator("h1, h2, h3").evaluate_all(
        "all => all.filter((one) => one.checkVisibility()).map((one) => Number(one.tagName[1]))"
    )
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    sizes = opened.page.locator("nav a").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 24


def test_no_head_of_the_first_screen_is_cut(opened):
    cut = opened.page.locator(".hot th[scope=col]").evaluate_all(
        "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1 && !one.querySelector('.spoken'))"
        ".map((one) => one.textContent)"
    )
    assert cut == []


def test_columns_of_the_tree_say_what_they_are(opened):
    heads = opened.page.locator("#tree-grid .grid-head [role=columnheader]:not([hidden])")
    titles = heads.evaluate_all(
        "all => all.filter((one) => !one.querySelector('.spoken')).map((one) => one.title)"
    )
    assert all(titles)


def test_the_timeline_is_zoomed_by_drag_wheel_and_keys(opened):
    before = drawn(opened, "#calls")
    calls = opened.page.locator("#calls")
    box = calls.bounding_box()
    mouse = opened.page.mouse
    mouse.move(box["x"] + 100, box["y"] + 30)
    mouse.down()
    mouse.move(box["x"] + 300, box["y"] + 30, steps=4)
    mouse.up()
    dragged = drawn(opened, "#calls")
    assert dragged != before
    assert opened.page.locator("#detail h3").count() == 0, "a drag is no click"
    mouse.dblclick(box["x"] + 200, box["y"] + 5)
    assert drawn(opened, "#calls") == before
    opened.page.keyboard.down("Control")
    mouse.wheel(0, -200)
    opened.page.keyboard.up("Control")
    assert drawn(opened, "#calls") != before
    calls.focus()
    opened.press("0")
    assert drawn(opened, "#calls") == before
    opened.press("w")
    assert drawn(opened, "#calls") != before
    for word in ("Drag", "ctrl+wheel", "double click"):
        assert word in opened.text("#zoom-hint")


def test_what_begins_in_the_pixel_of_a_short_call_is_drawn(browser, tmp_path):
    """A forward that begins behind a zero_grad of less than a pixel."""

    class Wide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(200):
                x = x @ x.T @ x / 1e3
            return x

    layer = torch.nn.Linear(300, 300)
    model = torch.nn.Sequential(layer, Wide())
    optimizer = torch.optim.SGD([layer.weight], lr=1e-9)
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(300, 300)).sum().backward()
            optimizer.step()
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    seen = drawn(page, "#calls")
    assert seen.get(PHASE_COLORS["forward"], 0) > 500
    assert seen.get(PHASE_COLORS["backward"], 0) > 500
    page.context.close()


def test_the_timeline_opens_at_the_median_of_the_usual_steps(opened, trace):
    frame = trace.steps
    usual = frame[frame["whole"] & ~frame["counted"] & (frame.index > 0)]
    wanted = usual["duration_ns"].sort_values().index[(len(usual) - 1) // 2]
    assert opened.text("#step-told").startswith(f"step {wanted}:")


def test_a_call_is_told_beside_the_pointer(opened):
    drawn(opened, "#calls")
    calls = opened.page.locator("#calls")
    calls.hover(position={"x": 60, "y": 18 + 9})
    assert opened.text("#card b")
    facts = opened.text("#card dl")
    assert "into step" in facts
    assert "% of the step" in facts
    calls.click(position={"x": 60, "y": 18 + 9})
    assert opened.text("#detail h3")


def test_the_run_is_drawn_in_time_and_leads_to_a_step(opened):
    seen = drawn(opened, "#run-time")
    assert any(map(seen.get, PHASE_COLORS.values()))  # which is widest depends on how slow the first step was
    run = opened.page.locator("#run-time")
    width = run.bounding_box()["width"]
    for x in range(round(width) - 3, 0, -3):  # how wide the last step is depends on how slow the first was
        run.hover(position={"x": x, "y": 24})
        if opened.text("#card b") == "step 5":
            break
    else:
        pytest.fail("no place of the run tells step 5")
    run.click(position={"x": x, "y": 24})
    assert opened.text("#step-told").startswith("step 5:")


def test_a_notebook_shows_the_hottest_modules_with_bars(trace):
    html = trace._repr_html_()
    profile = flat_profile(open_trace(trace.path))
    for row in hottest(profile, 5).rows:
        assert f">{duration(row.self_ns // profile.per)}<" in html
        assert f">{row.label}<" in html
    assert "\u2588" in html
    cells = re.findall(r"<t[dh] ([^>]*)>", html)
    assert cells
    assert all("white-space:nowrap" in cell for cell in cells)


def test_a_failure_is_told_in_a_notebook(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=tmp_path / "t.mtrace"):
        model(torch.ones(2, 4))
    html = modtrace.load(tmp_path / "t.mtrace")._repr_html_()
    assert "Failed: RuntimeError" in html
    assert "f32[2,4]" in html
    assert "size is 4" in html
    assert "never ran" not in html
    assert html.index("Failed") < html.index("Where the time went")


def test_paths_of_rows(trace):
    stored = open_trace(trace.path)
    tree = aggregate(stored, most_modules=None, most_steps=None).placed.tree
    paths = TreePaths(tree)
    all_paths = [paths.path(row) for row in range(len(tree.label))]
    assert len(set(all_paths)) == len(all_paths)
    assert all_paths[0] == "step"
    named = paths.named_in("blocks.2.0 (Linear) is 88% of the time")
    assert named is not None
    word, row = named
    assert (word, tree.type[row]) == ("blocks.2.0", "Linear")
    named = paths.named_in("SGD.step takes 40% of a step")
    assert named is not None
    assert (named[0], tree.label[named[1]]) == ("SGD.step", "optimizer")
    assert paths.named_in("nothing of that name") is None


def test_ranks_are_named_in_the_tree_and_beside_the_run(browser, tmp_path):
    script = tmp_path / "s.py"
    script.write_text(
        "import os, time, torch\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        time.sleep(0.05 * int(os.environ['RANK']))\n"
        "        return x\n"
        "m = torch.nn.Sequential(torch.nn.Linear(4, 4), Slow())\n"
        "o = torch.optim.SGD(m.parameters(), 0.1)\n"
        "for _ in range(4):\n"
        "    o.zero_grad(); m(torch.ones(1, 4)).sum().backward(); o.step()\n",
        encoding="utf-8",
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "modtrace", "run", "-o", "t.mtrace", str(script)],
            cwd=tmp_path,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a-run"},
        )
        for rank in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    trace = modtrace.load(tmp_path / "t.mtrace")
    page = Opened(browser, written(trace, tmp_path / "r.html"))
    tree = page.text("#tree-grid")
    assert "rank 0" in tree
    assert "rank 1" in tree
    assert page.page.locator("#run-time").bounding_box()["height"] > 18 + 2 * 18 - 4
    frame = trace.ranks
    phases, modules = (page.page.locator(".panel.ranks table").nth(number) for number in (0, 1))
    head = phases.locator("thead th").all_inner_texts()
    colors = {}
    for name, table in (("phases", phases), ("modules", modules)):
        colors[name] = table.locator("tbody tr").evaluate_all(
            "all => all.map((row) => Array.from(row.children, (cell) => getComputedStyle(cell).backgroundColor))"
        )
    ranks = phases.locator("tbody tr")
    for rank in range(2):
        cells = ranks.nth(rank).inner_text().split("\t")
        assert cells[:2] == [f"rank {rank}", duration(int(frame["step_ns"][rank]))]
        assert cells[head.index("forward")] == duration(int(frame["forward_ns"][rank]))
    nothing = "rgba(0, 0, 0, 0)"
    assert modules.locator("thead th").all_inner_texts()[1] == "1 forward", "the slow one comes first"
    assert colors["modules"][0][1] == nothing != colors["modules"][1][1]
    assert colors["phases"][1][1] != nothing, "its step takes longer too"
    assert page.page.locator("#rank").input_value() == "0"
    ranks.nth(1).locator("a").click()
    assert page.page.locator("#rank").input_value() == "1"
    page.context.close()
