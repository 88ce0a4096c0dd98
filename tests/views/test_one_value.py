"""One quantity has one value: the same digits in the summary, tables, viewer, page, notebook and DataFrames."""

from __future__ import annotations

import re
from html import unescape

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.flat_profile import flat_profile
from modtrace.trace.reader import open_trace
from modtrace.units import duration, percent
from modtrace.views import console
from modtrace.views.models.hot_rows import hot_rows
from modtrace.views.models.trees import ProcessRows


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))


def training() -> None:
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(9):
        optimizer.zero_grad()
        model(torch.ones(32, 64)).sum().backward()
        optimizer.step()


def blocks() -> None:
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(9):
        model(torch.ones(32, 64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def two_models() -> None:
    generator, critic = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 16)), nn.Sequential(nn.Linear(16, 1))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (critic, generator)]
    for _ in range(9):
        critic(generator(torch.ones(32, 8)).detach()).mean().backward()
        optimizers[0].step()
        critic(generator(torch.ones(32, 8))).mean().backward()
        optimizers[1].step()


def inference() -> None:
    model = perceptron()
    with torch.no_grad():
        for _ in range(9):
            model(torch.ones(32, 64))


def failed() -> None:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(64, 4))
    with pytest.raises(RuntimeError):
        model(torch.ones(32, 64))


def text_of(html: str) -> str:
    """The words of a page that is read without a script."""
    without = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", without)))


def is_shown(text: str, *words: str) -> bool:
    """True where one line of a text has all of some words, each with spaces around it."""
    lines = (f" {re.sub(r'  *', ' ', line).strip()} " for line in text.splitlines())
    return any(all(f" {word} " in line for word in words) for line in lines)


@pytest.mark.parametrize("run", [training, blocks, two_models, inference, failed])
def test_one_quantity_has_one_value(run, tmp_path):
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        run()
    trace, stored = modtrace.load(tmp_path / "t.mtrace"), open_trace(tmp_path / "t.mtrace")
    frame = trace.folded
    window = frame.attrs["windows"][0]
    per = max(window["steps"], 1)
    top = frame[frame["of_module"]].iloc[0]
    label = f"{top['name']} x{top['instances']}" if top["instances"] > 1 else top["name"]
    spent = duration(int(top["self_ns"]) // per)
    share = percent(int(top["self_ns"]), window["base_ns"])
    assert abs(float(top["share"]) - int(top["self_ns"]) / window["base_ns"]) < 1e-12

    summary = console.summary(stored, width=160)
    assert is_shown(summary, label, top["type"], f"{spent} {share}")
    table = console.modules_table(stored, width=160)  # sums over the window
    assert is_shown(table, label, f"{duration(int(top['self_ns']))} {share}")
    viewer = hot_rows(ProcessRows.of(stored, 0), flat_profile(stored))
    node = next(number for number, row in enumerate(viewer.rows) if row.label == label)
    assert (viewer.texts["self"](node), viewer.texts["share"](node)) == (spent, share)
    trace.to_html(tmp_path / "t.html")
    page, notebook = text_of((tmp_path / "t.html").read_text()), text_of(trace._repr_html_())
    for text in (page, notebook):
        assert re.search(
            rf"{re.escape(label)} {top['type']} .{{0,60}}?{re.escape(spent)} {re.escape(share)}\b", text
        )

    steps = trace.steps
    chosen = steps[steps["in_statistics"]]
    median = duration(int(chosen["duration_ns"].sort_values().iloc[(len(chosen) + 1) // 2 - 1]))
    if run is not failed:
        for text in (summary, page):
            assert f"median {median}" in re.sub(r"\s+", " ", text)
    if run not in (inference, failed):
        for phase in ("forward", "backward"):
            of_phase = percent(int(chosen[f"{phase}_ns"].sum()), int(chosen["duration_ns"].sum()))
            assert re.search(rf"{phase} (#+ )?{of_phase}%", re.sub(r"\s+", " ", summary))
            assert f"{phase} {of_phase}%" in page
