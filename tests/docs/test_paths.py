"""Pages for contributors name files that are there, and every page can be found from the index."""

from __future__ import annotations

import re

import pytest

from tests.places import ROOT, place_of

PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
DOCUMENTS = [
    *(ROOT / f"{stem}.md" for stem in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("modtrace/", "tests/", "docs/", "benchmarks/", "examples/", ".ci/")


def paths_in(text):
    """Names in code font that are paths from the root: `modtrace/trace/`, `tests/golden`, `docs/data.md`."""
    names = re.findall(r"`([^`\s]+)`", text)
    return [name for name in names if name.startswith(FOLDERS)]


def commands_in(text):
    """Scripts and modules of commands: `python docs/data_page.py`, `python -m tests.golden.every_text`."""
    scripts = re.findall(r"`python (\S+\.py)", text)
    modules = [name.replace(".", "/") + ".py" for name in re.findall(r"`python -m (tests\.\S+)`", text)]
    return scripts + modules


@pytest.mark.parametrize("page", PAGES)
def test_paths_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = paths_in(text) + commands_in(text)
    assert len(paths) > 20
    assert [path for path in paths if not place_of(path).exists()] == []


def test_index_links_every_page():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")} - {
        "index.md"
    }
    assert pages - set(re.findall(r"\]\(([\w./-]+\.md)[)#]", index)) == set()


def test_site_has_every_page():
    """mkdocs.yml lists them by hand, in the order in which they are read."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w./-]+\.md", text[text.index("\nnav:") :])
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(pages)
    assert "font: false" in text  # the pages ask no other host for anything
    workflow = (ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8")
    assert "Not tried on a public CI yet" in workflow
    assert "mkdocs build --strict" in workflow


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_dead(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def anchors_of(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_anchors_are_there():
    missing = []
    for page in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            if anchor not in anchors_of((page.parent / target) if target else page):
                missing.append(f"{page.name}: {target}#{anchor}")
    assert missing == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
