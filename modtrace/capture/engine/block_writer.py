"""Takes what the hooks have recorded out of the thread buffers, decodes it and writes it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.decode import (
    Block,
    BlockCalls,
    Carried,
    Costs,
    DecodedCalls,
    Ints,
    Naming,
    OpenRow,
    closed_rows,
    decode,
    distinct,
    nodes_of,
    records_of,
)
from modtrace.capture.engine.thinning import TakenRows, Thinning
from modtrace.capture.engine.thread_buffer import KIND_SHIFT, ThreadBuffer
from modtrace.capture.mechanisms.asked_steps import asked_row
from modtrace.device_peaks.measure import device_key
from modtrace.errors import SizeLimitError
from modtrace.systems.this_process import clock_name
from modtrace.trace.folder import write_json
from modtrace.trace.full_steps import ALL, OVER, STEPS, FullAnswer, FullRequests
from modtrace.trace.schema import BEYOND_LIMIT, FUNCTION, MODULE, PROCESS_FILE, THREAD_SHIFT
from modtrace.trace.writer import Writer


class TakenBlock:
    """The block of one thread buffer, whose thread may be running meanwhile.

    A call around a recorded one is recorded too, or is open before or after the records are taken, or was closed
    since: then its record is one of the next block. What began behind the last recorded call is of this block only
    where nothing has ended since: numbers of calls in a block leave none out.
    """

    def __init__(self, buffer: ThreadBuffer) -> None:
        self.buffer = buffer.number
        before = _open_rows(buffer)
        self.records: Ints = records_of(buffer.take())
        after = _open_rows(buffer)
        since = _closed_rows(buffer)  # read last: it has all that has ended up to the reading before
        newest = int(self.records[:, 0].max()) if len(self.records) else -1
        around = {call: row for call, row in (since | after).items() if call < newest or not since}
        self.nodes: BlockCalls = nodes_of(self.records, list((before | around).values()))


def _open_rows(buffer: ThreadBuffer) -> dict[int, OpenRow]:
    """The calls that are open now, by their numbers."""
    return {
        call: (entry.kind << KIND_SHIFT | depth, call, entry.number, args, start)
        for depth, (_, call, entry, args, start, _) in enumerate(list(buffer.calls))
    }


def _closed_rows(buffer: ThreadBuffer) -> dict[int, OpenRow]:
    """The calls that have been closed and are not taken yet, by their numbers."""
    return {row[1]: row for row in closed_rows(buffer.records[:])} if buffer.records else {}


class Blocks:
    """Writes block after block. Interned rows are written before the calls that use them.

    Raises WriteError from every method that writes.
    """

    def __init__(
        self,
        writer: Writer,
        folder: Path,
        context: TraceContext,
        *,
        further_rows: Callable[[], list[tuple[str, Mapping[str, list[Any]]]]],
        latest_rows: Callable[[], list[tuple[str, Mapping[str, list[Any]]]]],
        limit_reached: Callable[[SizeLimitError], None],
        call_cost_ns: Callable[[], int],
    ) -> None:
        """Args:
        writer: of the process folder.
        folder: that folder.
        context: shared with the tracer; its counts of calls are kept here.
        further_rows: hands out new rows of recorders.
        latest_rows: hands out rows of recorders that replace earlier ones.
        limit_reached: told when single calls are not written any more and sums are.
        call_cost_ns: what recorders cost each module call, outside of its measured time.
        """
        self.writer = writer
        self.written_ns = 0
        """All that had happened up to this moment is on disk."""
        self._context = context
        self._registry = context.registry
        self._signatures = context.signatures
        self._more, self._latest = further_rows, latest_rows
        self._limit_reached = limit_reached
        self._sums_alone = False
        self._requests = FullRequests(folder)
        self._call_cost_ns = call_cost_ns
        self._carried: dict[int, Carried] = {}

    def write(self, blocks: list[TakenBlock], at_ns: int) -> None:
        """Decode and write one block of every thread buffer; `at_ns` is now, since the start of recording."""
        decoded = self._decode(blocks)
        wanted = self._wanted_steps()
        thinning = self._context.thinning
        if thinning is not None:
            thinning.room_bytes = self.writer.room_bytes(thinning.sums_growth)
            thinning.prepare(sum(_count(rows) for rows in decoded), self.writer.single_bytes, at_ns)
        self._tell(blocks, decoded, at_ns)
        for block in blocks:
            self._registry.look_again(distinct(block.nodes.module[block.nodes.kind == MODULE]).tolist())
        self._registry.refresh()
        module_rows, name_rows = self._registry.rows()
        further = [*self._more(), *wanted]
        if thinning is not None:
            decoded, further = _thinned(thinning, blocks, decoded, further, at_ns)
        interned = (
            ("modules", module_rows),
            ("names", name_rows),
            ("signatures", self._signatures.rows()),
            ("labels", self._context.labels.rows()),
            ("errors", self._context.errors.rows()),
            *further,
        )
        for table, columns in interned:
            if columns and len(next(iter(columns.values()))):
                self._append(table, columns, {}, at_ns)
        for rows in decoded:
            if rows.opened:
                self._append("open", rows.opened, rows.opened_nulls, at_ns)
            if rows.calls:
                self._append("calls", rows.calls, rows.calls_nulls, at_ns)
        for table, columns in self._latest():
            self.writer.replace(table, columns, at_ns=at_ns)
        if not self._sums_alone:
            self.written_ns = at_ns

    def _wanted_steps(self) -> list[tuple[str, Mapping[str, list[Any]]]]:
        """Take what somebody who looks at the run asks for: the next steps in full."""
        request = self._requests.new()
        if request is None:
            return []
        if self._sums_alone:
            self._requests.answer(request, FullAnswer(OVER))
            return []
        if self._context.thinning is None:
            self._requests.answer(request, FullAnswer(ALL))
            return []
        first = self._context.thinning.step + 1
        end = first + request.steps
        self._requests.answer(request, FullAnswer(STEPS, first, end))
        return [("asked", asked_row("full", (first, end)))]

    def _append(self, table: str, columns: Mapping[str, Any], nulls: Mapping[str, Any], at_ns: int) -> None:
        """Write rows; where single calls are not written any more, of some tables alone."""
        if self._sums_alone and table not in BEYOND_LIMIT:
            return
        try:
            self.writer.append(table, columns, nulls=nulls, at_ns=at_ns)
        except SizeLimitError as limit:
            self._sums_alone = True
            self._context.thinning = None
            self._limit_reached(limit)

    def _tell(self, blocks: list[TakenBlock], decoded: list[Block], at_ns: int) -> None:
        """Tell recorders what has been decoded."""
        for told in self._context.events.blocks_decoded:
            pairs = [
                (block.buffer, DecodedCalls(block.nodes, rows.calls, rows.calls_nulls))
                for block, rows in zip(blocks, decoded, strict=True)
            ]
            told(pairs, at_ns)

    def _decode(self, blocks: list[TakenBlock]) -> list[Block]:
        none = Carried()
        for block in blocks:
            for module in distinct(
                block.nodes.module[block.nodes.root == np.arange(len(block.nodes.root))]
            ).tolist():
                self._registry.ensure_tree(module)
        naming = Naming(tops=self._registry.tops, joined=self._signatures.joined)
        costs = self._context.costs
        costs = costs._replace(outside_ns=costs.outside_ns + self._call_cost_ns())
        decoded = []
        for block in blocks:
            rows, self._carried[block.buffer] = decode(
                block.records,
                block.nodes,
                self._carried.get(block.buffer, none),
                base=block.buffer << THREAD_SHIFT,
                naming=naming,
                costs=costs,
                origin_ns=self._context.origin_ns,
            )
            kinds = rows.calls.get("kind", np.ones(0))
            self._context.module_calls += int(np.count_nonzero(kinds == MODULE))
            self._context.function_calls += int(np.count_nonzero(kinds == FUNCTION))
            decoded.append(rows)
        return decoded


def _count(rows: Block) -> int:
    return len(rows.calls["call"]) if rows.calls else 0


def _thinned(
    thinning: Thinning,
    blocks: list[TakenBlock],
    decoded: list[Block],
    further: list[tuple[str, Mapping[str, Any]]],
    at_ns: int,
) -> tuple[list[Block], list[tuple[str, Mapping[str, Any]]]]:
    """Rows of blocks and of recorders that are written now, with the stretches of steps that are left out."""
    thinning.note_asked(further)
    if not thinning.is_on:
        return decoded, further
    taken = [TakenRows(block.buffer, block.nodes, rows) for block, rows in zip(blocks, decoded, strict=True)]
    decoded, further = thinning.chosen(taken, further, at_ns)
    return decoded, [*further, ("thinned", thinning.stretches())]


def gap_rows(reasons: Sequence[str], at_ns: int) -> dict[str, list[Any]]:
    """Columns of `gaps` that say why something could not be recorded."""
    count = len(reasons)
    return {"at_ns": [at_ns] * count, "reason": list(reasons), "lost_calls": [None] * count}


def write_process(
    folder: Path,
    rank: int,
    costs: Costs,
    *,
    engine: str,
    options: Mapping[str, str],
    started_unix_ns: int,
    start_ns: int,
) -> None:
    """Write `process.json`. `started_unix_ns` is the start of recording by the wall clock, `start_ns` what starting
    took, `options` what recorders were asked for.
    """
    world = os.environ.get("WORLD_SIZE", "")
    data: dict[str, Any] = {
        "pid": os.getpid(),
        "rank": rank,
        "world_size": int(world) if world.isdigit() else None,
        "started_unix_ns": started_unix_ns,
        "clock": clock_name(),
        "torch": str(torch.__version__),
        "devices": [device_key()],
        "recursion_limit": sys.getrecursionlimit(),
        "engine": engine,
        "options": dict(options),
        "cost": {
            "call_ns": costs.inside_ns + costs.outside_ns,
            "outside_ns": costs.outside_ns,
            "start_ns": start_ns,
        },
    }
    write_json(folder, PROCESS_FILE, data)
