"""Names of modules of a rank whose calls are not opened."""

from __future__ import annotations

import pyarrow as pa

from modtrace.trace.table_keys import ints


def names_without_calls(modules: pa.Table, names: pa.Table) -> tuple[list[str], list[str]]:
    """Name and root of each row of `modules`, as `module_names` has them, from what was written of trees alone.

    Args:
        modules: the table as it was written, the last row of each module.
        names: the table as it was written.
    """
    place_of = {number: place for place, number in enumerate(ints(modules, "module").tolist())}
    types: list[str] = modules.column("type").to_pylist()
    variables: list[str | None] = modules.column("variable").to_pylist()
    columns = (names.column(name).to_pylist() for name in ("root", "module", "name"))
    last = {(top, module): text for top, module, text in zip(*columns, strict=True)}
    name, root = [""] * len(types), [*range(len(types))]
    for (top_key, module_key), text in sorted(last.items()):
        top, module = place_of.get(top_key), place_of.get(module_key)
        if top is not None and module is not None and text and (not name[module] or module == root[module]):
            name[module], root[module] = text, top
    taken: dict[str, int] = {}
    titles: dict[int, str] = {}
    for top in dict.fromkeys(root):
        title = variables[top] or types[top]
        taken[title] = taken.get(title, 0) + 1
        titles[top] = title if taken[title] == 1 else f"{title}#{taken[title]}"
    return name, [titles[top] for top in root]
