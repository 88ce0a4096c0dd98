"""README and docs are read in a hurry: short sentences."""

from __future__ import annotations

import re

import pytest

from tests.docs.page_blocks import ROOT, name_of

LONGEST = 30
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def sentences(text):
    """The sentences of a page: of its paragraphs, of the items of lists, and of the lines of cells of tables."""
    text = re.sub(r"<!--.*?-->|^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    # A name, two spaces, and what it is: a line of a help text.
    for block in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. |\||#|  \S+  )", text):
        for cell in re.split(r"\||<br>", block) if block.lstrip().startswith("|") else [block]:
            yield from re.split(r"(?<=[.!?])[*)\"]*\s+", cell)


def words(sentence):
    return re.findall(r"[\w'/][\w'/-]*", sentence)


def long_ones(text):
    """The sentences that are too long; a list of names in code font alone is none."""
    return [one for one in sentences(text) if len(words(one)) > LONGEST and set(words(one)) != {"code"}]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sentences_are_short(page):
    text = page.read_text(encoding="utf-8")
    assert len(list(sentences(text))) > 10
    assert long_ones(text) == []


def test_a_long_sentence_is_seen():
    long = "- " + "word " * 32 + "end.\n\n| `a b c` | " + "cell " * 31 + "|\n"
    assert [len(words(sentence)) for sentence in long_ones(long)] == [33, 31]


def test_lists_of_names_are_no_sentences():
    assert (
        long_ones("| " + "`name`, " * 40 + "|\n\n| " + "<br>".join(["`one` is a line"] * 20) + " |\n") == []
    )
    assert long_ones("types:\n" + "".join(f"  type{at}  what it is for\n" for at in range(12))) == []
    assert len(long_ones("| and " + "`name`, " * 40 + "|\n")) == 1
