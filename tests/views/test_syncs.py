"""Lines of the places that wait for a device, written out by hand."""

from __future__ import annotations

import pytest

from modtrace.analysis.syncs import SyncLine
from modtrace.views.syncs import ALL, NONE, syncs_lines


def place(**cells):
    row = {
        "name": "fc",
        "type": "Linear",
        "what": "item",
        "device": "cuda:0",
        "file": "/a/b/train.py",
        "line": 7,
    }
    return SyncLine(**{**row, "count": 12, "steps": 3, "size_bytes": 2048, **cells})


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ({}, "train.py:7"), ({"file": None}, "?:7"), ({"line": None}, "train.py:?"),
        ({"file": "C:\\b\\train.py"}, "train.py:7"), ({"file": None, "line": None}, "?:?"),
    ],
)  # fmt: skip
def test_where_something_waits(cells, shown):
    heading, line = syncs_lines([place(**cells)], every=False, width=120)
    assert heading.split() == ["MODULE", "times", "copied", "what", "where"]
    words = line.split()
    assert words[:3] == ["fc", "Linear", "12"]
    assert words[-3:] == ["item,", "cuda:0", shown]


def test_what_would_wait_on_a_device():
    host, other = place(device="cpu"), place(device="cpu", size_bytes=None, type="fc")
    assert syncs_lines([], every=True, width=80) == [NONE]
    assert syncs_lines([host], every=False, width=80) == [
        f"  1 place would wait if their tensors were on a device: {ALL}"
    ]
    shown = syncs_lines([place(), host, other], every=False, width=120)
    assert len(shown) == 3
    assert shown[2].startswith("  2 places would wait")
    everything = syncs_lines([place(), host, other], every=True, width=120)
    assert len(everything) == 5
    assert everything[3].split()[:3] == ["fc", "12", "item,"]
    assert everything[4].startswith("  cpu: nothing was waited for")
