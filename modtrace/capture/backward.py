"""The backward of each module call: who the nodes that autograd runs belong to.

Autograd numbers the nodes of its graph in the order in which a thread makes them, and runs those that are ready from
the highest number down. A node is only used by nodes made later, so all nodes of one thread's graph run in descending
order, and since the nodes made during a call are one range of numbers, its backward is one stretch of time, nested as
the calls were. Whenever two nodes that follow each other in this order belong to different calls, a pre-hook on the
second one closes and opens the rows in between. (Nodes that accumulate into `.grad` run as soon as they can; they
belong to the call that fed them.)

The hooks are put on the nodes when a backward begins and taken away when it ends: forward passes that no backward
follows pay nothing, and nothing is left on a graph that is kept. Gradients are not touched: a hook returns None.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import torch
from torch.utils.hooks import RemovableHandle

from modtrace.capture.counting import Counting, Graph
from modtrace.capture.functions import Functions
from modtrace.capture.hooks import error_number
from modtrace.capture.lanes import CODE_SHIFT, GROWN, KIND_SHIFT, RAISED, Lane, Lanes
from modtrace.capture.own_hooks import UNKNOWN_OUTPUT
from modtrace.capture.raised import is_early_stop
from modtrace.capture.ranges import Ranges, find
from modtrace.capture.recomputing import Place
from modtrace.capture.saved import Saved
from modtrace.capture.seen import Entry
from modtrace.capture.state import State
from modtrace.capture.torch_private.contexts import hook_ids_from, without_functions
from modtrace.capture.torch_private.names import (
    COMPILED_AUTOGRAD,
    compiled_autograd,
    current_level,
    number_of_node,
    numbers_nodes,
    running_node,
)
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import BACKWARD, FUNCTION, RETURNED_GRADIENTS, THREAD_SHIFT

_LEAF: Final = 1 << 62
"""Nodes that accumulate into `.grad` have the highest number there is."""
_BACKWARDS = count()
_ID_STRIDE: Final = 1 << 32

Path = tuple[int, ...]


class Owners:
    """Which calls the nodes of a graph were made in: the growths of one thread's lane."""

    def __init__(self, lane: Lane, lowest: int) -> None:
        self.lane = lane
        grown = lane.grown
        low, high = 0, len(grown) // GROWN
        while low < high:  # the first growth that ended above the lowest node
            middle = (low + high) // 2
            if grown[middle * GROWN] > lowest:
                high = middle
            else:
                low = middle + 1
        self.growths = grown[low * GROWN :]

    def paths(self, numbers: Sequence[int]) -> list[Path]:
        """For node numbers in descending order the calls around each, outermost first, as positions of growths."""
        growths = self.growths
        at = len(growths) - GROWN
        open_now: list[int] = []
        path: Path = ()
        found = []
        for number in numbers:
            changed = False
            while open_now and number < growths[open_now[-1] + 1]:
                open_now.pop()
                changed = True
            while at >= 0 and growths[at] > number:
                if growths[at + 1] <= number:
                    open_now.append(at)
                    changed = True
                at -= GROWN
            if changed:
                path = tuple(open_now)
            found.append(path)
        return found

    def calls(self, paths: Sequence[Path]) -> list[Path]:
        """Paths with the ids of the calls."""
        growths, thread = self.growths, self.lane.number << THREAD_SHIFT
        known: dict[Path, Path] = {}
        for path in paths:
            if path not in known:
                known[path] = tuple(thread | growths[at + 2] for at in path)
        return [known[path] for path in paths]


def graph_of(outputs: Any) -> tuple[list[tuple[int, Any]], int]:
    """(number, node) of the nodes that a backward from `outputs` can run, in descending order, leaves left out; and how
    many leaves there are.
    """
    some = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    with without_functions():
        pending = [one.grad_fn if isinstance(one, torch.Tensor) else one.node for one in some]
    known: dict[Any, int] = {}
    while pending:
        node = pending.pop()
        if node is None or node in known:
            continue
        number = known[node] = number_of_node(node)
        if number < _LEAF:
            pending += [edge[0] for edge in node.next_functions]
    nodes = [(number, node) for node, number in known.items() if number < _LEAF]
    nodes.sort(key=_number, reverse=True)
    return nodes, len(known) - len(nodes)


def _number(numbered: tuple[int, Any]) -> int:
    return numbered[0]


