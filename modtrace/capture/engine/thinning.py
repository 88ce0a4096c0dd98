"""Thinning: of which steps single calls are written, where a trace gets too large for those of all. NumPy alone.

A step is chosen or left out as a whole, before anything of it is written. What belongs to a step that is not decided
yet waits in memory: that is the step in progress, and those since the block before. A step is what began behind the
end of the step before and before its own end, on every thread; a call goes with the outermost one around it that is
no span.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from modtrace.capture.engine.decode import Block, BlockCalls, outermost
from modtrace.trace.histogram import LEVEL_WINDOWS
from modtrace.trace.schema import COUNTED, OK, SPAN, THREAD_SHIFT

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = Mapping[str, Any]

FIRST_STEPS: Final = 10
"""So many steps are always written."""
SLOWEST: Final = 24
"""A step beyond the 99th percentile up to its end is written, if it is among so many slowest too. Of a million steps
that are alike these are about 200; those beyond the percentile would be 10,000.
"""
MANY_ALIKE: Final = 100
"""So many steps are written for each reason until steps are thinned further: where they get slower all the time, each
is the slowest up to its end.
"""
FAR: Final = 1.5
"""A slow step that takes so many times as long as usual is no matter of steps that get slower all the time."""
ROW_BYTES: Final = 40
"""Of a call on disk, before it is known."""
MANY_WAITING: Final = 300_000
"""A step in progress with more calls than that is left out: they would take too much memory."""
LEVEL_STEPS: Final = 4
"""So many steps at least are written before they are thinned further."""
MANY_STEPS: Final = 1_000_000
"""Room is left for the sums of so many."""
USUAL_SHARE: Final = 3 / 4
"""So much of the room is for steps that are written by their number; the rest is left for remarkable ones."""
VALUE_STEPS: Final = 2
"""So many steps later it is known of the values in a step whether they were finite."""
_BY_TIME: Final = frozenset({"collectives"})
"""Tables whose rows are of no call, and belong to the step of their `at_ns`."""
_MANY_BORDERS: Final = 20_000
_MANY_STRETCHES: Final = 4096
_MANY_ROWS: Final = 500
_NEVER: Final = 1 << 62


class TakenRows(NamedTuple):
    """A block of one thread buffer: its number, its calls, and the rows made of them."""

    buffer: int
    nodes: BlockCalls
    block: Block


class _Chunk(NamedTuple):
    """Rows of one table that wait, with their nulls; `first` and `last` are the steps that each is in."""

    columns: dict[str, npt.NDArray[Any]]
    nulls: dict[str, Bools]
    first: Ints
    last: Ints


class Thinning:
    """Chooses the steps of one process. Times are nanoseconds since the start of recording.

    Args:
        every: of so many steps one is written, to begin with.
        is_on: steps are thinned from the start; else once half of the room is used.
        origin_ns: the clock at the start of recording.
    """

    def __init__(self, every: int, *, is_on: bool, origin_ns: int = 0) -> None:
        self.is_on = is_on
        self.begin: tuple[int, int] = (0, -_NEVER)
        """The first step that may be left out, and when it began."""
        self.is_over = self._has_failed = False
        """The recording ends: the step in progress is the last one, and is written."""
        self.room_bytes: int | None = None
        """Bytes that single calls may take on disk; None for any number."""
        self.delay_steps = 0
        """A step is decided so many steps after its end."""
        self._origin_ns = origin_ns
        self._marked: set[int] = set()
        """Steps that are remarkable for something beside their calls."""
        self._asked: list[tuple[int, int]] = []
        self._every, self._doublings, self._doubled_at = every, 1, 0
        self._numbers, self._since = [0], [-_NEVER]
        self._is_known = [False]
        """The step before each has ended just then."""
        self._last_block_ns = -_NEVER
        self._decided = FIRST_STEPS
        """Steps below are decided."""
        self._firsts, self._ends = list[int](), list[int]()
        """Stretches of steps that are left out."""
        self._new: list[tuple[int, int, int, int, int]] = []
        self._stretch: tuple[int, int, int, int, int] | None = None
        self._waiting: dict[tuple[int, bool], list[_Chunk]] = {}
        """By thread buffer, and whether they are of the table `open`."""
        self._side_rows: list[tuple[str, Rows]] = []
        self._steps_of_calls: dict[int, tuple[list[int], list[int]]] = {}
        """By thread buffer: calls, in order, at which another step than before begins, and that step."""
        self._opened: set[int] = set()
        """Spans that stand in the table `open`."""
        self._slowest: list[int] = []
        self._measured = self._timed = self._rows = 0
        self._highest_signature = -1
        self._alike = [0, 0, 0]
        """Steps that were written because they are slow, because a call failed, and for new shapes."""
        self._used, self._row_bytes, self._usual_ns, self._is_far = 0.0, float(ROW_BYTES), 0.0, False
        """Bytes so far and a call; the time of a step lately; the last one took far longer."""
        self._first_block: tuple[float, int] | None = None
        """Bytes and rows on disk behind the first block, in which much is written once."""

    # the end of steps -----------------------------------------------------------------------------------------------

    def step_began(self, step: int, at_ns: int, *, is_known: bool) -> None:
        """A step is in progress from now on; `is_known`: what ends steps is certain."""
        if step > self._numbers[-1]:
            self._is_known.append(is_known and step == self._numbers[-1] + 1)
            self._numbers.append(step)
            self._since.append(at_ns)

    def ended_at(self, at_ns: int) -> None:
        """The step before has ended at this moment, if that was not before."""
        if self._since[-1] > at_ns > (self._since[-2] if len(self._since) > 1 else -_NEVER):
            self._since[-1] = at_ns

    @property
    def sums_growth(self) -> float:
        """Times as large as now the sums over windows of steps will be after a million steps."""
        now = max(_weight_before(self._numbers[-1]) - _weight_before(self.begin[0]), 1.0)
        return max((_weight_before(MANY_STEPS) - _weight_before(self.begin[0])) / now, 1.0)

    # blocks ---------------------------------------------------------------------------------------------------------

    def prepare(self, rows: int, written_bytes: int, at_ns: int) -> None:
        """Blocks are about to be written, with so many rows, when this many bytes are on disk; they began to be taken
        at `at_ns`.
        """
        self._measure(at_ns)
        self._used = float(written_bytes)
        if self._rows and self._first_block is None:
            self._first_block = self._used, self._rows
        if self._first_block is not None and self._rows > self._first_block[1] + _MANY_ROWS:
            first_bytes, first_rows = self._first_block
            self._row_bytes = max((self._used - first_bytes) / (self._rows - first_rows), 1.0)
        expected = self._used + rows * self._row_bytes
        if not self.is_on and self.room_bytes is not None and 2 * expected >= USUAL_SHARE * self.room_bytes:
            self._begin()
        if not self.is_on:
            self._rows += rows
            self._forget(at_ns)
        self._last_block_ns = at_ns

    def _begin(self) -> None:
        """Thin from the first step on of which nothing is written yet."""
        for place, (number, since) in enumerate(zip(self._numbers, self._since, strict=False)):
            if number >= FIRST_STEPS and since > self._last_block_ns and self._is_known[place]:
                self.begin, self._decided, self.is_on = (number, since), number, True
                return

    def chosen(
        self, taken: list[TakenRows], side_rows: list[tuple[str, Rows]], at_ns: int
    ) -> tuple[list[Block], list[tuple[str, Rows]]]:
        """The rows of blocks, and of other tables, that are to be written now; others wait or are left out."""
        for rows in taken:
            self._add(rows)
        current = int(self._steps_at(np.array([at_ns]))[0])
        self._mark(side_rows)
        limit = current if self.is_over else current - self.delay_steps
        facts, first = self._facts(limit), self._decided
        for step in range(first, limit):
            if self._numbers[bisect_right(self._numbers, step) - 1] == step:
                self._decide(step, *facts[:, step - first].tolist())
            else:
                self._keep(step)  # it was counted together with one before
        return self._finish(current, side_rows, at_ns)

    def _mark(self, side_rows: list[tuple[str, Rows]]) -> None:
        """Note the steps that other tables make remarkable: values that are not finite, compiling, steps asked for."""
        for table, rows in side_rows:
            if table == "nonfinite" and rows:
                self._marked.update(self._step_of(int(call)) for call in rows["call"])
            elif table == "compilations" and rows:
                self._marked.update(self._steps_at(np.array(rows["start_ns"], np.int64)).tolist())
        self._marked = {step for step in self._marked if self._decided <= step < _NEVER}

    def note_asked(self, side_rows: list[tuple[str, Rows]]) -> None:
        """Note the steps that something else is asked of: they are written. Values are read of any steps."""
        for table, rows in side_rows:
            if table == "asked" and rows:
                stretches = zip(rows["what"], rows["first_step"], rows["end_step"], strict=True)
                self._asked += [(first, end) for what, first, end in stretches if what != "values"]

    @property
    def step(self) -> int:
        """The number of the step in progress."""
        return self._numbers[-1]

    def _is_asked(self, step: int) -> bool:
        return any(first <= step < end for first, end in self._asked)

    def give_up(self) -> None:
        """Write all steps from here on: what counts them has failed."""
        self._has_failed = True

    def borders(self) -> list[tuple[int, int]]:
        """(step, when it began) from the first step on that may be left out, as far as they are known."""
        borders = zip(self._numbers, self._since, strict=False)
        return [border for border in borders if border[0] >= self.begin[0]]

    def _finish(
        self, current: int, side_rows: list[tuple[str, Rows]], at_ns: int
    ) -> tuple[list[Block], list[tuple[str, Rows]]]:
        """Decide the step in progress where that can be, and sort out what has been decided."""
        waiting = sum(len(chunk.first) for chunks in self._waiting.values() for chunk in chunks)
        is_written = current % self._every == 0 or self._is_asked(current)
        if self.is_over or (self._decided == current and is_written):
            self._keep(current)
        elif waiting > MANY_WAITING and self._decided <= current:
            for step in range(self._decided, current + 1):
                self._leave_out(step)
        blocks = [self._released(buffer) for buffer in sorted({key[0] for key in self._waiting})]
        further = [self._of_table(*rows) for rows in self._take_side_rows(side_rows)]
        self._forget(at_ns)
        return [block for block in blocks if block.calls or block.opened], [
            (table, rows) for table, rows in further if rows
        ]

    def stretches(self) -> dict[str, list[int]]:
        """Columns of the table `thinned`: stretches of steps that have come to their end since this was asked last."""
        new, self._new = self._new, []
        return _columns(new)

    def latest(self) -> dict[str, list[int]]:
        """The same of the stretch in progress."""
        return _columns([self._stretch]) if self._stretch is not None else {}

    # rows -----------------------------------------------------------------------------------------------------------

    def _add(self, taken: TakenRows) -> None:
        """Let the rows of a block wait."""
        buffer, nodes, block = taken
        if not len(nodes.call):
            return
        base = buffer << THREAD_SHIFT
        top = outermost(nodes.depth, nodes.kind != SPAN)
        is_loose = top < 0
        first = self._steps_at(nodes.start[np.where(is_loose, np.arange(len(top)), top)] - self._origin_ns)
        self._note_calls(buffer, nodes.call, first)
        if block.calls:
            done = np.flatnonzero(nodes.record >= 0)
            last = first[done].copy()
            for row in np.flatnonzero(is_loose[done]).tolist():
                end = int(block.calls["start_ns"][row] + block.calls["duration_ns"][row])
                last[row] = self._steps_at(np.array([end]))[0]
                if int(block.calls["call"][row]) in self._opened:  # it stands in the table `open`
                    last[row] = first[done[row]] = 0
            self._wait((buffer, False), _Chunk(block.calls, block.calls_nulls, first[done], last))
        if block.opened:
            place = np.searchsorted(nodes.call, block.opened["call"] - base)
            began = np.where(is_loose[place], 0, first[place])
            self._opened.update(block.opened["call"][is_loose[place]].tolist())
            self._wait((buffer, True), _Chunk(block.opened, block.opened_nulls, began, began))

    def _wait(self, key: tuple[int, bool], chunk: _Chunk) -> None:
        self._waiting.setdefault(key, []).append(chunk)

    def _released(self, buffer: int) -> Block:
        """The rows of a buffer that are to be written, in order of calls; those not decided go on waiting."""
        calls, calls_nulls = self._released_of((buffer, False))
        opened, opened_nulls = self._released_of((buffer, True))
        if calls:
            self._rows += len(calls["call"])
            self._opened.difference_update(calls["call"].tolist() if self._opened else ())
        return Block(calls, calls_nulls, opened, opened_nulls)

    def _released_of(self, key: tuple[int, bool]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Bools]]:
        chunks = self._waiting.pop(key, [])
        parts = []
        for chunk in chunks:
            waits = chunk.last >= self._decided
            is_kept = ~waits & self._any_kept(chunk.first, chunk.last)
            if waits.any():
                self._wait(key, _some(chunk, waits))
            if is_kept.any():
                parts.append(chunk if is_kept.all() else _some(chunk, is_kept))
        if not parts:
            return {}, {}
        if len(parts) == 1:
            return parts[0].columns, parts[0].nulls
        order = np.argsort(np.concatenate([part.columns["call"] for part in parts]), kind="stable")
        columns = {
            name: np.concatenate([part.columns[name] for part in parts])[order] for name in parts[0].columns
        }
        nulls: dict[str, Bools] = {}
        for name in dict.fromkeys(name for part in parts for name in part.nulls):
            masks = [part.nulls.get(name, np.zeros(len(part.first), np.bool_)) for part in parts]
            nulls[name] = np.concatenate(masks)[order]
        return columns, nulls

    def _take_side_rows(self, new: list[tuple[str, Rows]]) -> list[tuple[str, Rows]]:
        rows, self._side_rows = [*self._side_rows, *new], []
        return rows

    def _of_table(self, table: str, rows: Rows) -> tuple[str, Rows]:
        """Those rows of a table beside `calls` that are to be written; those of calls not decided go on waiting."""
        if rows and table in _BY_TIME:
            return self._chosen_side_rows(table, rows, self._steps_at(np.array(rows["at_ns"], np.int64)))
        calls = rows.get("call") if rows else None
        if calls is None or not len(calls):
            return table, rows
        steps = np.array([-1 if call is None else self._step_of(int(call)) for call in calls], np.int64)
        return self._chosen_side_rows(table, rows, steps)

    def _chosen_side_rows(self, table: str, rows: Rows, steps: Ints) -> tuple[str, Rows]:
        """The same, by the step of each row; -1 for one from before steps are thinned."""
        waits = steps >= self._decided
        is_kept = ~waits & ((steps < 0) | self._any_kept(steps, steps))
        if waits.any():
            self._side_rows.append((table, _picked(rows, waits)))
        return table, rows if is_kept.all() else _picked(rows, is_kept)

    def _step_of(self, call: int) -> int:
        """The step of a call; of one that was not seen yet _NEVER, which waits, and of one from before -1."""
        calls, steps = self._steps_of_calls.get(call >> THREAD_SHIFT, ([], []))
        number = call & ((1 << THREAD_SHIFT) - 1)
        place = bisect_right(calls, number) - 1
        if place < 0:
            return -1
        if place == len(calls) - 1 and number > calls[-1]:
            return steps[-1] if self.is_over else _NEVER
        return steps[place]

    def _note_calls(self, buffer: int, calls: Ints, steps: Ints) -> None:
        """Note the steps of calls in order. The last entry is that of the last call itself: what comes behind it has
        not been seen.
        """
        known_calls, known_steps = self._steps_of_calls.setdefault(buffer, ([], []))
        if known_calls:
            new = calls > known_calls[-1]
            calls, steps = calls[new], steps[new]
        if not len(calls):
            return
        changes = np.flatnonzero(np.diff(steps, prepend=-1))
        known_calls += [*calls[changes].tolist(), int(calls[-1])]
        known_steps += [*steps[changes].tolist(), int(steps[-1])]
        if len(known_calls) > _MANY_BORDERS:
            del known_calls[: _MANY_BORDERS // 2], known_steps[: _MANY_BORDERS // 2]

    # decisions ------------------------------------------------------------------------------------------------------

    def _facts(self, limit: int) -> Ints:
        """Of each step that is not decided and below a limit: calls, whether one failed, the highest signature, and
        whether operations were counted in it; shape (4, steps).
        """
        facts = np.zeros((4, max(limit - self._decided, 0)), np.int64)
        for (_, is_open), chunks in self._waiting.items():
            for chunk in chunks if not is_open else ():
                place = chunk.last - self._decided
                rows = np.flatnonzero((place >= 0) & (place < facts.shape[1]))
                place, columns = place[rows], chunk.columns
                np.add.at(facts[0], place, 1)
                np.maximum.at(facts[1], place, columns["status"][rows] != OK)
                for name in ("inputs", "outputs"):
                    known = ~chunk.nulls[name][rows] if name in chunk.nulls else np.ones(len(rows), np.bool_)
                    np.maximum.at(facts[2], place[known], columns[name][rows][known].astype(np.int64))
                np.maximum.at(facts[3], place, (columns["mode"][rows] & COUNTED) > 0)
        return facts

    def _decide(self, step: int, rows: int, failed: int, signature: int, counted: int) -> None:
        """Write a step that is over, or leave it out."""
        self._grow(step)
        size = rows * self._row_bytes
        all_bytes = float(_NEVER) if self.room_bytes is None else float(self.room_bytes)
        room, usual_room = all_bytes - self._used, USUAL_SHARE * all_bytes - self._used
        is_new = signature > self._highest_signature >= 0
        self._highest_signature = max(self._highest_signature, signature)
        remarkable = bool(counted) or step in self._marked
        for place, has_reason in enumerate((self._is_slow(step), bool(failed), is_new)):
            if has_reason and self._alike[place] < MANY_ALIKE:
                self._alike[place] += 1
                remarkable = True
        remarkable |= self._is_far
        is_chosen = step % self._every == 0 or self._has_failed
        is_asked = self._is_asked(step) and size <= room
        if is_asked or (is_chosen and 2 * size <= usual_room) or (remarkable and 8 * size <= room):
            self._used += size
            self._keep(step)
        else:
            self._leave_out(step)

    def _grow(self, step: int) -> None:
        """Thin further: at a half, two thirds, three quarters ... of the room of so many steps one as before, and not
        before a few of these were written: the room gets smaller too, as sums need more.
        """
        if self.room_bytes is None or step < self._doubled_at + LEVEL_STEPS * self._every:
            return
        if self._used >= USUAL_SHARE * self.room_bytes * self._doublings / (self._doublings + 1):
            self._every *= 2
            self._doublings += 1
            self._doubled_at = step
            self._alike = [0, 0, 0]

    def _keep(self, step: int) -> None:
        if self._stretch is not None:
            first, end, from_ns, to_ns, every = self._stretch
            self._new.append((first, end, from_ns, max(to_ns, self._moments(max(step, end))[0]), every))
            self._stretch = None
        self._decided = max(self._decided, step + 1)

    def _leave_out(self, step: int) -> None:
        from_ns, to_ns = self._moments(step)
        if self._stretch is None:
            self._firsts.append(step)
            self._ends.append(step + 1)
            self._stretch = (step, step + 1, from_ns, to_ns, self._every)
        else:
            self._ends[-1] = step + 1
            self._stretch = (self._stretch[0], step + 1, self._stretch[2], to_ns, self._stretch[4])
        if len(self._firsts) > 2 * _MANY_STRETCHES:
            del self._firsts[:_MANY_STRETCHES], self._ends[:_MANY_STRETCHES]
        self._decided = step + 1

    def _any_kept(self, first: Ints, last: Ints) -> Bools:
        """Mask of the ranges of steps, both ends included, of which one is written."""
        if not self._firsts:
            return np.ones(len(first), np.bool_)
        low, high = (self._left_out_before(steps) for steps in (first, last + 1))
        kept: Bools = high - low < last + 1 - first
        return kept

    def _left_out_before(self, steps: Ints) -> Ints:
        """Steps below each that are left out."""
        firsts, ends = np.array(self._firsts, np.int64), np.array(self._ends, np.int64)
        before = np.concatenate([[0], np.cumsum(ends - firsts)])
        place = np.searchsorted(firsts, steps, side="right") - 1
        inside = np.minimum(steps, np.append(ends, 0)[place]) - np.append(firsts, 0)[place]
        count: Ints = np.where(place >= 0, before[np.maximum(place, 0)] + inside, 0)
        return count

    # times of steps -------------------------------------------------------------------------------------------------

    def _steps_at(self, moments: Ints) -> Ints:
        """The step in progress at each moment."""
        place = np.searchsorted(np.array(self._since, np.int64), moments, side="right") - 1
        return np.array(self._numbers, np.int64)[np.maximum(place, 0)]

    def _moments(self, step: int) -> tuple[int, int]:
        """When a step began and ended; the last one ends now."""
        place = max(bisect_right(self._numbers, step) - 1, 0)
        behind = min(place + 1, len(self._since) - 1)
        return max(self._since[place], 0), max(self._since[behind], self._since[place], 0)

    def _duration(self, step: int) -> int:
        """Nanoseconds of a step, -1 where they are not known."""
        place = bisect_right(self._numbers, step) - 1
        if place < 0 or place + 1 >= len(self._since) or self._numbers[place : place + 2] != [step, step + 1]:
            return -1
        return self._since[place + 1] - self._since[place] if self._since[place] > -_NEVER else -1

    def _measure(self, at_ns: int) -> None:
        """Note the times of steps that are over and that nobody decides."""
        limit = int(self._steps_at(np.array([at_ns]))[0])
        while not self.is_on and self._measured < limit:
            self._is_slow(self._measured)

    def _is_slow(self, step: int) -> bool:
        """Note the time of a step; true if it is beyond the 99th percentile and among the SLOWEST up to now."""
        self._measured, self._is_far = max(self._measured, step + 1), False
        spent = self._duration(step)
        if spent < 0 or step < 1:
            return False
        self._timed += 1
        slower = len(self._slowest) - bisect_right(self._slowest, spent)
        insort(self._slowest, spent)
        if len(self._slowest) > SLOWEST:
            del self._slowest[0]
        self._usual_ns += (spent - self._usual_ns) / min(self._timed, 100)
        is_slow = slower < min(SLOWEST, max(self._timed // 100, 1))
        self._is_far = is_slow and spent > FAR * self._usual_ns
        return is_slow

    def _forget(self, at_ns: int) -> None:
        """Borders of steps are needed for what was open when the last block was taken, and for the step in progress."""
        oldest = min([at_ns, self._last_block_ns])
        if len(self._numbers) > _MANY_BORDERS or not self.is_on:
            place = max(bisect_right(self._since, oldest) - 2, 0)
            del self._numbers[:place], self._since[:place], self._is_known[:place]


def _weight_before(step: int) -> float:
    """About the size of the windows of sums before a step, in windows of one step. There are as many of each length,
    which doubles; each time a window has about as many filled buckets more as it has in one step.
    """
    levels = math.log2(step / LEVEL_WINDOWS + 1)
    return LEVEL_WINDOWS * (levels + levels * levels / 2)


def _some(chunk: _Chunk, rows: Bools) -> _Chunk:
    """Some rows of a chunk."""
    return _Chunk(
        {name: column[rows] for name, column in chunk.columns.items()},
        {name: mask[rows] for name, mask in chunk.nulls.items()},
        chunk.first[rows],
        chunk.last[rows],
    )


def _picked(rows: Rows, mask: Bools) -> Rows:
    """Some rows of columns, lists or arrays; no columns where no row remains."""
    if not mask.any():
        return {}
    chosen = np.flatnonzero(mask).tolist()
    return {
        name: column[mask] if isinstance(column, np.ndarray) else [column[row] for row in chosen]
        for name, column in rows.items()
    }


def _columns(stretches: list[tuple[int, int, int, int, int]]) -> dict[str, list[int]]:
    names = ("first_step", "end_step", "from_ns", "to_ns", "every")
    return {name: [stretch[place] for stretch in stretches] for place, name in enumerate(names)}
