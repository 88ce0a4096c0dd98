"""Several processes and threads in one numbering: random ones, against a plain account of what points where."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from modtrace.errors import TraceError
from modtrace.trace.arrow import arrow_schema
from modtrace.trace.merge import merge
from modtrace.trace.schema import MODULE, OK, TABLES, THREAD_SHIFT, UNFINISHED

INTERNED = {"modules": "module", "signatures": "signature", "labels": "label", "errors": "error"}


def table_of(name, rows):
    """A table with these cells: null in other columns, or what is empty where null must not be."""
    empty = {"string": "", "tensors": [], "list<string>": [], "bool": False}
    blank = {column.name: None if column.nullable else empty.get(column.type, 0) for column in TABLES[name]}
    return pa.Table.from_pylist([blank | row for row in rows], arrow_schema(name))


class Process:
    """Random calls on some threads, keys with holes, rows in any order, some of them written twice."""

    def __init__(self, rng):
        self.rng = rng
        self.keys = {name: sorted(rng.sample(range(200), 6)) for name in INTERNED}
        if rng.random() < 0.3:
            self.keys["modules"] = list(range(6))
        self.calls = {}
        for thread in rng.choice(((0,), (0, 1), (0, 2, 5), (3,))):
            self.thread(thread)
        for call in rng.sample(sorted(self.calls), 3):
            self.calls[call]["forward"] = rng.choice(sorted(self.calls))

    def thread(self, thread):
        base, above = thread << THREAD_SHIFT, []
        count = self.rng.randint(3, 25)
        for number in range(count):
            del above[self.rng.randint(0, len(above)) :]
            call = base + number
            keys = {name: self.rng.choice(self.keys[name]) for name in INTERNED}
            for outer in above:
                self.calls[outer]["last_call"] = call
            self.calls[call] = {
                "call": call, "parent": above[-1] if above else -1, "last_call": call, "kind": MODULE,
                "module": keys["modules"], "root": self.rng.choice(self.keys["modules"]), "depth": len(above),
                "start_ns": number, "status": OK, "inputs": keys["signatures"],
                "outputs": self.rng.choice((None, keys["signatures"])),
            }  # fmt: skip
            above.append(call)
        for call in above:  # open at the end: the calls behind the last one that ended
            self.calls[call]["status"] = UNFINISHED

    def tables(self):
        tables = {name: table_of(name, []) for name in TABLES}
        texts = {"modules": "type", "signatures": "text", "labels": "name", "errors": "type"}
        for name, key in INTERNED.items():
            rows = [{key: value, texts[name]: f"{name} {value}"} for value in self.keys[name]]
            older = [{key: value, texts[name]: "older"} for value in self.rng.sample(self.keys[name], 2)]
            self.rng.shuffle(rows)
            tables[name] = table_of(name, older + rows)
        closed = [row for row in self.calls.values() if row["status"] != UNFINISHED]
        opened = [row for row in self.calls.values() if row["status"] == UNFINISHED]
        opened += self.rng.sample(closed, min(2, len(closed)))  # these have ended since
        self.rng.shuffle(closed)
        self.rng.shuffle(opened)
        tables["calls"] = table_of("calls", closed)
        names = {column.name for column in TABLES["open"]}
        tables["open"] = table_of("open", [{k: v for k, v in row.items() if k in names} for row in opened])
        pairs = [(root, module) for root in self.keys["modules"][:2] for module in self.keys["modules"]]
        self.named = {pair: f"name {pair}" for pair in self.rng.sample(pairs, 5)}
        named = [{"root": r, "module": m, "name": text} for (r, m), text in self.named.items()]
        older = [{**row, "name": "older"} for row in named[:2]]
        tables["names"] = table_of("names", [*older, *self.rng.sample(named, 5)])
        self.parameters = {
            (self.rng.choice((*self.keys["modules"], None)), name): size for size, name in enumerate("abcd")
        }
        rows = [{"module": m, "name": name, "elements": size} for (m, name), size in self.parameters.items()]
        tables["parameters"] = table_of("parameters", [{**rows[0], "elements": 99}, *rows])
        return tables


def position(values, value):
    return None if value is None else sorted(values).index(value)


def shifted(value, by):
    return None if value is None else value + by


def expected_calls(processes, ranks):
    rows, offset = [], 0
    key_offsets = dict.fromkeys(INTERNED, 0)
    for index, (process, rank) in enumerate(zip(processes, ranks, strict=True)):
        for call, row in sorted(process.calls.items()):
            unfinished = row["status"] == UNFINISHED
            forward = row.get("forward")
            rows.append({
                "call": len(rows), "ids": call, "thread": call >> THREAD_SHIFT, "process": index, "rank": rank,
                "parent": -1 if row["parent"] < 0 else offset + position(process.calls, row["parent"]),
                "last_call": offset + position(process.calls, row["last_call"]),
                "module": key_offsets["modules"] + position(process.keys["modules"], row["module"]),
                "root": key_offsets["modules"] + position(process.keys["modules"], row["root"]),
                "label": None, "error": None,
                "inputs": key_offsets["signatures"] + position(process.keys["signatures"], row["inputs"]),
                "outputs": None if unfinished else shifted(
                    position(process.keys["signatures"], row["outputs"]), key_offsets["signatures"]
                ),
                "forward": shifted(position(process.calls, forward), offset),
                "status": row["status"], "depth": row["depth"], "start_ns": row["start_ns"],
            })  # fmt: skip
        offset += len(process.calls)
        key_offsets = {name: key_offsets[name] + len(process.keys[name]) for name in INTERNED}
    return rows


def merged(parts, ranks, *, damaged=False):
    raw = {name: [part[name] for part in parts] for name in TABLES}
    return merge(raw, ranks, damaged=damaged)


@pytest.mark.parametrize("seed", range(60))
def test_random_processes(seed):
    rng = random.Random(seed)
    processes = [Process(rng) for _ in range(rng.randint(1, 3))]
    ranks = rng.sample(range(9), len(processes))
    tables, calls, notes = merged([process.tables() for process in processes], ranks)
    assert notes == []
    assert tables["gaps"].num_rows == 0
    rows = calls.to_arrow().to_pylist()
    for row, expected in zip(rows, expected_calls(processes, ranks), strict=True):
        expected.pop("ids")
        assert {name: row[name] for name in expected} == expected
    offset = 0
    names, parameters = [], []
    for index, process in enumerate(processes):
        keys = process.keys["modules"]
        names += [
            (offset + keys.index(root), offset + keys.index(module), text)
            for (root, module), text in process.named.items()
        ]
        parameters += [
            (index, None if module is None else offset + keys.index(module), name, size)
            for (module, name), size in process.parameters.items()
        ]
        offset += len(keys)
    assert sorted((row["root"], row["module"], row["name"]) for row in tables["names"].to_pylist()) == sorted(
        names
    )
    seen = [
        (row["process"], row["module"], row["name"], row["elements"])
        for row in tables["parameters"].to_pylist()
    ]
    assert sorted(seen, key=str) == sorted(parameters, key=str)
    for name, key in INTERNED.items():
        table = tables[name]
        expected = [f"{name} {value}" for process in processes for value in sorted(process.keys[name])]
        text = {"modules": "type", "signatures": "text", "labels": "name", "errors": "type"}[name]
        assert table[text].to_pylist() == expected
        assert table[key].to_pylist() == list(range(len(expected)))


def small(**cells):
    """A root call and two in it; `cells` by call: {1: {"module": 7}}."""
    rows = [
        {"call": 0, "parent": -1, "last_call": 2, "kind": MODULE, "module": 0, "root": 0, "depth": 0, "start_ns": 5},
        {"call": 1, "parent": 0, "last_call": 1, "kind": MODULE, "module": 1, "root": 0, "depth": 1, "start_ns": 6},
        {"call": 2, "parent": 0, "last_call": 2, "kind": MODULE, "module": 0, "root": 0, "depth": 1, "start_ns": 7},
    ]  # fmt: skip
    for call, values in cells.items():
        rows[int(call[1:])] |= values
    tables = {name: table_of(name, []) for name in TABLES}
    tables["modules"] = table_of("modules", [{"module": 0, "type": "A"}, {"module": 1, "type": "B"}])
    tables["calls"] = table_of("calls", rows)
    return tables


def test_a_row_that_points_nowhere_is_lost_in_a_damaged_trace_and_a_contradiction_in_a_whole_one():
    tables, calls, notes = merged([small(c1={"module": 7})], [0], damaged=True)
    assert calls.values("module").tolist() == [0, 0]
    assert notes == ["1 call left out: what they belong to is lost"]
    assert tables["gaps"].num_rows == 0
    tables, calls, notes = merged([small(c1={"module": 7})], [0], damaged=False)
    assert calls.values("start_ns").tolist() == [5, 7]
    assert notes == []
    (gap,) = tables["gaps"].to_pylist()
    assert gap == {
        "at_ns": 6, "lost_calls": 1, "process": 0,
        "reason": "1 call left out, for the trace contradicts itself: they point at rows that are not there",
    }  # fmt: skip


def test_what_is_below_a_lost_call_is_lost_with_it():
    _, calls, notes = merged([small(c0={"module": 7})], [0], damaged=True)
    assert len(calls) == 0
    assert notes == ["3 calls left out: what they belong to is lost"]


def test_gaps_of_several_processes():
    """Rows left out of one process come before its own gaps; others are as they were."""
    first, second = small(), small(c1={"module": 7}, c2={"inputs": 3})
    first["gaps"] = table_of("gaps", [{"at_ns": 3, "reason": "first"}])
    second["gaps"] = table_of("gaps", [{"at_ns": 4, "reason": "second"}])
    freed = {"freed_ns": 8, "size_bytes": 1, "device": "cpu"}
    second["allocations"] = table_of(
        "allocations",
        [{"at_ns": 9, **freed}, {"at_ns": 12, **freed}, {"at_ns": 8, **freed}, {**freed, "freed_ns": None}],
    )
    tables, calls, _ = merged([first, second], [4, 2])
    assert calls.values("rank").tolist() == [4, 4, 4, 2]
    gaps = [(row["process"], row["at_ns"], row["lost_calls"]) for row in tables["gaps"].to_pylist()]
    assert gaps == [(0, 3, None), (1, 9, None), (1, 6, 2), (1, 4, None)]
    assert tables["allocations"]["at_ns"].to_pylist() == [8, 0]
    assert tables["gaps"]["reason"][1].as_py().startswith("2 allocations left out")


def test_a_key_below_zero_is_an_error():
    broken = small()
    broken["modules"] = table_of("modules", [{"module": -1, "type": "A"}])
    with pytest.raises(TraceError, match="below zero"):
        merged([broken], [0])


def test_no_process():
    tables, calls, notes = merged([], [])
    assert len(calls) == 0
    assert notes == []
    assert {table.num_rows for table in tables.values()} == {0}