def owners_of(lanes: Sequence[Lane], own: Lane, nodes: Sequence[tuple[int, Any]]) -> Owners | None:
    """The growths that the nodes belong to.

    A node does not tell the thread that made it. Where calls of several threads could have, those of the thread that
    calls backward are meant, unless it has none; more than one possibility is none.
    """
    lowest, highest = nodes[-1][0], nodes[0][0]
    found = [Owners(lane, lowest) for lane in lanes if lane.grown]
    some = [one for one in found if one.growths and min(one.growths[1::GROWN]) <= highest]
    if len(some) > 1:
        others = [one for one in some if one.lane is not own]
        if len(others) == len(some) or any(_overlap(one, nodes) for one in others):
            return None
        some = [one for one in some if one.lane is own]
    return some[0] if some else None


def _overlap(owners: Owners, nodes: Sequence[tuple[int, Any]]) -> bool:
    """Whether any node can be of a call of that thread."""
    return any(owners.paths([number for number, _ in nodes]))


class Backward:
    """Records the backward phases of one trace. Nothing here raises."""

    def __init__(
        self,
        state: State,
        ranges: Ranges,
        lanes: Callable[[], Sequence[Lane]],
        counting: Counting | None = None,
        functions: Functions | None = None,
    ) -> None:
        self.state = state
        self.ranges = ranges
        self.counting = counting
        self.functions = functions
        self.saved: Saved | None = None
        """Counts what the graph keeps, while that is asked for."""
        self._lanes = lanes
        self._entries: dict[int, Entry] = {}
        self.spent_ns = 0
        """What telling backward apart has cost so far."""

    def begin(self, outputs: Any, frame: FrameType, *, accumulates: bool = True) -> Watch | None:
        """Open the phase and put the hooks in place; None when it is not recorded."""
        outer = self.state.lanes.lane.watch
        if outer is not None:
            outer.recompute_ends(reentrant=True)
        phase = self.ranges.phase("backward", "" if accumulates else RETURNED_GRADIENTS, frame.f_code)
        call = self.ranges.begin(phase, frame, again=True)
        if call < 0:
            return None
        watch = Watch(self, call, frame)
        watch.lane.watch = watch
        state = self.state
        try:
            started = state.clock()
            if current_level() is None and not _compiled_autograd():
                self._watch(watch, outputs)
            spent = state.clock() - started
            watch.lane.cost(find(watch.lane, call), spent)
            self.spent_ns += spent
        except Exception as fault:
            watch.remove()
            state.fault(fault)
        return watch

    def _watch(self, watch: Watch, outputs: Any) -> None:
        nodes, leaves = graph_of(outputs) if numbers_nodes else ([], 0)
        lanes: Lanes = self.state.lanes
        owners = owners_of(self._lanes(), lanes.own, nodes) if nodes else None
        if owners is None:
            return
        paths = owners.paths([number for number, _ in nodes])
        if self.saved is not None and self.saved.watching:
            self.saved.count(watch.id, nodes, owners.calls(paths))
        if self.functions is not None and self.functions.active:
            paths = watch.with_functions(self.functions, nodes, paths)
        watch.owners = owners
        if self.counting is not None:
            thread = owners.lane.number << THREAD_SHIFT
            tops = {path[0] for path in paths if path and path[0] >= 0}
            roots = {thread | owners.growths[at + 2] for at in tops}
            modules = frozenset(owners.growths[at + 3] for at in tops)
            watch.count(self.counting, roots, (modules, len(nodes), leaves))
        # Not from torch's own counter: a checkpoint may hold the ids of the user's hooks.
        with hook_ids_from(-_ID_STRIDE * (2 + next(_BACKWARDS))):
            before: Path = ()
            for (number, node), path in zip(nodes, paths, strict=True):
                if path is not before:
                    watch.handles.append(node.register_prehook(watch.switch(path, number)))
                    before = path

    def entry(self, module: int, code: CodeType) -> Entry:
        """What the backward of a call of a module is an execution of."""
        known = self._entries.get(module)
        if known is None:
            known = self._entries.setdefault(module, Entry(module, BACKWARD, code))
        return known


def _compiled_autograd() -> bool:
    """Whether autograd's graph may be compiled: hooks would become a part of it."""
    return COMPILED_AUTOGRAD in sys.modules and compiled_autograd() is not False


