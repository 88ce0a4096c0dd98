"""A GPT-like trace made of fixed numbers, written as the recorder would: nothing is run, torch is not needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modtrace.trace.folder import create, write_json
from modtrace.trace.schema import BACKWARD, END_FILE, MODULE, PHASE, PROCESS_FILE
from modtrace.trace.writer import Writer

Ints = npt.NDArray[np.int64]

US = 1_000
SECOND = 1_000_000_000
BLOCK = (  # name, class, parameters, self time of a forward in us, output
    ("", "Block", 7_087_872, 42, "f16[8,1024,768]"),
    ("ln_1", "LayerNorm", 1_536, 79, "f16[8,1024,768]"),
    ("attn", "Attention", 2_362_368, 408, "f16[8,1024,768]"),
    ("attn.c_attn", "Linear", 1_771_776, 842, "f16[8,1024,2304]"),
    ("attn.c_proj", "Linear", 590_592, 254, "f16[8,1024,768]"),
    ("ln_2", "LayerNorm", 1_536, 81, "f16[8,1024,768]"),
    ("mlp", "MLP", 4_722_432, 14, "f16[8,1024,768]"),
    ("mlp.c_fc", "Linear", 2_362_368, 1587, "f16[8,1024,3072]"),
    ("mlp.act", "GELU", 0, 92, "f16[8,1024,3072]"),
    ("mlp.c_proj", "Linear", 2_360_064, 1292, "f16[8,1024,768]"),
)


@dataclass
class _Rows:
    """Calls of one step, times counted from its start."""

    kind: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    module: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    forward: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    now: int = 0

    def open(self, kind: int, *, module: int = -1, label: int = -1, forward: int = -1, out: int = -1) -> int:
        at = len(self.kind)
        self.kind.append(kind)
        self.parent.append(self.stack[-1] if self.stack else -1)
        self.depth.append(len(self.stack))
        self.module.append(module)
        self.label.append(label)
        self.forward.append(forward)
        self.outputs.append(out)
        self.start.append(self.now)
        self.end.append(self.now)
        self.last.append(at)
        self.stack.append(at)
        return at

    def close(self, spent_ns: int) -> None:
        self.now += spent_ns
        at = self.stack.pop()
        self.end[at] = self.now
        self.last[at] = len(self.kind) - 1


@dataclass(frozen=True)
class Gpt:
    """The modules of the model: one row each, in `named_modules` order."""

    name: list[str]
    type: list[str]
    parameters: list[int]
    self_us: list[int]
    output: list[str]

    @classmethod
    def of(cls, layers: int) -> Gpt:
        rows: list[tuple[str, str, int, int, str]] = [
            ("", "GPT", 38_597_376 + layers * 7_087_872, 100, "f16[8,1024,50257]"),
            ("wte", "Embedding", 38_597_376, 55, "f16[8,1024,768]"),
        ]
        for layer in range(layers):
            for name, *rest in BLOCK:
                rows.append((f"h.{layer}.{name}".rstrip("."), *rest))  # type: ignore[arg-type]
        rows += [
            ("ln_f", "LayerNorm", 1_536, 80, "f16[8,1024,768]"),
            ("lm_head", "Linear", 38_597_376, 3231, "f16[8,1024,50257]"),
        ]
        return cls(*map(list, zip(*rows, strict=True)))  # type: ignore[arg-type]


LABELS = (("data", "DataLoader"), ("zero_grad", "AdamW"), ("backward", ""), ("optimizer", "AdamW"))


def _step(model: Gpt, layers: int, backward: bool) -> _Rows:
    rows = _Rows()
    texts = sorted(set(model.output))
    out = [texts.index(text) for text in model.output]

    def phase(label: int, spent_us: int) -> None:
        rows.open(PHASE, label=label)
        rows.close(spent_us * US)

    called: dict[int, int] = {}

    def tree(kind: int, order: list[int], factor: int) -> None:
        """The calls below the root, each row closed when the next one is not inside it."""
        for module in order:
            name = model.name[module]
            while len(rows.stack) > base and not _inside(name, open_names[-1]):
                rows.close(model.self_us[rows.module[rows.stack[-1]]] * US * factor)
                open_names.pop()
            at = rows.open(
                kind,
                module=module,
                forward=called.get(module, -1),
                out=-1 if kind == BACKWARD else out[module],
            )
            if kind == MODULE:
                called[module] = at
            open_names.append(name)
        while len(rows.stack) > base:
            rows.close(model.self_us[rows.module[rows.stack[-1]]] * US * factor)

    phase(0, 1500)
    base, open_names = 0, []
    every = list(range(len(model.name)))
    tree(MODULE, every, 1)
    rows.now += 350 * US
    phase(1, 210)
    if backward:
        rows.open(PHASE, label=2)
        base, open_names = 1, []
        tree(BACKWARD, _backwards(model, layers), 2)
        rows.close(100 * US)
    phase(3, 4200)
    rows.now += 90 * US
    return rows


def _inside(name: str, above: str) -> bool:
    return not above or name.startswith(f"{above}.")


def _backwards(model: Gpt, layers: int) -> list[int]:
    """Modules in the order in which their backward starts: blocks from the last, a parent before its children."""
    size = len(BLOCK)
    order = [0, len(model.name) - 1, len(model.name) - 2]
    for layer in reversed(range(layers)):
        first = 2 + layer * size
        order += [first, *(first + at for at in (6, 9, 8, 7, 5, 2, 4, 3, 1))]
    return [*order, 1]


def write_gpt(path: Path, *, steps: int, layers: int = 12, backward: bool = True, memory: bool = True) -> int:
    """Write the trace of a training loop; step `k` takes longer by a fixed sawtooth, the first one six times as long.

    Returns:
        The number of rows in `calls`.
    """
    model = Gpt.of(layers)
    one = _step(model, layers, backward)
    each = len(one.kind)
    columns = {
        name: np.array(getattr(one, name), np.int64)
        for name in _Rows.__dataclass_fields__
        if name not in ("stack", "now")
    }
    facts = {
        "format": "modtrace", "schema": 1, "modtrace": "0", "script": "train.py", "argv": ["--lr", "3e-4"],
        "started_unix_ns": 1_763_910_238_000_000_000, "python": "3.11.7", "platform": "linux",
    }  # fmt: skip
    folder = create(path, facts, process="rank-0", force=True)
    write_json(folder, PROCESS_FILE, {"rank": 0, "pid": 4121, "torch": "2.13.0", "devices": ["cuda:0"]})
    writer = Writer(folder)
    _write_facts(writer, model)
    slow = 100 + (np.arange(steps) * 37) % 11
    slow[0] = 600
    ends = SECOND + np.cumsum(slow * one.now // 100)  # first it imports
    begins = ends - slow * one.now // 100
    per_batch = max(60_000 // each, 1)
    for low in range(0, steps, per_batch):
        chosen = np.arange(low, min(low + per_batch, steps))
        _write_calls(writer, columns, chosen, slow[chosen], begins[chosen])
    if memory:
        _write_memory(writer, min(steps, 6), begins, slow, one.now)
    writer.close()
    end = {"ended_ns": int(ends[-1]) + SECOND, "exit_status": 0, "rows": {"calls": each * steps}}
    write_json(folder, END_FILE, end)
    return each * steps


def _tensor(shape: list[int], path: str = "0") -> dict[str, Any]:
    return {
        "path": path, "shape": shape, "dtype": "float16", "device": "cuda:0", "layout": "strided",
        "requires_grad": True,
    }  # fmt: skip


def _write_facts(writer: Writer, model: Gpt) -> None:
    count = len(model.name)
    where = {"Block": 60, "Attention": 20, "MLP": 42, "GPT": 78}
    writer.append(
        "modules",
        {
            "module": list(range(count)),
            "type": model.type,
            "type_module": ["model" if kind in where else "torch.nn" for kind in model.type],
            "parameter_count": model.parameters,
            "parameter_bytes": [2 * number for number in model.parameters],
            "trainable_count": model.parameters,
            "trainable_bytes": [2 * number for number in model.parameters],
            "buffer_count": [0] * count,
            "buffer_bytes": [0] * count,
            "parameters": [[] for _ in range(count)],
            "training": [True] * count,
            "extra_repr": [
                "in_features=768, out_features=3072, bias=True" if name.endswith("c_fc") else ""
                for name in model.name
            ],
            "source_file": ["model.py" if kind in where else None for kind in model.type],
            "source_line": [where.get(kind) for kind in model.type],
            "overrides_call": [False] * count,
            "variable": [None] * count,
            "instances": [1] * count,
        },
        at_ns=1,
    )
    writer.append(
        "names",
        {
            "root": [0] * count,
            "module": list(range(count)),
            "name": model.name,
            "aliases": [[] for _ in range(count)],
        },
        at_ns=1,
    )
    texts = sorted(set(model.output))
    shapes = [[int(size) for size in text[4:-1].split(",")] for text in texts]
    writer.append(
        "signatures",
        {
            "signature": list(range(len(texts))),
            "text": texts,
            "tensors": [[_tensor(shape)] for shape in shapes],
            "opaque": [False] * len(shapes),
        },
        at_ns=1,
    )
    none = [None] * len(LABELS)
    writer.append(
        "labels",
        {
            "label": list(range(len(LABELS))), "name": [name for name, _ in LABELS],
            "type": [kind for _, kind in LABELS], "source_file": none, "source_line": none, "source_offset": none,
        },
        at_ns=1,
    )  # fmt: skip


def _write_calls(writer: Writer, one: dict[str, Ints], steps: Ints, slow: Ints, begins: Ints) -> None:
    each = len(one["kind"])
    base = np.repeat(steps * each, each)

    def tiled(name: str) -> Ints:
        return np.tile(one[name], len(steps))

    def shifted(name: str) -> tuple[Ints, npt.NDArray[np.bool_]]:
        values = tiled(name)
        return np.where(values >= 0, values + base, -1), values < 0

    factor = np.repeat(slow, each)
    start = tiled("start") * factor // 100 + np.repeat(begins, each)
    end = tiled("end") * factor // 100 + np.repeat(begins, each)
    duration = end - start
    parent, top = shifted("parent")
    spent = np.bincount(
        (parent - base[0])[~top], weights=duration[~top].astype(np.float64), minlength=len(base)
    ).astype(np.int64)
    last, _ = shifted("last")
    forward, no_forward = shifted("forward")
    module, label, outputs = tiled("module"), tiled("label"), tiled("outputs")
    count = len(base)
    every, none = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    zero = np.zeros(count, np.int64)
    writer.append(
        "calls",
        {
            "call": np.arange(count) + base[0], "parent": parent, "last_call": last, "kind": tiled("kind"),
            "module": np.maximum(module, 0), "root": zero, "label": np.maximum(label, 0),
            "forward": np.maximum(forward, 0), "mode": zero, "depth": tiled("depth"), "start_ns": start,
            "duration_ns": duration, "self_ns": duration - spent, "tracer_ns": zero, "hooks_ns": zero,
            "output_replaced": none, "inputs": np.maximum(outputs, 0), "outputs": np.maximum(outputs, 0),
            "status": zero, "error": zero,
        },
        nulls={
            "module": module < 0, "root": module < 0, "label": label < 0, "forward": no_forward, "mode": every,
            "hooks_ns": every, "output_replaced": every, "inputs": outputs < 0, "outputs": outputs < 0,
            "error": every,
        },
        at_ns=int(end[-1]),
    )  # fmt: skip


def _write_memory(writer: Writer, steps: int, begins: Ints, slow: Ints, took: int) -> None:
    """In each step 40 activations that are freed in reverse order, over parameters that stay."""
    at, freed, size = [0], [-1], [474_000_000]
    for step in range(steps):
        length = int(slow[step]) * took // 100
        for piece in range(40):
            at.append(int(begins[step]) + length * (piece + 2) // 150)
            freed.append(int(begins[step]) + length * (140 - piece) // 150)
            size.append(25_000_000 + 1_000_000 * (piece % 7))
    count = len(at)
    order = np.argsort(at, kind="stable")
    ends = np.array(freed)[order]
    first = np.zeros(count, np.bool_)
    first[0] = True
    writer.append(
        "allocations",
        {
            "call": np.zeros(count, np.int64),
            "at_ns": np.array(at)[order], "freed_ns": np.maximum(ends, 0), "size_bytes": np.array(size)[order],
            "device": ["cuda:0"] * count, "thread": np.zeros(count, np.int64), "category": np.zeros(count, np.int64),
        },
        nulls={"call": np.ones(count, np.bool_), "freed_ns": ends < 0, "category": ~first, "thread": first},
        at_ns=1,
    )  # fmt: skip
    end = int(begins[steps - 1]) + int(slow[steps - 1]) * took // 100
    writer.append(
        "watched", {"from_ns": [0], "to_ns": [end], "memory": [True], "kernels": [False]}, at_ns=end
    )
