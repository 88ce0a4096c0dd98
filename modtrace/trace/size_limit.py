"""Sizes on disk as they are typed."""

from __future__ import annotations

import re
from typing import Final

from modtrace.errors import UsageError
from modtrace.text import plain

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size_bytes(text: str) -> int:
    """Bytes from a text such as `512MB` or `4GB` (powers of ten).

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise UsageError(f"{plain(text, 40)!r} is no size; write it like 512MB or 4GB")
    return int(match[1]) * _UNITS[match[2]]
