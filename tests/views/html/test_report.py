"""The report as a file: what is in it is what is in the trace, and nothing in a trace can be more than text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.memory import Curve
from modtrace.errors import UsageError
from modtrace.text import markup, script_json
from modtrace.views.html import report as reports
from modtrace.views.html.aggregate import by_interest, shown_path
from modtrace.views.html.encode import columns_blob
from modtrace.views.html.memory import decimated
from tests.views.html.hostile import HOSTILE, hostile_trace
from tests.views.html.reading import Page


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


def train(steps, **options):
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block(), Block(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(**options) as found:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
    return found


@pytest.fixture(scope="module")
def trace():
    return train(6, memory="0:3", kernels="4:5")


@pytest.fixture(scope="module")
def page(trace):
    return Page(reports.report(trace._read()).html)


def test_every_call_is_in_it_to_the_nanosecond(trace, page):
    calls = trace.calls
    found = page.calls()
    assert sum(map(len, found.values())) == len(calls)
    for (_, step), rows in found.items():
        mine = calls[calls["step"] == step] if step >= 0 else calls[calls["step"].isna()]
        assert [row[2] for row in rows] == mine["start_ns"].tolist()
        assert [row[3] for row in rows] == mine["duration_ns"].fillna(-1).astype(int).tolist()
        assert [row[0] for row in rows] == mine["name"].astype(object).fillna("").tolist()


def test_modules_are_those_of_the_trace(trace, page):
    rows, texts = page.columns("modules"), page.texts("texts")
    frame = trace.modules
    assert [texts[at] if at >= 0 else "" for at in rows["name"]] == frame["name"].tolist()
    for name in ("calls", "self_ns", "total_ns", "forward_total_ns", "backward_flops", "parameter_bytes"):
        assert rows[name] == frame[name].fillna(-1).astype(int).tolist(), name


def test_self_times_add_up_to_the_run(trace, page):
    tree = page.columns("tree")
    rest = sum(ns for _, ns in page.meta["rest"])
    assert (
        sum(max(ns, 0) for ns in tree["self_ns"]) + rest
        == page.meta["wallNs"]
        == trace._read().processes[0].wall_ns
    )


def test_steps_and_memory(trace, page):
    steps = page.columns("steps")
    assert steps["duration_ns"] == trace.steps["duration_ns"].tolist()
    parts = np.sum([np.maximum(steps[f"{name}_ns"], 0) for name in page.meta["stepParts"]], axis=0)
    assert parts.tolist() == steps["duration_ns"]
    assert page.meta["memory"][0]["peak_bytes"] == max(page.columns("curve-0")["held_bytes"])
    assert page.meta["operators"]


def test_the_policy_allows_its_scripts_and_style_and_nothing_else(page):
    policy = next(
        attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    for text in (*page.plain_scripts, *page.styles):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert len(page.plain_scripts) == 2
    assert "unsafe" not in policy
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (tag, attrs)
        assert not attrs.get("src")
        assert attrs.get("href", "#").startswith(("#", "data:,")), attrs
    for text in page.plain_scripts:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|fetch\(|XMLHttp|https?:", text
        )


def test_without_a_script_the_page_says_what_matters(trace):
    found = Page(reports.report(trace._read()).html)
    words = " ".join(found.words)
    for part in (
        "Sequential",
        "optimizer",
        "outside of what was recorded",
        "What is missing",
        "torch",
        "0.up"[2:],
    ):
        assert part in words


def test_the_budget_is_kept_and_what_is_left_out_is_said():
    trace = train(150)
    whole = reports.report(trace._read(), full=True)
    assert not whole.left_out
    bare = len(reports.report(trace._read(), max_bytes=10_000).html)
    small = (len(whole.html) + bare) // 2 + 2_000
    cut = reports.report(trace._read(), max_bytes=small)
    assert len(cut.html.encode()) <= small
    found = Page(cut.html)
    kept = sorted(step for _, step in found.calls())
    assert 0 < len(kept) < 150
    assert {0, 1} <= set(kept)
    assert cut.left_out[0].startswith(f"The timeline shows {len(kept)} of ")
    assert cut.left_out[0] in " ".join(found.words)
    assert found.columns("tree") == Page(whole.html).columns("tree")


def test_a_page_that_cannot_be_small_enough_has_the_tree_and_says_so(trace):
    cut = reports.report(trace._read(), max_bytes=10_000)
    assert "the tree alone takes more" in cut.left_out[-1]
    assert Page(cut.html).columns("tree") == Page(reports.report(trace._read()).html).columns("tree")


def test_steps_by_interest():
    took = np.arange(100)[::-1].copy() + 1
    took[37] = 1000
    order = by_interest(np.zeros(100, np.int64), np.arange(100), took).tolist()
    assert sorted(order) == list(range(100))
    assert order[:3] == [0, 1, 37]
    assert {98, 99} <= set(order[:12])
    assert len({49, 50, 51} & set(order[:12])) >= 2


def test_too_many_calls_for_one_page_need_a_size(trace, monkeypatch):
    monkeypatch.setattr(reports, "MOST_CALLS", 10)
    with pytest.raises(UsageError, match="--max-size"):
        reports.report(trace._read(), full=True)
    assert reports.report(trace._read(), full=True, max_bytes=1_000_000)


@pytest.mark.parametrize("values", [[], [-1], [0, 255, 256, -1], [2**53 - 1, 3], [0] * 5])
def test_columns_come_back(values):
    blob = columns_blob({"a": np.array(values, np.int64), "b": -np.array(values, np.int64)}, signed=("b",))
    text = f'<script type="application/json" id="meta">{json.dumps({"blobs": {"x": blob.layout()}})}</script>'
    page = Page(f'{text}<script id="blob-x">{blob.text}</script>')
    assert page.columns("x") == {"a": values, "b": [-value for value in values]}


def test_a_long_curve_keeps_its_extremes():
    held = np.random.default_rng(0).integers(0, 1000, 50_000)
    line = decimated(Curve(np.arange(50_000), held))
    assert len(line.at_ns) <= 4_096
    assert (line.held_bytes.max(), line.held_bytes.min()) == (held.max(), held.min())
    assert (np.diff(line.at_ns) > 0).all()
    assert (held[line.at_ns] == line.held_bytes).all()


def test_paths_do_not_name_a_person():
    home = "/" + "home"
    assert shown_path(f"{home}/someone/code/model.py") == "~/code/model.py"
    assert shown_path("C:\\Users\\Someone\\model.py") == "~/model.py"
    assert shown_path("/srv/model.py") == "/srv/model.py"


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_text_is_only_text(text):
    assert not re.search("[<>\"'\u2028\u2029\x00-\x1f]", markup(text))
    shown = script_json({"a": text})
    assert not re.search("[<>&\u2028\u2029]", shown)
    assert json.loads(shown) == {"a": text}


def test_hostile_names_add_no_element():
    stored = hostile_trace()._read()
    found = Page(reports.report(stored).html)
    assert {tag for tag, _ in found.tags} <= {
        tag for tag, _ in Page(reports.report(train(1)._read()).html).tags
    } | {"div", "ol", "li", "ul"}
    assert any("<img" in text for text in found.texts("texts"))
    assert max(map(len, found.texts("texts"))) <= 512


def test_an_empty_trace_has_a_page(tmp_path):
    with modtrace.trace() as found:
        pass
    found.to_html(tmp_path / "empty.html")
    assert "Nothing stands out" in (tmp_path / "empty.html").read_text()


def test_table_in_a_notebook(trace):
    for one in (trace, hostile_trace()):
        text = one._repr_html_()
        assert len(text.encode()) < 20_000
        assert {tag for tag, _ in Page(text).tags} <= {
            "div",
            "p",
            "b",
            "br",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "span",
            "ul",
            "li",
        }
    assert modtrace.trace()._repr_html_() is None


def test_frame_in_a_notebook(trace):
    shown = trace.show()
    ((tag, attrs),) = Page(shown._repr_html_()).tags
    assert (tag, attrs["sandbox"]) == ("iframe", "allow-scripts")
    assert attrs["srcdoc"] == reports.report(trace._read()).html
    assert "report of" in repr(shown)


def modtrace_command(*words, cwd):
    return subprocess.run([sys.executable, "-m", "modtrace", *words], cwd=cwd, capture_output=True, text=True)


def test_command(tmp_path):
    (tmp_path / "script.py").write_text(
        "import torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2))\nprint('out')\n"
    )
    ran = modtrace_command("run", "-q", "-o", "t.mtrace", "--html", "script.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "out\n")
    assert "t.html" in ran.stderr
    assert Page((tmp_path / "t.html").read_text()).meta["wallNs"] > 0
    again = modtrace_command("report", "t.mtrace", "-o", "other.html", "--max-size", "2MB", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "")
    assert (tmp_path / "other.html").stat().st_mode & 0o077 == 0
    assert modtrace_command("report", "none.mtrace", cwd=tmp_path).returncode == 4
    early = modtrace_command("run", "--html=no/where.html", "script.py", cwd=tmp_path)
    assert (early.returncode, early.stdout) == (2, "")
