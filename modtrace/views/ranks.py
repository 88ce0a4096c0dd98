"""Ranks beside each other, as text: what went wrong first, then a line a rank, then modules over ranks."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from modtrace.analysis.ranks.heat_map import column_of, floor_ns
from modtrace.analysis.ranks.rank_faults import RankFaults, rank_faults
from modtrace.analysis.ranks.rank_numbers import RankNumbers
from modtrace.analysis.ranks.rank_report import LateRank, ModuleOverRanks, RankReport
from modtrace.analysis.ranks.rank_waits import CollectiveWait, LaunchedCollective, StandingRank
from modtrace.analysis.ranks.stragglers import INPUT_SLOW, MODULE_SLOW
from modtrace.text import and_more, fit, pad, plain
from modtrace.units import count, duration, plural, rounded, size
from modtrace.views.styled_lines import HEADING, Line, plain_lines

MANY_RANKS: Final = 16
"""So many have a line each; of more those with trouble, and the slowest."""
MANY_MODULES: Final = 10
SIGNS: Final = ".-+*#"
"""Of the levels of a heat map: as usual, and from 5, 10, 25 and 50 % more on."""
_MANY_IN_SUMMARY: Final = 2
_MANY_NAMED: Final = 6
_MANY_PLACES: Final = 3
_MANY_CUT: Final = 3
_MANY_CHARACTERS: Final = 140
_COLUMNS: Final[tuple[tuple[str, str, int], ...]] = (
    ("step", "step_ns", 7), ("data", "data_ns", 7), ("forward", "forward_ns", 8), ("backward", "backward_ns", 9),
    ("optim", "optimizer_ns", 7), ("other", "other_ns", 7), ("modules", "modules_ns", 8),
)  # fmt: skip
"""Title, key and width of each column."""
_WAIT: Final = ("wait", "wait_ns", 7)
"""Beside them where it is known, in place of `other` in a narrow terminal."""
_WIDE: Final = 92
WAITING_SHARE: Final = 0.05
"""Ranks whose waiting differs by this part of a step are not said to be held up by nobody."""


def ranks_lines(report: RankReport, width: int, limit: int = MANY_RANKS) -> list[Line]:
    """The lines of `modtrace ranks`: remarks first, then the ranks and the modules over them."""
    lines = [Line(_headline(report), HEADING), *plain_lines(f"  {text}" for text in _cut_short(report))]
    for remark in _wrong(report):
        lines += plain_lines(
            textwrap.wrap(f"! {plain(remark)}", max(width, 30), initial_indent="  ", subsequent_indent="    ")
        )
    if report.compared_steps and not report.late:
        lines += plain_lines(
            textwrap.wrap(_none_late(report), max(width, 30), initial_indent="  ", subsequent_indent="    ")
        )
    elif report.why_not and len(report.ranks) > 1:
        lines += plain_lines([f"  ranks are not compared: {plain(report.why_not)}"])
    lines += plain_lines(["", *_rank_table(report, width, limit)])
    table = _module_table(report, width)
    return lines + (plain_lines(["", *table]) if table else [])


def ranks_section(report: RankReport, width: int) -> list[str]:
    """A few lines for a summary: what is wrong with the ranks, or that nothing is; none for a single one."""
    if len(report.ranks) + len(report.missing) < 2:
        return []
    shown = [f"! {plain(remark)}" for remark in _wrong(report)]
    if not shown and report.compared_steps:
        shown = [_none_late(report)]
    room = max(width, 30)
    lines = [
        line
        for text in shown[:_MANY_IN_SUMMARY]
        for line in textwrap.wrap(text, room, initial_indent="  ", subsequent_indent="    ")
    ]
    further = len(shown) - _MANY_IN_SUMMARY
    return lines + ([f"  {count(further)} more: modtrace ranks"] if further > 0 else [])


def _none_late(report: RankReport) -> str:
    """The sentence where no module and no input of a rank is late: nobody waits, or somebody does all the same, for
    what is in neither of them.
    """
    steps = plural(report.compared_steps, "step")
    waiting = [rank for rank in report.last_starts if rank.wait_ns is not None]
    if len(waiting) > 1:
        longest, least = (pick(waiting, key=_waited_ns) for pick in (max, min))
        more_ns = _waited_ns(longest) - _waited_ns(least)
        usual_ns = max((rank.phases_ns["step_ns"] or 0 for rank in report.last_starts), default=0)
        if more_ns >= WAITING_SHARE * usual_ns > 0:
            return (
                f"rank {longest.rank} waits {duration(_waited_ns(longest))} a step for others in collectives, rank "
                f"{least.rank} {duration(_waited_ns(least))}; {_held_up(least, longest, more_ns)}, in {steps}"
            )
    return f"no rank is held up by another in {steps}"


def _waited_ns(rank: RankNumbers) -> int:
    return rank.wait_ns or 0


def _held_up(rank: RankNumbers, waiting: RankNumbers, wait_ns: int) -> str:
    """Where a rank spends the time in which another waits for it, as far as that is known."""
    own_ns, peer_ns = (one.phases_ns["other_ns"] for one in (rank, waiting))
    more_ns = (own_ns or 0) - (peer_ns or 0)
    if own_ns is not None and peer_ns is not None and 2 * more_ns >= wait_ns:
        return (
            f"rank {rank.rank} takes {duration(more_ns)} a step longer outside of data, forward, backward and "
            "optimizer"
        )
    return "no module and no wait for data says why"


def remarks(report: RankReport) -> list[str]:
    """Sentences about what is wrong, failures before delays; foreign names in them are not made plain yet."""
    return [*_cut_short(report), *_wrong(report)]


def _wrong(report: RankReport) -> list[str]:
    faults = rank_faults(report)
    stands = [*map(waits_text, faults.waits)] or _behind(faults)
    return [*_failures(faults, report), *stands, *map(_late, report.late)]


def _cut_short(report: RankReport) -> list[str]:
    """Recordings that ended before the program did."""
    cut = [rank for rank in report.ranks if rank.end.recorded]
    shown = [
        rank.end.recorded if len(report.ranks) == 1 else f"rank {rank.rank} {rank.end.recorded}"
        for rank in cut[:_MANY_CUT]
    ]
    return shown + ([f"{len(cut) - _MANY_CUT} more likewise"] if len(cut) > _MANY_CUT else [])


def _headline(report: RankReport) -> str:
    ranks = report.last_starts
    parts = [plural(len(ranks), "rank")]
    failed = sum(rank.end.failed for rank in ranks)
    running = sum(rank.end.running for rank in ranks)
    restarts = len(report.ranks) - len(ranks)
    roles = len(set(report.roles))
    parts += [f"{count(failed)} failed"] if failed else []
    parts += [f"{count(running)} running"] if running else []
    parts += [plural(restarts, "restart")] if restarts else []
    parts += [f"{count(roles)} roles"] if roles > 1 else []
    return f"modtrace ranks  {', '.join(parts)}"


def named(numbers: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-2 and 7`, without one twice."""
    ordered = sorted(set(numbers))
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    return f"rank{'s' if len(ordered) > 1 else ''} {and_more(texts, _MANY_NAMED)}"


