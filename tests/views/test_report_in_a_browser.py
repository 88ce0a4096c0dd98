"""The report in headless Chromium: no request, no error, no dialog; keys, filters, sizes and colors.

Skipped without Playwright and a Chromium, unless MODTRACE_REQUIRE_BROWSER is set: then that is a failure.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

import pandas as pd
import pytest

from modtrace.trace.reader import open_trace
from modtrace.views.html.report import report
from tests.views.browser import HTML
from tests.views.reports import HOSTILE, Page, train

COPIES = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return train(tmp_path_factory.mktemp("browser") / "t.mtrace", names=HOSTILE, memory="1:3")


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "r.html"
    trace.to_html(path)
    return path


GZIP_ALONE = """
const whole = DecompressionStream;
window.DecompressionStream = function (format) {
  if (format === "deflate-raw") throw new TypeError("unsupported");
  return new whole(format);
};
"""


class Opened:
    """A page and all that it did which it should not."""

    def __init__(self, browser, file, **options):
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("pageerror", lambda one: self.wrong.append(str(one)))
        self.page.on("console", lambda one: self.wrong.append(one.text))
        self.page.on("dialog", lambda one: (self.wrong.append(one.message), one.dismiss()))
        self.page.add_init_script(COPIES)
        self.page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready]")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector):
        return self.page.locator(selector).inner_text()

    def chosen(self):
        return self.text("#tree-grid [aria-selected=true] .label")

    def copied(self):
        return self.page.evaluate("window.copied")


@pytest.fixture
def opened(browser, file):
    one = Opened(browser, file)
    yield one
    one.context.close()
    assert not one.wrong
    assert [url.split("#")[0] for url in one.requests if not url.startswith("data:")] == [file.as_uri()]


def test_hostile_names_are_texts(opened):
    opened.page.click("#open-all")
    for button in ("#copy-tree", "#copy-modules", "#copy-steps"):
        opened.page.click(button)
    opened.press("2", *["ArrowDown"] * 30)
    for name in ("<img src=x onerror=alert(1)>", "</script><script>window"):
        opened.page.fill("#find", name)
        assert re.fullmatch(r"\d+ found", opened.text("#hits"))
    assert opened.page.evaluate("window.pwned") is None
    assert opened.page.locator("img, svg:not(.chart), iframe, #tree-grid script").count() == 0
    assert opened.page.locator("main script").count() == 0


def test_the_script_reads_the_calls_as_they_were(opened, trace, file):
    scripts = (HTML / "data.js").read_text(encoding="utf-8")
    rows = opened.page.evaluate(f"""(async () => {{
        {scripts}
        const [steps, paths] = [await columns("details"), await columns("paths")];
        const [names, tree] = [await texts("names"), await columns("tree")];
        const found = [];
        for (let at = 0; at < steps.rows; at++) {{
          const {{ chunk, offset, calls: rows, start_ns: start }} = steps;
          const step = {{ chunk: chunk[at], offset: offset[at], rows: rows[at], start: start[at] }};
          const calls = await callsOfStep(step, paths, tree.depth);
          for (let row = 0; row < calls.count; row++) {{
            const name = names[paths.name[calls.path[row]]];
            found.push([name, calls.thread[row], calls.start[row], calls.duration[row]]);
          }}
        }}
        return found;
    }})()""")
    read = Counter((name, thread, int(start), int(took)) for name, thread, start, took in rows)
    assert read == Counter(Page(file.read_text(encoding="utf-8")).rows())
    calls = trace.calls
    wanted = Counter(
        (int(start), -1 if pd.isna(took) else int(took))
        for start, took in zip(calls["start_ns"], calls["duration_ns"], strict=True)
    )
    assert not wanted - Counter((start, took) for _, _, start, took in read.elements())


@pytest.mark.parametrize(
    "missing", ["delete window.DecompressionStream", GZIP_ALONE], ids=["none", "gzip alone"]
)
def test_a_browser_that_cannot_unpack_is_told_so(browser, file, missing):
    """The parts without a script stay."""
    page = browser.new_page()
    page.add_init_script(missing)
    page.goto(file.as_uri())
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.inner_text("#trouble") == (
        "The interactive part of this page cannot be shown: this browser is too old to unpack its data (it needs one "
        "of May 2023 or later)"
    )
    assert page.locator("#summary").is_visible()
    assert page.locator("html.scripted").count() == 0
    page.close()


def test_copied_tables_are_the_frames(opened, trace):
    opened.page.click("#copy-modules")
    rows = list(csv.DictReader(io.StringIO(opened.copied())))
    for name in ("self_ns", "total_ns", "calls", "parameter_count"):
        wanted = ["" if pd.isna(value) else str(value) for value in trace.modules[name]]
        assert [row[name] for row in rows] == wanted
    assert any(row["name"].startswith("'=HYPER") or ".=HYPER" in row["name"] for row in rows)
    opened.page.click("#copy-steps")
    rows = list(csv.DictReader(io.StringIO(opened.copied())))
    assert [int(row["duration_ns"]) for row in rows] == trace.steps["duration_ns"].tolist()


def test_by_keyboard_alone(opened):
    opened.press("2", "Home")
    assert opened.chosen() == "step"
    rows = int(opened.page.get_attribute("#tree-grid", "aria-rowcount"))
    opened.press("ArrowLeft")
    assert int(opened.page.get_attribute("#tree-grid", "aria-rowcount")) < rows
    opened.press("ArrowRight", "E", "ArrowRight")
    assert opened.chosen() != "step"
    opened.press("/")
    opened.page.keyboard.type("linear")
    assert re.fullmatch(r"[2-9] found", opened.text("#hits"))
    opened.press("Enter")
    assert "1 of" in opened.text("#hits")
    opened.press("n")
    assert "2 of" in opened.text("#hits")
    opened.press("N")
    assert "1 of" in opened.text("#hits")
    opened.press("f")
    opened.page.keyboard.type("type:Linear")
    assert " of " in opened.text("#kept")
    opened.press("Escape", "F")
    assert opened.text("#kept") == ""
    opened.press("s")
    assert opened.page.input_value("#sort") == "self"
    assert opened.page.get_attribute("#tree-grid .grid-head .c-self", "aria-sort") == "descending"
    opened.press("r")
    assert opened.page.get_attribute("#tree-grid .grid-head .c-self", "aria-sort") == "ascending"
    step = opened.text("#step-told")
    there, back = "[]" if step.startswith("step 5:") else "]["  # behind the last step there is none
    opened.press(there)
    assert opened.text("#step-told") != step
    opened.press(back)
    assert opened.text("#step-told") == step
    for key, focused in (("3", "icicle"), ("4", "calls"), ("2", "tree-grid")):
        opened.press(key)
        assert opened.page.evaluate("document.activeElement.id") == focused
    opened.press("4", "ArrowDown", "ArrowRight")
    assert opened.text("#said")
    opened.press("5", "ArrowRight")
    assert "Held at" in opened.text(".holders caption")
    opened.press("2", "y")
    opened.press("?")
    assert opened.page.locator("#help").evaluate("one => one.open")
    opened.press("Escape")
    assert not opened.page.locator("#help").evaluate("one => one.open")


def test_a_screen_reader_finds_a_treegrid(opened):
    opened.press("2", "Home", "ArrowDown")
    grid = opened.page.locator("#tree-grid")
    assert grid.get_attribute("role") == "treegrid"
    active = opened.page.locator(f"#{grid.get_attribute('aria-activedescendant')}")
    assert active.get_attribute("aria-selected") == "true"
    assert active.get_attribute("aria-level") == "2"
    assert active.get_attribute("role") == "row"
    assert opened.page.locator("canvas:not([aria-label])").count() == 0
    assert opened.page.locator("button:not([aria-label])").evaluate_all(
        "all => all.every((one) => one.textContent)"
    )


def test_the_address_keeps_what_is_looked_at(opened, browser):
    opened.press("2", "Home", "ArrowDown", "]")
    told, row = opened.text("#step-told"), opened.chosen()
    again = opened.context.new_page()
    again.goto(opened.page.url)
    again.wait_for_selector("html[data-ready]")
    assert again.locator("#step-told").inner_text() == told
    assert again.locator("#tree-grid [aria-selected=true] .label").inner_text() == row
    again.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_and_has_the_systems_colors(browser, file, width, scheme):
    one = Opened(browser, file, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    color = "getComputedStyle(document.body).backgroundColor"
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}
    assert one.page.evaluate(color) == paper[scheme]
    one.page.click("#theme-button")
    assert one.page.evaluate(color) == paper["light" if scheme == "dark" else "dark"]
    assert not one.wrong
    one.context.close()


def test_without_a_script(browser, file):
    one = Opened(browser, file, java_script_enabled=False)
    text = one.text("body")
    for told in ("Worth a look", "Where the time went", "blocks", "Environment"):
        assert told in text
    assert "Flame" not in one.text("main")
    assert one.page.locator("#static-rows tbody tr").count() > 5
    assert not one.page.locator("#tree-grid").is_visible()
    one.context.close()


def test_printed(opened):
    opened.page.emulate_media(media="print")
    assert opened.page.locator("#static-rows").is_visible()
    assert not opened.page.locator("#tree-grid").is_visible()
    assert not opened.page.locator("nav").is_visible()


def test_a_broken_page_still_tells(browser, file, tmp_path):
    broken = tmp_path / "broken.html"
    text = file.read_text(encoding="utf-8")
    at = text.index('id="blob-tree">') + len('id="blob-tree">')
    broken.write_text(text[:at] + "####" + text[at + 4 :], encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(broken.as_uri())
    page.wait_for_selector("#trouble:not([hidden])")
    assert page.locator("#static-rows").is_visible()
    context.close()


def test_in_a_notebooks_frame(browser, trace, tmp_path):
    path = tmp_path / "cell.html"
    path.write_text(trace.show()._repr_html_(), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda one: wrong.append(str(one)))
    page.goto(path.as_uri())
    page.frame_locator("iframe").locator("html[data-ready]").wait_for(state="attached")
    assert page.frame_locator("iframe").locator("#tree-grid [role=row]").count() > 3
    assert not wrong
    context.close()


def test_steps_left_out_are_told_where_one_looks(browser, tmp_path):
    trace = train(tmp_path / "t.mtrace", names=["a"], steps=200)
    stored = open_trace(trace.path)
    path = tmp_path / "r.html"
    path.write_text(
        report(stored, max_bytes=len(report(stored, full=True).html) - 8_000).html, encoding="utf-8"
    )
    one = Opened(browser, path)
    assert "of 200 steps" in one.text("#gaps")
    one.page.focus("#strip")
    one.press("Home")
    assert one.page.locator("#calls").is_visible()
    for _ in range(200):
        one.press("ArrowRight")
        if one.page.locator("#no-detail").is_visible():
            break
    assert "not in this page" in one.text("#no-detail")
    assert not one.wrong
    one.context.close()
