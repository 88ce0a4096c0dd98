"""The filter language: one file of cases, which Python and the page of a report do alike."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from modtrace.analysis.filters import grammar, mask, parse
from modtrace.errors import UsageError
from modtrace.filter_language import nearest
from modtrace.trace.reader import open_trace
from modtrace.views.html.report import report
from modtrace.views.models.trees import BEFORE, OUTSIDE, ProcessRows, grouped, grown
from tests.views.browser import HTML, evaluated
from tests.views.filter_rows import cases, outcome, rows_of
from tests.views.reports import train

ROWS, CASES = cases()
MISTYPED = {
    "slef": "self", "totl": "total", "Total": "total", "p500": "p50", "device_ns": "device", "dev": "device",
    "flop": "flops", "memory": "mem", "clals": "calls", "mximum": None, "xyz": None, "s": "self", "": None,
}  # fmt: skip
ON_A_TRACE = [
    "linear", "type:Linear", "type:Lin", "path:blocks.*", "-type:ReLU", "phase:fwd", "phase:opt", "-phase:backward",
    "step:0", "step:3 type:Linear", "step:9", "rank:0", "rank:1", "calls>=6", "self > 0",
    "out_abs > 0", "-out_max<0", "out_min < -0.01", "grad_abs>1e-3",
    "total >= 1us calls<4", "p50 > 1ns",    "mem > 0", "flops>=1", "max>0 -path:model", '"0" /relu|linear/',
]  # fmt: skip
CALL = """([rows, texts, grammar]) => {
    const meta = { grammar };
    %s
    const row = (one) => ({
      path: one.path, type: one.type,
      number: (key) => one.numbers[key] ?? (grammar.metrics[key] === grammar.value ? null : -1),
      has: (kind, number) => one[kind].includes(number),
    });
    return texts.map((text) => {
      try {
        const fits = filterOf(text);
        return { rows: rows.map((one, at) => (fits(row(one)) ? at : -1)).filter((at) => at >= 0) };
      } catch (error) {
        return { error: error.message };
      }
    });
}"""


def same(result, case):
    """Of what an engine of expressions says only the beginning is alike."""
    if case.get("error", "").endswith("is no expression"):
        return result.get("error", "").startswith(case["error"])
    return result == {key: value for key, value in case.items() if key != "text"}


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:40] for case in CASES])
def test_cases(case):
    result = outcome(case["text"], rows_of(ROWS))
    assert same(result, case), result


def test_the_page_does_the_same(browser):
    code = CALL % (HTML / "filter.js").read_text(encoding="utf-8")
    words = json.loads(json.dumps(grammar()))
    result = evaluated(browser, code, [ROWS, [case["text"] for case in CASES], words])
    assert [
        (case["text"], answer) for case, answer in zip(CASES, result, strict=True) if not same(answer, case)
    ] == []


def test_what_a_mistyped_word_stands_for(browser):
    options = [word for word, _ in grammar()["meant"]]
    code = f"([words, options]) => {{ {(HTML / 'filter.js').read_text(encoding='utf-8')} "
    code += "return words.map((word) => nearest(word, options) ?? null); }"
    assert {word: nearest(word, options) for word in MISTYPED} == MISTYPED
    assert evaluated(browser, code, [list(MISTYPED), options]) == list(MISTYPED.values())


@pytest.mark.parametrize("whole_run", [False, True])
def test_a_report_keeps_the_rows_that_the_viewer_keeps(browser, tmp_path, whole_run):
    stored = open_trace(train(tmp_path / "t.mtrace", names=["a"], memory="1:3", values=(0, 9)).path)
    file = tmp_path / "r.html"
    file.write_text(report(stored).html, encoding="utf-8")
    part = ProcessRows.of(stored, 0)
    nodes = grown(part, grouped(part, "merged"), whole_run=whole_run).nodes
    recorded = np.array([nodes.label(node) not in (BEFORE, OUTSIDE) for node in range(len(nodes))])
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.select_option("#share-of", "run" if whole_run else "counted")
    page.click("#open-all")
    for text in ON_A_TRACE:
        page.fill("#filter", text)
        message = page.locator("#kept").inner_text()
        wanted = int((mask(parse(text), nodes.rows) & recorded).sum())
        assert message.startswith(f"{wanted} of {recorded.sum()} rows"), (text, message)
    for text in ("tpye:Linear", "self>5", "slef > 5ms", "phase:backwrd"):
        page.fill("#filter", text)
        with pytest.raises(UsageError) as wrong:
            parse(text)
        assert page.locator("#kept.bad").inner_text() == str(wrong.value)
    page.close()


def test_steps_that_would_take_too_much_of_a_page_are_said_not_to_be_there(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("modtrace.views.html.aggregate.MOST_RANGES", 1)
    stored = open_trace(train(tmp_path / "t.mtrace", names=["a"]).path)
    file = tmp_path / "r.html"
    file.write_text(report(stored).html, encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.fill("#filter", "step:1")
    assert page.locator("#kept.bad").inner_text() == "step: is not in this page: modtrace view has it"
    page.fill("#filter", "rank:0")
    assert page.locator("#kept.bad").count() == 0
    page.close()


PIECES = [
    "out_abs", "out_min", "nan", "-1", "2e0", "inf",
    "self", "total", "mem", "calls", "flops", "p95", "slf", "type", "path", "phase", "step", "rank", "Linear", "attn",
    "h.*.mlp", "fwd", "opt", "nothing", "train.py", ">", ">=", "<", "=", "!=", "=>", ":", "::", "5", "0", "1.5", "6ms",
    "1k", "2GiB", "3", "m", " ", " ", " ", "  ", "\t", "-", "--", '"', "'", "/", "*", "?", "(", "[a-z]", "\\.", "\\",
    "_", "Ä", ".", ",", "<b>",
]  # fmt: skip


def test_drawn_texts_are_read_alike(browser):
    random = Random(11)
    texts = ["".join(random.choices(PIECES, k=random.randrange(1, 9))) for _ in range(4_000)]
    code = CALL % (HTML / "filter.js").read_text(encoding="utf-8")
    result = evaluated(browser, code, [ROWS, texts, json.loads(json.dumps(grammar()))])
    rows = rows_of(ROWS)
    different = []
    for text, of_page in zip(texts, result, strict=True):
        wanted = outcome(text, rows)
        for answer in (wanted, of_page):
            if " is no expression" in answer.get("error", ""):
                answer["error"] = "no expression"
        if wanted != of_page:
            different.append((text, wanted, of_page))
    assert different == []
    assert sum("rows" in answer for answer in result) > 1_000
    assert len({answer.get("error") for answer in result}) > 100