def _failures(faults: RankFaults, report: RankReport) -> list[str]:
    lines = []
    first = faults.first
    if first is not None:
        others = [rank for rank in faults.noticed if rank is not first and rank.end.failed]
        why = _error(first) or ("killed" if first.end.place else first.end.state)
        after = f"; {named(rank.rank for rank in others)} failed because of it" if others else ""
        alone = len(report.ranks) + len(faults.missing) == 1
        lines.append(f"rank {first.rank} failed{'' if alone else ' first'}: {why}{_where(first)}{after}")
    killed = [rank for rank in faults.killed if rank is not first and not (first and rank.end.noticed)]
    if killed:
        verb = "was" if len(killed) == 1 else "were"
        lines.append(f"{named(rank.rank for rank in killed)} {verb} killed, or left no end")
    own = [
        rank
        for rank in report.last_starts
        if rank.end.error is not None and rank is not first and not rank.end.noticed
    ]
    for error in dict.fromkeys(rank.end.error or "" for rank in own):
        same = [rank for rank in own if rank.end.error == error]
        lines.append(f"{named(rank.rank for rank in same)} failed: {_error(same[0])}{_where(same[0])}")
    if first is None and any(rank.end.error for rank in faults.noticed):
        lines.append(
            f"{named(rank.rank for rank in faults.noticed)} failed because another was gone or late: "
            f"{_error(faults.noticed[0])}"
        )
    if faults.missing:
        world = max(rank.world_size or 0 for rank in report.ranks)
        verb = "has" if len(faults.missing) == 1 else "have"
        lines.append(f"{named(faults.missing)} of {count(world)} {verb} written nothing to this trace")
    unread = [rank for rank in report.ranks if rank.fault is not None]
    lines += [f"{rank.folder} cannot be read: {rank.fault}" for rank in unread]
    if faults.unequal is not None:
        fewest, most = faults.unequal
        short = [rank.rank for rank in report.last_starts if rank.steps == fewest]
        lines.append(f"{named(short)} ended after {plural(fewest, 'step')}, others after {count(most)}")
    return lines


