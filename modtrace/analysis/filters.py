"""The filter language: `attn type:Linear self>5ms -/ln_[12]/`. Text -> terms -> which rows.

Terms are separated by spaces and all must hold; one with `-` in front must not. Expressions run in RE2, which takes
time in proportion to the text whatever the expression is, so none can hang a viewer.

The page of a report reads the same language, in views/html/filter.js with the words of `grammar`.
tests/views/filter_cases.json holds what both must do.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.analysis.metrics import comparable
from modtrace.analysis.phases import NAMES as PHASES
from modtrace.errors import UsageError
from modtrace.text import plain

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

MAX_LENGTH: Final = 500
_TIME: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_BYTES: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 10**3, "m": 10**6, "g": 10**9,
}  # fmt: skip
_COUNT: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_FLOP: Final = _COUNT | {
    f"{prefix}flop": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t", "p"))
}
UNITS: Final[dict[str, Mapping[str, int]]] = {"ns": _TIME, "bytes": _BYTES, "FLOP": _FLOP, "": _COUNT}
"""Unit of a metric -> the units it can be compared in, in small letters; "" is a number without one."""
EXAMPLES: Final = {"ns": "5ms", "bytes": "1MB", "FLOP": "1G", "": "100"}
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq,
}  # fmt: skip
_TERM: Final = re.compile(
    r"(-?)(?:/((?:[^/\\]|\\.)*)/(?![^ \t\r\n])"
    r'|"([^"]*)"?'
    r'|([A-Za-z_][A-Za-z0-9_]*):(?!:)(?:"([^"]*)"?|([^ \t\r\n]*))'
    r"|([A-Za-z_][A-Za-z0-9_]*)[ \t\r\n]*(>=|=>|==|!=|<=|=<|<>|>|<|=)[ \t\r\n]*([^ \t\r\n]*)"
    r"|([^ \t\r\n]+))"
)
"""Minus; an expression; a text in quotes; a key and its text; a metric, comparison and number; a word."""
_NO_METRIC: Final = re.compile(r"(?:>=|<=|>|<|=)(?:[0-9]|\Z)")
_AMOUNT: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([A-Za-z]{0,5})\Z")
_SPACES: Final = " \t\r\n"
TEXTS: Final = ("type", "path")
MEMBERS: Final = ("phase", "step", "rank")
PHASE_WORDS: Final = {
    "bwd": "backward", "fwd": "forward", "opt": "optimizer", "optim": "optimizer", "zero": "zero_grad",
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """One condition. `key` is word, regex, one of TEXTS or MEMBERS, or with `compare` the key of a metric."""

    key: str
    text: str
    negated: bool = False
    compare: str = ""
    amount: float = 0.0


@dataclass(frozen=True)
class Filter:
    """Conditions that must all hold; none is true of everything."""

    terms: tuple[Term, ...]

    def __bool__(self) -> bool:
        return bool(self.terms)


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
    numbers: Callable[[str], tuple[Ints, Bools] | None]
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


def nearest(word: str, options: Sequence[str]) -> str | None:
    """The option that a mistyped word most likely stands for: one that it begins or that begins it, else one that is
    at most two edits away (one for less than 4 letters), the nearest first; None where there is none.
    """
    word = word.lower()
    for option in options:
        if word and (option.startswith(word) or (len(option) > 2 and word.startswith(option))):
            return option
    distances = [_distance(word, option) for option in options]
    least = min(distances, default=9)
    return options[distances.index(least)] if least < len(word) and least <= 1 + (len(word) > 3) else None


def _distance(first: str, second: str) -> int:
    """Number of letters that must be put in, taken out, changed or exchanged with their neighbour."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for index, letter in enumerate(first):
        above, row, last = row, [index + 1], before
        before = above
        for place, other in enumerate(second):
            cost = min(above[place] + (letter != other), above[place + 1] + 1, row[place] + 1)
            if index and place and letter == second[place - 1] and other == first[index - 1]:
                cost = min(cost, last[place - 1] + 1)
            row.append(cost)
    return row[-1]


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
        UsageError: it cannot be read; the message says which term, what is allowed and what may have been meant.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"a filter has at most {MAX_LENGTH} characters")
    terms, place = [], 0
    while place < len(text):
        match = None if text[place] in _SPACES else _TERM.match(text, place)
        place = place + 1 if match is None else match.end()
        if match is not None and match[0] != "-":
            terms.append(_term(match))
    return Filter(tuple(terms))


def _term(match: re.Match[str]) -> Term:
    minus, expression, quoted, key, in_quotes, value, metric, compare, amount, word = match.groups()
    negated = minus == "-"
    if expression is not None:
        return _checked(Term("regex", expression, negated))
    if quoted is not None:
        return Term("word", quoted, negated)
    if key is not None:
        return _keyed(key, value, in_quotes, negated)
    if metric is not None:
        return _compared(metric, compare, amount, negated)
    if _NO_METRIC.match(word):
        raise UsageError(
            f"{_short(word)} has no number in front of it; there are {', '.join(_metric_units())}"
        )
    return Term("word", word, negated)


