"""Sums over windows of steps as they are read: modules in one numbering, the window in progress, what cannot be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from modtrace.errors import TraceError
from modtrace.trace import side_tables
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.histogram import BUCKET_LIMIT
from modtrace.trace.side_tables import rollups, with_latest


def table(*rows):
    row = {
        "first_step": 0, "end_step": 1, "from_ns": 0, "to_ns": 1, "module": None, "calls": 1, "forward_ns": 5,
        "forward_max_ns": 5, "backward_ns": None, "backward_max_ns": None, "forward_buckets": [5], "forward_steps": [1],
        "backward_buckets": [], "backward_steps": [],
    }  # fmt: skip
    return pa.Table.from_pylist([row | changed for changed in rows], arrow_schema("rollups"))


def test_modules_get_their_places_and_those_that_are_lost_are_left_out():
    part = table({"module": 7}, {"module": 4}, {"module": 9}, {})
    read = rollups(part, np.array([4, 9]), 100)
    assert read.column("module").to_pylist() == [100, 101, None]


def test_the_window_in_progress_is_read_where_it_is_newer():
    over, latest = table({"first_step": 3}, {"first_step": 4}), table({"first_step": 5}, {"first_step": 5})
    assert with_latest(over, latest).column("first_step").to_pylist() == [3, 4, 5, 5]
    assert with_latest(over, over).column("first_step").to_pylist() == [3, 4]
    assert with_latest(table(), latest).column("first_step").to_pylist() == [5, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"forward_buckets": [5, 6]},
        {"forward_steps": []},
        {"forward_buckets": [BUCKET_LIMIT]},
        {"forward_steps": [1 << 41]},
        {"backward_buckets": [3]},
        {"calls": 1 << 41},
    ],
)
def test_what_cannot_be_is_refused(changed):
    with pytest.raises(TraceError, match="contradicts itself"):
        rollups(table({}, changed), np.arange(3), 0)


SYNC = {"call": 5, "count": 1, "size_bytes": 8}
DEVICE_TIME = {"call": 5, "device_ns": 1, "start_ns": 0}
READING = {
    "call": 5, "at_ns": 1, "moment": 0, "allocated_bytes": 1, "reserved_bytes": 1, "peak_bytes": 1, "total_bytes": 1,
}  # fmt: skip


@pytest.mark.parametrize("amount", [-1, (1 << 63) - 1])
@pytest.mark.parametrize(
    ("name", "read", "row", "column"),
    [
        ("syncs", side_tables._syncs, SYNC, "count"),
        ("syncs", side_tables._syncs, SYNC, "size_bytes"),
        ("device_times", side_tables._device_times, DEVICE_TIME, "device_ns"),
        *(
            ("device_memory", side_tables._device_memory, READING, column)
            for column in ("moment", "allocated_bytes", "reserved_bytes", "peak_bytes", "total_bytes")
        ),
    ],
)
def test_amounts_of_devices_that_cannot_be(name, read, row, column, amount):
    """Neither below zero nor beyond any machine; none at all is an amount."""

    def part(value):
        known = {field.name for field in arrow_schema(name)}
        given = {key: item for key, item in (row | {column: value}).items() if key in known}
        return pa.Table.from_pylist([given], arrow_schema(name))

    assert len(read(part(0), np.array([5]), 0)) == 1
    if column == "moment" and amount > 0:
        amount = 100
    with pytest.raises(TraceError, match="contradicts itself"):
        read(part(amount), np.array([5]), 0)