def waits_text(wait: CollectiveWait) -> str:
    """Ranks that wait in a collective and for how long, those that are missing from it, and where these are."""
    first, waiting = wait.first, wait.waiting
    group = first.group.description if first.group.description not in ("", "undefined") else first.group.name
    title = f"{_collective(first)} (group {group})"
    places = and_more([*dict.fromkeys(_place(rank) for rank in waiting)], _MANY_PLACES)
    long = f"for at least {duration(first.waited_ns or 0)}"
    verb = "waits" if len(waiting) == 1 else "wait"
    who = f"{named(rank.rank for rank in waiting)} {verb}"
    if wait.others:
        texts = dict.fromkeys(_collective(one) for _, one in wait.others)
        others = [
            f"{named(rank.rank for rank, one in wait.others if _collective(one) == text)} in {text}"
            for text in texts
        ]
        return (
            f"ranks have called different collectives (group {group}): {who} in {_collective(first)}, "
            f"{and_more(others, _MANY_PLACES)}, {long}"
        )
    if not wait.missing:
        return f"all ranks have called {title}, and it has not ended: {who} in {places} {long}"
    missing = named(rank.rank for rank in wait.missing)
    are = "is" if len(wait.missing) == 1 else "are"
    parts = [f"{missing} {are} missing from {title}: {who} in {places} {long}"]
    parts += [_missing(rank, first.group.key) for rank in wait.missing[:_MANY_PLACES]]
    return "; ".join(parts)


def _collective(one: LaunchedCollective) -> str:
    """`all_reduce 41 of 4.0 MiB`."""
    return f"{one.operation} {count(one.sequence)}" + (
        f" of {size(one.input_bytes)}" if one.input_bytes else ""
    )


def _place(rank: StandingRank) -> str:
    return (rank.end.place if rank.end is not None else "") or "no module"


def _missing(rank: StandingRank, group: Hashable) -> str:
    """Where a rank is that others wait for, and how far it has come in their group."""
    end = rank.end
    if end is None:
        return f"rank {rank.rank} has written nothing"
    last = rank.collectives.last.get(group) if rank.collectives is not None else None
    came = (
        f"rank {rank.rank}'s last is {count(last.sequence)}"
        if last is not None
        else f"rank {rank.rank} has called none"
    )
    if not end.is_open:
        return f"{came}, it has {'failed' if end.failed else 'ended'}"
    step = f", at step {count(end.step)}" if end.step is not None else ""
    long = f", for at least {duration(end.open_ns)}" if end.open_ns else ""
    return f"{came}, it {'is' if end.running else 'was'} in {_place(rank)}{step}{long}"


def _where(rank: RankNumbers) -> str:
    """`, in layers.2, at step 7`; of one that was killed where it was when it last wrote."""
    place = f", in {rank.end.place}" if rank.end.place else ""
    if rank.end.step is None:
        return place
    last = "last written " if rank.end.left_no_end and not rank.end.stands else ""
    return f"{place}, {last}at step {count(rank.end.step)}"


def _error(rank: RankNumbers) -> str:
    return fit(plain(rank.end.error or ""), _MANY_CHARACTERS)


def _behind(faults: RankFaults) -> list[str]:
    if not faults.behind:
        return []
    behind = faults.behind
    stands = f"{named(rank.rank for rank in behind)} {'is' if len(behind) == 1 else 'are'} behind"
    text = stands + (_where(behind[0]) if len(behind) == 1 else _at_step(behind))
    if not faults.ahead:
        return [text]
    places = dict.fromkeys(rank.end.place or "no module" for rank in faults.ahead)
    who = named(rank.rank for rank in faults.ahead)
    verb = "is" if len(faults.ahead) == 1 else "are"
    longest = max(rank.end.open_ns or 0 for rank in faults.ahead)
    waited = f", for at least {duration(longest)}" if longest else ""
    return [f"{text}; {who} {verb} in {and_more([*places], 3)}{_at_step(faults.ahead)}{waited}"]


def _at_step(ranks: Sequence[RankNumbers]) -> str:
    steps = {rank.end.step for rank in ranks}
    step = steps.pop() if len(steps) == 1 else None
    return "" if step is None else f", at step {count(step)}"


def _late(late: LateRank) -> str:
    """`rank 3 is 18% slower in layers.7 backward since step 4,120: a step would take 6.1% less`."""
    verdict = late.verdict
    more = duration(int(verdict.excess_ns))
    faster = verdict.relative < 1
    if verdict.cause == INPUT_SLOW:
        text = f"rank {late.rank} waits {more} a step longer for data than its peers"
    else:
        what = (
            late.place.text if verdict.cause == MODULE_SLOW and late.place is not None else "all its modules"
        )
        amount = f"{percent(verdict.relative)} slower" if faster else f"{more} a step slower"
        text = f"rank {late.rank} is {amount} in {what}"
    since = f" since step {count(late.since_step)}" if late.since_step is not None else ""
    gain = percent(verdict.gain)
    return f"{text}{since}: a step would take {gain} less"


