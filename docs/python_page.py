"""Writes python.md from the docstrings of what `import modtrace` offers: `python docs/python_page.py`."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import modtrace
from modtrace.api import Recording, Trace
from modtrace.export.methods import Exports

PAGE = Path(__file__).with_name("python.md")

INTRODUCTION = """\
<!-- Written by docs/python_page.py from the docstrings of modtrace. -->
# Python

What `import modtrace` offers, and the methods of a trace. Columns of the DataFrames are in [data.md](data.md), words in
[glossary.md](glossary.md). Adapters to Lightning, Hugging Face and trackers are in [other tools](guides/other-tools.md).

| name | |
|---|---|
{names}
"""

ORDER = (
    ("Recording", ("trace", "step", "span", "breakpoint", "pm", "Recording")),
    ("Reading", ("load", "Trace")),
    ("Comparing", ("compare", "check", "Difference")),
    ("Errors", ("ModtraceError", "UsageError", "TraceError", "RegressionError", "CannotTellError")),
)
"""Every public name, in the order of the page."""


def page() -> str:
    """The text of python.md."""
    names = [name for _, group in ORDER for name in group]
    rows = [f"| [`{name}`](#{anchor(name)}) | {first_line(getattr(modtrace, name))} |" for name in names]
    parts = [INTRODUCTION.format(names="\n".join(rows))]
    for title, group in ORDER:
        parts.append(f"\n## {title}\n")
        parts += [section(name) for name in group]
    return "".join(parts)


def anchor(name: str) -> str:
    """Where a link to the section of a name leads."""
    return re.sub(r"[^\w -]", "", title_of(name)).lower().replace(" ", "-")


def title_of(name: str) -> str:
    """The title of a section: `trace` and `Trace` must not have the same anchor."""
    return f"class `modtrace.{name}`" if inspect.isclass(getattr(modtrace, name)) else f"`modtrace.{name}`"


def first_line(thing: object) -> str:
    """The first sentence of a docstring, as a cell of a table."""
    text = " ".join(docstring(thing).partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s", text)[0].replace("|", "&#124;")


def docstring(thing: object) -> str:
    """The docstring, without its indentation; "" for none."""
    return inspect.getdoc(thing) or ""


def section(name: str) -> str:
    """A function, or a class with its own methods and properties."""
    thing = getattr(modtrace, name)
    parts = [f"\n### {title_of(name)}\n", signature(name, thing), body(docstring(thing))]
    if inspect.isclass(thing):
        for member, value in members(thing):
            parts += [f"\n#### `{name}.{member}`\n", signature(member, value), body(docstring(value))]
    return "".join(parts)


def members(thing: type) -> list[tuple[str, object]]:
    """Public methods and properties of a class: in the order of the code, those of what it is made of behind them."""
    own = [thing, *([Exports] if thing is Trace else [])]
    if issubclass(thing, Exception) or thing in (Recording, modtrace.span):
        own = []
    found = {name: value for owner in own for name, value in vars(owner).items() if not name.startswith("_")}
    return [(name, value) for name, value in found.items() if docstring(value)]


def signature(name: str, thing: object) -> str:
    """How it is called; nothing for a property, an error and what is not called by users."""
    if (
        isinstance(thing, property)
        or not callable(thing)
        or (inspect.isclass(thing) and thing is not modtrace.span)
    ):
        return ""
    parameters = list(inspect.signature(thing).parameters.values())
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in parameters
        if parameter.name != "self"
    ]
    text = str(inspect.Signature(parameters))
    return "\n" + textwrap.indent("\n".join(textwrap.wrap(f"{name}{text}", 100)), "    ") + "\n"


def body(text: str) -> str:
    """A docstring as Markdown: `Args:`, `Returns:` and `Raises:` are lists."""
    lines: list[str] = []
    for part in re.split(r"\n(?=(?:Args|Returns|Raises|Yields):\n)", text):
        head = re.match(r"(Args|Returns|Raises|Yields):\n", part)
        if head is None:
            lines += ["", part.replace("<", "&lt;").strip()]
            continue
        section_lines, _, behind = textwrap.dedent(part[head.end() :]).partition("\n\n")
        items = re.split(r"\n(?=\S)", section_lines)
        lines += ["", f"**{head[1]}**", ""]
        lines += [f"- {bold(' '.join(item.split()))}".replace("<", "&lt;") for item in items]
        lines += ["", behind.strip()] if behind.strip() else []
    return "\n".join(lines).rstrip() + "\n"


def bold(item: str) -> str:
    """`name: what it is` with the name in code font."""
    return re.sub(r"^(\w+): ", r"`\1`: ", item)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
