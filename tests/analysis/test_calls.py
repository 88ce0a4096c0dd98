"""The `calls` DataFrame, a range at a time, and what most calls of something have."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.calls import CallRows, commonest, error_texts, names, same_text, tensor_devices
from modtrace.trace.schema import CALL_COLUMNS


class Breaks(nn.Module):
    def forward(self, x):
        if x is None:
            raise ValueError
        raise KeyError("of no\nuse")


@pytest.fixture(scope="module")
def trace():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model, other = nn.Sequential(inner, inner, nn.Linear(4, 2)), nn.Sequential(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace(functions=True) as recorded:
        for size in (1, 2, 3):
            other(model(torch.ones(size, 4))).sum().backward()
            optimizer.step()
        for value in (None, 1):
            with pytest.raises((ValueError, KeyError)):
                Breaks()(value)
    return recorded


def test_columns_and_index(trace):
    calls = trace.calls
    assert tuple(calls.columns) == CALL_COLUMNS
    assert calls.index.tolist() == list(range(len(calls)))
    assert calls["start_ns"].is_monotonic_increasing


@pytest.mark.parametrize("low", [0, 1, 7])
@pytest.mark.parametrize("count", [0, 1, 10, 10_000])
def test_a_range_is_a_part_of_all(trace, low, count):
    rows = CallRows(trace._read())
    high = min(low + count, len(rows))
    pd.testing.assert_frame_equal(rows.frame(low, high), trace.calls.iloc[low:high])


def test_rows_by_hand(trace):
    """Beside the stored rows; those of steps, and of phases that nobody records, are worked out."""
    calls, stored = trace.calls, trace._read()
    types = stored.table("modules")["type"].to_pylist()
    labels = stored.table("labels").to_pylist()
    inferred = (calls["kind"] == "step") | calls["name"].isin(["forward", "loss"])
    rows = calls[~inferred].to_dict("records")
    for row, raw in zip(rows, stored.table("calls").to_pylist(), strict=True):
        assert (row["start_ns"], row["thread"], row["rank"]) == (raw["start_ns"], 0, 0)
        assert row["depth"] == (0 if row["parent"] < 0 else calls["depth"][row["parent"]] + 1)
        label = labels[raw["label"]] if raw["label"] is not None else None
        assert row["type"] == (types[raw["module"]] if label is None else label["type"])
        assert pd.isna(row["module_id"]) == (label is not None)
        if label is None:
            assert row["module_id"] == raw["module"]
        else:
            assert row["name"] == label["name"]
        if label is None or label["source_line"] is None:
            assert pd.isna(row["source_line"])
            assert pd.isna(row["source_file"])
        else:
            assert (row["source_file"], row["source_line"]) == (label["source_file"], label["source_line"])
    modules = calls[calls["kind"] == "module"]
    assert modules["name"].tolist()[:9] == ["", "0", "0.0", "0.1", "0", "0.0", "0.1", "2", ""]
    assert (calls["kind"] == "function").any()


def test_a_frame_is_its_owners(trace):
    """What a person writes into a DataFrame is in no other one."""
    rows = CallRows(trace._read())
    frame, before = rows.frame(0, len(rows)), rows.frame(0, len(rows)).copy(deep=True)
    for name in ("parent", "start_ns", "depth", "last_call", "thread", "rank"):
        frame.loc[:, name] = 77
    pd.testing.assert_frame_equal(rows.frame(0, len(rows)), before)


def test_error_texts(trace):
    assert sorted(error_texts(trace._read())) == ["KeyError: 'of no\\nuse'", "ValueError"]


def test_devices(trace):
    assert tensor_devices(trace._read()) == ["cpu"]
    with modtrace.trace() as nothing:
        nn.Identity()(3)
    assert tensor_devices(nothing._read()) == []


def test_names_of_pairs(trace):
    stored = trace._read()
    table = stored.table("names").to_pylist()
    known = {(row["root"], row["module"]): row["name"] for row in table}
    pairs = [(root, module) for root in range(8) for module in range(8)]
    codes, texts = names(
        stored, np.array([root for root, _ in pairs]), np.array([module for _, module in pairs])
    )
    assert [texts[code] for code in codes.tolist()] == [known.get(pair, "") for pair in pairs]


def test_same_text(trace):
    stored = trace._read()
    texts = stored.table("signatures")["text"].to_pylist()
    assert same_text(stored).tolist() == [*(texts.index(text) for text in texts), -1]


@pytest.mark.parametrize("seed", range(10))
def test_commonest(seed):
    rng = random.Random(seed)
    rows = [(rng.randrange(5), rng.choice((-1, 0, 1, 2, 9))) for _ in range(rng.choice((0, 1, 30)))]
    result = commonest(
        np.array([key for key, _ in rows], np.int64), np.array([code for _, code in rows], np.int64), 6
    )
    assert len(result) == 6
    for key, code in enumerate(result.tolist()):
        counts = Counter(value for owner, value in rows if owner == key and value >= 0)
        assert counts[code] == max(counts.values()) if counts else code == -1
