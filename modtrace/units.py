"""Numbers as people read them: at most three significant digits and a unit. Unknown is `?`.

Numbers are rounded once, half up, on their exact decimal value: in whole numbers, never in floating point. The page's
format.js does the same, digit by digit.
"""

from __future__ import annotations

import math
from typing import Final

_TIMES: Final = (("us", 10**3, 1000), ("ms", 10**6, 1000), ("s", 10**9, 60))
"""Unit of time, its nanoseconds, and the number of them from which the next unit is used."""
_SIZES: Final = (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40))
_COUNTS: Final = (("k", 10**3), ("M", 10**6), ("B", 10**9), ("T", 10**12))
VALUE: Final = "value"
"""Unit of what is in a tensor: a number of either sign with a fraction, NaN or infinite."""
_PREFIXES: Final = ("", "k", "M", "G", "T", "P", "E")


def rounded(number: int, scale: int, digits: int) -> str:
    """`number / scale` with so many digits behind the point, halves away from zero."""
    number, scale = int(number), int(scale)  # integers of NumPy overflow
    if number < 0:
        return f"-{rounded(-number, scale, digits)}"
    power = 10**digits
    units = (2 * number * power + scale) // (2 * scale)
    return f"{units // power}.{units % power:0{digits}}" if digits else str(units)


def _three(number: int, scale: int) -> str:
    """`number / scale`, not below zero, with three significant digits and never an exponent: 7.94, 38.1, 312."""
    number = int(number)
    if 1000 * number >= 99_950 * scale:
        return rounded(number, scale, 0)
    return rounded(number, scale, 1 if 1000 * number >= 9_995 * scale else 2)


def duration(ns: int | None) -> str:
    """Nanoseconds: `312 ns`, `7.94 ms`, `38.1 s`, `2m14s`, `1h02m`."""
    if ns is None:
        return "?"
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 1000:
        return f"{ns} ns"
    for unit, scale, limit in _TIMES:
        text = _three(ns, scale)
        if float(text) < limit:
            return f"{text} {unit}"
    seconds = int(rounded(ns, 10**9, 0))
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"


def count(number: int | None) -> str:
    """A count: exact below 100,000, else `124.4M`."""
    if number is None:
        return "?"
    if number < 100_000:
        return f"{number:,}"
    for unit, scale in _COUNTS:
        text = f"{rounded(number, scale, 1)}{unit}"
        if 20 * int(number) < 19_999 * scale:
            break
    return text


def scaled(number: int | None, unit: str) -> str:
    """A number with a unit and its prefix: `38.7 GFLOP`, `4.92 TFLOP/s`."""
    if number is None:
        return "?"
    number = int(number)
    if number < 1000:
        return f"{number} {unit}"
    power = 1
    while power < len(_PREFIXES) - 1 and 2 * number >= 1999 * 1000**power:
        power += 1
    return f"{_three(number, 1000**power)} {_PREFIXES[power]}{unit}"


def size(size_bytes: int | None) -> str:
    """Bytes: `512 B`, `6.1 MiB`."""
    if size_bytes is None:
        return "?"
    if size_bytes < 1024:
        return f"{size_bytes} B"
    for unit, scale in _SIZES:
        text = f"{_three(size_bytes, scale)} {unit}"
        if 2 * int(size_bytes) < 2047 * scale:
            break
    return text


def value(number: float | None) -> str:
    """An element of a tensor, or a norm: `0.125`, `-31`, `65504`, `6.1e5`, `1.2e-7`, `nan`, `-inf`."""
    if number is None:
        return "?"
    number = float(number)
    if number == 0 or not math.isfinite(number):
        return str(number) if number else "0"
    if number < 0:
        return f"-{value(-number)}"
    part, of = number.as_integer_ratio()
    power = int(f"{number:.16e}".rpartition("e")[2])
    digits = int(rounded(part * 10 ** max(2 - power, 0), of * 10 ** max(power - 2, 0), 0))
    if digits == 1000:
        power, digits = power + 1, 100
    if -3 <= power <= 1:
        return _short(rounded(digits, 10 ** (2 - power), 2 - power))
    whole = rounded(part, of, 0) if 2 <= power <= 5 else ""
    return whole if whole and len(whole) <= 5 else f"{_short(rounded(digits, 100, 2))}e{power}"


def _short(decimal: str) -> str:
    """A number with a point, without zeros at its end."""
    return decimal.rstrip("0").rstrip(".")


def percent(part: int, total: int) -> str:
    """A share in percent: `28.4`, `0.1`; `<0.1` for what is there but small."""
    if total <= 0:
        return "?"
    part, total = int(part), int(total)
    return "<0.1" if 0 < 2000 * part < total else rounded(100 * part, total, 1)


def plural(number: int, noun: str) -> str:
    """`1 call`, `2 calls`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def bounded(number: int | None, least: int | None, unit: str) -> str:
    """A number with a unit; where it is not known the least that it can be, as `>38.7 GFLOP`, if that says anything."""
    if number is not None or not least:
        return scaled(number, unit)
    return f">{scaled(least, unit)}"


def in_unit(number: float | None, unit: str, least: float | None = None) -> str:
    """A number by its unit: `ns`, `bytes`, VALUE, `FLOP` (where not known the least it can be), "" for a count."""
    if unit == VALUE:
        return value(number)
    whole = None if number is None else int(number)
    if unit == "ns":
        return duration(whole)
    if unit == "bytes":
        return size(whole)
    return bounded(whole, None if least is None else int(least), unit) if unit == "FLOP" else count(whole)
