"""Exports read back by readers of their own and compared with `t.calls`."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import modtrace
from modtrace.cli.progress import Progress
from modtrace.trace.dataframes import FRAMES
from modtrace.trace.schema import CALL_COLUMNS

KINDS = ("csv", "parquet", "chrome", "speedscope", "collapsed", "json")


class Hostile(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.fixture(scope="module")
def trace():
    Hostile.__name__ = Hostile.__qualname__ = '=x;"\n\u202e</script>'
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Hostile(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(memory="0:2") as recorded:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    return recorded


def text_of(trace, kind):
    out = io.StringIO(newline="")
    getattr(trace, f"to_{kind}")(out)
    return out.getvalue()


def test_csv(trace):
    text = text_of(trace, "csv")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert rows[0] == ["call", *CALL_COLUMNS]
    assert text.count("\r\n") == text.count("\n") == len(trace.calls) + 1
    column = rows[0].index("self_ns")
    assert [int(row[column]) for row in rows[1:]] == trace.calls["self_ns"].tolist()
    types = {row[rows[0].index("type")] for row in rows[1:]}
    assert any(name.startswith("'=x;\"") for name in types)


def test_parquet(trace, tmp_path):
    trace.to_parquet(tmp_path / "calls.parquet")
    frame = pd.read_parquet(tmp_path / "calls.parquet")
    assert frame.index.name == "call"
    assert frame["duration_ns"].dtype == "Int64"
    for name in CALL_COLUMNS:
        assert frame[name].astype(object).equals(trace.calls[name].astype(object)), name
    schema = pq.read_schema(tmp_path / "calls.parquet")
    assert schema.field("self_ns").metadata[b"unit"] == b"ns"
    assert schema.field("memory_peak_bytes").metadata[b"unit"] == b"bytes"


def test_chrome_events_nest_and_add_up(trace):
    text = text_of(trace, "chrome")
    assert text.isascii()
    events = json.loads(text)["traceEvents"]
    calls = [e for e in events if e["ph"] == "X" and e["cat"] not in ("steps", "device")]
    assert sorted(e["args"]["call"] for e in calls) == list(range(len(trace.calls)))
    for event in calls:
        row = trace.calls.loc[event["args"]["call"]]
        assert event["args"]["status"] == row["status"]
        if "duration_ns" not in event["args"]:
            assert round(event["dur"] * 1000) == row["duration_ns"]
            assert int(event["dur"] * 1000.0) == row["duration_ns"]
            assert round(event["ts"] * 1000) == row["start_ns"]
    tracks = {}
    for event in calls:
        tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in tracks.values():
        open_until = []
        for event in sorted(track, key=lambda e: e["args"]["call"]):
            begin = round(event["ts"] * 1000)
            end = begin + round(event["dur"] * 1000)
            while len(open_until) > trace.calls.loc[event["args"]["call"], "depth"]:
                assert open_until.pop() <= begin
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert set(tracks) <= named
    assert [e for e in events if e["ph"] == "C"]
    assert len([e for e in events if e.get("cat") == "steps"]) == len(trace.steps)


def test_speedscope_opens_and_closes_in_order(trace):
    file = json.loads(text_of(trace, "speedscope"))
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames, opened = file["shared"]["frames"], 0
    for profile in file["profiles"]:
        assert (profile["type"], profile["unit"]) == ("evented", "nanoseconds")
        stack, now = [], profile["startValue"]
        for event in profile["events"]:
            assert now <= event["at"] <= profile["endValue"]
            now = event["at"]
            if event["type"] == "O":
                stack.append(event["frame"])
                opened += 1
                assert frames[event["frame"]]["name"]
            else:
                assert stack.pop() == event["frame"]
        assert not stack
    assert opened == len(trace.calls)


def test_collapsed_adds_up(trace):
    lines = text_of(trace, "collapsed").splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == trace.calls["self_ns"].sum()
    deepest = max(len(line.split(";")) for line in lines)
    assert deepest == trace.calls["depth"].max() + 1
    assert any('=x,"' in line for line in lines)


def test_json(trace):
    text = text_of(trace, "json")
    assert text.isascii()
    tables = json.loads(text)["tables"]
    always = {"calls", "modules", "steps", "folded", "findings", "operations"}
    assert set(tables) == always | {"holders", "memory"}
    assert [row[0] for row in tables["folded"]["data"]] == trace.folded["name"].tolist()
    calls = tables["calls"]
    assert calls["units"]["self_ns"] == "ns"
    at = calls["columns"].index("self_ns")
    assert [row[at] for row in calls["data"]] == trace.calls["self_ns"].tolist()
    assert len(tables["modules"]["data"]) == len(trace.modules)


@pytest.mark.parametrize("kind", KINDS)
def test_what_exists_is_refused(trace, tmp_path, kind):
    to = getattr(trace, f"to_{kind}")
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(modtrace.UsageError, match="exists already"):
        to(path)
    assert path.read_text() == "mine"
    to(path, force=True)
    assert path.stat().st_size > 100
    assert list(tmp_path.iterdir()) == [path]


def test_columns_are_those_described(trace):
    assert tuple(shown.name for shown in FRAMES["calls"]) == CALL_COLUMNS
    for name, frame in {"modules": trace.modules, "steps": trace.steps, "kernels": trace.kernels, "syncs": trace.syncs,
                        "folded": trace.folded, "findings": trace.findings, "gaps": trace.gaps,
                        "operations": trace.operations, "holders": trace.holders, "compilations": trace.compilations,
                        "values": trace.values, "nonfinite": trace.nonfinite, "ranks": trace.ranks,
                        "collectives": trace.collectives, "rollups": trace.rollups,
                        "series(name)": trace.series("0"), "series()": trace.series()}.items():  # fmt: skip
        assert [shown.name for shown in FRAMES[name]] == list(frame.columns), name


def test_memory_over_time_is_the_sum_of_what_it_is_for(trace):
    held = trace.series()
    parts = [name for name in held.columns if name.endswith("_bytes") and name != "held_bytes"]
    assert len(held) > 5
    assert (held[parts].sum(axis=1) == held["held_bytes"]).all()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_shown_after_half_a_second_and_taken_away():
    now = [0.0]
    screen = Terminal()
    bar = Progress(screen, "csv", lambda: now[0])
    now[0] = 0.4
    bar(1, 4)
    assert not screen.getvalue()
    now[0] = 0.6
    bar(2, 4)
    assert "50%" in screen.getvalue()
    bar.close()
    assert screen.getvalue().endswith("\r")
