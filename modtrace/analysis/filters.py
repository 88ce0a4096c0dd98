"""Filters over the rows of tables: terms of the filter language -> the rows that they let through.

Expressions run in RE2, which takes time in proportion to the text whatever the expression is, so none can hang a
viewer. The page of a report does the same, in views/html/filter.js with the words of `grammar`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modtrace import filter_language
from modtrace.analysis.metrics import comparable
from modtrace.analysis.phases import NAMES as PHASES
from modtrace.errors import UsageError
from modtrace.filter_language import (
    COMPARE,
    EXAMPLES,
    MAX_LENGTH,
    PHASE_WORDS,
    UNITS,
    Filter,
    Term,
    Vocabulary,
    expression_of,
    glob,
    has_capital,
)
from modtrace.text import plain
from modtrace.units import VALUE

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Codes = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

TEXTS: Final = ("type", "path")
MEMBERS: Final = ("phase", "step", "rank")
_TAKES: Final = {
    "type": "a class, such as type:Linear", "path": "a name, such as path:h.*.mlp", "phase": ", ".join(PHASES),
    "step": "a number", "rank": "a number",
}  # fmt: skip


@dataclass
class FilterRows:
    """Columns that a filter reads, an array element a row.

    path, type: keys into `paths` and `types`.
    numbers: key of a metric -> values and where they are known; asked for when a filter needs it, None for never known.
    member: ("phase" | "step" | "rank", key) -> which rows belong; None where there is no such thing.
    note: keys into `notes`, further texts in which words and expressions are looked for; None for none.
    headings: rows that stand above others and that no filter or search lets through; None for none.
    """

    path: Codes
    paths: list[str]
    type: Codes
    types: list[str]
    numbers: Callable[[str], tuple[Numbers, Bools] | None]
    member: Callable[[str, int], Bools] | None = None
    note: Codes | None = None
    notes: Sequence[str] = ()
    headings: Bools | None = None
    _texts: dict[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.path)

    def of_texts(self, which: str, test: Callable[[pa.Array], pa.Array]) -> Bools:
        """Rows whose path, type or note passes a test, which is made once for each distinct text."""
        codes, texts = {
            "path": (self.path, self.paths), "type": (self.type, self.types), "note": (self.note, self.notes),
        }[which]  # fmt: skip
        if codes is None:
            return np.zeros(len(self), np.bool_)
        if which not in self._texts:
            self._texts[which] = pa.array([plain(text) for text in texts], pa.string())
        passed = np.asarray(test(self._texts[which]).to_numpy(zero_copy_only=False), np.bool_)
        matches: Bools = np.append(passed, False)[codes]
        return matches

    @property
    def candidates(self) -> Bools:
        """Mask of the rows that can be let through: all but headings."""
        return np.ones(len(self), np.bool_) if self.headings is None else ~self.headings


def grammar() -> dict[str, Any]:
    """The words of the language, for a reader of it in another language."""
    return {
        "maxLength": MAX_LENGTH,
        "metrics": _metric_units(),
        "units": UNITS,
        "value": VALUE,
        "examples": EXAMPLES,
        "texts": TEXTS,
        "members": MEMBERS,
        "phases": PHASES,
        "phaseWords": PHASE_WORDS,
        "meant": list(_meant().items()),
    }


def _metric_units() -> dict[str, str]:
    """Unit of each metric that rows are compared by."""
    return {metric.key: metric.unit for metric in comparable()}


def _meant() -> dict[str, str]:
    """Names that a person may type for a metric -> its key: the key, the head of its column, the name of its column."""
    meant = {metric.key: metric.key for metric in comparable()}
    for metric in comparable():
        for text in (metric.title, metric.name):
            meant.setdefault(text.lower(), metric.key)
    return meant


def parse(text: str) -> Filter:
    """Read a filter over rows.

    Raises:
        UsageError: it cannot be read; the message says which term, what is allowed and what may have been meant.
    """
    return filter_language.parse(
        text, Vocabulary(_metric_units(), _meant(), TEXTS, MEMBERS, PHASES, _TAKES, _check_regex)
    )


def _check_regex(text: str) -> None:
    try:
        pc.match_substring_regex(pa.array([""]), expression_of(text))
    except pa.ArrowInvalid as error:
        problem = plain(str(error).removeprefix("Invalid regular expression: "), 80)
        raise UsageError(f"/{plain(text, 40)}/ is no expression: {problem}") from None


def mask(wanted: Filter, rows: FilterRows) -> Bools:
    """Mask of the rows that a filter lets through, shape (rows,). A row of which a number is not known passes no
    comparison, negated or not.
    """
    passing = rows.candidates
    for term in wanted.terms:
        passing &= _holds(term, rows)
    return passing


def matching(text: str, rows: FilterRows) -> Bools:
    """Rows that a search finds: those with every word in path, type or note, or `/an expression/`.

    Raises:
        UsageError: the expression cannot be read.
    """
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        _check_regex(text[1:-1])
        return rows.candidates & _holds(Term("regex", text[1:-1]), rows)
    passing = rows.candidates & bool(text.strip())
    for word in text.split():
        passing &= _holds(Term("word", word), rows)
    return passing


def _holds(term: Term, rows: FilterRows) -> Bools:
    if term.compare:
        numbers = rows.numbers(term.key)
        if numbers is None:
            return np.zeros(len(rows), np.bool_)
        values, known = numbers
        passed: Bools = known & (COMPARE[term.compare](values, term.amount) != term.negated)
        return passed
    if term.key in MEMBERS:
        inside = rows.member(term.key, int(term.amount)) if rows.member is not None else None
        holds = np.zeros(len(rows), np.bool_) if inside is None else inside
    else:
        holds = _by_text(term, rows)
    return ~holds if term.negated else holds


def _by_text(term: Term, rows: FilterRows) -> Bools:
    if term.key == "path":
        return rows.of_texts("path", lambda texts: pc.match_substring_regex(texts, glob(term.text)))
    if term.key == "type":
        return rows.of_texts("type", lambda texts: pc.match_substring_regex(texts, glob(term.text)))

    def test(texts: pa.Array) -> pa.Array:
        if term.key == "regex":
            return pc.match_substring_regex(texts, expression_of(term.text))
        return pc.match_substring(texts, term.text, ignore_case=not has_capital(term.text))

    return rows.of_texts("path", test) | rows.of_texts("type", test) | rows.of_texts("note", test)