def percent(part: float) -> str:
    """A part of 1 in percent: `6.1%`, `18%`."""
    tenths = round(part * 1000)
    return f"{rounded(tenths, 10, 0 if tenths >= 100 else 1)}%"


def _rank_table(report: RankReport, width: int, limit: int) -> list[str]:
    ranks, shown = _shown(report, limit), _columns_of(report, width)
    state_width = max(width - 16 - sum(columns for _, _, columns in shown), 9)
    head = f"  {pad('RANK', 5)} {'steps':>6}" + "".join(f"{title:>{columns}}" for title, _, columns in shown)
    lines = [f"{head}  end"]
    for rank in ranks:
        name = f"{rank.rank}.{rank.attempt}" if rank.attempt else str(rank.rank)
        times = {**rank.phases_ns, _WAIT[1]: rank.wait_ns}
        cells = "".join(f"{_cell(times[key]):>{columns}}" for _, key, columns in shown)
        state = fit(plain(rank.end.state or "ended").removeprefix("still "), state_width)
        lines.append(f"  {pad(name, 5)} {count(rank.steps):>6}{cells}  {state}")
    if len(ranks) < len(report.ranks):
        lines.append(f"  {plural(len(report.ranks) - len(ranks), 'more rank')}: modtrace ranks --all")
    lines.append("  medians of steps; modules: their own time, without waiting for other ranks")
    if _WAIT in shown:
        lines.append("  wait: a collective that it had launched was not yet launched by all ranks")
    if report.from_sums:
        lines.append("  from sums that each rank wrote (--rollups): forward holds loss functions too")
    return lines


def _columns_of(report: RankReport, width: int) -> tuple[tuple[str, str, int], ...]:
    if len(report.ranks) < 2 or all(rank.wait_ns is None for rank in report.ranks):
        return _COLUMNS
    return (*(shown for shown in _COLUMNS if width >= _WIDE or shown[0] != "other"), _WAIT)


def _cell(ns: int | None) -> str:
    return duration(ns).replace(" ", "") if ns is not None else "?"


def _shown(report: RankReport, limit: int) -> list[RankNumbers]:
    """The ranks that have a line: all, or those with trouble, the slowest in modules and data, and the first."""
    if len(report.ranks) <= limit:
        return list(report.ranks)
    late = {late.rank for late in report.late}

    def order(rank: RankNumbers) -> tuple[bool, int]:
        own_ns = (rank.phases_ns["modules_ns"] or 0) + (rank.phases_ns["data_ns"] or 0)
        return not (rank.end.failed or rank.fault is not None or rank.rank in late), -own_ns

    chosen = {id(rank) for rank in sorted(report.ranks, key=order)[:limit]}
    return [rank for rank in report.ranks if id(rank) in chosen]


def _module_table(report: RankReport, width: int) -> list[str]:
    """Modules over the ranks that have them, those with the slowest rank first; the strip has a sign a rank."""
    several = [module for module in report.modules if module.ranks > 1]
    if not several:
        return []
    strip = min(len(report.last_starts), MANY_RANKS)
    name_width = max(width - 2 - 3 * 9 - 6 - 2 - strip, 20)
    roles = len({module.role for module in several})
    head = f"{'least':>9}{'median':>9}{'most':>9}{'rank':>6}"
    lines = [f"  {pad(fit('OWN TIME A STEP, OVER RANKS', name_width), name_width)}{head}"]
    for module in several[:MANY_MODULES]:
        name = fit(_module_name(module, roles > 1), name_width - 1, keep_end=True)
        lines.append(f"  {pad(name, name_width)}{_module_cells(module)}  {_strip(module, report, strip)}")
    if len(several) > MANY_MODULES:
        lines.append(f"  {count(len(several) - MANY_MODULES)} more: modtrace ranks --json")
    each = "a sign a rank" if len(report.last_starts) <= strip else "a sign several ranks, the most of them"
    lines.append(f"  {each}: . as usual, - + * # from 5, 10, 25 and 50% more on")
    return lines


def _module_name(module: ModuleOverRanks, with_role: bool) -> str:
    role = f" (role {module.role})" if with_role else ""
    return f"{plain(module.place.text)}{role}"


def _module_cells(module: ModuleOverRanks) -> str:
    times = (module.low_ns, module.median_ns, module.high_ns)
    return "".join(f"{duration(ns):>9}" for ns in times) + f"{module.high_rank:>6}"


def _strip(module: ModuleOverRanks, report: RankReport, length: int) -> str:
    """A sign a rank, or a stretch of ranks: how much longer than usual it takes, the most of the stretch."""
    levels = column_of(module, report.last_starts, floor_ns(report)).levels
    edges = [len(levels) * number // length for number in range(length + 1)]
    return "".join(SIGNS[max(levels[low:high])] for low, high in itertools.pairwise(edges))
