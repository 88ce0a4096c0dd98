# ruff: noqa: E501
"""Damages a trace in its structure: files, tables, columns, cells, JSON, folders. What comes out is a trace that a
careless or hostile program could have written, with control totals that are right.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from modtrace.trace.arrow import CONTROL, WRITTEN, control_total
from modtrace.trace.stream_reader import read_batches

HUGE = (
    -1,
    -2,
    0,
    1,
    2,
    5,
    99,
    127,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**53 + 1,
    2**61,
    2**62,
    2**63 - 1,
    -(2**31),
    -(2**62),
    -(2**63),
)
TEXTS = (
    "", "\x1b]0;x\x07", "[/]", "=1+1", "a\nb", "\u202e", "x" * 5000, "</script><script>", "\x00", "漢" * 300, ".", "..", "a..b",
    "0", "step", "optimizer", "f32[", "f32[2,3]", "[@click=app.quit]", "%s{}", "\ufffe", "'\"&<>", "cuda:0", "cpu", "cuda:99999999999",
)  # fmt: skip
NESTED: Any = []
for _ in range(400):
    NESTED = [NESTED]
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**62, 2**63, 2**64, 10**400,
    -(2**63), "", "12", "-1", "x", "²", "x" * 3000, "\x1b[31m", "\ud800", [], {}, [None], [[]], {"a": 1}, [1, "x", None, {}], NESTED,
    {"calls": -5, "modules": "x", "open": 10**30}, {"calls_ns": -1}, {"flops_per_s": {}}, ["\x1b", 5, None],
)  # fmt: skip
FOLDERS = (
    "rank-²", "rank-٣", "rank-", "rank--1", "rank-1e3", "rank-99999999999999999999", "rank-2147483648", "rank-0.1", "rank-0.x", "pid-1",
    "pid-", "rank-\x1b[1m", "rank-0 ", "RANK-0", "rank", "other", ".rank-0", "rank-\u202e0", "rank-007", "rank-" + "9" * 200,
)  # fmt: skip

Content = dict[str, Any]


class Image:
    """A trace in memory: files of its process folders, tables as Arrow tables. `neutral` while the rows say the same."""

    def __init__(self, path: Path) -> None:
        self.run = (path / "run.json").read_bytes()
        self.folders: dict[str, Content] = {}
        self.notes: list[str] = []
        self.neutral = True
        self.at_ns: dict[tuple[str, str], int] = {}
        self.after: list[Callable[[Path], None]] = []
        for folder in sorted(path.glob("rank-*")):
            content: Content = {}
            for file in sorted(folder.iterdir()):
                if file.suffix == ".arrows":
                    batches = list(read_batches(file, file.stem))
                    if batches:
                        content[file.name] = pa.Table.from_batches([batch.rows for batch in batches])
                        self.at_ns[folder.name, file.name] = max(batch.at_ns for batch in batches)
                elif not file.name.startswith("."):
                    content[file.name] = file.read_bytes()
            self.folders[folder.name] = content

    def copy(self) -> Image:
        other = object.__new__(Image)
        other.run, other.notes, other.neutral, other.after = self.run, [], True, []
        other.at_ns = dict(self.at_ns)
        other.folders = {name: dict(content) for name, content in self.folders.items()}
        return other

    def write(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        (path / "run.json").write_bytes(self.run)
        for name, content in self.folders.items():
            (path / name).mkdir(exist_ok=True)
            for file, data in content.items():
                at_ns = self.at_ns.get((name, file), 1)
                raw = data if isinstance(data, bytes) else stream(data, at_ns)
                (path / name / file).write_bytes(raw)
        for step in self.after:
            step(path)


def stream(table: pa.Table, at_ns: int, control: int | None = None) -> bytes:
    """A table as modtrace writes it, a batch a chunk."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for batch in table.to_batches():
            # As it is read again: a slice has other buffers than what is written of it.
            plain = pa.BufferOutputStream()
            with pa.ipc.new_stream(plain, table.schema) as inner:
                inner.write_batch(batch)
            whole = pa.ipc.open_stream(plain.getvalue()).read_next_batch()
            try:
                total = control_total(whole)
            except (TypeError, ValueError, AttributeError):  # a type that no column of ours has
                total = 0
            total = total if control is None else control
            writer.write_batch(batch, custom_metadata={CONTROL: b"%08x" % total, WRITTEN: b"%d" % at_ns})
    return sink.getvalue().to_pybytes()


