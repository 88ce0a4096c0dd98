"""The report as a file: whole data, a size, no way out of it, nothing of a stranger's in its markup."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.cli import main
from modtrace.trace.reader import open_trace
from modtrace.views.html.aggregate import by_interest, shown_path
from modtrace.views.html.encode import bits_of, columns_blob
from modtrace.views.html.inline import TABLE_BYTES
from modtrace.views.html.report import report
from tests.views.reports import HOSTILE, Page, train


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return train(tmp_path_factory.mktemp("report") / "t.mtrace", names=HOSTILE, memory="1:3")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return train(tmp_path_factory.mktemp("report") / "long.mtrace", names=["a", "b"], steps=300)


@pytest.fixture(scope="module")
def page(trace):
    return Page(report(open_trace(trace.path)).html)


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(html):
    parser = Tags()
    parser.feed(html)
    return parser.found


def test_calls_come_back_to_the_nanosecond(trace, page):
    calls = trace.calls
    wanted = Counter(
        (int(start), -1 if pd.isna(took) else int(took))
        for start, took in zip(calls["start_ns"], calls["duration_ns"], strict=True)
    )
    rows = list(page.rows())
    assert len(wanted) > 100
    assert not wanted - Counter((start, took) for _, _, start, took in rows)
    names = {name for name, _, _, _ in rows}
    assert {"blocks.0.0", "blocks.2.1"} <= names


def test_modules_come_back(trace, page):
    texts, found, wanted = page.texts("texts"), page.columns("modules"), trace.modules
    assert [texts[at] if at >= 0 else None for at in found["type"]] == wanted["type"].tolist()
    for name in ("calls", "self_ns", "total_ns", "forward_p95_ns", "forward_flops", "parameter_count"):
        assert found[name] == [-1 if pd.isna(value) else int(value) for value in wanted[name]], name
    steps = page.columns("steps")
    assert steps["duration_ns"] == trace.steps["duration_ns"].tolist()


def test_never_called_is_unknown_and_not_0(trace, page):
    texts, found = page.texts("texts"), page.columns("modules")
    at = [texts[name] if name >= 0 else None for name in found["name"]].index("never")
    assert found["calls"][at] == 0
    assert found["self_ns"][at] == -1


def test_columns_of_any_size_come_back():
    import numpy as np

    columns = {"small": [-1, 0, 5], "large": [2**52, -1, 1], "signed": [-(2**40), 0, 3], "same": [-1, -1, -1]}
    doubles = {"double": [-1.0, None, 5e-324], "end": [float("inf"), -float("inf"), 0.0], "none": [None] * 3}
    bits = {
        name: bits_of(
            np.array([value or 0 for value in values]), np.array([value is not None for value in values])
        )
        for name, values in doubles.items()
    }
    blob = columns_blob(
        {name: np.array(values) for name, values in columns.items()} | bits,
        signed=("signed",),
        doubles=doubles,
    )
    assert [planes for name, planes, _ in blob.columns if name in ("same", "none")] == [0, 0]
    html = (
        '<script type="application/json" id="meta">{"blobs":{"x":{"rows":3,"columns":'
        + str([list(one) for one in blob.columns]).replace("'", '"')
        + f'}}}}}}</script><script type="application/octet-stream" id="blob-x">{blob.text}</script>'
    )
    assert Page(html).columns("x") == columns | doubles


def test_nothing_of_a_stranger_is_markup(page):
    html = page.html
    found = tags(html)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", html)
    assert sum("type" not in given for tag, given in found if tag == "script") == 2
    assert not {tag for tag, _ in found} & {"img", "iframe", "object", "embed", "base"}
    assert all("chart" in (given["class"] or "") for tag, given in found if tag == "svg")
    assert not [name for _, given in found for name in given if name.startswith("on")]
    assert all((given["href"] or "").startswith(("#", "data:,")) for _, given in found if "href" in given)
    assert html.count("window.pwned") == html.count("window.pwned=1&lt;/script&gt;")


def test_the_policy_allows_what_is_there_and_nothing_else(page):
    policy = next(given["content"] for tag, given in tags(page.html) if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page.html, re.DOTALL)
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline
    }
    assert len(hashes) == 3
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes
    assert "innerHTML" not in page.html
    assert "eval(" not in page.html
    assert "fetch(" not in page.html
    assert not [given for _, given in tags(page.html) if "style" in given]


def test_readable_without_a_script(trace, page):
    text = re.sub(r"<(script|style).*?</\1>", "", page.html, flags=re.DOTALL)
    for told in ("Worth a look", "Where the time went", "Environment", "blocks", "torch"):
        assert told in text
    assert len(re.findall(r'<tr><th scope="row"', text)) > 5


def test_where_it_failed(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 5))
    with pytest.raises(RuntimeError), modtrace.trace(path=tmp_path / "t.mtrace"):
        model(torch.ones(2, 4))
    html = report(open_trace(tmp_path / "t.mtrace")).html
    told = html[html.index('<div class="failure">') :]
    assert "got f32[2,4]" in told
    assert "mat1 and mat2 shapes cannot be multiplied" in told


def test_memory_is_shown_without_a_call(tmp_path):
    """A trace whose calls are gone: what was allocated is nobody's then, not an error."""
    layer, path = nn.Linear(4, 4), tmp_path / "t.mtrace"
    with modtrace.trace(path=path, memory="0:2"):
        optimizer = torch.optim.SGD(layer.parameters())
        for _ in range(2):
            layer(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    (path / "rank-0" / "calls.arrows").unlink()
    (watched,) = Page(report(open_trace(path)).html).meta["memory"]
    assert watched["allocations"] > 0


def test_nothing_recorded_is_a_page_too(tmp_path):
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        pass
    page = Page(report(open_trace(tmp_path / "t.mtrace")).html)
    assert page.columns("tree")["calls"] == []
    assert list(page.rows()) == []


def test_what_is_left_out_is_said(long):
    stored = open_trace(long.path)
    full = report(stored, full=True)
    assert full.left_out == []
    limit = len(full.html) - 10_000
    made = report(stored, max_bytes=limit)
    assert len(made.html.encode()) <= limit
    told = re.search(r"The timeline shows ([\d,]+) of 300 steps", made.left_out[0])
    assert told
    assert 0 < int(told[1]) < 300
    assert "all totals are complete" in made.html
    small, whole = Page(made.html), Page(full.html)
    assert len(small.columns("details")["step"]) == int(told[1])
    assert small.columns("tree")["calls"] == whole.columns("tree")["calls"]
    # The rows of a step that is there are the same, exactly.
    assert not Counter(small.rows()) - Counter(whole.rows())
    tiny = report(stored, max_bytes=10_000)
    assert any("larger than" in line for line in tiny.left_out)


def test_steps_worth_their_space_come_first():
    import numpy as np

    took = np.full(100, 50)
    took[[40, 60]] = 1_000, 900
    order = by_interest(np.zeros(100, np.int64), np.arange(100), took).tolist()
    assert sorted(order) == list(range(100))
    assert order[:4] == [0, 1, 40, 60]
    assert {98, 99} <= set(order[:12])


def test_homes_are_not_named():
    assert shown_path("/" + "home/someone/project/model.py") == "~/project/model.py"
    assert shown_path("C:\\Users\\someone\\m.py") == "~/m.py"
    assert shown_path("/srv/m.py") == "/srv/m.py"
    assert shown_path(None) is None


def test_a_notebook_gets_a_small_table_and_a_closed_frame(trace):
    allowed = {"div", "p", "b", "br", "ul", "li", "span"}
    allowed |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    table = trace._repr_html_()
    assert len(table.encode()) < TABLE_BYTES
    assert {tag for tag, _ in tags(table)} <= allowed
    assert "blocks" in table
    shown = trace.show()
    ((tag, given),) = tags(shown._repr_html_())
    assert tag == "iframe"
    assert given["sandbox"] == "allow-scripts"
    assert Page(given["srcdoc"]).meta["blobs"]
    assert repr(shown).startswith("<modtrace report of ")


def test_a_file_of_the_user_alone(trace, tmp_path, capsys):
    target = tmp_path / "r.html"
    main(["report", str(trace.path), "-o", str(target)])
    assert "wrote" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    with pytest.raises(modtrace.UsageError):
        trace.to_html(tmp_path / "no" / "r.html")
    assert os.listdir(tmp_path) == ["r.html"]


@pytest.mark.parametrize("way", ["code", "command", "run", "run --html"])
def test_a_file_that_is_there_is_replaced_where_that_is_said(trace, tmp_path, way, monkeypatch, capsys):
    target = tmp_path / "r.html"
    target.write_text("before")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.py").write_text("open('ran', 'w').close()")
    words = {
        "command": ["report", str(trace.path), "-o", "r.html"],
        "run": ["run", "-q", "--html=r.html", "s.py"],
        "run --html": ["run", "-q", "-o", "r.mtrace", "--html", "s.py"],
    }

    def write(force):
        if way == "code":
            trace.to_html(target, force=force)
        elif way == "command" or not force:
            main([words[way][0], *(["-f"] if force else []), *words[way][1:]])
        else:
            command = [sys.executable, "-m", "modtrace", words[way][0], "-f", *words[way][1:]]
            subprocess.run(command, check=True, capture_output=True)

    with pytest.raises((modtrace.UsageError, SystemExit)) as refused:
        write(force=False)
    remedy = "force=True" if way == "code" else "-f"
    assert f"exists already; {remedy} replaces it" in f"{refused.value}{capsys.readouterr().err}"
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "s.py"]
    write(force=True)
    assert target.read_text().startswith("<!DOCTYPE html>")


