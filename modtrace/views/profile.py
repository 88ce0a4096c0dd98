"""The flat profile as text: WHERE THE TIME WENT."""

from __future__ import annotations

from typing import Final

from modtrace.analysis.flat_profile import WHOLE_RUN, FlatProfile, ProfileRow, Shown, hottest
from modtrace.text import fit, pad, plain
from modtrace.text import width as width_of
from modtrace.units import count, duration, percent, rounded
from modtrace.views.styled_lines import HEADING, HOT, WARM, Line

HOT_SHARE: Final = 25
WARM_SHARE: Final = 10
"""Percent of the time from which on a row is coloured."""


def profile_lines(profile: FlatProfile, *, width: int, limit: int, launches: bool = False) -> list[Line]:
    """The hottest rows and what all others are together; the column of self times adds up to the window.

    Args:
        profile: of one process.
        width: columns; below 80 without `output`, below 70 without `calls`.
        limit: rows at most, the heading and the last line not counted.
        launches: times are those of launching work on a device.
    """
    shown = hottest(profile, limit)
    layout = _Layout(profile, shown, width, launches)
    lines = [Line(layout.heading(), HEADING), *(layout.row(row) for row in shown.rows)]
    return [*lines, *layout.others(shown)]


class _Layout:
    """Columns of the table: name and class, self time (on the device where that is known), share, parts, calls."""

    def __init__(self, profile: FlatProfile, shown: Shown, width: int, launches: bool) -> None:
        self.profile, self.width, self.launches = profile, width, launches
        self.on_device = profile.on_device
        self.base_ns = (
            sum(row.device_ns or 0 for row in profile.rows) if self.on_device else profile.window.base_ns
        )
        self.has_backward = any(row.backward_ns for row in profile.rows)
        self.calls = width >= 70 and any(row.calls != profile.per for row in shown.rows)
        self.output = width >= 80
        used = 2 + 9 + 6 + (18 if self.has_backward else 0) + (7 if self.calls else 0)
        longest = max((width_of(_label_text(row)) for row in shown.rows), default=0)
        room = width - used - (15 if self.output else 0)
        titles = self._titles()
        self.name_columns = max(min(max(longest, len(titles[0])), room), 12)
        self._title = next((text for text in titles if len(text) <= self.name_columns), titles[-1])

    def _titles(self) -> list[str]:
        """Headings of the table, each with fewer columns."""
        if self.profile.window.text == WHOLE_RUN:
            return ["WHERE THE TIME WENT, the whole run", "WHOLE RUN"]
        if not self.profile.window.steps:
            return ["LAUNCH TIMES"] if self.launches else ["WHERE THE TIME WENT", "TIME"]
        if self.launches:
            return ["LAUNCH TIMES, a step", "LAUNCH TIMES"]
        return ["WHERE THE TIME WENT, a step", "TIME OF A STEP"]

    def heading(self) -> str:
        return self._line(
            self._title,
            "device" if self.on_device else "self",
            "%",
            "forward",
            "backward",
            "calls",
            "output",
        )

    def row(self, row: ProfileRow) -> Line:
        per = self.profile.per
        spent = row.device_ns if self.on_device else row.self_ns
        forward, backward = (
            "" if not value else duration(value // per) for value in (row.forward_ns, row.backward_ns)
        )
        share = percent(spent, self.base_ns) if spent is not None else "?"
        text = self._line(
            _label(row, self.name_columns),
            duration(None if spent is None else spent // per),
            share,
            forward,
            backward,
            _each(row.calls, per),
            plain(row.output),
        )
        hot = 100 * (spent or 0)
        tone = HOT if hot >= HOT_SHARE * self.base_ns else WARM if hot >= WARM_SHARE * self.base_ns else ""
        return Line(text, tone if self.base_ns else "")

    def others(self, shown: Shown) -> list[Line]:
        """The time of all further rows, of modtrace, and before the first call."""
        profile, per = self.profile, self.profile.per
        parts = []
        if shown.further:
            further = shown.further_device_ns if self.on_device else shown.further_ns
            parts.append(f"{shown.further} more {duration(further // per)}")
        if self.on_device:
            parts.append(_before_text(profile))
        else:
            parts += outside_texts(profile, per)
        lines = [""]
        for part in parts:
            if lines[-1] and len(lines[-1]) + len(part) + 3 > self.width:
                lines.append("")
            lines[-1] += ("   " if lines[-1] else "  ") + part
        return [Line(line) for line in lines]

    def _line(
        self, name: str, spent: str, share: str, forward: str, backward: str, calls: str, output: str
    ) -> str:
        line = f"  {pad(name, self.name_columns)} {spent:>8} {share:>5}"
        if self.has_backward:
            line += f" {forward:>8} {backward:>8}"
        if self.calls:
            line += f" {calls:>6}"
        return f"{line}  {output}" if self.output else line


def window_text(profile: FlatProfile) -> str:
    """The time that shares are of: `steps 1-4; the first left out   100% is 160 ms`."""
    base_ns = profile.window.base_ns
    return profile.window.text + (f"   100% is {duration(base_ns)}" if base_ns else "")


def outside_texts(profile: FlatProfile, per: int) -> list[str]:
    """The time of a window that no row has, divided by `per`, and the time before the first call."""
    parts = []
    for text, ns in (
        ("modtrace itself", profile.tracer_ns),
        ("around calls whose times are not known", profile.unknown_ns),
        ("steps that were left out", profile.left_out_ns),
        ("outside of calls", profile.outside_ns),
        ("counted twice, in parallel", -profile.parallel_ns),
    ):
        if ns:
            parts.append(f"{text} {duration(ns // per if ns > 0 else -(-ns // per))}")
    return [*parts, _before_text(profile)]


def _before_text(profile: FlatProfile) -> str:
    return f"before the first call {duration(profile.before_first_ns)} (imports, data, models)"


def _each(calls: int, per: int) -> str:
    """Calls of one step: a whole number where each step has as many."""
    return count(calls // per) if calls % per == 0 else rounded(calls, per, 1)


def _label_text(row: ProfileRow) -> str:
    label, class_name = plain(row.label), plain(row.type)
    return f"{label}  {class_name}" if class_name and class_name != row.name else label


def _label(row: ProfileRow, columns: int) -> str:
    """Name and class. Names of one model begin alike, so a long one keeps its end, and the class has what is left."""
    label = fit(plain(row.label), columns, keep_end=row.of_module)
    class_name = "" if row.type == row.name else plain(row.type)
    room = columns - width_of(label) - 2
    return f"{label}  {fit(class_name, room)}" if class_name and room >= 5 else label
