"""Saved bytes of one backward in all, and which modules kept it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.nesting import inside
from modtrace.analysis.saved_bytes import SavedRows, rows_of
from modtrace.analysis.timeline import timeline
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import PHASE


@dataclass(frozen=True)
class Keeper:
    """Saved bytes of the calls of one group of modules without those inside. `name` is "" for outside of any module."""

    name: str
    type: str
    saved_bytes: int
    storages: int
    packed: int
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class SavedTotals:
    """Saved bytes when one backward began.

    saved_bytes: of all storages that were counted; more was kept where `packed` or `uncounted` is not empty.
    backwards: how many were counted, of which this one's is the most.
    keepers: the largest first.
    """

    step: int
    saved_bytes: int
    packed: int
    uncounted: tuple[str, ...]
    backwards: int
    keepers: list[Keeper]

    @property
    def complete(self) -> bool:
        """True where all that was kept was counted."""
        return not self.packed and not self.uncounted


@once
def most_kept(stored: Stored) -> SavedTotals | None:
    """The backward for which most was kept, backwards inside of others left out; None where none was counted."""
    rows, table = rows_of(stored), timeline(stored).calls
    call_kind, last = column(table, "kind"), column(table, "last_call")
    begun = np.zeros(len(table), np.bool_)
    begun[rows.backward] = call_kind[rows.backward] == PHASE
    nested = inside(begun, last)
    outermost = [(row, rows_of_backward) for row, rows_of_backward in rows.backwards() if not nested[row]]
    if not outermost:
        return None
    backward, rows_of_backward = max(outermost, key=lambda pair: int(rows.saved_bytes[pair[1]].sum()))
    keepers = _keepers(stored, rows, rows_of_backward, backward)
    return SavedTotals(
        step=int(nullable_codes(table, "step")[backward]),
        saved_bytes=int(rows.saved_bytes[rows_of_backward].sum()),
        packed=int(rows.packed[rows_of_backward].sum()),
        uncounted=tuple(dict.fromkeys(name for names in rows.uncounted[rows_of_backward] for name in names)),
        backwards=len(outermost),
        keepers=keepers,
    )


def _keepers(stored: Stored, rows: SavedRows, part: slice, backward: int) -> list[Keeper]:
    groups = folded(stored)
    calls = rows.call[part]
    group, which = np.unique(np.where(calls == backward, -1, groups.group[calls]), return_inverse=True)
    sums = np.zeros((3, len(group)), np.int64)
    for place, numbers in enumerate((rows.saved_bytes, rows.storages, rows.packed)):
        np.add.at(sums[place], which, numbers[part])
    names: list[dict[str, None]] = [{} for _ in group]
    for index, uncounted in zip(which.tolist(), rows.uncounted[part], strict=True):
        names[index].update(dict.fromkeys(uncounted))
    keepers = [
        Keeper(
            name=groups.title(code) if code >= 0 else "",
            type=groups.type[code] if code >= 0 else "",
            saved_bytes=int(sums[0, index]),
            storages=int(sums[1, index]),
            packed=int(sums[2, index]),
            uncounted=tuple(names[index]),
        )
        for index, code in enumerate(group.tolist())
        if sums[:, index].any() or names[index]
    ]
    return sorted(keepers, key=lambda keeper: (-keeper.saved_bytes, -keeper.packed, keeper.name))
