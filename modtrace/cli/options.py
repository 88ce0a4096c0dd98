"""Reads the options of a command with argparse. Those of `run` are mirrored by environment variables `MODTRACE_*`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

from modtrace.errors import UsageError
from modtrace.text import plain

if TYPE_CHECKING:
    from argparse import ArgumentParser

_HELP_COLUMN: Final = 30


@dataclass(frozen=True)
class Option:
    """One option: its names, what its value is called (None for a switch) and its line of help.

    optional: its value is given with `=` or not at all, which is "1".
    mirrored: an environment variable gives it to every command. Those of `run` all are: one that looks at a trace would
        show another page, or overwrite a file, because of a setting that was meant for recording.
    repeated: it can be given several times; its value has a line each.
    beside: modes of its command that it changes, "" for none of them; without any it can be used with each.
    """

    names: tuple[str, ...]
    value: str | None
    help: str
    optional: bool = False
    mirrored: bool = False
    repeated: bool = False
    beside: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.names[-1].lstrip("-")


@dataclass(frozen=True)
class Verb:
    """A command: its name, how it is called, its help and its options.

    stop: words that end its options, together with the first one that is no option: all from there on belongs to the
        script. None: options may stand anywhere.
    examples: (command line, what it does).
    docs: the page of the documentation.
    modes: keys of options that each show something else, so that one can be given.
    """

    name: str
    line: str
    text: str
    options: tuple[Option, ...]
    stop: tuple[str, ...] | None = None
    examples: tuple[tuple[str, str], ...] = ()
    docs: str = ""
    modes: tuple[str, ...] = ()


@dataclass
class ParsedOptions:
    """Values by the option's long name, and the words that are not options."""

    values: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def on(self, name: str) -> bool:
        return self.values.get(name, "") not in ("", "0", "no", "false")

    def number(self, name: str) -> int | None:
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isdecimal():
            raise UsageError(f"--{name} takes a number, not {plain(text, 40)!r}")
        return int(text)


def _from_environment(options: Sequence[Option]) -> dict[str, str]:
    names = {option.key: "MODTRACE_" + option.key.upper().replace("-", "_") for option in options}
    return {key: os.environ[name] for key, name in names.items() if name in os.environ}


def parse(words: Sequence[str], verb: Verb) -> ParsedOptions:
    """Read the options of a command; `--help` prints them and leaves.

    Raises:
        UsageError: an option is unknown, or its value is missing.
        SystemExit: after the help.
    """
    option_words, others = _own_words(words, verb)
    mirrored = [option for option in verb.options if option.mirrored or verb.name == "run"]
    namespace, unknown = _parser(verb).parse_known_intermixed_args(option_words)
    if verb.stop is not None and (unknown or not others):
        _check_swallowed(option_words, verb)
    if unknown:
        name = unknown[0].partition("=")[0]
        raise UsageError(f"{verb.name} has no option {name}; modtrace {verb.name} --help lists them")
    values = {
        key: "\n".join(value) if isinstance(value, list) else value
        for key, value in vars(namespace).items()
        if key != "words" and value is not None
    }
    check_modes(values, verb)
    positional = others if verb.stop is not None else [*namespace.words, *others]
    return ParsedOptions(_from_environment(mirrored) | values, positional)


def lacks_value(flag: str, value: str, script: str) -> str:
    """Message for an option that has taken the script for its value."""
    example = {"STEPS": "0:3", "SIZE": "1GB", "EXPR": "nan", "NAME": "'encoder.*'"}.get(value, value)
    shown = plain(script, 60)
    return (
        f"{flag} takes {value}, which is missing in front of {shown}: modtrace run {flag} {example} {shown}"
    )


def _check_swallowed(option_words: Sequence[str], verb: Verb) -> None:
    """Refuse a command line without a script, or with options behind it, whose script is the value of an option.

    Raises:
        UsageError: it is so.
    """
    for word in option_words:
        name, _, text = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        for option in verb.options:
            if name in option.names and option.value and text.endswith((".py", ".pyw")):
                raise UsageError(lacks_value(name, option.value, text))


