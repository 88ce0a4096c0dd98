"""Waiting in collectives taken out of the own times of modules: of ranks that stood in one until the last had come.

A rank says when it launched a collective, not whether it stood in it. That shows over many of them: whoever stands goes
on when the last rank has launched, so what is left of its standing is as long as the last one's, which waits for
nobody. Whoever does not wait goes on when its own work is done.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from modtrace.analysis.ranks.rank_arrivals import RankLaunches, median_wait, waits_beside
from modtrace.analysis.ranks.rank_numbers import RankNumbers, median_of

Ints = npt.NDArray[np.int64]

LONG_NS: Final = 20_000
"""Waits that are shorter say nothing about standing."""
MANY_LONG: Final = 8
"""So many waits are needed to tell."""
MANY_LAST: Final = 4
"""And so many launches of last ranks."""
STANDS: Final = 0.95
"""This part of those that wait must go on no sooner than the last rank has launched."""
BETWEEN: Final = 0.5
"""Where the rest of standing is apart from that of last ranks by less than this part of a wait, waits were stood."""


def without_waits(ranks: Sequence[RankNumbers]) -> list[RankNumbers]:
    """The ranks with the waiting of each, and with own times of modules less what they stood in collectives there;
    that is in `times.wait_ns`.
    """
    known = [number for number, rank in enumerate(ranks) if rank.launches is not None]
    launches = [launched for rank in ranks if (launched := rank.launches) is not None]
    waits = waits_beside(launches)
    changed = list(ranks)
    if waits is None:
        return changed
    stood = _stood(ranks, known, waits)
    for number, one, wait_ns, stood_ns in zip(known, launches, waits, stood, strict=True):
        changed[number] = replace(_less(ranks[number], one, stood_ns), wait_ns=median_wait(one, wait_ns))
    return changed


def _stood(ranks: Sequence[RankNumbers], known: Sequence[int], waits: Sequence[Ints]) -> list[Ints]:
    """Of each rank with collectives how long it stood in each, in nanoseconds; 0 where that is not known."""
    numbers: dict[Hashable, int] = {}
    slots, rests = [], []
    for number, wait_ns in zip(known, waits, strict=True):
        rank, one = ranks[number], ranks[number].launches
        assert one is not None
        triples, which = np.unique(
            np.stack([one.place, one.group, one.operation]), axis=1, return_inverse=True
        )
        own = [
            numbers.setdefault(
                (rank.places[place], one.groups[group].key, one.operations[operation]), len(numbers)
            )
            if place >= 0 and group >= 0
            else -1
            for place, group, operation in triples.T.tolist()
        ]
        slots.append(
            np.where((wait_ns >= 0) & (one.free_ns >= 0), np.array(own, np.int64)[which.reshape(-1)], -1)
        )
        rests.append(one.free_ns - one.at_ns)
    slot, wait, rest = (np.concatenate(parts) for parts in (slots, waits, rests))
    each = np.zeros(len(slot), np.int64)
    order = np.argsort(slot, kind="stable")
    for low, high in pairwise(np.searchsorted(slot[order], np.arange(len(numbers) + 1)).tolist()):
        rows = order[low:high]
        if _are_stood(wait[rows], rest[rows]):
            # What may have gone on meanwhile took the last one so long, which waited for nobody.
            last_ns = int(np.median(rest[rows][wait[rows] == 0]))
            each[rows] = np.minimum(wait[rows], np.maximum(rest[rows] - last_ns, 0))
    edges = np.cumsum([len(wait_ns) for wait_ns in waits])[:-1]
    return [*np.split(each, edges)]


def _are_stood(wait_ns: Ints, free_ns: Ints) -> bool:
    """True where ranks stand in the collectives of one kind and place until the last has launched.

    Args:
        wait_ns: from a launch until that of the last rank, 0 for the last.
        free_ns: from a launch until the thread went on.
    """
    long, last = wait_ns >= LONG_NS, wait_ns == 0
    if long.sum() < MANY_LONG or last.sum() < MANY_LAST:
        return False
    rest = free_ns[long] - wait_ns[long]
    apart = abs(float(np.median(rest)) - float(np.median(free_ns[last])))
    return bool((rest >= 0).mean() >= STANDS and apart <= BETWEEN * float(np.median(wait_ns[long])))


def _less(rank: RankNumbers, launches: RankLaunches, stood_ns: Ints) -> RankNumbers:
    """A rank whose own times are less by so much in the place and step of each collective."""
    rows = np.flatnonzero((stood_ns > 0) & (launches.step >= 0))
    times = rank.times
    position = np.searchsorted(times.number, launches.step[rows])
    is_kept = position < len(times.number)
    is_kept[is_kept] = times.number[position[is_kept]] == launches.step[rows[is_kept]]
    rows, position = rows[is_kept], position[is_kept]
    if not len(rows):
        return rank
    own, wait = times.own_ns.copy(), times.wait_ns.copy()
    np.subtract.at(own, (position, launches.place[rows]), stood_ns[rows].astype(np.float32))
    np.add.at(wait, position, stood_ns[rows].astype(np.float32))
    own = np.maximum(own, 0)
    phases_ns = rank.phases_ns | {"modules_ns": median_of(own[times.counts].sum(axis=1))}
    return replace(rank, phases_ns=phases_ns, times=replace(times, own_ns=own, wait_ns=wait))
