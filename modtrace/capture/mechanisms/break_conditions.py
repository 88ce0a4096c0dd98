"""Conditions on single calls, in the filter language. Standard library only: they are read before the script starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from modtrace.errors import UsageError
from modtrace.filter_language import (
    COMPARE,
    Expression,
    Term,
    Vocabulary,
    expression_of,
    glob,
    glob_body,
    has_capital,
    parse_expression,
)
from modtrace.trace.schema import SHORT_DTYPES

PHASES: Final = ("forward", "eval", "recompute", "data", "optimizer")
"""Phases that a module call can be in, as far as that is known when it begins."""
_NEEDS_CALL: Final = (
    "step", "nth", "phase", "thread", "shape", "dtype", "nan", "duration", "memory", "raised",
)  # fmt: skip
"""Keys of which nothing is known from the module alone."""
Tensors = Sequence[tuple[tuple[int | None, ...] | None, str]]
"""Shape and dtype of each tensor in a structure; None for a shape or a size that is not known."""


def _check_regex(text: str) -> None:
    try:
        re.compile(expression_of(text))
    except re.error as error:
        raise UsageError(f"/{text[:40]}/ is no expression: {error}") from None


VOCABULARY: Final = Vocabulary(
    numbers={"duration": "ns", "memory": "bytes"},
    meant={},
    texts=("name", "class", "dtype", "raised"),
    members=("phase", "step", "nth", "thread", "rank"),
    phases=PHASES,
    takes={
        "name": "a name, such as name:encoder.layers.*", "class": "a class, such as class:Linear",
        "dtype": "a dtype, such as dtype:float16", "raised": "a class, such as raised:ValueError",
        "phase": ", ".join(PHASES), "step": "a number", "nth": "a number", "thread": "a number", "rank": "a number",
    },
    check_regex=_check_regex,
    aliases={
        "path": "name", "type": "class", "time": "duration", "total": "duration", "mem": "memory", "call": "nth",
    },
    flags=("nan", "raised"),
    loose=True,
)  # fmt: skip
"""Keys of conditions on calls."""


def expressions_of(text: str) -> list[Expression]:
    """The expressions of an option, which has a line for each.

    Raises:
        UsageError: one cannot be read.
    """
    expressions = [parse_expression(line, VOCABULARY) for line in text.split("\n") if line.strip()]
    if not expressions:
        raise UsageError("an expression is empty; write one like 'encoder.layers.3 and step=10'")
    return expressions


def joined_texts(argument: str, value: object) -> str | None:
    """Texts that code gives as one text or as several: as the option has them, a line each. None for none.

    Raises:
        UsageError: it is something else, or no expression.
    """
    if value is None or value is False:
        return None
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{argument}={value!r} is no text, nor a list of texts")
    lines = [" ".join(str(text).split()) for text in texts]
    joined = "\n".join(line for line in lines if line) or None
    if joined is not None:
        expressions_of(joined)
    return joined


def for_rank(text: str | None, rank: int, break_rank: int) -> str | None:
    """The expressions that count in one rank of a job: those that name a rank, and on `break_rank` the others."""
    chosen = [
        line
        for line in (text or "").split("\n")
        if line.strip()
        and (rank == break_rank or any(t.key == "rank" for t in expressions_of(line)[0].terms()))
    ]
    return "\n".join(chosen) or None


def asks_for(expressions: Iterable[Expression], key: str) -> bool:
    """True if a term of that key is in any of the expressions."""
    return any(term.key == key for expression in expressions for term in expression.terms())


# names --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModuleNames:
    """The names of a module.

    names: its FQN and the aliases; that of the outermost is "".
    root: the variable, or else the class, of the outermost; None where that is not known.
    cls: its class.
    """

    names: tuple[str, ...]
    root: str | None
    cls: str

    @property
    def shown(self) -> str:
        """The name in a message."""
        return self.names[0] or self.root or self.cls

    def match(self, term: Term) -> bool:
        """True if a term that is about names holds: word, name, class or regex."""
        if term.key == "class":
            return _pattern(glob(term.text)).search(self.cls) is not None
        if term.key == "regex":
            expression = _pattern(expression_of(term.text))
            return any(expression.search(text) is not None for text in (*self._paths(), self.cls))
        if term.key == "word" and _pattern(glob(term.text)).search(self.cls) is not None:
            return True
        pattern = _pattern(_at_end(term.text))
        return any(pattern.search(path) is not None for path in self._paths())

    def _paths(self) -> list[str]:
        paths = [name for name in self.names if name]
        if self.root is not None:
            paths += [f"{self.root}.{name}" if name else self.root for name in self.names]
        return paths


def _at_end(text: str) -> str:
    """An expression for a name, or its end from a dot on."""
    return f"(?s{'' if has_capital(text) else 'i'})^(?:.*\\.)?{glob_body(text)}$"


@lru_cache(512)
def _pattern(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


# calls --------------------------------------------------------------------------------------------------------------


def _unasked() -> Any:
    return ()


@dataclass
class CallFacts:
    """Facts about one call, as far as they are known: first of its module, then at its beginning, then at its end.

    nth: how many calls of its module there were, with this.
    inputs, outputs: its tensors. changed: shapes are not those of the call before, None where there was none.
    finite_inputs, finite_outputs: False if a value in them is not finite.
    error: classes of the exception that has left it, and their bases.
    """

    module: ModuleNames
    rank: int = 0
    began: bool = False
    ended: bool = False
    step: int = 0
    nth: int = 0
    thread: int = 0
    phase: Callable[[], str] = _unasked
    inputs: Callable[[], Tensors] = _unasked
    outputs: Callable[[], Tensors] = _unasked
    inputs_changed: Callable[[], bool] = _unasked
    outputs_changed: Callable[[], bool] = _unasked
    finite_inputs: Callable[[], bool] = _unasked
    finite_outputs: Callable[[], bool] = _unasked
    duration_ns: int | None = None
    memory_bytes: int | None = None
    error: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def ask(self, term: Term) -> bool | None:
        """True if a term holds; None where that is not known yet."""
        key = term.key
        if key in ("word", "name", "class", "regex"):
            return self.module.match(term)
        if key == "rank":
            return bool(COMPARE[term.compare](self.rank, term.amount))
        if not self.began:
            return None
        if key in ("step", "nth", "thread"):
            return bool(COMPARE[term.compare](getattr(self, key), term.amount))
        if key == "phase":
            return self.phase() == term.text
        if key in ("shape", "dtype", "nan"):
            return self._of_tensors(term)
        return self._of_end(term) if self.ended else None

    def _of_tensors(self, term: Term) -> bool | None:
        """Of inputs, which are known first, or of outputs."""
        if self._remembered(term, "inputs"):
            return True
        if not self.ended:
            return None
        return not self.error and self._remembered(term, "outputs")

    def _remembered(self, term: Term, side: str) -> bool:
        name = f"{side} {term.key} {term.text}"
        if name not in self.values:
            self.values[name] = self._look(term, side)
        return bool(self.values[name])

    def _look(self, term: Term, side: str) -> bool:
        if term.key == "nan":
            return not getattr(self, f"finite_{side}")()
        if term.key == "shape" and term.text == "changed":
            return bool(getattr(self, f"{side}_changed")())
        tensors: Tensors = getattr(self, side)()
        if term.key == "shape":
            return any(shape_fits(shape, term.text) for shape, _ in tensors)
        pattern = _pattern(glob(term.text.removeprefix("torch.")))
        return any(
            pattern.search(dtype) is not None or pattern.search(SHORT_DTYPES.get(dtype, dtype)) is not None
            for _, dtype in tensors
        )

    def _of_end(self, term: Term) -> bool:
        """Of what is known when the call is over. A number that is not known passes no comparison."""
        if term.key == "raised":
            return bool(self.error) and (
                term.text in ("", "raised")
                or any(_pattern(glob(term.text)).search(name) is not None for name in self.error)
            )
        number = self.duration_ns if term.key == "duration" else self.memory_bytes
        return number is not None and bool(COMPARE[term.compare](number, term.amount))


def shape_fits(shape: tuple[int | None, ...] | None, pattern: str) -> bool:
    """True if a shape is like `2,*,8` (`*` is any size) or `...,64` (`...` is any number of sizes)."""
    if shape is None:
        return False
    sizes = pattern.split(",") if pattern else []
    if "..." in sizes:
        place = sizes.index("...")
        behind = len(sizes) - place - 1
        if "..." in sizes[place + 1 :] or len(shape) < place + behind:
            return False
        shape = shape[:place] + shape[len(shape) - behind :]
        sizes = sizes[:place] + sizes[place + 1 :]
    return len(shape) == len(sizes) and all(
        wanted == "*" or (size is not None and size == int(wanted))
        for size, wanted in zip(shape, sizes, strict=True)
    )
