"""The places in the call tree of a growing trace: calls of one module in one place are one node.

Nodes are numbered as they are met and never change, so sums over them can be kept while the trace grows. Calls come
when they have ended, those that are open over a flush later than what is inside them, so open calls are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.phases import OPTIMIZER
from modtrace.trace.follow import Columns
from modtrace.trace.schema import BACKWARD, FUNCTION, IN_BACKWARD, MODULE, PHASE, PHASES, SPAN, UNFINISHED

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PLAIN, AGAIN, BACK = 0, 1, 2
"""Variants of a node: a call, one that checkpointing makes again, a backward."""
_MANY: Final = 1 << 20
"""Of nodes: further calls count for the last one, so that no trace makes this grow for ever."""


@dataclass(frozen=True)
class OpenLiveCall:
    """A call that has not ended: its node, whether it is inside a unit (see `phases`) or one itself, and whether
    checkpointing makes it again.
    """

    node: int
    in_unit: bool
    again: bool
    row: dict[str, int]
    clear: bool


@dataclass(frozen=True)
class PlacedCalls:
    """Calls in order of their ids. `node` of each; `clear` are those that are inside no unit: units, and what is around
    them.
    """

    columns: Columns
    node: Ints
    clear: Bools


class LiveNodes:
    """The nodes of one process. `parent`, `what` and `variant` have an element a node.

    what: (root, module) of a module, (-1, label) of anything else.
    """

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.what: list[tuple[int, int]] = []
        self.variant: list[int] = []
        self.opened: dict[int, OpenLiveCall] = {}
        self.names: dict[tuple[int, int], str] = {}
        self.modules: dict[int, tuple[str, int | None]] = {}
        self.variables: dict[int, str] = {}
        self.labels: dict[int, tuple[str, str, str]] = {}
        self.output: dict[int, int] = {}
        """The signature of the first output of each module."""
        self._place: dict[tuple[int, int], int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.parent)

    def root_name(self, root: int) -> str:
        """The name of a root: the variable or attribute that holds it, else its class."""
        return self.variables.get(root) or self.modules.get(root, ("?", None))[0]

    def knows(self, calls: Columns) -> bool:
        """True if all that calls and open calls point at is there."""
        for column, known in (("module", self.modules), ("root", self.modules), ("label", self.labels)):
            if any(key >= 0 and key not in known for key in np.unique(calls[column]).tolist()):
                return False
        ids = np.sort(calls["call"])
        parents = np.unique(calls["parent"][calls["parent"] >= 0])
        positions = np.minimum(np.searchsorted(ids, parents), len(ids) - 1)
        return all(parent in self.opened for parent in parents[ids[positions] != parents].tolist())

    def place(self, columns: Columns) -> PlacedCalls:
        """The nodes of calls and of open ones, those with the status UNFINISHED; what was open before is forgotten when
        its call comes.
        """
        order = np.lexsort((columns["status"] == UNFINISHED, columns["call"]))
        ids = columns["call"][order]
        first = np.ones(len(ids), np.bool_)
        first[1:] = ids[1:] != ids[:-1]
        columns = {name: values[order[first]] for name, values in columns.items()}
        node, clear, state = self._resolve(columns)
        ended = columns["status"] != UNFINISHED
        for call in columns["call"][ended].tolist():
            self.opened.pop(call, None)
        for index in np.flatnonzero(~ended).tolist():
            row = {name: int(values[index]) for name, values in columns.items()}
            self.opened[row["call"]] = OpenLiveCall(
                int(node[index]), bool(state[index] & 1), bool(state[index] & 2), row, bool(clear[index])
            )
        self._note_outputs(columns, ended)
        columns_of_ended = {name: values[ended] for name, values in columns.items()}
        return PlacedCalls(columns_of_ended, node[ended], clear[ended])

    def _resolve(self, columns: Columns) -> tuple[Ints, Bools, Ints]:
        """Node of each call, whether it is clear, and its state: bit 0 for being in or a unit, bit 1 for again."""
        ids, parent, call_kind, mode = (columns[name] for name in ("call", "parent", "kind", "mode"))
        code, opening = self._code(columns)
        positions = np.minimum(np.searchsorted(ids, np.maximum(parent, 0)), len(ids) - 1)
        in_batch = (parent >= 0) & (ids[positions] == parent)
        node = np.full(len(ids), -1, np.int64)
        state = np.zeros(len(ids), np.int64)
        over_node, over_state = np.full(len(ids), -1, np.int64), np.zeros(len(ids), np.int64)
        for row in np.flatnonzero((parent >= 0) & ~in_batch).tolist():
            above = self.opened.get(int(parent[row]))
            if above is not None:
                over_node[row], over_state[row] = above.node, above.in_unit + 2 * above.again
        again = (call_kind == MODULE) & ((mode & IN_BACKWARD) > 0)
        depth = columns["depth"]
        by_depth = np.argsort(depth, kind="stable")
        sorted_depth = depth[by_depth]
        edges = np.flatnonzero(np.append(True, sorted_depth[1:] != sorted_depth[:-1])).tolist()
        for low, high in zip(edges, [*edges[1:], len(by_depth)], strict=True):
            rows = by_depth[low:high]
            inner = rows[in_batch[rows]]
            over_node[inner], over_state[inner] = node[positions[inner]], state[positions[inner]]
            state[rows] = over_state[rows] | 2 * again[rows]
            variant = np.where(
                call_kind[rows] == BACKWARD, BACK, (state[rows] >> 1) & (call_kind[rows] != PHASE)
            )
            node[rows] = self._numbers(over_node[rows], code[rows] << 2 | variant)
            state[rows] |= ~opening[rows]
        return node, (over_state & 1) == 0, state

    def _code(self, columns: Columns) -> tuple[Ints, Bools]:
        """A number for what each call is of, and whether units may be inside of it."""
        module, root, label, call_kind = (columns[name] for name in ("module", "root", "label", "kind"))
        subject = np.where(module >= 0, (root + 1) << 31 | module, -1 - label)
        distinct, which = np.unique(subject, return_inverse=True)
        numbers = np.zeros(len(distinct), np.int64)
        optimizers = np.zeros(len(distinct), np.bool_)
        for index, subject_code in enumerate(distinct.tolist()):
            pair = (
                ((subject_code >> 31) - 1, subject_code & 0x7FFFFFFF)
                if subject_code >= 0
                else (-1, -1 - subject_code)
            )
            numbers[index] = self._codes.setdefault(pair, len(self._codes))
            optimizers[index] = subject_code < 0 and self.labels.get(pair[1], ("",))[0] == PHASES[OPTIMIZER]
        opening = (call_kind == SPAN) | (call_kind == FUNCTION) | ((call_kind == PHASE) & optimizers[which])
        return numbers[which], opening

    def _numbers(self, parent: Ints, key: Ints) -> Ints:
        """The node of each pair of a parent and a key, new ones made."""
        pairs, which = np.unique((parent + 1) << 32 | key, return_inverse=True)
        numbers = np.zeros(len(pairs), np.int64)
        whats: list[tuple[int, int]] | None = None
        for index, pair in enumerate(pairs.tolist()):
            above, code = (pair >> 32) - 1, pair & 0xFFFFFFFF
            number = self._place.get((above, code))
            if number is None:
                if len(self.parent) >= _MANY:
                    number = len(self.parent) - 1
                else:
                    whats = whats or list(self._codes)
                    number = self._place[above, code] = len(self.parent)
                    self.parent.append(above)
                    self.what.append(whats[code >> 2])
                    self.variant.append(code & 3)
            numbers[index] = number
        nodes: Ints = numbers[which]
        return nodes

    def _note_outputs(self, columns: dict[str, Any], ended: Bools) -> None:
        rows = np.flatnonzero(ended & (columns["kind"] == MODULE) & (columns["outputs"] >= 0))
        modules, first = np.unique(columns["module"][rows], return_index=True)
        for module, output in zip(modules.tolist(), columns["outputs"][rows[first]].tolist(), strict=True):
            self.output.setdefault(module, output)
