"""Collectives of this process, as torch's own Flight Recorder keeps them: read now and then, nothing is wrapped.

torch keeps the newest collectives in a ring (2,000 by default). To read it costs as much as it holds, however little is
new: 20 us an entry. How many have been launched and have ended is told in 50 us. So that is asked often, and the ring
is read when something is new and this costs no more than 1 part in 200 of the time, or it is about to overrun, or
nothing happens any more: whoever waits in a collective then stays there. What is under way is said to be so anew each
second.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from modtrace.capture.torch_private.lookup import COLLECTIVES, missing
from modtrace.capture.torch_private.names import dump_collectives, process_groups
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

if TYPE_CHECKING:
    from modtrace.capture.engine.context import TraceContext

RING: Final = 2_000
RING_NAMES: Final = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
"""Variables of the environment that say how many torch keeps, and how many it does without them."""
FULL: Final = 0.6
"""The ring is read when this part of it is new."""
SHARE: Final = 200
"""Reading takes 1 part of so many of the time, but where the ring is about to overrun."""
OFTEN_NS: Final = 400_000_000
"""The ring is read no more often."""
CONFIRM_NS: Final = 1_000_000_000
"""As often it is said of what is under way that it still is."""
CLOCK_STEP_NS: Final = 1_000_000
"""Clocks that have come apart by more than this were set, or the recording's stood still."""
READ_BACKENDS: Final = frozenset({"gloo"})
TURNED_OFF: Final = "collectives are not recorded: torch's Flight Recorder is turned off ({} is 0)"
OTHER_BACKEND: Final = "collectives of {} are not recorded"
OVERRUN: Final = "{} collectives are not recorded: there were more at once than torch's Flight Recorder keeps"

