"""Numbers as people read them: at most three significant digits and a unit. Unknown is `?`."""

from __future__ import annotations


def duration(ns: int | None) -> str:
    """Nanoseconds: `312 ns`, `7.94 ms`, `38.1 s`, `2m14s`, `1h02m`."""
    if ns is None:
        return "?"
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 1000:
        return f"{ns} ns"
    for limit, unit, scale in ((10**6, "us", 10**3), (10**9, "ms", 10**6), (60 * 10**9, "s", 10**9)):
        if float(_three(ns / scale)) * scale < limit:
            return f"{_three(ns / scale)} {unit}"
    seconds = round(ns / 10**9)
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"


def _three(value: float) -> str:
    """Three significant digits, never an exponent: 7.94, 38.1, 312."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def count(number: int | None) -> str:
    """A count: exact below 100,000, else `124.4M`."""
    if number is None:
        return "?"
    if number < 100_000:
        return f"{number:,}"
    for scale, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= scale:
            return f"{number / scale:.1f}{unit}"
    return str(number)


def scaled(number: int | None, unit: str) -> str:
    """A number with a unit and its prefix: `38.7 GFLOP`, `4.92 TFLOP/s`."""
    if number is None:
        return "?"
    value = float(number)
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if not prefix else f"{_three(value)} {prefix}{unit}"
        value /= 1000
    return f"{_three(value)} E{unit}"


def size(held_bytes: int | None) -> str:
    """Bytes: `512 B`, `6.1 MiB`."""
    if held_bytes is None:
        return "?"
    value = float(held_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} TiB"


def percent(part: int, whole: int) -> str:
    """A share in percent: `28.4`, `0.1`; `<0.1` for what is there but small."""
    if whole <= 0:
        return "?"
    value = 100 * part / whole
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}"


def plural(number: int, noun: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def bounded(number: int | None, least: int | None, unit: str) -> str:
    """A number with a unit; where it is not known the least that it can be, as `>38.7 GFLOP`, if that says anything."""
    if number is not None or not least:
        return scaled(number, unit)
    return f">{scaled(least, unit)}"
