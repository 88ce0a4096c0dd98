"""The report for those who use it by keyboard, with a screen reader or with poor sight; in headless Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import modtrace
from modtrace.views.html.colors import CLASS_COLORS, OTHER_CLASS_COLOR, PHASE_COLORS
from tests.views.browser import HTML
from tests.views.reports import train
from tests.views.test_report_first_screen import written
from tests.views.test_report_in_a_browser import Opened

CHECKS = Path(__file__).with_name("accessibility.js").read_text(encoding="utf-8")
STATES = ("as it opens", "a row chosen", "flat", "help", "a call pointed at", "filtered wrongly")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Reports of a run with memory, of one that failed, and of one without calls."""
    root = tmp_path_factory.mktemp("accessible")
    whole = train(root / "whole.mtrace", names=["a", "b"], memory="1:3", kernels="1:3")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=root / "failed.mtrace"):
        model(torch.ones(2, 4))
    with modtrace.trace(path=root / "empty.mtrace"):
        pass
    traces = {name: modtrace.load(root / f"{name}.mtrace") for name in ("failed", "empty")}
    return {name: written(trace, root / f"{name}.html") for name, trace in {"whole": whole, **traces}.items()}


def brought_to(page, state):
    """Bring a page into one of STATES."""
    if state == "a row chosen":
        page.press("2", "ArrowDown", "ArrowDown")
    elif state == "flat":
        page.press("m", "2", "ArrowDown")
    elif state == "help":
        page.press("?")
    elif state == "a call pointed at":
        page.press("4", "ArrowDown", "ArrowDown")
        assert page.page.locator("#card").is_visible()
    elif state == "filtered wrongly":
        page.page.fill("#filter", "self>nothing")
        assert page.page.locator("#kept.bad").is_visible()


def lacking(page):
    """What the page lacks."""
    return page.page.evaluate(f"(() => {{ {CHECKS}\nreturn lacking(); }})()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_lacking_in_any_state(browser, files, scheme, width):
    for state in STATES:
        page = Opened(browser, files["whole"], viewport={"width": width, "height": 800}, color_scheme=scheme)
        brought_to(page, state)
        assert lacking(page) == [], state
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_lacking_where_a_run_failed_or_had_no_calls_or_without_a_script(browser, files, scheme):
    for name, options in (("failed", {}), ("empty", {}), ("whole", {"java_script_enabled": False})):
        page = Opened(browser, files[name], color_scheme=scheme, **options)
        assert lacking(page) == [], name
        page.context.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("document.getElementById('open-all').textContent = ''", "no name"),
        ("document.getElementById('icicle').removeAttribute('aria-label')", "no name"),
        ("document.querySelector('.brand').style.color = '#999999'", "contrast"),
        ("document.getElementById('open-all').setAttribute('aria-label', 'X')", "lacks the text"),
        ("document.querySelector('#tree h2').outerHTML = '<h4>x</h4>'", "too deep"),
        ("document.getElementById('strip').removeAttribute('aria-valuemax')", "a slider without"),
        ("document.getElementById('find').tabIndex = 3", "an order of its own"),
        ("document.getElementById('find').style.cssText = 'min-height: 0; height: 20px'", "too small"),
    ],
)
def test_the_check_finds_what_is_lacking(browser, files, change, told):
    page = Opened(browser, files["whole"])
    page.page.evaluate(change)
    assert any(told in line for line in lacking(page))
    page.context.close()


FOCUSED = """(() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  return [focusable.indexOf(element), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1];
})()"""


@pytest.mark.parametrize("width", [400, 1280])
def test_the_tab_key_comes_to_every_control_in_order(browser, files, width):
    page = Opened(browser, files["whole"], viewport={"width": width, "height": 800})
    count = page.page.evaluate(
        f"(() => {{ {CHECKS}\nwindow.focusable = focusable(); return focusable().length; }})()"
    )
    assert count > 30
    reached, unseen = [], []
    for _ in range(count + 3):
        page.press("Tab")
        position, outlined = page.page.evaluate(FOCUSED)
        if position < 0:
            break
        reached.append(position)
        unseen += [] if outlined else [position]
    assert reached == list(range(count))
    assert not unseen
    page.context.close()


def test_heads_of_tables_say_what_they_sort_by(browser, files):
    page = Opened(browser, files["whole"])
    page.press("m")
    heads = page.page.locator("[role=columnheader][aria-sort]:visible")
    texts = heads.all_inner_texts()
    assert len(texts) > 15
    assert all(texts)
    for at in range(heads.count()):
        assert heads.nth(at).get_attribute("tabindex") == "0"
    page.context.close()


def luminance(color):
    """Relative luminance of `#rrggbb`, as WCAG has it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first, second):
    """Ratio of contrast of two colors."""
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def mixed(color, below, share):
    """A color with so much of it over another one."""
    parts = [
        round(share * int(color[at : at + 2], 16) + (1 - share) * int(below[at : at + 2], 16))
        for at in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize(
    "color", [*PHASE_COLORS.values(), *CLASS_COLORS, OTHER_CLASS_COLOR, "#C3C9D0", "#8B949E"]
)
def test_texts_in_drawings_can_be_read(color):
    """In full color, and faint on the paper of either theme."""
    script = (HTML / "charts.js").read_text(encoding="utf-8")
    style = (HTML / "report.css").read_text(encoding="utf-8")
    assert '"#101418"' in script
    assert contrast(color, "#101418") >= 4.5
    for paper, ink in (("#ffffff", "#16191d"), ("#14171b", "#e6e9ed")):
        assert f"--paper: {paper}; --ink: {ink}" in style
        assert contrast(mixed(color, paper, 0.4), ink) >= 4.5
