"""The backward of each module call: who the nodes that autograd runs belong to.

Autograd numbers the nodes of its graph in the order in which a thread makes them, and runs those that are ready from
the highest number down. A node is only used by nodes made later, so all nodes of one thread's graph run in descending
order, and since the nodes made during a call are one range of numbers, its backward is one stretch of time, nested as
the calls were. Whenever two nodes that follow each other in this order belong to different calls, a pre-hook on the
second one closes and opens the rows in between. (Nodes that accumulate into `.grad` run as soon as they can; they
belong to the call that fed them.)

Where ranks work together, DistributedDataParallel and its like wait for the others behind the last node, in a function
that the engine calls before it returns. One of ours is called before it, and closes the rows: no module waits.

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
from torch import distributed
from torch.utils.hooks import RemovableHandle

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.events import Halt
from modtrace.capture.engine.exceptions import is_early_stop
from modtrace.capture.engine.module_calls import error_number
from modtrace.capture.engine.ranges import Ranges, find
from modtrace.capture.engine.tensor_guards import Entry
from modtrace.capture.engine.thread_buffer import (
    GROWN,
    RAISED,
    RETURNED,
    UNKNOWN_OUTPUT,
    ThreadBuffer,
    ThreadBuffers,
)
from modtrace.capture.mechanisms.recomputing import CheckpointPlace
from modtrace.capture.torch_private.contexts import hook_ids_from, without_functions
from modtrace.capture.torch_private.names import (
    COMPILED_AUTOGRAD,
    compiled_autograd,
    current_level,
    number_of_node,
    numbers_nodes,
    queue_callback,
    running_node,
)
from modtrace.trace.schema import BACKWARD, FUNCTION, RETURNED_GRADIENTS, THREAD_SHIFT

_LEAF: Final = 1 << 62
"""Nodes that accumulate into `.grad` have the highest number there is."""
_BACKWARDS = count()
_ID_STRIDE: Final = 1 << 32

Path = tuple[int, ...]


class Owners:
    """Calls in which the nodes of a graph were made: the node ranges of one thread's buffer."""

    def __init__(self, buffer: ThreadBuffer, lowest: int) -> None:
        self.buffer = buffer
        grown = buffer.grown
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
        position = len(growths) - GROWN
        open_now: list[int] = []
        path: Path = ()
        paths = []
        for number in numbers:
            changed = False
            while open_now and number < growths[open_now[-1] + 1]:
                open_now.pop()
                changed = True
            while position >= 0 and growths[position] > number:
                if growths[position + 1] <= number:
                    open_now.append(position)
                    changed = True
                position -= GROWN
            if changed:
                path = tuple(open_now)
            paths.append(path)
        return paths

    def calls(self, paths: Sequence[Path]) -> list[Path]:
        """Paths with the ids of the calls."""
        growths, thread = self.growths, self.buffer.number << THREAD_SHIFT
        known: dict[Path, Path] = {}
        for path in paths:
            if path not in known:
                known[path] = tuple(thread | growths[position + 2] for position in path)
        return [known[path] for path in paths]


def graph_of(outputs: Any) -> tuple[list[tuple[int, Any]], int]:
    """(number, node) of the nodes that a backward from `outputs` can run, in descending order, leaves left out; and how
    many leaves there are.
    """
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    with without_functions():
        pending = [tensor.grad_fn if isinstance(tensor, torch.Tensor) else tensor.node for tensor in tensors]
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


def owners_of(
    buffers: Sequence[ThreadBuffer], own_buffer: ThreadBuffer, nodes: Sequence[tuple[int, Any]]
) -> list[Owners]:
    """The growths that the nodes belong to; several where that cannot be told.

    A node does not tell the thread that made it. Where calls of several threads could have, those of the thread that
    calls backward are meant, unless it has none.
    """
    lowest, highest = nodes[-1][0], nodes[0][0]
    candidates = [Owners(buffer, lowest) for buffer in buffers if buffer.grown]
    owners = [
        candidate
        for candidate in candidates
        if candidate.growths and min(candidate.growths[1::GROWN]) <= highest
    ]
    if len(owners) > 1:
        others = [candidate for candidate in owners if candidate.buffer is not own_buffer]
        if len(others) == len(owners) or any(_overlap(candidate, nodes) for candidate in others):
            return owners
        owners = [candidate for candidate in owners if candidate.buffer is own_buffer]
    return owners