def mutated(image: Image, seed: int) -> Image:
    """The trace with one to three of the damages below; which, `seed` says."""
    chance = random.Random(seed)
    found = image.copy()
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        damage = chance.choices(DAMAGES, WEIGHTS)[0]
        before = len(found.notes)
        damage(found, chance)
        if len(found.notes) == before:
            found.notes.append(damage.__name__)
        found.neutral &= damage in NEUTRAL
    return found


def _folder(image: Image, chance: random.Random) -> str:
    return chance.choice(sorted(image.folders)) if image.folders else ""


def _table(image: Image, chance: random.Random) -> tuple[Content, str, pa.Table] | None:
    """One of the tables; those of calls and what they point at more often."""
    content = image.folders.get(_folder(image, chance), {})
    names = sorted(
        name
        for name, data in content.items()
        if isinstance(data, pa.Table) and len(data) and data.num_columns
    )
    if not names:
        return None
    name = chance.choice([*names, *(one for one in names if one in ("calls.arrows", "open.arrows"))])
    return content, name, content[name]


def _column(table: pa.Table, chance: random.Random) -> str:
    return chance.choice(table.schema.names)


def _replaced(table: pa.Table, name: str, values: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    at = table.schema.get_field_index(name)
    kind = table.schema.field(name).type if kind is None else kind
    return table.set_column(at, pa.field(name, kind), pa.array(values, kind))


def drop_file(image: Image, chance: random.Random) -> None:
    content = image.folders.get(_folder(image, chance), {})
    if content:
        name = chance.choice(sorted(content))
        del content[name]
        image.notes.append(f"without {name}")


def empty_table(image: Image, chance: random.Random) -> None:
    found = _table(image, chance)
    if found:
        found[0][found[1]] = found[2].slice(0, 0)
        image.notes.append(f"{found[1]} has no rows")


def only_some_tables(image: Image, chance: random.Random) -> None:
    content = image.folders.get(_folder(image, chance), {})
    for name in sorted(content):
        if chance.random() < 0.5:
            del content[name]


def bytes_of_a_file(image: Image, chance: random.Random) -> None:
    """Cut, flip, insert, or put something else in its place."""
    content = image.folders.get(_folder(image, chance), {})
    if not content:
        return
    name = chance.choice(sorted(content))
    data = content[name]
    raw = bytearray(data if isinstance(data, bytes) else stream(data, 1))
    at = chance.randrange(len(raw) + 1)
    how = chance.choice(["cut", "flip", "insert", "junk", "empty", "twice", "zeros"])
    if how == "cut":
        del raw[at:]
    elif how == "flip" and raw:
        raw[at % len(raw)] ^= 1 << chance.randrange(8)
    elif how == "insert":
        raw[at:at] = chance.randbytes(chance.randrange(1, 40))
    elif how == "junk":
        raw = bytearray(chance.randbytes(chance.randrange(2000)))
    elif how == "twice":
        raw = raw * 2
    elif how == "zeros":
        raw[at : at + 64] = bytes(len(raw[at : at + 64]))
    else:
        raw.clear()
    content[name] = bytes(raw)
    image.notes.append(f"{name}: {how} at {at}")


def rows(image: Image, chance: random.Random) -> None:
    """Without some, in another order, several times."""
    found = _table(image, chance)
    if not found:
        return
    content, name, table = found
    order = list(range(len(table)))
    how = chance.choice(["drop", "drop", "shuffle", "twice", "reverse", "first", "last"])
    if how == "drop":
        order = [row for row in order if chance.random() < 0.7]
    elif how == "shuffle":
        chance.shuffle(order)
    elif how == "twice":
        order += chance.choices(order, k=3)
    elif how == "reverse":
        order.reverse()
    else:
        order = order[: len(order) // 2] if how == "first" else order[len(order) // 2 :]
    content[name] = table.take(pa.array(order, pa.int64()))
    image.notes.append(f"{name}: rows {how}")


def order_of_keys(image: Image, chance: random.Random) -> None:
    """Rows that have a key of their own, in another order or twice over: that says the same."""
    content = image.folders.get(_folder(image, chance), {})
    keys = {"signatures.arrows": "signature", "errors.arrows": "error", "calls.arrows": "call"}
    names = [
        name
        for name, key in keys.items()
        if isinstance(content.get(name), pa.Table) and key in content[name].column_names
    ]
    if not names:
        return
    name = chance.choice(names)
    order = list(range(len(content[name])))
    numbers = content[name].column(keys[name]).to_pylist()
    if len(set(numbers)) == len(numbers):
        chance.shuffle(order)
    content[name] = content[name].take(pa.array(order, pa.int64()))
    image.notes.append(f"{name}: order of keys")


def batches(image: Image, chance: random.Random) -> None:
    """The same rows in other batches."""
    found = _table(image, chance)
    if found:
        content, name, table = found
        parts = table.combine_chunks().to_batches(max_chunksize=chance.randrange(1, 9))
        content[name] = pa.Table.from_batches(parts, table.schema)


def columns(image: Image, chance: random.Random) -> None:
    """One fewer, one more, another name, another type, another order."""
    found = _table(image, chance)
    if not found:
        return
    content, name, table = found
    column = _column(table, chance)
    how = chance.choice(["drop", "rename", "add", "type", "order", "none"])
    at = table.schema.get_field_index(column)
    if how == "drop":
        table = table.remove_column(at)
    elif how == "rename":
        table = table.rename_columns([f"{one}x" if one == column else one for one in table.schema.names])
    elif how == "add":
        table = table.append_column("more", pa.array([1] * len(table)))
    elif how == "order":
        names = list(table.schema.names)
        chance.shuffle(names)
        table = table.select(names)
    elif how == "none":
        table = table.select([])
    else:
        kind = chance.choice(
            [
                pa.int64(),
                pa.int32(),
                pa.int8(),
                pa.float64(),
                pa.string(),
                pa.bool_(),
                pa.binary(),
                pa.list_(pa.int64()),
            ]
        )
        table = table.set_column(at, pa.field(column, kind), pa.nulls(len(table), kind))
    content[name] = table
    image.notes.append(f"{name}.{column}: column {how}")


def cells(image: Image, chance: random.Random) -> None:
    """Some cells of one column are null, or what cannot be."""
    found = _table(image, chance)
    if not found:
        return
    content, name, table = found
    column = _column(table, chance)
    values = table.column(column).to_pylist()
    kind = table.schema.field(column).type
    all_of_them = chance.random() < 0.1
    for _ in range(chance.choice([1, 1, 2, 4])):
        row = chance.randrange(len(values))
        value = None if chance.random() < 0.25 else _value(kind, values[row], chance)
        if all_of_them:
            values = [value] * len(values)
        else:
            values[row] = value
    content[name] = _replaced(table, column, values)
    image.notes.append(f"{name}.{column} = {str(value)[:60]!r}")


def _value(kind: pa.DataType, before: Any, chance: random.Random) -> Any:
    if pa.types.is_boolean(kind):
        return not before
    if pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        near = [before + by for by in (-2, -1, 1, 2, 1000)] if isinstance(before, int) else [0]
        return chance.choice([value for value in (*HUGE, *near) if -limit <= value < limit])
    if pa.types.is_string(kind):
        return chance.choice(TEXTS)
    if pa.types.is_struct(kind):
        return {
            field.name: None if chance.random() < 0.3 else _value(field.type, None, chance)
            for field in (kind.field(at) for at in range(kind.num_fields))
        }
    if pa.types.is_list(kind):
        inner = kind.value_type
        if isinstance(before, list) and before and chance.random() < 0.6:
            after = list(before)
            after[chance.randrange(len(after))] = (
                None if chance.random() < 0.3 else _value(inner, after[0], chance)
            )
            return after
        return [
            None if chance.random() < 0.2 else _value(inner, None, chance) for _ in range(chance.randrange(4))
        ]
    return None


def whole_column(image: Image, chance: random.Random) -> None:
    """A column in another order, or with one value, or with a number added."""
    found = _table(image, chance)
    if not found:
        return
    content, name, table = found
    column = _column(table, chance)
    values = table.column(column).to_pylist()
    how = chance.choice(["shuffle", "same", "null", "shift"])
    if how == "shuffle":
        chance.shuffle(values)
    elif how == "same":
        values = [values[0]] * len(values)
    elif how == "null":
        values = [None] * len(values)
    elif pa.types.is_integer(table.schema.field(column).type):
        by = chance.choice([-1, 1, -1000, 1 << 20])
        width = table.schema.field(column).type.bit_width
        values = [
            value if value is None or not -(1 << width - 1) <= value + by < 1 << width - 1 else value + by
            for value in values
        ]
    content[name] = _replaced(table, column, values)
    image.notes.append(f"{name}.{column}: {how}")


def tables_swapped(image: Image, chance: random.Random) -> None:
    content = image.folders.get(_folder(image, chance), {})
    names = sorted(name for name in content if name.endswith(".arrows"))
    if len(names) > 1:
        one, other = chance.sample(names, 2)
        content[one], content[other] = content[other], content[one]
        image.notes.append(f"{one} and {other} swapped")


def json_value(image: Image, chance: random.Random) -> None:
    """A value of run.json, process.json, end.json or stopped.json is another, or gone, or one is added."""
    content = image.folders.get(_folder(image, chance), {})
    files = [name for name in sorted(content) if name.endswith(".json")]
    file = chance.choice(["run.json", *files, *files])
    raw = image.run if file == "run.json" else content[file]
    try:
        data = json.loads(raw)
    except ValueError:
        return
    if not isinstance(data, dict):
        return
    where, keys = data, sorted(data)
    inner = [key for key in keys if isinstance(data[key], dict) and data[key]]
    if inner and chance.random() < 0.4:
        where = data[chance.choice(inner)]
        keys = sorted(where)
    if file == "run.json" and where is data:
        keys = [key for key in keys if key not in ("format", "schema")]
    key = chance.choice([*keys, "stopped", "gaps", "rows", "devices", "cost", "ended_ns"])
    if chance.random() < 0.2:
        where.pop(key, None)
    else:
        where[key] = chance.choice(JUNK)
    text = json.dumps(data).encode()
    if file == "run.json":
        image.run = text
    else:
        content[file] = text
    image.notes.append(f"{file}: {key} = {str(where.get(key, 'gone'))[:60]!r}")


def json_text(image: Image, chance: random.Random) -> None:
    """A JSON file that is none, or another thing than an object."""
    content = image.folders.get(_folder(image, chance), {})
    texts = (b"", b"[]", b"null", b"3", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b"{}", b'{"format":"modtrace","schema":99}',
             b'{"format":"modtrace","schema":1}', b"NaN", b'{"pid":1e999}', b" " * 2_000_000, b'{"ended_ns":' + b"9" * 5000 + b"}")  # fmt: skip
    file = chance.choice(["run.json", *(name for name in sorted(content) if name.endswith(".json"))])
    if file == "run.json":
        image.run = chance.choice(texts)
    else:
        content[file] = chance.choice(texts)
    image.notes.append(f"{file} is another text")


def folder_names(image: Image, chance: random.Random) -> None:
    """A process folder with another name, gone, twice, or a link."""
    name = _folder(image, chance)
    if not name:
        return
    other = chance.choice(FOLDERS)
    how = chance.choice(["rename", "rename", "rename", "drop", "twice", "again", "link", "file"])
    content = image.folders[name]
    if how in ("rename", "drop", "link", "file"):
        del image.folders[name]
    if how in ("rename", "twice"):
        image.folders[other] = dict(content)
    elif how == "again":
        image.folders[f"{name}.1"] = dict(content)
    elif how == "link":
        image.after.append(lambda path: (path / name).symlink_to("/etc"))
    elif how == "file":
        image.after.append(lambda path: (path / name).write_text("x"))
    image.notes.append(f"{name}: {how} {other!r}")


def planted(image: Image, chance: random.Random) -> None:
    """A folder or a link where a file is expected."""
    name = _folder(image, chance)
    content = image.folders.get(name, {})
    if not content:
        return
    file = chance.choice(sorted(content))
    del content[file]
    if chance.random() < 0.5:
        image.after.append(lambda path: (path / name / file).mkdir())
    else:
        image.after.append(lambda path: (path / name / file).symlink_to("/etc/passwd"))
    image.notes.append(f"{file} is no file")


def moments(image: Image, chance: random.Random) -> None:
    """When a batch says it was written."""
    for key in sorted(image.at_ns):
        if chance.random() < 0.5:
            image.at_ns[key] = chance.choice(HUGE)


def wrong_control(image: Image, chance: random.Random) -> None:
    found = _table(image, chance)
    if found:
        found[0][found[1]] = stream(found[2], 1, control=12345)


WEIGHTED: dict[Callable[[Image, random.Random], None], int] = {
    cells: 30, whole_column: 12, json_value: 16, rows: 8, columns: 6, drop_file: 4, empty_table: 4, only_some_tables: 2,
    bytes_of_a_file: 6, json_text: 3, folder_names: 5, planted: 2, tables_swapped: 2, moments: 2, wrong_control: 1, batches: 2,
    order_of_keys: 2,
}  # fmt: skip
DAMAGES, WEIGHTS = list(WEIGHTED), list(WEIGHTED.values())
NEUTRAL = (batches, order_of_keys)
