"""On a device without a clock the host's times are those of telling it what to do: no view calls them more."""

from __future__ import annotations

import re

import pytest
import torch

import modtrace
from modtrace.cli import main


def record(path, device):
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4))).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace(path=path) as trace:
        for _ in range(4):
            model(torch.ones(8, 64, device=device)).sum().backward()
            optimizer.step()
    return trace


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch_times")
    return {device: record(folder / f"{device}.mtrace", device) for device in ("meta", "cpu")}


def texts(trace, capsys, tmp_path):
    """What each view says."""
    page = tmp_path / "page.html"
    trace.to_html(page)
    main(["info", "--steps", str(trace.path)])
    return {
        "summary": trace.summary(),
        "steps": capsys.readouterr().out,
        "page": re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.DOTALL),
    }


def test_times_on_a_device_without_a_clock_are_launch_times(traces, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    told = texts(traces["meta"], capsys, tmp_path)
    assert "times are launch times: meta has no clock" in told["summary"]
    assert "LAUNCH TIMES" in told["summary"]
    assert "WHERE THE TIME WENT" not in told["summary"]
    assert "launch times: meta has no clock" in told["page"]
    assert "FLOP/s" not in "".join(told.values())
    assert "kFLOP" in told["summary"]
    assert traces["meta"].steps["flops_per_s"].isna().all()


def test_times_on_the_host_are_those_of_the_work(traces, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    told = texts(traces["cpu"], capsys, tmp_path)
    assert "launch" not in "".join(told.values()).lower()
    assert "LAUNCH TIMES" not in told["summary"]
    assert "TIME OF A STEP" in told["summary"] or "WHERE THE TIME WENT" in told["summary"]
    assert "FLOP/s" in told["summary"]
    assert traces["cpu"].steps["flops_per_s"].notna().all()