def _overlap(owners: Owners, nodes: Sequence[tuple[int, Any]]) -> bool:
    """True if any node can be of a call of that thread."""
    return any(owners.paths([number for number, _ in nodes]))


class BackwardGraph:
    """A graph that is about to be run, and which module calls made it.

    buffer, depth: the thread buffer of the backward and the depth of its row there.
    backward: id of that row.
    nodes: (number, node) in descending order.
    leaves: how many nodes accumulate into `.grad`.
    """

    def __init__(
        self, watch: RunningBackward, nodes: Sequence[tuple[int, Any]], leaves: int, paths: Sequence[Path]
    ) -> None:
        self.buffer = watch.buffer
        self.depth = watch.depth
        self.backward = watch.id
        self.nodes = nodes
        self.leaves = leaves
        self._owners = watch.owners
        self._paths = paths

    def calls(self) -> list[Path]:
        """For each node the ids of the module calls around it, outermost first."""
        return self._owners.calls(self._paths) if self._owners is not None else []

    def makers(self) -> dict[int, tuple[tuple[int, str], ...]]:
        """For each node before which another module's nodes have run: (module, name) of the nodes whose gradients it
        gets; module is -1 for a node made outside of any call.
        """
        owners = self._owners
        if owners is None:
            return {}
        before: Path = ()
        borders: dict[Any, dict[tuple[int, str], None]] = {}
        for (_, node), path in zip(self.nodes, self._paths, strict=False):
            if path is not before:
                borders[node], before = {}, path
        for (_, node), path in zip(self.nodes, self._paths, strict=False):
            made = (owners.growths[path[-1] + 3] if path else -1, str(node.name()))
            for following, _ in node.next_functions:
                if following in borders:
                    borders[following][made] = None
        return {number_of_node(node): tuple(makers) for node, makers in borders.items()}

    def roots(self) -> tuple[set[int], frozenset[int]]:
        """Ids of the root calls whose backward it is, and the numbers of their modules."""
        owners = self._owners
        if owners is None:
            return set(), frozenset()
        thread = owners.buffer.number << THREAD_SHIFT
        tops = {path[0] for path in self._paths if path}
        calls = {thread | owners.growths[top + 2] for top in tops}
        return calls, frozenset(owners.growths[top + 3] for top in tops)


class BackwardWalk:
    """Records the backward phases of one trace. Nothing here raises."""

    def __init__(self, context: TraceContext) -> None:
        self.context = context
        self.ranges = context.part(Ranges)
        self._entries: dict[int, Entry] = {}
        self.spent_ns = 0
        """Cost of telling backwards apart so far, nanoseconds."""
        self.untold = 0
        """Backwards whose nodes calls of several threads may have made."""

    def begin(self, outputs: Any, frame: FrameType, *, accumulates: bool = True) -> RunningBackward | None:
        """Open the phase and put the hooks in place; None when it is not recorded."""
        outer = self.context.buffers.current.watch
        if outer is not None:
            outer.recompute_ends(reentrant=True)
        phase = self.ranges.phase("backward", "" if accumulates else RETURNED_GRADIENTS, frame.f_code)
        call = self.ranges.begin(phase, frame, again=True)
        if call < 0:
            return None
        watch = RunningBackward(self, call, frame)
        watch.buffer.watch = watch
        context = self.context
        try:
            started = context.clock()
            if current_level() is None and not _compiled_autograd():
                self._watch(watch, outputs)
            spent = context.clock() - started
            watch.buffer.cost(find(watch.buffer, call), spent)
            self.spent_ns += spent
        except Exception as fault:
            watch.remove()
            context.fault(fault)
        for opened in context.events.backward_opened:
            opened(watch.buffer, call, outputs)
        return watch

    def _watch(self, watch: RunningBackward, outputs: Any) -> None:
        nodes, leaves = graph_of(outputs) if numbers_nodes else ([], 0)
        candidates = (
            owners_of(self.context.threads.all, self.context.buffers.of_thread, nodes) if nodes else []
        )
        if len(candidates) != 1:
            self.untold += len(candidates) > 1
            return
        owners = candidates[0]
        watch.asks_for_end = queue_callback is not None and _has_ranks()
        paths = owners.paths([number for number, _ in nodes])
        watch.owners = owners
        events = self.context.events
        if events.backward_began and watch.depth >= 0:
            graph = BackwardGraph(watch, nodes, leaves, paths)
            for began in events.backward_began:
                began(graph)
        for extend in events.backward_paths:
            paths = extend(watch, nodes, paths) or paths
        # Not from torch's own counter: a checkpoint may hold the ids of the user's hooks.
        with hook_ids_from(-_ID_STRIDE * (2 + next(_BACKWARDS))):
            before: Path = ()
            for (number, node), path in zip(nodes, paths, strict=True):
                if path is not before:
                    watch.handles.append(node.register_prehook(watch.switch(path, number)))
                    before = path

    def entry(self, module: int, code: CodeType) -> Entry:
        """The entry that the backward of a module's call executes."""
        known = self._entries.get(module)
        if known is None:
            known = self._entries.setdefault(module, Entry(module, BACKWARD, code))
        return known


