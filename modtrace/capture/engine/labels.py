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
        self._rows: list[tuple[Any, ...]] = []
        self._lock = threading.Lock()

    def number(self, name: str, cls: str = "", identity: int = 0) -> int:
        """The number of a label.

        Args:
            name: what it is called.
            cls: the class that it belongs to.
            identity: tells apart what has the same name and class, such as two optimizers.
        """
        return self._number((name, cls, identity), (None, None, None))

    def place(self, name: str, file: str | None, line: int | None, offset: int | None, cls: str = "") -> int:
        """The number of the label of a function in a place of the code; calls on one line differ in their offset."""
        place = (file, line, offset)
        return self._number((name, cls, place), place)

    def name_of(self, number: int) -> str:
        """The name of a label; "" for a number that is none."""
        return next((key[0] for key, known in list(self._numbers.items()) if known == number), "")

    def _number(self, key: tuple[str, str, Any], place: tuple[Any, ...]) -> int:
        known = self._numbers.get(key)
        if known is not None:
            return known
        with self._lock:
            if len(self._numbers) >= MANY:
                key, place = ("...", "", 0), (None, None, None)
            if key not in self._numbers:
                number = self._numbers[key] = len(self._numbers)
                file, line, offset = place
                shown = plain(file, TEXT_LIMIT) if file is not None else None
                self._rows.append(
                    (number, plain(key[0], TEXT_LIMIT), plain(key[1], TEXT_LIMIT), shown, line, offset)
                )
            return self._numbers[key]

    def rows(self) -> dict[str, list[Any]]:
        """Columns of the labels that are new since the last call."""
        with self._lock:
            rows, self._rows = self._rows, []
        names = ("label", "name", "type", "source_file", "source_line", "source_offset")
        return {name: [row[number] for row in rows] for number, name in enumerate(names)}
