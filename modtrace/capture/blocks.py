"""Takes what the hooks have recorded out of the lanes, decodes it and writes it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modtrace.capture.decode import (
    Block,
    Carried,
    Costs,
    Ints,
    Naming,
    Nodes,
    decode,
    distinct,
    nodes_of,
    records_of,
)
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import KIND_SHIFT, Lane
from modtrace.capture.raised import Errors
from modtrace.capture.reach import device_key
from modtrace.capture.registry import Registry
from modtrace.capture.signature import Signatures
from modtrace.trace.folder import write_json
from modtrace.trace.schema import FUNCTION, MODULE, PROCESS_FILE, THREAD_SHIFT
from modtrace.trace.writer import Writer


class Taken:
    """The block of one lane. Its open calls are looked at before and after, for its thread may be running: each call
    above a recorded one is then a record, or was open at one of the two moments.
    """

    def __init__(self, lane: Lane) -> None:
        self.lane = lane.number
        before = list(lane.calls)
        self.records: Ints = records_of(lane.take())
        after = [*enumerate(before), *enumerate(list(lane.calls))]
        known = {
            call: (entry.kind << KIND_SHIFT | depth, call, entry.number, given, start)
            for depth, (_, call, entry, given, start, _) in after
        }
        self.nodes: Nodes = nodes_of(self.records, list(known.values()))


class Blocks:
    """Writes block after block. Interned rows are written before the calls that use them.

    Raises WriteError from every method that writes.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        registry: Registry,
        signatures: Signatures,
        errors: Errors,
        labels: Labels,
        more: Callable[[], list[tuple[str, dict[str, list[Any]]]]],
        origin_ns: int,
    ) -> None:
        self.writer = writer
        self.costs = Costs(0, 0)
        self.device_call_ns: Callable[[], int] = int
        """What the events of one call cost, outside of its measured time."""
        self.calls = 0
        self.functions = 0
        self.written_ns = 0
        """All that had happened up to this moment is on disk."""
        self._registry = registry
        self._signatures = signatures
        self._errors = errors
        self._labels = labels
        self._more = more
        self._origin_ns = origin_ns
        self._carried: dict[int, Carried] = {}

    def write(self, blocks: list[Taken], at_ns: int) -> None:
        """Decode and write one block of every lane; `at_ns` is now, since the start of recording."""
        decoded = self._decode(blocks)
        for block in blocks:
            self._registry.look_again(distinct(block.nodes.module[block.nodes.kind == MODULE]).tolist())
        self._registry.refresh()
        module_rows, name_rows = self._registry.rows()
        interned = (
            ("modules", module_rows),
            ("names", name_rows),
            ("signatures", self._signatures.rows()),
            ("labels", self._labels.rows()),
            ("errors", self._errors.rows()),
            *self._more(),
        )
        for table, columns in interned:
            if columns and len(next(iter(columns.values()))):
                self.writer.append(table, columns, at_ns=at_ns)
        for rows in decoded:
            if rows.opened:
                self.writer.append("open", rows.opened, nulls=rows.opened_nulls, at_ns=at_ns)
            if rows.calls:
                self.writer.append("calls", rows.calls, nulls=rows.calls_nulls, at_ns=at_ns)
        self.written_ns = at_ns

    def _decode(self, blocks: list[Taken]) -> list[Block]:
        none = Carried()
        for block in blocks:
            for module in distinct(
                block.nodes.module[block.nodes.root == np.arange(len(block.nodes.root))]
            ).tolist():
                self._registry.ensure_tree(module)
        naming = Naming(tops=self._registry.tops, joined=self._signatures.joined)
        costs = self.costs._replace(outside_ns=self.costs.outside_ns + self.device_call_ns())
        decoded = []
        for block in blocks:
            rows, self._carried[block.lane] = decode(
                block.records,
                block.nodes,
                self._carried.get(block.lane, none),
                base=block.lane << THREAD_SHIFT,
                naming=naming,
                costs=costs,
                origin_ns=self._origin_ns,
            )
            kind = rows.calls.get("kind", np.ones(0))
            self.calls += int(np.count_nonzero(kind == MODULE))
            self.functions += int(np.count_nonzero(kind == FUNCTION))
            decoded.append(rows)
        return decoded


def gap_rows(reasons: Sequence[str], at_ns: int) -> dict[str, list[Any]]:
    """Columns of `gaps` that say why something could not be recorded."""
    count = len(reasons)
    return {"at_ns": [at_ns] * count, "reason": list(reasons), "lost_calls": [None] * count}


def write_process(folder: Path, rank: int, costs: Costs, *, recorded_ns: int, start_ns: int) -> None:
    """Write `process.json`. `recorded_ns` is the time since the start of recording, `start_ns` what starting took."""
    world = os.environ.get("WORLD_SIZE", "")
    data: dict[str, Any] = {
        "pid": os.getpid(),
        "rank": rank,
        "world_size": int(world) if world.isdigit() else None,
        "started_unix_ns": time.time_ns() - recorded_ns,
        "torch": str(torch.__version__),
        "devices": [device_key()],
        "recursion_limit": sys.getrecursionlimit(),
        "cost": {
            "call_ns": costs.inside_ns + costs.outside_ns,
            "outside_ns": costs.outside_ns,
            "start_ns": start_ns,
        },
    }
    write_json(folder, PROCESS_FILE, data)
