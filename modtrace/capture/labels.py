"""Names of what is no module: phases, spans, functions. Each is one row of the table `labels`."""

from __future__ import annotations

import threading
from typing import Any, Final

from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

MANY: Final = 10_000
"""Distinct labels of one trace; what comes later shares a label named `...`."""


class Labels:
    """The labels of one trace."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._rows: list[tuple[int, str, str]] = []
        self._lock = threading.Lock()

    def number(self, name: str, kind: str = "", identity: int = 0) -> int:
        """The number of a label.

        Args:
            name: what it is called.
            kind: the class that it belongs to.
            identity: tells apart what has the same name and class, such as two optimizers.
        """
        key: tuple[str, str, int] = (name, kind, identity)
        known = self._numbers.get(key)
        if known is not None:
            return known
        with self._lock:
            if len(self._numbers) >= MANY:
                name, kind = "...", ""
                key = (name, kind, 0)
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers)
                self._rows.append((self._numbers[key], plain(name, TEXT_LIMIT), plain(kind, TEXT_LIMIT)))
            return self._numbers[key]

    def rows(self) -> dict[str, list[Any]]:
        """Columns of the labels that are new since the last call."""
        with self._lock:
            rows, self._rows = self._rows, []
        return {name: [row[at] for row in rows] for at, name in enumerate(("label", "name", "type"))}