def test_a_page_goes_to_a_stream_too(trace):
    text, data = io.StringIO(), io.BytesIO()
    trace.to_html(text)
    trace.to_html(data)
    assert text.getvalue() == data.getvalue().decode()
    assert text.getvalue().startswith("<!DOCTYPE html>")


def test_it_is_shown_if_asked_to(trace, tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(shown.append(url)))
    target = tmp_path / "r.html"
    main(["report", str(trace.path), "-o", str(target), "--open"])
    assert shown == [target.as_uri()]
    assert "no browser could be started" in capsys.readouterr().err


def test_very_many_calls_need_a_size(trace, monkeypatch):
    monkeypatch.setattr("modtrace.views.html.report.MOST_CALLS", 100)
    stored = open_trace(trace.path)
    with pytest.raises(modtrace.UsageError, match="--max-size"):
        report(stored, full=True)
    assert report(stored, full=True, max_bytes=5_000_000).left_out == []


def test_run_writes_one_and_stdout_is_the_scripts(tmp_path):
    (tmp_path / "s.py").write_text("import torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2))\nprint('mine')\n")
    words = [sys.executable, "-m", "modtrace", "run", "--html=r.html", "-o", "t.mtrace", "s.py"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0
    assert done.stdout == "mine\n"
    assert "wrote" in done.stderr
    assert "Linear" in Page((tmp_path / "r.html").read_text(encoding="utf-8")).texts("texts")
