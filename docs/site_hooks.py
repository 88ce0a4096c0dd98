"""What mkdocs asks while it builds the site: links to files outside of docs/ become their text, as the site has docs/ alone."""

from __future__ import annotations

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page, before it is made into HTML."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        return link[1] if target.startswith("..") else link[0]

    return re.sub(r"\[([^\]]*)\]\(([^)#:]+)(?:#[^)]*)?\)", kept, markdown)