DTYPE_SIZES: Final[Mapping[str, int]] = {
    "Byte": 1, "Char": 1, "Bool": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4, "Long": 8, "Double": 8,
    "ComplexHalf": 4, "ComplexFloat": 8, "ComplexDouble": 16, "UInt16": 2, "UInt32": 4, "UInt64": 8,
    "Float8_e5m2": 1, "Float8_e4m3fn": 1, "Float8_e5m2fnuz": 1, "Float8_e4m3fnuz": 1, "Float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of an element by the names that torch's core has for dtypes."""


class _Row(NamedTuple):
    """A row of the table `collectives`."""

    collective: int
    process_group: int
    sequence: int | None
    operation: str
    at_ns: int
    thread: int | None
    ended: bool | None
    seen_ns: int
    input_bytes: int | None
    output_bytes: int | None


class FlightRecorder:
    """Reads torch's ring of collectives. `look` is called on a thread that is not the program's, `take` and `latest`
    by whoever writes a block; `finish` when the recording ends.
    """

    def __init__(self, context: TraceContext) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """Cost of reading so far, nanoseconds."""
        self.has_news = False
        """Rows have come since the last block."""
        self._context = context
        self._lock = threading.Lock()
        self._is_on = True
        self._has_groups = self._has_begun = False
        self._ring = _ring_size()
        self._counts: dict[Any, tuple[int, int]] = {}
        self._read_counts: dict[Any, tuple[int, int]] = {}
        self._read_at_ns = -OFTEN_NS
        self._read_cost_ns = self._confirmed_ns = 0
        self._newest = -1
        self._lost = 0
        self._settled: list[_Row] = []
        self._pending: dict[int, _Row] = {}
        self._last_settled: dict[int, _Row] = {}
        self._members: dict[str, tuple[int, list[int]]] = {}
        """By the name of a process group its identity, and its ranks."""
        self._groups: dict[int, dict[str, Any]] = {}
        self._new_groups: list[int] = []

    # when the ring is read --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the ring where that is due."""
        if not self._is_on or not self._lock.acquire(blocking=False):
            return
        try:
            if self._has_group():
                self._look()
        finally:
            self._lock.release()

    def finish(self) -> None:
        """Read what is left; what has not ended by now will not be told."""
        if not self._is_on or not self._lock.acquire(timeout=1.0):
            return
        try:
            if self._has_group() and self._counted() != self._read_counts:
                self._read()
            self._settled += self._pending.values()
            self._pending.clear()
            if self._lost:
                self.gaps.append(OVERRUN.format(f"{self._lost:,}"))
            self._is_on = False
        finally:
            self._lock.release()

    def _has_group(self) -> bool:
        """True from the first process group on. torch's recorder is not touched before: it reads the environment when
        it is first asked, and the program may set that until then.
        """
        if not self._has_groups:
            distributed: Any = sys.modules.get("torch.distributed")
            self._has_groups = bool(getattr(distributed, "is_initialized", bool)())
            if self._has_groups:
                self._begin()
        self._note_members()
        return self._has_groups and self._is_on

    def _note_members(self) -> None:
        """Note the ranks of the process groups that are there: the program may let go of a group before it is read of
        one that anything was launched in.
        """
        world = process_groups() if self._has_groups and self._is_on else None
        if world is None:
            return
        for group, name in list(world.pg_names.items()):
            if name not in self._members or self._members[name][0] != id(group):
                ranks = sorted(int(rank) for rank in world.pg_group_ranks.get(group, {}))
                self._members[str(name)] = id(group), ranks

    def _begin(self) -> None:
        if not self._ring:
            name = next(name for name in RING_NAMES if name in os.environ)
            self.gaps.append(TURNED_OFF.format(name))
            self._is_on = False
        else:
            self.gaps += missing(COLLECTIVES)
            self._is_on = dump_collectives() is not None
        if self._is_on:
            for name in _other_backends():
                self.gaps.append(OTHER_BACKEND.format(name))

    def _look(self) -> None:
        before, counts = self._counts, self._counted()
        self._counts = counts
        now = self._context.clock()
        if counts == self._read_counts:
            self._confirm(now)
            return
        new = _launched(counts) - _launched(self._read_counts)
        is_quiet = counts == before
        due_ns = max(OFTEN_NS, SHARE * self._read_cost_ns)
        if is_quiet or new >= FULL * self._ring or now - self._read_at_ns >= due_ns:
            self._read()

    def _confirm(self, now: int) -> None:
        """Nothing has been launched and nothing has ended since the ring was read."""
        if self._pending and now - self._confirmed_ns >= CONFIRM_NS:
            self._confirmed_ns, self.has_news = now, True
            seen_ns = now - self._context.origin_ns
            self._pending = {key: row._replace(seen_ns=seen_ns) for key, row in self._pending.items()}

    def _counted(self) -> dict[Any, tuple[int, int]]:
        """By process group the numbers of what was launched last, and of what ended last."""
        status = json.loads(dump_collectives()(False, False)).get("pg_status", {})
        return {
            group: (int(counts["last_enqueued_collective"]), int(counts["last_completed_collective"]))
            for group, counts in status.items()
        }

    # the ring -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        began = self._confirmed_ns = self._context.clock()
        counts = self._counted()
        entries = json.loads(dump_collectives()(True, False)).get("entries", ())
        shift_ns = self._shift_ns()
        entries = sorted(entries, key=lambda entry: int(entry["record_id"]))
        self._add(entries, shift_ns, began - self._context.origin_ns)
        self._read_counts, self._read_at_ns = counts, self._context.clock()
        self._read_cost_ns = self._read_at_ns - began
        self.spent_ns += self._read_cost_ns

    def _shift_ns(self) -> int:
        """Nanoseconds that the recording's clock has stood still, or the wall clock was set forward; 0 for none."""
        context = self._context
        apart = time.time_ns() - context.started_unix_ns - (context.clock() - context.origin_ns)
        return apart if abs(apart) > CLOCK_STEP_NS else 0

    def _add(self, entries: Sequence[Mapping[str, Any]], shift_ns: int, seen_ns: int) -> None:
        """Take what is new in the ring, and what of those that were under way has ended. `seen_ns` is now."""
        threads = {buffer.identity: buffer.number for buffer in list(self._context.threads.all)}
        if entries and int(entries[-1]["record_id"]) < self._newest:
            self._newest = -1  # torch has begun to count anew
        seen = set()
        for entry in entries:
            number = int(entry["record_id"])
            seen.add(number)
            if number > self._newest:
                at_ns = int(entry["time_created_ns"]) - self._context.started_unix_ns - shift_ns
                if at_ns >= 0:
                    self._lost += number - self._newest - 1 if self._has_begun else 0
                    self._has_begun = True
                    self._settle(self._row(entry, number, at_ns, seen_ns, threads))
                self._newest = number
            elif number in self._pending:
                self._settle(self._pending.pop(number)._replace(ended=_has_ended(entry), seen_ns=seen_ns))
        for number in [number for number in self._pending if number not in seen]:
            self._settle(self._pending.pop(number)._replace(ended=None))  # it has left the ring

    def _settle(self, row: _Row) -> None:
        self.has_news = True
        if row.ended is False:
            self._pending[row.collective] = row
        else:
            self._settled.append(row)
            self._last_settled[row.process_group] = row

    def _row(
        self, entry: Mapping[str, Any], number: int, at_ns: int, seen_ns: int, threads: Mapping[int, int]
    ) -> _Row:
        backend, _, operation = str(entry["profiling_name"]).rpartition(":")
        group = int(entry["pg_id"])
        if group not in self._groups:
            _, ranks = self._members.get(str(entry["process_group"][0]), (0, []))
            self._groups[group] = _group_row(group, entry["process_group"], backend, ranks)
            self._new_groups.append(group)
        is_between_two = bool(entry.get("is_p2p"))
        sizes = (
            _bytes_of(entry.get(f"{side}_sizes"), entry.get(f"{side}_dtypes")) for side in ("input", "output")
        )
        identity = str(entry.get("thread_id", ""))
        return _Row(
            number,
            group,
            None if is_between_two else int(entry["collective_seq_id"]),
            plain(operation, TEXT_LIMIT),
            at_ns,
            threads.get(int(identity)) if identity.isdecimal() and identity != "0" else None,
            _has_ended(entry),
            max(seen_ns, at_ns),
            *sizes,
        )

    # rows ---------------------------------------------------------------------------------------------------------

    def take(self) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Columns of new rows of `process_groups`, and of `collectives` that have ended; none where there are none, or
        where the ring is being read: the program does not wait for that.
        """
        if not self._lock.acquire(blocking=not self._is_on):
            return {}, {}
        try:
            self._has_group()
            groups, self._new_groups = self._new_groups, []
            settled, self._settled = self._settled, []
        finally:
            self._lock.release()
        rows = [self._groups[group] for group in groups]
        columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        return columns, _columns(settled)

    def latest(self) -> dict[str, list[Any]] | None:
        """Columns of the collectives that are under way, and of the last one of each group that has ended; None where
        the ring is being read.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self.has_news = False
            return _columns([*self._last_settled.values(), *self._pending.values()])
        finally:
            self._lock.release()


def _other_backends() -> list[str]:
    """Backends of the process groups that are there, but those whose collectives torch keeps where they are read. Where
    a group has one for each device, that of CUDA is in use only once CUDA is.
    """
    import torch

    cuda: Any = torch.cuda
    names = set()
    for config in list(getattr(process_groups(), "pg_backend_config", {}).values()):
        pairs = [pair.rpartition(":") for pair in str(config).split(",")]
        has_several = len({name for _, _, name in pairs}) > 1
        for device, _, name in pairs:
            if device != "cuda" or not has_several or cuda.is_initialized():
                names.add(plain(name, 40))
    return sorted(names - READ_BACKENDS - {"", "undefined", "fake"})


def _ring_size() -> int:
    for name in RING_NAMES:
        text = os.environ.get(name, "").strip()
        if text.lstrip("-").isdecimal():
            return max(int(text), 0)
    return RING


def _launched(counts: Mapping[Any, tuple[int, int]]) -> int:
    return sum(launched for launched, _ in counts.values())


def _has_ended(entry: Mapping[str, Any]) -> bool | None:
    """True once its work is over, well or by an error; None where torch does not say."""
    retired = entry.get("retired")
    return None if retired is None else bool(retired)


def _bytes_of(sizes: Any, dtypes: Any) -> int | None:
    """Bytes of tensors from their sizes and dtypes; None where these are not known."""
    if sizes is None or dtypes is None or len(dtypes) not in (1, len(sizes)):
        return 0 if sizes is not None and not len(sizes) else None
    total = 0
    for place, size in enumerate(sizes):
        width = DTYPE_SIZES.get(str(dtypes[place if len(dtypes) == len(sizes) else 0]))
        if width is None:
            return None
        elements = 1
        for length in size:
            elements *= int(length)
        total += elements * width
    return total


def _group_row(group: int, name: Sequence[Any], backend: str, ranks: list[int]) -> dict[str, Any]:
    """A row of `process_groups`."""
    own, description = (str(part) for part in name)
    return {
        "process_group": group,
        "name": plain(own, TEXT_LIMIT),
        "description": plain(description, TEXT_LIMIT),
        "backend": plain(backend, TEXT_LIMIT) or None,
        "ranks": ranks or None,
    }


def _columns(rows: Sequence[_Row]) -> dict[str, list[Any]]:
    if not rows:
        return {}
    return {name: [getattr(row, name) for row in rows] for name in _Row._fields}
