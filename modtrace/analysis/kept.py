"""What was kept for one backward in all, and which modules kept it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modtrace.analysis.around import inside
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.paths import folded
from modtrace.analysis.saved import Rows, rows_of
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import PHASE


@dataclass(frozen=True)
class Keeper:
    """What the calls of one group of modules keep themselves. `name` is "" for outside of any module."""

    name: str
    type: str
    saved_bytes: int
    storages: int
    packed: int
    uncounted: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What was kept when one backward began.

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
    def whole(self) -> bool:
        """Whether all that was kept was counted."""
        return not self.packed and not self.uncounted


def most_kept(stored: Stored) -> Kept | None:
    """The backward for which most was kept, backwards inside of others left out; None where none was counted."""
    rows, table = rows_of(stored), timeline(stored).calls
    kind, last = column(table, "kind"), column(table, "last_call")
    begun = np.zeros(len(table), np.bool_)
    begun[rows.backward] = kind[rows.backward] == PHASE
    nested = inside(begun, last)
    some = [(at, here) for at, here in rows.backwards() if not nested[at]]
    if not some:
        return None
    backward, here = max(some, key=lambda one: int(rows.saved_bytes[one[1]].sum()))
    keepers = _keepers(stored, rows, here, backward)
    return Kept(
        step=int(nullable_codes(table, "step")[backward]),
        saved_bytes=int(rows.saved_bytes[here].sum()),
        packed=int(rows.packed[here].sum()),
        uncounted=tuple(dict.fromkeys(name for names in rows.uncounted[here] for name in names)),
        backwards=len(some),
        keepers=keepers,
    )


def _keepers(stored: Stored, rows: Rows, here: slice, backward: int) -> list[Keeper]:
    groups = folded(stored)
    calls = rows.call[here]
    group, which = np.unique(np.where(calls == backward, -1, groups.group[calls]), return_inverse=True)
    sums = np.zeros((3, len(group)), np.int64)
    for place, numbers in enumerate((rows.saved_bytes, rows.storages, rows.packed)):
        np.add.at(sums[place], which, numbers[here])
    names: list[dict[str, None]] = [{} for _ in group]
    for at, uncounted in zip(which.tolist(), rows.uncounted[here], strict=True):
        names[at].update(dict.fromkeys(uncounted))
    found = [
        Keeper(
            name=groups.title(code) if code >= 0 else "",
            type=groups.type[code] if code >= 0 else "",
            saved_bytes=int(sums[0, at]),
            storages=int(sums[1, at]),
            packed=int(sums[2, at]),
            uncounted=tuple(names[at]),
        )
        for at, code in enumerate(group.tolist())
        if sums[:, at].any() or names[at]
    ]
    return sorted(found, key=lambda one: (-one.saved_bytes, -one.packed, one.name))
