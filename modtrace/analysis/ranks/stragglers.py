"""Ranks that the others wait for, and in what: arrays in, verdicts out.

Each rank's own time in a module, and in waiting for data, is held against that of its peers: ranks of the same modules
in the same steps. Time in which a rank is known to wait for others is in no place that is looked at, and a rank is
named only if its whole time without that is longer than that of any other, but of those that are late by the same
thing. Where waiting shows in a module all the same (a collective of which nothing was recorded), whoever waits takes
as long as the rank that is waited for, and none is named.

The unit of evidence is a block of steps, not a step: steps beside each other are not independent. A difference must be
there in nearly all blocks, stand out from the differences that modules without a fault have between these very ranks,
and be worth something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_STEPS: Final = 18
"""In fewer steps no difference is told from chance."""
MIN_LAST_STEPS: Final = 40
"""The last steps alone are looked at where there are so many; means of several, where there are MIN_STEPS."""
BLOCKS: Final = 8
BLOCK_STEPS: Final = 3
"""Blocks that steps are divided into, and how many steps one has at least."""
MIN_RELATIVE: Final = 0.08
"""A module that is slower by less than this is not named."""
MIN_RELATIVE_RANK: Final = 0.12
"""A rank that is slower by less than this in all that it does is not named."""
MIN_STEP_SHARE: Final = 0.003
"""Nor is what takes less than this of a step."""
MIN_NEW_SHARE: Final = 0.01
"""Nor, where it takes its peers less than that, what takes less than this of a step: the own time of a module that only
calls others is what is left of their calls' cost, and that differs from rank to rank.
"""
MIN_DATA_SHARE: Final = 0.02
MIN_NS: Final = 20_000.0
CLEAR: Final = 5.0
"""A difference is clear if it is so many times the usual one between these ranks."""
STEADY: Final = 5.0
"""And so many times its own uncertainty over the blocks."""
STRICTER: Final = 1.5
"""Both so many times more where only the last steps are looked at: that is a second and a third try."""
IN_BLOCKS: Final = 0.85
"""And there in this part of the blocks."""
LATE: Final = 0.25
"""By at least this part of a difference the rank must be later than all others, in its whole time without waiting."""
QUIET: Final = 0.25
"""The quantile of the blocks that says what a rank takes in each place: other work disturbs some places in some blocks,
and of the sum of all places in most. A difference must be there in more blocks than that leaves out.
"""
DOUBT: Final = 2.0
"""Times the uncertainty of a difference of whole steps over the blocks: within that it says nothing."""
MANY_EACH: Final = 3
"""So many modules of one rank are named."""
WORTH: Final = 0.2
"""Beside the slowest only those with this part of its excess: what runs behind a pause is slower too, cold caches."""
_SPREAD: Final = 1.4826
"""From a median absolute deviation to a standard deviation."""

MODULE_SLOW, RANK_SLOW, INPUT_SLOW = "compute", "rank", "input"


@dataclass(frozen=True)
class Peers:
    """Ranks of one role in the steps that all of them have: times in nanoseconds, NaN where not known.

    own: of each rank, shape (steps, places).
    data, duration, wait: shape (ranks, steps).
    width: what stands for a step is the mean of so many.
    """

    own: Sequence[npt.NDArray[np.float32]]
    data: Array
    duration: Array
    wait: Array
    width: int = 1


@dataclass(frozen=True)
class Straggler:
    """A verdict: a rank that the others wait for, and in what.

    cause: MODULE_SLOW, RANK_SLOW (all of its modules) or INPUT_SLOW.
    rank, place: indexes into what was given; place is -1 but for MODULE_SLOW.
    excess_ns: time a step more than its peers.
    peers_ns: time of its peers there.
    since: index of the step from which on; 0 for all of them.
    gain: part of a step that would be saved without it, 0 to 1.
    """

    cause: str
    rank: int
    place: int
    excess_ns: float
    peers_ns: float
    since: int
    gain: float

    @property
    def relative(self) -> float:
        """Excess as a part of the time of its peers; infinite where these take none."""
        return self.excess_ns / self.peers_ns if self.peers_ns > 0 else float("inf")


def stragglers(peers: Peers) -> list[Straggler]:
    """The ranks that the others wait for, the most time first; none where there are too few steps or no peers."""
    ranks, steps = peers.duration.shape
    if ranks < 2:
        return []
    least = MIN_LAST_STEPS if peers.width == 1 else MIN_STEPS
    for window in (steps, steps // 2, steps // 4, steps // 8):
        if window < (MIN_STEPS if window == steps else least):
            break
        found = _Window(peers, steps - window).verdicts()
        if found:
            return sorted(found, key=lambda verdict: -verdict.excess_ns)
    return []


def upper_median_of_others(values: Array) -> Array:
    """For each row the upper median of all other rows, column by column: shape as given. Of two others the greater."""
    order = np.sort(values, axis=0)
    middle = (len(values) - 1) // 2
    at, above = order[middle], order[min(middle + 1, len(values) - 1)]
    median: Array = np.where(values <= at, above, at)
    return median


def _doubt(values: Array) -> float:
    """Standard error of the median of values, by their median absolute deviation."""
    apart = np.abs(values - np.median(values))
    return _SPREAD * float(np.median(apart)) / float(np.sqrt(len(values)))


class _Candidate(NamedTuple):
    """A rank that takes longer than its peers in something; whether it is late is not known yet."""

    cause: str
    rank: int
    place: int
    excess_ns: float
    peers_ns: float


class _Window:
    """The last steps, in blocks."""

    def __init__(self, peers: Peers, first: int) -> None:
        self._peers = peers
        self._strict = STRICTER if first else 1.0
        self._ranks, steps = peers.duration.shape
        count = min(BLOCKS, (steps - first) // BLOCK_STEPS)
        self._edges = np.linspace(first, steps, count + 1).astype(int)
        self._blocks = count
        self._step_ns = float(np.median(peers.duration[:, first:]))
        places = peers.own[0].shape[1]
        self._own = np.stack([self._blocked_places(own) for own in peers.own])
        """Median of each rank, block and place."""
        modules = np.stack([own.sum(axis=1, dtype=np.float64) for own in peers.own])
        self._modules = self._blocked(modules)
        self._data = self._blocked(peers.data)
        self._whole = self._blocked(peers.duration - peers.wait)
        self._reference = upper_median_of_others(self._own) if places else np.zeros((self._ranks, count, 0))

    def _blocked_places(self, own: npt.NDArray[np.float32]) -> Array:
        blocks = zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), strict=True)
        return np.stack([np.median(own[low:high], axis=0) for low, high in blocks]).astype(np.float64)

    def _blocked(self, values: Array) -> Array:
        blocks = zip(self._edges[:-1].tolist(), self._edges[1:].tolist(), strict=True)
        return np.stack([np.median(values[:, low:high], axis=1) for low, high in blocks], axis=1)

    def verdicts(self) -> list[Straggler]:
        known = all(not np.isnan(times).any() for times in (self._own, self._data, self._whole))
        if not self._step_ns > 0 or not known:
            return []
        ranks = self._slow_ranks()
        modules = self._slow_modules({one.rank for one in ranks})
        return self._late([*ranks, *modules, *self._slow_input()])

    def _excess(self, values: Array, reference: Array) -> tuple[Array, Array, Bools]:
        """Of each rank (and place): the median excess over the blocks, that of its peers, and if it is steady."""
        each = values - reference
        excess, base = np.median(each, axis=1), np.median(reference, axis=1)
        spread = _SPREAD * np.median(np.abs(each - excess[:, None]), axis=1)
        steady: Bools = (each > 0).mean(axis=1) >= IN_BLOCKS
        steady &= (each > excess[:, None] / 3).mean(axis=1) >= IN_BLOCKS - 0.25
        steady &= excess > self._strict * STEADY * spread / np.sqrt(self._blocks)
        steady &= (excess >= MIN_NS) & (excess >= MIN_STEP_SHARE * self._step_ns)
        return excess, base, steady

    def _lateness(self, rank: int, alike: set[int]) -> float:
        """By how much a rank without its waiting is later than the last of the others, in ns: the less of what its
        modules and data say, place by place, and of what its steps say. Whole steps hold all that disturbs a rank
        beside its modules: they only gainsay what is beyond their own uncertainty. Ranks that are late by the same are
        left out; minus infinity where there are no others.
        """
        others = [other for other in range(self._ranks) if other not in alike]
        if not others:
            return -np.inf
        quiet = np.quantile(self._own, QUIET, axis=1).sum(axis=-1) + np.quantile(self._data, QUIET, axis=1)
        modules = float(quiet[rank] - quiet[others].max())
        total = self._whole
        last = others[int(np.median(total[others], axis=1).argmax())]
        steps = float(np.median(total[rank]) - np.median(total[last]))
        return min(modules, steps + DOUBT * _doubt(total[rank] - total[last]))

    def _late(self, candidates: Sequence[_Candidate]) -> list[Straggler]:
        """Those of the candidates that the others really wait for."""
        late = []
        for one in candidates:
            alike = {c.rank for c in candidates if (c.cause, c.place) == (one.cause, one.place)}
            over = self._lateness(one.rank, alike)
            if over >= LATE * one.excess_ns:
                since = self._since(one.cause, one.rank, one.place)
                gain = min(one.excess_ns, over) / self._step_ns
                late.append(
                    Straggler(one.cause, one.rank, one.place, one.excess_ns, one.peers_ns, since, gain)
                )
        return late

    def _slow_modules(self, slow_ranks: set[int]) -> list[_Candidate]:
        excess, base, steady = self._excess(self._own, self._reference)
        if not excess.size:
            return []
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = excess / base
        counted = (base >= MIN_STEP_SHARE * self._step_ns) & np.isfinite(relative)
        usual = np.array(
            [np.median(row[on]) if on.any() else 0.0 for row, on in zip(relative, counted, strict=True)]
        )
        apart = np.abs(relative - usual[:, None])[counted]
        spread = _SPREAD * float(np.median(apart)) if apart.size else 0.0
        over = np.where(base > 0, relative - np.maximum(usual, 0)[:, None], np.inf)
        named = steady & (over >= max(MIN_RELATIVE, self._strict * CLEAR * spread))
        named &= (base >= MIN_STEP_SHARE * self._step_ns) | (excess >= MIN_NEW_SHARE * self._step_ns)
        found = []
        for rank in np.flatnonzero(named.any(axis=1)).tolist():
            order = np.argsort(-np.where(named[rank], excess[rank], -1), kind="stable")
            named[rank] &= excess[rank] >= WORTH * excess[rank, order[0]]
            for place in order[: min(MANY_EACH, int(named[rank].sum()))].tolist():
                more = float(excess[rank, place])
                if rank in slow_ranks:  # what is beyond its being slow in everything
                    more -= float(max(usual[rank], 0) * base[rank, place])
                found.append(_Candidate(MODULE_SLOW, rank, place, more, float(base[rank, place])))
        return found

    def _slow_ranks(self) -> list[_Candidate]:
        """Ranks that are slower in most of their modules, not in one."""
        if self._own.shape[2] < 2 * MANY_EACH:
            return []
        excess, base, steady = self._excess(self._modules, upper_median_of_others(self._modules))
        relative = excess / np.maximum(base, 1)
        each, of_peers, _ = self._excess(self._own, self._reference)
        counted = of_peers >= MIN_STEP_SHARE * self._step_ns
        found = []
        for rank in np.flatnonzero(steady & (relative >= MIN_RELATIVE_RANK)).tolist():
            others = np.delete(relative, rank)
            spread = _SPREAD * float(np.median(np.abs(others - np.median(others)))) if len(others) > 2 else 0
            parts = (each[rank] / np.maximum(of_peers[rank], 1))[counted[rank]]
            in_most = len(parts) > 0 and np.quantile(parts, 0.25) >= relative[rank] / 3
            if not in_most or relative[rank] < self._strict * CLEAR * spread:
                continue
            found.append(_Candidate(RANK_SLOW, rank, -1, float(excess[rank]), float(base[rank])))
        return found

    def _slow_input(self) -> list[_Candidate]:
        if np.isnan(self._data).any():
            return []
        excess, base, steady = self._excess(self._data, upper_median_of_others(self._data))
        named = steady & (excess >= MIN_DATA_SHARE * self._step_ns) & (excess >= MIN_RELATIVE * base)
        return [
            _Candidate(INPUT_SLOW, rank, -1, float(excess[rank]), float(base[rank]))
            for rank in np.flatnonzero(named).tolist()
        ]

    def _since(self, cause: str, rank: int, place: int) -> int:
        """The step from which on a rank is late in a place; 0 where no step parts it from before."""
        peers = self._peers
        if cause == INPUT_SLOW:
            values = peers.data
        elif cause == MODULE_SLOW:
            values = np.stack([own[:, place].astype(np.float64) for own in peers.own])
        else:
            values = np.stack([own.sum(axis=1, dtype=np.float64) for own in peers.own])
        return change_point(values[rank] - upper_median_of_others(values)[rank])


def change_point(excess: Array) -> int:
    """Index of the element from which on a series is higher, where it was near 0 before; 0 for none."""
    low, high = np.nanquantile(excess, [0.05, 0.95])
    steps = np.nan_to_num(np.clip(excess, low, high))
    drift = np.cumsum(steps - steps.mean())
    at = int(np.argmin(drift)) + 1
    if at < BLOCK_STEPS or len(excess) - at < BLOCK_STEPS:
        return 0
    before, after = float(np.median(steps[:at])), float(np.median(steps[at:]))
    return at if after > 0 and before < 0.3 * after else 0
