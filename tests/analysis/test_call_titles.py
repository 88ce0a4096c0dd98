"""What each call is called in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.call_titles import titles


@pytest.mark.parametrize("several", [False, True])
def test_titles(several):
    net, other = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU())), nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with modtrace.trace() as trace:
        for _ in range(3):
            y = net(torch.ones(2, 4))
            (other(y) if several else y).sum().backward()
            optimizer.step()
    codes, texts = titles(trace._read())
    assert len(set(texts)) == len(texts)
    calls = trace.calls
    assert len(codes) == len(calls)
    for code, row in zip(codes.tolist(), calls.to_dict("records"), strict=True):
        name, model = row["name"], row["root"]
        if several and isinstance(model, str):
            name = f"{model}.{name}" if name else model
        parts = [name, row["type"] if name != model else "", "backward" if row["kind"] == "backward" else ""]
        loose = [name, row["type"], parts[2]]
        assert texts[code] in (" ".join(filter(None, parts)), " ".join(filter(None, loose)))
        assert texts[code].endswith(" backward") == (row["kind"] == "backward")
    expected = {"net.0 Linear", "other.0 Linear backward"} if several else {"0 Linear", "1.0 ReLU backward"}
    assert expected <= set(texts)
    assert "optimizer SGD" in texts