def _compiled_autograd() -> bool:
    """True if autograd's graph may be compiled: hooks would become a part of it."""
    return COMPILED_AUTOGRAD in sys.modules and compiled_autograd() is not False


def _has_ranks() -> bool:
    """True if this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


class RunningBackward:
    """One backward phase that runs, and the rows that are open in it.

    The rows stand in the buffer of the thread that called backward, also those of nodes that the engine runs on threads
    of devices. With nodes on the processor too, which the calling thread runs meanwhile, several threads write there:
    one at a time, for recording an event lets go of the interpreter's lock. A buffer for each would lose what rows are
    inside of. `_writer` is a thread in the middle of calls of modules that it makes in a node (a checkpoint that
    computes again): until they are over, nodes of other threads have no rows.
    """

    def __init__(self, backward: BackwardWalk, call: int, frame: FrameType) -> None:
        self.handles: list[RemovableHandle] = []
        self.owners: Owners | None = None
        self.buffer: ThreadBuffer = backward.context.buffers.current
        self._backward = backward
        self._context = backward.context
        self._call = call
        self._frame_id = id(frame)
        self._code = frame.f_code
        self._path: Path = ()
        self._thread = threading.get_ident()
        self._writing = threading.RLock()
        self._writer = self._claims = 0
        self._ended = False
        self._before = self.buffer.lent, self.buffer.grew
        self.depth = find(self.buffer, call)
        self._inserted: list[Entry] = []
        self._outer = self.buffer.watch
        self._opened = (0, -1)
        """From which place in the path on rows were opened last, and the number of the node that then ran."""
        self._recomputes: list[Recompute] = []
        self.asks_for_end = False
        """The engine is to tell when the last node has run: others may be waited for behind it."""

    def switch(self, path: Path, number: int) -> Callable[[Any], None]:
        """The pre-hook of the first of some nodes that belong to one call."""
        arrivals = self._context.events

        def enter(gradients: Any) -> None:
            if self._context.off:
                return
            try:
                if self.asks_for_end:
                    self.asks_for_end = False
                    queue_callback(self.nodes_ended)
                with self._writing:
                    now = self._context.clock()
                    if self._may_write():
                        self._writer = self._claims = 0
                        self._move(path, now, number)
                for arrived in arrivals.gradients_arrived:
                    forward, module = self._maker(path)
                    row = self.buffer.calls[-1][1] if self.buffer.calls else -1
                    arrived(self.buffer, row, forward, module, number, gradients)
            except Halt as halt:
                raise halt.error from None
            except Exception as fault:
                self._context.fault(fault)

        unseen(enter)
        return enter

    def _maker(self, path: Path) -> tuple[int, int]:
        """The innermost module call of a path: its id, and the number of its module; -1 for none."""
        position = next((element for element in reversed(path) if element >= 0), -1)
        if position < 0 or self.owners is None:
            return -1, -1
        growths, thread = self.owners.growths, self.owners.buffer.number << THREAD_SHIFT
        return thread | growths[position + 2], growths[position + 3]

    @property
    def id(self) -> int:
        """The id of the phase's row."""
        return self.buffer.number << THREAD_SHIFT | self._call

    def nodes_ended(self) -> None:
        """The last node has run; the engine goes on with what was to be called then."""
        if self._context.off:
            return
        try:
            with self._writing:
                now = self._context.clock()
                if self._may_write():
                    self._writer = self._claims = 0
                    self._move((), now)
        except Exception as fault:
            self._context.fault(fault)

    def end(self, error: BaseException | None = None) -> None:
        """The engine has returned, or raised: then its threads may still be in the middle of nodes."""
        self.remove()
        with self._writing:
            self._ended = True
            now = self._context.clock()
        for ended in self._context.events.backward_ended:
            ended(self.buffer, self._call, error)
        try:
            if not self._context.off:
                self._move((), now, error=error)
        except Exception as fault:
            self._context.fault(fault)
        self.buffer.watch = self._outer
        self.buffer.lent, self.buffer.grew = self._before
        self._backward.ranges.end(self._call, error)

    def insert(self, entry: Entry) -> int:
        """The element of a path that stands for one more row, of what `entry` says."""
        self._inserted.append(entry)
        return -len(self._inserted)

    @property
    def code(self) -> CodeType:
        """Code of the frame that runs the backward."""
        return self._code

    def remove(self) -> None:
        """Take the hooks off the nodes."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _may_write(self) -> bool:
        """True where this thread may write into the buffer of the thread that called backward; a thread of the engine's
        records its calls there from then on. Asked with `_writing` held.
        """
        thread = threading.get_ident()
        if self._ended or self._writer not in (0, thread):
            return False
        buffers: ThreadBuffers = self._context.buffers
        if thread != self._thread:
            buffers.current = self.buffer
            self.buffer.lent = True
        if self.buffer.lent:
            self.buffer.grew = buffers.of_thread.grown.extend
        return True

    def claim(self, *, ends: bool) -> bool:
        """A call begins inside of a node that this thread runs: no other thread writes until this one comes to its
        next node, or until `release`, if the call `ends` with that. False where another thread does the same.
        """
        with self._writing:
            if not self._may_write():
                return False
            self._writer = threading.get_ident()
            self._claims += ends
        return True

    def release(self) -> None:
        """Such a call is over."""
        with self._writing:
            if self._writer == threading.get_ident():
                self._claims -= 1
                if self._claims <= 0:
                    self._writer = self._claims = 0

    def _move(self, path: Path, now: int, number: int = -1, error: BaseException | None = None) -> None:
        """Close and open rows until those of `path` are open, as node `number` asks; `error` is what has left those
        that are closed.
        """
        buffer = self.buffer
        if self.owners is None or self.depth < 0:
            return
        while self._recomputes:
            again = self._recomputes.pop()
            self._backward.ranges.end(again.call, error)
            self._path = self._path[: again.level]
        before = self._path
        buffer.abort(self.depth + 1 + len(before))
        keep = 0
        for old, new in zip(before, path, strict=False):
            if old != new:
                break
            keep += 1
        self._close(keep, now, error)
        self._open(path, keep, now, number)

    def _close(self, keep: int, now: int, error: BaseException | None = None) -> None:
        """Close the rows of the path but for the first few."""
        buffer, events = self.buffer, self._context.events
        while len(buffer.calls) > self.depth + 1 + keep:
            call, entry = buffer.calls[-1][1:3]
            output, code = UNKNOWN_OUTPUT if entry.kind == FUNCTION else 0, RETURNED
            if error is not None:
                code, output = RAISED, error_number(self._context, buffer, error, now)
            else:
                for ended in events.module_backward_ended:
                    ended(buffer, call)
            buffer.close(now, code=code, output=output)

    def _open(self, path: Path, keep: int, now: int, number: int) -> None:
        """Open the rows of a path of which the first few are open."""
        buffer, owners = self.buffer, self.owners
        self._path, self._opened = path, (keep, number)
        if owners is None:
            return
        growths, thread = owners.growths, owners.buffer.number << THREAD_SHIFT
        fresh = [(position, buffer.next_call()) for position in path[keep:]]
        for began in self._context.events.module_backward_began:
            for position, call in fresh:
                if position >= 0:
                    began(buffer, call, growths[position + 3])
        opened = self._context.clock()
        self._backward.spent_ns += opened - now
        if keep < len(path):
            buffer.cost(self.depth + keep, opened - now)
        for position, call in fresh:
            if position < 0:
                entry, forward = self._inserted[-position - 1], UNKNOWN_OUTPUT
            else:
                entry = self._backward.entry(growths[position + 3], self._code)
                forward = thread | growths[position + 2]
            buffer.open(entry, self._frame_id, opened, args=forward, call=call)

    # checkpoints ------------------------------------------------------------------------------------------------

    def recompute_begins(self, place: CheckpointPlace | None, *, reentrant: bool = False) -> None:
        """A checkpoint made at a place computes again, inside of the node that runs: a row of its own, below the
        backward of the call that the checkpoint stands in. Rows further in are closed and opened again behind it.
        """
        context, buffer = self._context, self.buffer
        now = context.clock()
        if context.off or self.depth < 0 or (self.owners is not None and not self.claim(ends=True)):
            return
        try:
            buffer.abort(self._inner_depth())
            level = len(self._path) if self._recomputes or reentrant else self._level(place)
            self._drop(level)
            if not self._recomputes:
                self._close(level, now)
            call = buffer.next_call()
            entry = self._backward.ranges.phase("recompute", "", self._code)
            for began in context.events.phase_began:
                began(buffer, call, entry)
            self._recomputes.append(Recompute(call, level, reentrant))
            buffer.open(entry, self._frame_id, context.clock(), call=call)
        except Exception as fault:
            context.fault(fault)

    def recompute_ends(self, error: BaseException | None = None, *, reentrant: bool = False) -> None:
        """It has ended, by `error` if there is one. Of those with reentry there may be none."""
        if not self._recomputes or self._recomputes[-1].reentrant != reentrant or self._context.off:
            return
        with self._writing:
            again = self._recomputes.pop()
            stopped = error is not None and is_early_stop(error)
            self._backward.ranges.end(again.call, None if stopped else error)
            try:
                if again.level < len(self._path):
                    self._open(self._path, again.level, self._context.clock(), _running_node())
            except Exception as fault:
                self._context.fault(fault)

    def _inner_depth(self) -> int:
        """Depth of the row that is opened next: inside the path, or a checkpoint that computes again."""
        if self._recomputes:
            return find(self.buffer, self._recomputes[-1].call) + 1
        return self.depth + 1 + len(self._path)

    def _level(self, place: CheckpointPlace | None) -> int:
        """Number of rows of the path are around a checkpoint.

        Those are calls that had begun when it was made, and the one call that it is of, if that has calls inside it.
        """
        owners, path = self.owners, self._path
        if owners is None or place is None or place.buffer != owners.buffer.number:
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
        buffer, calls = self.buffer, self.buffer.calls
        keep, number = self._opened
        first = self.depth + 1 + max(level, keep)
        if self._recomputes or first >= len(calls) or number < 0 or _running_node() != number:
            return
        following = buffer.next_call()
        if following == calls[-1][1] + 1:
            following = calls[first][1]
            for taken_back in self._context.events.call_taken_back:
                taken_back(buffer, following)
            del calls[first:]
        buffer.next_call = count(following).__next__


class Recompute(NamedTuple):
    """A checkpoint that computes again: its row, and how many rows of the path are around it."""

    call: int
    level: int
    reentrant: bool


def _running_node() -> int:
    """The number of the node that autograd runs on this thread; -1 where that is not known."""
    node = running_node()
    return number_of_node(node) if node is not None else -1


unseen(RunningBackward.recompute_begins, RunningBackward.recompute_ends)
unseen(BackwardWalk.begin, RunningBackward.nodes_ended, RunningBackward.end)
