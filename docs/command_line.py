"""Writes command-line.md from the options of the commands: `python docs/command_line.py`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from modtrace import cli
from modtrace.cli.options import Option, Verb

PAGE = Path(__file__).with_name("command-line.md")

INTRODUCTION = """\
<!-- Written by docs/command_line.py from modtrace/cli. -->
# The command line

| command | for |
|---|---|
{commands}

`modtrace COMMAND --help` says the same in the terminal. TRACE is a trace, or a directory: of that the newest trace that has calls. Without it
the newest one here is taken. A word of a script that begins with a dash needs nothing around it: all from the script on is the script's.

**Environment.** Each option of `run` can be given by a variable, `MODTRACE_` and its name: `MODTRACE_MEMORY=0:3` is `--memory 0:3`, `MODTRACE_QUIET=1`
is `--quiet`. That reaches runs whose command line is not yours, such as those of a launcher. The option wins over the variable. `COLUMNS` sets
the width of texts, `NO_COLOR` takes the colour off.

**STEPS**: `3` is step 3, `0:3` is steps 0, 1 and 2, `auto` is steps 3 and 4; of `--values` also `every 50`. **SIZE**: `500KB`, `20MB`, `1GB`. **EXPR** is a
[filter](viewer.md#filters). [Exit status](recording.md#exit-status).
"""


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def names_of(option: Option) -> str:
    """`-o`, `--output NAME`."""
    value = "" if option.value is None else f"[={option.value}]" if option.optional else f" {option.value}"
    return ", ".join(f"`{name}`" for name in (*option.names[:-1], option.names[-1] + value))


def options_of(verb: Verb) -> list[str]:
    """The options of a command as a table."""
    rows = ["| option | |", "|---|---|"]
    for option in verb.options:
        more = "; may be given several times" if option.repeated else ""
        also = f" (also `MODTRACE_{option.key.upper().replace('-', '_')}`)" if option.mirrored else ""
        rows.append(f"| {cell(names_of(option))} | {cell(option.help)}{more}{also} |")
    return rows


def section(name: str) -> str:
    """One command: how it is called, what it does, its options and examples."""
    verb: Verb = import_module(f"modtrace.cli.{name}").VERB
    examples = [f"| `{cell(line)}` | {cell(text)} |" for line, text in verb.examples]
    parts = [f"## modtrace {name}\n", f"    {verb.line.strip()}\n", cell(verb.text.strip()) + "\n"]
    if verb.docs:
        pages = [name.removeprefix("docs/").partition(" ")[0] for name in verb.docs.split(", ")]
        parts.append(f"More: {', '.join(f'[{name}]({name})' for name in pages)}.\n")
    parts += ["\n".join(options_of(verb)) + "\n"]
    if examples:
        parts += ["\n".join(["| example | |", "|---|---|", *examples]) + "\n"]
    return "\n".join(parts)


def page() -> str:
    """The text of command-line.md."""
    commands = "\n".join(
        f"| [`modtrace {name}`](#modtrace-{name}) | {text} |" for name, text in cli.VERBS.items()
    )
    return "\n".join([INTRODUCTION.format(commands=commands), *map(section, cli.VERBS)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
