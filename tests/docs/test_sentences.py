"""README and guides are read in a hurry: short sentences."""

from __future__ import annotations

import re

import pytest

from tests.docs.page_blocks import ROOT, name_of

LONGEST = 30
GUIDES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{stem}.md" for stem in ("index", "install", "quickstart", "which-option", "limits")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]


def sentences(text):
    """The sentences of a page: of its paragraphs, of the items of lists, and of the cells of tables."""
    text = re.sub(r"<!--.*?-->|^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    for block in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. |\||#)", text):
        for cell in block.split("|") if block.lstrip().startswith("|") else [block]:
            yield from re.split(r"(?<=[.!?])[*)\"]*\s+", cell)


def words(sentence):
    return re.findall(r"[\w'/][\w'/-]*", sentence)


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_sentences_are_short(page):
    found = list(sentences(page.read_text(encoding="utf-8")))
    assert len(found) > 10
    assert [sentence for sentence in found if len(words(sentence)) > LONGEST] == []


def test_a_long_sentence_is_seen():
    long = "- " + "word " * 32 + "end.\n\n| `a b c` | " + "cell " * 31 + "|\n"
    assert [len(words(sentence)) for sentence in sentences(long) if len(words(sentence)) > LONGEST] == [
        33,
        31,
    ]
