"""docs/command-line.md is what the commands themselves say."""

from __future__ import annotations

import re
import runpy
from importlib import import_module
from pathlib import Path

from modtrace.cli import VERBS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "command-line.md").read_text(encoding="utf-8")


def test_page_is_up_to_date():
    assert runpy.run_path(str(DOCS / "command_line.py"))["page"]() == PAGE


def test_every_option_of_every_command_is_there():
    sections = dict(re.findall(r"^## modtrace (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
    assert list(sections) == list(VERBS)
    for name, text in sections.items():
        for option in import_module(f"modtrace.cli.{name}").VERB.options:
            assert all(re.search(rf"`{re.escape(flag)}[`\[ ]", text) for flag in option.names), option


def test_pages_that_are_named_are_there():
    links = set(re.findall(r"\]\(([\w.-]+\.md)", PAGE))
    assert len(links) > 5
    assert [link for link in links if not (DOCS / link).exists()] == []