def check_modes(values: Mapping[str, str], verb: Verb) -> None:
    """Refuse options that would be ignored.

    Raises:
        UsageError: two modes were given, or an option without its mode.
    """
    modes = [key for key in verb.modes if key in values]
    if len(modes) > 1:
        raise UsageError(f"--{modes[0]} and --{modes[1]} show different things: one at a time")
    mode = modes[0] if modes else ""
    for option in verb.options:
        if option.key in values and option.beside and mode not in option.beside:
            needed = " or ".join(f"--{key}" for key in option.beside if key)
            if mode and "" in option.beside:
                raise UsageError(f"--{option.key} has no effect on --{mode}")
            raise UsageError(
                f"--{option.key} goes with {needed}: modtrace {verb.name} {needed} --{option.key}"
            )


def _own_words(words: Sequence[str], verb: Verb) -> tuple[list[str], list[str]]:
    """The words for argparse, and those behind them that are no options: of the script, or behind `--`.

    A value is joined to its option, for argparse takes none that begins with a dash, such as a filter or a file.
    """
    option_words: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            break
        is_option = word.startswith("-") and word != "-"
        if verb.stop is not None and (word in verb.stop or not is_option):
            queue.insert(0, word)
            break
        if is_option and queue and takes_next(word, verb.options):
            word += ("=" if word.startswith("--") else "") + queue.pop(0)
        option_words.append(word)
    return option_words, queue


def takes_next(word: str, options: Sequence[Option]) -> bool:
    """True where the next word is the value of this option, or of the last of several letters behind one dash."""
    valued = {
        name
        for option in options
        if option.value is not None and not option.optional
        for name in option.names
    }
    if word.startswith("--"):
        return word in valued
    first = next((position for position, letter in enumerate(word[1:], 1) if f"-{letter}" in valued), 0)
    return first > 0 and first == len(word) - 1


def _parser(verb: Verb) -> ArgumentParser:
    from argparse import SUPPRESS, ArgumentParser, HelpFormatter  # not imported before it is needed
    from textwrap import fill

    class Formatter(HelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            """Paragraphs as wide as the terminal; lines that begin with a space stay as they are."""
            lines = text.splitlines()
            return "\n".join(
                line if line[:1] in ("", " ") else fill(line, width, initial_indent=indent) for line in lines
            )

    class Parser(ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message}; modtrace {verb.name} --help lists the options")

    parser = Parser(
        prog=f"modtrace {verb.name}",
        usage=verb.line.replace("%", "%%"),
        description=verb.text,
        epilog=_epilog(verb),
        formatter_class=lambda prog: Formatter(prog, max_help_position=_HELP_COLUMN),
        allow_abbrev=False,
    )
    for option in verb.options:
        text = option.help.replace("%", "%%")
        if option.value is None:
            parser.add_argument(*option.names, dest=option.key, action="store_const", const="1", help=text)
        elif option.optional:
            parser.add_argument(
                *option.names, dest=option.key, metavar=option.value, nargs="?", const="1", help=text
            )
        else:
            action = "append" if option.repeated else "store"
            parser.add_argument(
                *option.names, dest=option.key, action=action, metavar=option.value, help=text
            )
    if verb.stop is None:
        parser.add_argument("words", nargs="*", help=SUPPRESS)
    return parser


def _epilog(verb: Verb) -> str:
    """Examples, the page of the documentation, and what the environment does."""
    column = max((len(line) for line, _ in verb.examples), default=0)
    lines = [f"  {line:{column}}  {text}" for line, text in verb.examples]
    mirror = " MODTRACE_MEMORY=0:3 and so on give options of run." if verb.name == "run" else ""
    return "\n".join(
        [
            *(["examples:", *lines, ""] if lines else []),
            f"COLUMNS=120 sets the width of texts, NO_COLOR=1 takes the colour off.{mirror}",
            *([f"docs: {verb.docs}"] if verb.docs else []),
        ]
    )
