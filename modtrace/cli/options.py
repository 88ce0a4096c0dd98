"""Reads options: exact names only, each mirrored by an environment variable `MODTRACE_*`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modtrace.errors import UsageError


@dataclass(frozen=True)
class Option:
    """One option: its names, what its value is called (None for a switch) and its line of help."""

    names: tuple[str, ...]
    value: str | None
    help: str

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
        elif equals:
            parsed.values[chosen.key] = value
        elif queue:
            parsed.values[chosen.key] = queue.pop(0)
        else:
            raise UsageError(f"{name} needs a value: {name} {chosen.value}")
    return parsed


def usage(line: str, text: str, options: Sequence[Option]) -> str:
    """The help of a verb."""
    rows = []
    for option in options:
        names = ", ".join(option.names) + (f" {option.value}" if option.value else "")
        rows.append(f"  {names:26} {option.help}\n")
    return f"usage: {line}\n\n{text}\n\noptions:\n" + "".join(rows)