def _keyed(key: str, value: str | None, in_quotes: str | None, negated: bool) -> Term:
    """`type:Linear`, `phase:backward`, `step:3`."""
    units = _metric_units()
    text = (value if in_quotes is None else in_quotes) or ""
    if key in units:
        raise UsageError(f"{key} is a number: did you mean {key}>{EXAMPLES[units[key]]}?")
    if key not in TEXTS and key not in MEMBERS:
        near = nearest(key, (*TEXTS, *MEMBERS))
        meant = (
            f"did you mean {near}:{_short(text)}?" if near else f"there are {_keys()}, and texts in quotes"
        )
        raise UsageError(f"{key}: is not known: {meant}")
    if not text and in_quotes is None:
        raise UsageError(f"{key}: takes {_TAKES[key]}")
    if key in TEXTS:
        return Term(key, text, negated)
    if key == "phase":
        name = PHASE_WORDS.get(text, text)
        if name not in PHASES:
            near = nearest(text, (*PHASES, *PHASE_WORDS))
            meant = f": did you mean phase:{near}?" if near else ""
            raise UsageError(f"phase: takes {', '.join(PHASES)}, not '{_short(text)}'{meant}")
        return Term(key, name, negated, amount=PHASES.index(name))
    if re.fullmatch("[0-9]{1,15}", text) is None:
        raise UsageError(f"{key}: takes a number, not '{_short(text)}'")
    return Term(key, text, negated, amount=int(text))


_TAKES: Final = {
    "type": "a class, such as type:Linear", "path": "a name, such as path:h.*.mlp", "phase": ", ".join(PHASES),
    "step": "a number", "rank": "a number",
}  # fmt: skip


def _keys() -> str:
    return ", ".join(f"{key}:" for key in (*TEXTS, *MEMBERS))


def _compared(metric: str, compare: str, amount: str, negated: bool) -> Term:
    """`self>5ms`."""
    if metric in TEXTS or metric in MEMBERS:
        raise UsageError(f"{metric} takes a colon: did you mean {metric}:{_short(amount) or '...'}?")
    units = _metric_units()
    if metric not in units:
        meant = _meant()
        near = nearest(metric, list(meant))
        known = f"there are {', '.join(units)}"
        asked = f"did you mean {meant[near]}{compare}{_short(amount)}?" if near else known
        raise UsageError(f"{_short(metric)} is no number that is known: {asked}")
    if compare not in _COMPARE:
        raise UsageError(
            f"{compare} is no comparison: there are {', '.join(_COMPARE)}, and - in front for not"
        )
    return Term(
        metric,
        f"{metric}{compare}{amount}",
        negated,
        compare,
        _amount(metric, compare, amount, units[metric]),
    )


def _amount(metric: str, compare: str, text: str, unit: str) -> float:
    """The number that a metric is compared with, in the metric's own unit."""
    match, units = _AMOUNT.match(text), UNITS[unit]
    if match is None:
        raise UsageError(f"{metric} is compared with something like {EXAMPLES[unit]}, not '{_short(text)}'")
    digits, decimals = match[1], match[2] or ""
    number = match[1] + (f".{decimals}" if decimals else "")
    asked = match[3].lower()
    if not asked and "" not in units and int(digits + decimals):
        default = "ms" if unit == "ns" else "MB"
        raise UsageError(
            f"{metric}{compare}{number} has no unit: did you mean {metric}{compare}{number}{default}?"
        )
    if asked and asked not in units:
        near = nearest(asked, [name for name in units if name])
        meant = f": did you mean {metric}{compare}{number}{near}?" if near else ""
        raise UsageError(
            f"{metric} is compared with something like {EXAMPLES[unit]}, not '{_short(text)}'{meant}"
        )
    return float(int(digits + decimals) * units.get(asked, 1) / 10 ** len(decimals))


def _short(text: str) -> str:
    """A part of what was typed, as a message shows it."""
    return plain(text, 40)


def _checked(term: Term) -> Term:
    try:
        pc.match_substring_regex(pa.array([""]), _expression(term.text))
    except pa.ArrowInvalid as error:
        problem = plain(str(error).removeprefix("Invalid regular expression: "), 80)
        raise UsageError(f"/{plain(term.text, 40)}/ is no expression: {problem}") from None
    return term


def _expression(text: str) -> str:
    """Case counts only where the expression has a capital letter, as it does with words."""
    return text if _has_capital(text) else f"(?i){text}"


def _has_capital(text: str) -> bool:
    return any(char.isupper() for char in text)


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
        return rows.candidates & _holds(_checked(Term("regex", text[1:-1])), rows)
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
        passed: Bools = known & (_COMPARE[term.compare](values, term.amount) != term.negated)
        return passed
    if term.key in MEMBERS:
        inside = rows.member(term.key, int(term.amount)) if rows.member is not None else None
        holds = np.zeros(len(rows), np.bool_) if inside is None else inside
    else:
        holds = _by_text(term, rows)
    return ~holds if term.negated else holds


def _by_text(term: Term, rows: FilterRows) -> Bools:
    if term.key == "path":
        return rows.of_texts("path", lambda texts: pc.match_substring_regex(texts, _glob(term.text)))
    if term.key == "type":
        return rows.of_texts("type", lambda texts: pc.match_substring_regex(texts, _glob(term.text)))

    def test(texts: pa.Array) -> pa.Array:
        if term.key == "regex":
            return pc.match_substring_regex(texts, _expression(term.text))
        return pc.match_substring(texts, term.text, ignore_case=not _has_capital(term.text))

    return rows.of_texts("path", test) | rows.of_texts("type", test) | rows.of_texts("note", test)


def _glob(text: str) -> str:
    """`*` is any characters and `?` one; the whole text must match."""
    parts = {"*": ".*", "?": "."}
    body = "".join(parts.get(char, re.escape(char)) for char in text)
    return f"(?s)^{body}$" if _has_capital(text) else f"(?is)^{body}$"
