"""What a report knows of single calls: its data, and what stands beside the pointer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.flat_profile import flat_profile
from modtrace.trace.reader import open_trace
from modtrace.units import duration, percent
from modtrace.views.html.encode import TextTable
from modtrace.views.html.report import report
from tests.views.browser import HTML
from tests.views.reports import Page
from tests.views.test_report_first_screen import written
from tests.views.test_report_in_a_browser import Opened

AXIS_HEIGHT, LANE_HEIGHT = 18, 18


class Net(nn.Module):
    """Two linear layers, one of them called twice, and a head that wants 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 8] to [batch, 2]."""
        return self.head(self.blocks(self.stem(self.stem(x))))


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Steps of batches of several sizes, memory watched in some, an error that the program deals with."""
    path = tmp_path_factory.mktemp("facts") / "t.mtrace"
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(path=path, memory="1:3"):
        for step in range(8):
            optimizer.zero_grad()
            if step == 5:
                with pytest.raises(RuntimeError):
                    model.head(torch.ones(2, 3))
            model(torch.ones(4 + step // 3, 8)).sum().backward()
            optimizer.step()
    return modtrace.load(path)


@pytest.fixture(scope="module")
def file(trace, tmp_path_factory):
    return written(trace, tmp_path_factory.mktemp("facts") / "r.html")


@pytest.fixture
def opened(browser, file):
    page = Opened(browser, file)
    yield page
    page.context.close()
    assert not [text for text in page.wrong if "willReadFrequently" not in text]


FACTS = """(async () => {{
  {script}
  const [steps, paths, names, tree, texts_] = await Promise.all(
    [columns("details"), columns("paths"), texts("names"), columns("tree"), texts("texts")]);
  const facts = [];
  for (let at = 0; at < steps.rows; at++) {{
    const {{ chunk, offset, calls: rows, start_ns: start }} = steps;
    const step = {{ chunk: chunk[at], offset: offset[at], rows: rows[at], start: start[at] }};
    const calls = await callsOfStep(step, paths, tree.depth);
    for (let row = 0; row < calls.count; row++) {{
      const node = paths.node[calls.path[row]];
      const usual = (name) => (tree[name][node] < 0 ? "" : texts_[tree[name][node]]);
      const signature = (name) => (calls[name][row] < 0 ? usual(name) : names[calls[name][row]]);
      facts.push({{
        step: steps.step[at], start: calls.start[row], self: calls.self[row], backward: calls.backward[row],
        inputs: signature("inputs"), outputs: signature("outputs"), peak: calls.peak[row], device: calls.device[row],
        error: calls.error[row] < 0 ? "" : names[calls.error[row]],
      }});
    }}
  }}
  return facts;
}})()"""


def test_facts_of_each_call_are_those_of_the_frame(opened, trace):
    script = (HTML / "data.js").read_text(encoding="utf-8")
    facts = opened.page.evaluate(FACTS.format(script=script))
    frame = trace.calls.reset_index()
    frame["step"] = frame["step"].astype("Int64").fillna(-1)
    spent = frame[frame["kind"] == "backward"].groupby("forward")["duration_ns"].sum()
    frame["backward_ns"] = frame["call"].map(spent)
    rows = frame.sort_values(["step", "call"]).to_dict("records")
    assert len(facts) == len(rows)
    facts.sort(key=lambda fact: fact["step"])
    number = lambda value: -1 if pd.isna(value) else int(value)  # noqa: E731
    text = lambda value: value if isinstance(value, str) else ""  # noqa: E731
    wanted = [
        {
            "step": number(row["step"]), "start": row["start_ns"], "self": number(row["self_ns"]),
            "backward": number(row["backward_ns"]), "inputs": text(row["inputs"]), "outputs": text(row["outputs"]),
            "peak": number(row["memory_peak_bytes"]), "device": number(row["device_ns"]), "error": text(row["error"]),
        }
        for row in rows
    ]  # fmt: skip
    assert facts == wanted
    for name in ("self", "backward", "peak"):
        assert any(fact[name] > 0 for fact in facts), name
    assert len({fact["inputs"] for fact in facts}) > 4
    assert any("cannot be multiplied" in fact["error"] for fact in facts)


def shown_step(opened, trace):
    """The rows of the step that the timeline shows, and its number."""
    number = int(opened.text("#step-told").split(":")[0].removeprefix("step "))
    return trace.calls[trace.calls["step"] == number], number


def place_of(opened, rows, call):
    """Where a call is drawn, in pixels of the timeline of its step."""
    width = opened.page.locator("#calls").bounding_box()["width"]
    begin, end = rows["start_ns"].min(), (rows["start_ns"] + rows["duration_ns"]).max()
    middle = rows.loc[call, "start_ns"] + rows.loc[call, "duration_ns"] / 2
    lane = sorted(set(rows["depth"])).index(rows.loc[call, "depth"])
    return {"x": (middle - begin) / (end - begin) * width, "y": AXIS_HEIGHT + (lane + 0.5) * LANE_HEIGHT}


def card_facts(opened):
    """Title and facts of what stands beside the pointer."""
    words = opened.page.locator("#card dt").all_inner_texts()
    values = opened.page.locator("#card dd").all_inner_texts()
    return opened.text("#card b"), dict(zip(words, values, strict=True))


def test_a_box_of_the_timeline_tells_the_facts_of_its_call(opened, trace):
    opened.page.locator("#calls").scroll_into_view_if_needed()
    rows, number = shown_step(opened, trace)
    forwards = rows[(rows["name"] == "stem") & (rows["kind"] == "module")]
    assert len(forwards) == 2
    for call in forwards.index:
        row = rows.loc[call]
        opened.page.locator("#calls").hover(position=place_of(opened, rows, call))
        title, facts = card_facts(opened)
        spent = rows[(rows["kind"] == "backward") & (rows["forward"] == call)]["duration_ns"].sum()
        took = rows["duration_ns"].max()
        assert title == "model.stem"
        assert facts["class"] == "Linear"
        assert facts["start"] == f"{duration(row['start_ns'] - rows['start_ns'].min())} into step {number}"
        assert (
            facts["duration"]
            == f"{duration(row['duration_ns'])}, {percent(row['duration_ns'], took)}% of the step"
        )
        assert facts["self"] == duration(row["self_ns"])
        assert facts["its backward"] == duration(spent)
        assert (facts["inputs"], facts["outputs"]) == (row["inputs"], row["outputs"])


def test_a_click_leaves_the_facts_and_escape_takes_them_away(opened, trace):
    calls = opened.page.locator("#calls")
    calls.scroll_into_view_if_needed()
    rows, _ = shown_step(opened, trace)
    call = rows[(rows["name"] == "head") & (rows["kind"] == "module")].index[0]
    calls.click(position=place_of(opened, rows, call))
    opened.page.wait_for_timeout(100)
    assert opened.text("#detail h3") == "head"
    assert card_facts(opened)[0] == "model.head"
    opened.press("Escape")
    assert not opened.page.locator("#card").is_visible()
    opened.press("ArrowLeft")
    assert card_facts(opened)[1]["start"]


def test_calls_too_short_to_draw_apart_are_told_together(browser, tmp_path):
    model = nn.Sequential(*(nn.Identity() for _ in range(3000)))
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for _ in range(2):
            model(torch.ones(1))
    trace = modtrace.load(tmp_path / "t.mtrace")
    page = Opened(browser, written(trace, tmp_path / "r.html"))
    page.page.locator("#calls").scroll_into_view_if_needed()
    rows, number = shown_step(page, trace)
    inner = rows[rows["type"] == "Identity"]
    page.page.locator("#calls").hover(position=place_of(page, rows, inner.index[1500]))
    title, facts = card_facts(page)
    assert int(title.removesuffix(" calls")) > 1
    assert facts["start"].endswith(f"into step {number}")
    times = inner["duration_ns"]
    assert facts["median"] in {duration(int(time)) for time in times}
    assert "and" in facts["of"] or "," in facts["of"]
    page.context.close()


def test_a_box_of_the_flame_says_how_many_calls_it_is(opened, trace):
    opened.page.select_option("#share-of", "run")
    opened.page.fill("#find", "stem")
    opened.press("Enter")
    opened.page.focus("#icicle")
    opened.press("ArrowUp", "ArrowDown")
    title, facts = card_facts(opened)
    calls = trace.calls
    stems = calls[(calls["name"] == title) & (calls["kind"] == "module")]
    assert title == "stem"
    assert facts["merged"].startswith(f"{len(stems)} calls: median ")
    assert "its backward" in facts


def test_a_row_with_a_single_call_says_when_that_was(browser, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=tmp_path / "t.mtrace"):
        model(torch.ones(2, 4))
    trace = modtrace.load(tmp_path / "t.mtrace")
    page = Opened(browser, written(trace, tmp_path / "r.html"))
    page.press("3", "ArrowDown", "ArrowDown")
    title, facts = card_facts(page)
    row = trace.calls[trace.calls["name"] == title].iloc[0]
    assert facts["calls"].startswith(f"1, {duration(row['start_ns'])} after recording began")
    page.press("ArrowRight")
    assert "cannot be multiplied" in card_facts(page)[1]["error"]
    page.context.close()


PIXEL = """([x, y]) => {
  const canvas = document.getElementById("icicle");
  const [r, g, b] = canvas.getContext("2d").getImageData(x, y, 1, 1).data;
  return `rgb(${r}, ${g}, ${b})`;
}"""


def test_the_flame_of_the_whole_run_begins_with_the_time_before_the_first_call(opened, trace):
    icicle = opened.page.locator("#icicle")
    icicle.scroll_into_view_if_needed()
    assert opened.page.evaluate(PIXEL, [2, 15]) != "rgb(195, 201, 208)"
    opened.page.select_option("#share-of", "run")
    icicle.scroll_into_view_if_needed()
    opened.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    run = flat_profile(open_trace(trace.path), whole_run=True)
    wide = icicle.bounding_box()["width"] * run.before_ns / run.window.base_ns
    assert wide > 3
    assert opened.page.evaluate(PIXEL, [wide / 2, 15]) == "rgb(195, 201, 208)"
    icicle.hover(position={"x": wide / 2, "y": 15})
    title, facts = card_facts(opened)
    assert title == "before the first call"
    share = percent(run.before_ns, run.window.base_ns)
    assert facts["time"] == f"{duration(run.before_ns)}, {share}% of the whole run"
    opened.press("3", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowLeft")
    assert opened.text("#said").startswith("before the first call: ")
    opened.press("ArrowRight")
    assert not opened.text("#said").startswith("before the first call: ")


def test_texts_of_steps_that_found_no_room_are_not_in_the_page(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for size in range(400):
            model(torch.ones(size + 1, 4))
    stored = open_trace(tmp_path / "t.mtrace")
    full = len(report(stored, full=True).html)
    page = Page(report(stored, max_bytes=full - 4_000).html)
    assert 0 < len(page.columns("details")["step"]) < 400
    used = set(page.columns("paths")["name"])
    for chunk in range(page.meta["chunks"]):
        for name in ("inputs", "outputs", "error"):
            used |= set(page.columns(f"calls-{chunk}")[name])
    assert used - {-1} == set(range(len(page.texts("names"))))


def test_a_table_of_texts_forgets_its_last():
    table = TextTable()
    assert table.numbers(["a", "b", None, "a"]).tolist() == [0, 1, -1, 0]
    table.shorten(1)
    assert table.all == ["a"]
    assert np.array_equal(table.numbers(["c", "b"]), [1, 2])
