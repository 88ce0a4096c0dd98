"""A trace's calls beside the oracle's, thread by thread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT
from tests.torture.oracle import Oracle, OracleCall

Row = tuple[int, int, str]
"""depth, position of the parent among the calls of its thread (-1 for none), class as it is shown"""


def module_calls(calls: pd.DataFrame) -> pd.DataFrame:
    """The module calls alone, each below the nearest module call around it: the tree that the oracle sees."""
    is_call = (calls["kind"] == "module").tolist()
    parents, around, depth = calls["parent"].tolist(), [], []
    for parent in parents:
        over = parent
        while over != -1 and not is_call[over]:
            over = parents[over]
        around.append(over)
        depth.append(0 if over == -1 else depth[over] + 1)
    return calls.assign(parent=around, depth=depth)[is_call]


def traced_threads(calls: pd.DataFrame) -> list[pd.DataFrame]:
    """The module calls of each thread that made any, threads in order of their number."""
    return [rows for _, rows in module_calls(calls).groupby("thread", sort=True)]


def traced_rows(rows: pd.DataFrame) -> list[Row]:
    """The calls of one thread."""
    position = {-1: -1} | {call: index for index, call in enumerate(rows.index)}
    return [
        (int(depth), position[parent], str(kind))
        for depth, parent, kind in zip(rows["depth"], rows["parent"], rows["type"], strict=True)
    ]


def oracle_rows(oracle: Oracle, calls: Sequence[OracleCall]) -> list[Row]:
    """The same of the oracle's."""
    position = {id(call): index for index, call in enumerate(calls)}
    rows = []
    for call in calls:
        parent = -1 if call.parent == -1 else position[id(oracle.calls[call.parent])]
        rows.append((call.depth, parent, plain(call.type, TEXT_LIMIT)))
    return rows


def one_to_one(left: Sequence[object], right: Sequence[object]) -> dict[object, object]:
    """The mapping that turns `left` into `right`, item by item; fails unless it is one to one."""
    forward: dict[object, object] = {}
    for a, b in zip(left, right, strict=True):
        assert forward.setdefault(a, b) == b, f"{a} is both {forward[a]} and {b}"
    assert len(set(forward.values())) == len(forward), "two modules have one number"
    return forward


def one_after_another(oracle: Oracle, numbers: Sequence[object]) -> dict[int, object]:
    """The number that the trace gives to each of the oracle's modules, from the number of each call; fails where one
    module has two, or where two modules have one although they are of two classes or lived at the same time.
    """
    number_of: dict[int, object] = {}
    type_of: dict[int, str] = {}
    for call, number in zip(oracle.calls, numbers, strict=True):
        given = number_of.setdefault(call.module, number)
        assert given == number, f"module {call.module} is both {given} and {number}"
        type_of[call.module] = call.type
    sharing: dict[object, list[int]] = {}
    for module, number in number_of.items():
        sharing.setdefault(number, []).append(module)
    for number, modules in sharing.items():
        assert len({type_of[module] for module in modules}) == 1, f"{number} is of two classes"
        lives = sorted(oracle.lives[module] for module in modules)
        for (_, died), (born, _) in pairwise(lives):
            assert died <= born, f"two modules with the number {number} lived at the same time"
    return number_of


def assert_well_formed(calls: pd.DataFrame) -> None:
    """Parents come first, depths follow from them, subtrees are ranges, intervals lie inside each other."""
    count = len(calls)
    assert list(calls.index) == list(range(count))
    parents, depths, lasts = calls["parent"].tolist(), calls["depth"].tolist(), list(range(count))
    steps, threads = calls["step"].fillna(-1).tolist(), calls["thread"].tolist()
    kinds = calls["kind"].tolist()
    for call, parent in reversed(list(enumerate(parents))):
        assert -1 <= parent < call
        if parent == -1:
            assert depths[call] == 0
            continue
        lasts[parent] = max(lasts[parent], lasts[call])
        assert depths[call] == depths[parent] + 1
        assert threads[call] == threads[parent]
        assert steps[call] == steps[parent] or kinds[parent] in ("span", "phase")
    assert calls["last_call"].tolist() == lasts
    _assert_times_nest(calls)


def _assert_times_nest(calls: pd.DataFrame) -> None:
    timed = calls[calls["duration_ns"].notna()]
    assert (timed["duration_ns"] >= 0).all()
    assert (timed["self_ns"].dropna() >= 0).all()
    inner = timed[timed["parent"].isin(timed.index)]
    outer = timed.loc[inner["parent"]]
    starts, outer_starts = inner["start_ns"].to_numpy(int), outer["start_ns"].to_numpy(int)
    ends = starts + inner["duration_ns"].to_numpy(int)
    outer_ends = outer_starts + outer["duration_ns"].to_numpy(int)
    assert (outer_starts <= starts).all()
    assert (ends <= outer_ends).all()
    _assert_adds_up(calls)


def _assert_adds_up(calls: pd.DataFrame) -> None:
    """Self and tracer time of a call and the durations of those inside it add up to its duration."""
    known = calls[calls["self_ns"].notna()]
    own = known["self_ns"].astype(int) + known["tracer_ns"].astype(int)
    inside = calls.groupby("parent")["duration_ns"].sum().reindex(known.index, fill_value=0)
    assert (known["tracer_ns"] >= 0).all()
    wrong = known[own + inside.astype(int) != known["duration_ns"].astype(int)]
    assert not len(wrong), wrong[["name", "kind", "duration_ns", "self_ns", "tracer_ns"]]
