"""The report in a real browser: it asks for nothing, runs nothing of a trace, and can be used by keyboard alone."""

from __future__ import annotations

import base64
import os
import shutil
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from modtrace import units
from modtrace.views.html import page as pages
from modtrace.views.html import report as reports
from tests.views.html.hostile import HOSTILE, hostile_trace
from tests.views.html.test_report import train

CHROMIUM = shutil.which("chromium")
REQUIRED = os.environ.get("MODTRACE_REQUIRE_BROWSER") == "1"
ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = pytest.mark.skipif(
    (CHROMIUM is None or find_spec("playwright") is None) and not REQUIRED,
    reason="no chromium here (on Debian: apt-get install chromium), or no playwright",
)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM is not None, "MODTRACE_REQUIRE_BROWSER is set and there is no chromium"
    playwright = import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, trace in (("plain", train(6, memory="0:3", kernels="4:5")), ("hostile", hostile_trace())):
        reports.write(trace._read(), folder / f"{name}.html")
    return folder


class Opened:
    """A page, and all that went wrong or was asked for."""

    def __init__(self, browser, path: Path, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.troubles = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("dialog", lambda dialog: (self.troubles.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked(request.url))
        self.file = path.as_uri()
        self.page.goto(self.file)
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-ready=yes]", timeout=30_000)

    def asked(self, url):
        if url.split("#")[0] != self.file and url != "data:,":
            self.troubles.append(url)

    def keys(self, *names):
        for name in names:
            self.page.keyboard.press(name)

    def chosen(self):
        return self.page.inner_text(".grid-row.chosen .label")


@pytest.fixture
def opened(browser, files):
    found = Opened(browser, files / "plain.html", viewport={"width": 1280, "height": 900})
    yield found
    assert found.troubles == []
    found.context.close()


def test_keys(opened):
    page = opened.page
    opened.keys("2", "Home")
    assert page.evaluate("document.activeElement.id") == "tree-grid"
    first = opened.chosen()
    opened.keys("j")
    assert opened.chosen() != first
    opened.keys("k")
    assert opened.chosen() == first
    rows = page.get_attribute("#tree-grid", "aria-rowcount")
    opened.keys("Space")
    assert int(page.get_attribute("#tree-grid", "aria-rowcount")) < int(rows)
    assert page.get_attribute(".grid-row.chosen", "aria-expanded") == "false"
    opened.keys("l", "/")
    page.keyboard.type("down")
    assert page.inner_text("#hits").endswith("found")
    opened.keys("Enter")
    assert "down" in opened.chosen()
    assert "class" in page.inner_text("#detail")
    before = page.get_attribute(".grid-row.chosen", "data-position")
    opened.keys("n")
    assert page.get_attribute(".grid-row.chosen", "data-position") != before
    opened.keys("N")
    assert page.get_attribute(".grid-row.chosen", "data-position") == before
    opened.keys("f")
    page.keyboard.type("type:Linear phase:bwd -up")
    assert " of " in page.inner_text("#kept")
    opened.keys("Escape", "F", "s")
    assert page.input_value("#sort") == "self"
    opened.keys("]")
    told = page.inner_text("#step-told")
    opened.keys("[")
    assert page.inner_text("#step-told") != told
    opened.keys("?")
    assert page.evaluate("document.getElementById('help').open")
    opened.keys("Escape")
    assert "step=" in page.url


def test_the_flame_is_drawn_to_its_deepest_row(opened):
    """And all of its rows can be reached with arrow keys."""
    page = opened.page
    opened.keys("3")
    labels = []
    for _ in range(12):
        opened.keys("ArrowDown")
        labels.append(page.inner_text("#said"))
    deepest = labels[-1]
    assert deepest == labels[-2]
    height = page.evaluate("document.getElementById('icicle').clientHeight")
    levels = len(dict.fromkeys(labels))
    assert height >= 20 * levels
    drawn = page.evaluate(
        """() => { const canvas = document.getElementById("icicle"), ratio = canvas.height / canvas.clientHeight;
        const row = canvas.getContext("2d").getImageData(0, (canvas.clientHeight - 10) * ratio, canvas.width, 1).data;
        return row.some((value) => value > 0); }"""
    )
    assert drawn


def test_a_bad_filter_is_told_and_changes_nothing(opened):
    rows = opened.page.get_attribute("#tree-grid", "aria-rowcount")
    opened.page.fill("#filter", "self>much")
    assert opened.page.inner_text("#kept") == "much is no number"
    opened.page.fill("#find", "/(/")
    assert opened.page.inner_text("#hits") == "not a pattern yet"
    assert opened.page.get_attribute("#tree-grid", "aria-rowcount") == rows


def test_the_address_brings_back_what_was_looked_at(browser, files, opened):
    opened.keys("2", "Home", "j", "j", "]")
    with_address = opened.page.url
    again = Opened(browser, files / "plain.html")
    again.page.goto(with_address)
    again.page.reload()
    again.page.wait_for_selector("html[data-ready=yes]")
    assert again.page.inner_text("#detail h3") == opened.page.inner_text("#detail h3")
    assert again.page.inner_text("#step-told") == opened.page.inner_text("#step-told")
    again.context.close()


def test_roles_and_labels(opened):
    page = opened.page
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, [tabindex='0']")]
            .filter((one) => one.checkVisibility())
            .filter((one) => !(one.innerText || one.getAttribute("aria-label") || one.labels?.length))
            .map((one) => one.outerHTML)"""
    )
    assert unlabelled == []
    assert page.get_attribute("#tree-grid", "role") == "treegrid"
    assert page.evaluate(
        """() => [...document.querySelectorAll("#tree-grid .grid-space > :not([hidden])")].every((row) =>
            row.role === "row" && Number(row.getAttribute("aria-level")) > 0 && row.children[0].role === "rowheader")"""
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    page.focus("#find")
    order = []
    for _ in range(12):
        order.append(page.evaluate("document.activeElement.id"))
        opened.keys("Tab")
    wanted = ["find", "filter", "sort", "open-all", "close-all", "copy-tree", "tree-grid"]
    assert [one for one in order if one in wanted] == wanted
    page.focus("#tree-grid")
    opened.keys("Home")
    assert page.evaluate("getComputedStyle(document.querySelector('#tree-grid')).outlineStyle") != "none"
    active = page.get_attribute("#tree-grid", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_follows_the_system(browser, files, scheme):
    found = Opened(browser, files / "plain.html", viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert found.page.evaluate("document.documentElement.scrollWidth") == 400
    paper = "getComputedStyle(document.body).backgroundColor"
    before = found.page.evaluate(paper)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    found.page.click("#theme-button")
    assert found.page.evaluate(paper) != before
    found.page.emulate_media(media="print")
    assert found.page.is_visible("#static-rows table")
    assert not found.page.is_visible("#tree-grid")
    assert found.troubles == []
    found.context.close()


def test_hostile_names_are_harmless(browser, files):
    found = Opened(browser, files / "hostile.html")
    found.page.click("#open-all")
    for _ in range(20):
        found.keys("2", "j")
    assert found.page.evaluate("window.PWNED === undefined")
    assert found.page.evaluate("document.querySelectorAll('img, svg, main script').length") == 0
    assert HOSTILE[1] in found.page.inner_text("#tree-grid")
    assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert found.troubles == []
    found.context.close()


def test_without_javascript(browser, files):
    found = Opened(browser, files / "plain.html", java_script_enabled=False)
    words = found.page.inner_text("body")
    assert "Worth a look" in words
    assert "outside of what was recorded" in words
    assert found.page.locator("#static-rows tbody tr").count() > 10
    assert not found.page.is_visible("#flame")
    assert found.troubles == []
    found.context.close()


def test_in_the_frame_of_a_notebook(browser, files, tmp_path):
    shown = train(2).show()
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{shown._repr_html_()}</body>")
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready=yes]").wait_for(timeout=30_000)
    assert frame.locator("#trouble").is_hidden()
    context.close()


def test_numbers_are_written_as_everywhere(opened):
    values = [
        0,
        1,
        999,
        1000,
        99_949,
        99_950,
        999_499,
        999_500,
        12_345_678,
        59_949_999_999,
        59_950_000_000,
        3_600_000_000_000,
        10**15,
    ]
    code = (Path(pages.__file__).with_name("format.js")).read_text()
    for name in ("duration", "count", "size"):
        shown = opened.page.evaluate(f"(values) => {{ {code}\nreturn values.map({name}); }}", values)
        assert shown == [getattr(units, name)(value) for value in values], name


def test_data_is_read_without_the_browsers_help(opened):
    """Stored, fixed and dynamic blocks, and a match that overlaps itself."""
    code = (Path(pages.__file__).with_name("inflate.js")).read_text()
    noise = b"".join(bytes([number * 7919 % 251]) for number in range(30_000))
    for data in (b"", b"a", b"abc" * 5_000, noise, bytes(70_000)):
        for level, strategy in ((0, 0), (9, 0), (9, zlib.Z_FIXED)):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
            packed = base64.b64encode(packer.compress(data) + packer.flush()).decode()
            size = opened.page.evaluate(
                f"""([packed, whole]) => {{ {code}
                const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
                const found = inflate(bytes(packed)), wanted = bytes(whole);
                return found.every((one, at) => one === wanted[at]) ? found.length : -1; }}""",
                [packed, base64.b64encode(data).decode()],
            )
            assert size == len(data)
