"""The first screen of a report, and what is drawn: shapes and pixels in headless Chromium, not only data."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import modtrace
from modtrace.analysis.flat_profile import flat_profile, hottest
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import open_trace
from modtrace.units import duration, percent
from modtrace.views.html.colors import CLASS_COLORS, OTHER_CLASS_COLOR, PHASE_COLORS
from modtrace.views.html.overview import strip_limit
from modtrace.views.html.report import report
from tests.views.reports import train
from tests.views.test_report_in_a_browser import Opened


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return train(tmp_path_factory.mktemp("first") / "t.mtrace", names=["a", "b"], memory="1:3")


def written(trace, path):
    """The report of a trace in a file."""
    path.write_text(report(open_trace(trace.path)).html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    return written(trace, tmp_path_factory.mktemp("first") / "r.html")


@pytest.fixture
def opened(browser, file):
    page = Opened(browser, file)
    yield page
    page.context.close()
    assert not [text for text in page.wrong if "willReadFrequently" not in text]


BOXES = """(selector) => Array.from(document.querySelectorAll(selector), (shape) => {
  const box = shape.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height, getComputedStyle(shape).fill];
})"""


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_answer_is_above_the_fold(browser, file, width, scheme):
    page = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
    for part in (".panel.step", ".panel.hottest", ".panel.look", ".panel.memory", ".panel.steps"):
        box = page.page.locator(part).bounding_box()
        assert box is not None, part
        assert box["y"] + box["height"] <= 800, part
        assert box["x"] + box["width"] <= width, part
    page.context.close()


@pytest.mark.parametrize("width", [400, 800])
def test_a_narrow_page_is_not_wider_than_the_window(browser, file, width):
    page = Opened(browser, file, viewport={"width": width, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.page.locator(".panel.hottest").bounding_box()["width"] <= width
    page.context.close()


def test_on_a_narrow_page_what_is_known_of_a_row_can_be_put_away(browser, file):
    page = Opened(browser, file, viewport={"width": 400, "height": 800})
    assert not page.page.locator("#detail").is_visible()
    page.page.locator(".hot tbody a").first.click()
    box = page.page.locator("#detail").bounding_box()
    assert box["y"] + box["height"] <= 801
    page.page.locator("#detail button.close").click()
    assert not page.page.locator("#detail").is_visible()
    page.context.close()


def test_numbers_are_those_of_the_flat_profile(opened, trace):
    profile = flat_profile(open_trace(trace.path))
    rows = hottest(profile, 8).rows
    texts = opened.page.locator(".hot tbody tr").evaluate_all(
        "all => all.map((row) => Array.from(row.cells, (cell) => cell.innerText.trim()))"
    )
    assert [text[0].split("\n")[0].split("  ")[0] for text in texts] == [row.label for row in rows]
    assert [text[2] for text in texts] == [duration(row.self_ns // profile.per) for row in rows]
    assert [text[3] for text in texts] == [percent(row.self_ns, profile.window.base_ns) for row in rows]


def test_bars_are_as_long_as_the_numbers_say(opened, trace):
    profile = flat_profile(open_trace(trace.path))
    rows = hottest(profile, 8).rows
    widths = opened.page.locator(".hot tbody tr").evaluate_all(
        "all => all.map((row) => Array.from(row.querySelectorAll('rect'), (one) => one.getBoundingClientRect().width)"
        ".reduce((sum, wide) => sum + wide, 0))"
    )
    longest = max(row.self_ns for row in rows)
    for wide, row in zip(widths, rows, strict=True):
        assert wide == pytest.approx(max(widths) * row.self_ns / longest, abs=2)
    phases = opened.page.evaluate(BOXES, ".panel.step rect")
    bar = opened.page.locator(".panel.step svg").bounding_box()
    assert sum(box[2] for box in phases) == pytest.approx(bar["width"], abs=6)
    assert len({box[4] for box in phases}) == len(phases)


def test_a_row_of_the_first_screen_leads_to_its_row_of_the_tree(opened):
    link = opened.page.locator(".hot tbody a", has_text="blocks").first
    name = link.inner_text()
    link.click()
    assert opened.page.evaluate("document.activeElement.id") == "tree-grid"
    path = opened.page.locator("#detail h3").inner_text()
    assert name.startswith(path)
    assert "row=" in opened.page.evaluate("location.hash")


@pytest.mark.parametrize("mode", ["no script", "print"])
def test_bars_are_there_without_a_script_and_on_paper(browser, file, mode):
    page = Opened(browser, file, java_script_enabled=mode != "no script")
    if mode == "print":
        page.page.emulate_media(media="print")
    for part in (".panel.step", ".panel.hottest", ".panel.memory", ".panel.steps"):
        assert page.page.locator(part).is_visible(), part
    box = page.page.locator(".hot rect").first.bounding_box()
    assert box["width"] > 20
    assert box["height"] > 5
    links = page.page.locator("nav a")
    assert {links.nth(at).inner_text() for at in range(links.count()) if links.nth(at).is_visible()} <= {
        "Summary", "Tree", "Environment",
    }  # fmt: skip
    page.context.close()


def deepest_row(page):
    """Open all rows; the label of the deepest with most time below the one chosen, and its level."""
    page.page.click("#open-all")
    levels = page.page.locator("#tree-grid .grid-space [role=row]:not([hidden])").evaluate_all(
        "all => all.map((row) => [Number(row.getAttribute('aria-level')), row.querySelector('.label').innerText])"
    )
    return max(level for level, _ in levels)


COLORS = """() => {
  const canvas = document.getElementById("icicle");
  const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const rows = [];
  for (let y = 10; y < height; y += 20) {
    let drawn = 0;
    for (let x = 0; x < width; x++) if (data[4 * (y * width + x) + 3] > 200) drawn++;
    rows.push(drawn);
  }
  return rows;
}"""


def test_the_flame_is_drawn_to_its_deepest_level(opened):
    levels = deepest_row(opened)
    opened.page.locator("#icicle").scroll_into_view_if_needed()
    opened.page.wait_for_timeout(100)
    drawn = opened.page.evaluate(COLORS)
    assert len(drawn) == levels
    assert all(drawn)


def test_the_deepest_level_can_be_pointed_at_and_chosen_after_a_zoom_too(opened):
    levels = deepest_row(opened)
    flame = opened.page.locator("#icicle")
    flame.scroll_into_view_if_needed()
    opened.page.wait_for_timeout(100)
    for zoomed in (False, True):
        if zoomed:
            opened.press("Enter")
            opened.page.wait_for_timeout(100)
            drawn = opened.page.evaluate(COLORS)
            assert 1 <= len(drawn) < levels
            assert all(drawn)
        y = 20 * (len(opened.page.evaluate(COLORS)) - 1) + 10
        x = opened.page.evaluate(
            """(y) => {
              const canvas = document.getElementById("icicle");
              const { data, width } = canvas.getContext("2d").getImageData(0, y, canvas.width, 1);
              let best = 0, run = 0, end = 0;
              for (let x = 0; x < width; x++) {
                run = data[4 * x + 3] > 200 ? run + 1 : 0;
                if (run > best) [best, end] = [run, x];
              }
              return end - best / 2;
            }""",
            y,
        )
        flame.hover(position={"x": x, "y": y})
        title = opened.text("#card b")
        assert "self" in opened.text("#card")
        flame.click(position={"x": x, "y": y})
        assert opened.text("#detail h3") == title
        assert opened.page.locator("#detail h3").evaluate(
            "one => { const box = one.getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight; }"
        )
        opened.press("ArrowUp")


def test_colors_of_phases_and_classes_are_disjoint(opened):
    classes = {*CLASS_COLORS, OTHER_CLASS_COLOR}
    assert len(classes) == len(CLASS_COLORS) + 1
    assert not classes & set(PHASE_COLORS.values())
    legend = opened.page.locator("#flame-legend li").all_inner_texts()
    assert {"forward", "backward", "optimizer", "Linear", "ReLU"} <= set(legend)
    marks = opened.page.locator("#flame-legend .mark").evaluate_all(
        "all => all.map((one) => one.style.background)"
    )
    assert len(set(marks)) == len(marks)


def test_steps_are_told_beside_the_pointer(opened):
    chart = opened.page.locator("#steps-chart")
    chart.hover(position={"x": 4, "y": 30})
    assert opened.text("#card b") == "step 0"
    assert "forward" in opened.text("#card")
    chart.click(position={"x": 4, "y": 30})
    assert opened.text("#step-told").startswith("step 0:")


def test_one_long_step_is_cut_and_the_others_are_not_flat(tmp_path):
    trace = train(tmp_path / "t.mtrace", names=["a"], steps=30)
    steps = timeline(open_trace(trace.path)).steps[0]
    start = np.arange(30) * 1_000_000
    end = start + 1_000
    end[7] += 899_000
    assert strip_limit(replace(steps, start=start, end=end), np.ones(30, np.bool_)) == 3_000
    end[7] = start[7] + 1_300
    assert strip_limit(replace(steps, start=start, end=end), np.ones(30, np.bool_)) == 1_300


def test_shares_are_of_the_steps_or_of_the_whole_run(opened, trace):
    stored = open_trace(trace.path)
    counted, run = flat_profile(stored), flat_profile(stored, whole_run=True)
    assert counted.window.text in opened.text("#share-note")
    assert "before the first call" in opened.text("#outside")
    step = opened.page.locator("#tree-grid .grid-space [role=row]").first
    calls = step.locator(".c-calls").inner_text()
    assert calls == str(counted.window.steps)
    opened.page.select_option("#share-of", "run")
    assert "the whole run" in opened.text("#share-note")
    assert step.locator(".c-calls").inner_text() == str(len(trace.steps))
    assert duration(run.before_ns) in opened.text("#outside")
    opened.press("o")


def test_a_row_that_did_not_run_in_the_steps_has_no_share(browser, tmp_path):
    model, late = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for step in range(4):
            if not step:
                late(torch.ones(1, 4))
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    rows = page.page.locator("#tree-grid .grid-space [role=row]:not([hidden])").evaluate_all(
        "all => all.map((row) => ['calls', 'self', 'share', 'total']"
        ".map((name) => row.querySelector(`.c-${name}`).innerText))"
    )
    assert ["0", "-", "-", "-"] in rows
    assert all(row[2] != "-" for row in rows if row[0] != "0")
    page.context.close()


def test_the_flat_table_is_the_flat_profile(opened, trace):
    profile = flat_profile(open_trace(trace.path))
    opened.page.select_option("#mode", "flat")
    rows = opened.page.locator("#flat-grid .grid-space [role=row]:not([hidden])")
    assert rows.count() == len(profile.rows)
    assert rows.first.locator(".c-label").inner_text() == profile.rows[0].label
    assert rows.first.locator(".c-self_ns").inner_text() == duration(profile.rows[0].self_ns)
    assert rows.first.locator(".c-share").inner_text() == percent(
        profile.rows[0].self_ns, profile.window.base_ns
    )
    opened.page.focus("#flat-grid .grid-head .c-calls")
    opened.press("Enter")
    assert opened.page.get_attribute("#flat-grid .grid-head .c-calls", "aria-sort") == "descending"
    assert int(rows.first.locator(".c-calls").inner_text()) == max(row.calls for row in profile.rows)
    opened.page.click("#copy-tree")
    copied = list(csv.DictReader(io.StringIO(opened.copied())))
    assert {(row["module"], int(row["self_ns"])) for row in copied} == {
        (row.label, row.self_ns) for row in profile.rows
    }
    opened.press("m")
    assert opened.page.locator("#tree-grid").is_visible()


def test_back_hash_and_deep_links(opened):
    opened.press("2", "Home")
    first = opened.page.evaluate("location.hash")
    opened.page.locator(".hot tbody a", has_text="blocks").first.click()
    second = opened.page.evaluate("location.hash")
    assert second != first
    chosen = opened.text("#detail h3")
    opened.page.go_back()
    assert opened.chosen() == "step"
    opened.page.go_forward()
    assert opened.text("#detail h3") == chosen
    opened.page.evaluate(
        "location.hash = '#row=step/forward&sort=self&filter=type%3ALinear&rows=flat&of=run'"
    )
    opened.page.wait_for_function("document.getElementById('filter').value === 'type:Linear'")
    assert opened.page.input_value("#sort") == "self"
    assert opened.page.input_value("#mode") == "flat"
    assert opened.page.input_value("#share-of") == "run"
    opened.page.evaluate("location.hash = '#row=no/such/row'")
    opened.page.wait_for_function("document.getElementById('filter').value === ''")


def test_an_address_holds_zoom_and_open_rows(opened):
    rows_at_first = opened.page.get_attribute("#tree-grid", "aria-rowcount")
    forward = opened.page.locator("#tree-grid .grid-space [role=row]", has_text="forward").first
    forward.locator(".twist").click()
    opened.press("3", "Enter")
    opened.page.wait_for_function("location.hash.includes('zoom=step/forward')")
    address = opened.page.url
    rows = opened.page.get_attribute("#tree-grid", "aria-rowcount")
    assert rows != rows_at_first
    height = opened.page.locator("#icicle").bounding_box()["height"]
    again = opened.context.new_page()
    again.goto(address)
    again.wait_for_selector("html[data-ready]")
    assert again.get_attribute("#tree-grid", "aria-rowcount") == rows
    assert again.locator("#icicle").bounding_box()["height"] == height
    again.close()
    opened.page.go_back()
    opened.page.wait_for_function(
        f"document.getElementById('icicle').getBoundingClientRect().height > {height}"
    )


def test_back_goes_to_the_row_that_was_clicked_before(opened):
    row = opened.page.locator("#tree-grid .grid-space [role=row]")
    row.nth(1).locator(".c-self").click()
    first = opened.chosen()
    row.nth(3).locator(".c-self").click()
    assert opened.chosen() != first
    opened.page.go_back()
    opened.page.wait_for_function(
        "(text) => document.querySelector('#tree-grid [aria-selected=true] .label')?.innerText === text",
        arg=first,
    )


def test_a_killed_run_says_where_it_was_first(browser, tmp_path):
    script = tmp_path / "s.py"
    script.write_text(
        "import os, signal, torch\n"
        "class Slow(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if len(calls) == 4:\n"
        "            import modtrace, time\n"
        "            time.sleep(1.5)\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        calls.append(1)\n"
        "        return x\n"
        "calls = []\n"
        "m = torch.nn.Sequential(torch.nn.Linear(2, 2), Slow())\n"
        "for _ in range(6):\n"
        "    m(torch.ones(1, 2))\n",
        encoding="utf-8",
    )
    words = [sys.executable, "-m", "modtrace", "run", "-o", str(tmp_path / "t.mtrace"), str(script)]
    subprocess.run(words, capture_output=True, check=False)
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    assert "killed" in page.text("h1")
    assert "killed while in m Sequential > 1 Slow, f32[1,2]" in page.text("#summary > .failure")
    assert page.page.locator("#summary > .failure").bounding_box()["y"] < 300
    page.page.locator("#summary > .failure a").click()
    assert page.text("#detail h3") == "1"
    assert "Nothing stands out" not in page.text("body")
    page.context.close()


def test_a_failed_run_begins_with_the_failure_and_leads_to_its_row(browser, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=tmp_path / "t.mtrace"):
        model(torch.ones(2, 4))
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    assert page.page.locator("#summary > .failure").bounding_box()["y"] < 300
    page.page.locator(".failure li a").last.click()
    assert "raised" in page.text("#tree-grid [aria-selected=true]")
    page.context.close()


def test_why_it_failed_stands_before_where(browser, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=tmp_path / "t.mtrace"):
        model(torch.ones(2, 4))
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    reason, path = page.page.locator(".failure .reason"), page.page.locator(".failure ol")
    assert reason.inner_text() == "The input's last size is 4; the weight [5, 5] takes 5."
    assert reason.bounding_box()["y"] < path.bounding_box()["y"]
    assert path.locator("li").all_inner_texts() == ["Sequential got f32[2,4]", "1 Linear got f32[2,4]"]
    page.context.close()


@pytest.mark.parametrize("steps", [4, 8])
def test_a_run_without_findings_says_where_to_begin(browser, tmp_path, steps):
    trace = train(tmp_path / "t.mtrace", names=["a"], steps=steps)
    page = Opened(browser, written(trace, tmp_path / "r.html"))
    page.page.set_viewport_size({"width": 400, "height": 800})
    look = page.page.locator(".panel.look")
    words = look.inner_text()
    if not look.locator("li").count():
        profile = flat_profile(open_trace(trace.path))
        first = next(row for row in profile.rows if row.of_module)
        share = percent(first.self_ns, profile.window.base_ns)
        assert f"{first.label} {first.type} takes most: {share}% of a step" in words
        assert ("Most remarks need 5 steps" in words) == (profile.window.steps < 5)
        link = look.locator("a").first
        link.click()
        assert page.text("#detail h3") == first.name
    assert look.bounding_box()["y"] < page.page.locator(".panel.hottest").bounding_box()["y"]
    page.context.close()


def test_an_error_that_the_program_dealt_with_is_no_failure(browser, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for step in range(4):
            if step == 1:
                with pytest.raises(RuntimeError):
                    model(torch.ones(2, 5))
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    assert page.page.locator(".failure").count() == 0
    assert "raised and went on" in page.text(".panel.look")
    page.context.close()


def test_a_link_leads_to_its_row_without_a_script(browser, file):
    page = Opened(browser, file, java_script_enabled=False)
    page.page.locator(".hot tbody a", has_text="blocks").first.click()
    row = page.page.locator("#static-rows tr:target")
    assert row.count() == 1
    box = row.bounding_box()
    assert 0 <= box["y"] <= 900
    page.context.close()


def test_an_empty_trace_says_why_and_shows_no_empty_parts(browser, tmp_path):
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        pass
    page = Opened(browser, written(modtrace.load(tmp_path / "t.mtrace"), tmp_path / "r.html"))
    assert "No module was called" in page.text("#summary")
    for part in ("#tree", "#flame", "#timeline", "#tables", "#detail"):
        assert not page.page.locator(part).is_visible(), part
    assert page.page.locator("nav a:visible").all_inner_texts() == ["Summary", "Environment"]
    assert "Nothing stands out" not in page.text("body")
    page.context.close()


def test_links_stay_inside_the_frame_of_a_notebook(browser, trace, tmp_path):
    path = tmp_path / "cell.html"
    path.write_text(f"<h1>notebook</h1>{trace.show()._repr_html_()}", encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(state="attached")
    frame.locator("nav a", has_text="Flame").click()
    frame.locator(".hot tbody a").first.click()
    assert frame.locator("#tree-grid [aria-selected=true]").count() == 1
    assert frame.locator("h1", has_text="notebook").count() == 0
    context.close()