class Watch:
    """One backward phase that runs, and the rows that are open in it."""

    def __init__(self, backward: Backward, call: int, frame: FrameType) -> None:
        self.handles: list[RemovableHandle] = []
        self.owners: Owners | None = None
        self.lane: Lane = backward.state.lanes.lane
        self._backward = backward
        self._state = backward.state
        self._call = call
        self._frame_id = id(frame)
        self._code = frame.f_code
        self._path: Path = ()
        self._thread = threading.get_ident()
        self._engine_thread = 0
        self._depth = find(self.lane, call)
        self._counting: Counting | None = None
        self._classes: list[Entry] = []
        self._outer = self.lane.watch
        self._opened = (0, -1)
        """From which place in the path on rows were opened last, and the number of the node that then ran."""
        self._recomputes: list[Recompute] = []

    def switch(self, path: Path, number: int) -> Callable[[Any], None]:
        """The pre-hook of the first of some nodes that belong to one call."""

        def enter(_: Any) -> None:
            now = self._state.clock()
            if self._state.off:
                return
            try:
                if self._on_right_thread():
                    self._move(path, now, number)
            except Exception as fault:
                self._state.fault(fault)

        unseen(enter)
        return enter

    @property
    def id(self) -> int:
        """The id of the phase's row."""
        return self.lane.number << THREAD_SHIFT | self._call

    def end(self, error: BaseException | None = None) -> None:
        """The engine has returned, or raised."""
        now = self._state.clock()
        self.remove()
        try:
            if self._counting is not None:
                self._counting.end_backward(self.lane, self._call, whole=error is None)
            if not self._state.off:
                self._move((), now, error=error)
        except Exception as fault:
            self._state.fault(fault)
        self.lane.lent = False
        self.lane.watch = self._outer
        self.lane.grew = self.lane.grown.extend
        self._backward.ranges.end(self._call, error)

    def with_functions(
        self, functions: Functions, nodes: Sequence[tuple[int, Any]], paths: Sequence[Path]
    ) -> list[Path]:
        """Paths in which the backward of an `autograd.Function` is a call of its own, as a number below zero."""
        found = []
        for (_, node), path in zip(nodes, paths, strict=True):
            kind = functions.custom.class_of(node)
            if kind is None:
                found.append(path)
            else:
                self._classes.append(functions.custom.backward_of(kind, self._code))
                found.append((*path, -len(self._classes)))
        return found

    def count(self, counting: Counting, roots: set[int], graph: Graph) -> None:
        """Count the operations of this backward, if it is the first of one of these root calls, or of its graph."""
        if self._depth >= 0 and counting.begin_backward(self.lane, self._depth, roots, graph):
            self._counting = counting

    def remove(self) -> None:
        """Take the hooks off the nodes."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _on_right_thread(self) -> bool:
        """Whether this thread may write into the lane of the thread that called backward.

        For a graph on an accelerator the engine runs nodes on a thread of the device while the caller waits: the
        first such thread takes the caller's lane over. Nodes of other devices' threads are not told apart.
        """
        thread = threading.get_ident()
        if thread in (self._thread, self._engine_thread):
            return True
        if self._engine_thread:
            return False
        self._engine_thread = thread
        lanes: Lanes = self._state.lanes
        lanes.lane = self.lane
        self.lane.lent = True
        self.lane.grew = lanes.own.grown.extend
        return True

    def _move(self, path: Path, now: int, number: int = -1, error: BaseException | None = None) -> None:
        """Close and open rows until those of `path` are open, as node `number` asks; `error` is what has left those
        that are closed.
        """
        lane = self.lane
        if self.owners is None or self._depth < 0:
            return
        while self._recomputes:
            again = self._recomputes.pop()
            self._backward.ranges.end(again.call, error)
            self._path = self._path[: again.level]
        before = self._path
        lane.abort(self._depth + 1 + len(before))
        keep = 0
        for old, new in zip(before, path, strict=False):
            if old != new:
                break
            keep += 1
        self._close(keep, now, error)
        self._open(path, keep, now, number)

    def _close(self, keep: int, now: int, error: BaseException | None = None) -> None:
        """Close the rows of the path but for the first few."""
        lane, times = self.lane, self._state.device_times
        calls = lane.calls
        while len(calls) > self._depth + 1 + keep:
            depth = len(calls) - 1
            _, call, entry, given, start, _ = calls[-1]
            word = entry.kind << KIND_SHIFT | depth
            result = UNKNOWN_OUTPUT if entry.kind == FUNCTION else 0
            if error is not None:
                word |= RAISED << CODE_SHIFT
                result = error_number(self._state, lane, error, now)
            elif times is not None:
                times.end_backward(lane, call)
            lane.extend((call, entry.number, given, word, start, 0, result, now))
            calls.pop()

    def _open(self, path: Path, keep: int, now: int, number: int) -> None:
        """Open the rows of a path of which the first few are open."""
        lane, owners, times = self.lane, self.owners, self._state.device_times
        self._path, self._opened = path, (keep, number)
        if owners is None:
            return
        calls = lane.calls
        growths, thread = owners.growths, owners.lane.number << THREAD_SHIFT
        fresh = [(at, lane.next_call()) for at in path[keep:]]
        for at, call in fresh if times is not None else ():
            if at >= 0 and times is not None:
                times.begin_backward(lane, call, growths[at + 3])
        opened = self._state.clock()
        self._backward.spent_ns += opened - now
        if keep < len(path):
            lane.cost(self._depth + keep, opened - now)
        for at, call in fresh:
            if at < 0:
                entry = self._classes[-at - 1]
                calls.append((self._frame_id, call, entry, UNKNOWN_OUTPUT, opened, -1))
                continue
            entry = self._backward.entry(growths[at + 3], self._code)
            forward = thread | growths[at + 2]
            calls.append((self._frame_id, call, entry, forward, opened, -1))

    # checkpoints ------------------------------------------------------------------------------------------------

    def recompute_begins(self, place: Place | None, *, reentrant: bool = False) -> None:
        """A checkpoint made at a place computes again, inside of the node that runs: a row of its own, below the
        backward of the call that the checkpoint stands in. Rows further in are closed and opened again behind it.
        """
        state, lane = self._state, self.lane
        now = state.clock()
        if state.off or self._depth < 0 or (self.owners is not None and not self._on_right_thread()):
            return
        try:
            lane.abort(self._inner_depth())
            level = len(self._path) if self._recomputes or reentrant else self._level(place)
            self._drop(level)
            if not self._recomputes:
                self._close(level, now)
            if state.device_memory is not None:
                state.device_memory.begin(lane)
            call = lane.next_call()
            if state.device_times is not None:
                state.device_times.begin_phase(lane, call)
            self._recomputes.append(Recompute(call, level, reentrant))
            entry = self._backward.ranges.phase("recompute", "", self._code)
            lane.calls.append((self._frame_id, call, entry, 0, state.clock(), -1))
        except Exception as fault:
            state.fault(fault)

    def recompute_ends(self, error: BaseException | None = None, *, reentrant: bool = False) -> None:
        """It has ended, by `error` if there is one. Of those with reentry there may be none."""
        if not self._recomputes or self._recomputes[-1].reentrant != reentrant or self._state.off:
            return
        again = self._recomputes.pop()
        self._backward.ranges.end(again.call, error if error is None or not is_early_stop(error) else None)
        try:
            if again.level < len(self._path):
                self._open(self._path, again.level, self._state.clock(), _running_node())
        except Exception as fault:
            self._state.fault(fault)

    def _inner_depth(self) -> int:
        """How deep a row is that is opened next: inside the path, or a checkpoint that computes again."""
        if self._recomputes:
            return find(self.lane, self._recomputes[-1].call) + 1
        return self._depth + 1 + len(self._path)

    def _level(self, place: Place | None) -> int:
        """How many rows of the path are around a checkpoint.

        Those are calls that had begun when it was made, and the one call that it is of, if that has calls inside it.
        """
        owners, path = self.owners, self._path
        if owners is None or place is None or place.lane != owners.lane.number:
            return len(path)
        growths, level = owners.growths, 0
        while level < len(path) and path[level] >= 0 and growths[path[level] + 2] <= place.call:
            level += 1
        if level < len(path) and path[level] >= 0:
            first = growths[path[level] + 2]
            before = path[level] - GROWN
            while before >= 0 and growths[before + 2] > first:
                before -= GROWN
            composite = before < path[level] - GROWN
            if composite and (before < 0 or growths[before] <= place.node):
                level += 1
        return level

    def _drop(self, level: int) -> None:
        """Take back rows of the path behind the first few that have only been opened: nothing has run in them."""
        lane, calls = self.lane, self.lane.calls
        keep, number = self._opened
        first = self._depth + 1 + max(level, keep)
        if self._recomputes or first >= len(calls) or number < 0 or _running_node() != number:
            return
        following = lane.next_call()
        if following == calls[-1][1] + 1:
            following = calls[first][1]
            if self._state.device_times is not None:
                self._state.device_times.drop(lane, following)
            del calls[first:]
        lane.next_call = count(following).__next__


class Recompute(NamedTuple):
    """A checkpoint that computes again: its row, and how many rows of the path are around it."""

    call: int
    level: int
    reentrant: bool


def _running_node() -> int:
    """The number of the node that autograd runs on this thread; -1 where that is not known."""
    node = running_node()
    return number_of_node(node) if node is not None else -1


unseen(Watch.recompute_begins, Watch.recompute_ends)
unseen(Backward.begin, Watch.end)
