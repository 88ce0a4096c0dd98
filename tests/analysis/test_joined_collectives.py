"""Collectives of several ranks, joined: against a count by hand of random arrivals."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from modtrace.analysis.ranks.joined_collectives import arrivals
from modtrace.analysis.ranks.process_groups import group_facts
from modtrace.trace.arrow import arrow_schema


def by_hand(rows, expected):
    """(late, wait, ranks) of each (key, process, at)."""
    answers = []
    for key, _, at in rows:
        same = [row for row in rows if row[0] == key and key >= 0]
        ranks = {row[1] for row in same}
        if key < 0 or len(same) != len(ranks) or len(ranks) != expected[key]:
            answers.append((-1, -1, max(len(ranks), 1)))
        else:
            times = [row[2] for row in same]
            answers.append((at - min(times), max(times) - at, len(ranks)))
    return answers


@pytest.mark.parametrize("seed", range(20))
def test_lateness_and_waiting_are_those_counted_by_hand(seed):
    rng = random.Random(seed)
    rows, expected = [], {}
    for key in range(12):
        members = rng.randint(1, 4)
        expected[key] = members if rng.random() < 0.8 else members + 1
        for process in range(members):
            count = 2 if rng.random() < 0.05 else 1
            rows += [(key, process, rng.randint(0, 1_000)) for _ in range(count)]
    rows += [(-1, process, 5) for process in range(2)]
    rng.shuffle(rows)
    key, process, at = (np.array(values, np.int64) for values in zip(*rows, strict=True))
    wanted = np.array([expected.get(one, -1) for one in key.tolist()], np.int64)
    found = arrivals(key, process, at, wanted, np.ones(len(key), np.bool_))
    shown = [*zip(found.late_ns.tolist(), found.wait_ns.tolist(), found.ranks.tolist(), strict=True)]
    assert shown == by_hand(rows, expected)


def test_without_one_clock_nothing_is_said_of_lateness():
    key, process, at = np.array([0, 0]), np.array([0, 1]), np.array([5, 9])
    found = arrivals(key, process, at, np.array([2, 2]), np.array([True, False]))
    assert found.late_ns.tolist() == found.wait_ns.tolist() == [-1, -1]
    assert found.ranks.tolist() == [2, 2]
    assert arrivals(key[:0], process[:0], at[:0], key[:0], np.zeros(0, np.bool_)).ranks.tolist() == []


class About:
    def __init__(self, folder="rank-0", world_size=None):
        self.folder, self.world_size = folder, world_size


def groups(*rows):
    columns = ("process_group", "name", "description", "backend", "ranks")
    return pa.Table.from_pylist(
        [dict(zip(columns, row, strict=True)) for row in rows], schema=arrow_schema("process_groups")
    )


def test_a_group_that_was_made_again_is_another():
    table = groups((0, "0", "default_pg", "gloo", [0, 1]), (2, "0", "default_pg", "gloo", [0, 1]))
    first, second = group_facts(table, About()).values()
    assert first.key != second.key
    assert group_facts(table, About("rank-1"))[2].key == second.key
    assert group_facts(table, About("rank-0.1"))[0].key != first.key  # of another start


def test_groups_of_one_name_and_other_ranks_are_not_the_same():
    of_rank_0 = group_facts(groups((1, "1", "mesh_tp", "gloo", [0, 1])), About())[1]
    of_rank_2 = group_facts(groups((1, "1", "mesh_tp", "gloo", [2, 3])), About("rank-2"))[1]
    assert of_rank_0.key != of_rank_2.key


def test_the_group_of_all_ranks_is_known_without_its_list():
    unknown = groups((0, "0", "default_pg", "gloo", None), (1, "1", "undefined", "gloo", None))
    assert group_facts(unknown, About(world_size=3))[0].ranks == (0, 1, 2)
    assert group_facts(unknown, About(world_size=3))[1].ranks is None
    assert group_facts(unknown, About())[0].ranks is None
