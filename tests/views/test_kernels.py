"""Lines of kernels by module, written out by hand."""

from __future__ import annotations

from modtrace.analysis.kernels import GroupKernels
from modtrace.views.kernels import kernels_lines

MS = 1_000_000


def test_kernels():
    modules = [
        GroupKernels("h.0", "Block", 60 * MS, 30 * MS, 12, [("gemm", 50 * MS), ("add", 0)], 180 * MS),
        GroupKernels("", "", 10 * MS, 0, 3, [], None),
    ]
    lines = [" ".join(line.split()) for line in kernels_lines("cuda:0", modules, width=120)]
    assert lines == [
        "100 ms of kernels on cuda:0",
        "MODULE forward backward % ran fills longest",
        "h.0 Block 60.0 ms 30.0 ms 90.0 12 50% gemm 50.0 ms",
        "outside of calls 10.0 ms 10.0 3",
    ]


def test_operators_of_the_host_fill_nothing():
    lines = kernels_lines("cpu", [GroupKernels("h", "h", MS, MS, 1, [])], width=60)
    assert "of operators on cpu" in lines[0]
    assert "fills" not in lines[1]
    assert lines[2].split()[:2] != ["h", "h"]
    assert kernels_lines("cpu", [], width=80) == [
        "  kernels were not watched: modtrace run --kernels auto script.py"
    ]
