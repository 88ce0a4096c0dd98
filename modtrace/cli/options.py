"""Reads options: exact names only, each mirrored by an environment variable `MODTRACE_*`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from modtrace.errors import UsageError

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Option:
    """One option: its names, what its value is called (None for a switch) and its line of help. An `optional` value is
    given with `=` or not at all, which is "1".
    """

    names: tuple[str, ...]
    value: str | None
    help: str
    optional: bool = False

    @property
    def key(self) -> str:
        return self.names[-1].lstrip("-")


@dataclass
class Parsed:
    """Values by the option's long name, and the words that are not options."""

    values: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        return self.values.get(name, "") not in ("", "0", "no", "false")

    def number(self, name: str) -> int | None:
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise UsageError(f"--{name} takes a number, not {text!r}")
        return int(text)


def parse(
    words: Sequence[str], options: Sequence[Option], *, stop: Sequence[str] | None = None, verb: str
) -> Parsed:
    """Take options off the front of `words`.

    Args:
        words: the command line behind the verb.
        options: what is known.
        stop: for `run`: words that end our options together with the first one that is no option; everything from
            there on belongs to the script. None: options may stand anywhere.
        verb: for messages.
    """
    known: Mapping[str, Option] = {name: option for option in options for name in option.names}
    parsed = Parsed()
    for option in options:
        value = os.environ.get("MODTRACE_" + option.key.upper().replace("-", "_"))
        if value is not None:
            parsed.values[option.key] = value
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if stop is not None and word in stop:
            parsed.rest = [word, *queue]
            break
        if word == "--":
            parsed.rest += queue
            break
        if not word.startswith("-") or word == "-":
            if stop is not None:
                parsed.rest = [word, *queue]
                break
            parsed.rest.append(word)
            continue
        chosen = known.get(name)
        if chosen is None:
            raise UsageError(f"{verb} has no option {name}; modtrace {verb} --help lists them")
        if chosen.value is None:
            if equals:
                raise UsageError(f"{name} takes no value")
            parsed.values[chosen.key] = "1"
        elif equals or chosen.optional:
            parsed.values[chosen.key] = value if equals else "1"
        elif queue:
            parsed.values[chosen.key] = queue.pop(0)
        else:
            raise UsageError(f"{name} needs a value: {name} {chosen.value}")
    return parsed


def size(text: str) -> int:
    """Bytes from a text such as `512MB` or `4GB` (powers of ten)."""
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise UsageError(f"{text!r} is no size; write it like 512MB or 4GB")
    return int(match[1]) * _UNITS[match[2]]


def usage(line: str, text: str, options: Sequence[Option]) -> str:
    """The help of a verb."""
    rows = []
    for option in options:
        value = f"[={option.value}]" if option.optional else f" {option.value}" if option.value else ""
        names = ", ".join(option.names) + value
        rows.append(f"  {names:26} {option.help}\n")
    return f"usage: {line}\n\n{text}\n\noptions:\n" + "".join(rows)
