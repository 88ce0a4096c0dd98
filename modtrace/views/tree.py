"""The merged call tree as text."""

from __future__ import annotations

from modtrace.analysis.tree import Tree
from modtrace.text import pad, plain
from modtrace.units import count, duration, percent, plural

MAX_INDENT = 12
_HEAD = "CALL TREE"


def tree_lines(
    tree: Tree, *, width: int, wall_ns: int, depth: int | None = None, limit: int | None = None
) -> list[str]:
    """A line a node: name, class, calls, inclusive time, share, output.

    Args:
        tree: the merged tree.
        width: columns.
        wall_ns: what shares are of.
        depth: the deepest level shown; None for all.
        limit: at most so many lines, the head with them; the levels that fit are shown whole.
    """
    if depth is None and limit is not None:
        depth = _fitting(tree, limit - 2)
    name_width = max(min(34, width - 40 if width >= 80 else width - 27), 8)
    lines = [_line(_HEAD, "calls", "total", "%", "output", name_width, width)]
    hidden = 0
    for at, level in enumerate(tree.depth.tolist()):
        if (depth is not None and level > depth) or (limit is not None and len(lines) > limit - 1):
            hidden += 1
            continue
        folded = f" x{tree.instances[at]}" if tree.instances[at] > 1 else ""
        indent = "  " * level if level <= MAX_INDENT else "  " * MAX_INDENT + f"[{level}] "
        kind = plain(tree.type[at])
        again = " recompute" if tree.recompute[at] else ""
        label = plain(tree.label[at])
        name = (
            f"{indent}{label}{folded}"
            + (f"  {kind}" if kind and label not in (kind, f"({kind})") else "")
            + again
        )
        calls = int(tree.calls[at])
        unknown = tree.unknown[at] == calls
        total = "?" if unknown else duration(int(tree.total_ns[at]))
        share = "?" if unknown else percent(int(tree.total_ns[at]), wall_ns)
        output = plain(tree.outputs[at]) if not tree.raised[at] else f"raised {tree.raised[at]}x"
        lines.append(_line(name, count(calls), total, share, output, name_width, width))
    if hidden:
        lines.append(f"  {plural(hidden, 'more line')}: modtrace info --tree")
    return lines


def says_something(tree: Tree, limit: int) -> bool:
    """Whether what fits into `limit` lines is more than the outermost row of a tree that has more."""
    return len(tree.depth) == 1 or _fitting(tree, limit - 2) > 0 or int((tree.depth == 0).sum()) > 1


def _fitting(tree: Tree, room: int) -> int:
    """The deepest level whose nodes still fit with all above them."""
    level = 0
    while int((tree.depth <= level + 1).sum()) <= room and level < int(tree.depth.max(initial=0)):
        level += 1
    return level


def _line(name: str, calls: str, total: str, share: str, output: str, name_width: int, width: int) -> str:
    line = f"  {pad(name, name_width)} {total:>8} {share:>5}"
    if width >= 60:
        line += f" {calls:>7}"
    if width >= 80:
        line += f"  {output}"
    return line
