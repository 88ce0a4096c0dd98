"""docs/python.md is what the docstrings say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import modtrace

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "python.md").read_text(encoding="utf-8")


def test_page_is_up_to_date():
    assert runpy.run_path(str(DOCS / "python_page.py"))["page"]() == PAGE, "run: python docs/python_page.py"


def test_every_public_name_is_there_once():
    found = re.findall(r"^### (?:class )?`modtrace\.(\w+)`$", PAGE, re.MULTILINE)
    assert sorted(found) == sorted(set(modtrace.__all__) - {"__version__"})


def test_what_a_trace_offers_is_there():
    members = set(re.findall(r"^#### `Trace\.(\w+)`$", PAGE, re.MULTILINE))
    offered = {name for name in dir(modtrace.Trace) if not name.startswith("_")}
    assert members == offered


def test_links_of_the_table_lead_to_sections():
    heads = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
    links = re.findall(r"^\| \[`\w+`\]\(#([\w-]+)\)", PAGE, re.MULTILINE)
    assert len(links) == len(set(links)) == len(heads)
    assert set(links) == anchors
