"""The filter language: `attn type:Linear self>5ms -/ln_[12]/`. Text -> terms. Standard library only.

Terms are separated by spaces and all must hold; one with `-` in front must not. Which keys there are is a vocabulary:
views filter rows of tables, breakpoints single calls. In an expression, which breakpoints read, terms are also joined
by `and`, `or`, `not` and parentheses.

The page of a report reads the same language, in views/html/filter.js. tests/views/filter_cases.json holds the cases
that both must do alike.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NoReturn

from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.units import VALUE

MAX_LENGTH: Final = 500
MAX_DEPTH: Final = 50
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
"""Unit of a number -> the units it can be compared in, in small letters; "" is a number without a unit."""
EXAMPLES: Final = {"ns": "5ms", "bytes": "1MB", "FLOP": "1G", "": "100", VALUE: "6e4"}


def _same(value: Any, amount: float) -> Any:
    """NaN is the same as NaN: what is not a number is looked for too."""
    return value == amount if not math.isnan(amount) else value != value  # noqa: PLR0124


COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": _same,
}  # fmt: skip
_NO_METRIC: Final = re.compile(r"(?:>=|<=|>|<|=)(?:[0-9]|\Z)")
_AMOUNT: Final = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([A-Za-z]{0,5})\Z")
_ELEMENT: Final = re.compile(
    r"[-+]?(?:inf|[0-9]{1,15}(?:\.[0-9]{0,15})?(?:e[-+]?[0-9]{1,3})?)\Z|nan\Z", re.IGNORECASE | re.ASCII
)
_SPACES: Final = " \t\r\n"
_SHAPE: Final = re.compile(r"(-?)shape[ \t\r\n]*(?:~|=)[ \t\r\n]*\[([^\]]*)\]")
PHASE_WORDS: Final = {
    "bwd": "backward", "fwd": "forward", "opt": "optimizer", "optim": "optimizer", "zero": "zero_grad",
}  # fmt: skip


def _term_pattern(ends: str) -> re.Pattern[str]:
    """Minus; an expression; a text in quotes; a key and its text; a metric, comparison and number; a word.

    Args:
        ends: characters that end a word, beside spaces.
    """
    word = f"[^{_SPACES}{ends}]"
    return re.compile(
        rf"(-?)(?:/((?:[^/\\]|\\.)*)/(?!{word})"
        r'|"([^"]*)"?'
        rf'|([A-Za-z_][A-Za-z0-9_]*):(?!:)(?:"([^"]*)"?|({word}*))'
        rf"|([A-Za-z_][A-Za-z0-9_]*)[{_SPACES}]*(>=|=>|==|!=|<=|=<|<>|>|<|=)[{_SPACES}]*({word}*)"
        rf"|({word}+))"
    )


_TERM: Final = _term_pattern("")
_TERM_IN_EXPRESSION: Final = _term_pattern("()")


@dataclass(frozen=True)
class Term:
    """One condition. `key` is word, regex, or a key of the vocabulary; with `compare` that of a number."""

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


@dataclass(frozen=True)
class Vocabulary:
    """The keys that a text may use.

    numbers: key -> unit, see UNITS.
    meant: what a person may type for the key of a number -> the key.
    texts: keys that take a pattern. members: keys that take a number, and `phase`.
    phases: names that `phase` takes.
    takes: key -> what its message says that it takes.
    check_regex: raises UsageError for an expression between slashes that cannot be read.
    aliases: key -> the key that it stands for.
    flags: words that are a condition by themselves.
    loose: texts and members may be compared by `=`, and members by all comparisons.
    """

    numbers: Mapping[str, str]
    meant: Mapping[str, str]
    texts: tuple[str, ...]
    members: tuple[str, ...]
    phases: tuple[str, ...]
    takes: Mapping[str, str]
    check_regex: Callable[[str], None]
    aliases: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    loose: bool = False

    def keys(self) -> str:
        """The keys as a message lists them."""
        if self.loose:
            return ", ".join((*self.texts, *self.members, *self.numbers, *self.flags))
        return ", ".join(f"{key}:" for key in (*self.texts, *self.members))


# filters: all terms must hold ---------------------------------------------------------------------------------------


def parse(text: str, vocabulary: Vocabulary) -> Filter:
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
            terms.append(_term(match, vocabulary))
    return Filter(tuple(terms))


def _term(match: re.Match[str], vocabulary: Vocabulary) -> Term:
    minus, expression, quoted, key, in_quotes, value, metric, compare, amount, word = match.groups()
    negated = minus == "-"
    if expression is not None:
        vocabulary.check_regex(expression)
        return Term("regex", expression, negated)
    if quoted is not None:
        return Term("word", quoted, negated)
    if key is not None:
        return _keyed(vocabulary, key, value, in_quotes, negated)
    if metric is not None:
        return _compared(vocabulary, metric, compare, amount, negated)
    if _NO_METRIC.match(word):
        raise UsageError(
            f"{short(word)} has no number in front of it; there are {', '.join(vocabulary.numbers)}"
        )
    return Term(word if word in vocabulary.flags else "word", word, negated)


def _keyed(vocabulary: Vocabulary, key: str, value: str | None, in_quotes: str | None, negated: bool) -> Term:
    """`type:Linear`, `phase:backward`, `step:3`."""
    units, texts, members = vocabulary.numbers, vocabulary.texts, vocabulary.members
    key = vocabulary.aliases.get(key, key)
    text = (value if in_quotes is None else in_quotes) or ""
    if key in units:
        raise UsageError(f"{key} is a number: did you mean {key}>{EXAMPLES[units[key]]}?")
    if key not in texts and key not in members:
        near = nearest(key, (*texts, *members))
        meant = (
            f"did you mean {near}:{short(text)}?"
            if near
            else f"there are {vocabulary.keys()}, and texts in quotes"
        )
        raise UsageError(f"{key}: is not known: {meant}")
    if not text and in_quotes is None:
        raise UsageError(f"{key}: takes {vocabulary.takes[key]}")
    if key in texts:
        return Term(key, text, negated)
    return _member(vocabulary, key, "=" if vocabulary.loose else "", text, negated)


def _member(vocabulary: Vocabulary, key: str, compare: str, text: str, negated: bool) -> Term:
    if key == "phase":
        phases = vocabulary.phases
        name = PHASE_WORDS.get(text, text)
        if name not in phases:
            near = nearest(text, (*phases, *PHASE_WORDS))
            meant = f": did you mean phase:{near}?" if near else ""
            raise UsageError(f"phase: takes {', '.join(phases)}, not '{short(text)}'{meant}")
        return Term(key, name, negated, amount=phases.index(name))
    if re.fullmatch("[0-9]{1,15}", text) is None:
        raise UsageError(f"{key}: takes a number, not '{short(text)}'")
    return Term(key, text, negated, compare, amount=int(text))


def _compared(vocabulary: Vocabulary, metric: str, compare: str, amount: str, negated: bool) -> Term:
    """`self>5ms`."""
    units = vocabulary.numbers
    metric = vocabulary.aliases.get(metric, metric)
    if metric in vocabulary.texts or metric in vocabulary.members:
        if vocabulary.loose:
            return _loosely(vocabulary, metric, compare, amount, negated)
        raise UsageError(f"{metric} takes a colon: did you mean {metric}:{short(amount) or '...'}?")
    if metric not in units:
        _refuse_key(vocabulary, metric, compare, amount)
    if compare not in COMPARE:
        raise UsageError(
            f"{compare} is no comparison: there are {', '.join(COMPARE)}, and - in front for not"
        )
    return Term(
        metric,
        f"{metric}{compare}{amount}",
        negated,
        compare,
        compared_amount(metric, compare, amount, units[metric]),
    )


def _refuse_key(vocabulary: Vocabulary, metric: str, compare: str, amount: str) -> NoReturn:
    """Say that a key in front of a comparison is not known, and which may have been meant."""
    if vocabulary.loose:
        names = (*vocabulary.texts, *vocabulary.members, *vocabulary.numbers, *vocabulary.aliases)
        near = nearest(metric, names)
        asked = f"did you mean {near}{compare}{short(amount)}?" if near else f"there are {vocabulary.keys()}"
        raise UsageError(f"{short(metric)} is not known: {asked}")
    near = nearest(metric, list(vocabulary.meant))
    known = f"there are {', '.join(vocabulary.numbers)}"
    asked = f"did you mean {vocabulary.meant[near]}{compare}{short(amount)}?" if near else known
    raise UsageError(f"{short(metric)} is no number that is known: {asked}")


def _loosely(vocabulary: Vocabulary, key: str, compare: str, text: str, negated: bool) -> Term:
    """`step=10`, `nth>=3`, `class=Linear`, `name!=fc`."""
    negated ^= compare == "!="
    compare = {"==": "=", "!=": "="}.get(compare, compare)
    if compare not in COMPARE or (compare != "=" and (key in vocabulary.texts or key == "phase")):
        raise UsageError(f"{key}{compare}{short(text)}: {key} is compared with = and !=")
    text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not text:
        raise UsageError(f"{key}{compare} takes {vocabulary.takes[key]}")
    if key in vocabulary.texts:
        return Term(key, text, negated)
    return _member(vocabulary, key, compare, text, negated)


def compared_amount(metric: str, compare: str, text: str, unit: str) -> float:
    """The number that a metric is compared with, in the metric's own unit.

    Raises:
        UsageError: the text is no number, or has a unit that is none of this metric's, or none where it needs one.
    """
    if unit == VALUE:
        if not _ELEMENT.match(text):
            raise UsageError(
                f"{metric} is compared with something like {EXAMPLES[unit]}, not '{short(text)}'"
            )
        return float(text)
    match, units = _AMOUNT.match(text), UNITS[unit]
    if match is None:
        raise UsageError(f"{metric} is compared with something like {EXAMPLES[unit]}, not '{short(text)}'")
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
            f"{metric} is compared with something like {EXAMPLES[unit]}, not '{short(text)}'{meant}"
        )
    return float(int(digits + decimals) * units.get(asked, 1) / 10 ** len(decimals))


def short(text: str) -> str:
    """A part of what was typed, as a message shows it."""
    return plain(text, 40)


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


# patterns -----------------------------------------------------------------------------------------------------------


def has_capital(text: str) -> bool:
    """True if case counts in a pattern."""
    return any(char.isupper() for char in text)


def expression_of(text: str) -> str:
    """The expression between slashes. Case counts only where it has a capital letter, as it does with words."""
    return text if has_capital(text) else f"(?i){text}"


def glob(text: str) -> str:
    """An expression for a pattern: `*` is any characters and `?` one; the whole text must match."""
    body = glob_body(text)
    return f"(?s)^{body}$" if has_capital(text) else f"(?is)^{body}$"


def glob_body(text: str) -> str:
    """The same without beginning and end."""
    parts = {"*": ".*", "?": "."}
    return "".join(parts.get(char, re.escape(char)) for char in text)


# expressions: and, or, not ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Negation:
    """`not CONDITION`."""

    condition: Condition


@dataclass(frozen=True)
class Joined:
    """Conditions of which all must hold, or any."""

    word: Literal["and", "or"]
    conditions: tuple[Condition, ...]


Condition = Term | Negation | Joined


@dataclass(frozen=True)
class Expression:
    """A condition, and the text that it was read from."""

    text: str
    condition: Condition

    def terms(self) -> list[Term]:
        """The terms in it, in order."""
        return _terms(self.condition)


def _terms(condition: Condition) -> list[Term]:
    if isinstance(condition, Term):
        return [condition]
    inner = (condition.condition,) if isinstance(condition, Negation) else condition.conditions
    return [term for part in inner for term in _terms(part)]


def holds(condition: Condition, ask: Callable[[Term], bool | None]) -> bool | None:
    """True if a condition holds; None where that is not decided by what is known.

    Args:
        condition: of an expression.
        ask: whether a term holds, whatever its `negated` says; None for one that is not known yet.
    """
    if isinstance(condition, Term):
        answer = ask(condition)
        return answer if answer is None else answer != condition.negated
    if isinstance(condition, Negation):
        inner = holds(condition.condition, ask)
        return None if inner is None else not inner
    decides = condition.word == "or"
    answers: set[bool | None] = set()
    for part in condition.conditions:
        answer = holds(part, ask)
        if answer is decides:
            return decides
        answers.add(answer)
    return None if None in answers else not decides


def parse_expression(text: str, vocabulary: Vocabulary) -> Expression:
    """Read an expression.

    Raises:
        UsageError: it cannot be read; the message says where, what is allowed and what may have been meant.
    """
    if len(text) > MAX_LENGTH:
        raise UsageError(f"an expression has at most {MAX_LENGTH} characters")
    reader = _Reader(_tokens(text, vocabulary))
    condition = reader.any_of(0)
    if reader.tokens:
        raise UsageError(f"a ) in '{short(text)}' has no ( in front of it")
    return Expression(" ".join(text.split()), condition)


def _tokens(text: str, vocabulary: Vocabulary) -> list[Term | str]:
    """Terms; and, or, not and parentheses as texts."""
    tokens: list[Term | str] = []
    place = 0
    while place < len(text):
        if text[place] in _SPACES:
            place += 1
            continue
        if text[place] in "()":
            tokens.append(text[place])
            place += 1
            continue
        shape = _SHAPE.match(text, place)
        match = shape or _TERM_IN_EXPRESSION.match(text, place)
        if match is None:  # pragma: no cover - a word takes every other character
            raise UsageError(f"'{short(text[place:])}' cannot be read")
        place = match.end()
        if shape is not None:
            tokens.append(Term("shape", _checked_shape(shape[2]), shape[1] == "-"))
        elif match[0] in ("and", "or", "not"):
            tokens.append(match[0])
        elif match[0] == "changed" and tokens and isinstance(last := tokens[-1], Term) and _is_shape(last):
            tokens[-1] = replace(last, key="shape", text="changed")
        elif match[0] != "-":
            tokens.append(_term(match, vocabulary))
    return tokens


def _is_shape(term: Term) -> bool:
    return (term.key, term.text) == ("word", "shape")


def _checked_shape(text: str) -> str:
    """A shape without spaces: sizes, `*` for any size, `...` for any number of sizes."""
    sizes = "".join(text.split())
    if sizes and not all(re.fullmatch(r"[0-9]{1,12}|\*|\.\.\.", size) for size in sizes.split(",")):
        raise UsageError(f"[{short(text)}] is no shape; write it like [2,8], [*,0] or [...,64]")
    return sizes


class _Reader:
    """Reads tokens as conditions; those that are read are taken off."""

    def __init__(self, tokens: list[Term | str]) -> None:
        self.tokens = tokens

    def any_of(self, depth: int) -> Condition:
        """Conditions with `or` between them."""
        conditions = [self.all_of(depth)]
        while self.tokens[:1] == ["or"]:
            self.tokens.pop(0)
            conditions.append(self.all_of(depth))
        return conditions[0] if len(conditions) == 1 else Joined("or", tuple(conditions))

    def all_of(self, depth: int) -> Condition:
        """Conditions with `and`, or nothing, between them."""
        conditions = [self.single(depth)]
        while self.tokens and self.tokens[0] not in ("or", ")"):
            if self.tokens[0] == "and":
                self.tokens.pop(0)
            conditions.append(self.single(depth))
        return conditions[0] if len(conditions) == 1 else Joined("and", tuple(conditions))

    def single(self, depth: int) -> Condition:
        """A term, `not`, or something in parentheses."""
        if depth > MAX_DEPTH:
            raise UsageError("an expression has at most 50 conditions inside of one another")
        part = self.tokens.pop(0) if self.tokens else ""
        if isinstance(part, Term):
            return part
        if part == "not":
            return Negation(self.single(depth + 1))
        if part == "(":
            condition = self.any_of(depth + 1)
            if not self.tokens or self.tokens.pop(0) != ")":
                raise UsageError("a ) is missing")
            return condition
        raise UsageError(f"a condition is missing in front of {part}" if part else "a condition is missing")
