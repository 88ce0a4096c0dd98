"""The filter language: `attn type:Linear self>5ms -/ln_[12]/`. Text -> terms -> which rows.

Terms are separated by spaces and all must hold; one with `-` in front must not. Expressions run in RE2, which takes
time in proportion to the text whatever the expression is, so none can hang a viewer.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modtrace.analysis.phases import NAMES as PHASES
from modtrace.errors import UsageError
from modtrace.text import plain

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

_MAX_LENGTH: Final = 500
_TIME: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_BYTES: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "k": 10**3, "m": 10**6, "g": 10**9,
}  # fmt: skip
_COUNT: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_UNITS: Final[dict[str, Mapping[str, int]]] = {
    "self": _TIME, "total": _TIME, "mem": _BYTES, "calls": _COUNT, "flops": _COUNT,
}  # fmt: skip
_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq,
}  # fmt: skip
_NUMBER: Final = re.compile(r"(self|total|mem|calls|flops)(>=|<=|>|<|=)(.*)\Z", re.DOTALL)
_AMOUNT: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)([a-zA-Z]{0,3})\Z")
_WORDS: Final = re.compile(r'-?/(?:[^/\\]|\\.)*/|-?(?:[a-z]+:)?"[^"]*"|\S+')
_PHASES: Final = {
    "bwd": "backward",
    "fwd": "forward",
    "opt": "optimizer",
    "optim": "optimizer",
    "zero": "zero_grad",
}
NUMBERS: Final = tuple(_UNITS)
"""What can be compared: times in ns, `mem` in bytes."""


@dataclass(frozen=True)
class Term:
    """One condition. `kind` is word, regex, type, path, phase, step, rank or one of NUMBERS."""

    kind: str
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
class Rows:
    """What a filter is asked about, an array element a row.

    path, type: keys into `paths` and `types`.
    numbers: name of NUMBERS -> values and where they are known; asked for when a filter needs it, None for never known.
    member: ("phase" | "step" | "rank", key) -> which rows belong; None where there is no such thing.
    """

    path: Codes
    paths: list[str]
    type: Codes
    types: list[str]
    numbers: Callable[[str], tuple[Ints, Bools] | None]
    member: Callable[[str, int], Bools] | None = None
    _texts: dict[str, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.path)

    def of_texts(self, which: str, test: Callable[[pa.Array], pa.Array]) -> Bools:
        """Rows whose path (or type) passes a test, which is made once for each distinct text."""
        if which not in self._texts:
            texts = [plain(text) for text in (self.paths if which == "path" else self.types)]
            self._texts[which] = pa.array(texts, pa.string())
        passed = np.asarray(test(self._texts[which]).to_numpy(zero_copy_only=False), np.bool_)
        codes = self.path if which == "path" else self.type
        found: Bools = np.append(passed, False)[codes]
        return found


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
        UsageError: it cannot be read; the message says which term and what is allowed.
    """
    if len(text) > _MAX_LENGTH:
        raise UsageError(f"a filter has at most {_MAX_LENGTH} characters")
    return Filter(tuple(_term(word) for word in _WORDS.findall(text) if word != "-"))


def _term(word: str) -> Term:
    negated = word.startswith("-")
    body = word[1:] if negated else word
    if len(body) > 1 and body.startswith("/") and body.endswith("/"):
        return _checked(Term("regex", body[1:-1], negated))
    number = _NUMBER.match(body)
    if number is not None:
        name, compare, amount = number.groups()
        return Term(name, body, negated, compare, _amount(name, amount))
    kind, colon, value = body.partition(":")
    value = value.strip('"')
    if colon and kind in ("type", "path"):
        return Term(kind, value, negated)
    if colon and kind == "phase":
        name = _PHASES.get(value, value)
        if name not in PHASES:
            raise UsageError(f"phase: takes {', '.join(PHASES)}, not {plain(value, 40)!r}")
        return Term(kind, name, negated, amount=PHASES.index(name))
    if colon and kind in ("step", "rank"):
        if not value.isascii() or not value.isdigit() or len(value) > 15:
            raise UsageError(f"{kind}: takes a number, not {plain(value, 40)!r}")
        return Term(kind, value, negated, amount=int(value))
    return Term("word", body.strip('"'), negated)


def _amount(name: str, text: str) -> float:
    found = _AMOUNT.match(text)
    units = _UNITS[name]
    if found is not None:
        unit = found[2].lower() or next(iter(units))
        if unit in units:
            return float(found[1]) * units[unit]
    example = {"mem": "1MB", "calls": "100", "flops": "1G"}.get(name, "5ms")
    raise UsageError(f"{name} is compared with something like {example}, not {plain(text, 40)!r}")


def _checked(term: Term) -> Term:
    try:
        pc.match_substring_regex(pa.array([""]), _expression(term.text))
    except pa.ArrowInvalid as error:
        said = plain(str(error).removeprefix("Invalid regular expression: "), 80)
        raise UsageError(f"/{plain(term.text, 40)}/ is no expression: {said}") from None
    return term


def _expression(text: str) -> str:
    """Case counts only where the expression has a capital letter, as it does with words."""
    return text if _has_capital(text) else f"(?i){text}"


def _has_capital(text: str) -> bool:
    return any(char.isupper() for char in text)


def mask(wanted: Filter, rows: Rows) -> Bools:
    """Which rows a filter lets through. A row of which a number is not known passes no comparison, negated or not."""
    found = np.ones(len(rows), np.bool_)
    for term in wanted.terms:
        found &= _holds(term, rows)
    return found


def matching(text: str, rows: Rows) -> Bools:
    """Rows that a search finds: those with every word in path or type, or `/an expression/`.

    Raises:
        UsageError: the expression cannot be read.
    """
    if len(text) > 1 and text.startswith("/") and text.endswith("/"):
        return _holds(_checked(Term("regex", text[1:-1])), rows)
    found = np.full(len(rows), bool(text.strip()))
    for word in text.split():
        found &= _holds(Term("word", word), rows)
    return found


def _holds(term: Term, rows: Rows) -> Bools:
    if term.kind in _UNITS:
        numbers = rows.numbers(term.kind)
        if numbers is None:
            return np.zeros(len(rows), np.bool_)
        values, known = numbers
        passed: Bools = known & (_COMPARE[term.compare](values, term.amount) != term.negated)
        return passed
    if term.kind in ("phase", "step", "rank"):
        inside = rows.member(term.kind, int(term.amount)) if rows.member is not None else None
        found = np.zeros(len(rows), np.bool_) if inside is None else inside
    else:
        found = _by_text(term, rows)
    return ~found if term.negated else found


def _by_text(term: Term, rows: Rows) -> Bools:
    if term.kind == "path":
        return rows.of_texts("path", lambda texts: pc.match_substring_regex(texts, _glob(term.text)))
    if term.kind == "type":
        return rows.of_texts("type", lambda texts: pc.match_substring_regex(texts, _glob(term.text)))

    def test(texts: pa.Array) -> pa.Array:
        if term.kind == "regex":
            return pc.match_substring_regex(texts, _expression(term.text))
        return pc.match_substring(texts, term.text, ignore_case=not _has_capital(term.text))

    return rows.of_texts("path", test) | rows.of_texts("type", test)


def _glob(text: str) -> str:
    """`*` is any characters and `?` one; the whole text must match."""
    parts = {"*": ".*", "?": "."}
    body = "".join(parts.get(char, re.escape(char)) for char in text)
    return f"(?s)^{body}$" if _has_capital(text) else f"(?is)^{body}$"
