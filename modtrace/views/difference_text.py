"""A comparison as text: environment, structure, numbers, time, and the change of the step line by line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from modtrace.analysis.comparing.change_lines import ChangeLine
from modtrace.analysis.comparing.comparison import Comparison
from modtrace.analysis.comparing.gate import CANNOT_TELL, EXCEEDED, FINE, LimitResult, Measured
from modtrace.analysis.comparing.plain_changes import NumberChange, StructureChange
from modtrace.analysis.comparing.run_numbers import BACKWARD, DEVICE, FORWARD, STEP
from modtrace.analysis.comparing.time_changes import FASTER, SLOWER, UNCHANGED, TimeChange
from modtrace.text import fit, pad, plain
from modtrace.text import width as width_of
from modtrace.units import duration, in_unit, plural
from modtrace.views.styled_lines import HEADING, HOT, WARM, Line

SHOWN: Final = 8
"""Rows of a section; how many more there are is said."""
LINES: Final = 12
_TONES: Final = {SLOWER: HOT, FASTER: WARM}
STATUS_WORDS: Final = {FINE: "ok", EXCEEDED: "EXCEEDED", CANNOT_TELL: "unknown"}
"""Status of a limit -> the word for it."""


def difference_lines(
    comparison: Comparison,
    names: tuple[str, str],
    *,
    width: int,
    limits: Sequence[LimitResult] = (),
    every: bool = False,
) -> list[Line]:
    """All that differs, the answer first.

    Args:
        comparison: of what.
        names: of the sides.
        width: columns.
        limits: those that were held against it.
        every: all rows of each section.
    """
    most = 1 << 30 if every else SHOWN
    lines = [Line(text, HEADING) for text in _head(comparison, names, width)]
    lines += [Line(f"  ! {plain(note)}", "warning") for note in comparison.notes]
    lines += [Line(text) for text in _answer(comparison)]
    for section in (
        _environment(comparison, most),
        _structure(comparison, most),
        _numbers(comparison, most),
        _times(comparison, width, most),
        _step_lines(comparison, width, 1 << 30 if every else LINES),
        limit_lines(limits),
    ):
        lines += [Line(""), *section] if section else []
    return lines


def _head(comparison: Comparison, names: tuple[str, str], width: int) -> list[str]:
    runs = comparison.runs
    counted = "one run a side" if runs == (1, 1) else f"{plural(runs[0], 'run')} against {runs[1]}"
    baseline, candidate = (plain(name) for name in names)
    head = f"modtrace diff  {baseline} -> {candidate}   {counted}"
    if width_of(head) <= width:
        return [head]
    return [f"modtrace diff   {counted}", f"  baseline   {baseline}", f"  candidate  {candidate}"]


def _answer(comparison: Comparison) -> list[str]:
    """The change of the step in a sentence."""
    step = comparison.steps[STEP]
    if step.baseline_ns is None or step.candidate_ns is None:
        return ["  the time of a step is not known in each run"]
    times = f"  step  {duration(step.baseline_ns)} -> {duration(step.candidate_ns)}  {ratio_text(step.ratio)}"
    told = step.verdict if not step.reason else f"{step.verdict}: {step.reason}"
    return [f"{times}  {told}"]


def ratio_text(ratio: float | None) -> str:
    """A ratio as the change that it is: `+10.4%`, `-3.0%`, `x12.5`."""
    if ratio is None:
        return "?"
    if ratio >= 10:
        return f"x{ratio:.3g}"
    change = 100 * (ratio - 1)
    return f"{change:+.1f}%" if abs(change) >= 0.05 else "0.0%"


def interval_text(time: TimeChange) -> str:
    """The interval that a ratio is in: `+9.1% .. +12.0%`; "" where there is none."""
    if time.low is None or time.high is None:
        return ""
    return f"{ratio_text(time.low)} .. {ratio_text(time.high)}"


def signed(change_ns: int | None) -> str:
    """A difference of times with its sign."""
    if change_ns is None:
        return "?"
    return duration(change_ns) if change_ns < 0 else f"+{duration(change_ns)}"


def _more(rows: Sequence[object], most: int) -> list[Line]:
    hidden = len(rows) - most
    return [Line(f"  and {hidden} more: --all")] if hidden > 0 else []


def _table(rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of cells in columns as wide as they need; the last is not padded."""
    listed, of_right = [list(row) for row in rows], set(right)
    wide = (
        [max(width_of(row[column]) for row in listed) for column in range(len(listed[0]))] if listed else []
    )
    lines = []
    for row in listed:
        cells = [
            pad(text, wide[column], right=column in of_right)
            if column in of_right or column < len(row) - 1
            else text
            for column, text in enumerate(row)
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _environment(comparison: Comparison, most: int) -> list[Line]:
    changes = comparison.environment
    if not changes:
        return [Line("  ENVIRONMENT  the same", HEADING)]
    rows = [("ENVIRONMENT", "baseline", "candidate")]
    rows += [
        (change.name, fit(plain(change.baseline), 40), fit(plain(change.candidate), 40))
        for change in changes[:most]
    ]
    return [*_headed(_table(rows)), *_more(changes, most)]


def _headed(lines: Sequence[str]) -> list[Line]:
    return [Line(lines[0], HEADING), *(Line(text) for text in lines[1:])]


def _structure(comparison: Comparison, most: int) -> list[Line]:
    changes = comparison.structure
    if not changes:
        return [Line("  STRUCTURE  the same", HEADING)]
    rows = [structure_cells(change) for change in changes[:most]]
    return [Line("  STRUCTURE", HEADING), *(Line(text) for text in _table(rows)), *_more(changes, most)]


def structure_cells(change: StructureChange) -> tuple[str, str, str]:
    """A change of the structure as (what, which module, how)."""
    name, kind = plain(change.name), plain(change.type)
    label = name if kind == name else f"{name}  {kind}"
    if change.what in ("added", "removed"):
        return change.what, label, plural(change.modules, "module") if change.modules > 1 else ""
    times = f" x{change.modules}" if change.modules > 1 else ""
    if change.what in ("renamed", "moved", "mapped"):
        told = f"{100 * change.confidence:.0f}% sure" if change.what != "mapped" else "as --map says"
        return change.what, f"{plain(change.baseline)} -> {label}{times}", told
    if change.what == "wrapped":
        texts = [plain(text) or "nothing" for text in (change.baseline, change.candidate)]
        return change.what, f"{label}{times}", f"in {texts[0]} -> in {texts[1]}"
    return (
        change.what,
        f"{label}{times}",
        f"{plain(change.baseline) or 'none'} -> {plain(change.candidate) or 'none'}",
    )


def _numbers(comparison: Comparison, most: int) -> list[Line]:
    changes = comparison.numbers
    if not changes:
        return [Line("  NUMBERS  the same", HEADING)]
    rows = [("NUMBERS", "baseline", "candidate", "change")]
    rows += [number_cells(change) for change in changes[:most]]
    return [*_headed(_table(rows, (1, 2, 3))), *_more(changes, most)]


def number_cells(change: NumberChange) -> tuple[str, str, str, str]:
    """A number that changed as (which, baseline, candidate, change)."""
    facts, times = change.facts, f" x{change.modules}" if change.modules > 1 else ""
    label = f"{plain(change.name)}{times} {facts.title}" if change.name else facts.title
    texts = [_range_text(part, facts.unit) for part in (change.baseline, change.candidate)]
    ratio = None
    if change.baseline is not None and change.candidate is not None and change.baseline[0] > 0:
        ratio = change.candidate[0] / change.baseline[0]
    return label, texts[0], texts[1], ratio_text(ratio) if ratio is not None else ""


def _range_text(part: tuple[int, int] | None, unit: str) -> str:
    if part is None:
        return "?"
    least, most = (in_unit(number, unit) for number in part)
    return least if part[0] == part[1] else f"{least} to {most}"


def time_cells(name: str, time: TimeChange) -> tuple[str, ...]:
    """A time as (name, baseline, candidate, change, interval, verdict)."""
    told = time.verdict
    return (
        name,
        duration(time.baseline_ns),
        duration(time.candidate_ns),
        ratio_text(time.ratio),
        interval_text(time),
        told,
    )


def _times(comparison: Comparison, width: int, most: int) -> list[Line]:
    """The step and its phases, then the modules whose forward, backward or time on a device has changed."""
    heads = (
        "TIME a step",
        "baseline",
        "candidate",
        "change",
        "interval" if comparison.enough_runs else "",
        "",
    )
    rows: list[tuple[str, ...]] = [heads]
    rows += [
        time_cells(name if name == STEP else f"  {name}", time) for name, time in comparison.steps.items()
    ]
    modules = [
        (module, kind, time)
        for module in comparison.modules
        for kind in (FORWARD, BACKWARD, DEVICE)
        if (time := module.times[kind]).changed
    ]
    modules.sort(key=lambda entry: -abs(entry[2].change_ns or 0))
    room = max(width - 62, 16)
    rows += [
        time_cells(f"{fit(plain(module.name), room - len(kind) - 1, keep_end=True)} {kind}", time)
        for module, kind, time in modules[:most]
    ]
    tones = ["", *(_TONES.get(time.verdict, "") for time in comparison.steps.values())]
    tones += [_TONES.get(time.verdict, "") for _, _, time in modules[:most]]
    lines = _table(rows, (1, 2, 3))
    marked = [
        Line(lines[0], HEADING),
        *(Line(text, tone) for text, tone in zip(lines[1:], tones[1:], strict=True)),
    ]
    return [*marked, *_more(modules, most), *(Line(f"  {text}") for text in _told(comparison))]


def _told(comparison: Comparison) -> list[str]:
    """Lines under the times: the evidence for verdicts, and how many there are of each."""
    timed = [
        module.times[FORWARD]
        for module in comparison.modules
        if module.times[FORWARD].baseline_ns is not None
    ]
    if not comparison.enough_runs:
        runs = "one run a side" if comparison.runs == (1, 1) else "few runs"
        return [
            f"{runs}: only what is beyond every step of both sides is called a change",
            "5 runs a side tell more: modtrace compare, or diff base* --against new*",
        ]
    counts = {word: sum(time.verdict == word for time in timed) for word in (SLOWER, FASTER, UNCHANGED)}
    unknown = len(timed) - sum(counts.values())
    band = f"{100 * comparison.noise:g}%"
    parts = [f"{number} {word}" for word, number in counts.items() if number]
    parts += [f"{unknown} cannot be told from noise"] if unknown else []
    return (
        [f"forward of {plural(len(timed), 'module')}: {', '.join(parts)}; below {band} is no change"]
        if timed
        else []
    )


def _step_lines(comparison: Comparison, width: int, most: int) -> list[Line]:
    change = comparison.step_change
    if change is None:
        return []
    rows: list[tuple[str, ...]] = [("WHAT CHANGED, a step", "change", "it took", "takes", "")]
    room = max(width - 50, 20)
    shown, hidden = change.lines[:most], change.lines[most:]
    rows += [_line_cells(line, room) for line in shown]
    others = change.other_ns + sum(line.change_ns for line in hidden)
    if change.unmatched_ns:
        rows.append(("modules of one side alone", signed(change.unmatched_ns), "", "", ""))
    rows.append(("all else", signed(others), "", "", "" if change.lines else _nothing(comparison)))
    step = comparison.steps[STEP]
    rows.append(
        ("the step", signed(change.change_ns), duration(step.baseline_ns), duration(step.candidate_ns), "")
    )
    lines = _table(rows, (1, 2, 3))
    tones = ["", *(_TONES[line.time.verdict] for line in shown)]
    return [
        Line(lines[0], HEADING),
        *(Line(text, tones[place] if place < len(tones) else "") for place, text in enumerate(lines[1:], 1)),
    ]


def _nothing(comparison: Comparison) -> str:
    return "nothing stands out" if comparison.enough_runs else "nothing stands out of the noise of the steps"


def line_label(line: ChangeLine) -> str:
    """The name of a line with its class, or with `forward` or `backward` where it is of that alone."""
    name = plain(line.name) + (f" x{line.modules}" if line.modules > 1 else "")
    kind = f"  {plain(line.type)}" if line.type and line.type != line.name else ""
    kind = f" {line.part}" if line.part else kind
    return f"{name}{kind}{', the rest of it' if line.rest else ''}"


def _line_cells(line: ChangeLine, room: int) -> tuple[str, ...]:
    time = line.time
    each = " each" if line.modules > 1 else ""
    return (
        fit(line_label(line), room, keep_end=bool(line.part)),
        signed(line.change_ns),
        duration(time.baseline_ns),
        duration(time.candidate_ns),
        f"{ratio_text(time.ratio)}{each}  {time.verdict}",
    )


# limits -------------------------------------------------------------------------------------------------------------


def limit_lines(results: Sequence[LimitResult]) -> list[Line]:
    """A line a limit, and the modules that exceed it or of which it cannot be told."""
    if not results:
        return []
    lines = [Line("  LIMITS", HEADING)]
    for result in results:
        tone = {EXCEEDED: HOT, CANNOT_TELL: WARM}.get(result.status, "")
        text = f"  {STATUS_WORDS[result.status]:8} {plain(result.limit.text)}"
        if not result.limit.of_module:
            lines.append(Line(f"{text}   {measured_text(result.measured[0])}", tone))
            continue
        lines.append(Line(f"{text}   {plural(len(result.measured), 'module')}", tone))
        worst = (
            [one for one in result.measured if one.status == result.status] if result.status != FINE else []
        )
        lines += [
            Line(f"             {plain(one.name)}  {measured_text(one)}", tone) for one in worst[:SHOWN]
        ]
        hidden = len(worst) - SHOWN
        lines += [Line(f"             and {hidden} more")] if hidden > 0 else []
    return lines


def measured_text(one: Measured) -> str:
    """Text of a number that a limit is about."""
    parts = []
    if one.baseline is not None and one.candidate is not None:
        parts.append(f"{in_unit(round(one.baseline), one.unit)} -> {in_unit(round(one.candidate), one.unit)}")
        ratio = (
            one.time.ratio if one.time is not None else one.candidate / one.baseline if one.baseline else None
        )
        parts.append(ratio_text(ratio) if ratio is not None else "")
        interval = interval_text(one.time) if one.time is not None else ""
        parts.append(f"({interval})" if interval else "")
    elif one.candidate is not None:
        parts.append(in_unit(round(one.candidate), one.unit))
    parts.append(one.reason)
    return "  ".join(part for part in parts if part)
