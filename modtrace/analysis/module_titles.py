"""One name a module: in the tree that it was met in, of a root that of what held it."""

from __future__ import annotations

from modtrace.analysis.columns import column
from modtrace.analysis.roots import roots
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored


@once
def module_titles(stored: Stored) -> list[tuple[str, str]]:
    """(name, class) of each row of `modules`: `encoder.layers.0` without the root's name, `net` for a root."""
    named, tops = stored.table("names"), roots(stored)
    types = stored.table("modules").column("type").to_pylist()
    names = [""] * len(types)
    pairs = zip(
        column(named, "root").tolist(),
        column(named, "module").tolist(),
        named.column("name").to_pylist(),
        strict=True,
    )
    for root, module, name in pairs:
        if name and not names[module]:
            names[module] = tops.full(root, name)
    return [
        (name or tops.name[module], str(class_name))
        for module, (name, class_name) in enumerate(zip(names, types, strict=True))
    ]
